"""One sentence about a version: whether it is healthy."""

from __future__ import annotations

import re
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

#: Number of checks that a sentence names.
_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """Whether a version is healthy.

    Attributes
    ----------
    outcome : {"pass", "warn", "refuse"}
    sentence : str
    notes : tuple of str
        Further facts, such as which other version is current.
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
    """Return what a check measures, without how its limits are derived; empty for a check of another release."""
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
        The journal, oldest first, which shows what was refused since.
    current : int, optional
        The store's current version.
    """
    notes = () if current in (None, manifest.version) else (f"It is not current: version {current} is.",)
    outcome, state, detail = _state(manifest)
    refused = None if notes else _refused_since(events)
    if refused is None:
        return Verdict(outcome, f"Version {manifest.version} {state}: {detail}.", notes)
    return Verdict(
        "warn" if outcome == "pass" else outcome,
        f"Version {manifest.version} {state}, but {_snapshot(refused)} {_outcome(refused)}.",
        (f"Of version {manifest.version}, which remains in use: {detail}.",),
    )


def _state(manifest: Manifest) -> tuple[Outcome, str, str]:
    """Return the outcome of a version's checks, in a few words, and in detail."""
    odd = not_passed(manifest.checks)
    accepted = [record for record in odd if record.accepted]
    if accepted:
        return "refuse", f"was accepted although {plural(len(accepted), 'check')} refused it", _listed(accepted)
    if odd:
        return "warn", f"is published with {plural(len(odd), 'warning')}", _listed(odd)
    passed = f"all {plural(len(manifest.checks), 'check')} passed and no score changed"
    return "pass", "is healthy", f"{passed}{_drift(manifest)}"


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


def _refused_since(events: Sequence[Event]) -> Event | None:
    """Return the last refusal or failure, unless the current version has changed since."""
    last = next((event for event in reversed(events) if event.event in (*MOVES, "refused", "failed")), None)
    return None if last is None or last.event in MOVES else last


def _snapshot(event: Event) -> str:
    name = (event.snapshot or {}).get("name")
    return "a snapshot" if not name else f"snapshot {name}"


def _outcome(event: Event) -> str:
    """Return a phrase that a snapshot was refused or failed, with the first part of the reason."""
    done = "has since been refused" if event.event == "refused" else "could not be published since"
    cause = re.split("; (?:refused by|expected|hint:)", event.reason or "", maxsplit=1)[0]
    return f"{done}: {cause.rstrip('.')}" if cause else done
