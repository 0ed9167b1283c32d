"""Durations in text."""

from __future__ import annotations

import contextlib
import datetime as dt
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import law

from embsync import durations
from embsync.durations import parse_duration
from embsync.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45s", {"seconds": 45}),
        ("90m", {"minutes": 90}),
        ("36h", {"hours": 36}),
        ("1.5h", {"minutes": 90}),
        ("7d", {"days": 7}),
        ("2w", {"weeks": 2}),
        ("0d", {}),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, expected: dict[str, int]) -> None:
    assert parse_duration(text) == dt.timedelta(**expected)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("7 parsecs", None),
        ("7 minuscules", None),
        ("7 dayz", "7d"),
        ("7 secnds", "7s"),
        ("7 days", "7d"),
        ("7D", "7d"),
        ("-7d", "7d"),
        (" 7d", "7d"),
        ("7d\n", "7d"),
        ("1.5 Hours", "1.5h"),
        ("3 months", "90d"),
        ("1y", "365d"),
        ("10 min", "10m"),
        ("week", None),
        ("nan", None),
        ("infd", None),
        ("1e3d", None),
        ("\u0667d", None),
        ("", None),
        ("1d12h", None),
    ],
)
def test_other_forms_are_refused_with_a_suggestion(text: str, meant: str | None) -> None:
    """The message is one line with the place, the value found, the form, and the nearest duration, if any."""
    with pytest.raises(UsageError) as caught:
        parse_duration(text, "--max-age")
    assert str(caught.value).startswith("--max-age: not a length of time; found ")
    assert f"expected {durations.FORM}" in str(caught.value)
    assert caught.value.hint == (None if meant is None else f"did you mean {meant}?")
    if meant is not None:
        parse_duration(meant)


@pytest.mark.parametrize("text", ["999999999w", "9" * 400 + "d"])
def test_an_endless_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"too long a time; found .{1,80}; expected at most 999,999,999 days"):
        parse_duration(text)


@law
@given(st.text(max_size=12) | st.from_regex(r"[0-9]{1,6}(\.[0-9]{1,9})?[smhdw]", fullmatch=True))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """The pattern of the JSON Schema accepts the same texts; no error but a usage error is raised."""
    has_form = re.fullmatch(durations.PATTERN, text, re.ASCII) is not None
    with contextlib.nullcontext() if has_form else pytest.raises(UsageError):
        assert parse_duration(text) >= dt.timedelta(0)
