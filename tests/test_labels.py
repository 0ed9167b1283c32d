"""Labels as columns: concatenation preserves values, and conditions select the right rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import law

from embsync.errors import UsageError
from embsync.labels import LabelColumn, LabelEncoder, LabelKind, combined, damage, unchanged

_WORD = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
VALUES: dict[LabelKind, st.SearchStrategy[Any]] = {
    "string": _WORD,
    "integer": st.integers(-(2**63) + 1, 2**63 - 1),
    "float": st.floats(allow_nan=False),
    "boolean": st.booleans(),
    "strings": st.lists(_WORD, max_size=3),
}


def column(kind: LabelKind, values: list[Any], step: int = 3) -> LabelColumn:
    """Return values as a column, encoded in parts."""
    encoder = LabelEncoder("x", kind)
    for start in range(0, len(values), step):
        encoder.add(values[start : start + step])
    return encoder.column()


@law
@given(st.data(), st.sampled_from(list(VALUES)))
def test_concatenated_labels_equal_their_parts(data: st.DataObject, kind: LabelKind) -> None:
    """Every value and every null of two columns is at the row of the combined column to which it was assigned."""
    lists = [data.draw(st.lists(st.none() | VALUES[kind], max_size=9)) for _ in range(2)]
    columns = [column(kind, values) for values in lists]
    for one, values in zip(columns, lists, strict=True):
        assert one.at(np.arange(len(values))) == values
        assert list(damage(one, len(values))) == []
        assert one.nulls == sum(value is None for value in values)
    count = sum(map(len, lists)) + 2
    to = np.random.default_rng(len(lists[0])).permutation(count)
    first, second = to[: len(lists[0])], to[len(lists[0]) : count - 2]
    made = combined(
        "x", kind, count, [(columns[0], first, np.arange(len(first))), (columns[1], second, np.arange(len(second)))]
    )
    expected: list[Any] = [None] * count
    for row, value in zip([*first, *second], lists[0] + lists[1], strict=True):
        expected[row] = value
    assert made.at(np.arange(count)) == expected
    assert made.at(np.array([-1])) == [None]
    assert list(damage(made, count)) == []


@law
@given(st.data(), st.sampled_from(list(VALUES)))
def test_a_condition_agrees_with_python(data: st.DataObject, kind: LabelKind) -> None:
    """A single value, a list of any length and null select the same rows as ``==`` and ``in``."""
    values = data.draw(st.lists(st.none() | VALUES[kind], min_size=1, max_size=9))
    flat = (
        [word for one in values for word in (one or [])]
        if kind == "strings"
        else [one for one in values if one is not None]
    )
    wanted = data.draw(
        st.lists(st.sampled_from(flat) if flat else VALUES["string" if kind == "strings" else kind], max_size=3)
    )
    wanted = wanted * data.draw(st.sampled_from([1, 20])) + data.draw(st.sampled_from([[], [None]]))

    def meets(value: Any) -> bool:
        return value in wanted if kind != "strings" or value is None else any(word in wanted for word in value)

    assert column(kind, values).matching(wanted).tolist() == [meets(value) for value in values]


@law
@given(st.data(), st.sampled_from(list(VALUES)), st.none() | st.sampled_from(list(VALUES)))
def test_unchanged_labels_agree_with_python(data: st.DataObject, kind: LabelKind, other: LabelKind | None) -> None:
    """Rows are compared by value, not by code; null equals only null; a value of another kind equals nothing."""
    other = kind if other is None else other
    word = st.text("ab", max_size=2)  # often of one length, and not equal
    few: dict[LabelKind, st.SearchStrategy[Any]] = {**VALUES, "string": word, "strings": st.lists(word, max_size=2)}
    rows = data.draw(st.lists(st.none() | few[kind], max_size=9))
    others = [one if kind == other and data.draw(st.booleans()) else data.draw(st.none() | few[other]) for one in rows]
    shuffled = np.random.default_rng(len(rows)).permutation(len(rows))
    second = column(other, [others[place] for place in shuffled])
    found = unchanged(column(kind, rows), np.arange(len(rows)), second, np.argsort(shuffled))
    expected = [one == two and (kind == other or one is None) for one, two in zip(rows, others, strict=True)]
    assert found.tolist() == expected


def test_strings_of_one_length_are_compared_by_their_bytes() -> None:
    """The same code in two dictionaries does not mean the same string."""
    rows = np.arange(3)
    found = unchanged(column("string", ["a", "c", None]), rows, column("string", ["b", "c", "x"]), rows)
    assert found.tolist() == [False, True, False]
    lists = column("strings", [["a", "b"], ["b", "a"], []]), column("strings", [["a", "b"], ["a", "b"], []])
    assert unchanged(lists[0], rows, lists[1], rows).tolist() == [True, False, True]


@pytest.mark.parametrize("kind", ["integer", "float"])
def test_a_range_includes_both_ends_and_no_null(kind: LabelKind) -> None:
    """Each end may be omitted."""
    numbers = column(kind, [1, 5, None, 20, 21])
    assert numbers.matching({"min": 5, "max": 20}).tolist() == [False, True, False, True, False]
    assert numbers.matching({"min": 5.5}).tolist() == [False, False, False, True, True]
    assert numbers.matching({"max": 5}).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("kind", "condition", "said"),
    [
        ("string", 1, "found 1; expected a string"),
        ("string", {"min": 1}, "a range for values that are not numbers; found string"),
        ("integer", "1", "found '1'; expected an integer"),
        ("integer", 1.5, "found 1.5"),
        ("integer", True, "found True"),
        ("integer", 2**63, "expected an integer"),
        ("float", float("nan"), "found nan"),
        ("float", {"min": "5"}, "min is not a number; found '5'"),
        ("float", {"least": 5}, "not a range; found least; expected min, max or both"),
        ("float", {}, "not a range; found neither"),
        ("boolean", 1, "found 1; expected true or false"),
        ("strings", ["a", 2], "found 2"),
    ],
)
def test_a_value_of_another_type_is_refused(kind: LabelKind, condition: object, said: str) -> None:
    """The message has the label, the value found and the expected type."""
    with pytest.raises(UsageError, match="label x") as caught:
        column(kind, [None]).matching(condition)
    assert said in str(caught.value)


def test_impossible_label_files_are_damage() -> None:
    """A wrong number of rows, codes beyond the dictionary and descending offsets are damage."""
    words = column("string", ["a", "b"])
    assert list(damage(words, 3)) == ["2 rows, not 3"]
    assert list(damage(LabelColumn("x", "string", np.array([2]), None, words.offsets, words.text), 1))
    assert list(damage(LabelColumn("x", "string", np.array([0]), None, np.array([0, 2, 1]), words.text), 1))
    assert list(damage(LabelColumn("x", "strings", np.array([0]), np.array([0, 2]), words.offsets, words.text), 1))
