"""Objects that take seconds to make, made by the first worker of a run that needs them."""

from __future__ import annotations

import fcntl
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

Made = TypeVar("Made")


def made_once(request: pytest.FixtureRequest, name: str, make: Callable[[Path], Made]) -> Made:
    """Return what ``make`` returned, called once per run with a directory that exists until the run ends.

    Parameters
    ----------
    request : pytest.FixtureRequest
        Of a fixture with session scope.
    name : str
        Unique in a run.
    make : callable
        Gets an empty directory; its result must be picklable. If it fails, the next worker calls it again.
    """
    root = request.getfixturevalue("tmp_path_factory").getbasetemp()
    if hasattr(request.config, "workerinput"):  # a worker's own directory is removed with the worker
        root = root.parent
    place = root / f"shared-{name}"
    place.mkdir(exist_ok=True)
    record = place / "made.pickle"
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            made = make(Path(tempfile.mkdtemp(dir=place)))
            (place / "unfinished").write_bytes(pickle.dumps(made))
            (place / "unfinished").rename(record)
        found: Made = pickle.loads(record.read_bytes())
    return found
