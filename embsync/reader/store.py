"""``embsync.open``: the store as consumers see it, read-only."""

from __future__ import annotations

from pathlib import Path

from embsync.errors import NotFoundError, StoreBusy
from embsync.reader.version import Version
from embsync.store import layout

#: A version can be pruned between reading the link and pinning it only when a newer one was published
#: meanwhile; so many in a row means something else is wrong.
_ATTEMPTS = 100


def open_version(root: Path, number: int | None = None) -> Version:
    """Pin a version: the current one, or one by number.

    Raises
    ------
    NotFoundError
        No store, no version yet, or no such version.
    StoreError
        The version is damaged.
    """
    for _ in range(_ATTEMPTS):
        wanted = layout.current_number(root) if number is None else number
        if wanted is None:
            raise NotFoundError("no version yet", where=root, hint="embsync sync SNAPSHOT publishes the first")
        try:
            return Version(root / layout.VERSIONS / layout.version_name(wanted))
        except FileNotFoundError:
            if number is not None:
                raise NotFoundError(f"no version {number}", where=root) from None
    raise StoreBusy("the current version vanished each time it was opened", where=root,
                    hint="is another program deleting versions?")


class StoreReader:
    """A store opened for reading, by any number of processes at once.

    Attributes
    ----------
    current : Version
        Pinned; stays the same until :meth:`refresh`.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.current = open_version(self.root)

    def refresh(self) -> bool:
        """Switch :attr:`current` to the newest version if there is one; return whether there was.

        The version held before stays usable for whoever still holds it. A newer version that is damaged
        raises StoreError, and ``current`` stays.
        """
        if layout.current_number(self.root) == self.current.number:
            return False
        self.current = open_version(self.root)
        return True

    def version(self, number: int) -> Version:
        """Pin any kept version."""
        return open_version(self.root, number)

    def __enter__(self) -> StoreReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the current version."""
        self.current.close()


def open(path: str | Path) -> StoreReader:  # noqa: A001  (read as ``embsync.open``)
    """Open a store for reading.

    Parameters
    ----------
    path : path
        The store's directory.

    Raises
    ------
    NotFoundError
        There is no store, or no version in it yet.
    StoreError
        The current version is damaged.
    """
    return StoreReader(path)
