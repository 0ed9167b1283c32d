"""Kills, interrupts, terminations and failing calls at every point of every command; a few of them by default."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.quick import quick_directory
from torture.report import tally

LONG = [pytest.mark.torture, pytest.mark.timeout(7200)]


def _run(program: str, attack: str, most: int, seed: int = 20) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with quick_directory() as directory, tally(attack, most) as counted:
        output = directory / "tally.json"
        (directory / "at").mkdir()
        command = [sys.executable, Path(__file__).with_name(program), directory / "at", str(most), str(seed), output]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 77:
            pytest.skip(done.stdout or "mounting is not allowed here")
        assert done.returncode == 0, done.stderr[-2000:]
        for name, value in json.loads(output.read_text()).items():
            if name not in {"attack", "seconds"}:
                setattr(counted, name, value)


@pytest.mark.parametrize("most", [12, pytest.param(20_000, marks=LONG)])
def test_a_process_may_be_killed_or_interrupted_at_any_call(most: int) -> None:
    """After SIGKILL, SIGINT or SIGTERM at any call of any command, nothing is torn, lost, phantom or unrepaired."""
    _run("points.py", "kill -9, SIGINT, SIGTERM at a call", most)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("most", [16, pytest.param(6_000, marks=LONG)])
def test_any_system_call_may_fail(most: int) -> None:
    """The store stays intact if calls of the C library, also from FAISS, fail, are short or falsely succeed."""
    _run("failing.py", "failing and short calls, and false success", most)


@pytest.mark.parametrize("most", [3, pytest.param(2_000, marks=LONG)])
def test_a_process_may_be_killed_at_any_moment(most: int) -> None:
    """After a signal at a random moment, every acknowledged version is in the journal."""
    _run("moments.py", "kill -9, SIGINT, SIGTERM at a moment", most)


@pytest.mark.parametrize("most", [2, pytest.param(1_200, marks=LONG)])
def test_the_power_may_fail_at_any_moment(most: int) -> None:
    """After a power cut of a real ext4, acknowledged changes persist, and every version is intact."""
    _run("power.py", "power cuts on ext4", most)


@pytest.mark.parametrize("most", [10, pytest.param(1_680, marks=LONG)])
def test_the_disk_may_be_full_after_any_page(most: int) -> None:
    """Each command on a disk with few free pages leaves the old or the new state; ``prune`` frees space."""
    _run("full.py", "a disk that is actually full", most)
