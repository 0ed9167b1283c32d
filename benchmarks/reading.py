"""What a reader waits for: the switch to a version of 1 GB, and lookups in 10 million mapped rows.

1. Two versions of ROWS x 128 through the real pipeline. Timed: ``refresh``; ``refresh`` until everything is mapped and
   ready to answer, with the version's files in the page cache and without them; what ``follow`` does in the background
   before it switches, and the switch; the first search and lookups afterwards. Before each, the reader is on the other
   version.
2. Random batches of 10,000 ids of 10M x 128 float32, 5 GB, mapped and in the page cache: integers, and strings of 36
   bytes, as arrays and as lists. All vectors are read once before, as a verification does.

    python benchmarks/reading.py [--rows 2000000] [--lookup-rows 10000000] [--json FILE] [--keep DIRECTORY]

With ``--lookup-rows 0``, the first part alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from workload import Size, write_nights

import embsync
from embsync.config_loader import load
from embsync.pipeline import Request, publish_snapshot
from embsync.reader import Side, Version, follower
from embsync.reader.lineage import Lineage
from embsync.reader.verification import verify
from embsync.store import Store

WIDTH, BATCH, BATCHES = 128, 10_000, 200


def published(root: Path, rows: int) -> Path:
    """Publish two versions, nine users to an item."""
    nights = write_nights(root.parent, Size(rows - rows // 10, rows // 10, WIDTH))
    for night in nights:
        publish_snapshot(Store(root), Request(night), load(environment={}, options={"index": {"factory": "Flat"}}))
    return root


def timed(work: Callable[[], Any]) -> float:
    """Return the milliseconds of ``work``."""
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def refreshed(root: Path) -> dict[str, float]:
    """Return milliseconds of ``refresh`` and of what follows it."""
    Store(root).rollback(1)
    with embsync.open(root) as reader:
        Store(root).rollback(2)
        took = {"refresh": timed(reader.refresh)}
        took |= _first_questions(reader.current, "after refresh")
    return took | {
        f"refresh, and all files opened, {kind}": ready(root, cold=kind == "cold") for kind in ("cold", "warm")
    }


def ready(root: Path, *, cold: bool) -> float:
    """Return milliseconds of ``refresh`` until the new version is ready to answer."""
    Store(root).rollback(1)
    with embsync.open(root) as reader:
        reader.current.open_files()
        Store(root).rollback(2)
        if cold:
            for file in filter(Path.is_file, (root / "versions" / "000002").rglob("*")):
                with file.open("rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return timed(lambda: (reader.refresh(), reader.current.open_files()))


def followed(root: Path) -> dict[str, float]:
    """Return milliseconds of the work in the background, and of the switch."""
    Store(root).rollback(1)
    ended: list[float] = []
    served: list[float] = []
    began: list[float] = []

    def watched(version: Version, stopped: Callable[[], bool]) -> None:
        began.append(time.perf_counter())
        verify(version, stopped)
        began.append(time.perf_counter())
        version.open_files()
        ended.append(time.perf_counter())

    with (
        embsync.open(root) as reader,
        follower.Follower(
            root,
            lambda version: (version.leave_to_collection(), kept.append(version), served.append(time.perf_counter())),
            serving=reader.current,
            interval=0.01,
            verify=watched,
        ) as watcher,
    ):
        kept: list[Version] = []
        watcher.start()
        Store(root).rollback(2)
        while not served:
            time.sleep(0.01)
        took = {
            "hashing, in the background": 1e3 * (began[1] - began[0]),
            "preparing (maps, index, means), in the background": 1e3 * (ended[0] - began[1]),
            "from ready to served": 1e3 * (served[0] - ended[0]),
        }
        return took | _first_questions(kept[0], "after follow")


def _first_questions(version: Version, when: str) -> dict[str, float]:
    assert version.users is not None
    users = version.users
    query = np.random.default_rng(0).standard_normal((1, WIDTH)).astype(np.float32)
    some = users.ids[:: len(users.ids) // 10][:10]
    return {
        f"first search {when}": timed(lambda: version.search(query, 10)),
        f"second search {when}": timed(lambda: version.search(query, 10)),
        f"first lookup of ten {when}": timed(lambda: users.lookup(some)),
        f"first lookup of 10,000 {when}": timed(lambda: users.lookup(users.ids[-BATCH:])),
    }


def large(place: Path, rows: int) -> None:
    """Write the files of a large side."""
    random = np.random.default_rng(0)
    vectors = np.lib.format.open_memmap(place / "vectors.npy", "w+", np.float32, (rows, WIDTH))
    for start in range(0, rows, 100_000):
        part = vectors[start : start + 100_000]
        part[:] = random.standard_normal(part.shape, dtype=np.float32)
    np.save(place / "last_seen.npy", np.ones(rows, np.int64))
    np.save(place / "ids.npy", np.cumsum(random.integers(1, 2000, rows)))
    words = random.integers(0, 2**32, (rows, 4), dtype=np.int64)
    texts = [
        b"%08x-%04x-%04x-%04x-%04x%08x" % (a, b >> 16, b & 0xFFFF, c >> 16, c & 0xFFFF, d)
        for a, b, c, d in words.tolist()
    ]
    np.save(place / "names.npy", np.unique(np.array(texts, "S36")))


def lookups(place: Path) -> dict[str, float]:
    """Return thousands of ids per second, medians over batches of new ids."""
    vectors, last_seen = (np.load(place / f"{name}.npy", mmap_mode="r") for name in ("vectors", "last_seen"))
    assert np.isfinite(sum(float(vectors[start : start + 100_000].sum()) for start in range(0, len(vectors), 100_000)))
    lineage = Lineage(np.array([1]), np.array(["2026-01-01T00:00:00"], "datetime64[s]"), is_timed=True)
    random = np.random.default_rng(1)
    rates: dict[str, float] = {}
    for kind, name in (("integers", "ids"), ("36-byte strings", "names")):
        side = Side("items", np.load(place / f"{name}.npy", mmap_mode="r"), vectors, last_seen, lineage)
        side.prepare()
        for form in ("array", "list"):
            took = []
            for _ in range(BATCHES):
                rows = random.integers(0, len(side.ids), BATCH)
                asked: Any = side.names(rows)
                if form == "list":
                    asked = asked.tolist()
                began = time.perf_counter()
                found = side.lookup(asked)
                took.append(time.perf_counter() - began)
                assert found[-1].tobytes() == vectors[rows[-1]].tobytes()
            rates[f"{kind}, {form}"] = BATCH / statistics.median(took) / 1e3
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--lookup-rows", type=int, default=10_000_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="work here, and use what is here")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if given.lookup_rows and not (place / "names.npy").exists():
            large(place, given.lookup_rows)
        root = place / "S"
        if not root.exists():
            published(root, given.rows)
        runs = [refreshed(root) | followed(root) for _ in range(5)]
        switch = {name: min(run[name] for run in runs) for name in runs[0]}
        rates = lookups(place) if given.lookup_rows else {}
        with embsync.open(root) as reader:
            size = sum(entry.bytes for entry in reader.current.record.files)
    print(f"load average {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} cores\n")
    print(f"| a version of {size / 1e9:.2f} GB, best of 5 | ms |\n| --- | --- |")
    for name, took in switch.items():
        print(f"| {name} | {took:.1f} |")
    if rates:
        print(f"\n| batches of {BATCH} | thousand ids and vectors a second |\n| --- | --- |")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} |")
    if given.json:
        given.json.write_text(
            json.dumps(
                {"bytes": size, "switch_ms": switch, "thousand_ids_a_second": rates, "arguments": vars(given)},
                default=str,
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
