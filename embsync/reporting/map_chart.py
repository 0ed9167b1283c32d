"""The map of a space as a chart: items as dots, popular ones by name, trails of the items that moved most."""

from __future__ import annotations

import numpy as np

from embsync.dtypes import Bool, Float64
from embsync.reporting.figures import MapFigures, MovedItem, NamedItem
from embsync.reporting.markup import Markup, element
from embsync.reporting.numerals import figure, percent, plural
from embsync.reporting.plot import Plot, coordinate, points

_LONGEST = 22


def short(text: str, longest: int = _LONGEST) -> str:
    """Return text truncated to a length that fits beside a point."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def caption(item: NamedItem) -> str:
    """Return the label of an item, or its id if it has none."""
    return str(item.id) if item.label is None else item.label


def space_map(figures: MapFigures, moved: tuple[MovedItem, ...]) -> Markup:
    """Return the map."""
    text = f"{plural(len(figures.points), 'item')} as dots, {plural(len(figures.popular), 'popular item')} by name"
    if figures.trails.size:
        text += f", and the paths of {plural(len(figures.trails), 'item')} that moved most"
    plot = Plot("Map of the space", f"{text}. The tables below have the numbers.", 640, 460, 10, 10, 10, 26)
    across = plot.x(float(figures.extent[0, 0]), float(figures.extent[0, 1]))
    up = plot.y(float(figures.extent[1, 0]), float(figures.extent[1, 1]))
    plot.add(
        "rect",
        x=coordinate(plot.left),
        y=coordinate(plot.top),
        width=coordinate(plot.width - plot.left - plot.right),
        height=coordinate(plot.height - plot.top - plot.bottom),
        class_="frame",
    )
    plot.path(_dots(across(figures.points[:, 0]), up(figures.points[:, 1])), "dots")
    middle = plot.height / 2
    taken: list[tuple[float, ...]] = [(plot.left, middle - 100, plot.left + 26, middle + 100)]  # the name of axis 2
    for number, (one, trail) in enumerate(zip(moved, figures.trails, strict=False), 1):
        _trail(plot, number, one, across(trail[:, 0]), up(trail[:, 1]), np.isfinite(trail[:, 0]), taken)
    for item, (x, y) in zip(figures.popular, figures.popular_points, strict=True):
        if np.isfinite(x):
            _popular(plot, item, across.at(float(x)), up.at(float(y)), taken)
    _name_axes(plot, figures)
    return plot.svg("chart map")


def _name_axes(plot: Plot, figures: MapFigures) -> None:
    """Label each axis with its share of the variance."""
    first, second = figures.explained
    plot.write(plot.width / 2, plot.height - 8, f"axis 1, {percent(float(first))} of the variance", class_="soft")
    plot.add(
        "text",
        f"axis 2, {percent(float(second))} of the variance",
        transform=f"translate({coordinate(plot.left + 13)} {coordinate(plot.height / 2)}) rotate(-90)",
        text_anchor="middle",
        class_="soft",
    )


def outside(figures: MapFigures) -> int:
    """Return how many of the points lie beyond the edges, where they are drawn."""
    low, high = figures.extent[:, 0], figures.extent[:, 1]
    return int(((figures.points < low) | (figures.points > high)).any(axis=1).sum())


def _dots(x: Float64, y: Float64) -> str:
    """Return dots as lines of zero length with round caps: ten bytes each."""
    return "".join(f"M{coordinate(left)} {coordinate(top)}h0" for left, top in zip(x.tolist(), y.tolist(), strict=True))


def _trail(
    plot: Plot, number: int, item: MovedItem, x: Float64, y: Float64, known: Bool, taken: list[tuple[float, ...]]
) -> None:
    x, y = np.where(known, x, np.nan), np.where(known, y, np.nan)
    there = np.flatnonzero(known)
    if len(there) == 0:
        return
    last = int(there[-1])
    inside = [
        element("title", f"{number}: {caption(item.item)}, cosine {figure(item.cosine, 2)} with the previous version"),
        element("path", d=points(x[there], y[there]), class_="trail"),
    ]
    for place in there[:-1]:
        at = f"translate({coordinate(float(x[place]))} {coordinate(float(y[place]))})"
        inside.append(element("path", d="M2.2 0A2.2 2.2 0 1 1 -2.2 0A2.2 2.2 0 1 1 2.2 0Z", transform=at, class_="was"))
    left, top = float(x[last]), float(y[last])
    badge = _free(left, top, taken)
    if badge != (left, top):
        ends = points(np.array([left, badge[0]]), np.array([top, badge[1]]))
        inside.append(element("path", d=ends, class_="leader"))
        inside.append(element("circle", cx=coordinate(left), cy=coordinate(top), r=3, class_="now"))
    left, top = badge
    inside.append(element("circle", cx=coordinate(left), cy=coordinate(top), r=8, class_="now"))
    inside.append(
        element("text", number, x=coordinate(left), y=coordinate(top + 4), text_anchor="middle", class_="number")
    )
    taken.append((left - 9, top - 9, left + 9, top + 9))
    plot.parts.append(element("g", inside, class_="moved"))


def _free(x: float, y: float, taken: list[tuple[float, ...]]) -> tuple[float, float]:
    """Return a position where a number covers nothing in ``taken``: at its point, or as near to it as possible."""
    for away in (0, 14, 20, 26, 32, 40):
        for turn in range(8 if away else 1):
            left, top = x + away * np.cos(turn * np.pi / 4), y - away * np.sin(turn * np.pi / 4)
            if not any(_overlaps((left - 9, top - 9, left + 9, top + 9), other) for other in taken):
                return float(left), float(top)
    return x, y


def _popular(plot: Plot, item: NamedItem, x: float, y: float, taken: list[tuple[float, ...]]) -> None:
    """Add a popular item, and its name if there is room: to the right, to the left, above or below."""
    plot.mark(x, y, "diamond", "popular", caption(item))
    text = short(caption(item))
    width = 7.0 * len(text)
    for left, top, anchor, at in (
        (x + 6, y - 8, "start", x + 7),
        (x - 6 - width, y - 8, "end", x - 7),
        (x - width / 2, y - 22, "middle", x),
        (x - width / 2, y + 5, "middle", x),
    ):
        box = (left, top, left + width, top + 15)
        fits = box[0] > plot.left and box[2] < plot.width - plot.right and box[1] > plot.top
        if fits and box[3] < plot.height - plot.bottom and not any(_overlaps(box, other) for other in taken):
            taken.append(box)
            plot.write(at, top + 12, text, anchor, "name")
            return


def _overlaps(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
