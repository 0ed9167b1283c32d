"""One sentence about a version: whether it is well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from embsync.checks import CHECKS
from embsync.manifest import CheckRecord, Manifest
from embsync.reporting.gauges import limit_words
from embsync.reporting.numerals import figure, plural
from embsync.store.contents import MOVES
from embsync.store.journal import Event

Outcome = Literal["pass", "warn", "refuse"]

#: How many checks a sentence names.
_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """Whether a version is well.

    Attributes
    ----------
    outcome : {"pass", "warn", "refuse"}
    sentence : str
    notes : tuple of str
        What else has to be known: a snapshot refused since, another version that is current.
    """

    outcome: Outcome
    sentence: str
    notes: tuple[str, ...] = ()


def check_title(name: str) -> str:
    """Return the name of a check in words: ``cosine_margin_items`` is "cosine margin, items"."""
    for side in ("items", "users"):
        if name.endswith(f"_{side}"):
            return f"{name.removesuffix(f'_{side}').replace('_', ' ')}, {side}"
    return name.replace("_", " ")


def meaning(name: str) -> str:
    """Return what a check measures, without how its limits are made; nothing for a check of another release."""
    known = CHECKS.get(name)
    return "" if known is None else known.measures.split(";")[0]


def explained(record: CheckRecord) -> str:
    """Return a check that did not pass: its name in words, its value and its limits."""
    value = "not measured" if record.value is None else figure(record.value, 4)
    return f"{check_title(record.name)} {value} ({limit_words(record)})"


def not_passed(records: Sequence[CheckRecord]) -> list[CheckRecord]:
    """Return the checks that did not pass, refusals first, without those whose warning another one implies."""
    found = [record for record in records if record.outcome != "pass"]
    names = {record.name for record in found}
    implied = {name for name, check in CHECKS.items() if check.warned_by in names}
    shown = [record for record in found if record.outcome == "refuse" or record.name not in implied]
    return sorted(shown, key=lambda record: record.outcome != "refuse")


def of_version(manifest: Manifest, events: Sequence[Event] = (), current: int | None = None) -> Verdict:
    """Return the verdict on a version.

    Parameters
    ----------
    manifest : Manifest
    events : sequence of Event, optional
        The journal, oldest first: for what was refused since.
    current : int, optional
        The store's current version.
    """
    notes = _since(manifest, events, current)
    odd = not_passed(manifest.checks)
    accepted = [record for record in odd if record.accepted]
    name = f"Version {manifest.version}"
    if accepted:
        return Verdict(
            "refuse",
            f"{name} was accepted although {plural(len(accepted), 'check')} refused it: {_listed(accepted)}.",
            notes,
        )
    if odd:
        return Verdict("warn", f"{name} is published with {plural(len(odd), 'warning')}: {_listed(odd)}.", notes)
    passed = f"all {plural(len(manifest.checks), 'check')} passed and no score changed"
    return Verdict("warn" if notes else "pass", f"{name} is well: {passed}{_drift(manifest)}.", notes)


def of_events(events: Sequence[Event]) -> Verdict:
    """Return the verdict on a store that has no version."""
    refused = [event for event in events if event.event in ("refused", "failed")]
    if not refused:
        return Verdict("warn", "The store has no version yet: nothing has been published.")
    last = refused[-1]
    which = _snapshot(last)
    if len(refused) > 1:
        which = f"{plural(len(refused), 'snapshot')} could not be published, the last of them {which}"
    else:
        which += " could not be published"
    reason = last.reason or ""
    return Verdict(
        "refuse", f"The store has no version yet: {which}.", (reason[0].upper() + reason[1:],) if reason else ()
    )


def _drift(manifest: Manifest) -> str:
    drift = manifest.drift
    if drift is None or drift.items.cosine is None:
        return "; it is the first of its space" if manifest.parent is None else ""
    raw = "" if drift.items.cosine_raw is None else f" (raw: {figure(drift.items.cosine_raw, 2)})"
    return f"; items kept a mean cosine of {figure(drift.items.cosine, 2)}{raw} with version {drift.parent}"


def _listed(records: Sequence[CheckRecord]) -> str:
    more = f" and {len(records) - _NAMED} more" if len(records) > _NAMED else ""
    return "; ".join(map(explained, records[:_NAMED])) + more


def _since(manifest: Manifest, events: Sequence[Event], current: int | None) -> tuple[str, ...]:
    notes = []
    if current is not None and current != manifest.version:
        notes.append(f"It is not current: version {current} is.")
    last = next((event for event in reversed(events) if event.event in (*MOVES, "refused", "failed")), None)
    if last is not None and last.event in ("refused", "failed") and current in (None, manifest.version):
        cause = (last.reason or "").partition("; refused by")[0]  # the checks stand among the events
        reason = f": {cause}." if cause else "."
        notes.append(f"Since then {_snapshot(last)} was {_done(last)}, so this version remains in use{reason}")
    return tuple(notes)


def _snapshot(event: Event) -> str:
    name = (event.snapshot or {}).get("name")
    return "a snapshot" if not name else f"snapshot {name}"


def _done(event: Event) -> str:
    return "refused" if event.event == "refused" else "not readable"
