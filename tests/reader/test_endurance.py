"""Many readers beside a publisher without pauses: no inconsistent read, no failure, no leak."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from support.nights import configured, night
from support.quick import quick_directory
from support.stores import running, sync
from support.waiting import PATIENCE

from embsync.store import Store

SIZES = {"items": 100, "users": 80, "width": 6}

READER = """
import gc, json, os, sys, time
import numpy as np
import embsync

def held():
    gc.collect()
    rollup = open("/proc/self/smaps_rollup").read()
    kilobytes = {name: int(rollup.split(name + ":")[1].split()[0]) for name in ("Pss", "Anonymous")}
    maps = sum(sys.argv[1] + "/versions/" in line for line in open("/proc/self/maps"))
    return {"descriptors": len(os.listdir("/proc/self/fd")), "maps": maps, **kilobytes}

def read(one):
    number = one.number
    assert one.lineage[-1] == number == one.manifest["version"]
    assert int(one.items.last_seen.max()) == number == int(one.users.last_seen.max())
    assert len(one.items.ids) == len(one.items.vectors) == one.record.items.rows
    ids, scores = one.search(one.users.vectors[:2], k=3)
    assert np.allclose(one.items.lookup(ids[0]) @ one.users.vectors[0], scores[0], atol=1e-5)
    assert one.users.fold_in(ids[0]).shape == (6,)
    return number

root, seconds, least = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
counts, seen, kept, errors, early = {"refreshed": 0, "followed": 0, "opened": 0}, set(), [], [], None
first = held()
with embsync.open(root) as refreshed, embsync.open(root) as followed:
    followed.follow(interval=0.005, on_error=lambda error: errors.append(str(error)))
    print("ready", flush=True)
    began = time.monotonic()
    while time.monotonic() < began + seconds or len(seen) < least or early is None:
        refreshed.refresh()
        seen.add(read(refreshed.current))
        seen.add(read(followed.current))
        with embsync.open(root) as opened:
            seen.add(read(opened.current))
        kept = [*kept[-2:], refreshed.current]  # older versions stay whole while they are held
        assert read(kept[0]) <= refreshed.current.number
        for name in counts:
            counts[name] += 1
        if early is None and counts["opened"] >= 5 and time.monotonic() > began + seconds / 4:
            early = held()
    late = held()
    kept = opened = None
del refreshed, followed
print(json.dumps({"reads": sum(counts.values()), "versions": len(seen), "errors": errors,
                  "first": first, "early": early, "late": late, "last": held()}), flush=True)
"""


@pytest.mark.parametrize(("readers", "seconds"), [(2, 3), pytest.param(8, 60, marks=pytest.mark.torture)])
def test_readers_beside_a_publisher_that_prunes(readers: int, seconds: int) -> None:
    """Readers refresh, follow, reopen and keep versions; memory stays constant, and nothing is open at the end."""
    with quick_directory() as directory, contextlib.ExitStack() as stack:
        root = directory / "S"
        config = configured(store__keep_versions=2)
        nights = [night(number, **SIZES) for number in range(5)]
        sync(root, nights[0], "n0", config)
        least = 3 * seconds // 4 + 1  # versions, which take longer on a slow machine
        processes = [stack.enter_context(running(READER, root, seconds, least)) for _ in range(readers)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        began, published = time.monotonic(), 1
        while (
            any(process.poll() is None for process in processes) and time.monotonic() < began + 3 * seconds + PATIENCE
        ):
            sync(root, nights[published % 5], f"n{published}", config)
            published += 1
        reported = []
        for process in processes:
            said, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, said
            reported.append(json.loads(said))
        print(f"\n{published} versions published in {time.monotonic() - began:.0f} s")
        for one in reported:
            print(json.dumps(one))
            assert one["errors"] == []
            assert one["versions"] >= least
            assert one["last"]["descriptors"] == one["first"]["descriptors"], one
            assert one["last"]["maps"] == 0, one
            assert one["late"]["Anonymous"] < one["early"]["Anonymous"] + 8192, one
            for name in ("descriptors", "maps"):  # a version or two more may be held at that moment
                assert one["late"][name] <= one["early"][name] + 30, one
        sync(root, nights[0], "last", config)
        assert len(Store(root).numbers()) == 2
