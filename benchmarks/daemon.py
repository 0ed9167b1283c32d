"""What the daemon costs while nothing happens, and what it adds to the pipeline when something does.

1. Idle: 1,000 old snapshot directories, rescans every 15 s, nothing new. Processor time of the daemon and of the
   process that waits warm for work, as the kernel accounts it, as a share of one core.
2. From the marker to ``current`` on real nightly retrainings, less the pipeline's own seconds in the manifest: what
   noticing, queueing and starting take. Each night comes after a pause, as nights do.

    python benchmarks/daemon.py [--snapshots 1000] [--seconds 150] [--goodbooks DIRECTORY] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import yaml

WIDTH, ROWS = 8, 40
PATIENCE = 120.0


@contextlib.contextmanager
def daemon(place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon on ``place/watch`` until the context is left."""
    settings = {"watch": {"path": "watch", "rescan_seconds": 15.0}, "store": {"path": "store"}}
    (place / "embsync.yaml").write_text(yaml.safe_dump(settings))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "embsync", "run", "--config", str(place / "embsync.yaml")]
    with (place / "log").open("ab") as log, subprocess.Popen(command, stderr=log, env=environment) as process:
        try:
            yield process
        finally:
            process.terminate()


def idle(place: Path) -> bool:
    """Return whether the daemon reports that it is idle."""
    with contextlib.suppress(OSError, ValueError):
        return bool(json.loads((place / "store" / "status.json").read_text())["state"] == "idle")
    return False


def current(place: Path) -> str:
    """Return the target of ``current``, "" before the first version."""
    with contextlib.suppress(OSError):
        return str((place / "store" / "current").readlink())
    return ""


def until(what: str, true: Callable[[], object]) -> None:
    """Wait until a function returns something true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE:g} s: {what}")
        time.sleep(0.001)


def old_snapshots(watch: Path, count: int) -> None:
    """Write finished snapshots that differ only in their names."""
    random = np.random.default_rng(0)
    made = watch / "day=0"
    made.mkdir(parents=True)
    for side in ("item", "user"):
        np.save(made / f"{side}s.npy", random.standard_normal((ROWS, WIDTH), dtype=np.float32))
        np.save(made / f"{side}_ids.npy", np.arange(ROWS))
    (made / "_SUCCESS").touch()
    for number in range(1, count):
        shutil.copytree(made, watch / f"day={number}")


def processor_seconds(process: int) -> float:
    """Return the processor time of a process and its children, all threads, in seconds."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    total = 0
    for one in (process, *children):
        for thread in Path(f"/proc/{one}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def idling(count: int, seconds: float) -> dict[str, float]:
    """Return the share of a core that an idle daemon uses."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        old_snapshots(place / "watch", count)
        with daemon(place) as process:
            until("the newest is published", lambda: current(place) and idle(place))
            time.sleep(20)  # past the first rescan and the resolution of directory times
            before, began = processor_seconds(process.pid), time.monotonic()
            time.sleep(seconds)
            used, passed = processor_seconds(process.pid) - before, time.monotonic() - began
    return {"snapshots": count, "seconds": passed, "processor_seconds": used, "share_of_a_core": used / passed}


def noticing(days: list[Path]) -> list[dict[str, float | str]]:
    """Return, for each night, the seconds from its marker to ``current``, and those of the pipeline in them."""
    took: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "watch").mkdir()
        with daemon(place):
            until("it is idle", lambda: idle(place))
            for day in days:
                time.sleep(2)
                folder = place / "watch" / day.name
                folder.mkdir()
                for file in day.glob("*.npy"):
                    shutil.copyfile(file, folder / file.name)
                time.sleep(0.5)
                before, began = current(place), time.perf_counter()
                (folder / "_SUCCESS").touch()
                until(f"{day.name} is current", lambda before=before: current(place) != before)
                seconds = time.perf_counter() - began
                pipeline = json.loads((place / "store" / "current" / "manifest.json").read_text())["seconds"]["total"]
                took.append(
                    {
                        "snapshot": day.name,
                        "marker_to_current": seconds,
                        "pipeline": pipeline,
                        "above": seconds - pipeline,
                    }
                )
                until("it is idle again", lambda: idle(place))
    return took


def main() -> None:
    """Measure and print."""
    here = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=150.0, help="how long it is watched doing nothing")
    parser.add_argument("--goodbooks", type=Path, default=here / "shared" / "data" / "goodbooks")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    days = sorted(given.goodbooks.glob("day=*"))
    nights = noticing(days)
    if nights:
        print("| snapshot | marker to current, s | the pipeline's own, s | above it, s |\n| --- | --- | --- | --- |")
        for one in nights:
            print("| {snapshot} | {marker_to_current:.3f} | {pipeline:.3f} | {above:.3f} |".format(**one))
        print(f"\nmedian above the pipeline's own: {statistics.median(float(one['above']) for one in nights):.3f} s\n")
    else:
        print(f"skipped: no real retrainings at {given.goodbooks}")
    cost = idling(given.snapshots, given.seconds)
    share = 100 * cost["share_of_a_core"]
    print(
        f"idle over {given.snapshots} old snapshots, rescans every 15 s: {share:.3f} % of a core "
        f"({cost['processor_seconds']:.3f} s in {cost['seconds']:.0f} s), load average {os.getloadavg()[0]:.1f}"
    )
    if given.json:
        given.json.write_text(json.dumps({"noticing": nights, "idle": cost}, indent=1))


if __name__ == "__main__":
    main()
