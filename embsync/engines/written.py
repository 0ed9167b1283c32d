"""The result of a second pass, read from the files named in the results of its partitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embsync.alignment.drift import MOVED_MOST, OUTLIER, RowChange, root
from embsync.dtypes import Float32, Float64, Int64
from embsync.engines.protocol import RowMapping, WrittenPart, WrittenTable
from embsync.engines.statistics import quantiles
from embsync.errors import SnapshotError
from embsync.manifest import RowCounts
from embsync.measurements import Moved, SideDrift

#: Sums that are added up over the partitions.
_ADDED = ("cross", "own", "digest", "moments", "stable", "raw", "counts")


def plain(mapping: RowMapping, *, strings: bool) -> dict[str, Any]:
    """Return the parameters of the second pass as plain values, which any process can read."""
    return {
        "matrix": mapping.matrix,
        "scale": mapping.scale,
        "number": mapping.number,
        "parent": mapping.kept.parent,
        "numbers": mapping.kept.numbers,
        "everything": mapping.kept.everything,
        "inverse": None if mapping.inverse is None else mapping.inverse.astype(np.float32),
        "sampled": mapping.sampled,
        "strings": strings,
    }


def gather(results: Sequence[dict[str, Any]], directory: Path, mapping: RowMapping, *, strings: bool) -> WrittenTable:
    """Return what the partitions wrote, given their results; other files in the directory are not read."""
    ordered = sorted(
        results, key=lambda row: _id(row["first"], strings=strings) if row["rows"] else _id("0", strings=False)
    )
    reader = _Sums(directory, [row["name"] for row in ordered])
    totals: dict[str, Any] = {}
    for sums in reader:
        for name in _ADDED:
            totals[name] = totals.get(name, 0) + sums[name]
    if not np.isfinite(totals["own"]).all():
        raise SnapshotError(
            "stable vectors do not fit float32", found="overflow", hint="scale the embeddings before saving them"
        )
    parts = tuple(_part(row, directory, strings=strings) for row in ordered if row["rows"])
    counts = _counts(totals["counts"])
    drift, change = _drift(reader, totals, compared=mapping.inverse is not None)
    return WrittenTable(
        parts,
        counts,
        totals["cross"],
        totals["own"],
        totals["digest"],
        totals["moments"] / max(counts.live, 1),
        drift,
        change,
        _sampled_rows(reader, [row["rows"] for row in ordered], mapping),
    )


class _Sums:
    """The partitions' files of sums, read one at a time."""

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        self._paths = [directory / f"{name}.sums" for name in names]

    def __iter__(self) -> Iterator[Any]:
        for path in self._paths:
            with np.load(path, allow_pickle=False) as found:
                yield found

    def rows(self) -> Iterator[Float32]:
        """Yield the (3, n) cosines, norms and parent's norms of the common rows."""
        return (sums["rows"] for sums in self)


def _counts(sums: Int64) -> RowCounts:
    """Return the row counts, given the sums over the partitions."""
    live, known, common, was_live, carried = (int(value) for value in sums)
    return RowCounts(
        rows=live + carried,
        live=live,
        new=live - common,
        returned=known - common,
        gone=was_live - common,
        carried=carried,
        common=common,
    )


def _id(text: str, *, strings: bool) -> Any:
    return text.encode() if strings else int(text)


def _part(row: dict[str, Any], directory: Path, *, strings: bool) -> WrittenPart:
    first, last = (row[end] if strings else int(row[end]) for end in ("first", "last"))
    return WrittenPart(directory / row["name"], row["rows"], first, last, row["bytes"], row["sha256"])


def _sampled_rows(sums: _Sums, rows: Sequence[int], mapping: RowMapping) -> Int64:
    """Return the numbers of the sampled ids' rows over all parts."""
    found = np.full(0 if mapping.sampled is None else len(mapping.sampled), -1, np.int64)
    for one, before in zip(sums, np.cumsum([0, *rows]), strict=False):
        positions, numbers = one["sampled"]
        found[positions] = numbers + before
    return found


def _drift(sums: _Sums, totals: dict[str, Any], *, compared: bool) -> tuple[SideDrift, RowChange]:
    """Return the figures that :class:`embsync.alignment.drift.DriftMeter` returns."""
    figures = _RowFigures.of(sums)
    if figures.cosines == 0:
        return SideDrift(), RowChange()
    raw = totals["raw"] if compared and totals["raw"][1] else None
    drift = SideDrift(
        cosine=figures.cosine,
        cosine_p05=figures.cosine_p05,
        cosine_raw=None if raw is None else float(raw[0] / raw[1]),
        displacement=root(*totals["stable"]),
        displacement_raw=root(totals["raw"][2], totals["raw"][3]) if compared else None,
        moved_most=_moved_most(sums),
    )
    change = RowChange(
        **figures.norms,
        unchanged=None if raw is None else float(raw[4] / raw[1]),
        scale_raw=root(totals["raw"][5], totals["raw"][3]) if compared else None,
    )
    return drift, change


@dataclass(frozen=True)
class _RowFigures:
    """Figures of the common rows' cosines and norms, in three passes over them.

    Attributes
    ----------
    cosines : int
        Number of cosines that are not NaN.
    cosine, cosine_p05 : float
    norms : dict
        ``norm_ratio``, ``norm_outliers`` and ``longest``, or empty.
    """

    cosines: int
    cosine: float
    cosine_p05: float
    norms: dict[str, float]

    @classmethod
    def of(cls, sums: _Sums) -> _RowFigures:
        """Return the figures."""
        count, total, longest = 0, 0.0, np.zeros(2)

        def series() -> Iterator[list[Float32]]:
            nonlocal count, total, longest
            count, total, longest = 0, 0.0, np.zeros(2)
            for rows in sums.rows():
                cosines, norms = rows[0][~np.isnan(rows[0])], _positive(rows)
                count += len(cosines)
                total += float(cosines.sum(dtype=np.float64))
                longest = np.maximum(longest, norms.max(axis=1, initial=0.0))
                yield [cosines, *norms, _ratios(norms).astype(np.float32)]

        p05, new, old, median = quantiles(series, (0.05, 0.5, 0.5, 0.5))
        if count == 0 or np.isnan(median):
            return cls(count, total / max(count, 1), p05, {})
        outside = compared = 0
        for rows in sums.rows():
            shares = _ratios(_positive(rows)) / median
            outside += int(np.count_nonzero((shares > OUTLIER) | (shares < 1 / OUTLIER)))
            compared += len(shares)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.float64(new) / old
            last = float(longest[0] / longest[1] / ratio)
        norms = {"norm_ratio": float(ratio), "norm_outliers": outside / compared, "longest": last}
        return cls(count, total / count, p05, norms)


def _positive(rows: Float32) -> Float32:
    """Return the norms of the rows that are not zero in either version."""
    return rows[1:, (rows[1:] > 0).all(axis=0)]


def _ratios(norms: Float32) -> Float64:
    return np.asarray(norms[0].astype(np.float64) / norms[1], np.float64)


def _moved_most(sums: _Sums) -> tuple[Moved, ...]:
    found = [pair for one in sums for pair in zip(one["lowest"].tolist(), one["lowest_ids"].tolist(), strict=True)]
    lowest = sorted(found, key=lambda pair: pair[0])[:MOVED_MOST]
    return tuple(Moved(name.decode("utf-8") if isinstance(name, bytes) else name, cosine) for cosine, name in lowest)
