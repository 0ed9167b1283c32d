"""The date or number in a snapshot's name, and the series of names to which it belongs."""

from __future__ import annotations

import datetime as dt
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

_NUMBER = re.compile(r"[0-9]+")
_DATE = re.compile(
    r"(?<![0-9])(?:"
    r"(?P<y>(?:19|20)[0-9]{2})(?P<m>[01][0-9])(?P<d>[0-3][0-9])(?P<time>(?:[0-9]{2}){1,3})?"
    r"|(?P<y2>(?:19|20)[0-9]{2})(?P<sep>[-_.])(?P<m2>[01]?[0-9])(?P=sep)(?P<d2>[0-3]?[0-9])"
    r")(?![0-9])"
)
#: A time of day or a run number after a date, as opposed to part of a hash.
_AFTER_A_DATE = re.compile(r"[-_.:T ]*([0-9]+)(?![0-9A-Za-z])|[-_.:T ]*([0-9]+)(?=T)")
#: How far a date may lie in the future when it is read: tomorrow's model is trained today, in any time zone.
_AHEAD = dt.timedelta(days=2)
#: Most digits of a number; longer ones do not fit int64.
_LONGEST_NUMBER = 18

_MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WORDS = "|".join([*(f"{word[:3]}(?:{word[3:]})?" for word in (*_MONTHS, *_DAYS)), "sept", "tues", "thurs?"])
_CALENDAR_WORD = re.compile(rf"(?<![a-z])(?:{_WORDS})(?![a-z])", re.IGNORECASE)
_YEARS = range(1990, 2101)

#: Date formats that repeat, or whose digits do not sort by time. A name of such a format follows the calendar, not a
#: counter.
_CALENDARS = ("%d", "%m", "%H", "%j", "%V", "%U", "%W", "%u", "%w", "%d%m", "%m%d", "%d%m%y", "%m%d%y")
#: How long before the newest file was written the name may have been chosen: at the job's start, or for the day before.
_EARLIER = (dt.timedelta(0), dt.timedelta(hours=6), dt.timedelta(days=1))

#: Number of distinct members whose times must agree with their numbers before the numbers decide: two directories that
#: are overwritten in turn have numbers too. Long numbers may be random, and three of them in order by chance.
_MIN_MEMBERS, _MIN_MEMBERS_LONG = 3, 5
_LONG = 10**6
#: From this many members on, a share of them in order is enough: an old one may have been trained again.
_MANY = 8
_MOST = 0.75
#: Times within so short an interval say nothing: the snapshots were probably copied without their times.
_COPY_NS = 3600 * 10**9


@dataclass(frozen=True)
class Position:
    """The position of a name in a series.

    Attributes
    ----------
    series : str
        The name with ``#`` for its numbers (``day=#``), or the text before its date followed by ``DATE``.
    numbers : tuple of int
        Year, month, day and any time of day; or the numbers in the name.
    dated : bool
        Whether it is a date, which needs no evidence; numbers decide only once they are known to follow time.
    """

    series: str
    numbers: tuple[int, ...]
    dated: bool


def position(name: str, seen: float) -> Position | None:
    """Return a name's position, or None if it has no date or number, or its numbers belong to a calendar.

    Parameters
    ----------
    name : str
    seen : float
        When the name was read, in seconds since 1970: a date far after that is not taken for one.
    """
    return _dated(name, seen) or _numbered(name)


def _dated(name: str, seen: float) -> Position | None:
    for found in _DATE.finditer(name):
        year, month, day = (int(found[group] or found[group + "2"]) for group in ("y", "m", "d"))
        try:
            date = dt.datetime(year, month, day, tzinfo=dt.UTC)
        except ValueError:
            continue
        if date.timestamp() - seen <= _AHEAD.total_seconds():
            times = (int(found["time"]),) if found["time"] else tuple(_after(name, found.end()))
            return Position(f"{name[: found.start()]}DATE", (year, month, day, *times), dated=True)
    return None


def _after(name: str, start: int) -> Iterable[int]:
    while (found := _AFTER_A_DATE.match(name, start)) is not None:
        digits = found[1] or found[2]
        if len(digits) > _LONGEST_NUMBER:
            return
        yield int(digits)
        start = found.end()


def _numbered(name: str) -> Position | None:
    digits = _NUMBER.findall(name)
    if not digits or max(map(len, digits)) > _LONGEST_NUMBER or _CALENDAR_WORD.search(name) or _DATE.search(name):
        return None
    numbers = tuple(map(int, digits))
    if any(number in _YEARS and before <= 31 for before, number in pairwise(numbers)):
        return None  # day or month before the year: 24-11-2026
    if any(len(text) == 8 and int(text[4:]) in _YEARS and int(text[:2]) <= 31 for text in digits):
        return None
    return Position(_NUMBER.sub("#", name), numbers, dated=False)


def numbers_follow_time(members: Sequence[tuple[tuple[int, ...], int]], *, new: bool) -> bool:
    """Return whether the numbers of a series follow time, as far as its members show.

    Parameters
    ----------
    members : sequence of (numbers, mtime in ns)
        Distinct numbers, each with the time at which its member was first written.
    new : bool
        Whether nothing of the series was ever published.
    """
    ordered = sorted(members)
    times = [time for _, time in ordered]
    increasing = _longest_increasing(times)
    enough = _MIN_MEMBERS_LONG if any(number >= _LONG for numbers, _ in ordered for number in numbers) else _MIN_MEMBERS
    agree = len(times) >= enough and (
        increasing == len(times) or (len(times) >= _MANY and increasing >= _MOST * len(times))
    )
    copied = new and increasing < len(times) and max(times) - min(times) <= _COPY_NS
    return (agree or copied) and not _follows_calendar(ordered)


def _follows_calendar(members: Sequence[tuple[tuple[int, ...], int]]) -> bool:
    """Return whether each member is named after the day, month, hour or week in which it was written.

    A series whose first member is number 0 or 1 is a counter: a series by week or month rarely begins with the first.
    """
    named = _without_common([numbers for numbers, _ in members])
    if min(zip((time for _, time in members), named, strict=True))[1] in {(0,), (1,)}:
        return False
    for earlier in _EARLIER:
        for zone in (dt.UTC, None):
            moments = [dt.datetime.fromtimestamp(time / 1e9, zone) - earlier for _, time in members]
            if any(
                all(_matches(numbers, moment.strftime(form)) for numbers, moment in zip(named, moments, strict=True))
                for form in _CALENDARS
            ):
                return True
    return False


def _without_common(named: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the numbers without those that all members share, unless one of those may be a year."""
    columns = [set(column) for column in zip(*named, strict=True)]
    if any(len(column) == 1 and column <= set(_YEARS) for column in columns):
        return named
    return [
        tuple(number for number, column in zip(numbers, columns, strict=True) if len(column) > 1) for numbers in named
    ]


def _matches(numbers: tuple[int, ...], text: str) -> bool:
    """Return whether numbers match a formatted date, as one number (``1125``) or in parts of two digits."""
    return numbers in {(int(text),), tuple(int(text[at : at + 2]) for at in range(0, len(text), 2))}


def _longest_increasing(times: Sequence[int]) -> int:
    """Return the length of the longest non-decreasing subsequence."""
    ends: list[int] = []  # for each length, the smallest last time of a subsequence of that length
    for time in times:
        place = bisect_right(ends, time)
        ends[place : place + 1] = [time]
    return len(ends)
