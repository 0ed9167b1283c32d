"""The table of checks: name, limits, what each check measures, and what its refusal most likely means.

Configuration, judging, messages and the table in ``docs/checks.md`` are derived from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf

from embsync.limits import Check, Limit, LimitKind, Needs, Relative

SIDES = ("items", "users")


def _both(
    name: str,
    kind: LimitKind,
    warn: Limit | Relative,
    refuse: Limit | Relative,
    measures: str,
    means: str,
    remedy: str,
    warned_by: str | None = None,
    needs: Needs | None = None,
) -> Iterator[Check]:
    """Yield one row per side of a check that is made for each side."""
    for side in SIDES:
        words = {"side": side, "one": side[:-1]}
        yield Check(
            f"{name}_{side}",
            kind,
            warn,
            refuse,
            measures.format(**words),
            means.format(**words),
            remedy.format(**words),
            warned_by=warned_by,
            needs=needs,
        )


def room(mismatched: float) -> float:
    """Return the factor of ``cosine_margin``'s limits: less if all vectors share a component, as in item2vec."""
    return min(1.0, (1.0 - mismatched) / 0.7)


_MEND = "fix the training job's output; the previous version is still being served"
_IDS = "compare the order of ids and rows where the training job writes them"
_ILL_FORMED = "fix the snapshot itself"

_ROWS: tuple[Check, ...] = (
    Check(
        "finite",
        "ceiling",
        0.0,
        None,
        "values that are not finite; all-zero rows warn",
        "the training run diverged, or left part of the file unwritten",
        _ILL_FORMED,
        acceptable=False,
    ),
    Check(
        "unique_ids",
        "ceiling",
        None,
        None,
        "ids that occur twice",
        "the export joined a table twice",
        _ILL_FORMED,
        acceptable=False,
    ),
    Check(
        "widths",
        "ceiling",
        None,
        None,
        "sides of different widths",
        "the sides come from two models",
        _ILL_FORMED,
        acceptable=False,
    ),
    *_both(
        "rows",
        "floor",
        Relative("e", 4.0),
        Relative("e"),
        "rows of {side}",
        "There are fewer {side} than dimensions: the export is empty or cut off.",
        "export all {side}; maps from so few rows would be wrong for every later one",
    ),
    *_both(
        "zero_rows",
        "ceiling",
        0.0,
        Relative("before", more=0.01, absent=inf),
        "share of {side} whose vector is all zero",
        "Many {side} have an all-zero vector: they were never trained, or the export filled gaps with zeros.",
        "leave ids without a vector out of the snapshot",
        warned_by="finite",
    ),
    *_both(
        "saturation",
        "ceiling",
        Relative("before", more=0.1, absent=inf),
        Relative("before", more=0.25, absent=inf),
        "share of sampled values equal to their column's extreme, summed over columns",
        "Many values of {side} are equal to one extreme: clipping, saturation or a constant column.",
        _MEND,
        needs="rows",
    ),
    *_both(
        "zero_values",
        "ceiling",
        Relative("before", more=0.02, absent=inf),
        Relative("before", more=0.2, absent=inf),
        "share of sampled values that are exactly zero, excluding zero rows",
        "Many values of {side} became exactly zero: underflow of a narrow number format, or lost columns.",
        "save the vectors as float32",
        needs="rows",
    ),
    *_both(
        "repeated",
        "ceiling",
        Relative("before", more=0.015, absent=inf),
        Relative("before", more=0.03, absent=inf),
        "share of sampled {side} with the same vector as another, excluding zero rows",
        "Many {side} have the same vector: a row was repeated, or gaps were filled with a default.",
        "leave ids without a vector out of the snapshot",
        needs="rows",
    ),
    *_both(
        "magnitude",
        "range",
        (1e-8, 1e8),
        (1e-12, 1e12),
        "root mean square of the stable values of {side}",
        "The vectors of {side} are so small or so large that float32 products underflow or overflow.",
        "scale the embeddings before saving them",
        needs="rows",
    ),
    Check(
        "truncation_loss",
        "ceiling",
        None,
        Relative("max_truncation_loss"),
        "relative Frobenius norm of the scores that a narrower space cannot hold",
        "The model is wider than the space.",
        "make the space as wide as the model: widen one that is there, or leave out space.dimension for a new one",
    ),
    Check(
        "rank",
        "floor",
        Relative("e"),
        1.0,
        "directions that carry scores",
        "There are no scores: every vector of a side is zero.",
        _MEND,
    ),
    Check(
        "common",
        "floor",
        Relative("k", 16.0),
        Relative("k", 2.0),
        "ids shared with the anchors, both sides together",
        "Almost no ids are known: ids were renumbered, or this is another catalogue.",
        "keep ids stable from night to night",
    ),
    *_both(
        "coverage",
        "floor",
        0.5,
        Relative("too_few", 0.2, 0.3),
        "ids of {side} known to the parent, live or carried, relative to the smaller count; too_few is 1 if too few "
        "are common to judge the side alone, else 0",
        "Most {one} ids differ from the previous version's: they were renumbered (an encoder was refitted, or an "
        "offset added), or this is another catalogue.",
        "export the ids of your catalogue, not an encoder's row numbers",
    ),
    *_both(
        "live",
        "floor",
        0.9,
        0.5,
        "{side} in the snapshot relative to the parent's live ones",
        "Many {side} are missing: the export was cut off, or only a part was trained.",
        "export all {side}",
    ),
    Check(
        "same_snapshot",
        "ceiling",
        0.0,
        None,
        "whether the contents are the same as the parent's",
        "The training job wrote the same model again.",
        "check whether training ran",
    ),
    Check(
        "score_error",
        "ceiling",
        Relative("truncation_loss", more=2e-6, absent=0.0),  # rounding to float32 alone gives about 4e-8
        Relative("truncation_loss", more=1e-5, absent=0.0),
        "relative error of all user-item scores as written",
        "The scores could not be preserved: the values are too small, too large or too ill-conditioned for float32.",
        "scale the embeddings before saving them",
    ),
    *_both(
        "cosine",
        "floor",
        0.7,
        0.5,
        "mean out-of-sample cosine of {side} with their anchors",
        "The vectors of {side} do not fit those of earlier versions.",
        _IDS,
        needs="anchors",
    ),
    *_both(
        "cosine_margin",
        "floor",
        Relative("room", 0.45),
        Relative("room", 0.3),
        "the same minus the mean for mismatched rows; room is 1, or less if that mean exceeds 0.3",
        "The vectors of {side} fit their own ids hardly better than other ids.",
        _IDS,
        needs="anchors",
    ),
    *_both(
        "share_below_half",
        "ceiling",
        0.07,
        None,
        "share of {side} whose cosine with their anchor is below 0.5",
        "Many {side} moved far.",
        "check how long the model was trained",
        needs="anchors",
    ),
    *_both(
        "lost",
        "ceiling",
        Relative("one_row", 2.0, 0.02),
        Relative("one_row", 4.0, 0.03),
        "estimated share of {side} with another id's vector; one_row is 1 / rows compared, an allowance for chance",
        "Some {side} have wrong vectors: a block was shuffled, shifted, repeated or left stale.",
        _IDS,
        needs="anchors",
    ),
    *_both(
        "axis_agreement",
        "floor",
        Relative("e_per_row", -0.2, -0.1),
        Relative("e_per_row", -0.2, -0.15),
        "smallest agreement of {side} with their anchors along any axis; e_per_row is e over the rows compared",
        "An axis of {side} is reversed: a column was flipped, exchanged or shuffled on one side.",
        _MEND,
        needs="anchors",
    ),
    *_both(
        "axis_scale",
        "floor",
        0.13,
        0.05,
        "smallest spread of {side} along any axis relative to their anchors', divided by the median axis's",
        "An axis of {side} has almost vanished: a column of one side was scaled down or overwritten.",
        _MEND,
        needs="anchors",
    ),
    *_both(
        "column_fit",
        "floor",
        0.1,
        0.05,
        "smallest share of the variance of a raw column of {side} that the anchors explain, adjusted for the number of "
        "axes, among columns explained on the other side",
        "A column of {side} is unrelated to earlier versions: its values were shuffled or overwritten.",
        _MEND,
        needs="anchors",
    ),
    *_both(
        "unexplained_columns",
        "ceiling",
        Relative("before", absent=0.0),
        None,
        "raw columns that neither side's anchors explain",
        "A column of both sides is noise.",
        "compare the columns of both sides where they are written",
        needs="anchors",
    ),
    *_both(
        "column_scale",
        "ceiling",
        1.75,
        None,
        "largest spread of a raw column of {side} relative to the anchors', divided by the median column's",
        "A column of items or users has a different scale from the rest.",
        "if biases or the regularization changed, accept it once",
        needs="anchors",
    ),
    *_both(
        "mean_shift",
        "ceiling",
        0.2,
        0.4,
        "distance between the mean of {side} and the mean of their anchors, in root mean square lengths",
        "A constant was added to the vectors of {side}.",
        "check whether the export centres or shifts values",
        needs="anchors",
    ),
    *_both(
        "norm_ratio",
        "range",
        (0.5, 2.0),
        (1 / 3, 3.0),
        "median norm of {side} relative to the parent",
        "The scale of {side} changed by more than retraining explains.",
        "if the loss or its regularization changed, accept it once",
        needs="parent",
    ),
    *_both(
        "lone_scale",
        "ceiling",
        2.0,
        None,
        "factor by which the raw {side} grew or shrank, over the square of the other side's",
        "Only the {side} changed in scale.",
        "rankings do not change; check whether the export scales one side",
        needs="raw rows",
    ),
    *_both(
        "norm_outliers",
        "ceiling",
        0.015,
        0.03,
        "share of {side} whose norm changed by more than a factor of 3 relative to the median",
        "Some {side} have a different scale from the rest.",
        _MEND,
        needs="parent",
    ),
    *_both(
        "longest",
        "ceiling",
        5.0,
        10.0,
        "norm of the longest of {side} relative to the median, over the same of the parent",
        "A few {side} have enormous values: a placeholder such as -999, an overflow, or diverged rows.",
        "leave ids without a vector out of the snapshot",
        needs="parent",
    ),
    *_both(
        "unchanged",
        "ceiling",
        0.02,
        None,
        "share of {side} whose raw vector equals the parent's within rounding",
        "Some {side} were not retrained.",
        "expected with incremental training, which leaves rows unchanged",
        needs="raw rows",
    ),
    Check(
        "rotation_disagreement",
        "ceiling",
        0.3,
        0.5,
        "distance between the rotations fitted to each side alone",
        "Items and users come from two different training runs.",
        "export both sides from one run",
    ),
    Check(
        "recall",
        "floor",
        Relative("target_recall"),
        Relative("required_recall"),
        "recall of the index against exact search",
        "The index misses too many neighbours.",
        "raise the index's effort or choose another factory",
    ),
)

#: Every check by its name, in the order in which they are made.
CHECKS: Mapping[str, Check] = {check.name: check for check in _ROWS}
