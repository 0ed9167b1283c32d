"""The demo's directory, and which files it may replace there."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embsync.dtypes import Float32, Int64
from embsync.errors import Hint, UsageError
from embsync.invocation import command, store_of

_MARKER = "EMBSYNC-DEMO"
_MARKER_TEXT = "Made by `embsync demo`, which replaces snapshots/, store/ and items.csv when it runs here again.\n"


@dataclass(frozen=True)
class DemoDirectory:
    """A demo's directory; the constructor does no I/O."""

    root: Path

    @property
    def snapshots(self) -> Path:
        """The snapshots of the training job, one per night."""
        return self.root / "snapshots"

    @property
    def store(self) -> Path:
        """The store."""
        return self.root / "store"

    @property
    def titles(self) -> Path:
        """Id, title and genre of every item."""
        return self.root / "items.csv"

    def snapshot(self, night: int) -> Path:
        """Return the snapshot of a night."""
        return self.snapshots / f"day={night}"

    def prepare(self) -> None:
        """Create the directory, or remove an earlier demo.

        Raises
        ------
        UsageError
            The directory contains something else, or cannot be written; nothing is changed.
        """
        try:
            self._reject_foreign()
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / _MARKER).write_text(_MARKER_TEXT)
            for part in (self.snapshots, self.store):
                if part.exists():
                    shutil.rmtree(part)
            self.titles.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(
                "the demo cannot use this directory",
                where=error.filename or self.root,
                found=error.strerror or str(error),
                hint=self._another(),
            ) from error

    def write_snapshot(self, night: int, item_ids: Int64, items: Float32, user_ids: Int64, users: Float32) -> Path:
        """Write a trained model like a training job: arrays and labels first, ``_SUCCESS`` last."""
        path = self.snapshot(night)
        path.mkdir(parents=True)
        for name, array in (("item_ids", item_ids), ("items", items), ("user_ids", user_ids), ("users", users)):
            np.save(path / f"{name}.npy", array)
        if self.titles.exists():
            shutil.copyfile(self.titles, path / "item_labels.csv")
        (path / "_SUCCESS").touch()
        return path

    def _reject_foreign(self) -> None:
        if not self.root.exists():
            return
        hint = self._another()
        if not self.root.is_dir():
            raise UsageError("not a directory", where=self.root, found="a file", expected="a directory", hint=hint)
        names = sorted(path.name for path in self.root.iterdir())
        if not names or self._is_demo():
            return
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UsageError(
            "the directory holds something other than a demo",
            where=self.root,
            found=", ".join(names[:3]) + more,
            expected="nothing, or an earlier demo",
            hint=hint,
        )

    def _another(self) -> Hint:
        """Return the command for an unused directory: in this one unless it is a store, beside it, or in the cwd."""
        inside = [] if store_of(self.root) else [self.root / "embsync-demo"]
        for place in (*inside, self.root.parent / f"{self.root.name}-2", Path("embsync-demo")):
            if place.parent.is_dir() and os.access(place.parent, os.W_OK) and not os.path.lexists(place):
                return command("demo", place, purpose="name another")
        return "name another, where you may write"

    def _is_demo(self) -> bool:
        marker = self.root / _MARKER
        return marker.is_file() and marker.read_bytes() == _MARKER_TEXT.encode()
