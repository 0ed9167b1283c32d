"""Scales, axes and the frame of a chart, in inline SVG.

Colours, dashes and fonts are classes of the page's style sheet, so that one drawing serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from embsync.dtypes import Array, Float64
from embsync.reporting.markup import Markup, element, joined
from embsync.reporting.numerals import MINUS

#: Half the size of a marker.
_MARK = 3.6
_SHAPES = {
    "circle": "M{0} 0A{0} {0} 0 1 1 -{0} 0A{0} {0} 0 1 1 {0} 0Z",
    "square": "M-{0} -{0}H{0}V{0}H-{0}Z",
    "triangle": "M0 -{0}L{0} {0}H-{0}Z",
    "diamond": "M0 -{0}L{0} 0L0 {0}L-{0} 0Z",
    "cross": "M-{0} -{0}L{0} {0}M{0} -{0}L-{0} {0}",
}


def coordinate(value: float) -> str:
    """Return a coordinate as text with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def points(x: Array, y: Array) -> str:
    """Return the path of a line through points, interrupted where one is NaN."""
    path, pen = [], "M"
    for left, top in zip(x.tolist(), y.tolist(), strict=True):
        if math.isnan(left) or math.isnan(top):
            pen = "M"
            continue
        path.append(f"{pen}{coordinate(left)} {coordinate(top)}")
        pen = "L"
    return "".join(path)


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map from values to coordinates."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, values: Array | float) -> Float64:
        """Return the coordinates of values, which are clipped to the ends of the scale."""
        given = np.clip(np.asarray(values, np.float64), self.low, self.high)
        low, high = self.low, self.high
        if self.log:
            given, low, high = np.log10(given), math.log10(low), math.log10(high)
        share = (given - low) / ((high - low) or 1.0)
        return np.asarray(self.start + share * (self.end - self.start))

    def at(self, value: float) -> float:
        """Return the coordinate of one value."""
        return float(self(value))


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round values between two others: steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * size for size in (1, 2, 5, 10) if span / (power * size) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass
class Plot:
    """A chart being drawn.

    Attributes
    ----------
    title, text : str
        Text for screen readers: the chart's name, then what it shows.
    """

    title: str
    text: str
    width: float = 420
    height: float = 220
    left: float = 40
    right: float = 10
    top: float = 10
    bottom: float = 32
    parts: list[Markup] = field(default_factory=list)

    def x(self, low: float, high: float) -> Scale:
        """Return a horizontal scale over the frame."""
        return Scale(low, high, self.left, self.width - self.right)

    def y(self, low: float, high: float, log: bool = False) -> Scale:
        """Return a vertical scale over the frame, upwards."""
        return Scale(low, high, self.height - self.bottom, self.top, log)

    def add(self, name: str, *children: object, **attributes: object) -> None:
        """Add an element."""
        self.parts.append(element(name, *children, **attributes))

    def write(self, x: float, y: float, text: object, anchor: str = "middle", class_: str | None = None) -> None:
        """Add text."""
        self.add("text", text, x=coordinate(x), y=coordinate(y), text_anchor=anchor, class_=class_)

    def path(self, path: str, class_: str) -> None:
        """Add a path."""
        if path:
            self.add("path", d=path, class_=class_)

    def mark(self, x: float, y: float, shape: str, class_: str, title: str | None = None, size: float = _MARK) -> None:
        """Add a marker, with a title as its tooltip."""
        inside = None if title is None else element("title", title)
        shift = f"translate({coordinate(x)} {coordinate(y)})"
        self.add("path", inside, d=_SHAPES[shape].format(coordinate(size)), transform=shift, class_=f"mark {class_}")

    def y_axis(self, scale: Scale, values: Sequence[float], labels: Sequence[str] | None = None) -> None:
        """Add horizontal grid lines with their values."""
        for value, label in zip(values, labels or [f"{value:g}".replace("-", MINUS) for value in values], strict=True):
            at = scale.at(value)
            self.path(f"M{coordinate(self.left)} {coordinate(at)}H{coordinate(self.width - self.right)}", "grid")
            self.write(self.left - 6, at + 4, label, "end")

    def x_axis(self, places: Sequence[float], labels: Sequence[object], title: str | None = None) -> None:
        """Add the base line with labels under it."""
        base = self.height - self.bottom
        self.path(f"M{coordinate(self.left)} {coordinate(base)}H{coordinate(self.width - self.right)}", "axis")
        for place, label in zip(places, labels, strict=True):
            self.write(place, base + 14, label)
        if title is not None:
            self.write((self.left + self.width - self.right) / 2, self.height - 3, title, class_="soft")

    def svg(self, class_: str = "chart") -> Markup:
        """Return the chart as an SVG element."""
        return element(
            "svg",
            element("title", self.title),
            element("desc", self.text),
            joined(*self.parts),
            viewBox=f"0 0 {coordinate(self.width)} {coordinate(self.height)}",
            role="img",
            aria_label=f"{self.title}. {self.text}",
            class_=class_,
        )


def swatch(shape: str | None, class_: str) -> Markup:
    """Return the sample of a series in a legend: its line and its marker."""
    line = element("path", d="M1 6H27", class_=f"line {class_}")
    plot = Plot("", "")
    if shape is not None:
        plot.mark(14, 6, shape, class_)
    return element("svg", line, *plot.parts, viewBox="0 0 28 12", class_="swatch", aria_hidden="true")
