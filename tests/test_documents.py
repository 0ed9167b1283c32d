"""The documents of the repository: links, numbers of decisions, and the commands for contributors."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from support.documents import ROOT, Document

import embsync

DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CONTRIBUTING = Document("CONTRIBUTING.md")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_has_a_target(name: str) -> None:
    """Links into the repository point to existing files."""
    assert Document(name).dead_links() == []


def test_decisions_are_numbered_from_one() -> None:
    """The numbers have no gaps, and each heading has the number of its file."""
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in files] == list(range(1, len(files) + 1))
    assert all(path.read_text(encoding="utf-8").startswith(f"# {path.name[:4]}: ") for path in files)


def test_examples_name_the_version_of_the_package() -> None:
    """Images and pinned requirements in docs/examples have the package's version."""
    named = [
        version
        for path in sorted((ROOT / "docs" / "examples").rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
        for version in re.findall(r"embsync(?:\[[a-z,]+\])?(?::|==)(\d[\w.]*)", path.read_text(encoding="utf-8"))
    ]
    assert named
    assert set(named) == {embsync.__version__}


def commands() -> list[list[str]]:
    """Return the words of every command line in CONTRIBUTING.md."""
    return [shlex.split(line) for block in CONTRIBUTING.fences() for line in block.source.splitlines()]


def test_a_contributors_commands_can_be_run() -> None:
    """Programs come with Python or the extra ``test``, extras exist, and paths exist."""
    installed = {re.split(r"[>=\[]", wanted)[0] for wanted in PROJECT["project"]["optional-dependencies"]["test"]}
    programs = {"lint-imports": "import-linter"}
    for program, *arguments in commands():
        assert program in {"python3", ".", "python", "pip"} or programs.get(program, program) in installed
        assert program == "." or shutil.which(program) or (Path(sys.executable).parent / program).exists()
        for extra in re.findall(r"\[([a-z-]+)\]", " ".join(arguments)):
            assert extra in PROJECT["project"]["optional-dependencies"]
        for path in (word for word in arguments if re.match(r"(tests|docs)/", word)):
            assert (ROOT / path).exists()


def test_a_contributor_checks_what_ci_checks() -> None:
    """The documented commands that check a change are those of ``.ci/run`` and ``make lint``."""
    judged = [line for line in map(" ".join, commands()) if re.match(r"ruff check|mypy|lint-imports", line)]
    assert len(judged) == 3
    for place in (".ci/run", "Makefile"):
        lines = [line.strip() for line in (ROOT / place).read_text(encoding="utf-8").splitlines()]
        assert [line for line in lines if line in judged] == judged


def test_the_architecture_lists_existing_modules() -> None:
    """Every module and function that it names exists; every directory and module of the package has a line."""
    text = Document("docs/architecture.md").text
    package = ROOT / "embsync"
    for function, module in re.findall(r"`(\w+)(?:\(\))?` of `([a-z_/]+)`", text):
        assert f"def {function}(" in (package / f"{module}.py").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    for function in re.findall(r"`(?:\w+\.)?(\w+)\([^`]*\)`", text):
        assert f"def {function}(" in sources, function
    for folder, name in re.findall(r"`([a-z]+)/([a-z_]+)`", text):
        assert (package / folder / f"{name}.py").exists(), f"{folder}/{name}"
    tree = set(re.findall(r"^  ([a-z_]+(?:\.py|/)) ", text, re.MULTILINE))
    there = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert tree == there | {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}


def test_every_test_named_by_a_guarantee_exists() -> None:
    """Every test that a guarantee names exists, as a file or a function."""
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    written = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py"))
    files = {path.name for path in ROOT.glob("tests/**/test_*.py")}
    named = set(re.findall(r"`(?:tests/)?(?:\w+/)*(?:test_\w+\.py::)?(test_\w+)`", page))
    assert len(named) > 30
    assert [name for name in sorted(named) if f"def {name}(" not in written] == []
    assert set(re.findall(r"\b(test_\w+\.py)\b", page)) <= files
