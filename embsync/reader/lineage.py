"""The ancestors of a version, and ages counted in versions or in seconds."""

from __future__ import annotations

import datetime as dt
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from embsync import durations
from embsync.dtypes import Bool, Int64, Times
from embsync.errors import UsageError
from embsync.store.rows import ages

if TYPE_CHECKING:
    from embsync.reader.given_ids import Ids
    from embsync.reader.side import Side

#: The largest age: a number of versions, or a duration such as ``"36h"``.
MaxAge: TypeAlias = int | str | dt.timedelta

_FORM = f"a number of versions, at least 0, or a duration: {durations.FORM}"


@dataclass(frozen=True)
class Lineage:
    """A version and its ancestors.

    Attributes
    ----------
    numbers : (v,) int64, ascending
    times : (v,) datetime64[s]
        When each was made, UTC; NaT if unknown.
    is_timed : bool
        Whether the times of the ancestors are known; versions of earlier releases only have their own.
    """

    numbers: Int64
    times: Times
    is_timed: bool

    def ages(self, versions: Int64) -> Int64:
        """Return the number of versions of the lineage after each version."""
        return ages(versions, self.numbers)

    def times_of(self, versions: Int64) -> Times:
        """Return when versions were made, as datetime64[s].

        NaT for versions that are not in the lineage or whose time is unknown. Times are not later than that of the
        last version: after a clock was set back, later ones are clipped to it.
        """
        places = np.minimum(np.searchsorted(self.numbers, versions), len(self.numbers) - 1)
        found = np.where(self.numbers[places] == versions, self.times[places], np.datetime64("NaT", "s"))
        return np.asarray(np.minimum(found, self.times[-1]))

    def seconds(self, versions: Int64) -> Int64:
        """Return how many seconds before the last version of the lineage each version was made, -1 if unknown."""
        passed = self.times[-1] - self.times_of(versions)
        return np.where(np.isnat(passed), -1, passed.astype(np.int64))

    def is_within(self, versions: Int64, limit: int | dt.timedelta) -> Bool:
        """Return which versions have at most this age; a version whose time is unknown is older than any duration.

        Raises
        ------
        UsageError
            The limit is a duration, and the version does not have the times of its ancestors.
        """
        if isinstance(limit, int):
            return np.asarray(self.ages(versions) <= limit)
        if not self.is_timed:
            raise UsageError(
                "max_age is a duration, but this version does not have the times of earlier ones",
                found=f"version {self.numbers[-1]}, of an earlier release",
                expected="a number of versions",
                hint="the next published version will have the times",
            )
        seconds = self.seconds(versions)
        return np.asarray((seconds >= 0) & (seconds <= limit.total_seconds()))


def age_limit(given: MaxAge, where: str = "max_age") -> int | dt.timedelta:
    """Return an age limit as a number of versions or a duration; text with only digits is a number of versions.

    Raises
    ------
    UsageError
        It is neither, or negative.
    """
    if isinstance(given, str):
        return int(given) if re.fullmatch("[0-9]{1,18}", given) else durations.parse_duration(given, where, _FORM)
    if isinstance(given, dt.timedelta):
        limit: int | dt.timedelta = given
        is_negative = given < dt.timedelta(0)
    else:
        try:
            limit = operator.index(given)
        except TypeError:
            limit = -1
        is_negative = limit < 0
    if is_negative or isinstance(given, bool):
        raise UsageError("not an age", where=where, found=repr(given)[:80], expected=_FORM)
    return limit


@dataclass(frozen=True)
class LastSeen:
    """When ids were last in a snapshot, as JSON values; None for unknown ids and unknown times.

    Attributes
    ----------
    ages : list of int or None
        Versions ago.
    versions : list of int or None
        The last version in which the id was live.
    times : list of str or None
        When that version was made, RFC 3339 UTC as in the manifest.
    seconds : list of int or None
        Seconds from then to the time of this version.
    """

    ages: list[int | None]
    versions: list[int | None]
    times: list[str | None]
    seconds: list[int | None]


def last_seen_of(side: Side, ids: Ids) -> LastSeen:
    """Return when ids of a side were last in a snapshot."""
    times = np.datetime_as_string(side.last_seen_at(ids, "nan"), unit="s").tolist()
    return LastSeen(
        _known(side.age(ids, "nan")),
        _known(side.origin(ids, "nan")),
        [None if time == "NaT" else f"{time}Z" for time in times],
        _known(side.age(ids, "nan", unit="seconds")),
    )


def _known(values: Int64) -> list[int | None]:
    return [None if value < 0 else value for value in values.tolist()]
