"""The first pass: sums over blocks, errors for invalid values, and factors of ill-conditioned sides."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import law
from support.nights import rotation
from support.waiting import eventually

import embsync
from embsync.alignment import gram
from embsync.alignment.gram import GRAM_CONDITION, Pairing, qr_factor, sum_side, triangular_factor
from embsync.errors import SnapshotError
from embsync.ids import fold_of, hash_ids
from embsync.rows import ArrayRows, as_slice, block_rows, map_blocks, row_numbers, worker_count

WIDTH = 64
ROWS = 2 * block_rows(WIDTH) + 100  # two whole blocks and a short one


def _rows(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((ROWS, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sums_over_blocks_equal_the_dense_products(threads: int) -> None:
    """Gram and cross-Gram matrices are the same for any number of workers."""
    raw = _rows()
    random = np.random.default_rng(1)
    anchors = random.standard_normal((500, 5)).astype(np.float32)
    positions = np.full(ROWS, -1)
    positions[random.choice(ROWS, 400, replace=False)] = random.choice(500, 400, replace=False)
    weights = random.uniform(0, 2, ROWS)
    sums = sum_side(ArrayRows(raw), Pairing.of(positions, anchors, np.arange(500)), weights, threads=threads)
    wide = raw.astype(np.float64)
    np.testing.assert_allclose(sums.gram, wide.T @ wide, rtol=1e-10, atol=1e-9)
    paired = np.flatnonzero(positions >= 0)
    weight, left, right = weights[paired], wide[paired], anchors[positions[paired]].astype(np.float64)
    np.testing.assert_allclose(sums.cross, (left.T * weight) @ right, atol=1e-9)
    assert sums.judged is not None
    np.testing.assert_array_equal(sums.judged.rows, raw[paired])
    np.testing.assert_array_equal(sums.judged.anchors, right)
    np.testing.assert_allclose(sums.judged.roots, np.sqrt(weight))
    assert (sums.rows, sums.paired, sums.zero_rows) == (ROWS, 400, 0)


def test_a_large_side_is_judged_by_a_sample_and_fitted_completely(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judged rows are those with an anchor and the lowest hashes, however many anchors are absent."""
    monkeypatch.setattr(gram, "JUDGED", 1000)
    monkeypatch.setattr(gram, "JUDGED_A_DIMENSION", 1)
    raw, random = _rows(), np.random.default_rng(1)
    ids = np.arange(10, 10 + 2 * ROWS)
    anchors = random.standard_normal((len(ids), 5)).astype(np.float32)
    positions = random.permutation(len(ids))[:ROWS]
    positions[::3] = -1
    sums = sum_side(ArrayRows(raw), Pairing.of(positions, anchors, ids))
    there = np.flatnonzero(positions >= 0)
    hashes = hash_ids(ids[positions[there]])
    judged = np.sort(there[np.argsort(hashes)[:1000]])
    assert sums.judged is not None
    np.testing.assert_array_equal(sums.judged.rows, raw[judged])
    np.testing.assert_array_equal(sums.judged.anchors, anchors[positions[judged]])
    np.testing.assert_array_equal(sums.judged.places, positions[judged])
    np.testing.assert_array_equal(sums.judged.folds, fold_of(ids[positions[judged]]))
    wide, other = raw.astype(np.float64), anchors[positions].astype(np.float64)
    assert sums.paired == len(there)
    np.testing.assert_allclose(sums.cross, wide[there].T @ other[there], atol=1e-9)


def test_sampled_rows_are_kept_from_every_block() -> None:
    """The requested rows are returned unchanged and in order."""
    raw = _rows()
    wanted = np.array([0, 5, block_rows(WIDTH) - 1, block_rows(WIDTH), ROWS - 1])
    np.testing.assert_array_equal(sum_side(ArrayRows(raw), sampled=wanted).sample, raw[wanted])


def test_zero_rows_are_counted() -> None:
    """All-zero rows are valid and counted in every block; a row with a single non-zero value is not zero."""
    raw = _rows()
    raw[[0, 7, ROWS - 1]] = 0.0
    raw[7, 3] = 1e-30
    assert sum_side(ArrayRows(raw)).zero_rows == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 17, ROWS - 1])
def test_a_non_finite_value_is_reported_with_its_row(value: float, row: int) -> None:
    """The error names rows by their number in the entire side, not in a block."""
    raw = _rows()
    raw[row, 3] = value
    with pytest.raises(SnapshotError, match=rf"users\.npy: NaN or infinity; found in row {row} \(counted"):
        sum_side(ArrayRows(raw), name="users.npy")


def test_only_the_first_of_many_bad_rows_are_listed() -> None:
    """The message names five rows at most."""
    raw = _rows()
    raw[20:40, 1] = np.nan
    with pytest.raises(SnapshotError, match="found in row 20, 21, 22, 23, 24 and more"):
        sum_side(ArrayRows(raw))


def test_values_whose_squares_are_not_finite_are_refused() -> None:
    """Finite values too large to be summed are an error of the snapshot, without a warning."""
    raw = np.ones((300, 4))
    raw[250, 2] = 1e200
    with pytest.raises(SnapshotError, match=r"values too large; found up to 1e\+200 in rows 0 to 299"):
        sum_side(ArrayRows(raw))


@pytest.mark.parametrize("condition", [1e2, 1e5, 1e7, 1e9, 1e12])
def test_the_factor_is_accurate_at_any_condition_number(condition: float) -> None:
    """R^T R = T^T T including the smallest direction, which the Gram matrix alone would lose."""
    width = 6
    random = np.random.default_rng(8)
    left = np.linalg.qr(random.standard_normal((400, width)))[0]
    raw = left * np.geomspace(1, 1 / condition, width) @ rotation(width, 3)
    rows = ArrayRows(raw)
    factor = triangular_factor(sum_side(rows).gram, lambda: qr_factor(rows))
    np.testing.assert_allclose(np.tril(factor, -1), 0.0, atol=1e-300)
    found = np.linalg.svd(factor, compute_uv=False)
    expected = np.linalg.svd(raw, compute_uv=False)
    tolerance = 1e-15 * max(GRAM_CONDITION if condition <= GRAM_CONDITION else 1.0, 10.0) * condition
    np.testing.assert_allclose(found, expected, rtol=min(tolerance, 1e-2))


def test_rank_deficient_and_short_sides_are_factored() -> None:
    """With exact rank deficiency, or fewer rows than columns, in several blocks, QR still gives R^T R = T^T T."""
    random = np.random.default_rng(9)
    short = random.standard_normal((3, 5))
    twice = np.repeat(random.standard_normal((70_000, 2)), 2, axis=1)
    for raw in (short, twice):
        rows = ArrayRows(raw)
        factor = triangular_factor(sum_side(rows).gram, partial(qr_factor, rows))
        assert factor.shape == (raw.shape[1],) * 2
        np.testing.assert_allclose(factor.T @ factor, raw.T @ raw, atol=1e-9 * len(raw))


@pytest.mark.parametrize("condition", [1e5, 1e6])
def test_scores_of_ill_conditioned_sides_are_preserved(condition: float) -> None:
    """An uneven model (one side stretched, the other squeezed) keeps its scores, and its maps can be inverted."""
    width = 6
    random = np.random.default_rng(10)
    stretch = np.geomspace(1, condition, width)
    turn = rotation(width, 4)
    T = random.standard_normal((300, width)) * stretch @ turn
    W = random.standard_normal((200, width)) / stretch @ turn
    found = embsync.stabilize(T, W)
    assert found.rank == width
    assert found.users is not None
    error = np.linalg.norm(found.items.astype(np.float64) @ found.users.T - T @ W.T) / np.linalg.norm(T @ W.T)
    assert error < 1e-6
    assert found.preservation.score_error < 1e-6
    assert np.abs(found.transform.items @ found.transform.side("users").T - np.eye(width)).max() < 1e-4


@pytest.mark.parametrize(
    ("width", "rows"), [(1, 2**18), (128, 2048), (512, 1024), (768, 1365), (1024, 1024), (2**20, 64)]
)
def test_blocks_of_wide_rows_are_larger(width: int, rows: int) -> None:
    """A block has at least twice as many rows as values per row up to 2^20 values, and never fewer than 64 rows."""
    assert block_rows(width) == rows


def test_workers_stop_after_the_first_error() -> None:
    """An error in one block is raised unchanged, and no later result is returned."""

    def work(start: int, block: np.ndarray) -> int:
        if start:
            raise KeyError(start)
        return len(block)

    results = map_blocks(work, ArrayRows(_rows()), threads=2)
    assert next(results) == (0, block_rows(WIDTH))
    with pytest.raises(KeyError, match=str(block_rows(WIDTH))):
        next(results)


@pytest.mark.parametrize(("rows", "threads"), [(ROWS, 1), (block_rows(WIDTH), 4)])
def test_no_thread_is_started_for_one_worker_or_one_block(rows: int, threads: int) -> None:
    """The calling thread does the work; with several workers and blocks, others do."""
    raw = ArrayRows(_rows()[:rows])
    assert {thread for _, thread in map_blocks(lambda *_: threading.get_ident(), raw, threads)} == {
        threading.get_ident()
    }
    others = map_blocks(lambda *_: threading.get_ident(), ArrayRows(_rows()), threads=2)
    assert threading.get_ident() not in {thread for _, thread in others}


def test_there_are_as_many_workers_as_available_cores() -> None:
    """It is the default if the configuration has no number of workers."""
    allowed = os.sched_getaffinity(0)
    assert worker_count(0) == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert (worker_count(0), worker_count(3)) == (1, 3)
    finally:
        os.sched_setaffinity(0, allowed)


def test_at_most_two_blocks_per_worker_are_in_memory() -> None:
    """However slow the first block is, rows are not read far ahead of it."""
    read, first = [], threading.Event()

    class Counted(ArrayRows):
        def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
            for start, block in super().blocks():
                read.append(start)
                yield start, block

    def work(start: int, block: np.ndarray) -> int:
        if start == 0:
            first.wait(100)
        return len(block)

    many = Counted(np.broadcast_to(np.float32(1.0), (30 * block_rows(WIDTH), WIDTH)))
    results = map_blocks(work, many, threads=2)
    reader = threading.Thread(target=next, args=(results,))
    reader.start()
    try:
        eventually(lambda: len(read) > 4)
    finally:
        first.set()
        reader.join()
    assert len(read) <= 6
    assert sum(count for _, count in results) == many.count - block_rows(WIDTH)


@pytest.mark.parametrize(("bound", "size"), [(2**31 - 1, 4), (2**31, 8), (2**32, 8)])
def test_row_numbers_have_the_smallest_sufficient_type(bound: int, size: int) -> None:
    """No type overflows, and none takes twice the memory needed."""
    found = row_numbers(np.array([-1, bound - 1]), bound)
    assert found.tolist() == [-1, bound - 1]
    assert found.itemsize == size


def test_thread_limits_apply_to_libraries_loaded_later() -> None:
    """The limits apply to the libraries loaded when they are set, not only to those loaded at the first call."""
    code = """if True:
        import embsync.rows
        with embsync.rows.library_threads(1):
            pass
        import scipy.linalg, faiss, threadpoolctl
        before = threadpoolctl.threadpool_info()
        with embsync.rows.library_threads(1):
            print({pool["num_threads"] for pool in threadpoolctl.threadpool_info()}, len(before) > 1)
        assert threadpoolctl.threadpool_info() == before
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "{1} True\n"


@law
@given(st.lists(st.integers(0, 30), max_size=12))
def test_a_slice_refers_to_the_same_rows(rows: list[int]) -> None:
    """Consecutive rows become a slice, other rows stay an array; both select the same rows."""
    data = np.arange(31) * 10
    numbers = np.array(rows, np.int64)
    np.testing.assert_array_equal(data[as_slice(numbers)], data[numbers])
    assert isinstance(as_slice(np.arange(4, 9)), slice)
