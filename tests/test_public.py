"""The public interface: the names on the page, and no others."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from support.documents import ROOT, Document

import embsync
import embsync.errors
from embsync.reader.side import Side

PAGE = Document("docs/api.md")
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md"))]


def errors(root: type[embsync.EmbsyncError] = embsync.EmbsyncError) -> set[str]:
    """Return the names of the errors of ``embsync.errors``."""
    here = {name for name, kind in vars(embsync.errors).items() if isinstance(kind, type) and issubclass(kind, root)}
    return here - {"Exception"}


def test_the_page_lists_the_public_names() -> None:
    """Each name is listed once; the order is that of the page."""
    rows = [row.split("|")[1] for row in PAGE.text.splitlines() if row.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)", row)]
    assert sorted(named) == sorted(embsync.__all__)


def test_every_public_name_exists() -> None:
    """Each public name is an attribute of the package."""
    assert all(hasattr(embsync, name) for name in embsync.__all__)


def test_every_error_can_be_caught_by_a_public_name() -> None:
    """All errors of the package are public or derive from a public one."""
    assert errors() <= set(embsync.__all__)
    for kind in embsync.EmbsyncError.__subclasses__():
        assert any(base.__name__ in embsync.__all__ for base in kind.__mro__)


@pytest.mark.parametrize("name", PAGES)
def test_the_documentation_uses_only_public_names(name: str) -> None:
    """Every Python block of the page uses only public names."""
    for source in Document(name).blocks("python"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "embsync":
                assert node.attr in embsync.__all__
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                assert not node.module.startswith("embsync.")


def test_importing_the_package_loads_no_library() -> None:
    """NumPy and FAISS are not loaded until a name that needs them is used."""
    code = "import sys, embsync; print(sorted({'numpy', 'scipy', 'faiss', 'watchdog', 'msgspec'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


#: Methods of a version whose docstrings must name the errors they raise.
RAISING = ("side", "search", "search_by_user", "search_by_item", "labels_of", "diff", "movement")


def test_every_public_function_documents_its_errors() -> None:
    """Functions, and methods of readers, versions, sides and anchors, have a ``Raises`` section."""
    reader, anchors = embsync.StoreReader, embsync.Anchors
    calls: list[Callable[..., object]] = [embsync.open, embsync.publish, embsync.stabilize, embsync.write_snapshot]
    calls += [reader.refresh, reader.version, reader.numbers, anchors.save, anchors.load]
    calls += [Side.lookup, Side.age, Side.origin, Side.fold_in, *(getattr(embsync.Version, name) for name in RAISING)]
    assert [call.__qualname__ for call in calls if "\nRaises\n------" not in (inspect.getdoc(call) or "")] == []
