from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.quick import quick_directory


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory in memory, since durability is not tested here."""
    with quick_directory() as path:
        yield path
