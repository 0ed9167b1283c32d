"""Tables: the numbers beside every picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from embsync.reporting.markup import Markup, element


def table(caption: str, header: Sequence[object], rows: Iterable[Sequence[object]], text_columns: int = 1) -> Markup:
    """Return a table that scrolls by itself where it is wider than the page.

    The first ``text_columns`` columns are text, the first of them the heading of its row; the others are numbers.
    """

    def kind(column: int) -> str | None:
        return None if column < text_columns else "n"

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
        element("caption", caption),
        element("thead", element("tr", head)),
        element("tbody", body),
    )
    return element("div", inside, class_="scroll", role="region", aria_label=caption, tabindex="0")


def numbers(caption: str, header: Sequence[object], rows: Iterable[Sequence[object]], text_columns: int = 1) -> Markup:
    """Return a table that opens under its picture."""
    return element("details", element("summary", "Numbers"), table(caption, header, rows, text_columns))
