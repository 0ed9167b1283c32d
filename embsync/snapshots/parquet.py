"""Layout parquet: a file or a directory of part files for each side, as Spark, pandas, Polars or autofaiss write it."""

from __future__ import annotations

from embsync.snapshots.conversions import PARQUET_MAGIC, begins_with
from embsync.snapshots.files import Place
from embsync.snapshots.side_files import ColumnFormat
from embsync.snapshots.tables import delta_sides

EXPECTS = "items and users (or Spark's itemFactors and userFactors), each one .parquet file or a directory of them"
_SUFFIX = ".parquet"
FORM = {"kind": "parquet"}


def _is_part(place: Place) -> bool:
    """Return whether a file is parquet: by its suffix, or without one (Athena, Trino) by its first bytes."""
    return place.name.endswith(_SUFFIX) or ("." not in place.name and begins_with(place, PARQUET_MAGIC))


FORMAT = ColumnFormat((_SUFFIX,), _is_part, lambda _, __: FORM)


def recognise(place: Place) -> bool:
    """Return whether the names at ``place`` match this layout."""
    return FORMAT.recognise(place) and not delta_sides(place)
