"""Shared memory that a decoder writes and this process reads: columns are copied out, vectors are used in place.

It is anonymous and sealed against changes of its size, so that the decoder cannot make a mapped page disappear. A
block of vectors is a view: its slot is reused only when the block is no longer referenced.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from embsync.dtypes import Array
from embsync.errors import SnapshotChanged, SnapshotError
from embsync.snapshots.decoder_process import DecoderProcess, Message
from embsync.snapshots.files import FileBytes, Place

#: Slots lent to the decoder, which decodes the next batches while one is being read.
_AHEAD = 4
#: Slots in all. Memory is allocated only for those in use, and the slot returned last is used first; a caller that
#: holds more blocks than this gets copies.
_MOST_SLOTS = 64


@contextmanager
def shared_memory(where: str) -> Iterator[FileBytes]:
    """Create memory that a decoder can write and this process reads by position."""
    with os.fdopen(os.memfd_create("embsync-decoder"), "rb", buffering=0) as file:
        yield FileBytes(file, where)


class BlockMemory:
    """Slots of one block each, mapped here.

    Parameters
    ----------
    file : open file of the memory
    shape : (int, int)
        Rows and numbers of a full block.
    dtype : numpy dtype
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._shape = shape
        self._dtype = dtype
        exact = shape[0] * shape[1] * dtype.itemsize
        self.slot_bytes = -(-exact // mmap.PAGESIZE) * mmap.PAGESIZE
        self.file = file
        self._map = mmap.mmap(file.fileno(), _MOST_SLOTS * self.slot_bytes, prot=mmap.PROT_READ)
        self._free = list(range(_MOST_SLOTS - 1, _AHEAD - 1, -1))
        self.lent = list(range(_AHEAD))

    @classmethod
    @contextmanager
    def make(cls, shape: tuple[int, int], dtype: np.dtype[Any]) -> Iterator[BlockMemory]:
        """Create memory for blocks; views of it may outlive this context."""
        handle = os.memfd_create("embsync-decoder", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(handle, "r+b", buffering=0) as file:
            exact = shape[0] * shape[1] * dtype.itemsize
            os.ftruncate(handle, _MOST_SLOTS * (-(-exact // mmap.PAGESIZE) * mmap.PAGESIZE))
            fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            yield cls(file, shape, dtype)

    def take(self, slot: int, rows: int) -> tuple[Array, int]:
        """Return the block in a slot that was lent, read-only, and the slot to lend instead."""
        numbers = np.frombuffer(self._map, self._dtype, rows * self._shape[1], slot * self.slot_bytes)
        try:
            instead = self._free.pop()
        except IndexError:  # too many blocks are referenced
            copied = numbers.copy()
            copied.setflags(write=False)
            return copied.reshape(rows, -1), slot
        weakref.finalize(numbers, self._free.append, slot).atexit = False
        return numbers.reshape(rows, -1), instead


def read_column(
    decoder: DecoderProcess, place: Place, memory: FileBytes, wanted: Message, expected: Message, total: int
) -> Iterator[tuple[int, int]]:
    """Decode a column of ids or weights, and yield (offset in ``memory``, rows) of each batch.

    A batch is overwritten soon after the next one is asked for.

    Parameters
    ----------
    wanted : dict
        ``form``, ``columns``, ``as``, ``batch`` (rows), ``slot_bytes``, and keys specific to the kind of value.
    expected : dict
        The head of the reply, ``rows``, ``name`` and ``kind``, as when the file was described.
    total : int
        Number of rows, which is missing in the head for a text file.
    """
    where = str(place)
    with place.open() as file:
        head = decoder.ask(where, "read", wanted | {"slots": _AHEAD}, file.fileno(), memory.file.fileno())
    _require_same(head, expected, where)
    done = 0
    while "end" not in (message := decoder.answer(where)):
        slot, rows = int(message["slot"]), int(message["rows"])
        if not (0 <= slot < _AHEAD and 0 <= rows <= wanted["batch"] and done + rows <= total):
            raise _other_rows(where, done + rows, total, expected)
        yield slot * wanted["slot_bytes"], rows
        done += rows
        decoder.free(where, slot)
    if done != total:
        raise _other_rows(where, done, total, expected)


def stream_blocks(
    decoder: DecoderProcess, parts: Iterator[tuple[Place, Message, Message, int]], memory: BlockMemory, wanted: Message
) -> Iterator[Array]:
    """Decode a column of vectors, file after file, and yield full blocks and a shorter last one.

    Parameters
    ----------
    parts : iterator of (file, wanted, expected, total)
        ``form`` and ``columns`` of this file, the head of the reply, and the number of rows, as when the file was
        described.
    wanted : dict
        ``width`` and ``batch`` (rows of a block).
    """
    filled = 0
    for place, inside, expected, total in parts:
        where = str(place)
        asked = wanted | inside | {"slots": memory.lent, "filled": filled, "slot_bytes": memory.slot_bytes}
        with place.open() as file:
            head = decoder.ask(where, "stream", asked, file.fileno(), memory.file.fileno())
        _require_same(head, expected, where)
        blocks_left = (filled + total) // wanted["batch"]
        while "end" not in (message := decoder.answer(where)):
            slot = message["slot"]
            if slot not in memory.lent or blocks_left == 0:
                raise _other_rows(where, "more", total, expected)
            block, instead = memory.take(slot, wanted["batch"])
            memory.lent[memory.lent.index(slot)] = instead
            blocks_left -= 1
            yield block
            del block
            decoder.free(where, instead)
        if message["end"] != total or sorted(message["slots"]) != sorted(memory.lent):
            raise _other_rows(where, message["end"], total, expected)
        filled = (filled + total) % wanted["batch"]
        memory.lent = message["slots"]
    if filled:
        yield memory.take(memory.lent[0], filled)[0]


def _require_same(head: Message, expected: Message, where: str) -> None:
    if head != expected:
        raise SnapshotChanged("changed while it was read", where=where, found=head, expected=expected)


def _other_rows(where: str, found: object, total: int, expected: Message) -> SnapshotError:
    if expected["rows"] is None:  # a text file, whose rows were counted before
        return SnapshotChanged("changed while it was read", where=where, found=f"{found} rows", expected=total)
    return SnapshotError("malformed table", where=where, found=f"{found} rows", expected=f"{total}, as it says itself")
