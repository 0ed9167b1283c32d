"""Array types for annotations, like numpy.typing.NDArray without the time to import it."""

from __future__ import annotations

from typing import Any

import numpy as np

_Shape = tuple[Any, ...]

Array = np.ndarray[_Shape, np.dtype[Any]]
Bool = np.ndarray[_Shape, np.dtype[np.bool_]]
Float32 = np.ndarray[_Shape, np.dtype[np.float32]]
Float64 = np.ndarray[_Shape, np.dtype[np.float64]]
Int64 = np.ndarray[_Shape, np.dtype[np.int64]]
Times = np.ndarray[_Shape, np.dtype[np.datetime64]]
UInt8 = np.ndarray[_Shape, np.dtype[np.uint8]]
UInt64 = np.ndarray[_Shape, np.dtype[np.uint64]]
#: Row numbers: int32 where they fit, because several are kept for every row of a side.
RowNumbers = np.ndarray[_Shape, np.dtype[np.int32]] | Int64
