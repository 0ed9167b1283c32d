"""Benchmarks use internals of the package, which other tests do not notice: each runs once on little data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.documents import ROOT

SMALL = {
    "guards_cost": ["--rows", "3000", "--repeats", "1"],
    "publish": ["--shapes", "6000x16", "--factory", "Flat", "--repeats", "1"],
    "reading": ["--rows", "6000", "--lookup-rows", "20000"],
    "request_cost": ["--rows", "1000", "--rounds", "1"],
    "searching": ["--rows", "3000", "--repeats", "1"],
    "serving": ["--switches", "2", "--rows", "1000"],
    "steps": ["--shapes", "6000x16", "--repeats", "1"],
}


@pytest.mark.torture
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    """It ends without an error and prints a result."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *SMALL[name]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
