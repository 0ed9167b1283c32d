"""The output of ``status``, ``history`` and ``show``: a verdict first, then figures, as wide as the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from embsync.cli.output import mark, number, say, sparkline, table, width
from embsync.dtypes import Float64
from embsync.manifest import CheckRecord, Manifest, RowCounts
from embsync.measurements import SideDrift, SideFitRecord
from embsync.reporting import verdict
from embsync.reporting.gauges import limit_words
from embsync.reporting.history import version_history
from embsync.reporting.numerals import age, figure, local, percent, plural, seconds_since
from embsync.reporting.verdict import Verdict
from embsync.store.contents import PUBLISHES
from embsync.store.journal import Event

#: Column at which the text after a name begins.
FIELD = 10
#: Terminal width from which the meaning of a check is printed beside it.
_WIDE = 120
#: Terminal width from which the description of an event is printed beside it.
_ROOMY = 110


def moment(time: str) -> str:
    """Return a UTC time of a record in local time, with its age."""
    seconds = seconds_since(time)
    return time if seconds is None else f"{local(time)} ({age(seconds)})"


def say_verdict(found: Verdict) -> None:
    """Print a verdict with its sign, and its notes."""
    say(f"{mark(found.outcome)} {found.sentence}", 2)
    for note in found.notes:
        say(f"  {note}", 2)


def say_drift(manifests: Sequence[Manifest]) -> None:
    """Print drift over the versions of one space as sparklines, for each side."""
    if len(manifests) < 2:
        return
    history = version_history(manifests)
    rows = [(f"cosine of {name}", side.cosine) for name, side in history.sides.named()]
    rows.append(("stale top 10", history.stale_overlap))
    for place, (name, values) in enumerate(rows):
        line = _trend(values)
        if line:
            say(f"{'drift' if place == 0 else '':<{FIELD}}{name:<16}  {line}", FIELD)


def _trend(values: Float64) -> str:
    known = [float(value) for value in values if value == value]  # noqa: PLR0124  (not NaN)
    if not known:
        return ""
    blocks = sparkline(values.tolist())
    first = f"{figure(known[0], 2)} to " if len(known) > 1 else ""
    return f"{blocks}{'  ' if blocks else ''}{first}{figure(known[-1], 2)}"


def say_history(events: Sequence[Event]) -> None:
    """Print a summary in one sentence, then the events, oldest first."""
    published = sum(event.event in PUBLISHES for event in events)
    refused = sum(event.event in ("refused", "failed") for event in events)
    outcome = "pass" if events[-1].event not in ("refused", "failed") else "warn"
    say(
        f"{mark(outcome)} {plural(published, 'version')} published, {plural(refused, 'snapshot')} refused or failed; "
        f"last event: {events[-1].event.replace('_', ' ')}, {moment(events[-1].time)}.",
        2,
    )
    click.echo()
    names = [(event.snapshot or {}).get("name") or "-" for event in events]
    longest = min(max(len("snapshot"), *map(len, names)), 24)
    columns = width()
    beside = columns is None or columns >= _ROOMY
    heads = f"{'time':<16}  {'age':<14}  {'event':<11}  {'version':>7}  {'snapshot':<{longest}}"
    say(f"{heads}  what" if beside else heads.rstrip())
    for event, name in zip(events, names, strict=True):
        _say_event(event, name, longest, beside=beside)


def _say_event(event: Event, name: str, longest: int, *, beside: bool) -> None:
    when, ago = _time_and_age(event.time)
    begin = f"{when:<16}  {ago:<14}  {event.event:<11}  {event.version or '-':>7}  {name:<{longest}}"
    what = _what(event)
    if beside:
        say(f"{begin}  {what}".rstrip(), len(begin) + 2)
    else:
        say(begin.rstrip())
        if what:
            say(f"    {what}", 4)


def _time_and_age(time: str) -> tuple[str, str]:
    seconds = seconds_since(time)
    return (time[:16], "") if seconds is None else (local(time)[:16], age(seconds))


def _what(event: Event) -> str:
    if event.event == "rolled_back":
        return f"from version {event.parent}"
    if event.event == "published":
        noted = f"; accepted {_names(event.accepted)}" if event.accepted else ""
        warned = _names(str(check["name"]) for check in event.checks or [])
        return f"index {event.action}: {event.reason}{noted}" + (f"; noted {warned}" if warned else "")
    return event.reason or ""


def _names(checks: Iterable[str]) -> str:
    return ", ".join(checks)


def say_version(manifest: Manifest, events: Sequence[Event], current: int | None) -> None:
    """Print a version's manifest: the verdict, the rows, what was preserved, the index, and every check explained."""
    say_verdict(verdict.of_version(manifest, events, current))
    click.echo()
    say(
        f"version {manifest.version} of space {manifest.space_id}, {manifest.dimension} dimensions, from "
        f"{manifest.snapshot.name} ({manifest.snapshot.layout}), {moment(manifest.created)}",
        2,
    )
    click.echo()
    _say_sides(manifest)
    click.echo()
    _say_figures(manifest)
    click.echo()
    _say_checks(manifest.checks)


def _say_sides(manifest: Manifest) -> None:
    drift = manifest.drift
    rows = [
        _side_row(name, counts, fit, None if drift is None else getattr(drift, name))
        for (name, counts), fit in zip(manifest.sides.named(), manifest.alignment.sides, strict=True)
    ]
    table(("", "live", "new", "gone", "carried", "fit", "cosine", "raw", "since start"), rows)


def _say_figures(manifest: Manifest) -> None:
    kept, drift, index = manifest.preservation, manifest.drift, manifest.index
    say(
        f"preserved  score error {kept.score_error:.1e}, map error {kept.map_error:.1e}, top 10 unchanged for "
        f"{percent(kept.top_k_agreement)} of {kept.sampled_users:,} users",
        11,
    )
    if drift is not None:
        say(
            f"top 10     the user vectors of version {drift.parent} find {percent(drift.stale_overlap_at_10)} of it "
            f"(raw {percent(drift.stale_overlap_at_10_raw)}); the model itself kept {percent(drift.overlap_at_10)}",
            11,
        )
    search = ", ".join(f"{name} {value}" for name, value in index.search.items()) or "exact search"
    say(
        f"index      {index.factory} {index.action} ({index.reason}), recall {number(index.recall_at_10)} with "
        f"{search}",
        11,
    )


def _side_row(name: str, rows: RowCounts, fit: SideFitRecord, drift: SideDrift | None) -> tuple[object, ...]:
    moved = (None, None, None) if drift is None else (drift.cosine, drift.cosine_raw, drift.cosine_since_start)
    return (name, rows.live, rows.new, rows.gone, rows.carried, number(fit.cosine), *map(number, moved))


def _say_checks(records: Sequence[CheckRecord]) -> None:
    """Print the checks with their meanings, beside them if there is room, otherwise below."""
    columns = width()
    wide = columns is None or columns >= _WIDE
    names = max(len(record.name) for record in records) if records else 0
    for record in records:
        value = "not measured" if record.value is None else figure(record.value, 4)
        outcome = "accepted" if record.accepted else record.outcome
        line = f"{mark(record.outcome):<2} {record.name:<{names}}  {value:>9}  {outcome:<6}"
        meaning = verdict.meaning(record.name)
        about = f"{meaning}; {limit_words(record)}" if meaning else limit_words(record)
        if wide:
            say(f"{line}  {about}", len(line) + 2)
        else:
            say(line)
            say(f"     {about}", 5)
