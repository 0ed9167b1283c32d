"""The assignment of ids to rows, compared with a dictionary."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import law
from support.nights import Array, item_name

from embsync.store.rows import ParentRows, ages, plan


def _ids(numbers: list[int], named: bool) -> Array:
    if named:
        return np.array([item_name(number).encode() for number in numbers], f"S{8 + max(numbers, default=0)}")
    return np.array(numbers, np.int64)


nights = st.lists(st.lists(st.integers(0, 14), unique=True, min_size=1).filter(bool), min_size=1, max_size=7)


@law
@given(nights, st.integers(0, 4), st.booleans())
def test_rows_agree_with_a_dictionary_over_many_nights(
    live_each_night: list[list[int]], carry: int, named: bool
) -> None:
    """Ids ascend, live ones are those of the snapshot, and absent ones are carried for ``carry`` steps, then dropped.

    Version numbers have gaps, as after rollbacks, since only steps of the lineage count.
    """
    parent: ParentRows | None = None
    model: dict[bytes | int, int] = {}  # id -> last version in which it was live
    lineage: list[int] = []
    for step, numbers in enumerate(live_each_night):
        version = 1 + step * 3
        ids = _ids(numbers, named)
        made = plan(ids, parent, carry)
        before, was_live = dict(model), {id_ for id_, seen in model.items() if lineage and seen == lineage[-1]}
        lineage.append(version)
        model = {id_: seen for id_, seen in model.items() if len(lineage) - 1 - lineage.index(seen) <= carry}
        model |= dict.fromkeys(ids.tolist(), version)

        assert made.ids.tolist() == sorted(model)
        seen = made.last_seen(version, parent)
        assert seen.tolist() == [model[id_] for id_ in made.ids.tolist()]
        assert made.live.tolist() == [model[id_] == version for id_ in made.ids.tolist()]
        assert made.ids[made.rows].tolist() == ids.tolist()
        today = set(ids.tolist())
        assert made.counts.common == len(today & was_live)
        assert made.counts.new == len(today - was_live)
        assert made.counts.returned == len(today & set(before) - was_live)
        assert made.counts.gone == len(was_live - today)
        assert made.ids[made.carried].tolist() == sorted(set(model) - today)
        if parent is not None:
            assert parent.ids[made.carried_from].tolist() == made.ids[made.carried].tolist()
            old = [(-1 if row < 0 else parent.ids[row]) for row in made.parent_live]
            assert old == [id_ if id_ in was_live else -1 for id_ in ids.tolist()]
            moved = [(-1 if row < 0 else made.ids[row]) for row in made.row_map]
            assert moved == [id_ if id_ in today else -1 for id_ in parent.ids.tolist()]
        path = np.array(lineage)
        assert ages(seen, path).tolist() == [len(lineage) - 1 - lineage.index(value) for value in seen.tolist()]
        parent = ParentRows(made.ids, seen, path)


def test_the_order_of_ids_in_the_snapshot_does_not_matter() -> None:
    """The same ids in any order get the same rows."""
    ids = np.array([5, 1, 9, 3])
    parent = ParentRows(np.array([1, 2, 9]), np.array([4, 3, 4]), np.array([3, 4]))
    one, other = plan(ids, parent, 5), plan(ids[::-1], parent, 5)
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.rows, other.rows[::-1])
    np.testing.assert_array_equal(one.parent_live, other.parent_live[::-1])


@pytest.mark.parametrize("seen", [2, 9])
def test_a_version_outside_the_lineage_is_older_than_all_of_it(seen: int) -> None:
    """The age of a version from a branch that was rolled back exceeds every step."""
    assert ages(np.array([seen]), np.array([1, 4, 6])).tolist() == [3]


def test_planning_needs_few_bytes_for_each_row() -> None:
    """Row numbers have a narrow type, so that planning takes at most 52 bytes per row."""
    before = np.arange(400_000)
    now = np.where(before % 100 == 99, before + len(before), before)
    parent = ParentRows(before, np.ones(len(before), np.int64), np.array([1]))
    tracemalloc.start()
    try:
        plan(now, parent, 7)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 52 * len(before)
