"""``embsync run``, ``hold`` and ``resume``, and the daemon's part of ``embsync status``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from embsync.cli.describe import moment
from embsync.cli.factory import try_factory
from embsync.cli.options import changing, context, locking, shared
from embsync.cli.output import print_json, say
from embsync.config import Config
from embsync.daemon import status
from embsync.daemon.daemon import Daemon
from embsync.environment import find
from embsync.invocation import command, invocation, set_invocation
from embsync.reporting.numerals import local
from embsync.store import Store
from embsync.store.hold import hold as take_hold
from embsync.store.hold import resume as release


@click.command()
@shared
@changing
def run(config_file: Path | None, store: Path | None, as_json: bool) -> int:
    """Watch the configured directory and publish every snapshot that appears, until stopped.

    SIGTERM and SIGINT stop it within seconds, SIGHUP reloads the configuration, SIGUSR1 starts a scan.
    """

    def configuration() -> Config:
        given = context(config_file, store, as_json, log__format="json" if as_json else None)
        set_invocation(invocation().absolute())  # its log and status are read from other directories
        try_factory(given)
        return given.config

    return Daemon(configuration, file=str(find(config_file, store))).run()


@click.command()
@click.option("--reason", help="Reason, shown by `embsync status`.")
@shared
@locking
def hold(reason: str | None, config_file: Path | None, store: Path | None, as_json: bool, wait: float) -> None:
    """Pause publishing by the daemon until `embsync resume`; the current version stays."""
    given = context(config_file, store, as_json, wait)
    changed = take_hold(given.store, reason)
    if as_json:
        print_json({"held": True, "changed": changed})
    else:
        say(
            f"on hold{': the daemon publishes nothing' if changed else ' already'}; "
            f"{command('resume', purpose='to continue')}"
        )


@click.command()
@shared
@locking
def resume(config_file: Path | None, store: Path | None, as_json: bool, wait: float) -> None:
    """Let the daemon publish again."""
    given = context(config_file, store, as_json, wait)
    changed = release(given.store)
    if as_json:
        print_json({"held": False, "changed": changed})
    else:
        say("resumed" if changed else "was not on hold")


def daemon_status(store: Store) -> dict[str, Any] | None:
    """Return the daemon's last status, and whether it is running; None if no daemon ever ran.

    Raises
    ------
    StoreError
        ``status.json`` cannot be read.
    """
    found = status.read(store)
    return None if found is None else {**found, "running": status.is_running(store)}


def daemon_lines(found: dict[str, Any] | None) -> Iterator[str]:
    """Yield the daemon's status as lines of text."""
    if found is None:
        return
    if found["running"]:
        yield f"daemon    {found['state']} since {moment(found['since'])}, process {found['pid']}: {found['doing']}"
        watch = found["watch"]
        how = f" ({watch['reason']})" if watch["reason"] else ""
        yield f"watch     {watch['path']}: {watch['health']}{how}; next scan {_local(watch['next_scan'])}"
        if found.get("order"):
            yield f"order     {found['order']}"
    else:
        yield f"daemon    not running; it was {found['state']} at {moment(found['updated'])}"
    if found["queue"]:
        yield f"queue     {', '.join(found['queue'])}"
    if found["retry"]:
        yield f"retry     {found['retry']['snapshot']}, {found['retry']['attempts']} failed attempts"
    if found["held"]:
        yield f"held      since {moment(found['held']['time'])}" + _because(found["held"]["reason"])
    if found["last_error"]:
        snapshot = found["last_error"]["snapshot"]
        yield (
            f"error     {moment(found['last_error']['time'])}{f' {snapshot}' if snapshot else ''}"
            f"{_because(found['last_error']['what'])}"
        )
    if found["on_publish"]:
        yield f"hook      {found['on_publish']}"


def _local(time: str | None) -> str:
    return "not planned" if time is None else local(time)


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""
