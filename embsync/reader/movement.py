"""How ids moved over the kept versions of a space."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from embsync.dtypes import Float64, Int64
from embsync.errors import EmbsyncError, NotFoundError
from embsync.reader.given_ids import Ids
from embsync.similarity import row_cosines

if TYPE_CHECKING:
    from embsync.reader.version import Version
    from embsync.sides import SideName


@dataclass(frozen=True)
class Movement:
    """n ids in the v kept versions of a space.

    Attributes
    ----------
    versions : (v,) int64
        Numbers of the versions, ascending.
    cosines : (n, v) float64
        Between each id's vector in that version and in the one queried; NaN if it had none, or a zero vector.
    norms : (n, v) float64
        Norms of the vectors, NaN if there was none.
    ages : (n, v) int64
        Versions since the id was last in a snapshot, -1 if there was no vector.
    unreadable : tuple of int
        Kept versions that are left out because they are damaged.
    """

    versions: Int64
    cosines: Float64
    norms: Float64
    ages: Int64
    unreadable: tuple[int, ...] = ()


def movement(
    now: Version,
    kept: Iterable[int],
    open_kept: Callable[[int], Version],
    side: SideName,
    ids: Ids,
    missing: Literal["raise", "nan"],
) -> Movement:
    """Compare ids over the kept versions; see :meth:`embsync.Version.movement`."""
    vectors = now.side(side).lookup(ids, missing).astype(np.float64)
    columns: list[tuple[int, Float64, Float64, Int64]] = []
    unreadable = []
    for number in kept:
        try:
            with open_kept(number) as version:
                if version.space_id == now.space_id:
                    columns.append((number, *_compared(version, side, ids, vectors)))
        except (FileNotFoundError, NotFoundError):  # pruned meanwhile
            continue
        except EmbsyncError:
            unreadable.append(number)
    shape = (len(vectors), len(columns))
    found = Movement(
        np.empty(shape[1], np.int64), np.empty(shape), np.empty(shape), np.empty(shape, np.int64), tuple(unreadable)
    )
    for place, (number, cosines, norms, ages) in enumerate(columns):
        found.versions[place] = number
        found.cosines[:, place], found.norms[:, place], found.ages[:, place] = cosines, norms, ages
    return found


def _compared(version: Version, side: SideName, ids: Ids, vectors: Float64) -> tuple[Float64, Float64, Int64]:
    """Return cosines, norms and ages of ids in one version."""
    part = version.side(side)
    then = part.lookup(ids, "nan").astype(np.float64)
    return row_cosines(then, vectors), np.linalg.norm(then, axis=1), part.age(ids, "nan")
