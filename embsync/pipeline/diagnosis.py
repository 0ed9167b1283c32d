"""Diagnosis of a refused snapshot from the pattern of its checks: its most likely fault, in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embsync.checks import CHECKS, SIDES
from embsync.manifest import CheckRecord

#: Cosine margin below which a side fits no better than chance: 0.00 to 0.04 for shuffled rows of the kinds of models in
#: benchmarks/guards.py, 0.28 or more for healthy ones.
_CHANCE = 0.1
#: Rotation disagreement from which the sides are unrelated: 0.7 or more for random axes.
_APART = 0.7
#: Rotation disagreement from which one side is negated: the square root of 2 for opposite rotations.
_OPPOSITE = 1.2

#: Column scale beyond what a change of regularization causes in a bias column: up to 6.4.
_OTHER_SCALE = 7.0

#: What a new space means for the store's readers.
NEW_SPACE = (
    "a new space: no old vector, index or downstream model fits it, and readers that asked for the current "
    "space keep the current version"
)


@dataclass(frozen=True)
class Diagnosis:
    """The most likely fault of a refused snapshot.

    Attributes
    ----------
    kind : str
        Its stable name.
    sentence : str
        What is wrong, without a full stop.
    remedy : str
        What to do first.
    override : bool
        Whether to offer accepting the refused checks; never if rows fit no better than chance.
    new_space : bool
        Whether to offer a new space.
    """

    kind: str
    sentence: str
    remedy: str
    override: bool = True
    new_space: bool = False


class _Pattern:
    """The check records of a refused snapshot, as the rules query them."""

    def __init__(self, records: Sequence[CheckRecord]) -> None:
        self._records = {record.name: record for record in records}

    def refused(self, name: str) -> bool:
        record = self._records.get(name)
        return record is not None and record.outcome == "refuse" and not record.accepted

    def value(self, name: str) -> float | None:
        record = self._records.get(name)
        return None if record is None else record.value

    def sides(self, name: str) -> list[str]:
        """Return the sides on which a check refuses."""
        return [side for side in SIDES if self.refused(f"{name}_{side}")]

    def warned(self, name: str) -> list[str]:
        """Return the sides on which a check warns."""
        records = {side: self._records.get(f"{name}_{side}") for side in SIDES}
        return [side for side, record in records.items() if record is not None and record.outcome == "warn"]

    def unmeasured(self) -> bool:
        return any(record.value is None and record.outcome == "refuse" for record in self._records.values())

    def at_chance(self) -> list[str]:
        margins = {side: self.value(f"cosine_margin_{side}") for side in SIDES}
        return [side for side, margin in margins.items() if margin is not None and margin < _CHANCE]

    @property
    def judged(self) -> list[str]:
        """Sides whose fit was measured."""
        return [side for side in SIDES if self.value(f"cosine_margin_{side}") is not None]

    def first(self) -> str:
        """Return the name of the first check that refuses."""
        return next(name for name in self._records if self.refused(name))


def diagnose(records: Sequence[CheckRecord]) -> Diagnosis:
    """Return the most likely fault; at least one check must refuse."""
    pattern = _Pattern(records)
    for rule in _RULES:
        found = rule(pattern)
        if found is not None:
            return found
    check = CHECKS[pattern.first()]
    return Diagnosis(check.name, check.means[0].lower() + check.means[1:].rstrip("."), check.remedy)


def _of(sides: list[str]) -> str:
    return " and ".join(sides)


def _no_values(pattern: _Pattern) -> Diagnosis | None:
    if pattern.value("rank") == 0 and pattern.refused("rank"):
        return Diagnosis(
            "no_scores",
            "every vector of a side is zero, so there are no scores",
            "check whether training ran and what the export wrote",
            override=False,
        )
    if pattern.sides("magnitude") or pattern.unmeasured():
        return Diagnosis(
            "out_of_range",
            "the vectors are so small or so large that float32 products underflow or overflow",
            "scale the embeddings before saving them",
            override=False,
        )
    return None


def _cut_off(pattern: _Pattern) -> Diagnosis | None:
    sides = pattern.sides("rows") or pattern.sides("live")
    if not sides:
        return None
    return Diagnosis(
        "cut_off",
        f"many {_of(sides)} are missing: the export was cut off, or only a part was trained",
        "export everything; absent ids are carried forward for store.carry_forward_versions versions",
    )


def _renumbered(pattern: _Pattern) -> Diagnosis | None:
    sides = pattern.sides("coverage")
    if not sides:
        return None
    if len(sides) > 1:
        return Diagnosis(
            "another_catalogue",
            "hardly any item or user id is known: both were renumbered, or this is another catalogue",
            "export the ids of your catalogue, not an encoder's row numbers",
            override=False,
            new_space=True,
        )
    share = pattern.value(f"coverage_{sides[0]}") or 0.0
    return Diagnosis(
        "ids_numbered_anew",
        f"the {sides[0][:-1]} ids were renumbered (an encoder was refitted, or an offset added): "
        f"only {share:.0%} of them are known",
        "export the ids of your catalogue, not an encoder's row numbers; a cohort of new users looks the same",
    )


def _zeros(pattern: _Pattern) -> Diagnosis | None:
    sides = pattern.sides("zero_rows")
    if not sides or set(sides) & set(pattern.sides("zero_values")):  # zeros everywhere come from underflow
        return None
    share = max(pattern.value(f"zero_rows_{side}") or 0.0 for side in sides)
    return Diagnosis(
        "zero_rows",
        f"{share:.0%} of the vectors of {_of(sides)} are all zero: they were never trained, or the export filled gaps",
        "leave ids without a vector out of the snapshot",
    )


def _repeated(pattern: _Pattern) -> Diagnosis | None:
    sides = pattern.sides("repeated")
    if not sides or set(sides) & set(pattern.sides("zero_values")):  # rows that underflow become equal
        return None
    share = max(pattern.value(f"repeated_{side}") or 0.0 for side in sides)
    return Diagnosis(
        "rows_repeated",
        f"{share:.0%} of the {_of(sides)} share their vector with another: a row was repeated, or gaps were filled",
        "leave ids without a vector out of the snapshot, and check how the parts of the export are combined",
    )


def _values(pattern: _Pattern) -> Diagnosis | None:
    sides = pattern.sides("saturation") + pattern.sides("zero_values")
    if not sides:
        return None
    return Diagnosis(
        "values_lost",
        f"values of {_of(sorted(set(sides)))} were lost: clipped, saturated or rounded to zero by a narrow number "
        "format, or a column is constant",
        "save the vectors unchanged, as float32",
    )


def _outsized_rows(pattern: _Pattern) -> Diagnosis | None:
    sides = [side for side in pattern.sides("longest") if side not in pattern.sides("norm_outliers")]
    if not sides:
        return None
    factor = max(pattern.value(f"longest_{side}") or 0.0 for side in sides)
    return Diagnosis(
        "enormous_rows",
        f"a few {_of(sides)} have enormous values (the longest grew {factor:,.0f}-fold): a placeholder such as -999, "
        "an overflow, or diverged rows",
        "leave ids without a vector out of the snapshot, and look at the longest rows",
        override=not pattern.at_chance(),
    )


def _opposite(pattern: _Pattern) -> Diagnosis | None:
    apart = pattern.value("rotation_disagreement")
    if apart is None or apart < _OPPOSITE or not pattern.refused("rotation_disagreement"):
        return None
    return Diagnosis(
        "side_negated",
        "one side was negated: all of its signs are flipped",
        "compare the signs of both sides where they are written",
        override=False,
    )


def _chance(pattern: _Pattern) -> Diagnosis | None:
    sides = pattern.at_chance()
    if not sides:
        return None
    if sides == pattern.judged:
        what = "neither items nor users resemble" if len(sides) > 1 else f"no {sides[0]} resemble"
        return Diagnosis(
            "another_model",
            f"this is another model, or every id has another id's vector: {what} earlier versions",
            "check that ids and rows are written in the same order",
            override=False,
            new_space=True,
        )
    return Diagnosis(
        "shuffled_ids",
        f"the {sides[0][:-1]} ids are shuffled or shifted, or their vectors were never trained: {sides[0]} fit their "
        "own anchors no better than others', while the other side fits",
        "check that ids and rows of that side are written in the same order",
        override=False,
    )


def _stale(pattern: _Pattern) -> Diagnosis | None:
    sides = pattern.warned("unchanged")
    if not sides or not any(map(pattern.sides, ("axis_agreement", "lost", "cosine"))):
        return None
    share = max(pattern.value(f"unchanged_{side}") or 0.0 for side in sides)
    return Diagnosis(
        "stale_rows",
        f"{share:.0%} of the {_of(sides)} are unchanged since the previous version, while the rest were retrained: "
        "the snapshot mixes two runs",
        "export all rows from one run",
    )


def _column_scale(pattern: _Pattern) -> Diagnosis | None:
    sides = [side for side in SIDES if (pattern.value(f"column_scale_{side}") or 0.0) > _OTHER_SCALE]
    if not sides or pattern.sides("axis_agreement"):
        return None
    return Diagnosis(
        "column_scale",
        "a column of one side has a different scale from the rest",
        "compare the columns of both sides where they are written",
    )


def _shifted(pattern: _Pattern) -> Diagnosis | None:
    sides = pattern.sides("mean_shift")
    if not sides or pattern.sides("column_fit") or pattern.warned("column_fit"):
        return None
    if (pattern.value("rotation_disagreement") or 0.0) >= _APART:
        return None
    return Diagnosis(
        "mean_shifted",
        f"the mean of {_of(sides)} moved while their differences stayed: a constant was added, or the mean was removed",
        "check whether the export centres or shifts values",
    )


def _two_runs(pattern: _Pattern) -> Diagnosis | None:
    apart = pattern.value("rotation_disagreement")
    if not pattern.refused("rotation_disagreement") or apart is None:
        return None
    if apart < _APART and (pattern.sides("axis_agreement") or pattern.sides("lost")):
        return None
    return Diagnosis(
        "two_runs",
        "items and users come from two training runs, or all axes of one side were changed: the two sides need "
        "different rotations",
        "export both sides from one run",
        override=apart < _APART,
    )


def _axis(pattern: _Pattern) -> Diagnosis | None:
    if not pattern.sides("axis_agreement"):
        return None
    return Diagnosis(
        "axis_flipped",
        "a column of one side was flipped, exchanged or shuffled: along one axis, items and users contradict earlier "
        "versions",
        "compare the columns of both sides where they are written",
    )


def _column(pattern: _Pattern) -> Diagnosis | None:
    sides = [side for side in pattern.sides("column_fit") if side not in pattern.sides("cosine")]
    if not sides:
        return None
    return Diagnosis(
        "column_lost",
        f"a column of {_of(sides)} was shuffled or overwritten: earlier versions do not explain its values",
        "compare the columns of both sides where they are written",
    )


def _part(pattern: _Pattern) -> Diagnosis | None:
    sides = pattern.sides("lost")
    if sides:
        share = max(pattern.value(f"lost_{side}") or 0.0 for side in sides)
        return Diagnosis(
            "rows_lost",
            f"about {share:.0%} of the {_of(sides)} have a wrong vector: a block was "
            "shuffled, shifted, repeated, left stale or never trained",
            "check how the parts of the export are combined",
        )
    sides = pattern.sides("norm_outliers")
    if sides:
        return Diagnosis(
            "part_scaled",
            f"some {_of(sides)} have a different scale from the rest",
            "check how the parts of the export are combined",
        )
    return None


def _scale(pattern: _Pattern) -> Diagnosis | None:
    sides = pattern.sides("norm_ratio")
    if not sides:
        return None
    ratio = pattern.value(f"norm_ratio_{sides[0]}") or 0.0
    return Diagnosis(
        "scale",
        f"the scale changed: {_of(sides)} are {ratio:.2g} times as long as before, in the same directions",
        "if the loss or its regularization was changed on purpose, accept it once",
    )


def _far(pattern: _Pattern) -> Diagnosis | None:
    sides = pattern.sides("cosine") or pattern.sides("cosine_margin")
    if not sides:
        return None
    return Diagnosis(
        "moved_far",
        f"the model changed more than retraining explains: {_of(sides)} resemble earlier versions, but not enough",
        "check for changed settings or too little training",
        new_space=True,
    )


_RULES: tuple[Callable[[_Pattern], Diagnosis | None], ...] = (
    _no_values,
    _cut_off,
    _renumbered,
    _zeros,
    _outsized_rows,
    _opposite,
    _chance,
    _repeated,
    _values,
    _stale,
    _column,
    _column_scale,
    _shifted,
    _two_runs,
    _axis,
    _part,
    _scale,
    _far,
)
