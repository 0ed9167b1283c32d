"""Markdown tables, and the words for types."""

from collections.abc import Iterable


def table(header: str, rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; the header has its cells separated by vertical bars."""
    lines = [f"| {header} |", "| " + " | ".join("---" for _ in header.split("|")) + " |"]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])


def code(text: object) -> str:
    """Return text as code."""
    return f"`{text}`"
