"""Raw columns compared with the anchors: figures of damaged and of healthy columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.nights import rotation

from embsync.alignment.columns import EXPLAINED, ColumnAgreement
from embsync.alignment.gram import Pairing
from embsync.alignment.two_pass import SideInput, fit
from embsync.dtypes import Float64
from embsync.rows import ArrayRows
from embsync.sides import Sides

ROWS, WIDTH = 600, 8


def _model(width: int = WIDTH) -> Float64:
    """Rows with a common part, as those of item2vec."""
    return np.random.default_rng(1).standard_normal((ROWS, width)) + np.linspace(3, 0, width)


def _columns(rows: Float64, anchors: Float64, users: Float64 | None = None, dimension: int = WIDTH) -> ColumnAgreement:
    random = np.random.default_rng(2)
    other = random.standard_normal((ROWS, rows.shape[1])) if users is None else users
    positions = np.arange(ROWS)
    sides = [
        SideInput(ArrayRows(side.astype(np.float32)), Pairing.of(positions, to.astype(np.float32), positions))
        for side, to in ((rows, anchors), (other, np.pad(other, ((0, 0), (0, dimension - other.shape[1])))))
    ]
    found = fit(Sides(*sides), dimension=dimension, standardized=False).items.columns
    assert found is not None
    return found


def _noisy(rows: Float64) -> Float64:
    """Tonight's rows in other axes."""
    return (rows + 0.3 * np.random.default_rng(3).standard_normal(rows.shape)) @ rotation(rows.shape[1], 5)


def _with(rows: Float64, change: Callable[[Float64], Float64], column: int = 2) -> Float64:
    made = rows.copy()
    made[:, column] = change(rows[:, column])
    return made


def test_healthy_columns_are_explained() -> None:
    """Most of the variance of each column is explained, and all columns have the same scale."""
    found = _columns(_noisy(_model()), _model())
    assert found.fit(None) == pytest.approx(1 / (1 + 0.3**2), abs=0.05)
    assert found.scale == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    "change",
    [
        np.flip,
        lambda column: np.roll(column, 1),
        np.random.default_rng(4).permutation,
        lambda column: column.mean() + np.random.default_rng(4).standard_normal(len(column)),
        lambda column: np.resize(column[:50], len(column)),
    ],
    ids=["reversed", "one row off", "shuffled", "noise", "repeated block"],
)
def test_a_column_of_other_ids_is_not_explained(change: Callable[[Float64], Float64]) -> None:
    """A column of other ids is not explained, even if a common part makes every cosine high."""
    assert abs(_columns(_with(_noisy(_model()), change), _model()).fit(None)) < 0.04


def test_the_expected_fit_of_random_columns_is_zero_at_any_number_of_rows() -> None:
    """Without the adjustment, 8 axes would explain a quarter of the variance of 32 rows."""
    random = np.random.default_rng(6)
    found = []
    for _ in range(40):
        rows, positions = random.standard_normal((32, 8)).astype(np.float32), np.arange(32)
        pairing = Pairing.of(positions, random.standard_normal((32, 8)).astype(np.float32), positions)
        columns = fit(Sides(SideInput(ArrayRows(rows), pairing), None), dimension=8).items.columns
        assert columns is not None
        found.append(columns.fit(None))
    assert max(found) < 0.05


@pytest.mark.parametrize("by", [10.0, -10.0, 3.0])
def test_a_column_of_a_different_scale_is_detected(by: float) -> None:
    """The scale is the column's factor relative to the median column."""
    assert _columns(_with(_noisy(_model()), lambda column: by * column), _model()).scale == pytest.approx(
        abs(by), rel=0.2
    )


def test_the_scale_of_a_noise_column_is_not_judged() -> None:
    """Noise is drawn independently each night, so the anchors, averages over nights, contain little of it."""
    faint = _with(_model(), lambda column: 0.05 * column)
    noise = np.random.default_rng(7).standard_normal(ROWS)
    assert _columns(_with(_noisy(_model()), lambda _: noise), faint).scale < 1.5


def test_a_constant_or_weightless_column_is_not_judged() -> None:
    """A column of ones has no variance to explain, and noise that changes no ranking may occur every night."""
    rows = _noisy(_model())
    healthy = _columns(rows, _model()).fit(None)
    for change in (np.ones_like, lambda column: 1e-3 * np.flip(column)):
        assert _columns(_with(rows, change), _model()).fit(None) > healthy - 0.1


@pytest.mark.parametrize("constant", [0.1, 3.3])
def test_a_constant_model_has_no_column_figures(constant: float) -> None:
    """The variance left is only rounding, and no other column shows how small it is."""
    rows = np.full((ROWS, 1), constant)
    found = _columns(rows, np.random.default_rng(1).standard_normal((ROWS, 1)), dimension=1)
    assert np.isnan([found.fit(None), found.scale]).all()


def test_new_columns_of_a_wider_model_are_not_judged() -> None:
    """As many of the worst columns are skipped as there are new directions, and no more."""
    old = np.pad(_model(6), ((0, 0), (0, 2)))
    grown = np.hstack(
        [
            _model(6) + 0.3 * np.random.default_rng(3).standard_normal((ROWS, 6)),
            np.random.default_rng(7).standard_normal((ROWS, 2)),
        ]
    )
    assert _columns(grown, old).fit(None) > 0.8
    assert _columns(_with(grown, np.flip), old).fit(None) < 0.04


def _agreement(*explained: float) -> ColumnAgreement:
    return ColumnAgreement(np.array(explained), 0, 1.0)


def test_a_column_that_neither_side_explains_is_only_counted() -> None:
    """Noise on both sides, or noise and a constant, occurs every night; noise and an intact column is damage."""
    noise, constant = 0.01, np.nan
    own = _agreement(0.8, noise, noise, 0.7, noise)
    assert own.fit(_agreement(0.8, noise, constant, 0.7, constant)) == 0.7
    assert own.unexplained(_agreement(0.8, noise, constant, 0.7, constant)) == 3
    assert own.fit(_agreement(0.8, EXPLAINED, constant, 0.7, 0.0)) == noise
    assert own.unexplained(_agreement(0.8, EXPLAINED, constant, 0.7, 0.0)) == 2


def test_every_column_is_judged_if_the_other_side_is_uninformative() -> None:
    """All columns are judged if there is no other side, or if nothing of it fits."""
    own = _agreement(0.8, 0.01)
    assert own.fit(None) == own.fit(_agreement(0.0, np.nan)) == 0.01
    assert np.isnan(_agreement(np.nan).fit(None))
