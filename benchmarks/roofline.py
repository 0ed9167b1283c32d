"""How fast this machine could publish a night, and how fast embsync does: the roofline and the stages beside it.

Measured first: copying memory, float32 and float64 products of the size that a block has, writing with fsync, reading
cold and cached, and sha256. From these follows the least time of each stage for a shape: the larger of what its
floating-point operations and its bytes take, on all cores. The stages are those of the second night's manifest; each
may be slower, none faster, than its bound where nothing but this work is done.

    python benchmarks/roofline.py [--shapes 275000x64 1200000x128 250000x512 120000x768] [--directory DIR] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pairs import best
from publish import publish, shape
from threadpoolctl import threadpool_limits
from workload import Size, write_nights

GIB = 2**30
#: Values of a block, as in embsync (`embsync.rows.BLOCK_NUMBERS`).
BLOCK = 2**18
#: Vectors whose nearest items are found in the second pass: of 1,000 sampled users the stable ones, the parent's stable
#: ones, and the parent's raw ones (`embsync.pipeline.neighbours`).
SCANNED = 3 * 1000


@dataclass(frozen=True)
class Rates:
    """Rates of the machine per second, with all cores busy.

    Attributes
    ----------
    copy, write, cold, cached, hashed : float
        GB of memory copied, written with fsync, read from the disk, read from the page cache, and hashed by sha256.
    float32, float64 : float
        Gflop of products of a block's transpose with another block.
    """

    copy: float
    write: float
    cold: float
    cached: float
    hashed: float
    float32: float
    float64: float


def rates(directory: Path, width: int, repeats: int = 5) -> Rates:
    """Measure the machine; ``width`` is that of the products."""
    cores = len(os.sched_getaffinity(0))
    source, target = np.ones(GIB // 16), np.zeros(GIB // 16)
    file = directory / "rates"
    data = np.random.default_rng(0).bytes(GIB // 2)

    def write() -> None:
        with file.open("wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())

    def read() -> None:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass

    def read_cold() -> None:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        read()

    buffer = bytearray(2**23)
    parts = [
        memoryview(data)[start::1][: len(data) // cores]
        for start in range(0, cores * (len(data) // cores), len(data) // cores)
    ]
    works: list[Callable[[], object]] = [
        lambda: np.copyto(target, source),
        write,
        read_cold,
        read,
        lambda: _everywhere([lambda part=part: hashlib.sha256(part) for part in parts]),
        *(_products(np.dtype(kind), width, cores) for kind in ("float32", "float64")),
    ]
    seconds = [one.wall for one in best(works, repeats)]
    file.unlink()
    sizes = [
        source.nbytes,
        len(data),
        len(data),
        len(data),
        sum(map(len, parts)),
        *[_PRODUCTS * cores * 2 * BLOCK * width] * 2,
    ]
    return Rates(*(size / 1e9 / one for size, one in zip(sizes, seconds, strict=True)))


_PRODUCTS = 20


def _products(kind: np.dtype, width: int, cores: int) -> Callable[[], object]:
    # Of two arrays, since NumPy uses another routine for an array with itself.
    pairs = [np.random.default_rng(0).standard_normal((2, BLOCK // width, width)).astype(kind) for _ in range(cores)]

    def work(pair: np.ndarray) -> None:
        for _ in range(_PRODUCTS):
            pair[0].T @ pair[1]

    def run() -> None:
        with threadpool_limits(1, "blas"):
            _everywhere([lambda pair=pair: work(pair) for pair in pairs])

    return run


def _everywhere(works: list[Callable[[], object]]) -> None:
    with ThreadPoolExecutor(len(works)) as pool:
        list(pool.map(lambda work: work(), works))


@dataclass(frozen=True)
class Stage:
    """Work of one stage: ``flop32``, ``flop64``, and bytes that are copied, read, hashed, and written."""

    flop32: float = 0.0
    flop64: float = 0.0
    copied: float = 0.0
    read: float = 0.0
    hashed: float = 0.0
    written: float = 0.0

    def least(self, rate: Rates) -> float:
        """Return a lower bound of the stage's seconds; reading, hashing and products overlap."""
        return max(
            (self.flop32 / rate.float32 + self.flop64 / rate.float64) / 1e9,
            self.copied / rate.copy / 1e9,
            self.read / rate.cached / 1e9,
            self.hashed / rate.hashed / 1e9,
            self.written / rate.write / 1e9,
        )


def stages(rows: int, width: int) -> Iterator[tuple[str, Stage]]:
    """Yield the least work of each stage of a night whose rows all have an anchor and a predecessor."""
    side, product, items = 4.0 * rows * width, 2.0 * rows * width * width, rows // 6
    # Gram and cross-Gram matrix; every value is read twice, with its anchor, and hashed for the fingerprint.
    yield "align", Stage(flop32=2 * product, read=2 * side, hashed=side)
    # The map in float64; in float32 the residual against the raw rows and itself, the parent's rows mapped back, and
    # the scores of the items, which are read again. Every row is read with the parent's, written and hashed.
    scan = 2.0 * SCANNED * items * width
    read = 2 * side + 4.0 * items * width
    yield "write", Stage(flop64=product, flop32=3 * product + scan, read=read, copied=side, hashed=side)
    # Vectors and anchors, read back and hashed.
    yield "publish", Stage(written=side, hashed=side, read=side)


def main() -> None:
    """Measure the machine and each shape; print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", type=shape, default=[shape(one) for one in ("275000x64", "1200000x128")])
    parser.add_argument("--directory", type=Path, help="where to work; default: a temporary directory")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for rows, width in options.shapes:
        with tempfile.TemporaryDirectory(dir=options.directory) as work:
            rate = rates(Path(work), width)
            nights = write_nights(Path(work), Size(rows - rows // 6, rows // 6, width))
            found = publish(nights, Path(work) / "store", "Flat")
        least = {name: stage.least(rate) for name, stage in stages(rows, width)}
        results.append({"rows": rows, "width": width, "rates": asdict(rate), "least": least, "found": found})
        if not options.json:
            _print(rows, width, rate, least, found)
    if options.json:
        print(json.dumps(results, indent=2))


def _print(rows: int, width: int, rate: Rates, least: dict[str, float], found: dict[str, float]) -> None:
    print(f"{rows:,} x {width} float32: " + ", ".join(f"{name} {value:.1f}" for name, value in asdict(rate).items()))
    for name, bound in least.items():
        print(f"  {name:<8} {found[name]:7.2f} s   least {bound:6.2f} s   {found[name] / bound:5.1f} times")
    total = sum(found[name] for name in least)
    bound = sum(least.values())
    print(f"  {'all':<8} {total:7.2f} s   least {bound:6.2f} s   {total / bound:5.1f} times")


if __name__ == "__main__":
    main()
