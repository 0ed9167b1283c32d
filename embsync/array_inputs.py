"""Arrays from callers: NumPy, pandas, Arrow, PyTorch, and anything else with ``__array__`` or DLPack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embsync.dtypes import Array
from embsync.errors import SnapshotError
from embsync.ids import require_id_type


def as_matrix(value: Any, name: str) -> tuple[Array, Array | None]:
    """Return vectors as a matrix of floats, and the ids of a pandas index.

    Parameters
    ----------
    value : array, pandas.DataFrame, pandas.Series of vectors, Arrow array of lists, tensor or nested sequence
    name : str
        Its name in errors.

    Returns
    -------
    (t, e) ndarray
        Not copied unless necessary; bfloat16 becomes float32, which is exact.
    (t,) ndarray or None
        The index of a pandas object, unless it is the row numbers.

    Raises
    ------
    SnapshotError
        It is not a matrix of numbers.
    """
    ids = None
    if _is_pandas(value):
        index = value.index
        ids = None if _counts_rows(index) else as_ids(index, f"index of {name}")
        value = value.to_numpy()
    elif _is_arrow(value):
        value = _of_arrow(value, name)
    matrix = _as_array(value, name)
    if matrix.dtype == object:
        matrix = _stacked(matrix, name)
    if matrix.dtype.name == "bfloat16":  # the type of ml_dtypes, which JAX uses
        matrix = matrix.astype(np.float32)
    return matrix, ids


def as_ids(value: Any, name: str) -> Array:
    """Return ids as an array of integers, bytes or text.

    Parameters
    ----------
    value : array, pandas.Series or Index, Arrow array or sequence
        Integers or strings of any kind: object arrays and NumPy's and pandas' string types as well.
    name : str
        Their name in errors.

    Returns
    -------
    (t,) ndarray of kind ``i``, ``u``, ``S`` or ``U``

    Raises
    ------
    SnapshotError
        They are of several types, or of an unusable one.
    """
    if _is_pandas(value) or (hasattr(value, "to_numpy") and hasattr(value, "dtype")):
        value = value.to_numpy()
    elif _is_arrow(value):
        value = value.to_numpy(zero_copy_only=False) if not hasattr(value, "chunks") else value.to_numpy()
    ids = _as_array(_objects(value), name)
    if ids.dtype.kind in "OT" and ids.ndim == 1:
        ids = _of_objects(ids, name)
    if ids.ndim != 1:
        raise SnapshotError("not one value per row", where=name, found=f"shape {ids.shape}", expected="one dimension")
    require_id_type(ids.dtype, name)
    return ids


def as_weights(value: Any, name: str) -> Array:
    """Return weights of any accepted type as an array.

    Raises
    ------
    SnapshotError
        They are not an array.
    """
    return _as_array(value, name)


def _is_pandas(value: Any) -> bool:
    return hasattr(value, "to_numpy") and hasattr(value, "index") and not callable(value.index)


def _is_arrow(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "pyarrow"


def _counts_rows(index: Any) -> bool:
    return type(index).__name__ == "RangeIndex" and (index.start, index.step) == (0, 1)


def _of_arrow(value: Any, name: str) -> Array:
    lists = value.combine_chunks() if hasattr(value, "combine_chunks") else value
    if not hasattr(lists, "flatten") or hasattr(lists, "column_names"):
        raise SnapshotError(
            f"{name} is not a matrix of vectors",
            found=f"pyarrow {type(value).__name__}",
            expected="a column of lists",
            hint='table["embedding"], with its ids in table["id"]',
        )
    flat = lists.flatten()
    lengths = np.unique(
        [len(flat) // max(len(lists), 1)] if hasattr(lists.type, "list_size") else lists.value_lengths()
    )
    if lists.null_count or flat.null_count or len(lengths) > 1:
        raise SnapshotError(
            f"{name}: vectors of different widths, or with missing values", expected="equal widths and no nulls"
        )
    return flat.to_numpy(zero_copy_only=False).reshape(len(lists), -1)  # type: ignore[no-any-return]


def _as_array(value: Any, name: str) -> Array:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise SnapshotError(f"{name}: masked values", found=int(np.ma.getmaskarray(value).sum()), expected="none")
    if hasattr(value, "toarray"):
        raise SnapshotError(
            f"{name} is a sparse matrix", found=type(value).__name__, expected="a dense one", hint=f"{name}.toarray()"
        )
    if not isinstance(value, np.ndarray) and hasattr(value, "detach"):  # a tensor with gradients, or on a GPU
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    try:
        if not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (ValueError, TypeError, BufferError, RuntimeError) as error:
        raise SnapshotError(
            f"{name} is not an array", found=f"{type(value).__name__}: {error}"[:200], expected="an array of numbers"
        ) from None


def _stacked(matrix: Array, name: str) -> Array:
    """Return an array of vectors, or of numbers stored as objects, as a matrix."""
    try:
        rows = [np.asarray(row) for row in matrix] if matrix.ndim == 1 else matrix.tolist()
        stacked = np.stack(rows) if matrix.ndim == 1 else np.array(rows)
        if stacked.dtype.kind in "fiu" and stacked.ndim == 2:
            return stacked
    except (ValueError, TypeError):
        pass
    raise SnapshotError(
        f"{name} is not a matrix of vectors",
        found=f"{matrix.dtype} of shape {matrix.shape}",
        expected="floats, all rows of one width",
        hint="numpy.stack(vectors).astype('float32')",
    )


def _objects(value: Any) -> Any:
    """Return a sequence of strings as an array of objects: NumPy would convert mixed types to text."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        found = np.empty(len(value), object)
        found[:] = value
        return found
    return value


def _of_objects(ids: Array, name: str) -> Array:
    values = ids.tolist()
    kinds = {type(value) for value in values}
    if kinds <= {str, np.str_}:
        return np.array([_encoded(value, row, name) for row, value in enumerate(values)] or [b""])[: len(values)]
    if kinds <= {bytes, np.bytes_}:
        return np.array(values)
    if all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in values):
        return _of_integers(values, name)
    first = next(iter(kinds - {str, int, np.str_, np.int64}), None)
    shown = ", ".join(sorted(kind.__name__ for kind in kinds))
    row = next((row for row, value in enumerate(values) if type(value) is first), 0)
    raise SnapshotError(
        f"{name} are not ids of one type",
        found=f"{shown}, such as {values[row]!r} in row {row}"[:200],
        expected="integers, or strings",
        hint="[str(value) for value in ids]",
    )


def _of_integers(values: list[int], name: str) -> Array:
    try:
        return np.array(values, np.int64)
    except OverflowError:
        beyond = next(value for value in values if not -(2**63) <= value < 2**63)
        raise SnapshotError(
            f"{name}: an id beyond 64-bit signed integers", found=beyond, expected=f"at most {2**63 - 1}"
        ) from None


def _encoded(text: str, row: int, name: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or encoded.endswith(b"\0"):
        raise SnapshotError(f"{name}: an empty id, an id with a NUL, or not text", found=f"{text[:60]!r} in row {row}")
    return encoded
