"""Tables: the numbers beside every picture."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from embsync.reporting.markup import Markup, element


def table(
    caption: str, header: Sequence[object], rows: Iterable[Sequence[object]], text_columns: int | Collection[int] = 1
) -> Markup:
    """Return a table that scrolls by itself where it is wider than the page.

    Columns are numbers except the ``text_columns``: so many from the left, or these. The first is the heading of its
    row.
    """
    texts = range(text_columns) if isinstance(text_columns, int) else text_columns

    def kind(column: int) -> str | None:
        return None if column in texts else "n"

    head = [element("th", cell, scope="col", class_=kind(place)) for place, cell in enumerate(header)]
    body = [
        element(
            "tr",
            [
                element("th", cell, scope="row") if place == 0 else element("td", cell, class_=kind(place))
                for place, cell in enumerate(row)
            ],
        )
        for row in rows
    ]
    inside = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", head)),
        element("tbody", body),
    )
    return element("div", inside, class_="scroll", role="region", aria_label=caption, tabindex="0")


def numbers(caption: str, header: Sequence[object], rows: Iterable[Sequence[object]], text_columns: int = 1) -> Markup:
    """Return a table that opens under its picture."""
    return element("details", element("summary", "Numbers"), table(caption, header, rows, text_columns))
