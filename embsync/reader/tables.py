"""A side as an Arrow table or a data frame."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from embsync.dtypes import Array, Float32, Int64, Times
from embsync.errors import UsageError

if TYPE_CHECKING:
    import pandas
    import pyarrow


def arrow_table(ids: Array, vectors: Float32, last_seen: Int64, times: Times) -> pyarrow.Table:
    """Return the columns ``id``, ``vector``, ``last_seen`` and ``last_seen_at``; the vectors are not copied."""
    arrow = _imported("pyarrow")
    flat = arrow.array(np.asarray(vectors).reshape(-1))
    return arrow.table(
        {
            "id": ids,
            "vector": arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
            "last_seen": np.asarray(last_seen),
            "last_seen_at": arrow.array(times, arrow.timestamp("s", "UTC")),
        }
    )


def data_frame(ids: Array, vectors: Float32, seen: tuple[Int64, Times] | None) -> pandas.DataFrame:
    """Return the vectors by id, not copied, with the columns ``last_seen`` and ``last_seen_at`` if given."""
    pd = _imported("pandas")
    frame = pd.DataFrame(np.asarray(vectors), index=pd.Index(ids, name="id"), copy=False)
    if seen is not None:
        frame["last_seen"] = np.asarray(seen[0])
        frame["last_seen_at"] = pd.DatetimeIndex(seen[1]).tz_localize("UTC")
    return frame


def _imported(name: str) -> Any:
    """Return an optional library."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"{name} is not installed", hint=f"pip install {name}") from None
