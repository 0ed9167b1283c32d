"""Tables: the numbers below every chart."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from embsync.reporting.markup import Markup, element


def table(
    caption: str,
    header: Sequence[object],
    rows: Iterable[Sequence[object]],
    text_columns: int | Collection[int] = 1,
    *,
    stacked: bool = False,
) -> Markup:
    """Return a table that scrolls horizontally on its own if it is wider than the page.

    Columns contain numbers except the ``text_columns``: a number of columns from the left, or their positions. The
    first is the heading of its row. On a phone, cells of a ``stacked`` table are below each other, each with its
    column's name.
    """
    texts = range(text_columns) if isinstance(text_columns, int) else text_columns

    def kind(column: int) -> str | None:
        return None if column in texts else "n"

    def role(name: str) -> str | None:
        return name if stacked else None  # screen readers do not recognize a table with another layout

    def cell(place: int, content: object) -> Markup:
        if place == 0:
            return element("th", content, scope="row", role=role("rowheader"))
        label = header[place] if stacked else None
        return element("td", content, class_=kind(place), role=role("cell"), data_label=label)

    head = [
        element("th", name, scope="col", class_=kind(place), role=role("columnheader"))
        for place, name in enumerate(header)
    ]
    body = [element("tr", [cell(place, one) for place, one in enumerate(row)], role=role("row")) for row in rows]
    inside = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", head, role=role("row")), role=role("rowgroup")),
        element("tbody", body, role=role("rowgroup")),
        class_="stacked" if stacked else None,
        role=role("table"),
    )
    return element("div", inside, class_="scroll", role="region", aria_label=caption, tabindex="0")


def numbers(caption: str, header: Sequence[object], rows: Iterable[Sequence[object]], text_columns: int = 1) -> Markup:
    """Return a table that opens below its chart."""
    return element("details", element("summary", "Numbers"), table(caption, header, rows, text_columns))
