"""Text compressed by gzip or zstd, decompressed piece by piece up to a limit that no real text exceeds."""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Iterator
from typing import Any

from embsync.errors import SnapshotError, UsageError
from embsync.snapshots.files import FileBytes

PACKED = (".gz", ".zst")
#: Numbers in text compress to a third of their size, rows of zeros to a thirtieth; deflate reaches 1/1,032.
_MOST_INFLATION = 100
_PIECE = 1024**2
_ALLOWANCE_BYTES = 16 * _PIECE


def most_unpacked(size: int) -> int:
    """Return the largest plausible size in bytes of text of this compressed size."""
    return size * _MOST_INFLATION + _ALLOWANCE_BYTES


def unpacked(content: FileBytes, name: str) -> Iterator[bytes]:
    """Yield the bytes of a file in pieces of at most a megabyte, decompressed if its name says that it is compressed.

    Raises
    ------
    SnapshotError
        The file is not of that format, is damaged, ends early, or expands to more than text can.
    UsageError
        zstd is not installed.
    """
    if not name.endswith(PACKED):
        yield from _read(content)
        return
    start = _gzip if name.endswith(".gz") else _zstd_decompressor()
    decompressor: Any = None
    read = given = 0
    for piece in _read(content):
        read += len(piece)
        while piece:
            decompressor = decompressor or start()
            try:
                out = decompressor.decompress(piece, _PIECE)
                while out or not (decompressor.eof or _needs_input(decompressor)):
                    given += len(out)
                    if given > most_unpacked(read):
                        raise _refusal(content, f"more than {given} bytes from {read}", "plausible text")
                    yield out
                    rest = b"" if decompressor.eof else getattr(decompressor, "unconsumed_tail", b"")
                    out = b"" if decompressor.eof else decompressor.decompress(rest, _PIECE)
            except SnapshotError:
                raise
            except Exception as error:  # zlib.error, ZstdError
                raise _refusal(content, str(error), f"{name.rpartition('.')[2]} data") from None
            piece = decompressor.unused_data if decompressor.eof else b""  # noqa: PLW2901  (members may follow)
            decompressor = None if decompressor.eof else decompressor
    if decompressor is not None:
        raise _refusal(content, f"an end after {given} bytes", "all of it")


def _needs_input(decompressor: Any) -> bool:
    return bool(getattr(decompressor, "needs_input", not getattr(decompressor, "unconsumed_tail", b"")))


def _read(content: FileBytes) -> Iterator[bytes]:
    position = 0
    while piece := content.read(_PIECE, position):
        position += len(piece)
        yield piece


def _gzip() -> Any:
    return zlib.decompressobj(wbits=31)


def _zstd_decompressor() -> Any:
    try:
        module = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        raise UsageError(
            "zstd needs backports.zstd", expected="the extra 'zstd'", hint="pip install 'embsync[zstd]'"
        ) from None
    return module.ZstdDecompressor


def _refusal(content: FileBytes, found: str, expected: str) -> SnapshotError:
    return SnapshotError("ill-formed compressed file", where=content.where, found=found, expected=expected)
