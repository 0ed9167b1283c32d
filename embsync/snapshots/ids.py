"""Ids in the two forms a store knows: int64, or ``S<n>`` of UTF-8 with n the bytes of the longest."""

from __future__ import annotations

import numpy as np

from embsync.dtypes import Array
from embsync.errors import SnapshotError

#: An id is a name, not a document: one id of a megabyte would make every row of an ``S<n>`` array a megabyte.
LONGEST_ID = 1024
#: Strings looked at in one go, so that checks cost little memory beside the ids themselves.
_STEP = 65_536
_LAST_CODE_POINT = 0x10FFFF


def id_kind(dtype: np.dtype[np.generic], where: str) -> str:
    """Return ``"integer"`` or ``"string"`` for the type ids have in a file, or refuse it."""
    if dtype.kind in "iu":
        return "integer"
    if dtype.kind not in "SU":
        raise SnapshotError(
            "ids of an unusable type",
            where=where,
            found=dtype.name,
            expected="integers or strings",
            hint="save ids.astype('int64') if they are whole numbers, else ids.astype(str)",
        )
    characters = dtype.itemsize // (4 if dtype.kind == "U" else 1)
    if not 0 < characters <= LONGEST_ID:
        raise SnapshotError(
            "ids of an unusable length",
            where=where,
            found=f"{dtype.str}",
            expected=f"strings of 1 to {LONGEST_ID} bytes",
        )
    return "string"


def canonical(raw: Array, where: str) -> Array:
    """Return ids as int64 or as the narrowest ``S<n>`` of UTF-8, read-only and in the same order.

    Parameters
    ----------
    raw : (t,) ndarray of integers, bytes or str

    Raises
    ------
    SnapshotError
        An id does not fit int64, is empty, too long, holds a NUL or is not UTF-8, or ids repeat.
    """
    if id_kind(raw.dtype, where) == "integer":
        ids = _integers(raw, where)
    elif raw.dtype.kind == "U":
        ids = _from_code_points(raw, where)
    else:
        ids = _from_bytes(raw, where)
    _require_unique(ids, where)
    ids.setflags(write=False)
    return ids


def joined(lengths: Array, text: bytes | memoryview, where: str) -> Array:
    """Return the strings that lie end to end in ``text`` as a (t,) ``S<n>`` array, not yet checked as ids."""
    longest = int(lengths.max(initial=1))
    if lengths.min(initial=1) < 1 or longest > LONGEST_ID:
        raise SnapshotError(
            "ids of an unusable length",
            where=where,
            found=f"strings of {int(lengths.min(initial=1))} to {longest} bytes",
            expected=f"1 to {LONGEST_ID} bytes",
        )
    table = np.zeros((len(lengths), longest), np.uint8)
    table[np.arange(longest) < lengths[:, None]] = np.frombuffer(text, np.uint8)
    _refuse_nul_ends(table, lengths, where)
    return table.view(f"S{longest}").reshape(-1)


def _refuse_nul_ends(table: Array, lengths: Array, where: str) -> None:
    # an S<n> array forgets NULs at the end of a string, so they must be seen here
    if (table[np.arange(len(lengths)), lengths - 1] == 0).any():
        raise SnapshotError("a NUL in an id", where=where, expected="text")


def _integers(raw: Array, where: str) -> Array:
    if raw.dtype.kind == "u" and raw.dtype.itemsize == 8 and int(raw.max(initial=0)) > np.iinfo(np.int64).max:
        raise SnapshotError(
            "an id beyond 64-bit signed integers",
            where=where,
            found=int(raw.max()),
            expected=f"at most {np.iinfo(np.int64).max}",
        )
    return raw.astype(np.int64)


def _from_bytes(raw: Array, where: str) -> Array:
    ids = np.ascontiguousarray(raw)
    longest = 0
    for start in range(0, len(ids), _STEP):
        part = ids[start : start + _STEP]
        table = part.view(np.uint8).reshape(len(part), -1)
        filled = table != 0
        if not filled[:, 0].all() or (~filled[:, :-1] & filled[:, 1:]).any():
            row = start + int(np.argmax(~filled[:, 0] | (~filled[:, :-1] & filled[:, 1:]).any(axis=1)))
            raise SnapshotError(
                "an empty id or a NUL in an id", where=where, found=f"{bytes(ids[row])!r} in row {row}", expected="text"
            )
        longest = max(longest, int(filled.sum(axis=1).max()))
        if (table & 0x80).any():
            _require_utf8(part, start, where)
    return ids.astype(f"S{longest}")


def _require_utf8(part: Array, start: int, where: str) -> None:
    values = part.tolist()
    try:
        # a line feed belongs to no longer sequence, so the whole is valid exactly when every id is
        b"\n".join(values).decode("utf-8")
    except UnicodeDecodeError:
        for row, value in enumerate(values, start):
            try:
                value.decode("utf-8")
            except UnicodeDecodeError:
                raise SnapshotError(
                    "an id that is not UTF-8", where=where, found=f"{value[:60]!r} in row {row}", expected="UTF-8"
                ) from None
        raise


def _from_code_points(raw: Array, where: str) -> Array:
    points = np.ascontiguousarray(raw).view(raw.dtype.byteorder + "u4").reshape(len(raw), -1)
    parts = []
    for start in range(0, len(raw), _STEP):
        part = points[start : start + _STEP].astype(np.uint32)
        if (part < 0x80).all():
            parts.append(_from_bytes(part.astype(np.uint8).view(f"S{part.shape[1]}").reshape(-1), where))
            continue
        if (part > _LAST_CODE_POINT).any() or ((part >= 0xD800) & (part <= 0xDFFF)).any():
            raise SnapshotError(
                "an id that is not Unicode",
                where=where,
                found=f"a surrogate or a number above {_LAST_CODE_POINT:#x}",
                expected="text",
            )
        encoded = [text.encode() for text in part.view(f"U{part.shape[1]}").reshape(-1).tolist()]
        if max(map(len, encoded)) > LONGEST_ID:
            raise SnapshotError(
                "an id that is too long",
                where=where,
                found=f"{max(map(len, encoded))} bytes of UTF-8",
                expected=f"at most {LONGEST_ID}",
            )
        parts.append(_from_bytes(np.array(encoded), where))
    return np.concatenate(parts)


def _require_unique(ids: Array, where: str) -> None:
    ordered = np.sort(ids)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated) == 0:
        return
    values = np.unique(repeated)[:5].tolist()
    examples = ", ".join(value.decode() if isinstance(value, bytes) else str(value) for value in values)
    raise SnapshotError(
        "ids repeat",
        where=where,
        found=f"{len(repeated)} repeated rows, among them {examples}",
        expected="each id once",
    )
