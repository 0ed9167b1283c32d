"""``journal.jsonl``: one line per event, such as published, refused, rolled_back or pruned."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import msgspec

from embsync.errors import StoreError
from embsync.store.durable import append_line, storage_errors
from embsync.store.records import MALFORMED, open_record, require_time, timestamp

#: Longest line in bytes: an event has at most about twenty checks of a hundred bytes each.
_LONGEST_LINE = 2**20
#: Twice the longest path on Linux.
_LONGEST_NAME = 8192
#: Longest line that is searched for a flipped bit, in time quadratic in its length: less than a second for this length.
_LONGEST_CORRECTED = 4096
#: The last member of a line: the CRC-32 of everything before it.
_CHECKSUM = re.compile(rb',"crc32":"([0-9a-f]{8})"\}')

#: No store has this many versions; higher numbers are not names of versions.
_Number = Annotated[int, msgspec.Meta(ge=1, lt=10**18)]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the journal; its fields depend on the event.

    Attributes
    ----------
    event : str
        published, refused, failed, rolled_back, pruned, held, resumed, widened, relabelled, pulled.
    snapshot : dict
        name, path, fingerprint, stamp and mtime_ns (of its newest file, as text) of the snapshot concerned.
    checks : list
        Checks that did not pass; after a refusal, all checks.
    error : dict
        Why a snapshot failed; for a published version, what was wrong with the parent's index.
    """

    event: str
    time: str = ""
    version: _Number | None = None
    parent: _Number | None = None
    space_id: str | None = None
    snapshot: dict[str, str | None] | None = None
    checks: list[dict[str, object]] | None = None
    error: dict[str, object] | None = None
    action: str | None = None
    reason: str | None = None
    seconds: float | None = None
    accepted: list[str] | None = None
    recovered: bool = False


@dataclass(frozen=True)
class DamagedLine:
    """A damaged line: its number, counted from 1, what is wrong with it, and its bytes, which may be truncated."""

    number: int
    problem: str
    data: bytes


class NotJournaled(StoreError):
    """A change took effect, but could not be journaled."""


class Journal:
    """The journal file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, event: Event) -> None:
        """Append an event durably, with the current time."""
        append_line(self._path, _sealed(msgspec.json.encode(msgspec.structs.replace(event, time=timestamp()))))

    def record(self, event: Event, effect: str) -> None:
        """Append an event for a change that has taken effect.

        Raises
        ------
        NotJournaled
            The event could not be written; the message says that the change took effect.
        """
        try:
            with storage_errors(self._path):
                self.append(event)
        except StoreError as error:
            raise NotJournaled(
                f"{effect}, but the journal could not be written",
                where=error.where,
                found=error.found or error.what,
                hint="it will be missing from the history; check the store's disk",
            ) from error

    def events(self) -> Iterator[Event]:
        """Yield the events in order, skipping damaged lines; see :meth:`damaged`."""
        return (line for line in self._read() if isinstance(line, Event))

    def damaged(self) -> list[DamagedLine]:
        """Return the damaged lines: torn by a crash, or changed since they were written."""
        return [line for line in self._read() if isinstance(line, DamagedLine)]

    def _read(self) -> Iterator[Event | DamagedLine]:
        decoder, sealed = msgspec.json.Decoder(Event), False
        with storage_errors(self._path):
            for number, line in enumerate(_lines(self._path), 1):
                if line:
                    yield from _parsed(number, line, decoder, sealed=sealed)
                    sealed = sealed or _CHECKSUM.search(line) is not None


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file without line terminators; lines that are too long are truncated."""
    file = open_record(path)
    if file is None:
        return
    with file:
        while line := file.readline(_LONGEST_LINE):
            yield line.removesuffix(b"\n")
            while not line.endswith(b"\n") and (line := file.readline(_LONGEST_LINE)):
                pass


def _sealed(line: bytes) -> bytes:
    """Return a JSON object with its checksum as last member."""
    return line[:-1] + b',"crc32":"%08x"}' % zlib.crc32(line[:-1])


def _parsed(
    number: int, line: bytes, decoder: msgspec.json.Decoder[Event], *, sealed: bool
) -> Iterator[Event | DamagedLine]:
    """Yield the event of a line, its damage, or both if the checksum shows which bit changed.

    If earlier lines have checksums (``sealed``), this one must have one too: only earlier releases wrote none.
    """
    if len(line) >= _LONGEST_LINE:
        yield DamagedLine(number, f"longer than {_LONGEST_LINE:,} bytes", line)
        return
    start = line.rfind(b',"crc32":')
    checksum = None if start < 0 else _CHECKSUM.fullmatch(line, start)  # lines of earlier releases have none
    if checksum is None and sealed:
        yield DamagedLine(number, "without its checksum", line)
        return
    if checksum is not None and int(checksum[1], 16) != zlib.crc32(line[:start]):
        corrected = _corrected(line[:start], int(checksum[1], 16))
        if corrected is None:
            yield DamagedLine(number, "checksum mismatch", line)
            return
        yield DamagedLine(number, "one wrong bit, corrected when read", b"")
        line = corrected + b"}"
    try:
        event = decoder.decode(line)
        _require_sound(event)
    except MALFORMED as error:
        yield DamagedLine(number, str(error)[:120], line)
    else:
        yield event


@lru_cache(16)
def _corrected(line: bytes, checksum: int) -> bytes | None:
    """Return a line with the one bit flipped that makes it match its checksum, or None if there is none.

    CRC-32 locates a single flipped bit in a line of this length. The flipped bit may also be in the checksum itself.
    """
    written, found = b"%08x" % checksum, b"%08x" % zlib.crc32(line)
    wrong = [one ^ other for one, other in zip(written, found, strict=True) if one != other]
    if len(wrong) == 1 and wrong[0].bit_count() == 1:
        return line
    if len(line) > _LONGEST_CORRECTED:
        return None
    changed = bytearray(line)
    for place in range(len(line)):
        for bit in range(8):
            changed[place] ^= 1 << bit
            if zlib.crc32(changed) == checksum:
                return bytes(changed)
            changed[place] ^= 1 << bit
    return None


def _require_sound(event: Event) -> None:
    """Raise ValueError for an event with valid types whose values no writer would have written."""
    snapshot = event.snapshot or {}
    if any("\0" in (value or "") or len(value or "") > _LONGEST_NAME for value in snapshot.values()):
        raise ValueError("an impossible file name or path")
    if event.time:
        require_time(event.time)
    mtime_ns = snapshot.get("mtime_ns")
    if mtime_ns is not None and not re.fullmatch(r"-?[0-9]{1,20}", mtime_ns):
        raise ValueError("mtime_ns is not an integer")
