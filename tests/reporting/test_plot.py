"""Axes of charts."""

from __future__ import annotations

import pytest

from embsync.reporting.plot import ticks


@pytest.mark.parametrize(
    ("low", "high", "marks"), [(1, 6, [1, 2, 3, 4, 5, 6]), (1, 16, [5, 10, 15]), (0, 0.9, [0, 0.2, 0.4, 0.6, 0.8])]
)
def test_ticks_are_round_numbers_with_a_fraction(low: float, high: float, marks: list[float]) -> None:
    """Floats, even if all are integers: before Python 3.12 an integer has no ``is_integer``."""
    found = ticks(low, high)
    assert found == marks
    assert all(type(mark) is float for mark in found)
