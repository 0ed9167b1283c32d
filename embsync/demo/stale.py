"""Searches with old vectors, raw and stable, for users who were absent on the last night."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from embsync.demo import als, measure, taste, titles
from embsync.demo.measure import Embeddings
from embsync.dtypes import Array, Float32, Float64, Int64
from embsync.reader import Version

_SHOWN = 5


@dataclass(frozen=True)
class StaleFigures:
    """Searches for all users who were absent on the last night and had a vector on an earlier night.

    Attributes
    ----------
    night : int
        The night of the vectors.
    users : int
    overlap_raw, overlap_stable : float
        Share of the top 10 of a fresh vector that is found.
    recall_raw, recall_stable, recall_fresh, recall_popular : float
        Share of the items they liked next among the 10 best they had not liked yet; ``fresh`` with vectors trained on
        the last night, ``popular`` with a list of the most liked items.
    """

    night: int
    users: int
    overlap_raw: float
    overlap_stable: float
    recall_raw: float
    recall_stable: float
    recall_fresh: float
    recall_popular: float


@dataclass(frozen=True)
class Hit:
    """One line of a result; ``fresh`` if it is also in the top 10 of the fresh vector."""

    id: int
    title: str
    genre: str
    fresh: bool


@dataclass(frozen=True)
class Example:
    """One user's searches.

    Attributes
    ----------
    user : int
    night : int
        The night of the user's last vector.
    genres : dict
        The genres liked most, with numbers of likes.
    raw, stable, fresh : tuples of Hit
        Best first.
    """

    user: int
    night: int
    genres: dict[str, int]
    raw: tuple[Hit, ...]
    stable: tuple[Hit, ...]
    fresh: tuple[Hit, ...]


@dataclass(frozen=True)
class ReturningUsers:
    """Users who were absent on the last night, and what they like when they return.

    Attributes
    ----------
    ids : (a,) int64, ascending
    seen, next : (a, t) bool
        Columns are the rows of the last night's items.
    fresh : (a, e) float32
        Vectors that they would have in the last night's raw model.
    popularity : (t,) float32
        Likes of each item in the last night's training data.
    """

    ids: Int64
    seen: Array
    next: Array
    fresh: Float32
    popularity: Float32


def returning(
    last: taste.Night,
    known: taste.Catalogue,
    now: Embeddings,
    world: taste.World,
    settings: als.TrainingSettings,
    random: np.random.Generator,
) -> ReturningUsers:
    """Return the absent users with the items that they like next; ``now`` is the last night's raw model."""
    items = measure.rows_of(now.item_ids, known.item_ids)
    later = last.liked.copy()
    wanted = np.full(len(last.away), world.likes_next)
    taste.like(later, known, world.focus, last.away, items, wanted, random)
    seen = last.liked[np.ix_(last.away, items)]
    fresh = als.solve(csr_array(seen.astype(np.float32)), now.items, settings)
    popularity = np.empty(len(items), np.float32)
    popularity[np.searchsorted(items, last.items)] = np.asarray(last.likes.sum(axis=0))
    return ReturningUsers(known.user_ids[last.away], seen, later[np.ix_(last.away, items)] & ~seen, fresh, popularity)


def search(
    back: ReturningUsers,
    night: int,
    raw_then: Embeddings,
    raw_now: Embeddings,
    stable_then: Embeddings,
    version: Version,
) -> tuple[StaleFigures, Float64, Int64]:
    """Search with the vectors of an earlier night.

    Returns
    -------
    figures : StaleFigures
    kept : (n,) float64
        Share of each user's fresh top 10 that the stable vector finds.
    ids : (n,) int64
        The users.
    """
    there = np.isin(back.ids, raw_then.user_ids)
    ids, fresh = back.ids[there], back.fresh[there] @ raw_now.items.T
    raw = raw_then.users[measure.rows_of(ids, raw_then.user_ids)] @ raw_now.items.T
    vectors = stable_then.users[measure.rows_of(ids, stable_then.user_ids)]
    found, _ = version.search(vectors, measure.TOP)
    stable_items = version.items.lookup(raw_now.item_ids)
    wanted = raw_now.item_ids[measure.best(fresh)]
    kept = measure.overlap(wanted, found)
    scores = (raw, vectors @ stable_items.T, fresh, np.tile(back.popularity, (len(ids), 1)))
    recalls = (measure.recall(each, back.seen[there], back.next[there]) for each in scores)
    lost = measure.overlap(wanted, raw_now.item_ids[measure.best(raw)])
    return StaleFigures(night, len(ids), float(lost.mean()), float(kept.mean()), *recalls), kept, ids


def example(
    back: ReturningUsers,
    user: int,
    night: int,
    raw_then: Embeddings,
    raw_now: Embeddings,
    version: Version,
    known: taste.Catalogue,
) -> Example:
    """Return one user's searches: with the raw vector of an earlier night, the stored stable one, and a fresh one."""
    row = int(measure.rows_of(np.array([user]), back.ids)[0])
    old = raw_then.users[measure.rows_of(np.array([user]), raw_then.user_ids)]
    raw = raw_now.item_ids[measure.best(old @ raw_now.items.T)[0]]
    fresh = raw_now.item_ids[measure.best(back.fresh[[row]] @ raw_now.items.T)[0]]
    stable, _ = version.search(version.side("users").lookup([user]), measure.TOP)
    liked = np.bincount(_genres(raw_now.item_ids[back.seen[row]], known), minlength=len(titles.GENRES))
    favourites = {titles.GENRES[genre]: int(liked[genre]) for genre in np.argsort(-liked, kind="stable")[:3]}
    hits = (_hits(list_, fresh, known) for list_ in (raw, stable[0], fresh))
    return Example(user, night, favourites, *hits)


def _hits(ids: Int64, fresh: Int64, known: taste.Catalogue) -> tuple[Hit, ...]:
    shown = ids[:_SHOWN]
    numbers = measure.rows_of(shown, known.item_ids)
    return tuple(
        Hit(int(item), titles.title(int(number)), titles.GENRES[genre], bool(item in fresh))
        for item, number, genre in zip(shown, numbers, known.genres[numbers], strict=True)
    )


def _genres(ids: Int64, known: taste.Catalogue) -> Int64:
    return known.genres[measure.rows_of(ids, known.item_ids)]
