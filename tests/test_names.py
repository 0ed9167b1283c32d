"""One meaning a name: no class is called like another one."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import embsync


def test_class_names_are_unique() -> None:
    """In the whole package, private ones included."""
    sources = Path(embsync.__file__).parent.rglob("*.py")
    names = Counter(name for path in sources for name in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE))
    assert {name for name, count in names.items() if count > 1} == set()
