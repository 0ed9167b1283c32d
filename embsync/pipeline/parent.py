"""Verifying the parent version while it is used, so that damage is neither propagated nor attributed to a snapshot."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType

import numpy as np

from embsync.errors import EmbsyncError, StoreDamaged, StoreError
from embsync.file_hashes import Stopped
from embsync.index import ParentIndex, reject_damage
from embsync.invocation import Command, quoted
from embsync.pipeline.inputs import Inputs
from embsync.reader import Version, open_version
from embsync.reader.verification import verify
from embsync.store import Store, layout

#: Files that are hashed before they are loaded; if they are damaged, the index is rebuilt.
_HASHED_ELSEWHERE = (layout.INDEX, layout.INDEX_ROWS)


class ParentCheck:
    """Hashes the files that a run uses from a version, in a background thread.

    If there is damage, an error of the work is replaced by an error about the damage, which may have caused it. Pages
    that change between being hashed and being used are not detected.

    Parameters
    ----------
    store : Store
    parent : Version or None
        None if the run uses no version.
    harmless : tuple of exception types
        Errors of the work that damage cannot have caused.
    """

    def __init__(self, store: Store, parent: Version | None, harmless: tuple[type[Exception], ...] = ()) -> None:
        self._store = store
        self._parent = parent
        self._harmless = harmless
        self._stopped = False
        self._error: Exception | None = None
        self._raised: StoreDamaged | None = None
        self._thread = threading.Thread(target=self._hash, name="embsync-parent", daemon=True)

    def __enter__(self) -> ParentCheck:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, self._harmless) and error is not self._raised:
            self.require()
        self._stopped = True
        self._thread.join()

    def raise_if_damaged(self) -> None:
        """Raise an error if damage was found so far, without waiting for the remaining files.

        Raises
        ------
        StoreDamaged
            A file hashed so far does not match the manifest.
        """
        if self._error is not None:
            self.require()

    def require(self) -> None:
        """Wait until all files are hashed.

        Raises
        ------
        StoreDamaged
            A file does not match the manifest; the hint says what to do.
        """
        self._thread.join()
        if isinstance(self._error, StoreDamaged):
            self._raised = self._raised or _advised(self._store, self._parent, self._error)
            raise self._raised
        if self._error is not None:
            raise self._error

    def _hash(self) -> None:
        try:
            if self._parent is not None:
                verify(self._parent, lambda: self._stopped, without=_HASHED_ELSEWHERE)
        except Stopped:
            pass
        except Exception as error:  # raised in the thread that waits
            self._error = error


def _advised(store: Store, parent: Version | None, damage: StoreDamaged) -> StoreDamaged:
    assert parent is not None
    return StoreDamaged(
        f"version {parent.number} is damaged, and the next one would be made from it",
        where=damage.where,
        found=damage.found,
        expected=damage.expected,
        hint=_repair_hint(store, parent, damage),
    )


def _repair_hint(store: Store, parent: Version, damage: StoreDamaged) -> str | Command:
    """Return the next command: copy the file from a version that has the same, or return to an intact version."""
    wanted = next((entry for entry in parent.record.files if damage.where == str(parent.path / entry.path)), None)
    others = [number for number in reversed(store.numbers()) if number != parent.number]
    for number in others:
        with contextlib.suppress(EmbsyncError):
            same = wanted is not None and wanted in store.manifest(number).files
            if wanted is not None and same and store.is_intact(number, wanted.path):
                source, target = store.path(number) / wanted.path, parent.path / wanted.path
                return f"cp --remove-destination {quoted(str(source))} {quoted(str(target))}"
    return store.repair_command({parent.number})


def open_current(store: Store, stack: contextlib.ExitStack, *, new_space: bool) -> tuple[Version | None, int | None]:
    """Return the version whose sides and id types a run keeps, pinned, and the number of the current one.

    A new space can begin even if the current version is damaged: then the newest readable version is pinned.

    Raises
    ------
    StoreDamaged
        The current version cannot be read, and no new space begins.
    """
    if not store.versions.is_dir():
        return None, None
    number = None
    try:
        number = current_number(store, new_space=new_space)
        if number is not None:
            return stack.enter_context(open_version(store.root, number, indexed=False)), number
    except StoreDamaged:
        if not new_space:
            raise
    return _newest_readable(store, stack) if new_space else None, number


def current_number(store: Store, *, new_space: bool) -> int | None:
    """Return the current version's number; None if there is none, or if the link is damaged and a new space begins."""
    try:
        return store.current()
    except StoreDamaged:
        if not new_space:
            raise
        return None


def _newest_readable(store: Store, stack: contextlib.ExitStack) -> Version | None:
    for number in reversed(store.numbers()):
        with contextlib.suppress(StoreDamaged):
            return stack.enter_context(open_version(store.root, number, indexed=False))
    return None


def parent_index(inputs: Inputs) -> ParentIndex | None:
    """Return the parent's index for the new version, or None in a new space."""
    parent = inputs.parent
    if parent is None:
        return None
    sha256 = {entry.path: entry.sha256 for entry in parent.record.files}
    labels, damage = np.empty(0, np.int64), None
    try:
        # Two exchanged labels are still valid labels: only the hash detects the exchange.
        reject_damage(parent.path / layout.INDEX_ROWS, sha256[layout.INDEX_ROWS])
        labels = parent.index_rows
    except StoreError as error:
        damage = error
    return ParentIndex(
        path=parent.path / layout.INDEX,
        sha256=sha256[layout.INDEX],
        labels=labels,
        row_map=inputs.items.plan.row_map.astype(np.int64),
        report=parent.record.index,
        vectors=parent.items.vectors,
        damage=damage,
    )
