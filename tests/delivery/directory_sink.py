"""The smallest possible sink, a directory: an example of the contract, used by the tests of the service."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from contract import Served, ServedSide

from embsync.config import SinkConfig
from embsync.delivery.queries import probe_queries
from embsync.delivery.rows import row_blocks
from embsync.delivery.sink import Generation, Probe, fingerprint_of
from embsync.errors import SinkConflict, SinkError, SinkMoved, SinkUnavailable
from embsync.reader import Version

_MARK = "embsync-directory"


class DirectorySinkConfig(SinkConfig, frozen=True, kw_only=True, tag="directory"):
    """Configuration of a directory as a sink."""

    path: str


class DirectorySink:
    """Sides as ``.npz`` files, a description written last, and a file with the current number."""

    def __init__(self, config: DirectorySinkConfig) -> None:
        self._root = Path(config.path)

    def check(self, version: Version) -> tuple[str, ...]:
        if not self._root.parent.is_dir():
            raise SinkUnavailable("the sink is gone", where=self._root)
        if self._root.is_dir() and any(self._root.iterdir()) and not (self._root / _MARK).exists():
            raise SinkConflict("somebody else's directory", where=self._root, hint="name another one")
        self._root.mkdir(exist_ok=True)
        (self._root / _MARK).touch()
        return ()

    def generations(self) -> list[Generation]:
        found = []
        for folder in sorted(self._root.glob("[0-9]*")):
            if (folder / "mark.json").exists():
                kept = json.loads((folder / "mark.json").read_text())
                complete = folder / "complete.json"
                more = json.loads(complete.read_text()) if complete.exists() else {}
                found.append(Generation(kept["number"], kept["fingerprint"], complete.exists(), **more))
        return found

    def current(self) -> int | None:
        try:
            return int((self._root / "current").read_text())
        except FileNotFoundError:
            return None

    def stage(self, version: Version) -> None:
        for there in self.generations():
            if there.number == version.number and there.fingerprint != fingerprint_of(version):
                raise SinkConflict("a version of another store", where=self._root)
            if there.number == version.number and there.complete:
                return
        folder = self._root / str(version.number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (self._root / _MARK).touch()
        self._write(folder / "mark.json", {"number": version.number, "fingerprint": fingerprint_of(version)})
        for name in ("items", "users")[: 1 + (version.users is not None)]:
            blocks = list(row_blocks(version, name))
            parts = {
                part: np.concatenate([getattr(block, part) for block in blocks])
                for part in ("ids", "vectors", "live", "ages")
            }
            np.savez(folder / f"{name}.npz", **parts)
        self._describe(folder, version, {})

    def _describe(self, folder: Path, version: Version, search: dict[str, int]) -> None:
        described = {"space_id": version.space_id, "created": version.record.created, "search": search}
        self._write(folder / "complete.json", described)

    def _write(self, path: Path, content: Any) -> None:
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(content))
        fresh.replace(path)

    def probe(self, version: Version) -> Probe:
        folder = self._root / str(version.number)
        items = _side(folder / "items.npz")
        users = _side(folder / "users.npz") if (folder / "users.npz").exists() else None
        queries = probe_queries(version)
        live = np.flatnonzero(items.live)
        best = np.argsort(-(queries.vectors @ items.vectors[live].T), axis=1)[:, : queries.k]
        ids = np.asarray(items.ids)[live]
        search = {"scanned": len(live)}
        self._describe(folder, version, search)
        recall = queries.recall(ids[best])
        rows = None if users is None else len(users.ids)
        return Probe(len(items.ids), rows, queries.k, recall, queries.target, search)

    def commit(self, number: int, expected: int | None) -> None:
        if not any(there.number == number and there.complete for there in self.generations()):
            raise SinkError(f"version {number} is not staged", where=self._root)
        with self._locked():
            if self.current() != expected:
                raise SinkMoved("moved", where=self._root, found=self.current(), expected=expected)
            fresh = self._root / f"current.{os.getpid()}.{number}"
            fresh.write_text(str(number))
            fresh.replace(self._root / "current")

    def drop(self, number: int) -> None:
        if self.current() == number:
            raise SinkError("the current version", where=self._root, found=number)
        folder = self._root / str(number)
        if (folder / "mark.json").exists():
            (folder / "complete.json").unlink(missing_ok=True)
            shutil.rmtree(folder)

    def close(self) -> None:
        """Do nothing: nothing is open."""

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def served(root: Path) -> Served | None:
    """Return what a reader sees: the number once, then only its files."""
    if not (root / "current").exists():
        return None
    number = int((root / "current").read_text())
    folder = root / str(number)
    users = _side(folder / "users.npz") if (folder / "users.npz").exists() else None
    return Served(number, _side(folder / "items.npz"), users)


def _side(path: Path) -> ServedSide:
    with np.load(path) as parts:
        return ServedSide(parts["ids"].tolist(), parts["vectors"], parts["live"].tolist(), parts["ages"].tolist())
