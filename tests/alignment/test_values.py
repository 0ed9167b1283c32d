"""Figures of sampled raw values, on rows made to have them and on rows that do not."""

from __future__ import annotations

import numpy as np
import pytest

from embsync.alignment.values import Values, examine

ROWS = np.random.default_rng(1).standard_normal((200, 4)).astype(np.float32)


def test_normal_values_are_not_reported() -> None:
    """One value is always a column's largest; rows of zeros are counted elsewhere."""
    assert examine(ROWS) == Values(0.0, 0.0, 0.0)
    assert examine(np.vstack([ROWS, np.zeros((50, 4), np.float32)])) == Values(0.0, 0.0, 0.0)
    assert examine(np.zeros((50, 4), np.float32)) == Values(0.0, 0.0, 0.0)


def test_saturated_columns_are_counted() -> None:
    """Saturation at both ends counts as one column; zeros count only if the entire column is zero."""
    clipped = ROWS.copy()
    clipped[:, 0] = np.clip(clipped[:, 0], *np.quantile(ROWS[:, 0], [0.1, 0.8], method="nearest"))
    assert examine(clipped).saturation == pytest.approx(0.3, abs=0.02)
    constant = ROWS.copy()
    constant[:, 1] = 0.0
    assert examine(constant).saturation == 1.0
    positive = np.maximum(ROWS, 0.0)
    assert examine(positive).saturation == 0.0
    assert examine(positive).zero_values == pytest.approx(0.5, abs=0.05)


def test_identical_rows_count_as_repeated() -> None:
    """Two identical rows both count; a row that differs in one number does not."""
    made = ROWS.copy()
    made[10], made[20, 1:] = made[3], made[4, 1:]
    assert examine(made).repeated == pytest.approx(2 / 200)
