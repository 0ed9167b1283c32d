"""What a process loads is what it works with: importing, reading and asking for help stay light."""

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

#: Code that is run in one process after the other's, and what of the above it may load, and all before it.
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
    """Return which heavy modules a process has after each piece of code."""
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
    """The daemon's own process has neither FAISS nor SciPy; nor has who reads the configuration, a manifest or rows."""
    allowed: set[str] = set()
    for (code, more), found in zip(STEPS, loaded_by(*(code for code, _ in STEPS)), strict=True):
        allowed |= set(more)
        assert found == allowed, code


def test_help_loads_no_command() -> None:
    """Of the heavy ones click alone; every command is there, with a sentence."""
    (found,) = loaded_by("from embsync.cli.main import run; run(['--help'])")[-1:]
    assert found == {"click"}


def test_lookup_loads_neither_faiss_nor_scipy() -> None:
    """A search loads FAISS, a lookup from the shell does not."""
    with published_nights(1) as store:
        with embsync.open(store) as reader:
            one = str(reader.current.items.ids[0])
        command = f"from embsync.cli.main import run; assert run([%s, {one!r}, '--store', {str(store)!r}]) == 0"
        looked, searched = (loaded_by(command % asked)[-1] for asked in ("'lookup', 'items'", "'search', '--item'"))
    assert "numpy" in looked
    assert not {"faiss", "scipy", "embsync.pipeline.run", "embsync.daemon.daemon"} & looked
    assert "faiss" in searched


def test_a_missing_attribute_of_a_package_is_an_attribute_error() -> None:
    """As of any module; what it has is listed before it is loaded."""
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        embsync.opne  # noqa: B018
    assert set(embsync.__all__) <= set(dir(embsync))
