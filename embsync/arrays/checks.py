"""The pipeline's checks of a fit to anchors, for arrays: there is no previous version, and nothing to accept."""

from __future__ import annotations

from embsync.alignment.two_pass import Alignment
from embsync.config import Config
from embsync.manifest import CheckRecord
from embsync.measurements import Preservation
from embsync.pipeline.checks import judge
from embsync.pipeline.record import check_of_common, checks_of_rows, checks_of_side, side_fit
from embsync.sides import NAMES, Sides

#: What to do if a check refuses.
OTHERWISE = "pass check=False to get the result anyway, or no anchors to begin a new space"


def judge_fit(found: Alignment, preservation: Preservation) -> list[CheckRecord]:
    """Return the checks of a fit to anchors, with a store's default limits."""
    sides = found.map(checks_of_side, NAMES, found.map(side_fit, Sides(found.users, found.items)))
    measured = [check_of_common(found), *checks_of_rows(found, preservation, sides)]
    limits = Config()
    return [judge(value, limits) for value in measured]
