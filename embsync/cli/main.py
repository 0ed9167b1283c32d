"""The ``embsync`` command line, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import importlib
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

import embsync
from embsync.cli.guesses import hint_for, words_meant
from embsync.errors import EmbsyncError, StoreError, UsageError, one_line
from embsync.invocation import Invocation, joined, set_invocation

_INTERRUPTED = 128 + signal.SIGINT


#: The module of each command, and its line of ``--help``. A module is loaded only when one of its commands is used,
#: since importing some of them takes a third of a second.
COMMANDS = {
    "accept": ("publish", "Publish a snapshot despite refused checks."),
    "check-config": ("configuration", "Print the configuration in force."),
    "deliver": ("deliver", "Keep object stores and databases at the current version."),
    "demo": ("demo", "Retrain a small recommender several times and show what stays stable."),
    "diff": ("diff", "Show what changed between two versions."),
    "fold-in": ("query", "Compute a vector for a new user from the items they liked."),
    "history": ("inspect", "Show what was published, refused, rolled back and pruned."),
    "hold": ("daemon", "Pause publishing by the daemon."),
    "lookup": ("query", "Print the stable vectors of ids."),
    "prune": ("publish", "Delete old versions."),
    "pull": ("mirror", "Copy the current version from another host's push into a store."),
    "push": ("mirror", "Copy the current version to an object store or a directory."),
    "relabel": ("publish", "Publish the current version with new labels."),
    "report": ("report", "Write a page with pictures of a version and its history."),
    "resume": ("daemon", "Let the daemon publish again."),
    "rollback": ("publish", "Make an older version current."),
    "run": ("daemon", "Watch the configured directory and publish each new snapshot."),
    "search": ("query", "Find the items that score highest for users, items or vectors."),
    "serve": ("serve", "Serve search, lookup, transform and fold-in over HTTP."),
    "show": ("inspect", "Show the manifest of a version."),
    "status": ("inspect", "Show the current version, the daemon's state, and any problems."),
    "sync": ("publish", "Publish the given snapshots, or the backlog, once."),
    "transform": ("query", "Map raw vectors into the stable space, or back."),
    "verify": ("inspect", "Hash every file of a version and recompute its certificate."),
    "version": ("inspect", "Print the versions of embsync and its main libraries."),
    "widen": ("publish", "Publish the current version in a wider space."),
    "write": ("write", "Write arrays as a snapshot, atomically."),
}


class _Commands(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"embsync.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            words = words_meant(self, args)
            hint = joined([*Invocation.of_process().program, *words]) if words else f"commands: {', '.join(COMMANDS)}"
            raise UsageError("no such command", found=repr(name), hint=hint)
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(embsync.__version__, prog_name="embsync")
def cli() -> None:
    """Keep retrained embeddings in one stable space.

    Prove that no score changed, and publish vectors and index as one version.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors go to standard error as one line."""
    shared: dict[str, Any] = {"arguments": list(sys.argv[1:] if arguments is None else arguments)}
    present = Invocation.of_process()
    set_invocation(present)
    try:
        result = cli.main(
            args=None if arguments is None else list(arguments),
            standalone_mode=False,
            obj=shared,
            prog_name=shlex.join(present.program),
        )
    except EmbsyncError as error:
        if shared.get("debug"):
            raise
        click.echo(f"embsync: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        what = error.message if isinstance(error, click.NoSuchOption) else error.format_message()
        click.echo(f"embsync: {what.rstrip('.')}{_usage(error, present.program, shared['arguments'])}", err=True)
        return 2
    except click.exceptions.Abort:
        return _INTERRUPTED
    except SystemExit:  # click exits by itself only if the reader of a pipe is gone
        return 0
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # in the body of a class, while a module was loaded
            raise error.__cause__ from None
        if shared.get("debug"):
            raise
        line, code = _unexpected(error)
        click.echo(f"embsync: {one_line(line)}", err=True)
        return code
    return result if isinstance(result, int) else 0


def _unexpected(error: Exception) -> tuple[str, int]:
    """Return the message and the exit code of an exception that is not an EmbsyncError."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        place = error.filename or "the operating system"
        return (
            f"{place}: cannot be read or written; found {error.strerror or text}; hint: --debug shows where",
            StoreError.exit_code,
        )
    return f"unexpected {type(error).__name__}: {text}; hint: run again with --debug and report the output", 1


def _usage(error: click.ClickException, program: Sequence[str], arguments: Sequence[str]) -> str:
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption):
        hint = None if context is None else hint_for(context.command, error.option_name, program, arguments)
        if hint is not None:
            return f"; hint: {hint}"
    return "" if context is None else f"; hint: see {context.command_path} --help"
