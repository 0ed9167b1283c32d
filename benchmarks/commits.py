"""The package as it was at a commit of this repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def package(commit: str, into: Path) -> Path:
    """Write the files of a commit to the new directory ``into``, and return it."""
    into.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=HERE, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(into)], input=archive, check=True)
    return into
