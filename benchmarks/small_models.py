"""Small recommenders on simulated likes, each training cached: the models that guards.py judges.

ALS, BPR and LMF by implicit, PureSVD by SciPy, item2vec by gensim, and a two-tower network in NumPy. Each is
trained on one thread with a seed, so that a table can be reproduced.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, csr_matrix
from scipy.sparse.linalg import svds

from embsync.demo import taste

CACHE = Path(os.environ.get("EMBSYNC_BENCHMARK_CACHE", Path(tempfile.gettempdir()) / "embsync-small-models"))
WORLD = taste.World(items=1500, users=2000, tastes=24, likes=40.0)
NIGHTS = 7
WIDTH = 32
#: Settings at which two trainings on the same night agree about as well as real ones (item cosine 0.7 to 0.95).
DEFAULTS: dict[str, dict[str, float]] = {
    "als": {"alpha": 5.0, "regularization": 1.0, "iterations": 12},
    "bpr": {"rate": 0.05, "regularization": 0.03, "iterations": 100},
    "lmf": {"rate": 1.0, "regularization": 3.0, "iterations": 30},
    "puresvd": {"split": 0.5},
    "item2vec": {"rate": 0.05, "iterations": 5},
    "two_tower": {"temperature": 0.35, "iterations": 2000},
}


@dataclass(frozen=True)
class Model:
    """A trained model: raw rows with their ids; ``users`` None for one side."""

    items: np.ndarray
    item_ids: np.ndarray
    users: np.ndarray | None = None
    user_ids: np.ndarray | None = None

    def save(self, path: Path) -> Path:
        """Write the model as layout npy."""
        path.mkdir(parents=True, exist_ok=True)
        for name, array in vars(self).items():
            if array is not None:
                np.save(path / f"{name}.npy", array)
        return path

    @staticmethod
    def load(path: Path) -> Model:
        """Read a model written by :meth:`save`, or any snapshot of layout npy."""
        names = ("items", "item_ids", "users", "user_ids")
        return Model(*(np.load(path / f"{name}.npy") if (path / f"{name}.npy").exists() else None for name in names))

    def with_rows(self, **sides: np.ndarray) -> Model:
        """Return the model with other arrays."""
        return replace(self, **sides)


@cache
def nights() -> list[taste.Night]:
    """Return the training data of each night: likes grow, ids come and go, 5 % of the users are absent."""
    random = np.random.default_rng(11)
    known = taste.catalogue(WORLD, NIGHTS, random)
    return list(taste.nights(WORLD, known, NIGHTS, random))


def drawn_nights(count: int, churn: float, seed: int = 23) -> list[taste.Night]:
    """Return nights in which a share of both sides leaves and joins, and as many users are absent."""
    world = replace(WORLD, new=churn, leaving=churn, away=2 * churn)
    random = np.random.default_rng(seed)
    return list(taste.nights(world, taste.catalogue(world, count, random), count, random))


def train_night(kind: str, night: taste.Night, seed: int, **settings: float) -> Model:
    """Return a model of any night, from the cache if it is there."""
    settings = {"factors": WIDTH, **DEFAULTS[kind], **settings}
    words = f"{kind} {seed} {sorted(settings.items())}".encode()
    for array in (night.items, night.users, night.likes.indices):
        words += np.ascontiguousarray(array).tobytes()
    path = CACHE / hashlib.sha256(words).hexdigest()[:24]
    if not (path / "user_ids.npy").exists():
        items, users = _TRAIN[kind](night, seed, None, settings)
        Model(items.astype(np.float32), night.items + 1, users.astype(np.float32), night.users + 100_001).save(path)
    return Model.load(path)


def trained(kind: str, night: int, seed: int, *, start: Model | None = None, **settings: float) -> Model:
    """Return a model of a night, from the cache if it is there.

    Parameters
    ----------
    kind : {"als", "bpr", "lmf", "puresvd", "item2vec", "two_tower"}
    night : int
        From 1.
    seed : int
    start : Model, optional
        The initial model of a warm start, of the same kind and width.
    **settings
        Override the defaults of the kind: ``factors``, ``alpha``, ``regularization``, ``iterations``, ``rate``.
    """
    settings = {"factors": WIDTH, **DEFAULTS[kind], **settings}
    words = f"{kind} {night} {seed} {sorted(settings.items())} {WORLD} {None if start is None else _digest(start)}"
    path = CACHE / hashlib.sha256(words.encode()).hexdigest()[:24]
    if not (path / "user_ids.npy").exists():
        tonight = nights()[night - 1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            items, users = _TRAIN[kind](tonight, seed, start, settings)
        user_ids, item_ids = tonight.users + 100_001, tonight.items + 1
        Model(items.astype(np.float32), item_ids, users.astype(np.float32), user_ids).save(path)
    return Model.load(path)


def _digest(model: Model) -> str:
    return hashlib.sha256(np.ascontiguousarray(model.items).tobytes()).hexdigest()


def _from(start: Model | None, ids: np.ndarray, side: str, random: np.random.Generator, width: int) -> np.ndarray:
    """Return initial rows: those of an earlier model if it has the id, otherwise small random ones."""
    rows = (0.05 * random.standard_normal((len(ids), width))).astype(np.float32)
    if start is not None:
        known, vectors = (start.item_ids, start.items) if side == "items" else (start.user_ids, start.users)
        order = np.argsort(known)
        places = np.minimum(np.searchsorted(known[order], ids), len(known) - 1)
        there = known[order][places] == ids
        rows[there] = vectors[order][places[there]]
    return rows


def _implicit(tonight: taste.Night, seed: int, start: Model | None, model: object, width: int) -> tuple:
    if start is not None:
        random = np.random.default_rng(seed)
        model.item_factors = _from(start, tonight.items + 1, "items", random, width)
        model.user_factors = _from(start, tonight.users + 100_001, "users", random, width)
    model.fit(csr_matrix(tonight.likes), show_progress=False)
    return np.asarray(model.item_factors), np.asarray(model.user_factors)


def _als(tonight: taste.Night, seed: int, start: Model | None, given: dict) -> tuple:
    from implicit.als import AlternatingLeastSquares  # noqa: PLC0415

    width = int(given["factors"])
    model = AlternatingLeastSquares(
        factors=width,
        alpha=given["alpha"],
        regularization=given["regularization"],
        iterations=int(given["iterations"]),
        random_state=seed,
        num_threads=1,
        use_gpu=False,
    )
    return _implicit(tonight, seed, start, model, width)


def _bpr(tonight: taste.Night, seed: int, start: Model | None, given: dict) -> tuple:
    from implicit.bpr import BayesianPersonalizedRanking  # noqa: PLC0415

    width = int(given["factors"])
    model = BayesianPersonalizedRanking(
        factors=width - 1,
        learning_rate=given["rate"],
        regularization=given["regularization"],
        iterations=int(given["iterations"]),
        random_state=seed,
        num_threads=1,
        use_gpu=False,
    )
    return _implicit(tonight, seed, start, model, width)


def _lmf(tonight: taste.Night, seed: int, start: Model | None, given: dict) -> tuple:
    from implicit.lmf import LogisticMatrixFactorization  # noqa: PLC0415

    width = int(given["factors"])
    model = LogisticMatrixFactorization(
        factors=width - 2,
        learning_rate=given["rate"],
        regularization=given["regularization"],
        iterations=int(given["iterations"]),
        random_state=seed,
        num_threads=1,
    )
    return _implicit(tonight, seed, start, model, width)


def _puresvd(tonight: taste.Night, seed: int, start: Model | None, given: dict) -> tuple:
    width = int(given["factors"])
    likes = csr_array(tonight.likes, dtype=np.float64)
    v0 = np.random.default_rng(seed).standard_normal(min(likes.shape))
    U, S, Vt = svds(likes, width, v0=v0)
    share = given["split"]  # how much of the singular values the users get
    return Vt.T * S ** (1 - share), U * S**share


def _item2vec(tonight: taste.Night, seed: int, start: Model | None, given: dict) -> tuple:
    from gensim.models import Word2Vec  # noqa: PLC0415

    width = int(given["factors"])
    random = np.random.default_rng(seed)
    likes = csr_array(tonight.likes)
    lists = [
        random.permutation(likes.indices[a:b]).astype(str).tolist()
        for a, b in zip(likes.indptr[:-1], likes.indptr[1:], strict=True)
    ]
    model = Word2Vec(
        lists,
        vector_size=width,
        window=20,
        min_count=1,
        sg=1,
        negative=10,
        sample=0.0,
        epochs=int(given["iterations"]),
        alpha=given["rate"],
        seed=seed,
        workers=1,
    )
    items = np.stack([model.wv[str(column)] for column in range(likes.shape[1])])
    return items, np.asarray(likes @ items) / np.maximum(np.diff(likes.indptr), 1)[:, None]


def _two_tower(tonight: taste.Night, seed: int, start: Model | None, given: dict) -> tuple:
    """Train u = norm(relu(mean of E over the history) P) against v = norm(F), in-batch softmax, Adam."""
    width, steps = int(given["factors"]), int(given["iterations"])
    random = np.random.default_rng(seed)
    likes = csr_array(tonight.likes, dtype=np.float32)
    history = csr_array(likes.multiply(1.0 / np.maximum(np.diff(likes.indptr), 1)[:, None]), dtype=np.float32)
    hidden, temperature = 48, given["temperature"]
    E, P, F = (
        (0.1 * random.standard_normal(shape)).astype(np.float32)
        for shape in ((likes.shape[1], hidden), (hidden, width), (likes.shape[1], width))
    )
    if start is not None:
        F = _from(start, tonight.items + 1, "items", random, width)
    moments = [(np.zeros_like(part), np.zeros_like(part)) for part in (E, P, F)]
    users, items = likes.nonzero()
    popularity = np.log(np.maximum(likes.sum(axis=0), 1)).astype(np.float32)
    for step in range(1, steps + 1):
        batch = random.integers(len(users), size=256)
        who, what = users[batch], items[batch]
        mean = history[who] @ E
        active = np.maximum(mean, 0.1 * mean)
        u, u_norm = _unit(active @ P)
        v, v_norm = _unit(F[what])
        logits = u @ v.T / temperature - popularity[what]
        logits[(what[:, None] == what[None, :]) & ~np.eye(len(batch), dtype=bool)] = -30.0
        chance = np.exp(logits - logits.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        chance[np.arange(len(batch)), np.arange(len(batch))] -= 1.0
        chance /= temperature * len(batch)
        du, dv = chance @ v, chance.T @ u
        du = (du - u * (du * u).sum(axis=1, keepdims=True)) / u_norm
        dv = (dv - v * (dv * v).sum(axis=1, keepdims=True)) / v_norm
        dF = np.zeros_like(F)
        np.add.at(dF, what, dv)
        dactive = (du @ P.T) * np.where(mean > 0, 1.0, 0.1).astype(np.float32)
        gradients = (history[who].T @ dactive, active.T @ du, dF)
        for part, gradient, (first, second) in zip((E, P, F), gradients, moments, strict=True):
            first[:] = 0.9 * first + 0.1 * gradient
            second[:] = 0.999 * second + 0.001 * gradient**2
            part[:] -= 0.01 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-7)
    mean = history @ E
    return _unit(F)[0], _unit(np.maximum(mean, 0.1 * mean) @ P)[0]


def _unit(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    norms = np.sqrt((rows**2).sum(axis=1, keepdims=True)) + 1e-9
    return rows / norms, norms


_TRAIN = {"als": _als, "bpr": _bpr, "lmf": _lmf, "puresvd": _puresvd, "item2vec": _item2vec, "two_tower": _two_tower}
