"""Time and memory of a publish beside the plain recipe, in one run.

The plain recipe is what a script does without embsync: QR of both sides in float64, SVD, orthogonal Procrustes
on the common rows, apply; it writes nothing, hashes nothing and certifies nothing.

    python benchmarks/publish.py [--users 1000000] [--directory DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from scipy.linalg import orthogonal_procrustes
from workload import Size, write_nights

import embsync

STAGES = ("read", "align", "write", "index", "recall", "publish")
ALLOWED_BYTES = 300_000_000
ALLOWED_BYTES_A_ROW = 48


def in_turn(nights: tuple[Path, Path], repeats: int) -> dict[str, float]:
    """Time the plain recipe and ``embsync.stabilize`` on the second night, in turn; return the medians."""
    first, second = (_load(night) for night in nights)
    ids = [np.load(nights[1] / f"{side}_ids.npy") for side in ("item", "user")]
    anchors = embsync.stabilize(*first).anchors
    reference = np.vstack(_standardized(*first))
    plain: list[float] = []
    own: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        embsync.stabilize(*second, item_ids=ids[0], user_ids=ids[1], anchors=anchors)
        own.append(time.perf_counter() - began)
        plain.append(_plain_recipe(second, reference))
    return {"plain": statistics.median(plain), "in_memory": statistics.median(own)}


def _plain_recipe(snapshot: tuple[np.ndarray, np.ndarray], reference: np.ndarray) -> float:
    began = time.perf_counter()
    rows = np.vstack(_standardized(*snapshot))
    common = np.concatenate([np.arange(len(part)) % 100 != 99 for part in snapshot])
    rotation, _ = orthogonal_procrustes(rows[common], reference[common])
    (rows @ rotation).astype(np.float32)
    return time.perf_counter() - began


def _load(night: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(night / "items.npy"), np.load(night / "users.npy")


def _standardized(items: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    factor_items = np.linalg.qr(items.astype(np.float64), "r")
    factor_users = np.linalg.qr(users.astype(np.float64), "r")
    U, S, Vt = np.linalg.svd(factor_items @ factor_users.T)
    return items @ (factor_users.T @ Vt.T * S**-0.5), users @ (factor_items.T @ U * S**-0.5)


def publish(nights: tuple[Path, Path], store: Path) -> dict[str, float]:
    """Publish both nights in a process each; return the second one's seconds and the highest peak of RssAnon."""
    peak = 0
    for night in nights:
        command = [sys.executable, "-m", "embsync", "sync", str(night), "--store", str(store), "--json"]
        peak = max(peak, _peak_anonymous(command))
    with embsync.open(store) as opened:
        seconds = opened.current.manifest["seconds"]
        score_error = opened.current.manifest["preservation"]["score_error"]
    return {**seconds, "peak_anonymous": peak, "score_error": score_error}


def _peak_anonymous(command: list[str]) -> int:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak, done = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.005):
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except FileNotFoundError:
                return
            for line in status.splitlines():
                if line.startswith("RssAnon:"):
                    peak = max(peak, int(line.split()[1]) * 1024)

    watcher = threading.Thread(target=sample)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return peak


def main() -> None:
    """Run everything and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[250_000, 1_000_000])
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--directory", type=Path, help="where to work; default: a temporary directory")
    parser.add_argument("--repeats", type=int, default=3, help="medians of so many")
    parser.add_argument("--skip-peer", action="store_true", help="memory only")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for users in options.users:
        with tempfile.TemporaryDirectory(dir=options.directory) as work:
            nights = write_nights(Path(work), Size(users, options.items))
            found = publish(nights, Path(work) / "store")
            rows = users + options.items
            without_index = found["total"] - found["index"] - found["recall"]
            result = {
                "users": users,
                "items": options.items,
                **found,
                "publish_without_index": without_index,
                "allowed_anonymous": ALLOWED_BYTES + ALLOWED_BYTES_A_ROW * rows,
            }
            if not options.skip_peer:
                result |= in_turn(nights, options.repeats)
            results.append(result)
            if not options.json:
                _tell(result)
    if options.json:
        print(json.dumps(results, indent=2))


def _tell(result: dict[str, float]) -> None:
    print(f"{result['users']:,} users, {result['items']:,} items x 128 float32")
    peak, allowed = result["peak_anonymous"] / 1e6, result["allowed_anonymous"] / 1e6
    print(f"  peak RssAnon        {peak:8.0f} MB  (allowed {allowed:.0f})")
    stages = ", ".join(f"{name} {result[name]:.2f}" for name in STAGES)
    print(f"  publish             {result['total']:8.2f} s   ({stages})")
    if "plain" in result:
        print(f"  plain recipe        {result['plain']:8.2f} s")
        for name in ("in_memory", "publish_without_index"):
            print(f"  {name:<21}{result[name]:7.2f} s   {result['plain'] / result[name]:.1f} times faster")


if __name__ == "__main__":
    main()
