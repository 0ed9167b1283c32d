"""What the pipeline checks of a fit to anchors, of arrays alone: there is no version before, and nothing to accept."""

from __future__ import annotations

from collections.abc import Sequence

from embsync.alignment.drift import Drift, Fit
from embsync.alignment.transform import SideName
from embsync.alignment.two_pass import Alignment
from embsync.config import Config
from embsync.manifest import CheckRecord, Preservation
from embsync.pipeline.checks import Measured, judge
from embsync.pipeline.record import checks_of_anchors, side_fit

_NAMES: tuple[SideName, SideName] = ("items", "users")
#: How to go on where a check refuses.
OTHERWISE = "check=False gives the result anyway; without anchors a new space begins"


def judge_fit(found: Alignment, fits: Sequence[Fit | None], preservation: Preservation) -> list[CheckRecord]:
    """Return the checks of a fit to anchors, with the limits that a store has by default."""
    parts = [found.items] if found.users is None else [found.items, found.users]
    measured = [
        Measured("common", float(found.common), {"k": float(found.items.map.shape[1])}),
        Measured("score_error", preservation.score_error, {"truncation_loss": found.truncation_loss}),
    ]
    for place, (name, part) in enumerate(zip(_NAMES, parts, strict=False)):
        other = None if found.users is None else (parts[1 - place], Drift())
        record = side_fit(part, fits[place], Drift(), 0, other)
        measured += checks_of_anchors(name, part, record)
    if found.users is not None:
        measured.append(Measured("rotation_disagreement", found.rotation_disagreement))
    limits = Config()
    return [judge(value, limits) for value in measured]
