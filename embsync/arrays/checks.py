"""The pipeline's checks of a fit to anchors, for arrays: there is no previous version, and nothing to accept."""

from __future__ import annotations

from embsync.alignment.drift import RowChange
from embsync.alignment.two_pass import Alignment
from embsync.config import Config
from embsync.manifest import CheckRecord
from embsync.measurements import Preservation
from embsync.pipeline.checks import Measured, judge
from embsync.pipeline.record import checks_of_anchors, side_fit
from embsync.sides import NAMES, Sides

#: What to do if a check refuses.
OTHERWISE = "pass check=False to get the result anyway, or no anchors to begin a new space"


def judge_fit(found: Alignment, preservation: Preservation) -> list[CheckRecord]:
    """Return the checks of a fit to anchors, with the limits that a store has by default."""
    measured = [
        Measured("common", float(found.common), {"k": float(found.items.map.shape[1])}),
        Measured("score_error", preservation.score_error, {"truncation_loss": found.truncation_loss}),
    ]
    no_change, no_anchors = Sides(RowChange(), RowChange()), Sides(0, 0)
    records = found.map(side_fit, no_change, no_anchors, Sides(found.users, found.items))
    for checks in found.map(checks_of_anchors, NAMES, records):
        measured += checks
    if found.users is not None:
        measured.append(Measured("rotation_disagreement", found.rotation_disagreement))
    limits = Config()
    return [judge(value, limits) for value in measured]
