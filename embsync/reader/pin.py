"""Pinning a version of a store, and refusing one of another space."""

from __future__ import annotations

import contextlib
from pathlib import Path

from embsync.errors import ForeignSpace, NotFoundError, StoreBusy, StoreDamaged
from embsync.reader.version import Version
from embsync.store import layout

#: A version can be pruned between reading the link and pinning it only when a newer one was published
#: meanwhile; this many failures in a row have another cause.
_ATTEMPTS = 100


def open_version(root: Path, number: int | None = None, *, indexed: bool = True) -> Version:
    """Pin a version: the current one, or one by number; see :class:`Version`.

    Raises
    ------
    NotFoundError
        No store, no version yet, or no such version.
    StoreError
        The version is damaged.
    """
    if number is not None:
        with contextlib.suppress(StoreDamaged):  # the requested version may be intact
            layout.named_number(root)
    for _ in range(_ATTEMPTS):
        wanted = layout.current_number(root) if number is None else number
        if wanted is None:
            raise NotFoundError("no version yet", where=root, hint="publish a first snapshot")
        if number is not None and number in layout.unpublished_numbers(root / layout.VERSIONS):
            raise NotFoundError(f"no version {number}", where=root, hint="it was never published")
        try:
            return Version(root / layout.VERSIONS / layout.version_name(wanted), indexed=indexed)
        except FileNotFoundError:
            if number is not None:
                kept = ", ".join(map(str, layout.version_numbers(root / layout.VERSIONS))) or "none"
                raise NotFoundError(f"no version {number}", where=root, found=f"versions {kept}") from None
    raise StoreBusy(
        "the current version vanished each time it was opened", where=root, hint="is another program deleting versions?"
    )


def require_space(version: Version, space_id: str | None) -> None:
    """Refuse a version that is not in the space ``space_id``; None accepts every space.

    Raises
    ------
    ForeignSpace
        The version is in another space.
    """
    if space_id is not None and version.space_id != space_id:
        raise ForeignSpace(
            "the version is in another space",
            where=version.path,
            found=version.space_id,
            expected=space_id,
            hint="retrain the models that use these vectors, then open the new space",
        )
