"""``source.json``: the source of a pulled store, and the version that was current there."""

from __future__ import annotations

from pathlib import Path

import msgspec

from embsync.errors import StoreBusy, StoreError, UsageError
from embsync.invocation import command
from embsync.store import layout
from embsync.store.durable import replace_file, storage_errors
from embsync.store.locks import is_held
from embsync.store.records import read_struct

FORMAT = 1


class PullSource(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of the file.

    Attributes
    ----------
    url : str
    version, sha256 : int or None, str or None
        Those of the pointer when this store last switched; None before the first version arrived.
    """

    format: int = FORMAT
    url: str
    version: int | None = None
    sha256: str | None = None


def read_source(root: Path) -> PullSource | None:
    """Return the source of a store, or None if it is not pulled.

    Raises
    ------
    StoreDamaged
        The file is damaged.
    """
    return read_struct(root / layout.SOURCE, PullSource)


def write_source(root: Path, source: PullSource) -> None:
    """Replace the file durably."""
    with storage_errors(root):
        replace_file(root / layout.SOURCE, msgspec.json.format(msgspec.json.encode(source), indent=1) + b"\n")


def require_pullable(root: Path, url: str) -> PullSource:
    """Return the source of a store, after checking that it may be pulled from ``url``.

    Raises
    ------
    StoreBusy
        The store has a daemon.
    UsageError
        Its versions come from elsewhere.
    """
    if is_held(root / layout.DAEMON_LOCK):
        raise StoreBusy(
            "the store has a daemon, which publishes there",
            where=root,
            expected="a store that only `embsync pull` changes",
            hint="name another directory with --store",
        )
    known = read_source(root)
    if known is None:
        if layout.directory_numbers(root / layout.VERSIONS):
            raise UsageError(
                "the store was not pulled: its versions come from elsewhere",
                where=root,
                expected=f"an empty directory, or a store with {layout.SOURCE}",
                hint="name another directory with --store",
            )
        known = PullSource(url=url)
        write_source(root, known)
    if known.url != url:
        raise UsageError(
            "the store is pulled from another place",
            where=root / layout.SOURCE,
            found=url,
            expected=known.url,
            hint=(command("pull", known.url, store=root), "or name another directory with --store"),
        )
    if known.format != FORMAT:
        raise StoreError("a source of another format", where=root / layout.SOURCE, found=known.format, expected=FORMAT)
    return known
