"""The ``embsync`` command: its commands, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

import click

import embsync
from embsync.cli import demo, inspect, publish, query, serve, service
from embsync.errors import EmbsyncError

_INTERRUPTED = 128 + signal.SIGINT


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(embsync.__version__, prog_name="embsync")
def cli() -> None:
    """Keep retrained embeddings in one stable space.

    Prove that no score changed, and publish vectors and index as one version.
    """


for _command in (*demo.COMMANDS, *publish.COMMANDS, *inspect.COMMANDS, *query.COMMANDS,
                 *serve.COMMANDS, *service.COMMANDS):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors go to standard error as one line."""
    shared: dict[str, bool] = {}
    try:
        result = cli.main(args=None if arguments is None else list(arguments), standalone_mode=False, obj=shared)
    except EmbsyncError as error:
        if shared.get("debug"):
            raise
        click.echo(f"embsync: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"embsync: {error.format_message().rstrip('.')}{_usage(error)}", err=True)
        return 2
    except click.exceptions.Abort:
        return _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if shared.get("debug"):
            raise
        click.echo(f"embsync: unexpected {type(error).__name__}: {' '.join(str(error).split())}; "
                   "hint: run again with --debug and report what it prints", err=True)
        return 1
    return result if isinstance(result, int) else 0


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return "" if context is None else f"; hint: see {context.command_path} --help"


