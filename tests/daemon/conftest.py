from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from daemons import Place
from support.quick import quick_directory


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory in memory, since durability is not tested here."""
    with quick_directory() as path:
        yield path


@pytest.fixture
def place(root: Path) -> Place:
    return Place(root)
