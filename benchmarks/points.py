"""What each change for speed brought: the same work before and after the commit that made it, in one run.

Every row is a commit of this repository, compared with the one before it as ``versus.py`` does: processor seconds of
one thread, best of alternating runs. Changes that were measured and rejected, and those of other kinds, have no row.

    python benchmarks/points.py [--repeats 8] [--only a770160 ...]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

from commits import package
from publish import shape
from versus import compared
from workload import Size, write_nights


class Point(NamedTuple):
    """A change: its commit, what it did, and the work that shows it."""

    commit: str
    what: str
    task: str
    shape: str


POINTS = [
    Point("a4100dc", "the fit judged on at most 8,000 rows of a side", "stabilize", "60000x256"),
    Point(
        "a770160", "products of judged rows formed for many blocks at once, a fold a worker", "stabilize", "60000x256"
    ),
    Point("dde1be9", "as few folds as leave out a tenth of the rows", "stabilize", "60000x256"),
    Point("220bf0a", "products of wide rows added up less often", "stabilize", "60000x256"),
    Point(
        "950259c", "maps of folds formed one at a time, and no SVD for maps that are inverse", "stabilize", "30000x768"
    ),
    Point("fc0c213", "ten best raw items from the scan of the stable ones, by a bound", "stabilize", "275000x64"),
    Point("b183d2b", "ten best items of the sampled users stored", "sync", "275000x64"),
    Point("b183d2b", "moments of the sides stored", "open", "275000x64"),
    Point("f964a85", "rows hashed in any order, by the threads that process them", "sync", "275000x64"),
    Point("3163c55", "rows written in runs by calls, and read back while the index is built", "sync", "275000x64"),
    Point("1eb1859", "no recall gate on an exact index", "sync", "275000x64"),
    Point("c894550", "rotated graphs searched without a selector", "rotated", "120000x64"),
    Point("a160915", "FAISS's own function called, without its wrapper", "search", "24000x64"),
    Point("a1a94a6", "small queries answered without a thread", "serve", "24000x64"),
    Point("a34fcef", "requests parsed by httptools, small answers sent by one call", "serve", "24000x64"),
    Point("c8a3478", "small requests answered as they are parsed, without a task", "serve", "24000x64"),
]


def main() -> None:
    """Compare the commits, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=8)
    commits = sorted({point.commit for point in POINTS})
    parser.add_argument("--only", nargs="+", metavar="COMMIT", choices=commits, default=commits)
    options = parser.parse_args()
    print("| what | task, shape | commit | before, s | after, s | times |\n| --- | --- | --- | --- | --- | --- |")
    for point in POINTS:
        if point.commit not in options.only:
            continue
        rows, width = shape(point.shape)
        with tempfile.TemporaryDirectory() as work:
            nights = Path(work) / "nights"
            write_nights(nights, Size(rows - rows // 6, rows // 6, width))
            codes = [package(f"{point.commit}~1", Path(work) / "before"), package(point.commit, Path(work) / "after")]
            before, after = compared(codes, point.task, nights, options.repeats)
        print(
            f"| {point.what} | `{point.task}`, {rows:,} x {width} | {point.commit} | {before:.3f} | {after:.3f} "
            f"| {before / after:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
