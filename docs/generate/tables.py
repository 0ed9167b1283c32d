"""Markdown tables, and the words for types."""

import re
from collections.abc import Iterable


def table(header: str, rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; the header has its cells separated by vertical bars."""
    lines = [f"| {header} |", "| " + " | ".join("---" for _ in header.split("|")) + " |"]
    return "\n".join(lines + ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows])


def _escaped(cell: str) -> str:
    """Return a cell with vertical bars escaped, except in code, which would show the escape."""
    return re.sub(r"(`[^`]*`)|\|", lambda found: found[1] or "\\|", cell)


def code(text: object) -> str:
    """Return text as code."""
    return f"`{text}`"
