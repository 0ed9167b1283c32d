"""Judging a version by the checks before it is published."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from embsync.checks import CHECKS
from embsync.config import DEFAULT_LIMITS, CheckLimits, Config
from embsync.errors import Hint, RefusedError, UsageError
from embsync.invocation import Command, command
from embsync.limits import Limit, LimitKind, Relative
from embsync.manifest import CheckRecord, Manifest
from embsync.pipeline.diagnosis import NEW_SPACE, Diagnosis, diagnose

#: Checks that are made while the snapshot is read: a violation makes it ill-formed and cannot be accepted.
WELL_FORMED = tuple(name for name, check in CHECKS.items() if not check.acceptable)


@dataclass(frozen=True)
class Measured:
    """A value to judge.

    Attributes
    ----------
    name : str
    value : float or None
        None if the side is too small to be judged alone, which warns. Not finite if it could not be measured although
        its data exist, which violates every limit.
    figures : mapping
        Figures of the run that the check's limits depend on.
    """

    name: str
    value: float | None
    figures: Mapping[str, float] = field(default_factory=dict)


def judge(measured: Measured, config: Config, accepted: Collection[str] = ()) -> CheckRecord:
    """Compare one value with its limits."""
    check = CHECKS[measured.name]
    own = config.checks.get(measured.name, CheckLimits())
    warn, refuse = (
        _limit(default, measured.figures) if configured is msgspec.UNSET else configured
        for default, configured in ((check.warn, own.warn), (check.refuse, own.refuse))
    )
    if measured.value is None:
        outcome = "warn"
    elif _violates(measured.value, refuse, check.kind):
        outcome = "refuse"
    elif _violates(measured.value, warn, check.kind) or not math.isfinite(measured.value):
        outcome = "warn"
    else:
        outcome = "pass"
    return CheckRecord(
        name=measured.name,
        value=measured.value if measured.value is not None and math.isfinite(measured.value) else None,
        warn=_plain(warn),
        refuse=_plain(refuse),
        outcome=outcome,
        accepted=outcome == "refuse" and measured.name in accepted,
    )


def _limit(limit: Limit | Relative, figures: Mapping[str, float]) -> Limit:
    """Return the limit for one run; an infinite limit is None."""
    if not isinstance(limit, Relative):
        return limit
    found = limit.at(figures)
    return found if math.isfinite(found) else None


def require(
    records: list[CheckRecord], where: str | None, store: Path | None = None, otherwise: str | None = None
) -> None:
    """Raise CheckRefusedError if a check refuses and was not accepted; its message begins with the likely cause.

    Parameters
    ----------
    records : list of CheckRecord
    where : str or None
        The snapshot's path; None for arrays, which no command can accept.
    store : path, optional
        The store that commands in the hint are for.
    otherwise : str, optional
        How to proceed anyway if there is no path.
    """
    refused = [record for record in records if record.outcome == "refuse" and not record.accepted]
    if refused:
        raise CheckRefusedError(records, diagnose(records), where, store, otherwise)


class CheckRefusedError(RefusedError):
    """A refusal, with the record of every check made so far and the diagnosis.

    Attributes
    ----------
    records : list of CheckRecord
    diagnosis : Diagnosis
    """

    def __init__(
        self,
        records: list[CheckRecord],
        diagnosis: Diagnosis,
        where: str | None,
        store: Path | None = None,
        otherwise: str | None = None,
    ) -> None:
        self.records = records
        self.diagnosis = diagnosis
        self._refused = [record for record in records if record.outcome == "refuse" and not record.accepted]
        what = f"most likely {diagnosis.sentence}; refused by {', '.join(map(describe, self._refused))}"
        super().__init__(what, where=where, hint=self._what_to_do(where, store, otherwise))

    def _what_to_do(self, where: str | None, store: Path | None, otherwise: str | None) -> Hint:
        """Return what to do, then the commands that publish anyway, if the diagnosis offers them."""
        hints: list[str | Command] = [self.diagnosis.remedy]
        if where is None:
            return (*hints, *([] if otherwise is None else [otherwise]))
        if self.diagnosis.override:
            names = [word for record in self._refused for word in ("--check", record.name)]
            hints.append(command("accept", where, *names, purpose="if this is intended", store=store))
        if self.diagnosis.new_space:
            purpose = f"if it is meant to take over, beginning {NEW_SPACE}"
            hints.append(command("accept", where, "--new-space", purpose=purpose, store=store))
        return tuple(hints)

    def as_dict(self) -> dict[str, object]:
        """Return the parts of the error and the kind of the diagnosis."""
        return {**super().as_dict(), "diagnosis": self.diagnosis.kind}


def describe(record: CheckRecord) -> str:
    """Return a record in words: name, value and the violated limit."""
    limit = record.refuse if record.outcome == "refuse" else record.warn
    value = "not measurable" if record.value is None else f"{record.value:.4g}"
    if limit is None:
        return f"{record.name} {value}"
    if isinstance(limit, list):
        return f"{record.name} {value} (limits {limit[0]:g} to {limit[1]:g})"
    side = "at most" if CHECKS[record.name].kind == "ceiling" else "at least"
    return f"{record.name} {value} (limit {side} {limit:.4g})"


def remarks(manifest: Manifest) -> list[tuple[CheckRecord, str]]:
    """Return the checks of a version that did not pass, with descriptions, except warnings that another one implies."""
    found = {record.name: record for record in manifest.checks if record.outcome != "pass"}
    said = {name for name, check in CHECKS.items() if check.warned_by in found}
    return [
        (record, _zero_rows(manifest) if name == "finite" else describe(record))
        for name, record in found.items()
        if record.outcome == "refuse" or name not in said
    ]


def _zero_rows(manifest: Manifest) -> str:
    counts = {"item": manifest.items.zero, "user": manifest.users.zero if manifest.users else 0}
    return " and ".join(
        f"{count:,} all-zero {name} row{'' if count == 1 else 's'}" for name, count in counts.items() if count
    )


def reject_unknown(names: Collection[str]) -> None:
    """Raise UsageError for names that are not checks, or checks that cannot be accepted."""
    for name in names:
        if name in WELL_FORMED:
            raise UsageError("this check cannot be accepted", found=name, hint="fix the snapshot itself")
        if name not in DEFAULT_LIMITS:
            raise UsageError("no such check", found=name, expected=f"one of {', '.join(DEFAULT_LIMITS)}")


def _violates(value: float, limit: Limit, kind: LimitKind) -> bool:
    if limit is None:
        return False
    if not math.isfinite(value):
        return True
    if isinstance(limit, tuple):
        return not limit[0] <= value <= limit[1]
    return value > limit if kind == "ceiling" else value < limit


def _plain(limit: Limit) -> float | list[float] | None:
    return list(limit) if isinstance(limit, tuple) else limit
