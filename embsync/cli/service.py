"""Commands of the daemon: run it, have it hold, have it go on."""

from __future__ import annotations

from pathlib import Path

import click

from embsync.cli.options import context, locking, shared
from embsync.cli.output import print_json
from embsync.service import Daemon
from embsync.service.hold import hold as put_on_hold
from embsync.service.hold import resume as let_go_on


@click.command()
@shared
def run(config_file: Path | None, store: Path | None, as_json: bool) -> int:
    """Watch the configured directory and publish every snapshot that appears, until told to stop.

    SIGTERM and SIGINT stop within seconds, SIGHUP reads the configuration again, SIGUSR1 looks now.
    """
    log_format = "json" if as_json else None
    return Daemon(lambda: context(config_file, store, as_json, log__format=log_format).config).run()


@click.command()
@click.option("--reason", help="Why; shown by status.")
@shared
@locking
def hold(reason: str | None, config_file: Path | None, store: Path | None, as_json: bool, wait: float) -> None:
    """Make the daemon publish nothing until `embsync resume`; what is served stays."""
    given = context(config_file, store, as_json, wait)
    changed = put_on_hold(given.store, reason)
    if as_json:
        print_json({"held": True, "changed": changed})
    else:
        click.echo("on hold: the daemon publishes nothing until embsync resume" if changed else "on hold already")


@click.command()
@shared
@locking
def resume(config_file: Path | None, store: Path | None, as_json: bool, wait: float) -> None:
    """Let the daemon publish again."""
    given = context(config_file, store, as_json, wait)
    changed = let_go_on(given.store)
    if as_json:
        print_json({"held": False, "changed": changed})
    else:
        click.echo("resumed" if changed else "was not on hold")


COMMANDS = (run, hold, resume)
