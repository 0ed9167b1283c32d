"""A check as a bar: where its value lies between its limits."""

from __future__ import annotations

from dataclasses import dataclass

from embsync.checks import CHECKS
from embsync.limits import LimitKind
from embsync.manifest import CheckRecord
from embsync.reporting.markup import Markup
from embsync.reporting.numerals import MINUS, figure
from embsync.reporting.plot import Plot, Scale, coordinate

_WIDTH, _HEIGHT = 180.0, 18.0
#: Thickness of each part of a bar, which distinguishes the parts without colour.
_THICK = {"pass": 9, "warn": 5, "refuse": 2}
#: Ratio of the largest value to the smallest beyond which the scale is logarithmic.
_WIDE = 50.0


@dataclass(frozen=True)
class Limits:
    """The limits of a check as pairs: below the first or above the second, a value violates it."""

    warn: tuple[float | None, float | None]
    refuse: tuple[float | None, float | None]

    @classmethod
    def of(cls, record: CheckRecord) -> Limits:
        """Return the limits of a record."""
        kind = gauge_kind(record)
        return cls(_pair(record.warn, kind), _pair(record.refuse, kind))

    @property
    def numbers(self) -> list[float]:
        """The limits that are set."""
        return [limit for limit in (*self.warn, *self.refuse) if limit is not None]


def gauge_kind(record: CheckRecord) -> LimitKind:
    """Return on which side of its limits a value violates a check, even for checks that this release does not have."""
    known = CHECKS.get(record.name)
    if known is not None:
        return known.kind
    limit = record.refuse if record.refuse is not None else record.warn
    return "range" if isinstance(limit, list) else "ceiling"


def _pair(limit: float | list[float] | None, kind: LimitKind) -> tuple[float | None, float | None]:
    if limit is None:
        return None, None
    if isinstance(limit, list):
        return limit[0], limit[1]
    return (limit, None) if kind == "floor" else (None, limit)


def gauge(record: CheckRecord) -> Markup | None:
    """Return the bar of a check; None without a value or without limits."""
    limits = Limits.of(record)
    if record.value is None or not limits.numbers:
        return None
    scale = _scale(record, limits)
    plot = Plot(f"{record.name} {figure(record.value, 4)}", limit_words(record), _WIDTH, _HEIGHT)
    for class_, low, high in _zones(scale, limits):
        left, right = scale.at(low), scale.at(high)
        if right > left:
            thick, shape = _THICK[class_], f"zone {class_}"
            top, width = coordinate(9 - thick / 2), coordinate(right - left)
            plot.add("rect", x=coordinate(left), y=top, width=width, height=thick, class_=shape)
    for limit in (limits.warn, limits.refuse):
        for value in limit:
            if value is not None and scale.low <= value <= scale.high:
                plot.path(f"M{coordinate(scale.at(value))} 3V15", "limit")
    plot.mark(scale.at(record.value), 9, "diamond", f"value {record.outcome}", size=5)
    return plot.svg("gauge")


def _scale(record: CheckRecord, limits: Limits) -> Scale:
    assert record.value is not None
    values = [record.value, *limits.numbers]
    positive = [value for value in values if value > 0]
    if len(positive) == len(values) and max(positive) / min(positive) > _WIDE:
        return Scale(min(positive) / 2, max(positive) * 2, 6, _WIDTH - 6, log=True)
    low, high = min([0.0, *values]), max(values)
    room = (high - low or 1.0) * 0.12
    return Scale(low - room if low < 0 else low, high + room, 6, _WIDTH - 6)


def _zones(scale: Scale, limits: Limits) -> list[tuple[str, float, float]]:
    """Return the parts of the bar: refused, warned and passed, from left to right."""
    refuse_low, refuse_high = limits.refuse
    warn_low, warn_high = limits.warn
    left = scale.low if refuse_low is None else refuse_low
    right = scale.high if refuse_high is None else refuse_high
    inner_left = left if warn_low is None else max(warn_low, left)
    inner_right = right if warn_high is None else min(warn_high, right)
    return [
        ("refuse", scale.low, left),
        ("warn", left, inner_left),
        ("pass", inner_left, inner_right),
        ("warn", inner_right, right),
        ("refuse", right, scale.high),
    ]


def limit_words(record: CheckRecord) -> str:
    """Return the limits of a check in words."""
    limits = Limits.of(record)
    parts = [
        f"{verb} {' or '.join(_side(pair))}"
        for verb, pair in (("warns", limits.warn), ("refuses", limits.refuse))
        if pair != (None, None)
    ]
    return ", ".join(parts) or "no limit"


def _side(pair: tuple[float | None, float | None]) -> list[str]:
    words = zip(("below", "above"), pair, strict=True)
    return [
        f"{word} {limit:.4g}".replace("e-0", "e-").replace("-", MINUS) for word, limit in words if limit is not None
    ]
