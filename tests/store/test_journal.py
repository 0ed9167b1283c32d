"""The journal: one line per event, durable, and readable despite lines damaged by a crash."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from embsync.store.journal import Event, Journal
from embsync.store.records import timestamp


def test_events_are_read_in_order(tmp_path: Path) -> None:
    """Each line has the time of writing, and no empty fields."""
    journal = Journal(tmp_path / "journal.jsonl")
    assert list(journal.events()) == []
    journal.append(Event(event="published", version=1, snapshot={"name": "n", "fingerprint": None}))
    journal.append(Event(event="refused", checks=[{"name": "cosine_items", "value": 0.1}]))
    first, second = journal.events()
    assert (first.event, first.version, second.event, second.version) == ("published", 1, "refused", None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first.time)
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert set(json.loads(lines[1])) == {"event", "time", "checks", "crc32"}


@pytest.mark.parametrize("torn", [b'{"event":"publis', b"\xff\xfe\x00", b"[]", b'{"version": 3}', b"", b"null"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_torn_line_is_skipped(tmp_path: Path, torn: bytes, end: bytes) -> None:
    """The lines before and after it are read, and an appended line is not joined to it."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append(Event(event="published", version=1))
    with path.open("ab") as file:
        file.write(torn + end)
    journal.append(Event(event="pruned", version=1))
    assert [event.event for event in journal.events()] == ["published", "pruned"]


def test_a_later_release_may_add_fields(tmp_path: Path) -> None:
    """An event with unknown fields is read."""
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event":"published","version":7,"shiny":true}\n')
    assert [event.version for event in Journal(path).events()] == [7]


@pytest.mark.parametrize("moment", [timestamp, lambda: timestamp(time.time())])
@pytest.mark.parametrize("zone", ["JST-9", "NST3:30"])
def test_times_are_utc_in_any_time_zone(monkeypatch: pytest.MonkeyPatch, zone: str, moment: Callable[[], str]) -> None:
    """The journal, a manifest and the daemon's status use UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        before = int(time.time())
        reported = moment()
        after = time.time()
    time.tzset()
    assert before <= dt.datetime.fromisoformat(reported).timestamp() <= after
