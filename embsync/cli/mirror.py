"""``embsync push`` and ``embsync pull``: versions to and from object stores and directories."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from embsync import logs
from embsync.cli.interrupts import until_signal
from embsync.cli.options import Context, context, locking, shared
from embsync.cli.output import print_json, say, warn
from embsync.cli.progress import progress_bar
from embsync.config import ObjectStoreConfig
from embsync.notify import notify

if TYPE_CHECKING:
    from embsync.delivery.objects import Objects

Command = TypeVar("Command", bound=Callable[..., Any])


def url_options(command: Command) -> Command:
    """Add the argument URL and the options for its service."""
    for option in (
        click.option("--credentials-file", metavar="FILE", help="File with lines NAME=value."),
        click.option("--region", help="Region of an S3 service."),
        click.option("--endpoint", metavar="URL", help="Endpoint of an S3 service other than Amazon's."),
        click.argument("url"),
    ):
        command = option(command)
    return command


@click.command()
@url_options
@click.option("--keep-versions", type=click.IntRange(min=1), default=3, show_default=True, help="Versions kept at URL.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=3600.0,
    show_default=True,
    help="Seconds for which older versions are kept.",
)
@click.option("--verify", is_flag=True, help="Read back and hash what is there, and transfer again what differs.")
@shared
def push(
    url: str,
    endpoint: str | None,
    region: str | None,
    credentials_file: str | None,
    keep_versions: int,
    grace: float,
    verify: bool,
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Copy the current version to URL, and make it current there.

    Objects of it that are missing there or have another size are transferred again; with --verify, also those whose
    contents differ, for which all of them are read back.

    URL is s3://bucket/prefix, gs://bucket/prefix, az://account/container/prefix or file:///directory. Credentials come
    from the environment's variables or from a file, never from the command line.
    """
    from embsync.delivery.object_store import ObjectStoreSink  # noqa: PLC0415
    from embsync.delivery.steps import deliver  # noqa: PLC0415

    given = context(config_file, store, as_json)
    place = ObjectStoreConfig(
        name="push",
        url=url,
        endpoint=endpoint,
        region=region,
        credentials_file=credentials_file,
        keep_versions=keep_versions,
        grace_seconds=grace,
    )
    with progress_bar("push", wanted=not as_json) as progress:
        sink = ObjectStoreSink(place, progress, hashed=verify)
        done = until_signal(lambda: deliver(sink, given.store.root, keep_versions, where=url))
    for note in () if done.probe is None else done.probe.notes:
        warn(f"embsync: {note}")
    if as_json:
        waiting = list(done.waiting)
        print_json(
            {
                "version": done.version,
                "changed": done.changed,
                "restored": list(done.restored),
                "dropped": list(done.dropped),
                "waiting": waiting,
            }
        )
    elif done.restored:
        count = f"{len(done.restored)} object{'s' if len(done.restored) > 1 else ''}"
        say(f"version {done.version} is current at {url}; restored {count}: {', '.join(done.restored)}")
    else:
        verified = "; every object there has its hash" if verify and not done.changed else ""
        say(f"version {done.version} {'is current' if done.changed else 'was already current'} at {url}{verified}")


@click.command()
@url_options
@click.option("--follow", is_flag=True, help="Keep running, and pull whenever another version is pushed.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Seconds between checks."
)
@shared
@locking
def pull(
    url: str,
    endpoint: str | None,
    region: str | None,
    credentials_file: str | None,
    follow: bool,
    interval: float,
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
    wait: float,
) -> int:
    """Copy the current version at URL into the store, verify it, and make it current here.

    The store is then read and served like any other. A broken transfer is continued by the next pull. With --follow, a
    local rollback stays until another version is pushed, and with `rollback --hold` until `resume`.
    """
    from embsync.delivery.endpoints import open_objects  # noqa: PLC0415
    from embsync.delivery.pull import Pull  # noqa: PLC0415

    given = context(config_file, store, as_json, wait, log__format="json" if as_json else None)
    place = ObjectStoreConfig(name="pull", url=url, endpoint=endpoint, region=region, credentials_file=credentials_file)
    objects = open_objects(place)
    if follow:
        return _follow(given, objects, interval)
    with _noticed() as notice, progress_bar("pull", wanted=not as_json) as progress:
        keep = given.config.store.keep_versions
        done = until_signal(Pull(given.store, objects, keep, progress=progress, notice=notice).once)
    if as_json:
        print_json(
            {
                "version": done.version,
                "changed": done.changed,
                "transferred_bytes": done.transferred,
                "linked_bytes": done.linked,
            }
        )
    else:
        say(f"version {done.version} {'is current' if done.changed else 'was already current'} in {given.store.root}")
    return 0


@contextlib.contextmanager
def _noticed() -> Iterator[Callable[[str, str], None]]:
    """Provide a callback, and print what it was called with when the work has ended, below the progress bar."""
    noticed: list[tuple[str, str]] = []
    try:
        yield lambda key, why: noticed.append((key, why))
    finally:
        for key, why in noticed:
            warn(f"embsync: {key}: transferred twice, since the first copy was wrong: {why}")


def _follow(given: Context, objects: Objects, interval: float) -> int:
    from embsync.delivery.follow import follow, log_again  # noqa: PLC0415
    from embsync.delivery.pull import Pull  # noqa: PLC0415
    from embsync.delivery.secrets import without_secrets  # noqa: PLC0415

    logs.configure(given.config.log)
    keep = given.config.store.keep_versions
    pull = Pull(given.store, objects, keep, alive=lambda: notify("WATCHDOG=1"), notice=log_again)
    return follow(pull, interval, store=str(given.store.root), source=without_secrets(objects.where))
