"""The reader's interface: search, lookup, age and both maps, with integer and string ids."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nights import Array, Night, configured, item_name, night
from support.parts import all_in_parts
from support.quick import quick_directory
from support.stores import running, sync
from support.waiting import PATIENCE

import embsync
from embsync.errors import NotFoundError, StoreError, UsageError
from embsync.ids import positions_in
from embsync.reader import StoreReader, Version
from embsync.reader.side import Side
from embsync.reader.sparse_index import SparseIndex
from embsync.store import Store
from embsync.store.layout import map_array

LEFT, NEW = 5, 5  # ids of one night's churn of 100 items
SIZES = {"items": 100, "users": 80, "width": 6}


@pytest.fixture(scope="module", params=["integer", "string"])
def nights(request: pytest.FixtureRequest) -> list[Night]:
    """Three retrainings: items leave and join."""
    made = [night(number, **SIZES).reordered(number) for number in range(3)]
    return made if request.param == "integer" else [one.named() for one in made]


@pytest.fixture(scope="module", params=["arrays", "parts"])
def reader(nights: list[Night], request: pytest.FixtureRequest) -> Iterator[StoreReader]:
    """A store with all three nights, in format 1 or with the users in part files."""
    with quick_directory() as directory:
        for number, made in enumerate(nights):
            sync(directory / "S", made, f"n{number}")
        if request.param == "parts":
            all_in_parts(directory / "S")
        with embsync.open(directory / "S") as opened:
            yield opened


@pytest.fixture
def version(reader: StoreReader) -> Version:
    """The newest version."""
    return reader.current


def _stable(version: Version, made: Night) -> tuple[Array, Array]:
    items, users = made.both
    return version.transform.items(items), version.transform.users(users)


def test_lookup_gives_the_stable_vector_of_every_live_id(version: Version, nights: list[Night]) -> None:
    """Vectors are returned in the requested order, and are the mapped raw vectors."""
    items, users = _stable(version, nights[-1])
    assert version.users is not None
    np.testing.assert_allclose(version.items.lookup(nights[-1].item_ids), items, atol=1e-6)
    np.testing.assert_allclose(version.users.lookup(nights[-1].user_ids.tolist()), users, atol=1e-6)
    assert version.items.lookup([]).shape == (0, 6)
    twice = version.items.lookup(nights[-1].item_ids[[3, 3]])
    np.testing.assert_array_equal(twice[0], twice[1])
    assert twice.dtype == np.float32


def test_absent_ids_are_carried_with_their_age(reader: StoreReader, nights: list[Night]) -> None:
    """An id of the first night only has the same vector as then, bit for bit, and is two versions old."""
    version = reader.current
    gone = np.setdiff1d(nights[0].item_ids, nights[1].item_ids)
    assert len(gone) == LEFT
    assert version.items.age(gone).tolist() == [2] * LEFT
    with reader.version(1) as first:
        assert version.items.lookup(gone).tobytes() == first.items.lookup(gone).tobytes()
    assert set(version.items.age(nights[2].item_ids).tolist()) == {0}
    assert not version.items.live[version.items.rows(gone)].any()


def test_missing_ids_are_an_error_nan_or_the_mean(version: Version, nights: list[Night]) -> None:
    """``missing`` selects the result; the error names some of the ids; ``age`` always raises it."""
    known = nights[-1].item_ids[0].item()
    text = isinstance(known, str)
    missing: list[Any] = [f"no-{n}" for n in range(7)] if text else list(range(-7, 0))
    with pytest.raises(NotFoundError, match=r"unknown items ids; found [^;]*, [^;]* and 2 more; hint"):
        version.items.lookup([known, *missing])
    nan = version.items.lookup([missing[0], known], missing="nan")
    assert np.isnan(nan[0]).all()
    assert np.isfinite(nan[1]).all()
    mean = version.items.lookup([known, missing[0]], missing="mean")
    np.testing.assert_allclose(mean[1], version.items.vectors[version.items.live].mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(mean[0], nan[1])
    with pytest.raises(UsageError, match="unknown option for missing ids; found 'zero'"):
        version.items.lookup([known], missing="zero")
    with pytest.raises(NotFoundError):
        version.items.age([missing[0]])


def test_search_returns_the_exact_top_of_the_raw_scores(version: Version, nights: list[Night]) -> None:
    """For every user, items and order are those of the raw model, with ids in the caller's type."""
    made = nights[-1]
    items, users = made.both
    ids, scores = version.search(version.transform.users(users), k=7)
    raw = users.astype(np.float64) @ items.T
    order = np.argsort(-raw, axis=1)[:, :7]
    assert ids.tolist() == made.item_ids[order].tolist()
    np.testing.assert_allclose(scores, np.take_along_axis(raw, order, axis=1), atol=1e-5)
    assert scores.dtype == np.float32
    assert ids.dtype.kind == ("U" if made.item_ids.dtype.kind == "U" else "i")
    one, _ = version.search(version.transform.users(users[0]), k=7)
    assert one.tolist() == ids[:1].tolist()


def test_search_never_returns_a_carried_id(version: Version, nights: list[Night]) -> None:
    """Only live items are returned, and k is limited to their number."""
    queries = version.items.vectors[~version.items.live][:3]
    ids, scores = version.search(queries, k=10_000)
    assert ids.shape == scores.shape == (3, 100)
    for line in ids:
        assert set(line.tolist()) == set(nights[-1].item_ids.tolist())
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (np.ones((2, 5)), 3, r"wrong width; found shape \(2, 5\); expected rows of 6 numbers"),
        (np.ones((2, 2, 6)), 3, "wrong width"),
        (np.full((1, 6), np.nan), 3, "NaN or infinity; found nan in query 0; expected finite numbers"),
        (np.ones((1, 6)), 0, "found 0; expected 1 or more"),
        (np.ones((1, 6)), 2.5, "found 2.5; expected 1 or more"),
        (np.ones((1, 6)), "3", "found '3'; expected 1 or more"),
        ([[1.0] * 6, [1.0]], 3, "different lengths"),
        ([["a"] * 6], 3, "not numbers; found <U1"),
    ],
)
def test_invalid_queries_are_refused(version: Version, queries: Array, k: int, message: str) -> None:
    """The error is raised before FAISS gets the queries."""
    with pytest.raises(UsageError, match=message):
        version.search(queries, k=k)


def test_any_integer_type_is_accepted_as_k(version: Version) -> None:
    """NumPy integers and integers beyond every machine word are accepted."""
    for k in (np.int64(3), np.uint8(3)):
        assert version.search(np.ones((1, 6)), k=k)[0].shape == (1, 3)
    assert version.search(np.ones((1, 6)), k=2**70)[0].shape == (1, 100)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0] * 6, [1.0]], "different lengths"),
        ([["a"] * 6], "found <U1"),
        (None, "found object"),
        ([[1.0] * 6, [np.nan] * 6], "found nan in row 1; expected finite numbers"),
        ([np.inf] * 6, "found inf in row 0; expected finite numbers"),
        ([[1e300] * 6], r"found 1e\+300 in row 0"),
    ],
)
def test_vectors_that_cannot_be_mapped_are_refused(version: Version, rows: Any, message: str) -> None:
    """The error has the value found, for both maps and for raw queries."""
    for mapped in (version.transform.items, version.transform.users_inverse):
        with pytest.raises(UsageError, match=message):
            mapped(rows)
    with pytest.raises(UsageError, match=message):
        version.search(rows, space="snapshot")


def test_maps_are_invertible(version: Version, nights: list[Night]) -> None:
    """Raw vectors are mapped and back within 1e-5, as one row or many; a wrong width is an error."""
    items, users = nights[-1].both
    there, back = version.transform, version.transform
    for raw, forth, inverse in ((items, there.items, back.items_inverse), (users, there.users, back.users_inverse)):
        again = inverse(forth(raw))
        assert np.linalg.norm(again - raw) < 1e-5 * np.linalg.norm(raw)
        np.testing.assert_allclose(inverse(forth(raw[0])), raw[0], atol=1e-5)
    with pytest.raises(UsageError, match=r"wrong width; found shape \(3, 5\); expected rows of 6"):
        version.transform.items(np.ones((3, 5)))


def test_maps_of_versions_compose(reader: StoreReader, nights: list[Night]) -> None:
    """Last night's raw vectors in tonight's raw basis are close to tonight's raw vectors."""
    new = reader.current
    with reader.version(2) as old:
        moved = nights[1].both[1].astype(np.float64) @ old.transform.maps.to(new.transform.maps, "users")
    _, before, after = np.intersect1d(nights[1].user_ids, nights[2].user_ids, return_indices=True)
    a, b = moved[before], nights[2].both[1][after]
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosines.mean() > 0.9


def test_a_version_describes_itself_and_is_read_only(version: Version) -> None:
    """A version has number, space and the manifest as in its file; all arrays are mapped read-only."""
    assert version.number == 3
    assert version.manifest["version"] == 3
    assert version.manifest["space_id"] == version.space_id
    assert version.lineage.tolist() == [1, 2, 3]
    assert version.users is not None
    arrays = [version.items.ids, version.items.vectors, version.items.last_seen, version.index_rows]
    for array in arrays if version.record.format == 2 else [*arrays, version.users.vectors]:
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]


def test_invalid_forms_of_ids_are_refused(version: Version) -> None:
    """Ids of another type or shape than the store's are a usage error; decimal strings are accepted for integers."""
    text = version.items.ids.dtype.kind == "S"
    wrong: list[Any] = [[1, 2], [1.5]] if text else [["x"], [1.5], [True]]
    for ids in [*wrong, [[1, 2]]]:
        with pytest.raises(UsageError):
            version.items.lookup(ids)
    if text:
        encoded = [name.encode() for name in version.items.names(np.arange(3)).tolist()]
        np.testing.assert_array_equal(version.items.lookup(encoded), version.items.vectors[:3])
    else:
        spelled = [str(id_) for id_ in version.items.ids[:3].tolist()]
        np.testing.assert_array_equal(version.items.lookup(spelled), version.items.vectors[:3])


def test_one_very_long_id_does_not_inflate_the_others(version: Version) -> None:
    """It is unknown among strings and invalid among integers; NumPy alone would allocate 4 GB."""
    assert version.users is not None
    known = version.items.names(np.arange(len(version.items.ids))).astype(str).tolist()
    ids: list[str] = ["7" * 1_000_000, *known * 10]
    if version.items.ids.dtype.kind == "S":
        assert np.isnan(version.items.lookup(ids, "nan")).any(axis=1).tolist() == [True] + [False] * (len(ids) - 1)
        assert version.search(np.ones(6), 3, blocked=ids)[0].shape == (1, 0)
        with pytest.raises(NotFoundError, match=r"found 7{80}; hint"):
            version.items.lookup(ids)
        assert np.isfinite(version.users.fold_in([ids, ids], missing="mean")).all()
    else:
        for asked in (version.items.lookup, version.users.fold_in):
            with pytest.raises(UsageError, match="64-bit integers in this store"):
                asked(ids)


def test_an_id_of_more_than_64_bits_is_unknown_or_refused(version: Version) -> None:
    """An unsigned integer beyond the range is never taken for a negative id."""
    if version.items.ids.dtype.kind == "S":
        pytest.skip("integer ids only")
    for ids in ([2**64 - 1], ["18446744073709551616"]):
        with pytest.raises((UsageError, NotFoundError)):
            version.items.lookup(ids)
    side = Side("items", np.array([-1, 4]), np.ones((2, 3), np.float32), np.array([1, 1]), np.array([1]))
    with pytest.raises((UsageError, NotFoundError)):
        side.lookup([2**64 - 1])


def test_refresh_switches_and_the_previous_version_stays_usable() -> None:
    """``refresh`` returns False if there is no new version; afterwards the previous one is still usable."""
    with quick_directory() as directory:
        root = directory / "S"
        with pytest.raises(NotFoundError, match="no store here"):
            embsync.open(root)
        sync(root, night(0, **SIZES), "n0")
        with embsync.open(root) as reader:
            old = reader.current
            before = old.items.vectors.tobytes()
            assert reader.refresh() is False
            sync(root, night(1, **SIZES), "n1", configured(store__keep_versions=1))
            assert reader.current is old
            assert reader.refresh() is True
            assert (reader.current.number, old.number) == (2, 1)
            assert old.items.vectors.tobytes() == before
            Store(root).rollback(1)
            assert reader.refresh() is True
            assert reader.current.number == 1
            old.close()


@pytest.mark.parametrize("dtype", [np.int64, "S5", "S36"])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 5000])
def test_the_sparse_index_equals_a_binary_search(count: int, dtype: Any) -> None:
    """Every id is found, and none between, before and after them is; this includes shorter and longer strings."""
    ids = np.sort((np.arange(count) * 7 + 11).astype(dtype))
    wanted = np.random.default_rng(count).permutation(np.arange(-3, count * 7 + 30)).astype(dtype)
    np.testing.assert_array_equal(SparseIndex(ids).positions(wanted), positions_in(wanted, ids))
    assert (SparseIndex(ids).positions(wanted) >= 0).sum() == count
    if np.dtype(dtype).kind == "S":
        longer = np.array([b"18", b"18 and more", b"\xff" * 50, b""])
        np.testing.assert_array_equal(SparseIndex(ids).positions(longer), positions_in(longer, ids))


def test_a_large_batch_equals_single_lookups() -> None:
    """Known and unknown ids of both types, in any order, give the results of single lookups."""
    with quick_directory() as directory:
        made = night(0, items=900, users=600, width=4)
        sync(directory / "I", made, "n0")
        sync(directory / "S", made.named(), "n0")
        for name in "IS":
            with embsync.open(directory / name) as reader:
                items = reader.current.items
                ids = np.random.default_rng(0).permutation(np.tile(items.names(np.arange(900)), 2))[:1500]
                unknown = np.arange(1500) % 7 == 3
                asked = np.where(unknown, np.array(-5 if name == "I" else "nobody"), ids)
                found = items.lookup(asked, "nan")
                assert type(found) is np.ndarray
                np.testing.assert_array_equal(np.isnan(found[:, 0]), unknown)
                for place in range(0, 1500, 111):
                    np.testing.assert_array_equal(items.lookup(asked[place : place + 1], "nan")[0], found[place])
                assert (items.lookup(asked.tolist(), "mean")[unknown] == items.mean).all()
                assert items.lookup(ids).tobytes() == items.vectors[items.rows(ids)].tobytes()


def test_a_damaged_version_is_never_switched_to() -> None:
    """With a file of another size, refresh raises, and the current version stays."""
    with quick_directory() as directory:
        root = directory / "S"
        sync(root, night(0, **SIZES), "n0")
        with embsync.open(root) as reader:
            sync(root, night(1, **SIZES), "n1")
            file = root / "versions/000002/users/vectors.npy"
            data = file.read_bytes()
            file.write_bytes(data[:-4])
            found = rf"damaged version; found {len(data) - 4} bytes; expected {len(data)} bytes"
            with pytest.raises(StoreError, match=found):
                reader.refresh()
            assert reader.current.number == 1
            file.unlink()
            with pytest.raises(StoreError, match="No such file"):
                reader.refresh()
            file.write_bytes(data)
            (root / "versions/000002/manifest.json").write_text("{")
            with pytest.raises(StoreError, match="damaged manifest"):
                reader.refresh()
            first = root / "versions/000001/users/vectors.npy"
            whole = first.read_bytes()
            for damaged in (whole.replace(b"}", b" ", 1), whole.replace(b"'<f4'", b"'<f5'", 1)):
                first.write_bytes(damaged)
                with reader.version(1) as version, pytest.raises(StoreError, match="damaged or missing file"):
                    version.side("users")
            with pytest.raises(NotFoundError, match="no version 7"):
                reader.version(7)


def test_several_threads_may_open_versions_at_once(version: Version) -> None:
    """NumPy evaluates an array's header, which fails in CPython 3.11 if another thread does so at the same time."""
    path, kind = version.path / "items" / "ids.npy", version.items.ids.dtype.kind

    def opened(_: int) -> int:
        return sum(len(map_array(path, ("S" if kind != "i" else "<i8",), (None,))) for _ in range(100))

    def switch(*_: object) -> None:
        time.sleep(0)

    thresholds = gc.get_threshold()
    gc.callbacks.append(switch)
    gc.set_threshold(7)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(opened, range(8))) == {100 * len(version.items.ids)}
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(switch)


def test_a_store_without_versions_is_reported(tmp_path: Path) -> None:
    """The error says that the path is a store without a version."""
    Store(tmp_path / "S").create()
    with pytest.raises(NotFoundError, match="no version yet"):
        embsync.open(tmp_path / "S")


def test_a_store_of_items_has_no_users() -> None:
    """``users`` is None, queries are items, and the map equals the transpose of its inverse."""
    with quick_directory() as directory:
        made = night(0, **SIZES).named().one_sided()
        sync(directory / "S", made, "n0")
        with embsync.open(directory / "S") as reader:
            version = reader.current
            assert version.users is None
            with pytest.raises(UsageError, match="no users"):
                version.side("users")
            with pytest.raises(UsageError, match="no such side"):
                version.side("persons")
            ids, _ = version.search(version.items.lookup([item_name(1000)]), k=1)
            np.testing.assert_allclose(
                version.transform.items_inverse(version.transform.items(made.items)), made.items, atol=1e-5
            )
            assert ids.shape == (1, 1)


LOOP = """
import sys, time
import numpy as np
import embsync
from embsync.ids import positions_in
reads, seen = 0, set()
reader = embsync.open(sys.argv[1])
print("ready", flush=True)
while reader.current.number < int(sys.argv[2]):
    reader.refresh()
    version = embsync.open(sys.argv[1]).current
    for one in (version, reader.current):
        number = one.number
        assert one.lineage[-1] == number
        assert one.manifest["version"] == number
        assert int(one.items.last_seen.max()) == number == int(one.users.last_seen.max())
        assert len(one.items.ids) == len(one.items.vectors) == one.record.items.rows
        ids, scores = one.search(one.users.vectors[:2], k=3)
        stable = one.items.lookup(ids[0]) @ one.users.vectors[0]
        assert np.allclose(stable, scores[0], atol=1e-5)
        reads += 1
        seen.add(number)
    version.close()
print(reads, len(seen), flush=True)
"""


def test_readers_in_other_processes_never_see_a_torn_or_missing_version() -> None:
    """Two readers loop while versions are published, rolled back and pruned without pauses."""
    with quick_directory() as directory:
        root = directory / "S"
        config = configured(store__keep_versions=1)
        sync(root, night(0, **SIZES), "n0", config)
        last = 25
        with running(LOOP, root, last) as one, running(LOOP, root, last) as other:
            for reader in (one, other):
                assert reader.stdout is not None
                assert reader.stdout.readline() == "ready\n"
            for number in range(1, last):
                sync(root, night(number % 5, **SIZES), f"n{number}", config)
                if number % 6 == 0 and number < last - 1:
                    Store(root).rollback(Store(root).numbers()[0])
            for reader in (one, other):
                output, _ = reader.communicate(timeout=PATIENCE)
                assert reader.returncode == 0
                reads, seen = map(int, output.split())
                assert reads > last
                assert seen > 5


def test_importing_the_reader_loads_neither_watcher_nor_daemon() -> None:
    """Reading does not load modules of the watcher and the daemon."""
    code = (
        "import sys, embsync; heavy = {'watchdog', 'click', 'rich', 'embsync.pipeline', 'embsync.cli'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(embsync.__file__).parents[1])},
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.services("pandas")
def test_a_side_converts_to_pandas_and_arrow(version: Version) -> None:
    """Ids have the caller's type, vectors are the mapped arrays; reading them back gives what was published."""
    side = version.items
    frame, table = side.to_pandas(), side.to_arrow()
    assert frame.index.tolist() == table["id"].to_pylist() == side.names(np.arange(len(side))).tolist()
    assert frame.dtypes.tolist() == [np.float32] * side.vectors.shape[1]
    np.testing.assert_array_equal(frame.to_numpy(), side.vectors)
    assert np.shares_memory(frame.to_numpy(), side.vectors)
    np.testing.assert_array_equal(np.stack(table["vector"].to_pylist()), side.vectors)
    assert table["last_seen"].to_pylist() == side.last_seen.tolist()
    assert len(frame[side.live]) == version.record.items.live


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_a_missing_library_is_named(version: Version, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=f"{library} is not installed; hint: pip install {library}"):
        version.items.to_pandas() if library == "pandas" else version.items.to_arrow()
