"""Whether a change left every figure the same: nights published by this package and by that of another commit.

Each package publishes the same snapshots, in order, into a store of its own. Of every figure that both manifests have,
in `alignment`, `preservation`, `drift`, `checks` and `index`, the largest relative difference over the nights is
printed if it is above 1e-9; infinite where a word or a null differs. `map_error` is a rounding error, of which no digit
need agree.

    python benchmarks/figures.py COMMIT NIGHT [NIGHT ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commits import HERE, package

SECTIONS = ("alignment", "preservation", "drift", "checks", "index")


def manifests(code: Path, nights: list[Path], store: Path) -> list[dict[str, Any]]:
    """Publish the nights with the package of ``code``; return the manifests."""
    environment = {**os.environ, "PYTHONPATH": str(code), "OPENBLAS_CORETYPE": "HASWELL"}
    found = []
    for night in nights:
        command = [sys.executable, "-m", "embsync", "sync", str(night), "--store", str(store)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=code)
        found.append(json.loads((store / "current" / "manifest.json").read_text()))
    return found


def figures(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every leaf with its path; a list of named records uses their names."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from figures(one, f"{path}.{name}")
    elif isinstance(value, list):
        for place, one in enumerate(value):
            name = one.get("name", place) if isinstance(one, dict) else place
            yield from figures(one, f"{path}.{name}")
    else:
        yield path, value


def main() -> None:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the other package: a commit of this repository")
    parser.add_argument("nights", type=Path, nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        other = package(options.commit, Path(work) / "other")
        nights = [night.resolve() for night in options.nights]
        published = (manifests(code, nights, Path(work) / f"store{code == HERE}") for code in (other, HERE))
        largest: dict[str, float] = defaultdict(float)
        counted = 0
        for before, after in zip(*published, strict=True):
            for section in SECTIONS:
                one, two = (dict(figures(manifest[section], section)) for manifest in (before, after))
                for path in sorted(one.keys() & two.keys()):
                    counted += 1
                    largest[path] = max(largest[path], _apart(one[path], two[path]))
    for path, apart in sorted(largest.items(), key=lambda item: -item[1]):
        if apart > 1e-9:
            print(f"{path:<60} {apart:.1e}")
    print(
        f"{counted} figures of {len(options.nights)} nights; {sum(one <= 1e-9 for one in largest.values())} of "
        f"{len(largest)} the same to nine digits"
    )


def _apart(one: Any, two: Any) -> float:
    if one == two:
        return 0.0
    if isinstance(one, int | float) and isinstance(two, int | float):
        return abs(one - two) / max(abs(one), abs(two))
    return float("inf")


if __name__ == "__main__":
    main()
