"""``embsync deliver``, and its part of ``embsync status``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from embsync.cli.interrupts import until_signal
from embsync.cli.options import Context, act_as_owner, changing, context, reads_only, shared
from embsync.cli.output import print_json, say, warn
from embsync.invocation import invocation, set_invocation


@click.command()
@click.option("--once", is_flag=True, help="Deliver to every sink once, then exit.")
@shared
@changing
def deliver(once: bool, config_file: Path | None, store: Path | None, as_json: bool) -> int:
    """Keep the sinks of `delivery:` at the store's current version, until stopped.

    SIGTERM and SIGINT stop it within seconds, SIGHUP reloads the configuration, SIGUSR1 checks every sink at once.
    """
    from embsync.delivery.secrets import without_secrets  # noqa: PLC0415
    from embsync.delivery.service import DeliveryService  # noqa: PLC0415

    reads_only()  # it writes only its own state, which need not be in the store

    def load() -> Context:
        given = context(config_file, store, as_json, log__format="json" if as_json else None)
        set_invocation(invocation().absolute())  # its log and state are read from other directories
        return given

    given = load()
    if given.config.delivery.directory is None:
        act_as_owner(given)
        set_invocation(invocation().absolute())
    service = DeliveryService(lambda: load().config)
    if not once:
        return service.run()
    errors = until_signal(service.once)
    if as_json:
        print_json(msgspec.to_builtins(service.report))
    for name, report in service.report.sinks.items():
        error = errors[name]
        if error is not None:
            warn(f"embsync: {name}: {without_secrets(str(error))}")
        elif not as_json:
            say(f"{name}: version {report.current} is current")
    return next((error.exit_code for error in errors.values() if error is not None), 0)


def delivery_status(given: Context) -> dict[str, Any] | None:
    """Return the last state of deliveries, and whether one is running; None if none ever ran.

    Raises
    ------
    StoreError
        ``delivery.json`` cannot be read.
    """
    from embsync.delivery.state import directory_of, read_report  # noqa: PLC0415

    return read_report(directory_of(given.config.delivery, given.store.root))


def delivery_lines(found: dict[str, Any] | None) -> Iterator[str]:
    """Yield the state of every sink as lines of text."""
    if found is None:
        return
    if not found["running"]:
        yield f"delivery  not running; last at {found['updated']}"
    if found["problem"]:
        yield f"delivery  the configuration was not reloaded: {found['problem']}"
    for name, sink in found["sinks"].items():
        if sink["behind"]:
            there = "nothing" if sink["current"] is None else f"version {sink['current']}"
            line = f"{there}, {sink['behind']} behind since {sink['behind_since']}"
        else:
            line = sink["state"] if sink["current"] is None else f"version {sink['current']}"
        recall = "" if sink["recall"] is None else f", recall {sink['recall']:.3f}"
        yield f"sink      {name} ({sink['kind']}): {line}{recall}" + (f": {sink['error']}" if sink["error"] else "")
        for note in sink["notes"]:
            yield f"          {note}"
