"""The rows that meet a condition are computed once, and each condition has its own."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from embsync.labels import LabelColumn
from embsync.reader.labels import _frozen, _thawed, remembered


class Column:
    """A label met by all even rows, which records the conditions evaluated."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def matching(self, condition: object) -> np.ndarray:
        """Record the condition."""
        self.asked.append(condition)
        return np.arange(6) % 2 == 0


def test_a_condition_is_evaluated_once() -> None:
    """Equal values of different types are different conditions, and the cached rows are read-only."""
    conditions: list[Any] = [1, 1.0, True, "1", None, [1, "a"], [1.0, "a"], {"min": 1}, {"min": 1.0, "max": None}]
    column = Column()
    matches = remembered({"price": cast(LabelColumn, column)}, 6)
    for _ in range(3):
        for condition in conditions:
            key = _frozen(condition)
            assert key is not None
            assert repr(_thawed(key)) == repr(condition)
            assert matches("price", key).tolist() == [True, False] * 3
            assert not matches("price", key).flags.writeable
    assert repr(column.asked) == repr(conditions)


def test_the_cache_of_conditions_is_bounded() -> None:
    """Of a hundred conditions on many rows only the last is cached; long and unusual ones never are."""
    column = Column()
    matches = remembered({"price": cast(LabelColumn, column)}, 1 << 25)
    for number in [*range(100), 99, 0]:
        matches("price", cast(Any, _frozen(number)))
    assert len(column.asked) == 101
    assert _frozen(list(range(1000))) is None
    assert _frozen(np.float64(1.0)) is None
    assert _frozen({"min": [1]}) is None
