"""The same work by this package, or that of one commit, and by that of an earlier one, in turn: processor seconds.

Each package runs in a process of its own, with one thread, which has read the data before; runs of both alternate, and
the best of each counts. Tasks: ``stabilize`` (the second night's arrays, aligned to the first's), ``sync`` (the second
night published without an index worth building, and what each stage takes of it), ``open`` (a published night made
ready to serve), ``lookup`` (100,000 users by id, ten thousand at once), ``search`` (500 single queries), ``rotated``
(the same by the graph that the second night rotated), ``serve`` (what the server takes for the queries
as JSON over one connection).

    python benchmarks/versus.py COMMIT [--after COMMIT] [--task stabilize] [--shapes 275000x64] [--repeats 8]
"""

from __future__ import annotations

import argparse
import atexit
import http.client
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
from commits import HERE, package
from publish import shape
from workload import Size, write_nights

import embsync
from embsync.pipeline import Request
from embsync.store import Store

try:
    from embsync.config_loader import load
    from embsync.pipeline import publish_snapshot
except ImportError:  # as both were called up to e0d3151
    from embsync.config import load
    from embsync.pipeline import process as publish_snapshot

ALONE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def stabilize(nights: tuple[Path, Path], _: Path) -> Callable[[], None]:
    """Return a function that aligns the second night's arrays."""
    names = ("items", "users", "item_ids", "user_ids")
    first, second = ([np.load(night / f"{name}.npy") for name in names] for night in nights)
    ids = {"item_ids": first[2], "user_ids": first[3]}
    anchors = embsync.stabilize(*first[:2], **ids, threads=1).anchors
    now = {"item_ids": second[2], "user_ids": second[3]}
    return lambda: embsync.stabilize(*second[:2], **now, anchors=anchors, threads=1) and None


def sync(nights: tuple[Path, Path], work: Path) -> Callable[[], None]:
    """Return a function that publishes the second night to a copy of a store with the first."""
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
    """Return a function that opens the first night's version and makes it ready to answer."""
    sync(nights, work)

    def run() -> None:
        with embsync.open(work / "first") as store:
            store.current.open_files()

    return run


def lookup(nights: tuple[Path, Path], work: Path) -> Callable[[], None]:
    """Return a function that looks up users in random order, in the version of the first night."""
    sync(nights, work)
    users = embsync.open(work / "first").current.users
    rows = np.random.default_rng(0).integers(0, len(users.ids), (10, 10_000))
    return lambda: [users.lookup(users.ids[some]) for some in rows] and None


def queries(nights: tuple[Path, Path]) -> np.ndarray:
    """Return the vectors of 500 users."""
    return np.load(nights[0] / "users.npy")[:500]


def search(nights: tuple[Path, Path], work: Path) -> Callable[[], None]:
    """Return a function that searches the version of the first night, one query after the other."""
    sync(nights, work)
    version = embsync.open(work / "first").current
    return lambda: [version.search(query[None], 10) for query in queries(nights)] and None


def search_rotated(nights: tuple[Path, Path], work: Path) -> Callable[[], None]:
    """Return a function that searches the second night's version, whose graph is the rotated one of the first."""
    config = load(environment={"EMBSYNC_THREADS": "1", "EMBSYNC_INDEX__FACTORY": "HNSW32"})
    for night in nights:
        publish_snapshot(Store(work / "first"), Request(night), config)
    version = embsync.open(work / "first").current
    assert version.manifest["index"]["action"] == "rotated"
    asked = np.array(version.users.vectors[version.users.live][:500])
    return lambda: [version.search(query[None], 10) for query in asked] and None


def serve_queries(nights: tuple[Path, Path], work: Path) -> Callable[[], None]:
    """Return a function that queries a server of the first night's version and prints the server's processor time."""
    sync(nights, work)
    command = [sys.executable, "-m", "embsync", "serve", "--store", str(work / "first")]
    command += ["--listen", "127.0.0.1:0", "--json", "--workers", "1"]
    quiet = subprocess.DEVNULL  # it outlives the store
    server = subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, text=True)
    atexit.register(server.terminate)
    where = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")["listening"].removeprefix("http://")
    connection = http.client.HTTPConnection(where)
    bodies = [json.dumps({"vectors": [query.tolist()]}) for query in queries(nights)]

    def ask(path: str, body: str | None = None) -> int:
        connection.request("POST" if body else "GET", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status

    def run() -> None:
        began = processor_seconds(server.pid)
        assert {ask("/v1/search", body) for body in bodies} == {200}
        print(processor_seconds(server.pid) - began, flush=True)

    while ask("/readyz") != 200:
        time.sleep(0.05)
    return run


def processor_seconds(pid: int) -> float:
    """Return the processor seconds of a process and its children, with nanosecond resolution."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in threads) / 1e9 + sum(
        map(processor_seconds, map(int, children))
    )


TASKS = {
    "stabilize": stabilize,
    "sync": sync,
    "open": open_version,
    "lookup": lookup,
    "search": search,
    "rotated": search_rotated,
    "serve": serve_queries,
}
#: Tasks that print their figure themselves.
MEASURED = ("sync", "serve")


def serve(task: str, nights: tuple[Path, Path]) -> None:
    """Run the task once for each line of the standard input, and print its processor seconds."""
    with tempfile.TemporaryDirectory(dir=nights[0].parent) as work:
        run = TASKS[task](nights, Path(work))
        print("ready", flush=True)
        for _ in sys.stdin:
            began = time.process_time()
            run()
            if task not in MEASURED:
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
    parser.add_argument(
        "--after", metavar="COMMIT", help="compare it with this commit; default: the files as they are here"
    )
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
        other = package(options.commit, Path(work) / "other")
        this = package(options.after, Path(work) / "this") if options.after else HERE
        for rows, width in options.shapes:
            nights = Path(work) / f"{rows}x{width}"
            write_nights(nights, Size(rows - rows // 6, rows // 6, width))
            before, after = compared([other, this], options.task, nights, options.repeats)
            results.append({"rows": rows, "width": width, "before": before, "after": after})
            if not options.json:
                ratio = f"{before:.3f} s before, {after:.3f} s now, {before / after:.2f} times"
                print(f"{options.task} {rows:,} x {width}: {ratio}")
            shutil.rmtree(nights)
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
