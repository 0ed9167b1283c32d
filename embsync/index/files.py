"""FAISS index files: written in chunks, read or memory-mapped; damaged ones are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embsync.errors import StoreError
from embsync.file_hashes import hash_file
from embsync.index.library import faiss
from embsync.invocation import command, store_of

#: Bytes passed to a writer at once: large enough that hashing dominates, small compared with any index.
CHUNK_BYTES = 1 << 20
#: The C++ signature and source line that precede the message of a FAISS exception.
_SIGNATURE = re.compile(r"Error in .*? at \S+:\d+: ", re.DOTALL)
#: Exceptions of FAISS and its wrapper for a malformed file.
_UNREADABLE = (RuntimeError, MemoryError, ValueError, OverflowError, IndexError)


def stream_index(index: Any, write: Callable[[bytes], object]) -> None:
    """Serialize ``index`` through ``write``; exceptions of ``write`` propagate unchanged."""
    failure: list[BaseException] = []

    def receive(chunk: bytes) -> int:
        if failure:
            return 0
        try:
            write(chunk)
        except BaseException as error:
            failure.append(error)
            return 0
        return len(chunk)

    try:
        faiss.write_index(index, faiss.PyCallbackIOWriter(receive, CHUNK_BYTES))
    except RuntimeError as error:
        if not failure:
            raise StoreError("the index cannot be serialized", found=faiss_sentence(error)) from error
    if failure:
        raise failure[0]


def read_index(path: Path, *, mapped: bool) -> Any:
    """Return the index in ``path``, memory-mapped if FAISS can map it, otherwise read into memory.

    Raises
    ------
    StoreError
        The file is missing, truncated or not a FAISS index.
    """
    if not path.is_file():
        raise StoreError("the index is missing", where=path)
    try:
        if mapped:
            try:
                return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
            except _UNREADABLE:  # not every index type can be mapped
                return faiss.read_index(str(path))
        return faiss.read_index(str(path))
    except _UNREADABLE as error:
        raise StoreError(
            "not a readable FAISS index",
            where=path,
            found=faiss_sentence(error),
            hint=command("rollback", purpose="to return to an intact version", store=store_of(path)),
        ) from error


def reject_newer_faiss(written_by: str, where: Path) -> None:
    """Raise StoreError for an index written by a newer FAISS: newer releases load old files, but not the reverse."""
    if _version(written_by) > _version(faiss.__version__):
        raise StoreError(
            "the index was written by a newer FAISS than the installed one",
            where=where,
            found=f"FAISS {written_by}",
            expected=f"at most {faiss.__version__}",
            hint="upgrade faiss-cpu on this host",
        )


def reject_damage(path: Path, sha256: str) -> None:
    """Raise StoreError unless the file's SHA-256 is ``sha256``: FAISS loads many damaged files without an error."""
    try:
        if not path.is_file():
            raise StoreError("the index is missing", where=path)
        _, found = hash_file(path)
    except OSError as error:
        raise StoreError("the index cannot be read", where=path, found=error.strerror) from error
    if found != sha256:
        raise StoreError("hash mismatch", where=path, found=f"sha256 {found}", expected=sha256)


def faiss_sentence(error: BaseException) -> str:
    """Return the message of a FAISS exception without the C++ signature and source line that precede it."""
    text = str(error) or type(error).__name__
    said = _SIGNATURE.sub("", text, count=1)
    return said.rsplit("failed: ", 1)[-1].rsplit("Error: ", 1)[-1].strip() or text


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
