"""The checks a version must meet before it is published: what each compares, and with which limits."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from embsync.config import DEFAULT_LIMITS, CheckLimits, Config, Limit
from embsync.errors import RefusedError, UsageError
from embsync.store.manifest import CheckRecord

Kind = Literal["floor", "ceiling", "range"]

_KINDS: Mapping[str, Kind] = {
    "score_error": "ceiling",
    "truncation_loss": "ceiling",
    "share_below_half_items": "ceiling",
    "share_below_half_users": "ceiling",
    "rotation_disagreement": "ceiling",
    "norm_ratio_items": "range",
    "norm_ratio_users": "range",
    "same_snapshot": "ceiling",
}

#: Violations of these never come this far: they make a snapshot ill-formed and cannot be accepted.
WELL_FORMED = ("finite", "unique_ids", "widths")


@dataclass(frozen=True)
class Measured:
    """A value to judge; None means it could not be judged, which warns.

    ``limits`` replace the defaults of checks whose limits depend on the snapshot: (warn, refuse).
    """

    name: str
    value: float | None
    limits: tuple[Limit, Limit] | None = None


def judge(measured: Measured, config: Config, accepted: Collection[str] = ()) -> CheckRecord:
    """Compare one value with its limits."""
    warn, refuse = measured.limits if measured.limits is not None else DEFAULT_LIMITS[measured.name]
    own = config.checks.get(measured.name, CheckLimits())
    warn = warn if own.warn is msgspec.UNSET else own.warn
    refuse = refuse if own.refuse is msgspec.UNSET else own.refuse
    kind = _KINDS.get(measured.name, "floor")
    if measured.value is None:
        outcome = "warn"
    elif _violates(measured.value, refuse, kind):
        outcome = "refuse"
    else:
        outcome = "warn" if _violates(measured.value, warn, kind) else "pass"
    value = None if measured.value is None or math.isnan(measured.value) else measured.value
    return CheckRecord(
        name=measured.name,
        value=value,
        warn=_plain(warn),
        refuse=_plain(refuse),
        outcome=outcome,
        accepted=outcome == "refuse" and measured.name in accepted,
    )


def well_formed(zero_rows: int) -> list[CheckRecord]:
    """Return the records of what reading the snapshot has shown; an all-zero row warns."""
    values = {"finite": float(zero_rows), "unique_ids": 0.0, "widths": 0.0}
    return [
        CheckRecord(name=name, value=values[name], warn=0.0 if name == "finite" else None, refuse=None,
                    outcome="warn" if values[name] else "pass")
        for name in WELL_FORMED
    ]


def require(records: list[CheckRecord], where: str) -> None:
    """Raise RefusedError when a check refuses and was not accepted."""
    refused = [record for record in records if record.outcome == "refuse" and not record.accepted]
    if refused:
        names = " ".join(f"--check {record.name}" for record in refused)
        raise CheckRefusedError(
            records,
            "refused by " + ", ".join(describe(record) for record in refused),
            where=where,
            hint=f"if this is intended: embsync accept {where} {names}",
        )


class CheckRefusedError(RefusedError):
    """A refusal with the figures of every check made so far."""

    def __init__(self, records: list[CheckRecord], what: str, *, where: str, hint: str) -> None:
        self.records = records
        super().__init__(what, where=where, hint=hint)


def describe(record: CheckRecord) -> str:
    """Return a record as a few words: name, value and the limit that matters."""
    limit = record.refuse if record.outcome == "refuse" else record.warn
    value = "not measurable" if record.value is None else f"{record.value:.4g}"
    if limit is None:
        return f"{record.name} {value}"
    if isinstance(limit, list):
        return f"{record.name} {value} (limits {limit[0]:g} to {limit[1]:g})"
    side = "at most" if _KINDS.get(record.name, "floor") == "ceiling" or record.name == "finite" else "at least"
    return f"{record.name} {value} (limit {side} {limit:.4g})"


def reject_unknown(names: Collection[str]) -> None:
    """Raise UsageError for names that are no checks, or none that can be accepted."""
    for name in names:
        if name in WELL_FORMED:
            raise UsageError("this check cannot be accepted", found=name, hint="the snapshot itself must be mended")
        if name not in DEFAULT_LIMITS:
            raise UsageError("no such check", found=name, expected=f"one of {', '.join(DEFAULT_LIMITS)}")


def _violates(value: float, limit: Limit, kind: Kind) -> bool:
    if limit is None:
        return False
    if isinstance(limit, tuple):
        return not limit[0] <= value <= limit[1]
    # Written so that NaN violates.
    return not value <= limit if kind == "ceiling" else not value >= limit


def _plain(limit: Limit) -> float | list[float] | None:
    return list(limit) if isinstance(limit, tuple) else limit
