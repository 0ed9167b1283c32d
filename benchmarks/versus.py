"""The same work by this package and by that of another commit, in turn: processor seconds of one thread.

Each package runs in a process of its own, which has read the data before; runs of both alternate, and the best of each
counts. Tasks: ``stabilize`` (the second night's arrays, aligned to the first's), ``sync`` (the second night published
without an index worth building, and what each stage takes of it), ``open`` (a published night made ready to serve).

    python benchmarks/versus.py COMMIT [--task stabilize] [--shapes 275000x64] [--repeats 8]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from publish import shape
from workload import Size, write_nights

import embsync
from embsync.config_loader import load
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store

HERE = Path(__file__).resolve().parents[1]
ALONE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def stabilize(nights: tuple[Path, Path], _: Path) -> Callable[[], None]:
    """Return what aligns the second night's arrays."""
    names = ("items", "users", "item_ids", "user_ids")
    first, second = ([np.load(night / f"{name}.npy") for name in names] for night in nights)
    ids = {"item_ids": first[2], "user_ids": first[3]}
    anchors = embsync.stabilize(*first[:2], **ids, threads=1).anchors
    now = {"item_ids": second[2], "user_ids": second[3]}
    return lambda: embsync.stabilize(*second[:2], **now, anchors=anchors, threads=1) and None


def sync(nights: tuple[Path, Path], work: Path) -> Callable[[], None]:
    """Return what publishes the second night into a copy of a store that has the first."""
    config = load(environment={"EMBSYNC_THREADS": "1", "EMBSYNC_INDEX__FACTORY": "Flat"})
    publish_snapshot(Store(work / "first"), Request(nights[0]), config)

    def run() -> None:
        shutil.rmtree(work / "copy", ignore_errors=True)
        shutil.copytree(work / "first", work / "copy", symlinks=True)
        began = time.process_time()
        publish_snapshot(Store(work / "copy"), Request(nights[1]), config)
        print(time.process_time() - began, flush=True)

    return run


def open_version(nights: tuple[Path, Path], work: Path) -> Callable[[], None]:
    """Return what opens the first night and makes it ready to answer."""
    sync(nights, work)

    def run() -> None:
        with embsync.open(work / "first") as store:
            store.current.open_files()

    return run


TASKS = {"stabilize": stabilize, "sync": sync, "open": open_version}


def serve(task: str, nights: tuple[Path, Path]) -> None:
    """Run the task once for each line of the standard input, and print its processor seconds."""
    with tempfile.TemporaryDirectory(dir=nights[0].parent) as work:
        run = TASKS[task](nights, Path(work))
        print("ready", flush=True)
        for _ in sys.stdin:
            began = time.process_time()
            run()
            if task != "sync":
                print(time.process_time() - began, flush=True)


def worker(code: Path, task: str, nights: Path) -> subprocess.Popen[str]:
    """Start a process that serves the task with the package of ``code``."""
    command = [sys.executable, __file__, "-", "--task", task, "--serve", str(nights)]
    environment = {**os.environ, **ALONE, "PYTHONPATH": str(code)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def compared(codes: list[Path], task: str, nights: Path, repeats: int) -> list[float]:
    """Return the least processor seconds of the task by each package."""
    workers = [worker(code, task, nights) for code in codes]
    least = [float("inf")] * len(workers)
    for _ in range(repeats + 1):
        for place, process in enumerate(workers):
            answer = process.stdout.readline()
            if answer != "ready\n":
                least[place] = min(least[place], float(answer))
            process.stdin.write("\n")
            process.stdin.flush()
    for process in workers:
        process.communicate()
    return least


def main() -> None:
    """Compare both on each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the other package: a commit of this repository")
    parser.add_argument("--task", choices=TASKS, default="stabilize")
    parser.add_argument("--shapes", type=shape, nargs="+", default=[shape("275000x64")])
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--directory", type=Path, help="where to work; default: a temporary directory")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.task, (options.serve / "night=1", options.serve / "night=2"))
        return
    results = []
    with tempfile.TemporaryDirectory(dir=options.directory) as work:
        other = Path(work) / "other"
        other.mkdir()
        archive = subprocess.run(["git", "archive", options.commit], cwd=HERE, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(other)], input=archive, check=True)
        for rows, width in options.shapes:
            nights = Path(work) / f"{rows}x{width}"
            write_nights(nights, Size(rows - rows // 6, rows // 6, width))
            before, after = compared([other, HERE], options.task, nights, options.repeats)
            results.append({"rows": rows, "width": width, "before": before, "after": after})
            if not options.json:
                ratio = f"{before:.3f} s before, {after:.3f} s now, {before / after:.2f} times"
                print(f"{options.task} {rows:,} x {width}: {ratio}")
            shutil.rmtree(nights)
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
