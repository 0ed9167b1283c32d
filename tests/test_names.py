"""Rules for the source: names, the length of modules, how processes start, comments for tools."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import embsync

PACKAGE = Path(embsync.__file__).parent
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}


def test_class_names_are_unique() -> None:
    """Class names are unique in the entire package, private ones included."""
    names = Counter(name for text in SOURCES.values() for name in re.findall(r"^class (\w+)", text, re.MULTILINE))
    assert {name for name, count in names.items() if count > 1} == set()


def test_modules_are_short() -> None:
    """No module has more than 400 lines."""
    assert {name: text.count("\n") for name, text in SOURCES.items() if text.count("\n") > 400} == {}


def test_child_processes_are_started_in_one_way() -> None:
    """Only ``embsync.processes`` calls functions that start a process, so that all children end with their parent."""
    start = re.compile(
        r"\b(subprocess\.(run|Popen|call|check_\w+|getoutput)|os\.(fork|forkpty|posix_spawn\w*|system|popen))\("
    )
    assert [name for name, text in SOURCES.items() if start.search(text)] == ["processes.py"]


def test_no_comment_of_tests_speaks_to_the_type_checker() -> None:
    """Tests have no comments for mypy, which does not check them."""
    comment = "# type: " + "ignore"
    found = [str(path) for path in Path(__file__).parent.rglob("*.py") if comment in path.read_text()]
    assert found == []
