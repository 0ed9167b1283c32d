"""Output of the commands: lines and tables for people, JSON for programs."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec
import numpy as np

from embsync.errors import one_line
from embsync.reporting.numerals import DASH, MINUS

_BLOCKS = "▁▂▃▄▅▆▇█"
_MARKS = {"pass": "✓", "warn": "!", "refuse": "✕"}
#: Replacements in ASCII, for terminals that cannot show other characters.
_ASCII = str.maketrans({MINUS: "-", DASH: "-"})
_WORDS = {"pass": "OK", "warn": "!", "refuse": "X"}


def print_json(value: object) -> None:
    """Print one JSON document; non-finite numbers become null."""
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2))


def _plain(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def width() -> int | None:
    """Return the columns of the terminal on standard output; None if it is not a terminal: then no line is broken."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say(text: str, indent: int | None = None) -> None:
    """Print one line; line breaks and control characters in names and reasons are escaped.

    On a terminal, the continuation of a long line is indented by ``indent`` columns, and no word is broken.
    """
    line, columns = _encodable(one_line(text)), width()
    if indent is None or columns is None or len(line) <= columns:
        click.echo(line)
        return
    for part in textwrap.wrap(
        line, columns, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    ):
        click.echo(part)


def _encodable(line: str) -> str:
    """Return a line that standard output can encode: other characters are written in ASCII."""
    if in_unicode():
        return line
    encoding = sys.stdout.encoding or "ascii"
    return line.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)


def in_unicode() -> bool:
    """Return whether standard output can show marks and blocks beyond ASCII."""
    try:
        (_BLOCKS + "".join(_MARKS.values())).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def mark(outcome: str) -> str:
    """Return the sign of an outcome: pass, warn or refuse."""
    return _MARKS[outcome] if in_unicode() else _WORDS[outcome]


def sparkline(values: Sequence[float]) -> str:
    """Return numbers as blocks, the lowest as the shortest and NaN as a blank; empty if blocks cannot be shown."""
    known = [value for value in values if not math.isnan(value)]
    if not known or not in_unicode():
        return ""
    low = min(known)
    step = max(max(known) - low, 0.02) / (len(_BLOCKS) - 1)  # differences below a hundredth look even
    return "".join(" " if math.isnan(value) else _BLOCKS[round((value - low) / step)] for value in values)


def number(value: float | None, form: str = ".3f") -> str:
    """Format a number, or return a dash for None."""
    return "-" if value is None else format(value, form)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, or that it has no rows; its first column is left-aligned, the others right-aligned."""
    cells = [list(header), *([one_line(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    if len(cells) == 1:
        say("no rows")
        return
    for row in cells:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        say("  ".join([first, *others]).rstrip())


def warn(line: str) -> None:
    """Print a line on standard error."""
    click.echo(one_line(line), err=True)
