"""Run every command on a disk that is full after a given number of pages, for every number of pages.

Run as a program, as ``points.py`` is. Exits with 77 if a small file system cannot be mounted. The store's question for
free space is answered with plenty, since otherwise no command would begin.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from pathlib import Path

from torture.report import Tally
from torture.scenarios import SCENARIOS, Bench, examine, forked

_NOT_HERE = 77
_PAGE = 4096
#: More pages than any of these commands writes.
_MOST_PAGES = 120


class _Plenty:
    f_bavail, f_frsize = 2**30, _PAGE


def main(directory: Path, most: int, seed: int, output: Path) -> None:
    """Try sizes and write the tally."""
    tally, bench = Tally("full"), Bench(directory)
    place = directory / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=False).returncode:
        sys.exit(_NOT_HERE)
    bench.root = place / "S"
    points = [(scenario, pages) for scenario in SCENARIOS.values() for pages in range(_MOST_PAGES)]
    chosen = points * (most // len(points)) + random.Random(seed).sample(points, most % len(points))
    really = os.statvfs
    try:
        for scenario, pages in chosen:
            root = bench.fresh(scenario, linked=False)
            ballast = place / "ballast"
            free = really(place)
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, (free.f_bavail - pages) * free.f_frsize)
            os.statvfs = lambda _: _Plenty()
            code = forked(lambda scenario=scenario, root=root: scenario.act(root))
            os.statvfs = really
            if scenario.name == "prune" and code:
                tally.harm("unrepaired", f"a full disk, {pages} pages left: prune makes no room")
            ballast.unlink()
            examine(bench, scenario, tally, f"full after {pages} pages", done=code == 0, follow=pages % 8 == 0)
    finally:
        subprocess.run(["umount", "-l", place], check=True)
    output.write_text(json.dumps(dataclasses.asdict(tally)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
