"""Rows that a decoder writes to a pipe: columns are read batch by batch, vectors directly into the blocks.

Every part file has a pipe of its own, whose write end is open only in the decoder. One message precedes the rows and
one follows them; the rows are accepted only within the limits of the file's description.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import numpy as np

from embsync.dtypes import Array
from embsync.errors import SnapshotChanged, SnapshotError
from embsync.snapshots.decoder_process import DecoderProcess, Message
from embsync.snapshots.files import Place

#: The largest pipe without privileges (/proc/sys/fs/pipe-max-size), for fewer switches between the processes.
_PIPE_BYTES = 2**20
#: The header of a batch of a column: its numbers of rows and bytes.
_BATCH = struct.Struct("<IQ")


class RowPipe:
    """The rows of one file, as a decoder writes them.

    Parameters
    ----------
    decoder : DecoderProcess
    pipe : open file
        The read end.
    where : str
        The file.
    expected : dict
        The head of the reply, ``rows``, ``name`` and ``kind``, as when the file was described.
    total : int
        Number of rows, which the head does not have for a text file.
    """

    def __init__(self, decoder: DecoderProcess, pipe: BinaryIO, where: str, expected: Message, total: int) -> None:
        self._decoder = decoder
        self._pipe = pipe
        self._where = where
        self._expected = expected
        self._total = total
        self.rows_left = total

    @classmethod
    @contextmanager
    def of(
        cls, decoder: DecoderProcess, place: Place, verb: str, wanted: Message, expected: Message, total: int
    ) -> Iterator[RowPipe]:
        """Request the rows of a file, all of which must be read in this context."""
        where = str(place)
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            with os.fdopen(writing, "wb", buffering=0), place.open() as file:
                with suppress(OSError):  # the user's limit for all pipes is reached: a smaller pipe is only slower
                    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
                head = decoder.ask(where, verb, wanted, file.fileno(), writing)
            if head != expected:
                raise SnapshotChanged("changed while it was read", where=where, found=head, expected=expected)
            rows = cls(decoder, pipe, where, expected, total)
            yield rows
            rows._require_end()

    def fill(self, rows: Array) -> None:
        """Fill a C-contiguous array with the next rows."""
        got = self._receive(rows)
        self.rows_left -= got * len(rows) // rows.nbytes
        if got < rows.nbytes:
            raise self._ended_early()

    def batches(self, most_rows: int, most_bytes: int) -> Iterator[tuple[int, Array]]:
        """Yield the rows and the bytes, as uint8, of each batch of a column."""
        head = np.empty(_BATCH.size, np.uint8)
        while got := self._receive(head):
            rows, size = _BATCH.unpack(head.data) if got == len(head) else (0, 0)
            if not (0 < rows <= most_rows and size <= most_bytes and rows <= self.rows_left):
                raise self._other_rows(self._total - self.rows_left + rows)
            data = np.empty(size, np.uint8)
            if self._receive(data) < size:
                raise self._ended_early()
            self.rows_left -= rows
            yield rows, data

    def _receive(self, target: Array) -> int:
        return self._decoder.receive(self._where, self._pipe, target.reshape(-1).view(np.uint8).data)

    def _require_end(self) -> None:
        if self._receive(np.empty(1, np.uint8)):
            raise self._other_rows("more")
        if self.rows_left:
            raise self._ended_early()
        end = self._decoder.answer(self._where).get("end")
        if end != self._total:
            raise self._other_rows(end)

    def _ended_early(self) -> SnapshotError:
        self._decoder.answer(self._where)  # raises the decoder's refusal, or describes its end
        return self._other_rows(self._total - self.rows_left)

    def _other_rows(self, found: object) -> SnapshotError:
        if self._expected["rows"] is None:  # a text file, whose rows were counted before
            return SnapshotChanged(
                "changed while it was read", where=self._where, found=f"{found} rows", expected=self._total
            )
        return SnapshotError(
            "malformed table", where=self._where, found=f"{found} rows", expected=f"{self._total} by its metadata"
        )


def read_column(
    decoder: DecoderProcess, place: Place, wanted: Message, expected: Message, total: int
) -> Iterator[tuple[int, Array]]:
    """Decode a column of ids, weights or labels, and yield the rows and the bytes of each batch.

    Parameters
    ----------
    wanted : dict
        ``form``, ``columns``, ``as``, ``batch`` (rows), ``most_bytes``, and keys specific to the kind of value.
    expected, total
        As for :class:`RowPipe`.
    """
    with RowPipe.of(decoder, place, "read", wanted, expected, total) as rows:
        yield from rows.batches(wanted["batch"], wanted["most_bytes"])


def read_blocks(
    decoder: DecoderProcess,
    parts: Iterator[tuple[Place, Message, Message, int]],
    shape: tuple[int, int],
    dtype: np.dtype[Any],
) -> Iterator[Array]:
    """Decode a column of vectors, file after file, and yield read-only blocks; the last one may be shorter.

    Parameters
    ----------
    parts : iterator of (file, wanted, expected, total)
        ``form`` and ``columns`` of this file, and as for :class:`RowPipe`.
    shape : (int, int)
        Rows and numbers of a block.
    """
    block, filled = np.empty(shape, dtype), 0
    # a batch that fits into the pipe: the decoder prepares the next batch while this one is read
    fitting = min(shape[0], max(1, _PIPE_BYTES * shape[0] // block.nbytes))
    for place, inside, expected, total in parts:
        # with one column per dimension, each batch has a cost per column: entire blocks take half the time
        batch = fitting if len(inside["columns"]) == 1 else shape[0]
        wanted = inside | {"batch": batch, "width": shape[1]}
        with RowPipe.of(decoder, place, "stream", wanted, expected, total) as rows:
            while rows.rows_left:
                some = block[filled : filled + rows.rows_left]
                rows.fill(some)
                filled += len(some)
                if filled == len(block):
                    yield _read_only(block)
                    block, filled = np.empty(shape, dtype), 0
    if filled:
        yield _read_only(block[:filled])


def _read_only(block: Array) -> Array:
    block.setflags(write=False)
    return block
