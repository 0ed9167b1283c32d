"""A taste model: which users like which items on each night, with users and items that arrive and leave.

Users and items have latent tastes; a user likes an item with a probability that grows with the product of the
two and with the item's popularity. The recommender never sees the tastes, only the likes drawn from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from embsync.demo import titles
from embsync.dtypes import Array, Float32, Int64

#: Users drawn at once: 512 x 2,600 float32 scores are 5 MB, which stay in the cache.
_BLOCK_USERS = 512


@dataclass(frozen=True)
class World:
    """The size of the world and how fast it changes.

    Churn and density follow the retrainings on goodbooks-10k that embsync is tested with: each night about 1 % of the
    items and users leave, about 2 % are new, 5 % of the users are missing from the training data, and two independent
    trainings agree about as well (item cosine 0.86 there). Sizes are chosen so that a night takes about a second.

    Attributes
    ----------
    items, users : int
        Numbers on the first night.
    new, leaving : float
        Share of both that is new, and that leaves permanently, each night after the first.
    away : float
        Share of the users who are inactive on a night and not in its training data.
    tastes : int
        Latent dimensions.
    likes : float
        Median number of likes of a user on the first night; the log-normal spread around it is 0.6.
    likes_a_night : float
        Mean number of likes that each user adds per night.
    likes_next : int
        Likes that each absent user adds on return, which a stale vector should predict.
    fewest_likes : int
        Items with fewer likes are not trained, as in goodbooks.
    focus : float
        Influence of tastes; with 0, only popularity counts.
    genre_share : float
        Share of an item's taste that is its genre's; with 1, all items of a genre would be equal.
    popularity_spread : float
        Spread of the log-normal popularity.
    """

    items: int = 3000
    users: int = 3600
    new: float = 0.02
    leaving: float = 0.01
    away: float = 0.05
    tastes: int = 16
    likes: float = 40.0
    likes_a_night: float = 1.0
    likes_next: int = 10
    fewest_likes: int = 5
    focus: float = 5.0
    genre_share: float = 0.5
    popularity_spread: float = 0.8


@dataclass(frozen=True)
class Catalogue:
    """All items and users of the world, including future ones.

    Attributes
    ----------
    item_tastes, user_tastes : (t, d) and (w, d) float32
    log_popularity : (t,) float32
    genres : (t,) int64
        Indices into ``titles.GENRES``.
    item_ids, user_ids : (t,) and (w,) int64
    """

    item_tastes: Float32
    user_tastes: Float32
    log_popularity: Float32
    genres: Int64
    item_ids: Int64
    user_ids: Int64


@dataclass(frozen=True)
class Night:
    """The training data of one night.

    Attributes
    ----------
    number : int
        From 1.
    items, users : (t,) and (w,) int64
        Positions in the catalogue, in random order: the rows of the trained model.
    likes : (w, t) sparse float32
        1 where the user liked the item, on this night or before.
    away : (a,) int64
        Users who are absent tonight and will return.
    liked : (all users, all items) bool
        Everything liked so far, also by absent users.
    """

    number: int
    items: Int64
    users: Int64
    likes: csr_array[np.float32]
    away: Int64
    liked: Array


def catalogue(world: World, nights: int, random: np.random.Generator) -> Catalogue:
    """Draw all tastes."""
    items, users = _ever(world.items, world.new, nights), _ever(world.users, world.new, nights)
    centres = _unit(random.standard_normal((len(titles.GENRES), world.tastes)))
    genres = random.integers(len(centres), size=items)
    own = _unit(random.standard_normal((items, world.tastes)))
    share = np.float32(world.genre_share)
    # Users like two or three genres: Dirichlet with 0.25 gives the favourite about half of the weight.
    mixture = random.dirichlet(np.full(len(centres), 0.25), size=users) @ centres
    return Catalogue(
        item_tastes=(np.sqrt(share) * centres[genres] + np.sqrt(1 - share) * own).astype(np.float32),
        user_tastes=_unit(_unit(mixture) + 0.5 * _unit(random.standard_normal((users, world.tastes)))),
        log_popularity=(world.popularity_spread * random.standard_normal(items)).astype(np.float32),
        genres=genres.astype(np.int64),
        item_ids=np.arange(1, items + 1),
        user_ids=np.arange(100_001, 100_001 + users),  # in another range than item ids, to avoid confusion
    )


def nights(world: World, known: Catalogue, count: int, random: np.random.Generator) -> Iterator[Night]:
    """Yield each night in turn."""
    liked = np.zeros((len(known.user_ids), len(known.item_ids)), bool)
    items = np.arange(world.items)
    users = np.arange(world.users)
    away = users[:0]
    for number in range(1, count + 1):
        newcomers = users
        if number > 1:
            items = _change(items, world.items, world, number, random)
            before, users = users, _change(users, world.users, world, number, random)
            newcomers = np.setdiff1d(users, before)
            away = random.choice(np.intersect1d(users, before), int(world.away * len(users)), replace=False)
        active = np.setdiff1d(users, away)
        wanted = random.poisson(world.likes_a_night, len(active))
        first = np.isin(active, newcomers)
        wanted[first] += np.round(world.likes * random.lognormal(0.0, 0.6, int(first.sum()))).astype(np.int64)
        like(liked, known, world.focus, active, items, wanted, random)
        yield _night(number, world, liked, items, active, away, random)


def like(
    liked: Array, known: Catalogue, focus: float, users: Int64, items: Int64, wanted: Int64, random: np.random.Generator
) -> None:
    """Add ``wanted[i]`` items that ``users[i]`` has not liked yet to ``liked``, in place.

    Adding Gumbel noise to the log-odds and taking the largest draws without replacement (Plackett-Luce).
    """
    for start in range(0, len(users), _BLOCK_USERS):
        block, counts = users[start : start + _BLOCK_USERS], wanted[start : start + _BLOCK_USERS]
        odds = focus * known.user_tastes[block] @ known.item_tastes[items].T + known.log_popularity[items]
        waits = random.standard_exponential(odds.shape, dtype=np.float32)
        odds -= np.log(np.maximum(waits, np.finfo(np.float32).tiny))
        odds[liked[np.ix_(block, items)]] = -np.inf
        most = int(counts.max(initial=1))
        best = np.argsort(-odds, axis=1)[:, :most]
        row, place = np.nonzero(np.arange(most)[None, :] < counts[:, None])
        liked[block[row], items[best[row, place]]] = True


def _night(
    number: int, world: World, liked: Array, items: Int64, users: Int64, away: Int64, random: np.random.Generator
) -> Night:
    trained = items[liked[np.ix_(users, items)].sum(axis=0) >= world.fewest_likes]
    rows, columns = random.permutation(users), random.permutation(trained)
    matrix = csr_array(liked[np.ix_(rows, columns)].astype(np.float32))
    return Night(number, columns, rows, matrix, np.sort(away), liked)


def _change(present: Int64, at_first: int, world: World, number: int, random: np.random.Generator) -> Int64:
    """Return ``present`` without those that leave permanently, and with those that arrive."""
    stay = np.sort(random.choice(present, len(present) - round(world.leaving * len(present)), replace=False))
    return np.concatenate([stay, np.arange(_ever(at_first, world.new, number - 1), _ever(at_first, world.new, number))])


def _ever(at_first: int, new: float, number: int) -> int:
    """Return how many have existed up to a night, including those that left."""
    return at_first + (number - 1) * round(new * at_first)


def _unit(rows: Array) -> Float32:
    unit: Float32 = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit
