"""The stable hash of ids, the folds and samples made from it, and lookup in sorted ids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import law
from support.nights import Array

from embsync.ids import FOLDS, fold_of, hash_ids, positions_in, sample

texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=24)


# Computed by an independent implementation on Python integers; the first is SplitMix64's first output from seed 0.
PINNED_INTEGERS = [
    0xE220A8397B1DCDAF,
    0x910A2DEC89025CC1,
    0xE4D971771B652C20,
    0x63CBE1E459320DD7,
    0x00AA50EA8E0FA9EB,
]
PINNED_STRINGS = [
    0x4F5DA978776A9DB1,
    0x1421A2DAB1981377,
    0xCCC342C6C5B2087C,
    0xB1851DE14C953ECC,
    0xF5F7EF8AB406A84B,
]


def _bytes(names: list[str]) -> Array:
    return np.array([name.encode() for name in names])


def test_hashes_never_change() -> None:
    """The hashes have fixed values: anchors, samples and folds of all existing stores depend on them."""
    assert hash_ids(np.array([0, 1, -1, 7, 2**62])).tolist() == PINNED_INTEGERS
    assert hash_ids(_bytes(["a", "book-7", "12345678", "123456789", "müsli-1234567890"])).tolist() == PINNED_STRINGS


@law
@given(st.lists(texts, min_size=1, max_size=8), st.integers(0, 40))
def test_hashes_do_not_depend_on_padding(names: list[str], wider: int) -> None:
    """An id has the same hash beside longer ones, in an array of any width."""
    ids = _bytes(names)
    np.testing.assert_array_equal(hash_ids(ids.astype(f"S{ids.dtype.itemsize + wider}")), hash_ids(ids))
    for name, value in zip(names, hash_ids(ids).tolist(), strict=True):
        assert hash_ids(_bytes([name]))[0] == value


@law
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30, unique=True), st.integers(1, 30))
def test_a_sample_depends_on_the_ids_alone(ids: list[int], size: int) -> None:
    """Any order gives the same ids, positions are ascending, and a larger sample contains a smaller one."""
    array = np.array(ids, np.int64)
    chosen = sample(array, size)
    assert (np.diff(chosen) > 0).all()
    assert len(chosen) == min(size, len(ids))
    back = array[::-1]
    assert set(back[sample(back, size)].tolist()) == set(array[chosen].tolist())
    assert set(array[sample(array, size + 1)].tolist()) >= set(array[chosen].tolist())


def test_a_sample_stays_mostly_the_same_when_ids_come_and_go() -> None:
    """One percent of churn changes about one percent of the sample, so anchors remain the same for long."""
    before, after = np.arange(100_000), np.arange(1_000, 101_000)
    kept = np.intersect1d(before[sample(before, 2_000)], after[sample(after, 2_000)])
    assert len(kept) > 1_900


def test_folds_are_even_and_cover_long_arrays() -> None:
    """Each of ten folds has about a tenth of the ids, for more ids than one block of hashing."""
    counts = np.bincount(fold_of(np.arange(300_000)), minlength=FOLDS)
    assert len(counts) == FOLDS
    assert counts.min() > 29_000
    np.testing.assert_array_equal(fold_of(np.arange(270_000, 270_010)), fold_of(np.arange(300_000))[270_000:270_010])


@law
@given(st.lists(texts, max_size=20), st.lists(texts, max_size=20, unique=True))
def test_positions_in_sorted_strings(wanted: list[str], known: list[str]) -> None:
    """Each id's position among sorted ones, or -1 if it is missing, does not depend on the widths of the two arrays."""
    stored = np.sort(_bytes(known)) if known else np.empty(0, "S1")
    asked = _bytes(wanted) if wanted else np.empty(0, "S1")
    listed = stored.tolist()
    expected = [listed.index(name.encode()) if name.encode() in listed else -1 for name in wanted]
    assert positions_in(asked, stored).tolist() == expected


@pytest.mark.parametrize("known", [[], [5], [-3, 5, 9]])
def test_positions_in_sorted_integers(known: list[int]) -> None:
    """Values below, between and above the known ids have no position."""
    wanted = np.array([-9, -3, 0, 5, 9, 2**62])
    expected = [known.index(id_) if id_ in known else -1 for id_ in wanted.tolist()]
    assert positions_in(wanted, np.array(known, np.int64)).tolist() == expected
