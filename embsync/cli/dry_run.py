"""``embsync sync --check``: what would happen, without writing anything."""

from __future__ import annotations

from pathlib import Path

import msgspec

from embsync import pipeline
from embsync.cli.options import Context
from embsync.cli.output import number, print_json, say, table, warn
from embsync.cli.progress import progress_bar
from embsync.errors import EmbsyncError
from embsync.invocation import command
from embsync.manifest import CheckRecord, Manifest
from embsync.pipeline import CheckRefusedError, Request
from embsync.watching.backlog import Survey, survey


def survey_backlog(given: Context) -> Survey:
    """Survey the watched directory; warn if its order had to be decided again."""
    found = survey(given.store, given.config)
    if found.order.damage is not None:
        warn(f"embsync: warning: {found.order.damage}")
    return found


def check_each(snapshots: tuple[Path, ...], given: Context) -> int:
    """Check each snapshot against the current version; return the first nonzero exit code."""
    results: list[dict[str, object]] = []
    code = 0
    for path in snapshots:
        found: dict[str, object] = {"snapshot": str(path), "version": None}
        try:
            with progress_bar(path.name, wanted=not given.as_json) as progress:
                manifest = pipeline.dry_run(given.store, Request(path), given.config, progress)
        except EmbsyncError as error:
            code = code or error.exit_code
            refused = isinstance(error, CheckRefusedError)
            checks = error.records if isinstance(error, CheckRefusedError) else []
            found |= {"outcome": "would_refuse" if refused else "failed", **error.as_dict()}
            if not given.as_json:
                say(f"{path}: would be {'refused' if refused else 'rejected'}; nothing was written")
                _print_checks(checks)
            warn(f"embsync: {error}")
        else:
            checks = manifest.checks
            found |= {"outcome": "would_publish", "version": manifest.version}
            if not given.as_json:
                _print_version(path, manifest)
        results.append({**found, "checks": [msgspec.to_builtins(check) for check in checks]})
    if given.as_json:
        print_json({"results": results, "exit_code": code, "written": False})
    return code


def print_backlog(given: Context) -> int:
    """Report for everything in the watched directory whether it would be published, and why not."""
    found = survey_backlog(given)
    entries = [
        {
            "name": entry.child.name,
            "taken": entry.state == "next",
            "state": entry.state,
            "reason": entry.reason,
            "version": entry.version,
        }
        for entry in found.entries
    ]
    if given.as_json:
        print_json({"watch": given.config.watch.path, "snapshots": entries, "written": False})
        return 0
    taken = [entry.child for entry in found.queue]
    say(f"{given.config.watch.path}: {len(taken)} of {len(entries)} would be handled; nothing was written")
    for entry in entries:
        what = "would be handled" if entry["taken"] else str(entry["state"]).replace("_", " ")
        say(f"  {entry['name']:<24} {what:<14} {entry['reason'] or ''}".rstrip())
    for child in taken[:1]:
        say(str(command("sync", child.path, "--check", purpose="to check it")))
    return 0


def _print_version(path: Path, manifest: Manifest) -> None:
    rows = " and ".join(f"{counts.live:,} {name}" for name, counts in manifest.sides.named())
    parent = "the first of a space" if manifest.parent is None else f"aligned to version {manifest.parent}"
    say(f"{path}: would be published as version {manifest.version}, {parent}: {rows}; nothing was written")
    _print_checks(manifest.checks)


def _print_checks(checks: list[CheckRecord]) -> None:
    if checks:
        table(
            ("  check", "value", "outcome"),
            [(f"  {check.name}", number(check.value, ".4g"), check.outcome) for check in checks],
        )
