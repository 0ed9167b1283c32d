"""House rules for the text of the code: names, the length of modules, how processes start, comments to tools."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import embsync

PACKAGE = Path(embsync.__file__).parent
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}


def test_class_names_are_unique() -> None:
    """In the entire package, private ones included."""
    names = Counter(name for text in SOURCES.values() for name in re.findall(r"^class (\w+)", text, re.MULTILINE))
    assert {name for name, count in names.items() if count > 1} == set()


def test_modules_are_short() -> None:
    """At most 400 lines each."""
    assert {name: text.count("\n") for name, text in SOURCES.items() if text.count("\n") > 400} == {}


def test_child_processes_are_started_in_one_way() -> None:
    """By ``embsync.processes``, so that all end with their parent; no other module calls what starts one."""
    start = re.compile(
        r"\b(subprocess\.(run|Popen|call|check_\w+|getoutput)|os\.(fork|forkpty|posix_spawn\w*|system|popen))\("
    )
    assert [name for name, text in SOURCES.items() if start.search(text)] == ["processes.py"]


def test_no_comment_of_tests_speaks_to_the_type_checker() -> None:
    """Mypy does not check tests, so that a wrong comment would go unnoticed."""
    comment = "# type: " + "ignore"
    found = [str(path) for path in Path(__file__).parent.rglob("*.py") if comment in path.read_text()]
    assert found == []
