"""Commands that show the contents and the state of a store."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import numpy as np

import embsync
from embsync.cli.daemon import daemon_lines, daemon_status
from embsync.cli.deliver import delivery_lines, delivery_status
from embsync.cli.describe import FIELD, moment, say_drift, say_history, say_version
from embsync.cli.options import Context, context, shared
from embsync.cli.output import mark, number, print_json, say, warn
from embsync.cli.progress import progress_bar
from embsync.config import Config
from embsync.errors import Hint, NotFoundError, SnapshotError, StoreError
from embsync.manifest import Manifest
from embsync.pipeline.checks import remarks
from embsync.reader import open_version
from embsync.reporting.verdict import Outcome, Verdict, explained, meaning, not_passed, of_events, of_version
from embsync.store import Store, layout
from embsync.store.hold import held
from embsync.store.journal import Event
from embsync.store.locks import is_held
from embsync.store.records import damage_hint
from embsync.watching.backlog import Entry, survey

if TYPE_CHECKING:
    from embsync.pipeline.verify import Verification


@click.command()
@shared
def status(config_file: Path | None, store: Path | None, as_json: bool) -> int:
    """Show the current version, the daemon's state, the watched snapshots, and damaged files."""
    given = context(config_file, store, as_json)
    found = {**_status(given.store), "config": str(given.found)}
    _add_services(given, found)
    found["snapshots"] = _snapshots(given.store, given.config, found["daemon"])
    if found["daemon"] is not None and found["daemon"]["running"]:
        found["damage"] += [what for what in found["daemon"].get("damage", ()) if what not in found["damage"]]
    code = 0 if found["intact"] else StoreError.exit_code
    if as_json:
        print_json(found)
        return code
    _say_status(given.store, found)
    return code


def _add_services(given: Context, found: dict[str, Any]) -> None:
    """Add the last status of the daemon and of deliveries."""
    read: dict[str, Callable[[Context], Any]] = {
        "daemon": lambda given: daemon_status(given.store),
        "delivery": delivery_status,
    }
    for name, status_of in read.items():
        try:
            found[name] = status_of(given)
        except StoreError as error:
            found[name] = None
            found["damage"].append(str(error))


def _passed_over(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line about the snapshots that were not published although they are newer than everything published."""
    names = [entry["name"] for entry in entries if entry["passed_over"]]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield (
            f"passed    {', '.join(names[-3:])}{more}: newer than everything published, but ordered before it; "
            "watch.order: mtime takes the newest"
        )


def _say_status(store: Store, found: dict[str, Any]) -> None:
    manifests = _space(store, found)
    judged = _verdict(store, found, manifests)
    say(f"{mark(judged.outcome)} {judged.sentence}", 2)
    say(f"store     {found['store']}{'  (locked)' if found['locked'] else ''}", FIELD)
    say(f"config    {found['config']}", FIELD)
    _say_current(found)
    say_drift(manifests)
    for record in not_passed(manifests[-1].checks) if manifests else ():
        say(
            f"{'accepted' if record.accepted else 'warning':<{FIELD}}{explained(record)}: {meaning(record.name)}", FIELD
        )
    for damage in found["damage"]:
        say(f"damaged   {damage}", FIELD)
    for line in (*daemon_lines(found["daemon"]), *delivery_lines(found["delivery"])):
        say(line, FIELD)
    for line in _passed_over(found["snapshots"] or []):
        say(line, FIELD)
    last = found["last_refusal"]
    if last is not None and not last["over"]:
        name = (last.get("snapshot") or {}).get("name")
        say(f"refused   {name} at {moment(last['time'])}: {last.get('reason')}", FIELD)
    for entry in found["snapshots"] or []:
        what = f"version {entry['version']}" if entry["state"] == "published" and entry["version"] else entry["reason"]
        say(f"  {entry['name']:<24} {(entry['state'] or 'unknown').replace('_', ' '):<14} {what}".rstrip(), 42)
        other = entry["daemon"]
        if other is not None:
            say(f"  {'':<24} the daemon reports {other['state'].replace('_', ' ')}: {other['reason']}", 27)


def _space(store: Store, found: dict[str, Any]) -> list[Manifest]:
    """Return the readable manifests of the current version's space, the current one last; none without a version."""
    if not found["intact"] or found["current"] is None:
        return []
    current, others = store.manifest(found["current"]), []
    for earlier in store.numbers():
        with contextlib.suppress(StoreError, NotFoundError):
            if earlier < current.version and store.manifest(earlier).space_id == current.space_id:
                others.append(store.manifest(earlier))
    return [*others, current]


def _verdict(store: Store, found: dict[str, Any], manifests: list[Manifest]) -> Verdict:
    if found["damage"] or not found["intact"]:
        return Verdict("refuse", "Part of the store is damaged.")
    events = list(store.journal.events())
    judged = of_version(manifests[-1], events, found["current"]) if manifests else of_events(events)
    problems = list(_problems(store, found, manifests))
    if not problems:
        return judged
    outcome: Outcome = "warn" if judged.outcome == "pass" else judged.outcome
    return Verdict(outcome, f"{judged.sentence} Also: {'; '.join(problems)}.", judged.notes)


def _problems(store: Store, found: dict[str, Any], manifests: list[Manifest]) -> Iterator[str]:
    """Yield reasons why readers get no later versions, and a wrong clock; details follow the verdict."""
    daemon, delivery = found["daemon"], found["delivery"]
    if held(store.root) is not None:
        yield "publishing is on hold"
    if daemon is not None and daemon["running"] and daemon["last_error"]:
        yield "the daemon reports an error"
    if any(entry["passed_over"] for entry in found["snapshots"] or []):
        yield "newer snapshots were passed over"
    failing = [] if delivery is None else [name for name, sink in delivery["sinks"].items() if sink["error"]]
    if failing:
        yield f"delivery fails to {', '.join(failing)}"
    if len(manifests) > 1 and manifests[-1].created < manifests[-2].created:
        yield (
            f"version {manifests[-1].version} has an earlier time than version {manifests[-2].version}, so that "
            "ages in time are wrong until the next publish: check the clock"
        )


def _say_current(found: dict[str, Any]) -> None:
    if not found["intact"]:
        number = found["current"]
        say(f"current   {'unknown' if number is None else f'version {number}'}, damaged", FIELD)
    elif found["current"] is None:
        say("current   no version yet: publish a first snapshot", FIELD)
    else:
        say(
            f"current   version {found['current']} from {found['snapshot']}, {moment(found['created'])}, "
            f"parent {found['parent'] or 'none'}",
            FIELD,
        )
        users = "" if found["users"] is None else f", {found['users']['live']:,} users (+{found['users']['carried']:,})"
        say(f"rows      {found['items']['live']:,} items (+{found['items']['carried']:,} carried){users}", FIELD)
        say(f"space     {found['space_id']}, {found['dimension']} dimensions", FIELD)
    if found["versions"]:
        say(f"versions  {', '.join(map(str, found['versions']))}", FIELD)


def _status(store: Store) -> dict[str, Any]:
    store.require()
    events = list(store.journal.events())
    found: dict[str, Any] = {
        "store": str(store.root),
        "current": None,
        "locked": is_held(store.root / layout.LOCK),
        "versions": store.numbers(),
        "last_refusal": _last_refusal(events),
        "last_event": _event(events[-1]) if events else None,
        "intact": False,
        "damage": [str(error) for error in store.damage()],
    }
    with contextlib.suppress(StoreError):
        found["current"] = store.current()
        if found["current"] is not None:
            found |= _current(store.manifest(found["current"]))
            found["intact"] = not store.wrong_sizes(found["current"])
        else:
            found["intact"] = True
    return found


def _last_refusal(events: list[Event]) -> dict[str, Any] | None:
    """Return the last refusal; it is over if something was published since."""
    over = False
    for event in reversed(events):
        if event.event == "refused":
            return {**msgspec.to_builtins(event), "over": over}
        over |= event.event == "published"
    return None


def _snapshots(store: Store, config: Config, daemon: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    """Return the state of every snapshot in the watched directory, or None if it is not configured or missing.

    The caller may have different permissions from the daemon's; if the two see different states, both are reported.
    """
    if config.watch.path is None:
        return None
    seen = daemon.get("snapshots", {}) if daemon is not None and daemon["running"] else {}
    try:
        entries = survey(store, config).entries
    except NotFoundError:
        return None  # the daemon's lines report it as missing
    except SnapshotError as error:  # the caller may not read it; perhaps the daemon may
        return [
            {
                "name": name,
                "state": None,
                "reason": str(error),
                "version": None,
                "passed_over": one["passed_over"],
                "daemon": one,
            }
            for name, one in seen.items()
        ]
    return [
        {
            "name": entry.child.name,
            "state": entry.state,
            "reason": entry.reason,
            "version": entry.version,
            "passed_over": entry.passed_over,
            "daemon": _if_other(entry, seen.get(entry.child.name)),
        }
        for entry in entries
    ]


def _if_other(entry: Entry, seen: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if seen is None or seen["state"] == entry.state else seen


def _current(manifest: Manifest) -> dict[str, Any]:
    created = dt.datetime.fromisoformat(manifest.created)
    return {
        "snapshot": manifest.snapshot.name,
        "parent": manifest.parent,
        "created": manifest.created,
        "age_seconds": max((dt.datetime.now(dt.UTC) - created).total_seconds(), 0.0),
        "space_id": manifest.space_id,
        "dimension": manifest.dimension,
        "items": msgspec.to_builtins(manifest.items),
        "users": msgspec.to_builtins(manifest.users),
        "index": msgspec.to_builtins(manifest.index),
        "warnings": [sentence for _, sentence in remarks(manifest)],
    }


def _event(event: Event | None) -> dict[str, Any] | None:
    return None if event is None else msgspec.to_builtins(event)


@click.command()
@click.option("-n", "--last", type=click.IntRange(min=1), help="Only the last N events.")
@shared
def history(last: int | None, config_file: Path | None, store: Path | None, as_json: bool) -> None:
    """Show past events: published, refused, failed, rolled back, widened, relabelled, pulled, held, resumed, pruned."""
    holder = context(config_file, store, as_json).store
    holder.require()
    events = list(holder.journal.events())[-(last or 0) :]
    _warn_of_damage(holder)
    if as_json:
        print_json([_event(event) for event in events])
        return
    if events:
        say_history(events)
    else:
        say("no events: nothing has been published or refused")


def _warn_of_damage(store: Store) -> None:
    for damage in store.damage():
        warn(f"embsync: {damage}")


@click.command()
@click.argument("version", type=click.IntRange(min=1), required=False)
@shared
def show(version: int | None, config_file: Path | None, store: Path | None, as_json: bool) -> None:
    """Show the manifest of VERSION, by default the current one; with --json, print the file unchanged."""
    holder = context(config_file, store, as_json).store
    with open_version(holder.root, version) as opened:
        if as_json:
            click.echo(opened.manifest_bytes, nl=False)
        else:
            events, current = _events_and_current(holder)
            say_version(opened.record, events, current)


def _events_and_current(store: Store) -> tuple[list[Event], int | None]:
    """Return the events and the current version, as far as they can be read, for a verdict."""
    events, current = list(store.journal.events()), None
    with contextlib.suppress(StoreError):
        current = store.current()
    return events, current


@click.command()
@click.argument("version", type=click.IntRange(min=1), required=False)
@shared
def verify(version: int | None, config_file: Path | None, store: Path | None, as_json: bool) -> int:
    """Hash every file of VERSION and, if its snapshot still exists, recompute the certificate."""
    from embsync.pipeline.verify import verify as verify_version  # noqa: PLC0415  (loads SciPy)

    given = context(config_file, store, as_json)
    holder = given.store
    wanted = _existing(holder, version)
    _warn_of_damage(holder)
    try:
        with (
            open_version(holder.root, wanted) as opened,
            progress_bar(f"version {wanted}", wanted=not as_json) as progress,
        ):
            found = verify_version(holder, opened, given.config, progress)
    except StoreError:
        damaged = holder.damaged_files(wanted)
        if not damaged:
            raise
        if as_json:
            print_json({"version": wanted, "damaged": damaged, "sound": False})
        warn(f"embsync: version {wanted} is damaged: {'; '.join(damaged)}; hint: {damage_hint(holder.path(wanted))}")
        return StoreError.exit_code
    if as_json:
        print_json({**dataclasses.asdict(found), "sound": found.sound})
    else:
        _say_verification(found)
    if not found.sound:
        _warn_of_unsound(found, damage_hint(holder.path(wanted)))
    return 0 if found.sound else StoreError.exit_code


def _existing(store: Store, version: int | None) -> int:
    """Return the number of a version that exists: the given one, or else the current one."""
    store.require()
    number = store.current() if version is None else version
    if number is None:
        raise NotFoundError("no version yet", where=store.root)
    store.path(number)
    return number


def _warn_of_unsound(found: Verification, hint: Hint) -> None:
    for problem in found.damaged:
        warn(f"embsync: damaged: {problem}; hint: {hint}")
    if not found.damaged:
        warn(
            f"embsync: version {found.version} does not preserve its snapshot's scores; found score error "
            f"{found.score_error:.2e}; hint: {hint}"
        )


def _say_verification(found: Verification) -> None:
    say(f"version {found.version}: {found.files - len(found.damaged)} of {found.files} files intact")
    if found.score_error is not None:
        say(
            f"recomputed from {found.snapshot}: score error {found.score_error:.2e}, "
            f"map error {number(found.map_error, '.1e')}"
        )
    if found.note:
        say(found.note)


@click.command()
@shared
def version(config_file: Path | None, store: Path | None, as_json: bool) -> None:
    """Print the versions of embsync and its main libraries."""
    del config_file, store
    found = {
        "embsync": embsync.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": importlib.metadata.version("scipy"),
        "faiss": importlib.metadata.version("faiss-cpu"),
    }
    if as_json:
        print_json(found)
    else:
        say(", ".join(f"{name} {value}" for name, value in found.items()))
