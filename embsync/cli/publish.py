"""Commands that publish, roll back and prune versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from embsync import pipeline
from embsync.cli.dry_run import check_each, print_backlog, survey_backlog
from embsync.cli.options import Context, context, locking, reads_only, shared
from embsync.cli.output import number, print_json, say, warn
from embsync.cli.progress import progress_bar
from embsync.errors import EmbsyncError, UsageError
from embsync.invocation import command
from embsync.manifest import Manifest
from embsync.pipeline import Request, UnchangedError
from embsync.pipeline.checks import CheckRefusedError, reject_unknown, remarks
from embsync.pipeline.entry import publish_entry
from embsync.pipeline.on_publish import run_on_publish
from embsync.progress import Progress
from embsync.snapshots import shortened
from embsync.snapshots.labels import TABLES
from embsync.store.hold import hold, resume
from embsync.store.journal import NotJournaled
from embsync.store.layout import version_name
from embsync.watching.backlog import Entry

Work = Callable[[Progress], Manifest]


@click.command()
@click.argument("snapshots", nargs=-1, type=click.Path(path_type=Path))
@click.option("-n", "--check", "--dry-run", "dry", is_flag=True, help="Report what would happen; write nothing.")
@click.option("--engine", type=click.Choice(["local", "spark"]), help="Where the users' rows are mapped.")
@shared
@locking
def sync(
    snapshots: tuple[Path, ...],
    dry: bool,
    engine: str | None,
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
    wait: float,
) -> int:
    """Publish the given SNAPSHOTs in the order given, or the backlog of the watched directory.

    A refused or ill-formed snapshot does not stop the others; the exit code is the first that is not 0.
    """
    if dry:
        reads_only()
    given = context(config_file, store, as_json, wait, engine__kind=engine)
    if not snapshots and given.config.watch.path is None:
        raise UsageError(
            "nothing to sync",
            found="no SNAPSHOT and no watch.path",
            hint="name a snapshot, or set watch.path in the configuration",
        )
    if dry:
        return check_each(snapshots, given) if snapshots else print_backlog(given)
    if snapshots:
        return _publish_each([(path, _publish_path(Request(path), given)) for path in snapshots], given)
    found = survey_backlog(given)
    for entry in found.entries:
        if entry.passed_over:
            warn(f"embsync: warning: {entry.child.name}: {entry.reason}")
    waiting = found.queue
    if waiting:
        given.store.create()
        found.order.save(given.store)
    if not waiting and not given.as_json:
        say(f"nothing new in {given.config.watch.path}: {_counts(found.entries)}")
    return _publish_each([(entry.child.path, _publish_entry(entry, given)) for entry in waiting], given)


@click.command()
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.option("--check", "checks", multiple=True, metavar="NAME", help="Check to override; repeatable.")
@click.option("--new-space", is_flag=True, help="Start a new space from an unrelated model.")
@shared
@locking
def accept(
    snapshot: Path,
    checks: tuple[str, ...],
    new_space: bool,
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
    wait: float,
) -> int:
    """Publish SNAPSHOT although the named checks refuse it; the manifest records the override."""
    given = context(config_file, store, as_json, wait)
    reject_unknown(checks)
    if not checks and not new_space:
        raise UsageError(
            "nothing to accept",
            found="neither --check nor --new-space",
            hint=command("sync", snapshot, "--check", purpose="to see which checks refuse it"),
        )
    given.store.require()  # a wrong path must not become a store with the wrong model
    return _publish_each([(snapshot, _publish_path(Request(snapshot, checks, new_space), given))], given)


@click.command()
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.option("--hold", "and_hold", is_flag=True, help="Also put the daemon on hold until `embsync resume`.")
@shared
@locking
def rollback(
    version: int | None, and_hold: bool, config_file: Path | None, store: Path | None, as_json: bool, wait: float
) -> int:
    """Make an older VERSION current, by default the previous one."""
    given = context(config_file, store, as_json, wait)
    given.store.require()
    held, unjournaled = False, None
    try:
        held = and_hold and hold(given.store, "rollback")  # first, so that nothing is published in between
    except NotJournaled as error:
        held, unjournaled = True, error
    try:
        before, after = given.store.rollback(version)
    except NotJournaled:  # it took effect, and so does the hold
        raise
    except EmbsyncError:
        if held:
            resume(given.store)
        raise
    if as_json:
        print_json({"from": before, "to": after, "held": and_hold})
    else:
        say(
            (
                f"current already points to version {after}"
                if before == after
                else f"rolled back from version {before} to version {after}"
            )
            + (f"; on hold; {command('resume', purpose='to continue')}" if and_hold else "")
        )
    if unjournaled is not None:
        warn(f"embsync: {unjournaled}")
        return unjournaled.exit_code
    return 0


@click.command()
@click.option("--keep", type=click.IntRange(min=1), help="Versions to keep; default: store.keep_versions.")
@shared
@locking
def prune(keep: int | None, config_file: Path | None, store: Path | None, as_json: bool, wait: float) -> None:
    """Delete all versions except the current one, those with the highest numbers, and those in use."""
    given = context(config_file, store, as_json, wait, store__keep_versions=keep)
    holder = given.store
    holder.require()
    with holder.locked(even_when_full=True):
        pruned, in_use = holder.prune(given.config.store.keep_versions)
    names = [version_name(number) for number in in_use]
    for name in holder.unpruned(given.config.store.keep_versions):
        if name not in names:
            warn(f"embsync: warning: {holder.versions / name} cannot be deleted: it belongs to another user")
    if as_json:
        print_json({"pruned": pruned, "in_use": in_use, "kept": holder.numbers()})
        return
    say(f"pruned {_numbers(pruned)}; kept {_numbers(holder.numbers())}")
    if in_use:
        say(f"in use by a reader, kept for now: {_numbers(in_use)}")


@click.command()
@click.argument("dimension", type=click.IntRange(min=1), metavar="K")
@shared
@locking
def widen(dimension: int, config_file: Path | None, store: Path | None, as_json: bool, wait: float) -> None:
    """Publish the current version in a space of K dimensions, with all vectors padded with zeros."""
    from embsync.pipeline.widen import widen as widen_store  # noqa: PLC0415  (loads FAISS)

    given = context(config_file, store, as_json, wait)
    manifest = widen_store(given.store, dimension, given.config)
    failed = _after_publish(manifest, given)
    if as_json:
        print_json({"version": manifest.version, "dimension": manifest.dimension, "on_publish": failed})
    else:
        say(f"published version {manifest.version}: the space now has {manifest.dimension} dimensions")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@shared
@locking
def relabel(file: Path, config_file: Path | None, store: Path | None, as_json: bool, wait: float) -> None:
    """Publish the current version with the labels in FILE, a .parquet or .csv table with an id column."""
    from embsync.pipeline.relabel import relabel as relabel_store  # noqa: PLC0415  (loads FAISS)

    given = context(config_file, store, as_json, wait)
    manifest = relabel_store(given.store, file, given.config)
    failed = _after_publish(manifest, given)
    if as_json:
        print_json({"version": manifest.version, "labels": manifest.labels, "on_publish": failed})
        return
    say(
        f"published version {manifest.version}: {', '.join(label.name for label in manifest.labels)} of version "
        f"{manifest.relabels}"
    )
    unknown = max((label.unknown for label in manifest.labels), default=0)
    if unknown:
        say(f"  warning: {unknown} ids in {file} are not items")
    say(f"  kept, of each night the two newest: {_numbers(given.store.numbers())}")


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _counts(found: list[Entry]) -> str:
    counts = Counter(entry.state for entry in found)
    return ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in counts.items()) or "it is empty"


def _publish_path(request: Request, given: Context) -> Work:
    return lambda progress: pipeline.publish_snapshot(given.store, request, given.config, progress)


def _publish_entry(entry: Entry, given: Context) -> Work:
    return lambda progress: publish_entry(given.store, entry, given.config, progress)


def _publish_each(works: list[tuple[Path, Work]], given: Context) -> int:
    """Publish snapshots in turn and print each outcome; return the first nonzero exit code."""
    results, code = [], 0
    for path, work in works:
        result, failed = _publish_one(path, work, given)
        results.append({"snapshot": str(path), **result})
        code = code or failed
    if given.as_json:
        print_json({"results": results, "exit_code": code})
    return code


def _publish_one(path: Path, work: Work, given: Context) -> tuple[dict[str, object], int]:
    """Publish a snapshot and print the outcome; return it for ``--json``, and its exit code."""
    try:
        with progress_bar(path.name, wanted=not given.as_json) as progress:
            manifest = work(progress)
    except UnchangedError as error:
        if not given.as_json:
            say(str(error))
        return {"outcome": "unchanged", "version": None}, 0
    except EmbsyncError as error:
        warn(f"embsync: {error}")
        outcome = "refused" if isinstance(error, CheckRefusedError) else "failed"
        return {"outcome": outcome, "version": None, **error.as_dict(), **_figures(error)}, error.exit_code
    if not given.as_json:
        _print_published(str(path), manifest)
    published = {
        "outcome": "published",
        "version": manifest.version,
        "unread": manifest.snapshot.unread,
        "checks": [check for check in manifest.checks if check.outcome != "pass"],
        "on_publish": _after_publish(manifest, given),
    }
    return published, 0


def _after_publish(manifest: Manifest, given: Context) -> str | None:
    """Run ``store.on_publish`` for a version; a failure is a warning, as the version stays published."""
    command = given.config.store.on_publish
    failed = None if command is None else run_on_publish(given.store, command, manifest.version)
    if failed is not None:
        warn(f"embsync: version {manifest.version} is published; warning: {failed}")
    return failed


def _figures(error: EmbsyncError) -> dict[str, object]:
    if not isinstance(error, CheckRefusedError):
        return {}
    return {"checks": [msgspec.to_builtins(check) for check in error.records if check.outcome != "pass"]}


def _print_published(name: str, manifest: Manifest) -> None:
    """Print a summary of a new version."""
    rows = " and ".join(f"{counts.live:,} {name}" for name, counts in manifest.sides.named())
    parts = [rows, f"score error {manifest.preservation.score_error:.1e}"]
    if manifest.drift is not None:
        items = manifest.drift.items
        parts.append(f"item cosine {number(items.cosine)} (raw {number(items.cosine_raw)})")
    index = manifest.index
    parts.append(f"index {index.factory} {index.action}, recall {number(index.recall_at_10)}")
    say(f"{name}: published version {manifest.version}: {'; '.join(parts)}; {manifest.seconds.total:.1f} s")
    if manifest.snapshot.unread:
        advice = (
            "; name its columns in snapshot.labels to publish them" if {*TABLES} & {*manifest.snapshot.unread} else ""
        )
        say(f"  warning: not read: {shortened(manifest.snapshot.unread)}{advice}")
    for check, sentence in remarks(manifest):
        say(f"  {'accepted' if check.accepted else 'warning'}: {sentence}")
