"""Damaged files of every format are read or refused, within limits of time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from snapshots.fuzz import DECODED, FORMATS, WAYS

#: Packed text needs a library to write it.
NAMES = [
    pytest.param(name, marks=pytest.mark.services("backports.zstd")) if name == "word2vec_packed" else name
    for name in FORMATS
]
SCRIPT = f"import runpy; runpy.run_path({str(Path(__file__).with_name('fuzz.py'))!r}, run_name='__main__')"
#: Constant seeds: `make fuzz` repeats the same mutants.
SEED = 20261123


def run(name: str, files: int, folder: Path) -> dict[str, object]:
    """Fuzz a format in another process and return its counts."""
    if name in DECODED:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "support.script", SCRIPT, name, str(files), str(SEED), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def judge(counts: dict[str, object]) -> None:
    """Assert that all mutants were read or refused."""
    assert counts["failures"] == []
    assert counts.get("failed", 0) == 0
    assert counts["slowest_seconds"] <= 10
    assert counts["peak_mib"] < 1024
    assert counts["refused"] > counts["files"] / 4  # the damage is real


@pytest.mark.parametrize("name", NAMES)
def test_some_damaged_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    """A hundred mutants per format are read, and fifty of formats that fork two decoders for each."""
    judge(run(name, 50 if name in DECODED else 100, tmp_path))


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*NAMES, *WAYS])
def test_ten_thousand_damaged_files_are_read_or_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten thousand mutants per format are read; the counts are printed."""
    counts = run(name, 10_000, tmp_path)
    with capsys.disabled():
        print(f"\n{json.dumps(counts)}")
    judge(counts)
