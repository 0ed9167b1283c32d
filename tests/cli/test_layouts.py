"""``embsync sync`` on every layout, end to end: the same model becomes the same stable version."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.safetensors import save_file
from threadpoolctl import threadpool_limits

import embsync
from embsync.cli.main import run

pa = pytest.importorskip("pyarrow", reason="needs the parquet extra")
pq = pytest.importorskip("pyarrow.parquet", reason="needs the parquet extra")

RNG = np.random.default_rng(5)
ITEMS, USERS = RNG.standard_normal((300, 8)).astype("f4"), RNG.standard_normal((200, 8)).astype("f4")
ITEM_IDS, USER_IDS = np.arange(300) * 3 + 1, np.arange(200) * 7 + 10**12
SIDES = (("items", ITEMS, ITEM_IDS), ("users", USERS, USER_IDS))


def npy(path: Path) -> Path:
    path.mkdir()
    for side, vectors, ids in SIDES:
        np.save(path / f"{side}.npy", vectors)
        np.save(path / f"{side[:-1]}_ids.npy", ids)
    return path


def big_endian_fortran(path: Path) -> Path:
    path.mkdir()
    for side, vectors, ids in SIDES:
        np.save(path / f"{side}.npy", np.asfortranarray(vectors.astype(">f4")))
        np.save(path / f"{side[:-1]}_ids.npy", ids.astype(">i8"))
    return path


def float64(path: Path) -> Path:
    path.mkdir()
    for side, vectors, ids in SIDES:
        np.save(path / f"{side}.npy", vectors.astype("f8"))
        np.save(path / f"{side[:-1]}_ids.npy", ids)
    return path


def any_order(path: Path) -> Path:
    path.mkdir()
    for side, vectors, ids in SIDES:
        order = np.random.default_rng(1).permutation(len(ids))
        np.save(path / f"{side}.npy", vectors[order])
        np.save(path / f"{side[:-1]}_ids.npy", ids[order])
    return path


def npz(path: Path) -> Path:
    target = path.with_suffix(".npz")
    np.savez_compressed(target, items=ITEMS, item_ids=ITEM_IDS, users=USERS, user_ids=USER_IDS)
    return target


def rows_of(vectors: np.ndarray, ids: np.ndarray, names: tuple[str, str]) -> object:
    return pa.table({names[0]: ids, names[1]: pa.array(list(vectors), pa.list_(pa.float32()))})


def parquet_files(path: Path) -> Path:
    path.mkdir()
    for side, vectors, ids in SIDES:
        pq.write_table(
            rows_of(vectors, ids, ("item_id" if side == "items" else "user_id", "embedding")), path / f"{side}.parquet"
        )
    return path


def parquet_parts(path: Path) -> Path:
    for side, vectors, ids in SIDES:
        (path / side).mkdir(parents=True)
        for part, start in enumerate(range(0, len(ids), 70)):
            rows = slice(start, start + 70)
            pq.write_table(rows_of(vectors[rows], ids[rows], ("id", "vector")), path / side / f"part-{part}.parquet")
        (path / side / "_SUCCESS").touch()
    return path


def spark_names(path: Path) -> Path:
    for folder, (_, vectors, ids) in zip(("itemFactors", "userFactors"), SIDES, strict=True):
        (path / folder).mkdir(parents=True)
        pq.write_table(rows_of(vectors, ids, ("id", "features")), path / folder / "part-00000.snappy.parquet")
    return path


def safetensors(path: Path) -> Path:
    path.mkdir()
    for side, vectors, ids in SIDES:
        save_file({"vectors": vectors, "ids": ids}, path / f"{side}.safetensors")
    return path


EXACT = (npy, big_endian_fortran, npz, parquet_files, parquet_parts, spark_names, safetensors)


def published(snapshot: Path, store: Path) -> embsync.Version:
    assert run(["sync", str(snapshot), "--store", str(store), "--json"]) == 0
    return embsync.open(store).current


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> embsync.Version:
    folder = tmp_path_factory.mktemp("expected")
    return published(npy(folder / "day=1"), folder / "store")


@pytest.mark.parametrize("write", EXACT, ids=lambda write: write.__name__)
def test_every_layout_gives_the_same_version(
    write: Callable[[Path], Path], tmp_path: Path, expected: embsync.Version
) -> None:
    """Equal order and type give an equal fingerprint, equal ids and vectors that are equal bit for bit."""
    with published(write(tmp_path / "day=1"), tmp_path / "store") as found:
        assert found.manifest["snapshot"]["fingerprint"] == expected.manifest["snapshot"]["fingerprint"]
        for side in ("items", "users"):
            assert np.array_equal(getattr(found, side).ids, getattr(expected, side).ids)
            assert np.array_equal(getattr(found, side).vectors, getattr(expected, side).vectors)


@pytest.mark.parametrize("write", [any_order, float64], ids=lambda write: write.__name__)
def test_other_orders_and_types_differ_by_rounding_only(
    write: Callable[[Path], Path], tmp_path: Path, expected: embsync.Version
) -> None:
    """The ids are equal, and the vectors agree within 1e-6 of their norm."""
    with published(write(tmp_path / "day=1"), tmp_path / "store") as found:
        for side in ("items", "users"):
            assert np.array_equal(getattr(found, side).ids, getattr(expected, side).ids)
            a, b = getattr(found, side).vectors, getattr(expected, side).vectors
            assert np.abs(a - b).max() <= 1e-6 * np.abs(b).max()


@pytest.mark.services("implicit")
def test_a_saved_implicit_model_is_synced_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model saved by implicit has factors without ids; row numbers are the ids if so configured."""
    from implicit.cpu import als
    from scipy.sparse import random as random_matrix

    with threadpool_limits(1, "blas"):
        model = als.AlternatingLeastSquares(factors=8, iterations=2, random_state=1, num_threads=1)
    ratings = random_matrix(200, 300, density=0.1, random_state=1, format="csr", dtype="f4")
    with threadpool_limits(1, "blas"):
        model.fit(ratings, show_progress=False)
    model.save(str(tmp_path / "model.npz"))
    assert run(["sync", str(tmp_path / "model.npz"), "--store", str(tmp_path / "store")]) == 3
    monkeypatch.setenv("EMBSYNC_SNAPSHOT__ROW_NUMBER_IDS", "true")
    with published(tmp_path / "model.npz", tmp_path / "store") as version:
        assert version.users is not None
        raw = version.transform.users_inverse(version.users.vectors)
        assert np.allclose(raw, model.user_factors, atol=1e-5)


def test_word2vec_text_is_synced_as_one_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A single side of string ids keeps its item-item products, and the store can be searched by these ids."""
    keyed = pytest.importorskip("gensim.models", reason="needs gensim").KeyedVectors(8)
    keyed.add_vectors([f"word{number}" for number in range(300)], ITEMS)
    keyed.save_word2vec_format(str(tmp_path / "words.vec"))
    with published(tmp_path / "words.vec", tmp_path / "store") as version:
        assert version.users is None
        stable = version.items.lookup([f"word{number}" for number in range(300)])
        assert np.allclose(stable @ stable.T, ITEMS @ ITEMS.T, atol=1e-3)
    capfd.readouterr()
    assert run(["search", "-i", "word7", "-k", "3", "--store", str(tmp_path / "store"), "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["results"][0]) == 3
