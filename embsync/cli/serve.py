"""``embsync serve``: a version over HTTP."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from embsync.cli.options import context, shared
from embsync.cli.output import print_json
from embsync.errors import UsageError


@click.command()
@click.option("-l", "--listen", metavar="ADDRESS", help="HOST:PORT or unix:/path; default: serve.listen.")
@click.option("--token-file", type=click.Path(path_type=Path), help="File with the bearer token clients must send.")
@click.option("-w", "--workers", default=1, show_default=True, type=click.IntRange(1, 256),
              help="Processes; they share the mapped pages.")
@click.option("--space-id", help="Serve this space alone; a version of another one is refused.")
@click.option("--max-body", default=16 << 20, show_default=True, type=click.IntRange(min=1), help="Bytes a request.")
@click.option("--max-k", default=1000, show_default=True, type=click.IntRange(min=1), help="Neighbours a query.")
@click.option("--max-batch", default=10_000, show_default=True, type=click.IntRange(min=1),
              help="Ids or vectors a request.")
@click.option("--max-concurrency", default=64, show_default=True, type=click.IntRange(min=1),
              help="Requests at once, each worker.")
@click.option("--max-seconds", default=10.0, show_default=True, type=click.FloatRange(min=0.001),
              help="Seconds a request.")
@click.option("--interval", default=0.5, show_default=True, type=click.FloatRange(min=0.001),
              help="Seconds between looks for a new version.")
@shared
def serve(
    listen: str | None,
    token_file: Path | None,
    workers: int,
    space_id: str | None,
    max_body: int,
    max_k: int,
    max_batch: int,
    max_concurrency: int,
    max_seconds: float,
    interval: float,
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
) -> int:
    """Answer search, lookup, transform and fold-in over HTTP, always from the newest whole version."""
    given = context(config_file, store, as_json, serve__listen=listen,
                    serve__token_file=None if token_file is None else str(token_file))
    try:
        from embsync.http.server import serve as run  # noqa: PLC0415  (an extra)
        from embsync.http.settings import Limits, Settings  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UsageError("serving needs more packages", found=f"no {error.name}",
                         hint="pip install 'embsync[serve]'") from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings(
        store=given.config.store.path, listen=given.config.serve.listen, token_file=given.config.serve.token_file,
        space_id=space_id, workers=workers, interval=interval,
        limits=Limits(body=max_body, neighbours=max_k, batch=max_batch, concurrency=max_concurrency,
                      seconds=max_seconds))
    return run(settings, lambda where: print_json({"listening": where}) if as_json else click.echo(
        f"listening on {where}"))


COMMANDS = (serve,)
