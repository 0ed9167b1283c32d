"""The first sentence of a refusal: the most likely cause, and what is offered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nights import Night, night, rotation
from support.quick import quick_directory
from support.stores import sync

from embsync.pipeline import CheckRefusedError


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A store with one healthy version, which refusals leave unchanged."""
    with quick_directory() as directory:
        sync(directory / "S", night(0, churn=0.0), "n0")
        yield directory / "S"


def _side(made: Night, side: str, change: Callable[[Any], Any]) -> Night:
    return replace(made, **{side: change(getattr(made, side)).astype(np.float32)})


def _ids(made: Night, side: str, change: Callable[[Any], Any]) -> Night:
    key = f"{side[:-1]}_ids"
    return replace(made, **{key: change(getattr(made, key))})


def _column(rows: Any, change: Callable[[Any], Any]) -> Any:
    made = rows.copy()
    made[:, 3] = change(rows[:, 3])
    return made


def _some(rows: Any, share: float, change: Callable[[Any], Any]) -> Any:
    return np.where(np.arange(len(rows))[:, None] < share * len(rows), change(rows), rows)


def _shuffled(ids: Any) -> Any:
    return np.random.default_rng(5).permutation(ids)


def _other(seed: int) -> Night:
    """Return another model of the same ids."""
    return night(1, churn=0.0, seed=seed)


def _part(made: Night, side: str, share: float) -> Night:
    ids = getattr(made, f"{side[:-1]}_ids").copy()
    rows = np.arange(round(share * len(ids)))
    ids[rows] = np.roll(ids[rows], 1)
    return replace(made, **{f"{side[:-1]}_ids": ids})


def _only(made: Night, items: int) -> Night:
    order = np.argsort(made.item_ids)[:items]
    return replace(made, items=made.items[order], item_ids=made.item_ids[order])


def well() -> Night:
    return night(1, churn=0.0)


def _half_stale(side: str) -> Night:
    """Keep every second row as it was on the previous night."""
    before, made = night(0, churn=0.0), well()
    key = f"{side[:-1]}_ids"
    _, here, there = np.intersect1d(getattr(made, key), getattr(before, key), return_indices=True)
    rows = getattr(made, side).copy()
    rows[here[::2]] = getattr(before, side)[there[::2]]
    return replace(made, **{side: rows})


#: name -> (damage, kind, part of the sentence, whether an override is offered, whether a new space is offered)
CASES: dict[str, tuple[Callable[[], Night], str, str, bool, bool]] = {
    "item ids shuffled": (
        lambda: _ids(well(), "items", _shuffled),
        "shuffled_ids",
        "the item ids are shuffled",
        False,
        False,
    ),
    "user ids shuffled": (
        lambda: _ids(well(), "users", _shuffled),
        "shuffled_ids",
        "the user ids are shuffled",
        False,
        False,
    ),
    "item rows reversed": (
        lambda: _side(well(), "items", lambda rows: rows[::-1]),
        "shuffled_ids",
        "item ids",
        False,
        False,
    ),
    "another model": (lambda: _other(99), "another_model", "another model", False, True),
    "a placeholder": (
        lambda: _side(well(), "items", lambda rows: np.where(np.arange(len(rows))[:, None] == 7, -999.0, rows)),
        "enormous_rows",
        "a few items have enormous values",
        True,
        False,
    ),
    "a constant added": (
        lambda: _side(well(), "users", lambda rows: rows + 2),
        "mean_shifted",
        "the mean of users moved",
        True,
        False,
    ),
    "two runs": (
        lambda: _side(well(), "users", lambda rows: rows @ rotation(8, 4)),
        "two_runs",
        "two training runs",
        False,
        False,
    ),
    "one side negated": (
        lambda: _side(well(), "items", np.negative),
        "side_negated",
        "signs are flipped",
        False,
        False,
    ),
    "columns of one side shuffled": (
        lambda: _side(well(), "users", lambda rows: rows[:, [3, 0, 1, 2, 7, 4, 5, 6]]),
        "two_runs",
        "two training runs",
        False,
        False,
    ),
    "user ids + 1": (
        lambda: _ids(well(), "users", lambda ids: ids + 1),
        "ids_numbered_anew",
        "user ids were renumbered",
        True,
        False,
    ),
    "item ids + 10**6": (
        lambda: _ids(well(), "items", lambda ids: ids + 10**6),
        "ids_numbered_anew",
        "item ids were renumbered",
        True,
        False,
    ),
    "all ids anew": (
        lambda: _ids(_ids(well(), "items", lambda ids: ids + 1), "users", lambda ids: ids + 1),
        "another_catalogue",
        "renumbered",
        False,
        True,
    ),
    "zero rows": (
        lambda: _side(well(), "items", lambda rows: _some(rows, 0.6, np.zeros_like)),
        "zero_rows",
        "60%",
        True,
        False,
    ),
    "a side of zeros": (
        lambda: _side(well(), "users", np.zeros_like),
        "no_scores",
        "there are no scores",
        False,
        False,
    ),
    "half left stale": (
        lambda: _half_stale("users"),
        "stale_rows",
        "50% of the users are unchanged since the previous version",
        True,
        False,
    ),
    "underflow": (
        lambda: _side(well(), "items", lambda rows: (rows * 1e-8).astype(np.float16)),
        "values_lost",
        "rounded to zero",
        True,
        False,
    ),
    "a column of another scale": (
        lambda: _side(well(), "items", lambda rows: _column(rows, lambda column: 300 * column)),
        "column_scale",
        "a column of one side has a different scale",
        True,
        False,
    ),
    "one row repeated": (
        lambda: _side(well(), "users", lambda rows: _some(rows, 0.1, lambda part: part[:1])),
        "rows_repeated",
        "users share their vector with another",
        True,
        False,
    ),
    "clipped": (
        lambda: _side(well(), "items", lambda rows: np.clip(rows, -1.5, 1.5)),
        "values_lost",
        "clipped",
        True,
        False,
    ),
    "a constant column": (
        lambda: _side(well(), "users", lambda rows: _column(rows, np.ones_like)),
        "values_lost",
        "a column is constant",
        True,
        False,
    ),
    "a flipped column": (
        lambda: _side(well(), "items", lambda rows: _column(rows, np.negative)),
        "axis_flipped",
        "a column of one side was flipped",
        True,
        False,
    ),
    "a shuffled column": (
        lambda: _side(well(), "users", lambda rows: _column(rows, _shuffled)),
        "column_lost",
        "a column of users was shuffled",
        True,
        False,
    ),
    "a column of another id order": (
        lambda: _side(well(), "items", lambda rows: _column(rows, np.flip)),
        "column_lost",
        "a column of items was shuffled",
        True,
        False,
    ),
    "a part shuffled": (lambda: _part(well(), "items", 0.1), "rows_lost", "items have a wrong vector", True, False),
    "a part scaled": (
        lambda: _side(well(), "items", lambda rows: _some(rows, 0.1, lambda part: 4 * part)),
        "part_scaled",
        "a different scale from the rest",
        True,
        False,
    ),
    "five times as large": (
        lambda: well().with_vectors(lambda rows: rows * np.float32(5)),
        "scale",
        "the scale changed: items and users are 5 times",
        True,
        False,
    ),
    "times 1e-40": (
        lambda: well().with_vectors(lambda rows: rows * np.float32(1e-40)),
        "out_of_range",
        "underflow",
        False,
        False,
    ),
    "cut off": (lambda: _only(well(), 100), "cut_off", "many items are missing", True, False),
    "wider than the space": (
        lambda: night(1, width=9, churn=0.0),
        "truncation_loss",
        "wider than the space",
        True,
        False,
    ),
    "a shuffled column of a night that was hardly trained again": (
        lambda: _side(night(0, churn=0.0), "users", lambda rows: _column(rows, _shuffled)),
        "column_lost",
        "a column of users was shuffled",
        True,
        False,
    ),
    "trained with little but noise": (lambda: night(1, noise=4.0, churn=0.0), "rows_lost", "", True, False),
    "hardly trained": (lambda: night(1, noise=2.0, churn=0.0), "rows_lost", "", True, False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_refusal_begins_with_its_most_likely_cause(root: Path, name: str) -> None:
    """The cause follows from the pattern of the figures; only useful overrides are offered."""
    make, kind, words, override, new_space = CASES[name]
    with pytest.raises(CheckRefusedError) as raised:
        sync(root, make(), "tonight")
    error = raised.value
    refused = [record.name for record in error.records if record.outcome == "refuse"]
    assert (error.diagnosis.kind, words in error.diagnosis.sentence) == (kind, True), str(error)
    assert error.what.startswith(f"most likely {error.diagnosis.sentence}; refused by {refused[0]} ")
    assert error.as_dict()["diagnosis"] == kind
    assert error.hint is not None
    assert ("--check" in error.hint) == override
    assert all(f"--check {one}" in error.hint for one in refused if override)
    assert ("--new-space" in error.hint) == new_space


def test_the_offer_of_a_new_space_says_what_it_means(root: Path) -> None:
    """The hint says that vectors, indexes and models of the old space no longer fit."""
    with pytest.raises(
        CheckRefusedError,
        match=r"beginning a new space: no old vector, index or downstream "
        r"model fits it, and readers that asked for the current space keep",
    ):
        sync(root, _other(99), "tonight")
