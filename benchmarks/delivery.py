"""Pushing and pulling a version, beside what ``rclone copy`` needs for the same files and the same endpoint.

Pairs alternate, and the best of each is compared: an endpoint on the same machine shares its processors with both.
Needs the extras ``mirror`` and ``test-services``.

    python benchmarks/delivery.py [--users 650000] [--items 200000] [--width 128] [--repeats 3] [--endpoint rclone]
                                  [--directory DIR] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workload import Size, write_nights

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "delivery"))
from servers import BUCKET, KEY, SECRET, S3Server, moto, program, rclone

from embsync.config_loader import load
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store

ENDPOINTS: dict[str, Callable[[Path], contextlib.AbstractContextManager[S3Server]]] = {"moto": moto, "rclone": rclone}


def published(folder: Path, size: Size) -> int:
    """Publish one night; return the size of its version in bytes."""
    night, _ = write_nights(folder / "nights", size)
    config = load(environment={}, options={"index.factory": "Flat"})
    publish_snapshot(Store(folder / "store"), Request(night), config)
    shutil.rmtree(folder / "nights")
    return sum(path.stat().st_size for path in (folder / "store" / "versions").rglob("*") if path.is_file())


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command; return its wall and processor seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextlib.contextmanager
def emptied(*folders: Path) -> Iterator[None]:
    """Remove directories at the end."""
    yield
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all four, in alternating pairs."""
    found: dict[str, list[tuple[float, float]]] = {"push": [], "rclone up": [], "pull": [], "rclone down": []}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as place:
        folder = Path(place)
        total = published(folder, Size(arguments.users, arguments.items, arguments.width))
        with ENDPOINTS[arguments.endpoint](folder) as server:
            environment = {**os.environ, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
            backend = f":s3,provider=Other,env_auth=true,endpoint='{server.url}':{BUCKET}"
            copy = [program("rclone"), "--config", "", "copy"]
            embsync = [sys.executable, "-m", "embsync"]
            for turn in range(arguments.repeats):
                url, endpoint = f"s3://{BUCKET}/ours-{turn}", ["--endpoint", server.url]
                ours, theirs = folder / "ours", folder / "theirs"
                push = [*embsync, "push", url, *endpoint, "--store", str(folder / "store")]
                pull = [*embsync, "pull", url, *endpoint, "--store", str(ours)]
                up = [*copy, str(folder / "store" / "versions"), f"{backend}/theirs-{turn}"]
                down = [*copy, f"{backend}/theirs-{turn}", str(theirs)]
                pairs = [("push", push), ("rclone up", up), ("pull", pull), ("rclone down", down)]
                if turn % 2:
                    pairs = [pairs[1], pairs[0], pairs[3], pairs[2]]
                with emptied(ours, theirs):
                    for name, command in pairs:
                        found[name].append(timed(command, environment))
                served = folder / "served" / BUCKET
                with emptied(served / f"ours-{turn}", served / f"theirs-{turn}"):
                    pass
    best = {
        name: {"seconds": min(s for s, _ in runs), "processor": min(p for _, p in runs)} for name, runs in found.items()
    }
    return {"bytes": total, "endpoint": arguments.endpoint, "repeats": arguments.repeats, "best": best, "runs": found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=650_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--endpoint", choices=ENDPOINTS, default="rclone")
    parser.add_argument("--directory")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments)
    if arguments.json:
        print(json.dumps(found))
        return
    best = found["best"]
    print(
        f"{found['bytes'] / 2**20:.0f} MiB, endpoint {found['endpoint']}, best of {found['repeats']} alternating pairs"
    )
    for ours, theirs in (("push", "rclone up"), ("pull", "rclone down")):
        one, other = best[ours], best[theirs]
        print(
            f"{ours}: {one['seconds']:.2f} s ({one['processor']:.2f} s of processors), rclone copy "
            f"{other['seconds']:.2f} s ({other['processor']:.2f} s): {one['seconds'] / other['seconds']:.2f} times"
        )


if __name__ == "__main__":
    main()
