"""The map of the space, and what moved most with its neighbours before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import quote

import numpy as np

from embsync.reporting import map_chart
from embsync.reporting.figures import MapFigures, MovedItem, NamedItem, ReportFigures
from embsync.reporting.markup import Markup, element, isolated, joined
from embsync.reporting.numerals import DASH, figure, percent, plural
from embsync.reporting.sections import absent
from embsync.reporting.tables import numbers, table


def space_map(figures: ReportFigures) -> Iterator[Markup]:
    """Yield the map with its legend and its numbers."""
    if figures.map is None:
        yield absent(figures.missing.get("map", "There is no map of this version."))
        return
    drawn = map_chart.space_map(figures.map, figures.moved)
    yield element("div", drawn, class_="scroll", role="region", aria_label="Map of the space", tabindex="0")
    yield element("p", _explained(figures.map), class_="note")
    yield _places(figures.map, figures.moved)


def _explained(found: MapFigures) -> str:
    text = (
        "Every dot is the direction of an item's vector. Axes and edges come from the sample with which the space "
        "began: maps of all its versions can be overlaid. The two axes have "
        f"{percent(float(found.explained.sum()))} of the variance: items that are near on the map may be far apart in "
        "the space. "
        f"Diamonds are popular items: {found.popular_reason}. "
    )
    if found.trails.size:
        text += f"Numbered paths lead through the {plural(len(found.trail_versions), 'kept version')} to this one. "
    beyond = map_chart.outside(found)
    return text + (
        f"{plural(beyond, 'dot')} beyond the edges {'is' if beyond == 1 else 'are'} drawn on them." if beyond else ""
    )


def _places(found: MapFigures, moved: Sequence[MovedItem]) -> Markup:
    rows = [
        [_name(item), "popular", "", figure(float(place[0]), 3), figure(float(place[1]), 3)]
        for item, place in zip(found.popular, found.popular_points, strict=True)
    ]
    for one, trail in zip(moved, found.trails, strict=False):
        for version, place in zip(found.trail_versions.tolist(), trail, strict=True):
            if np.isfinite(place[0]):
                rows.append([_name(one.item), "moved", version, figure(float(place[0]), 3), figure(float(place[1]), 3)])
    return numbers("Places on the map", ["item", "kind", "version", "axis 1", "axis 2"], rows, text_columns=3)


def moved(figures: ReportFigures, *, linked: bool = False) -> Iterator[Markup]:
    """Yield the table of the items that moved most; with ``linked``, each links to its neighbours at ``#items/ID``."""
    if not figures.moved:
        yield absent(figures.missing.get("parent", "No item is live in both versions."))
        return
    if "neighbours" in figures.missing:
        yield absent(figures.missing["neighbours"])
    header = ["item", "cosine", "kept", f"nearest in version {figures.parent}", "nearest now"]
    rows = [
        [
            joined(element("span", number, class_="badge"), " ", _name(one.item, linked)),
            figure(one.cosine, 2),
            f"{one.kept} of {len(one.before)}" if one.before else DASH,
            _list(one.before, one.after, linked),
            _list(one.after, one.before, linked),
        ]
        for number, one in enumerate(figures.moved, 1)
    ]
    caption = "Items that moved most, with their nearest items before and after"
    yield table(caption, header, rows, {0, 3, 4}, stacked=True)
    yield element("p", "Items in bold are among the nearest in both versions.", class_="note")


def _list(items: Sequence[NamedItem], other: Sequence[NamedItem], linked: bool) -> Markup | str:
    if not items:
        return DASH
    both = {item.id for item in other}
    return joined(
        *[
            joined(", " if place else "", element("b", _name(item, linked)) if item.id in both else _name(item, linked))
            for place, item in enumerate(items)
        ]
    )


def _name(item: NamedItem, linked: bool = False) -> Markup:
    """Return the label of an item with its id."""
    name = isolated(item.id if item.label is None else item.label)
    if linked:
        name = element("a", name, href=f"#items/{quote(str(item.id), safe='')}")
    return name if item.label is None else joined(name, " ", element("small", isolated(item.id)))
