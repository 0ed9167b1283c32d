"""The command line, from click."""

import inspect

import click
from tables import code, table

from embsync.cli.main import COMMANDS, cli


def _options(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    return [(code(names), " ".join(meaning.split())) for names, meaning in filter(None, records) if meaning]


def command_line() -> str:
    """Return a section for each command: its usage, its help and its options."""
    parts = []
    for name in sorted(COMMANDS):
        context = click.Context(cli, info_name="embsync")
        command = cli.get_command(context, name)
        own = click.Context(command, info_name=name, parent=context)
        usage = " ".join([own.command_path, *command.collect_usage_pieces(own)])
        about = inspect.cleandoc(command.help or "").replace("\b\n", "")
        parts.append(
            f"## {name}\n\n```text\n{usage}\n```\n\n{about}\n\n{table('option | meaning', _options(command, own))}"
        )
    return "\n\n".join(parts)
