"""The charts of a report: arrays in, SVG out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embsync.dtypes import Float64
from embsync.reporting.markup import Markup, element
from embsync.reporting.numerals import count, figure
from embsync.reporting.plot import Plot, Scale, coordinate, points, swatch, ticks

_BINS = 50
#: Width of the text "other ids" beside its line, in units of the cosine axis.
_NAME_WIDTH = 0.3


@dataclass(frozen=True)
class Line:
    """A series over versions.

    Attributes
    ----------
    name : str
    values : (v,) float64
        NaN where a version did not store the figure.
    class_ : str
        Its colour and dash in the style sheet.
    shape : str or None
        Its marker, which distinguishes it from others without colour.
    """

    name: str
    values: Float64
    class_: str
    shape: str | None = "circle"

    @property
    def known(self) -> bool:
        """Whether any version stored the figure."""
        return bool(np.isfinite(self.values).any())


def legend(lines: Sequence[Line]) -> Markup:
    """Return the names of series beside a sample of each."""
    return element(
        "ul", [element("li", swatch(line.shape, line.class_), " ", line.name) for line in lines], class_="legend"
    )


def slots(plot: Plot, versions: Sequence[int]) -> Float64:
    """Return the position of each version: at equal distances, even if numbers are missing."""
    inset = (plot.width - plot.right - plot.left) / (2 * max(len(versions), 1))
    return np.linspace(plot.left + inset, plot.width - plot.right - inset, max(len(versions), 1))


def version_axis(plot: Plot, places: Float64, versions: Sequence[int], new_spaces: Sequence[int]) -> None:
    """Add version numbers under a chart, few enough to be legible, and a line where a new space begins."""
    step = -(-len(versions) // 12)
    shown = [index for index in range(len(versions)) if (len(versions) - 1 - index) % step == 0]
    plot.x_axis([float(places[index]) for index in shown], [versions[index] for index in shown], "version")
    for index in new_spaces:
        at = float(places[index] + places[index - 1]) / 2
        plot.path(f"M{coordinate(at)} {coordinate(plot.top)}V{coordinate(plot.height - plot.bottom)}", "boundary")
        plot.write(at + 4, plot.top + 9, "new space", "start", "soft")


def lines(
    plot: Plot,
    drawn: Sequence[Line],
    versions: Sequence[int],
    new_spaces: Sequence[int] = (),
    floor: float | None = 0.0,
) -> Markup:
    """Return series of cosines, shares or recalls over versions, from ``floor`` to 1."""
    values = np.concatenate([line.values[np.isfinite(line.values)] for line in drawn] or [np.empty(0)])
    lowest = float(values.min(initial=1.0))
    low = min(floor, lowest) if floor is not None else max(0.0, lowest - max(0.02, (1 - lowest) * 0.4))
    high = max(1.0, float(values.max(initial=0.0)))
    scale = plot.y(low - 0.02 * (high - low) if low < 0 else low, high)
    plot.y_axis(scale, ticks(low, high))
    places = slots(plot, versions)
    version_axis(plot, places, versions, new_spaces)
    cuts = [0, *new_spaces, len(versions)]
    for line in reversed(drawn):  # the first is drawn last, so that it is visible where others coincide with it
        heights = np.where(np.isfinite(line.values), scale(np.nan_to_num(line.values)), np.nan)
        for first, last in itertools.pairwise(cuts):
            plot.path(points(places[first:last], heights[first:last]), f"line {line.class_}")
        if line.shape is not None:
            for place, height, value, version in zip(places, heights, line.values, versions, strict=True):
                if np.isfinite(height):
                    text = f"{line.name}, version {version}: {figure(float(value))}"
                    plot.mark(float(place), float(height), line.shape, line.class_, text)
    return plot.svg()


def histogram(plot: Plot, stable: Float64, raw: Float64 | None, mismatched: float | None) -> Markup:
    """Return the distributions of cosines between -1 and 1, with their means and the baseline of mismatched rows."""
    edges = np.linspace(-1.0, 1.0, _BINS + 1)
    shares = {
        name: np.histogram(np.clip(values, -1, 1), edges)[0] / max(len(values), 1)
        for name, values in (("raw", raw), ("stable", stable))
        if values is not None
    }
    highest = max(0.01, *(float(share.max(initial=0)) for share in shares.values()))
    across, up = plot.x(-1.0, 1.0), plot.y(0.0, highest * 1.12)
    marks = ticks(0, highest, 4)
    plot.y_axis(up, marks, [f"{100 * mark:.3g} %" for mark in marks])
    plot.x_axis(
        [across.at(value) for value in (-1, -0.5, 0, 0.5, 1)],
        [figure(value, 1) for value in (-1, -0.5, 0, 0.5, 1)],
        "cosine",
    )
    for name, share in shares.items():
        plot.path(_steps(across(edges), up(share), up.at(0.0)), f"area {name}")
    means = [float(values.mean()) for values in (raw, stable) if values is not None and len(values)]
    if mismatched is not None:
        crossed = any(0 <= mean - mismatched < _NAME_WIDTH for mean in means)
        _rule(plot, across.at(mismatched), "mismatched", "other ids", "end" if crossed else "start")
    for name, values in (("raw", raw), ("stable", stable)):
        if values is not None and len(values):
            _rule(plot, across.at(float(values.mean())), name)
    return plot.svg()


def _steps(edges: Float64, heights: Float64, base: float) -> str:
    path = [f"M{coordinate(float(edges[0]))} {coordinate(base)}"]
    for edge, height in zip(edges[1:], heights, strict=True):
        path.append(f"V{coordinate(float(height))}H{coordinate(float(edge))}")
    return "".join([*path, f"V{coordinate(base)}Z"])


def _rule(plot: Plot, at: float, class_: str, text: str = "", side: str = "start") -> None:
    plot.path(f"M{coordinate(at)} {coordinate(plot.top)}V{coordinate(plot.height - plot.bottom)}", f"rule {class_}")
    if text:
        plot.write(at + (4 if side == "start" else -4), plot.top + 9, text, side, "soft")


def spectrum(plot: Plot, now: Float64, before: Float64 | None, rank: int) -> Markup:
    """Return singular values, largest first, as bars, with those of the parent as a line."""
    most = float(max(now.max(initial=0.0), 0.0 if before is None else before.max(initial=0.0))) or 1.0
    positive = now[:rank][now[:rank] > 0]
    log = len(positive) > 0 and most / float(positive.min()) > 50
    up = plot.y(float(positive.min()) / 2 if log else 0.0, most * 1.05, log)
    across = plot.x(0.5, len(now) + 0.5)
    if log:
        powers = [10.0**power for power in range(int(np.ceil(np.log10(up.low))), int(np.log10(up.high)) + 1)]
        marks = powers[:: -(-len(powers) // 5) or 1]
    else:
        marks = ticks(0, most, 4)
    plot.y_axis(up, marks, [f"{mark:g}" for mark in marks])
    shown = [1.0, *(mark for mark in ticks(1, len(now), 6) if mark > 1 and mark.is_integer())]
    plot.x_axis([across.at(mark) for mark in shown], [f"{mark:g}" for mark in shown], "direction")
    _bars(plot, across, up, now)
    if before is not None and len(before):
        plot.path(points(across(np.arange(1, len(before) + 1)), up(np.maximum(before, up.low))), "line previous")
    if rank < len(now):
        at = across.at(rank + 0.5)
        plot.path(f"M{coordinate(at)} {coordinate(plot.top)}V{coordinate(plot.height - plot.bottom)}", "boundary")
        plot.write(at - 4, plot.top + 9, f"rank {rank}", "end", "soft")
    return plot.svg()


def _bars(plot: Plot, across: Scale, up: Scale, values: Float64) -> None:
    base = plot.height - plot.bottom
    half = (plot.width - plot.right - plot.left) / len(values) * 0.38
    path = []
    for place, height in zip(across(np.arange(1, len(values) + 1)), up(np.maximum(values, up.low)), strict=True):
        left, right = coordinate(float(place) - half), coordinate(float(place) + half)
        path.append(f"M{left} {coordinate(base)}V{coordinate(float(height))}H{right}V{coordinate(base)}Z")
    plot.path("".join(path), "fill stable")


def churn(plot: Plot, new: Float64, gone: Float64, versions: Sequence[int], new_spaces: Sequence[int]) -> Markup:
    """Return bars of the numbers of new ids, upwards, and of gone ids, downwards."""
    most = max(1.0, float(np.nanmax(np.append(new, 0))), float(np.nanmax(np.append(gone, 0))))
    up = plot.y(-most * 1.25, most * 1.25)
    places = slots(plot, versions)
    version_axis(plot, places, versions, new_spaces)
    plot.write(plot.left - 6, up.at(most / 2) + 4, "new", "end")
    plot.write(plot.left - 6, up.at(-most / 2) + 4, "gone", "end")
    zero, half = up.at(0.0), min(16.0, (plot.width - plot.left - plot.right) / len(versions) * 0.3)
    plot.path(f"M{coordinate(plot.left)} {coordinate(zero)}H{coordinate(plot.width - plot.right)}", "axis")
    for place, joined, left in zip(places.tolist(), new.tolist(), gone.tolist(), strict=True):
        for value, sign, class_ in ((joined, 1, "stable"), (left, -1, "raw")):
            if np.isfinite(value):
                end = up.at(sign * value)
                plot.path(
                    f"M{coordinate(place - half)} {coordinate(zero)}V{coordinate(end)}H{coordinate(place + half)}"
                    f"V{coordinate(zero)}Z",
                    f"fill {class_}",
                )
                if len(versions) <= 16:
                    plot.write(place, end + (-4 if sign > 0 else 12), count(value))
    return plot.svg()


def stages(plot: Plot, names: Sequence[str], seconds: Sequence[float]) -> Markup:
    """Return one bar for each stage of a run, with its seconds."""
    across = plot.x(0.0, max(*seconds, 0.001) * 1.2)
    height = (plot.height - plot.top - plot.bottom) / len(names)
    for place, (name, value) in enumerate(zip(names, seconds, strict=True)):
        top = plot.top + place * height
        plot.write(plot.left - 6, top + height * 0.68, name, "end")
        plot.add(
            "rect",
            x=coordinate(plot.left),
            y=coordinate(top + height * 0.2),
            width=coordinate(max(across.at(value) - plot.left, 0.5)),
            height=coordinate(height * 0.6),
            class_="fill stable",
        )
        plot.write(
            across.at(value) + 5, top + height * 0.68, "< 0.01 s" if 0 < value < 0.005 else f"{value:.2f} s", "start"
        )
    return plot.svg()
