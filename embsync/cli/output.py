"""Output of the commands: lines and tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec
import numpy as np

from embsync.errors import one_line


def print_json(value: object) -> None:
    """Print one JSON document; non-finite numbers become null."""
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2))


def _plain(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def say(text: str) -> None:
    """Print one line; line breaks and control characters in names and reasons are escaped."""
    click.echo(one_line(text))


def number(value: float | None, form: str = ".3f") -> str:
    """Format a number, or return a dash for None."""
    return "-" if value is None else format(value, form)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; its first column is left-aligned, the others right-aligned."""
    cells = [list(header), *([one_line(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        say("  ".join([first, *others]).rstrip())


def warn(line: str) -> None:
    """Print a line on standard error."""
    click.echo(one_line(line), err=True)
