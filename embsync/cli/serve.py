"""``embsync serve``: a version over HTTP."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from embsync import logs
from embsync.cli.options import Context, context, shared
from embsync.cli.output import print_json, say, warn
from embsync.errors import EmbsyncError, UsageError
from embsync.invocation import invocation, quoted, set_invocation
from embsync.store.layout import current_number, require_directory

#: Other servers accept this as --host; embsync accepts it only as part of --listen.
_EVERY_ADDRESS = "0.0.0.0"  # noqa: S104


@click.command()
@click.option("-l", "--listen", "serve__listen", metavar="ADDRESS", help="HOST:PORT, [IPV6]:PORT or unix:/path.")
@click.option("--token-file", "serve__token_file", metavar="FILE", help="File with the token that clients must send.")
@click.option("--host", "hosts", metavar="NAME", multiple=True, help="Host name that a proxy uses; repeatable.")
@click.option("-w", "--workers", "serve__workers", type=int, help="Worker processes; they share mapped memory.")
@click.option("--space-id", "serve__space_id", help="Serve only this space; refuse versions of any other.")
@click.option("--interval", "serve__rescan_seconds", type=float, help="Seconds between checks for a new version.")
@click.option("--max-body", "serve__limits__body", metavar="SIZE", help="Largest request body, such as '16 MiB'.")
@click.option("--max-k", "serve__limits__neighbours", type=int, help="Most neighbours per query.")
@click.option("--max-batch", "serve__limits__batch", type=int, help="Most ids or vectors per request.")
@click.option("--max-hits", "serve__limits__hits", type=int, help="Most queries times neighbours per request.")
@click.option("--max-memory", "serve__limits__memory", metavar="SIZE", help="Memory for open requests, per worker.")
@click.option("--max-connections", "serve__limits__connections", type=int, help="Most open connections, per worker.")
@click.option("--max-concurrency", "serve__limits__concurrency", type=int, help="Most requests at once, per worker.")
@click.option(
    "--max-seconds",
    "serve__limits__seconds",
    type=float,
    help="Seconds allowed for a request's head, its body, and its response.",
)
@shared
def serve(config_file: Path | None, store: Path | None, as_json: bool, hosts: tuple[str, ...], **options: Any) -> int:
    """Serve search, lookup, transform and fold-in over HTTP, always from the newest intact version.

    Each option overrides the corresponding key of `serve:` in the configuration; see config.example.yaml for defaults.
    """
    options |= {"log__format": "json" if as_json else None, "serve__hosts": list(hosts) or None}
    given = context(config_file, store, as_json, **options)
    try:
        from embsync.server.server import serve as run  # noqa: PLC0415  (an extra)
        from embsync.server.settings import Settings, listen_command, require_servable  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UsageError(
            "serving needs additional packages", found=f"no {error.name}", hint="pip install 'embsync[serve]'"
        ) from None
    set_invocation(invocation().absolute())  # its pages and logs are read from other directories
    logs.configure(given.config.log)
    settings = Settings.of(given.config)
    if _EVERY_ADDRESS in hosts:
        raise UsageError(
            "--host is a name that clients use, not an address to listen on",
            found=_EVERY_ADDRESS,
            hint=listen_command(settings, _EVERY_ADDRESS),
        )
    require_servable(settings)
    require_directory(given.store.root)  # one that is missing may yet be mounted; a file will not become a store
    _warn_of_open_token(settings.token_file)
    return run(settings, partial(_say_listening, given))


def _warn_of_open_token(path: str | None) -> None:
    """Warn if every user of this machine may read the token."""
    from embsync.server.settings import is_open_to_all  # noqa: PLC0415

    if path is not None and is_open_to_all(Path(path)):
        warn(f"embsync: {path}: every user of this machine can read the token; hint: chmod o-r {quoted(path)}")


def _say_listening(given: Context, where: str) -> None:
    number = _current(given)
    if given.as_json:
        print_json({"listening": where, "store": str(given.store.root), "version": number})
    else:
        served = "no version yet: waiting for the first one" if number is None else f"version {number}"
        say(f"listening on {where}; store {given.store.root}, {served}")


def _current(given: Context) -> int | None:
    """Return the version that will be served first; None if there is none, or the store cannot be read."""
    try:
        return current_number(given.store.root)
    except (EmbsyncError, OSError):
        return None
