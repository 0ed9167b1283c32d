"""Encode values of Arrow arrays for the pipe to the parent: vectors, ids, weights and labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embsync.decoder.limits import Message, Unusable

_DENSE, _SPARSE = 1, 0
_TILE = 256
_BLANKS, _OPENING, _CLOSING = " \t\r\n", "[({", "])}"


def width_of(arrays: Sequence[Any]) -> int:
    """Return the number of values in the first row."""
    if len(arrays) > 1:
        return len(arrays)
    (batch,) = arrays
    if not batch[0].is_valid:
        raise Unusable("a row without a vector", "null in row 0")
    if pa.types.is_fixed_size_list(batch.type):
        return int(batch.type.list_size)
    if pa.types.is_struct(batch.type):
        first = batch[0].as_py()
        if first["type"] == _SPARSE and first["size"] is not None:
            return int(first["size"])
        if first["type"] == _DENSE and first["values"] is not None:
            return len(first["values"])
        raise Unusable("a vector that is neither dense nor sparse", "row 0", "type 1 and values, or type 0 and size")
    return len(_lists(batch[:1])[0])


def vectors(arrays: Sequence[Any], width: int, start: int) -> memoryview:
    """Return the rows of one column of lists, or of one column per dimension, C-contiguous."""
    if len(arrays) > 1:
        return _interleaved(arrays, start)
    (batch,) = arrays
    if batch.null_count:
        raise Unusable("a row without a vector", f"null in row {start + _first_null(batch)}")
    if pa.types.is_struct(batch.type):
        return _ml_vectors(batch, width, start)
    batch = _lists(batch)
    if pa.types.is_fixed_size_list(batch.type):
        if batch.type.list_size != width:
            raise Unusable("vectors of different widths", batch.type.list_size, width)
    else:
        offsets = batch.offsets.to_numpy()
        widths = offsets[1:] - offsets[:-1]
        if (widths != width).any():
            row = int((widths != width).argmax())
            raise Unusable("vectors of different widths", f"{widths[row]} numbers in row {start + row}", width)
    values = batch.flatten()
    if values.null_count:
        raise Unusable("a vector with missing values", f"null in row {start + _first_null(values) // width}")
    return memoryview(_numbers(values)).cast("B")


def integers(batch: Any, _: Message, start: int) -> list[Any]:
    """Return ids as int64."""
    largest = pc.max(batch).as_py() if pa.types.is_uint64(batch.type) else None
    if largest is not None and largest >= 2**63:
        raise Unusable("an id beyond 64-bit signed integers", largest, f"at most {2**63 - 1}")
    return [_numbers(_cast(batch, pa.int64(), start))]


def weights(batch: Any, _: Message, start: int) -> list[Any]:
    """Return weights as float64."""
    return [_numbers(_cast(batch, pa.float64(), start))]


def strings(batch: Any, wanted: Message, start: int) -> list[Any]:
    """Return the lengths of strings in bytes as int32, and their concatenated bytes."""
    texts = _cast(batch, pa.large_string(), start)
    offsets = np.frombuffer(texts.buffers()[1], "i8", len(texts) + 1, texts.offset * 8)
    lengths = offsets[1:] - offsets[:-1]
    if len(lengths) and (lengths.min() < 1 or lengths.max() > wanted["longest"]):
        row = int(((lengths < 1) | (lengths > wanted["longest"])).argmax())
        raise Unusable(
            "an id of an unusable length",
            f"{lengths[row]} bytes in row {start + row}",
            f"1 to {wanted['longest']} bytes",
        )
    return [lengths.astype("<i4"), memoryview(texts.buffers()[2] or b"")[int(offsets[0]) : int(offsets[-1])]]


def labels(batch: Any, wanted: Message, start: int) -> list[Any]:
    """Return the kind of a batch of labels and its values as JSON."""
    if pa.types.is_dictionary(batch.type):
        batch = batch.cast(batch.type.value_type)
    kind = _label_kind(batch.type)
    if kind == "integer":
        batch = _integers(batch, start)
    elif kind == "float":
        batch = batch.cast(pa.float64())
    values = batch.to_pylist()
    if kind == "strings":
        values = [None if one is None else [word for word in one if word is not None] for one in values]
    for row, one in enumerate(values):
        words = one if kind == "strings" and one else [one] if kind == "string" and one else ()
        if max(map(len, words), default=0) > wanted["longest"]:
            raise Unusable("a label that is too long", f"row {start + row}", f"at most {wanted['longest']} characters")
    return [json.dumps([kind, values]).encode()]


def _integers(batch: Any, start: int) -> Any:
    """Return a batch as int64; refuse -2^63, which represents null."""
    expected = "above -2^63 and below 2^63"
    try:
        batch = batch.cast(pa.int64())
    except pa.ArrowInvalid:
        raise Unusable("an integer label out of range", f"2^63 or more after row {start}", expected) from None
    lowest = batch.index(pa.scalar(-(2**63), pa.int64())).as_py()
    if lowest >= 0:
        raise Unusable("an integer label out of range", f"-2^63 in row {start + lowest}", expected)
    return batch


def _label_kind(kind: Any) -> str | None:
    types = pa.types
    if types.is_null(kind):
        return None
    if types.is_boolean(kind):
        return "boolean"
    if types.is_integer(kind):
        return "integer"
    if types.is_floating(kind) or types.is_decimal(kind):
        return "float"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    if (types.is_list(kind) or types.is_large_list(kind)) and _label_kind(kind.value_type) == "string":
        return "strings"
    shown = str(kind)[:40].encode("ascii", "replace").decode()
    raise Unusable(
        "a label of a type that is not read", shown, "strings, integers, floats, booleans or lists of strings"
    )


def _interleaved(arrays: Sequence[Any], start: int) -> memoryview:
    for column in arrays:
        if column.null_count:
            raise Unusable("a vector with missing values", f"null in row {start + _first_null(column)}")
    columns = [_numbers(column) for column in arrays]
    rows = np.empty((len(columns[0]), len(columns)), columns[0].dtype)
    for begin in range(0, len(rows), _TILE):  # rows that fit into the processor's cache while they are interleaved
        some = slice(begin, begin + _TILE)
        for number, column in enumerate(columns):
            rows[some, number] = column[some]
    return rows.reshape(-1).view(np.uint8).data


def _lists(batch: Any) -> Any:
    """Return lists; those in text (``[0.1, 0.2]``, ``0.1 0.2``) as float32."""
    types = pa.types
    if types.is_dictionary(batch.type) and not types.is_nested(batch.type.value_type):
        batch = batch.cast(batch.type.value_type)
    if not (types.is_string(batch.type) or types.is_large_string(batch.type) or types.is_string_view(batch.type)):
        return batch
    text = pc.utf8_trim(batch.cast(pa.large_string()), _BLANKS)
    opened, closed = (pc.match_substring_regex(text, pattern) for pattern in (r"^[\[({]", r"[\])}]$"))
    if not opened.equals(closed):
        raise Unusable("a truncated vector", "only one of two brackets", "numbers, such as [0.1, 0.2]")
    text = pc.utf8_trim(text, _BLANKS + _OPENING + _CLOSING)
    commas = len(text) and "," in text[0].as_py()
    parts = pc.split_pattern(text, ",") if commas else pc.utf8_split_whitespace(text)
    words = pc.utf8_trim_whitespace(parts.flatten())
    try:
        numbers = words.cast(pa.float32())
    except pa.ArrowInvalid as error:
        raise Unusable("not a number", error, "numbers, such as [0.1, 0.2]") from None
    return pa.LargeListArray.from_arrays(parts.offsets.cast(pa.int64()), numbers)


def _ml_vectors(batch: Any, width: int, start: int) -> memoryview:
    """Return Spark's vectors: dense ones unchanged, sparse ones with zeros filled in."""
    fields = {field.name: array for field, array in zip(batch.type, batch.flatten(), strict=True)}
    kinds = np.asarray(fields["type"].fill_null(-1))
    dense = kinds == _DENSE
    if (~dense & (kinds != _SPARSE)).any():
        raise Unusable("a vector that is neither dense nor sparse", f"in rows from {start}", "type 1 or type 0")
    lengths, places = (
        np.asarray(fields[name].value_lengths().fill_null(0)).astype(np.int64) for name in ("values", "indices")
    )
    sizes = np.where(dense, lengths, np.asarray(fields["size"].fill_null(-1)))
    if (sizes != width).any():
        row = int((sizes != width).argmax())
        raise Unusable("vectors of different widths", f"{sizes[row]} numbers in row {start + row}", width)
    if (places[~dense] != lengths[~dense]).any() or fields["values"].null_count:
        raise Unusable("an ill-formed sparse vector", f"in rows from {start}", "an index for each value")
    values = fields["values"].flatten()
    if values.null_count:
        raise Unusable("a vector with missing values", f"in rows from {start}")
    if dense.all():
        return np.ascontiguousarray(values, np.float64).view(np.uint8).data
    rows = np.repeat(np.arange(len(batch)), lengths)
    columns = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    indices = np.asarray(fields["indices"].filter(pa.array(~dense)).flatten())
    columns[~dense[rows]] = indices
    if len(columns) and (columns.min() < 0 or columns.max() >= width):
        raise Unusable("an index outside its vector", f"in rows from {start}", f"0 to {width - 1}")
    if ((np.diff(columns) <= 0) & (np.diff(rows) == 0)).any():
        raise Unusable("an ill-formed sparse vector", f"in rows from {start}", "ascending indices, each once")
    out = np.zeros((len(batch), width))
    out[rows, columns] = np.asarray(values)
    return out.reshape(-1).view(np.uint8).data


def _cast(batch: Any, kind: Any, start: int) -> Any:
    if batch.null_count:
        raise Unusable("a missing id or weight", f"null in row {start + _first_null(batch)}")
    return batch.cast(kind)


def _first_null(values: Any) -> int:
    return int(values.is_null().to_numpy(zero_copy_only=False).argmax())


def _numbers(values: Any) -> Any:
    return values.to_numpy(zero_copy_only=True)
