"""Every block of docs/training.md and the producer guides is run, with the library itself if it is installed."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.documents import Document

import embsync
from embsync.config import SnapshotConfig
from embsync.snapshots import open_snapshot

PRODUCERS = ("biases", "gensim", "implicit", "jax", "pytorch", "recbole", "spark", "tensorflow")
NAMES = ["training", *(f"how-to/{name}" for name in PRODUCERS)]
LIBRARIES = {"biases", "flax", "gensim", "implicit", "keras", "recbole", "spark", "torch"}
PAGES = "".join(Document(f"docs/{name}.md").text for name in NAMES)
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```python\n(.*?)```", PAGES, re.DOTALL))
RNG = np.random.default_rng(1)
ITEMS, USERS = RNG.normal(size=(40, 4)).astype("f4"), RNG.normal(size=(30, 4)).astype("f4")


def run(block: str, folder: Path, **given: Any) -> Any:
    """Run a block of the page and return the snapshot that it wrote."""
    ids = {"item_ids": [f"i{k}" for k in range(40)], "user_ids": np.arange(30)}
    exec(BLOCKS[block], {"embsync": embsync, "watched": folder, "night": "day=1", **ids, **given})
    return open_snapshot(folder / "day=1", SnapshotConfig())


@pytest.mark.services("implicit")
@pytest.mark.filterwarnings("ignore:OpenBLAS is configured")
def test_the_example_for_implicit_runs(tmp_path: Path) -> None:
    """The model is trained by implicit itself."""
    implicit = pytest.importorskip("implicit.als", reason="implicit is not installed")
    sparse = pytest.importorskip("scipy.sparse")
    model = implicit.AlternatingLeastSquares(factors=4, iterations=1, num_threads=1)
    seen = sparse.random(30, 40, 0.2, "csr", random_state=2)
    opened = run("implicit", tmp_path, model=model, interactions=seen)
    assert (opened.items.count, opened.users.count, opened.width) == (40, 30, 4)


@pytest.mark.services("implicit")
@pytest.mark.filterwarnings("ignore:OpenBLAS is configured")
@pytest.mark.parametrize(
    ("module", "name"), [("bpr", "BayesianPersonalizedRanking"), ("lmf", "LogisticMatrixFactorization")]
)
def test_biases_of_implicit_are_columns_with_ones_on_the_other_side(tmp_path: Path, module: str, name: str) -> None:
    """The snapshot has the columns that the page describes, with the model's values."""
    library = pytest.importorskip(f"implicit.{module}", reason="implicit is not installed")
    sparse = pytest.importorskip("scipy.sparse")
    model = getattr(library, name)(factors=4, iterations=1, num_threads=1)
    seen = sparse.random(30, 40, 0.2, "csr", random_state=2)
    opened = run("implicit", tmp_path, model=model, interactions=seen)
    (_, items), (_, users) = next(opened.items.blocks()), next(opened.users.blocks())
    assert (users == 1).all(axis=0).any()
    assert opened.width == (5 if module == "bpr" else 6)
    assert module == "bpr" or (items == 1).all(axis=0).any()


@pytest.mark.services("gensim")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_example_for_gensim_runs(tmp_path: Path) -> None:
    """The model is trained by gensim itself."""
    gensim = pytest.importorskip("gensim.models", reason="gensim is not installed")
    model = gensim.Word2Vec([["a", "b", "c"]] * 20, vector_size=4, min_count=1, workers=1)
    assert run("gensim", tmp_path, model=model).items.count == 3


def test_biases_become_columns(tmp_path: Path) -> None:
    """The inner products are the model's scores."""
    item_bias, user_bias = RNG.normal(size=40), RNG.normal(size=30)
    model = SimpleNamespace(
        get_item_representations=lambda: (item_bias, ITEMS), get_user_representations=lambda: (user_bias, USERS)
    )
    opened = run("biases", tmp_path, model=model)
    (_, items), (_, users) = next(opened.items.blocks()), next(opened.users.blocks())
    np.testing.assert_allclose(users @ items.T, USERS @ ITEMS.T + user_bias[:, None] + item_bias, atol=1e-5)


class Tensor:
    """A tensor with gradients, which cannot be converted to an array until it is detached."""

    def __init__(self, values: Any, *, detached: bool = False) -> None:
        self.values, self.detached, self.dtype = values, detached, "torch.float32"

    def __getitem__(self, rows: Any) -> Tensor:
        return Tensor(self.values[rows])

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if not self.detached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self.values

    def detach(self) -> Tensor:
        """Return the numbers without gradients."""
        return Tensor(self.values, detached=True)

    def cpu(self) -> Tensor:
        """Return the numbers in memory."""
        return self


def test_the_example_for_torch_runs(tmp_path: Path) -> None:
    """Weights with gradients are detached first."""
    towers = {name: SimpleNamespace(weight=Tensor(array)) for name, array in (("item", ITEMS), ("user", USERS))}
    model = SimpleNamespace(item_tower=towers["item"], user_tower=towers["user"])
    assert run("torch", tmp_path, model=model).items.count == 40


class Layers:
    """A Keras model: layers by name, with a vocabulary or weights; row 0 is out of vocabulary."""

    def __init__(self) -> None:
        weights = {"items": ITEMS, "users": USERS}
        self.weights = {name: np.vstack([np.full(4, 9, "f4"), rows]) for name, rows in weights.items()}
        self.words = {"item_ids": ["[UNK]", *(f"i{k}" for k in range(40))], "user_ids": [-1, *np.arange(30)]}

    def get_layer(self, name: str) -> SimpleNamespace:
        """Return a lookup or an embedding."""
        return SimpleNamespace(
            get_vocabulary=lambda: self.words[name],
            get_weights=lambda: [self.weights[name]],
        )


def test_the_example_for_keras_runs(tmp_path: Path) -> None:
    """The row without an id is omitted, and all other rows keep their ids."""
    opened = run("keras", tmp_path, model=Layers())
    assert (opened.items.ids()[0], opened.users.ids().tolist()) == (b"i0", list(range(30)))
    np.testing.assert_array_equal(next(opened.items.blocks())[1], ITEMS)


def test_the_example_for_towers_of_keras_runs(tmp_path: Path) -> None:
    """The snapshot has the outputs of the networks."""
    item_tower, user_tower = (SimpleNamespace(predict=lambda rows, **_: np.tanh(rows)) for _ in range(2))
    towers = {"item_tower": item_tower, "user_tower": user_tower}
    opened = run("keras_towers", tmp_path, **towers, item_features=ITEMS, user_features=USERS)
    np.testing.assert_array_equal(next(opened.users.blocks())[1], np.tanh(USERS))


def test_the_example_for_flax_runs(tmp_path: Path) -> None:
    """Parameters are nested mappings of arrays; test_write_snapshot.py tests arrays of JAX itself."""
    params = {"items": {"embedding": ITEMS}, "users": {"embedding": USERS}}
    assert run("flax", tmp_path, params=params).users.count == 30


def test_the_example_for_recbole_runs(tmp_path: Path) -> None:
    """RecBole's dataset has ids as arrays of objects, with padding first."""
    tokens = {"item_id": np.array(["[PAD]", *(f"i{k}" for k in range(39))], object)}
    tokens["user_id"] = np.array(["[PAD]", *(f"u{k}" for k in range(29))], object)
    dataset = SimpleNamespace(field2id_token=tokens, iid_field="item_id", uid_field="user_id")
    model = SimpleNamespace(
        item_embedding=SimpleNamespace(weight=Tensor(ITEMS)), user_embedding=SimpleNamespace(weight=Tensor(USERS))
    )
    opened = run("recbole", tmp_path, model=model, dataset=dataset)
    assert (opened.items.count, opened.users.ids()[0]) == (39, b"u0")


def test_the_write_snapshot_call_runs(tmp_path: Path) -> None:
    """Vectors and ids of one run are written under the run's name."""
    assert run("write", tmp_path, night="1", item_vectors=ITEMS, user_vectors=USERS).users.count == 30


def test_the_example_that_publishes_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A version is published from arrays."""
    given = {"store": tmp_path / "st", "items": ITEMS, "users": USERS, "user_ids": np.arange(30)}
    exec(BLOCKS["publish"], {"embsync": embsync, "item_ids": np.arange(40), **given})
    assert capsys.readouterr().out.startswith("1 ")


def test_every_block_is_tested() -> None:
    """Spark's blocks are run by tests/snapshots/test_spark.py, as they need Java."""
    assert set(BLOCKS) == {"write", "publish", "keras_towers", *LIBRARIES}
    assert sum(map(len, (Document(f"docs/{name}.md").fences() for name in NAMES))) == len(BLOCKS)
