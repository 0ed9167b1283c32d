"""Ids in their two types, int64 and ``S<n>`` of UTF-8; their stable hash; their positions among other ids.

The hash determines which rows are anchors, which users are sampled, and the fold of a row. It depends on the id alone,
not on order, platform or the itemsize of the array, so that the same ids are chosen every night.
"""

from __future__ import annotations

import contextlib
import re

import numpy as np

from embsync.dtypes import Array, Int64, UInt8, UInt64
from embsync.errors import SnapshotError, UsageError

FOLDS = 10
_HASH_BLOCK = 2**18
_LARGEST = np.iinfo(np.int64).max
#: Bytes of the longest id. Limits memory: in an ``S<n>`` array, every id takes as much as the longest.
LONGEST_ID = 1024
#: Strings checked at once, so that checks take little memory compared with the ids themselves.
_STEP = 65_536
_LAST_CODE_POINT = 0x10FFFF
#: A decimal id in a string: without spaces, underscores or digits of other scripts, which ``int`` would accept.
_DECIMAL = re.compile(r"[+-]?[0-9]{1,19}")


def hash_ids(ids: Array) -> UInt64:
    """Return a 64-bit hash of each id.

    Parameters
    ----------
    ids : (n,) ndarray of int64 or ``S<m>``

    Returns
    -------
    (n,) uint64 ndarray
        The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
        OOPSLA 2014) over the integer, or chained over the string's 8-byte words.
    """
    hashes = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), _HASH_BLOCK):
        part = ids[start : start + _HASH_BLOCK]
        words = part.astype("<i8").view(np.uint64)[:, None] if part.dtype.kind == "i" else _words(part)
        hashes[start : start + len(part)] = _chain(words)
    return hashes


def _words(strings: Array) -> UInt64:
    width = -(-strings.dtype.itemsize // 8) * 8
    padded: UInt64 = strings.astype(f"S{width}").view(np.uint64).reshape(len(strings), -1)
    return padded


def _chain(words: UInt64) -> UInt64:
    """Mix word after word; trailing zero words are ignored, so that padding does not matter."""
    state = _mix(words[:, 0])
    for column in range(1, words.shape[1]):
        remaining = words[:, column:].any(axis=1)
        state = np.where(remaining, _mix(state ^ words[:, column]), state)
    return state


def _mix(value: UInt64) -> UInt64:
    with np.errstate(over="ignore"):
        z = value + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: UInt64 = z ^ (z >> np.uint64(31))
    return mixed


def fold_of(ids: Array) -> UInt8:
    """Return each id's cross-validation fold, 0 to 9, as (n,) uint8."""
    return (hash_ids(ids) % np.uint64(FOLDS)).astype(np.uint8)


def sample(ids: Array, size: int) -> Int64:
    """Return the positions, ascending, of the ``size`` ids with the lowest hashes (all when there are fewer)."""
    if len(ids) <= size:
        return np.arange(len(ids), dtype=np.int64)
    return np.sort(np.argpartition(hash_ids(ids), size - 1)[:size]).astype(np.int64)


def positions_in(ids: Array, sorted_ids: Array) -> Int64:
    """Return the position of each of ``ids`` in ``sorted_ids``, -1 if absent.

    Parameters
    ----------
    ids : (n,) ndarray
    sorted_ids : (m,) ndarray, ascending and unique

    Returns
    -------
    (n,) int64 ndarray
    """
    if len(sorted_ids) == 0 or len(ids) == 0:
        return np.full(len(ids), -1, np.int64)
    places = np.empty(len(ids), np.int64)
    for start in range(0, len(ids), _STEP):
        part, wanted = places[start : start + _STEP], ids[start : start + _STEP]
        np.minimum(np.searchsorted(sorted_ids, wanted), len(sorted_ids) - 1, out=part)
        part[sorted_ids[part] != wanted] = -1
    return places


def require_id_type(dtype: np.dtype[np.generic], where: str) -> None:
    """Raise SnapshotError for ids that are neither integers nor strings."""
    if dtype.kind not in "iuSU":
        raise SnapshotError(
            "ids of an unusable type",
            where=where,
            found=dtype.name,
            expected="integers or strings",
            hint="save ids.astype('int64') if they are whole numbers, else ids.astype(str)",
        )


def id_kind(dtype: np.dtype[np.generic], where: str) -> str:
    """Return ``"integer"`` or ``"string"`` for the type of ids in a file, or refuse it."""
    require_id_type(dtype, where)
    if dtype.kind in "iu":
        return "integer"
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
        An id does not fit int64, is empty, too long, has a NUL or is not UTF-8, or ids repeat.
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
    """Return the strings concatenated in ``text`` as a (t,) ``S<n>`` array, not yet checked as ids."""
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
    # an S<n> array drops trailing NULs of a string, so they must be detected here
    if (table[np.arange(len(lengths)), lengths - 1] == 0).any():
        raise SnapshotError("an id with a NUL", where=where, expected="text")


def _integers(raw: Array, where: str) -> Array:
    if raw.dtype.kind == "u" and raw.dtype.itemsize == 8 and int(raw.max(initial=0)) > _LARGEST:
        raise SnapshotError(
            "an id beyond 64-bit signed integers",
            where=where,
            found=int(raw.max()),
            expected=f"at most {_LARGEST}",
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
                "an empty id or an id with a NUL",
                where=where,
                found=f"{bytes(ids[row])!r} in row {row}",
                expected="text",
            )
        longest = max(longest, int(filled.sum(axis=1).max()))
        if (table & 0x80).any():
            _require_utf8(part, start, where)
    return ids.astype(f"S{longest}")


def _require_utf8(part: Array, start: int, where: str) -> None:
    values = part.tolist()
    try:
        # a line feed is never part of a longer sequence, so the joined text is valid if and only if every id is
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
    # Snapshots are mostly in the order of ids. A stable sort of strings nearly in order takes a third of the time:
    # 21 ms per million. Integers take 5 ms in any order.
    ordered = np.sort(ids, kind=None if ids.dtype.kind == "i" else "stable")
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated) == 0:
        return
    values = np.unique(repeated)[:5].tolist()
    examples = ", ".join(value.decode() if isinstance(value, bytes) else str(value) for value in values)
    raise SnapshotError(
        "repeated ids",
        where=where,
        found=f"{len(repeated)} repeated rows, among them {examples}",
        expected="each id once",
    )


def as_stored(wanted: Array, stored: Array, name: str) -> Array:
    """Return wanted ids in the type of the ``stored`` ones: ``S<n>``, or int64, including from decimal strings.

    Parameters
    ----------
    wanted : (n,) ndarray
    stored : (m,) ndarray of int64 or ``S<n>``
    name : str
        Their name in errors.

    Raises
    ------
    UsageError
        They are of a different type from the stored ones, not valid text, or beyond 64 bits.
    """
    if wanted.ndim != 1:
        raise UsageError(f"{name} are not a list", found=f"{wanted.ndim} dimensions", expected="1")
    if wanted.size == 0:
        return np.empty(0, stored.dtype)
    kind = wanted.dtype.kind
    if stored.dtype.kind == "S":
        if kind not in "US":
            raise UsageError(f"{name} of the wrong type", found=str(wanted.dtype), expected="strings")
        return _encoded(wanted, name) if kind == "U" else wanted
    if kind in "US":
        return _parsed(wanted, name)
    if kind not in "iu":
        raise UsageError(f"{name} of the wrong type", found=str(wanted.dtype), expected="integers")
    # No stored id is beyond int64: such an id is unknown, and must not wrap around.
    if kind == "u" and (wanted > _LARGEST).any():
        raise UsageError(
            f"{name} must be signed 64-bit integers", found=str(wanted.max()), expected=f"at most {_LARGEST}"
        )
    return wanted.astype(np.int64)


def _encoded(wanted: Array, name: str) -> Array:
    with contextlib.suppress(UnicodeEncodeError):
        return wanted.astype("S")  # faster for ASCII, which most ids are
    try:
        return np.asarray(np.char.encode(wanted, "utf-8"))
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} must be text", found=ascii(error.object), expected="valid Unicode") from None


def _parsed(wanted: Array, name: str) -> Int64:
    texts = wanted.tolist()
    for text in texts:
        if not _DECIMAL.fullmatch(text if isinstance(text, str) else text.decode("latin-1")):
            raise UsageError(f"{name} must be 64-bit integers in this store", found=repr(text), expected="integers")
    try:
        return np.array([int(text) for text in texts], np.int64)
    except OverflowError:
        raise UsageError(
            f"{name} must be 64-bit integers in this store", found="a larger number", expected=f"at most {_LARGEST}"
        ) from None
