"""A process loads only the modules it uses: importing, reading and help stay fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.stores import published_nights

import embsync

HEAVY = (
    "faiss",
    "scipy",
    "rich",
    "watchdog",
    "yaml",
    "numpy",
    "click",
    "embsync.pipeline.run",
    "embsync.daemon.daemon",
)

#: Code that is run in one process, in this order, and the modules above that each piece may load in addition.
STEPS = (
    ("import embsync", ()),
    ("import embsync.errors, embsync.invocation", ()),
    ("embsync.EmbsyncError", ()),
    ("import embsync.config", ()),
    ("import embsync.config_loader", ("yaml",)),
    ("import embsync.manifest, embsync.store", ("numpy",)),
    ("embsync.open, embsync.Version, embsync.StoreReader", ()),
    ("import embsync.daemon.daemon", ("watchdog", "embsync.daemon.daemon")),
    ("from embsync.cli import main", ("click",)),
    ("from embsync.cli import query, inspect, daemon, publish", ()),
    ("embsync.stabilize", ("scipy",)),
    ("import embsync.index.searcher", ("faiss",)),
)


def loaded_by(*code: str) -> list[set[str]]:
    """Return the heavy modules loaded in a process after each piece of code."""
    output = "; ".join([*[f"{piece}; print(*(set({HEAVY!r}) & set(sys.modules)))" for piece in code]])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {output}"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(embsync.__file__).parents[1])},
    )
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_each_import_loads_only_what_it_needs() -> None:
    """The daemon's process and one that reads the configuration, a manifest or rows load neither FAISS nor SciPy."""
    allowed: set[str] = set()
    for (code, more), found in zip(STEPS, loaded_by(*(code for code, _ in STEPS)), strict=True):
        allowed |= set(more)
        assert found == allowed, code


def test_help_loads_no_command() -> None:
    """Help loads no heavy module but click, and lists every command with a sentence."""
    (found,) = loaded_by("from embsync.cli.main import run; run(['--help'])")[-1:]
    assert found == {"click"}


def test_lookup_loads_neither_faiss_nor_scipy() -> None:
    """A lookup from the shell does not load FAISS; a search does."""
    with published_nights(1) as store:
        with embsync.open(store) as reader:
            one = str(reader.current.items.ids[0])
        command = f"from embsync.cli.main import run; assert run([%s, {one!r}, '--store', {str(store)!r}]) == 0"
        looked, searched = (loaded_by(command % asked)[-1] for asked in ("'lookup', 'items'", "'search', '--item'"))
    assert "numpy" in looked
    assert not {"faiss", "scipy", "embsync.pipeline.run", "embsync.daemon.daemon"} & looked
    assert "faiss" in searched


def test_a_missing_attribute_of_a_package_is_an_attribute_error() -> None:
    """The error is that of any module; ``dir`` lists the exports before they are loaded."""
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        embsync.opne  # noqa: B018
    assert set(embsync.__all__) <= set(dir(embsync))
