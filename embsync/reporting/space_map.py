"""The map of a space: two axes that all its versions share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embsync.dtypes import Float64, Int64

if TYPE_CHECKING:
    from embsync.reader import Version

#: Share of the start sample that the map's edges leave out at each end of each axis.
_BEYOND = 0.002
_MARGIN = 0.08
#: Number of items that are named on the map.
POPULAR = 12


def unit(rows: Float64) -> Float64:
    """Return rows scaled to length 1, since a map shows directions, as cosines compare them; NaN for rows of zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, np.nan))


def axes(start: Float64) -> tuple[Float64, Float64, Float64]:
    """Return the two directions of greatest variance of the start sample, their shares, and the extent of the map.

    The start sample is the same in all versions of a space, and so are the axes: maps of two versions can be overlaid.
    The sign of an axis is chosen so that its largest component is positive.

    Parameters
    ----------
    start : (s, k) ndarray
        Rows of length 1; those with NaN are left out.

    Returns
    -------
    axes : (k, 2) float64
        The second column is zero in a space of one dimension.
    explained : (2,) float64
    extent : (2, 2) float64
        Lower and upper end of each axis.
    """
    start = start[np.isfinite(start).all(axis=1)]
    centred = start - start.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    found = np.zeros((start.shape[1], 2))
    leading = vectors[:, ::-1][:, :2]
    found[:, : leading.shape[1]] = leading * np.sign(
        leading[np.abs(leading).argmax(axis=0), np.arange(leading.shape[1])]
    )
    shares = np.zeros(2)
    total = max(float(values.sum()), np.finfo(float).tiny)
    shares[: leading.shape[1]] = values[::-1][:2] / total
    places = start @ found
    low, high = np.quantile(places, [_BEYOND, 1 - _BEYOND], axis=0)
    room = _MARGIN * np.maximum(high - low, np.finfo(float).tiny)
    return found, np.maximum(shares, 0.0), np.stack([low - room, high + room], axis=1)


def popular_rows(version: Version) -> tuple[Int64, str]:
    """Return the rows of some popular items, most popular first, and what "popular" means.

    They are those in the top 10 of most of the users that the certificate sampled; without these, in a version of an
    earlier release or a one-sided store, they are the items of the start sample with the longest vectors.
    """
    found = version.neighbours
    if found is not None and len(found) and version.users is not None:
        items = np.asarray(found[:, 1:]).ravel()
        counts = np.bincount(items[items >= 0], minlength=1)
        rows = np.argsort(-counts, kind="stable")[:POPULAR]
        return rows[counts[rows] > 0], f"in the top 10 of most of {len(found):,} sampled users"
    ids, _ = version.reference("start", "items")
    rows = version.items.rows(np.asarray(ids))
    rows = rows[(rows >= 0) & version.items.live[rows]]
    lengths = np.linalg.norm(np.asarray(version.items.vectors)[rows], axis=1)
    return rows[np.argsort(-lengths, kind="stable")[:POPULAR]], "with the longest vectors of the start sample"
