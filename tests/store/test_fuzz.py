"""Damaged files of the store: reading gives a result or one of the project's errors, with bounded time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from store.fuzz import KINDS
from support.quick import quick_directory

SCRIPT = Path(__file__).with_name("fuzz.py")
SEED = 20261125


def judge(kinds: str, files: int) -> str:
    """Fuzz kinds of files in a separate process; assert that only results and the project's errors occurred."""
    with quick_directory() as folder:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), kinds, str(files), str(SEED), str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == len(kinds.split(","))
    for line in done.stdout.splitlines():
        counts = json.loads(line)
        assert counts["failures"] == []
        assert counts.get("failed", 0) == 0
        assert counts["slowest_seconds"] <= 10
        assert counts["peak_mib"] < 1024
        assert counts["refused"] > files / 5  # the damage has an effect
    return done.stdout


def test_some_damaged_files_are_answered_or_refused() -> None:
    """Tested with twenty mutants of each kind."""
    judge(",".join(KINDS), 20)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_damaged_files_are_answered_or_refused(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Tested with ten thousand mutants of a kind; the counts are printed."""
    counts = judge(kind, 10_000)
    with capsys.disabled():
        print(f"\n{counts}")
