"""The results of runs that try to break the store, in one form for every kind of attack.

``EMBSYNC_TORTURE_REPORT`` names a file to which each run appends one JSON object; ``python tests/torture/report.py
FILE`` prints it as the table of ``docs/promises.md``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Harm = Literal["torn", "lost", "phantom", "unrepaired"]

#: Read at import, since tests run without the variables of the caller.
_REPORT = os.environ.get("EMBSYNC_TORTURE_REPORT")
_COLUMNS = ("attack", "points", "torn", "lost", "phantom", "unrepaired", "seconds")


@dataclass
class Tally:
    """Points that were tried, and the harm that was found.

    Attributes
    ----------
    torn : int
        A reader found a version mixed, incomplete or different from its manifest, or none although there was one.
    lost : int
        Something acknowledged was gone: a version, a line of the journal, a hold.
    phantom : int
        Something counts as done that was not, or the reverse, such as a night handled but not published.
    unrepaired : int
        The next ordinary command did not succeed, or left something behind.
    found : list of str
        A description of each harm.
    """

    attack: str
    points: int = 0
    torn: int = 0
    lost: int = 0
    phantom: int = 0
    unrepaired: int = 0
    seconds: float = 0.0
    found: list[str] = field(default_factory=list)

    def harm(self, kind: Harm, what: str) -> None:
        """Count and describe a harm."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.found.append(f"{kind}: {what}")


@contextlib.contextmanager
def tally(attack: str, least: int = 1) -> Iterator[Tally]:
    """Yield the tally of an attack; on exit, report it, then fail if too few points were tried or there was harm."""
    made, began = Tally(attack), time.perf_counter()
    try:
        yield made
    finally:
        made.seconds = round(time.perf_counter() - began, 1)
        if _REPORT is not None:
            with Path(_REPORT).open("a") as file:
                file.write(json.dumps(dataclasses.asdict(made)) + "\n")
    assert made.found == [], "\n".join(made.found[:10])
    assert made.points >= least, f"{made.points} points tried, not the {least} that were meant"


def main(path: str) -> None:
    """Print the reported runs as a table, with the runs of one attack added up."""
    rows: dict[str, list[float]] = {}
    for line in Path(path).read_text().splitlines():
        run = json.loads(line)
        before = rows.get(run["attack"], [0] * len(_COLUMNS[1:]))
        rows[run["attack"]] = [old + run[name] for old, name in zip(before, _COLUMNS[1:], strict=True)]
    print(f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}")
    for attack, figures in rows.items():
        print(f"| {attack} | {' | '.join(f'{round(figure):,}' for figure in figures)} |")


if __name__ == "__main__":
    main(sys.argv[1])
