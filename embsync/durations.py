"""Lengths of time in text: ``90m``, ``36h``, ``7d``."""

from __future__ import annotations

import datetime as dt
import difflib
import re

from embsync.errors import UsageError

#: Seconds of each unit.
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
#: The form as a regular expression of JSON Schema, and in words.
PATTERN = r"^[0-9]+(\.[0-9]+)?[smhdw]$"
FORM = "a number and a unit (s, m, h, d or w), such as 90m, 36h or 7d"
#: Other spellings of units, as a multiple of a unit.
_MEANT = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), (1, "s")),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), (1, "m")),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), (1, "h")),
    **dict.fromkeys(("d", "day", "days"), (1, "d")),
    **dict.fromkeys(("w", "wk", "week", "weeks"), (1, "w")),
    **dict.fromkeys(("mo", "month", "months"), (30, "d")),
    **dict.fromkeys(("y", "yr", "year", "years"), (365, "d")),
}
_NEARLY = re.compile(r"-?\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([a-z]{1,20})", re.ASCII)


def parse_duration(text: str, where: str | None = None, expected: str = FORM) -> dt.timedelta:
    """Return a length of time written as a number and a unit.

    Parameters
    ----------
    text : str
        Such as ``90m``, ``1.5h``, ``7d`` or ``2w``.
    where : str, optional
        The option, key or field, for the error.
    expected : str
        The expected form, for the error.

    Raises
    ------
    UsageError
        It has another form, or is longer than 999,999,999 days.
    """
    if re.fullmatch(PATTERN, text, re.ASCII) is None:
        found = repr(text)[:80]
        raise UsageError("not a length of time", where=where, found=found, expected=expected, hint=_meant(text))
    try:
        return dt.timedelta(seconds=float(text[:-1]) * _UNITS[text[-1]])
    except OverflowError:
        longest = f"at most {dt.timedelta.max.days:,} days"
        raise UsageError("too long a time", where=where, found=repr(text)[:80], expected=longest) from None


def _meant(text: str) -> str | None:
    """Return a suggestion if the unit is another spelling of one, or nearly one with the same first letter."""
    nearly = _NEARLY.fullmatch(text.strip().lower())
    if nearly is None:
        return None
    alike = [unit for unit in _MEANT if unit[0] == nearly[2][0]]
    near = difflib.get_close_matches(nearly[2], alike, n=1, cutoff=0.75)
    if not near:
        return None
    factor, unit = _MEANT[near[0]]
    return f"did you mean {float(nearly[1]) * factor:.12g}{unit}?"
