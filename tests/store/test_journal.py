"""The journal: one line an event, durable, and readable past whatever a crash left."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from embsync.daemon.status import at
from embsync.pipeline import record
from embsync.store import journal
from embsync.store.journal import Event, Journal


def test_events_are_read_in_order(tmp_path: Path) -> None:
    """With the time of writing, and without empty fields."""
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
    """What stands before and after it is read; appending after it does not join the two."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append(Event(event="published", version=1))
    with path.open("ab") as file:
        file.write(torn + end)
    journal.append(Event(event="pruned", version=1))
    assert [event.event for event in journal.events()] == ["published", "pruned"]


def test_a_later_release_may_add_fields(tmp_path: Path) -> None:
    """Unknown fields are no reason to forget an event."""
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event":"published","version":7,"shiny":true}\n')
    assert [event.version for event in Journal(path).events()] == [7]


@pytest.mark.parametrize("moment", [journal.now, record.created, lambda: at(time.time())])
@pytest.mark.parametrize("zone", ["JST-9", "NST3:30"])
def test_times_are_utc_in_any_time_zone(
    monkeypatch: pytest.MonkeyPatch, zone: str, moment: Callable[[], str | None]
) -> None:
    """In the journal, in a manifest and in the daemon's status."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        before = int(time.time())
        reported = moment()
        after = time.time()
    time.tzset()
    assert reported is not None
    assert before <= dt.datetime.fromisoformat(reported).timestamp() <= after
