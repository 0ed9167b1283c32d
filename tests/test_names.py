"""House rules for the text of the code: one meaning a name, and no comment to a tool that does not read it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import embsync


def test_class_names_are_unique() -> None:
    """In the entire package, private ones included."""
    sources = Path(embsync.__file__).parent.rglob("*.py")
    names = Counter(name for path in sources for name in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE))
    assert {name for name, count in names.items() if count > 1} == set()


def test_no_comment_of_tests_speaks_to_the_type_checker() -> None:
    """Mypy does not check tests, so that a wrong comment would go unnoticed."""
    comment = "# type: " + "ignore"
    found = [str(path) for path in Path(__file__).parent.rglob("*.py") if comment in path.read_text()]
    assert found == []
