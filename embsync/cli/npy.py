"""Arrays that commands read and write: ``.npy`` files, validated as strictly as those of a snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from embsync.dtypes import Array
from embsync.errors import NotFoundError, SnapshotError, UsageError
from embsync.file_kinds import file_kind
from embsync.numpy_header import LONGEST_HEADER, parse_header


def read_vectors(path: Path) -> Array:
    """Return the vectors of a file, one or several, memory-mapped.

    Raises
    ------
    NotFoundError
        The file does not exist.
    UsageError
        It is not a ``.npy`` file, does not hold numbers in one or two dimensions, or has NaN or infinity (in float32).
    """
    array = _mapped(path)
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2):
        raise UsageError(
            "not vectors",
            where=path,
            found=f"{array.dtype}, shape {array.shape}",
            expected="numbers, one vector or a matrix of them",
        )
    rows = np.atleast_2d(array)
    invalid = np.flatnonzero(~(np.abs(rows) <= np.finfo(np.float32).max).all(axis=1))
    if len(invalid):
        more = f" and {len(invalid) - 1} more rows" if len(invalid) > 1 else ""
        raise UsageError(
            "NaN or infinity in float32", where=path, found=f"in row {invalid[0]}{more}", expected="finite numbers"
        )
    return rows


def read_ids(path: Path, dimensions: tuple[int, ...] = (1,)) -> Array:
    """Return the ids of a file: integers or strings.

    Raises
    ------
    NotFoundError
        The file does not exist.
    UsageError
        It is not a ``.npy`` file, or does not hold ids in one of these numbers of dimensions.
    """
    array = _mapped(path)
    if array.dtype.kind not in "iuUS" or array.ndim not in dimensions:
        raise UsageError(
            "not ids",
            where=path,
            found=f"{array.dtype}, shape {array.shape}",
            expected=f"integers or strings, dimensions: {' or '.join(map(str, dimensions))}",
        )
    return array


def read_filter(path: Path) -> Any:
    """Return the ids of an ``.npy`` or ``.json`` file: a list of them, or a list (or null) for each query.

    Raises
    ------
    NotFoundError
        The file does not exist.
    UsageError
        It does not hold such a list.
    """
    if path.suffix != ".json":
        return read_ids(path, (1, 2))
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[int | str | list[int | str] | None])
    except FileNotFoundError:
        raise NotFoundError("no such file", where=path) from None
    except OSError as error:
        raise UsageError("cannot be read", where=path, found=error.strerror) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(
            "not a filter",
            where=path,
            found=str(error)[:200],
            expected="a list of ids, or one for each query",
        ) from None


def write(path: Path, array: Array) -> None:
    """Write an array.

    Raises
    ------
    UsageError
        The file cannot be written.
    """
    try:
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    except OSError as error:
        raise UsageError("cannot write", where=path, found=error.strerror) from None


def _mapped(path: Path) -> Array:
    if not path.exists():
        raise NotFoundError("no such file", where=path)
    if not path.is_file():
        raise UsageError("not a file", where=path, found=f"a {file_kind(path.stat())}", expected="an .npy file")
    try:
        with path.open("rb") as file:
            header = parse_header(file.read(LONGEST_HEADER), path.stat().st_size, str(path))
        mode = "r" if header.data_bytes else None
        array: Array = np.load(path, mmap_mode=mode, allow_pickle=False)  # type: ignore[arg-type]
    except OSError as error:
        raise UsageError("cannot be read", where=path, found=error.strerror) from None
    except SnapshotError as error:
        raise UsageError(error.what, where=path, found=error.found, expected=error.expected) from None
    return array
