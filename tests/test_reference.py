"""The reference pages list exactly what exists."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import msgspec
import pytest
from support.documents import ROOT, Document

import embsync
from embsync.config import Config
from embsync.errors import EmbsyncError
from embsync.manifest import Manifest
from embsync.server.openapi import document
from embsync.server.settings import Limits

LOG_EVENTS = Document("docs/reference/log-events.md")
#: Kinds of outcomes and entries, which name their events; other tests check each of them.
NAMED_BY_KIND = {"published", "refused", "failed", "unchanged", "incomplete", "error", "crashed"}
NAMED_BY_KIND |= {"passed_over", "changed", "not_permitted", "skipped", "not_a_snapshot"}


def _events(path: Path) -> set[str]:
    """Return the names of events that a module logs."""
    found: set[str] = set()
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        given = [keyword.value for keyword in call.keywords if name == "open" and keyword.arg == "event"]
        if name in {"log", "_log_seldom", "log_exception"}:
            given += call.args[:2]
        texts = [part for one in given for part in ast.walk(one) if isinstance(part, ast.Constant)]
        found |= {str(part.value) for part in texts if isinstance(part.value, str) and part.value.islower()}
    return found


def test_exactly_the_events_that_are_logged_are_listed() -> None:
    """The page lists the events by name; those of snapshots are named by their kind."""
    logged = set().union(*map(_events, ROOT.glob("embsync/**/*.py"))) - {"pull_"}
    rows = [row.split("|")[1] for row in LOG_EVENTS.text.splitlines() if row.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert logged | NAMED_BY_KIND | {"pull_failed", "pull_held"} == listed


def test_the_page_lists_exactly_the_exit_codes() -> None:
    """Success, an unexpected error, and each kind of error have an exit code."""
    codes = {
        int(code) for code in re.findall(r"^\| (\d) \|", Document("docs/reference/exit-codes.md").text, re.MULTILINE)
    }

    def kinds(root: type[EmbsyncError]) -> set[int]:
        return {root.exit_code}.union(*(kinds(kind) for kind in root.__subclasses__()))

    assert codes == {0} | kinds(EmbsyncError)


def _rows(markdown: str) -> list[list[str]]:
    """Return the cells of all rows of tables, except headers; a bar within code does not separate cells."""
    lines = [line.replace("\\|", "") for line in markdown.splitlines() if line.startswith("| ")]
    bare = [re.sub(r"`[^`]*`", lambda found: found[0].replace("|", " "), line) for line in lines]
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in bare]
    return [row for number, row in enumerate(found, 1) if "---" not in row + found[number % len(found)]]


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules that fill the marked places of pages, without MkDocs."""
    monkeypatch.syspath_prepend(str(ROOT / "docs/generate"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == ROOT / "docs/generate":
            del sys.modules[name]


def test_every_reference_entry_has_a_meaning(generate: Any) -> None:
    """Every field, key, option, metric, status, event and exit code has a meaning; every public name a docstring."""
    marks = generate("marks").MARKS
    pages = {name: mark() for name, mark in marks.items()}
    rows = {name: _rows(text) for name, text in pages.items() if name != "python"}
    assert {name for name, found in rows.items() if len(found) < 5} == set()
    rows["log events"] = _rows(LOG_EVENTS.text)
    rows["exit codes"] = [row[:2] for row in _rows(Document("docs/reference/exit-codes.md").text)]  # retry: empty for 0
    assert [(name, row) for name, found in rows.items() for row in found if not all(row)] == []
    fields = {name for kind in _objects(Manifest) for name in inspect.get_annotations(kind)}
    assert {name for name in fields if f"| `{name}` | " not in pages["manifest"]} == set()
    assert [name for name, member in _members(generate("python_interface").GIVEN) if not inspect.getdoc(member)] == []


def _objects(kind: Any) -> set[type]:
    """Return the types of the objects in the manifest."""
    own = {kind} if dataclasses.is_dataclass(kind) or hasattr(kind, "__struct_fields__") else set()
    inner = typing.get_type_hints(kind).values() if own else typing.get_args(kind)
    return own.union(*map(_objects, inner))


def _members(given: list[type]) -> Iterator[tuple[str, Any]]:
    """Yield the public names of the package and the members of the types that they return."""
    for one in [*(getattr(embsync, name) for name in embsync.__all__ if not name.startswith("_")), *given]:
        yield one.__qualname__, one
        for name, member in vars(one).items() if inspect.isclass(one) else []:
            if not name.startswith("_") and isinstance(member, property | classmethod | staticmethod | FunctionType):
                yield f"{one.__qualname__}.{name}", member


def test_every_key_of_the_configuration_has_a_row_with_its_meaning(generate: Any) -> None:
    """Every key, including those of sinks, has a row with its type, default and meaning."""

    def keys(tree: dict[str, Any], path: str = "") -> set[str]:
        return {
            key
            for name, value in tree.items()
            for key in (keys(value, f"{path}{name}.") if isinstance(value, dict) and value else {f"{path}{name}"})
        }

    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        for row in generate("configuration").configuration().splitlines()
        if row.startswith("| `")
    ]
    names = {row[0].strip("`") for row in rows}
    assert keys(msgspec.to_builtins(Config())) - {"checks"} <= names
    assert [row for row in rows if not all(row)] == []


def test_every_field_of_the_http_interface_has_its_meaning() -> None:
    """Every field of requests, responses and the objects in them has a meaning; the manifest has its own page."""
    schemas = document(Limits())["components"]["schemas"]
    of_manifest = set(msgspec.json.schema_components([Manifest])[1])
    fields = {
        f"{name}.{key}": field
        for name, schema in schemas.items()
        if name not in of_manifest
        for key, field in schema["properties"].items()
    }
    assert len(fields) > 90
    assert [name for name, field in fields.items() if not field.get("description")] == []
