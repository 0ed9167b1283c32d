"""Numbers and times as text for people."""

from __future__ import annotations

import datetime as dt
import math

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def figure(value: float | None, digits: int = 3) -> str:
    """Return a number with some decimals, or with an exponent if it is tiny or large; a dash if it is unknown."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", MINUS)
    if abs(value) < 10**-digits or abs(value) >= 1e6:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("-", MINUS)
    return f"{value:,.{digits}f}".replace("-", MINUS)


def percent(value: float | None) -> str:
    """Return a share in percent, without decimals."""
    return DASH if value is None or math.isnan(value) else f"{100 * value:.0f}%"


def count(value: float | None) -> str:
    """Return a whole number with separators."""
    return DASH if value is None or math.isnan(value) else f"{int(value):,}"


def plural(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def age(seconds: float) -> str:
    """Return how long ago something was, in the largest unit with a count of at least 2 (of minutes, at least 1)."""
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size or (seconds >= size == 60):
            return f"{plural(round(seconds / size), unit)} ago"
    return "just now" if seconds < 10 else f"{plural(round(seconds), 'second')} ago"


def parsed(time: str) -> dt.datetime | None:
    """Return a time of the journal or a manifest, None for text that is not a time."""
    try:
        found = dt.datetime.fromisoformat(time)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def local(time: str) -> str:
    """Return a UTC time of a record in this machine's time zone, with the zone."""
    found = parsed(time)
    return time if found is None else found.astimezone().strftime("%Y-%m-%d %H:%M %Z").rstrip()


def seconds_since(time: str, now: dt.datetime | None = None) -> float | None:
    """Return how many seconds ago a time was, at least 0; None for text that is not a time."""
    found = parsed(time)
    return None if found is None else max(((now or dt.datetime.now(dt.UTC)) - found).total_seconds(), 0.0)
