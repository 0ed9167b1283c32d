"""The date or the number in a snapshot's name, and the series of names that it counts in."""

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
#: What follows a date as long as it is a time of day or a number of the run: no part of a hash.
_AFTER_A_DATE = re.compile(r"[-_.:T ]*([0-9]+)(?![0-9A-Za-z])|[-_.:T ]*([0-9]+)(?=T)")
#: Days a date may lie ahead of the moment in which it is read: a model of tomorrow is trained today, in any time zone.
_AHEAD = dt.timedelta(days=2)
#: Numbers that no int64 holds count nothing.
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

#: Forms of a date that begin again, or whose digits are not in the order of time. A name of such a form follows the
#: calendar, not a count.
_CALENDARS = ("%d", "%m", "%H", "%j", "%V", "%U", "%W", "%u", "%w", "%d%m", "%m%d", "%d%m%y", "%m%d%y")
#: How much earlier than its newest file a name may have been chosen: at the job's start, or for the day before.
_EARLIER = (dt.timedelta(0), dt.timedelta(hours=6), dt.timedelta(days=1))

#: Distinct members whose times have to agree with their numbers before numbers count: two directories that are
#: overwritten in turn have numbers as well. Long numbers may be drawn at random, and three in order be chance.
_ENOUGH, _ENOUGH_LONG = 3, 5
_LONG = 10**6
#: With so many members, a share of them in order is enough: an old one may have been trained again before.
_MANY = 8
_MOST = 0.75
#: What was copied within so short a time without its times says nothing by them.
_COPY_NS = 3600 * 10**9


@dataclass(frozen=True)
class Position:
    """Where a name stands.

    Attributes
    ----------
    series : str
        The name with ``#`` for its numbers (``day=#``), or what stands before its date, and ``DATE``.
    numbers : tuple of int
        Year, month, day and what follows of a time of day; or the numbers in the name.
    dated : bool
        A date needs no evidence; that numbers count has to be seen.
    """

    series: str
    numbers: tuple[int, ...]
    dated: bool


def position(name: str, seen: float) -> Position | None:
    """Return a name's position, None where it has none or its numbers do not follow time.

    Parameters
    ----------
    name : str
    seen : float
        When the name was read, in seconds since 1970: a date far ahead of it is none.
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


def counts(members: Sequence[tuple[tuple[int, ...], int]], *, new: bool) -> bool:
    """Return whether the numbers of a series give its order, by what is known of its members.

    Parameters
    ----------
    members : sequence of (numbers, mtime in ns)
        Distinct numbers, each with the time when its member was first written.
    new : bool
        Nothing of the series was ever published.
    """
    ordered = sorted(members)
    times = [time for _, time in ordered]
    rise = _longest_rise(times)
    enough = _ENOUGH_LONG if any(number >= _LONG for numbers, _ in ordered for number in numbers) else _ENOUGH
    agree = len(times) >= enough and (rise == len(times) or (len(times) >= _MANY and rise >= _MOST * len(times)))
    copied = new and rise < len(times) and max(times) - min(times) <= _COPY_NS
    return (agree or copied) and not _by_calendar(ordered)


def _by_calendar(members: Sequence[tuple[tuple[int, ...], int]]) -> bool:
    """Return whether each member is named by a day, month, hour or week in which it was written.

    What was written first as number 0 or 1 counts from there: a week or month rarely begins with the first night.
    """
    named = _without_constants([numbers for numbers, _ in members])
    if min(zip((time for _, time in members), named, strict=True))[1] in {(0,), (1,)}:
        return False
    for earlier in _EARLIER:
        for zone in (dt.UTC, None):
            moments = [dt.datetime.fromtimestamp(time / 1e9, zone) - earlier for _, time in members]
            if any(
                all(_says(numbers, moment.strftime(form)) for numbers, moment in zip(named, moments, strict=True))
                for form in _CALENDARS
            ):
                return True
    return False


def _without_constants(named: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return numbers without those that all members share; as they are where one of these may be a year."""
    columns = [set(column) for column in zip(*named, strict=True)]
    if any(len(column) == 1 and column <= set(_YEARS) for column in columns):
        return named
    return [
        tuple(number for number, column in zip(numbers, columns, strict=True) if len(column) > 1) for numbers in named
    ]


def _says(numbers: tuple[int, ...], text: str) -> bool:
    """Return whether numbers are those of a calendar's text: in one (``1125``), or in parts of two digits."""
    return numbers in {(int(text),), tuple(int(text[at : at + 2]) for at in range(0, len(text), 2))}


def _longest_rise(times: Sequence[int]) -> int:
    """Return how many of the times, at most, are in order."""
    ends: list[int] = []  # of the shortest possible rise of each length, its last time
    for time in times:
        place = bisect_right(ends, time)
        ends[place : place + 1] = [time]
    return len(ends)
