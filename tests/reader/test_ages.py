"""Ages in seconds, from the creation times of the versions of a lineage, whatever the clock did."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import law
from support.nights import configured, night
from support.quick import quick_directory
from support.stores import snapshot_of, sync

import embsync
from embsync.cli.main import run
from embsync.dtypes import Int64, Times
from embsync.errors import NotFoundError, StoreDamaged, UsageError
from embsync.file_hashes import FileEntry, hash_file
from embsync.manifest import encode
from embsync.pipeline.relabel import relabel
from embsync.pipeline.widen import widen
from embsync.reader import Version
from embsync.reader.lineage import Lineage, age_limit
from embsync.store import Store, layout

SIZES = {"items": 100, "users": 80, "width": 6}
DAY = 86_400
#: Creation times of the versions: the third is before the second, as if the clock had been set back.
CREATED = ["2026-11-01T02:00:00Z", "2026-11-09T02:00:00Z", "2026-11-08T02:00:00Z", "2026-11-09T14:00:00Z"]
UNKNOWN = np.datetime64("NaT", "s")


def at(monkeypatch: pytest.MonkeyPatch, time: str) -> None:
    """Set the creation time of the next version."""
    for module in ("run", "widen"):
        monkeypatch.setattr(f"embsync.pipeline.{module}.timestamp", lambda: time)


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A store with a version of each of the times; carried rows were last live in each of the earlier versions."""
    with quick_directory() as directory, pytest.MonkeyPatch.context() as patch:
        for number, time in enumerate(CREATED):
            at(patch, time)
            sync(directory / "S", night(number, **SIZES), f"n{number}")
        yield directory / "S"


@pytest.fixture
def version(made: Path) -> Iterator[Version]:
    with embsync.open(made) as reader:
        yield reader.current


@pytest.fixture
def root(made: Path) -> Path:
    """A copy of the store."""
    target = made.parent / "copy"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(made, target, symlinks=True)
    return target


def times(*texts: str) -> Times:
    return np.array([text.removesuffix("Z") for text in texts], "datetime64[s]")


def last_of(version: Version, number: int) -> int:
    """Return an item that was last live in version ``number``."""
    return int(version.items.ids[version.items.last_seen == number][0])


def with_other_times(root: Path, number: int, change: Any) -> None:
    """Change the times of a version, or remove them if ``change`` is None, and update its manifest."""
    folder = root / "versions" / layout.version_name(number)
    file = folder / layout.LINEAGE_TIMES
    manifest = Store(root).manifest(number)
    files = [entry for entry in manifest.files if entry.path != layout.LINEAGE_TIMES]
    found = np.load(file)
    file.unlink()
    if change is not None:
        np.save(file, change(found))
        files.append(FileEntry(layout.LINEAGE_TIMES, *hash_file(file)))
    (folder / "manifest.sha256").unlink()
    (folder / "manifest.json").write_bytes(encode(msgspec.structs.replace(manifest, files=files)))


def test_a_version_has_the_times_of_its_lineage(version: Version) -> None:
    """A version has one time per ancestor; they are int64 seconds in a file that the manifest lists."""
    assert version.lineage.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(version.lineage_times, times(*CREATED))
    assert layout.LINEAGE_TIMES in {entry.path for entry in version.record.files}
    stored = np.load(version.path / layout.LINEAGE_TIMES)
    assert stored.dtype == np.dtype("<i8")
    assert stored.tolist() == version.lineage_times.astype(np.int64).tolist()


def test_ages_in_seconds_end_at_the_creation_of_the_version(version: Version) -> None:
    """The age of live ids is 0 at any later time; a version with a later time does not give a negative age."""
    asked = [last_of(version, number) for number in (4, 3, 2, 1)]
    assert version.items.age(asked).tolist() == [0, 1, 2, 3]
    assert version.items.age(asked, unit="seconds").tolist() == [0, 1.5 * DAY, 0.5 * DAY, 8.5 * DAY]
    np.testing.assert_array_equal(version.items.last_seen_at(asked), times(*reversed(CREATED)))
    with embsync.open(version.path.parents[1]) as reader, reader.version(3) as earlier:
        asked = [last_of(earlier, number) for number in (3, 2, 1)]
        assert earlier.items.age(asked, unit="seconds").tolist() == [0, 0, 7 * DAY]
        np.testing.assert_array_equal(earlier.items.last_seen_at(asked[1:2]), times(CREATED[2]))


def test_unknown_ids_have_no_age(version: Version) -> None:
    """They raise an error, or give -1 and NaT."""
    asked = [-5, last_of(version, 1)]
    assert version.items.age(asked, "nan", unit="seconds").tolist() == [-1, 8.5 * DAY]
    assert np.isnat(version.items.last_seen_at(asked, "nan")).tolist() == [True, False]
    with pytest.raises(NotFoundError, match="-5"):
        version.items.last_seen_at(asked)
    with pytest.raises(UsageError, match="unknown unit of age; found 'days'; expected versions or seconds"):
        version.items.age(asked, unit="days")


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        ("0s", [4]),
        ("12h", [4, 2]),
        ("36h", [4, 3, 2]),
        (dt.timedelta(hours=36), [4, 3, 2]),
        (dt.timedelta(hours=36) - dt.timedelta(microseconds=1), [4, 2]),
        ("35.99h", [4, 2]),
        ("1.5d", [4, 3, 2]),
        ("2w", [4, 3, 2, 1]),
        (2, [4, 3, 2]),
        ("2", [4, 3, 2]),
        (np.int64(0), [4]),
        (2**70, [4, 3, 2, 1]),
        (dt.timedelta.max, [4, 3, 2, 1]),
    ],
)
def test_older_ids_count_as_missing(version: Version, limit: Any, found: list[int]) -> None:
    """An id exactly as old as the limit is found."""
    asked = [last_of(version, number) for number in (4, 3, 2, 1)]
    rows = version.items.lookup(asked, "nan", max_age=limit)
    assert [4 - place for place in np.flatnonzero(np.isfinite(rows).all(axis=1))] == found
    with pytest.raises(NotFoundError) if len(found) < 4 else contextlib.nullcontext():
        version.items.lookup(asked, max_age=limit)


@pytest.mark.parametrize(
    "limit", ["7 parsecs", "-7d", "", -1, True, 1.5, float("nan"), dt.timedelta(seconds=-1), [7], b"7d", "9" * 30 + "w"]
)
def test_an_invalid_age_is_refused(version: Version, limit: Any) -> None:
    """The error is raised before the lookup: one line with the value found and what is allowed."""
    with pytest.raises(UsageError) as caught:
        version.items.lookup([-5], max_age=limit)
    assert str(caught.value).startswith("max_age: ")
    assert caught.value.found == repr(limit)[:80]
    assert caught.value.expected is not None


@pytest.mark.services("pandas")
def test_tables_have_times_and_ages(version: Version) -> None:
    """Arrow tables have times beside versions; a data frame has them on request, and still no copy of the vectors."""
    side = version.items
    table = side.to_arrow()
    assert table.schema.field("last_seen_at").type.tz == "UTC"
    seen = side.last_seen_at(side.names(np.arange(len(side))))
    np.testing.assert_array_equal(table["last_seen_at"].to_numpy().astype("datetime64[s]"), seen)
    frame = side.to_pandas(last_seen=True)
    assert frame["last_seen"].tolist() == np.asarray(side.last_seen).tolist()
    assert str(frame["last_seen_at"].dtype) == "datetime64[s, UTC]"
    np.testing.assert_array_equal(frame["last_seen_at"].dt.tz_localize(None).to_numpy(), seen)
    assert np.shares_memory(frame[0].to_numpy(), side.vectors)
    assert list(side.to_pandas().columns) == list(range(6))


def test_relabelling_does_not_age_ids(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version has the same file of times, and all ages are the same."""
    at(monkeypatch, "2027-01-01T00:00:00Z")
    with embsync.open(root) as reader:
        before = reader.current.items.age(reader.current.items.ids, unit="seconds")
        table = root.parent / "labels.csv"
        table.write_text(f"item_id,stock\n{last_of(reader.current, 4)},true\n")
        assert relabel(Store(root), table, configured(snapshot__labels=["stock"])).relabels == 4
        one, other = (root / "versions" / name / layout.LINEAGE_TIMES for name in ("000004", "000005"))
        assert one.samefile(other)
        assert reader.refresh()
        np.testing.assert_array_equal(reader.current.items.age(reader.current.items.ids, unit="seconds"), before)
    at(monkeypatch, "2027-01-02T00:00:00Z")
    sync(root, night(4, **SIZES), "n4")
    with embsync.open(root) as reader:
        assert reader.current.lineage.tolist() == [1, 2, 3, 4, 6]
        np.testing.assert_array_equal(reader.current.lineage_times, times(*CREATED, "2027-01-02T00:00:00Z"))


def test_widening_keeps_times_and_a_new_space_starts_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Widening adds one time to the lineage; a new space starts with only its own time."""
    at(monkeypatch, "2027-01-01T00:00:00Z")
    widen(Store(root), 8, configured())
    with embsync.open(root) as reader:
        np.testing.assert_array_equal(reader.current.lineage_times, times(*CREATED, "2027-01-01T00:00:00Z"))
    at(monkeypatch, "2027-01-02T00:00:00Z")
    sync(root, night(5, **SIZES), "n5", new_space=True)
    with embsync.open(root) as reader:
        np.testing.assert_array_equal(reader.current.lineage_times, times("2027-01-02T00:00:00Z"))


def test_a_version_of_an_earlier_release_only_has_its_own_time(root: Path) -> None:
    """Its own time is known; a time limit is refused with a hint, a limit in versions is not."""
    with_other_times(root, 4, None)
    with embsync.open(root) as reader:
        version = reader.current
        asked = [last_of(version, number) for number in (4, 1)]
        assert version.items.age(asked).tolist() == [0, 3]
        assert version.items.age(asked, unit="seconds").tolist() == [0, -1]
        np.testing.assert_array_equal(version.items.last_seen_at(asked), np.append(times(CREATED[3]), UNKNOWN))
        assert version.items.to_arrow()["last_seen_at"].null_count == int((~version.items.live).sum())
        assert np.isfinite(version.items.lookup(asked, max_age=3)).all()
        with pytest.raises(UsageError, match=r"found version 4, of an earlier release; expected a number of versions"):
            version.items.lookup(asked, max_age="7d")
    assert Store(root).damaged_files(4) == []


def test_after_an_update_times_come_from_manifests_and_journal(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times come from manifests of kept versions, then from the journal; unknown times are older than any limit."""
    for number in (3, 4):
        with_other_times(root, number, None)
    shutil.rmtree(root / "versions/000001")
    shutil.rmtree(root / "versions/000002")
    journal = root / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[1:]))
    (second,) = (event.time for event in Store(root).journal.events() if event.version == 2)
    at(monkeypatch, "2026-11-10T02:00:00Z")
    sync(root, night(4, **SIZES), "n4")
    with embsync.open(root) as reader:
        version = reader.current
        assert np.isnat(version.lineage_times[0])
        np.testing.assert_array_equal(version.lineage_times[1:], times(second, *CREATED[2:], "2026-11-10T02:00:00Z"))
        asked = [last_of(version, 1), last_of(version, 4)]
        assert version.items.age(asked, unit="seconds").tolist() == [-1, DAY / 2]
        assert np.isnan(version.items.lookup(asked, "nan", max_age="99999w")).all(axis=1).tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda file: file[:-1], "shape"),
        (lambda file: file.astype(np.float64), "<f8"),
        (lambda file: file + 1, "2026-11-09T14:00:01; expected 2026-11-09T14:00:00 last"),
        (lambda file: np.append(2**60, file[1:]), "expected 0001-01-01T00:00:00 to 9999-12-31T23:59:59"),
    ],
)
def test_impossible_times_are_damage(root: Path, change: Any, found: str) -> None:
    """Impossible times are reported and not passed on to new versions, even if the manifest matches them."""
    with_other_times(root, 4, change)
    before = snapshot_of(root)
    with embsync.open(root) as reader, pytest.raises(StoreDamaged, match=f"lineage_times.npy: .*{found}"):
        reader.current.items.lookup([2000])
    with pytest.raises(StoreDamaged, match=r"lineage_times.npy"):
        sync(root, night(4, **SIZES), "n4")
    assert snapshot_of(root) | {"lock": b""} == before | {"lock": b""}


@st.composite
def lineages(draw: st.DrawFn) -> Lineage:
    """Draw numbers with gaps and times in any order, some unknown, the last one known."""
    numbers = sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=9)))
    seconds = st.integers(-(10**9), 4 * 10**9)
    drawn = [draw(seconds | st.none()) for _ in numbers[1:]] + [draw(seconds)]
    stored = [np.iinfo(np.int64).min if one is None else one for one in drawn]
    return Lineage(np.array(numbers), np.array(stored, np.int64).view("datetime64[s]"), is_timed=True)


@law
@given(lineages())
def test_laws_of_ages(lineage: Lineage) -> None:
    """Ages are not negative and end with 0; time and age agree; a longer limit includes all ids of a shorter one."""
    versions: Int64 = np.arange(-1, 45)
    seconds, seen = lineage.seconds(versions), lineage.times_of(versions)
    end = lineage.times[-1]
    is_known = ~np.isnat(seen)
    assert (seconds[is_known] >= 0).all()
    assert (seconds[~is_known] == -1).all()
    np.testing.assert_array_equal(end - seen[is_known], seconds[is_known].astype("timedelta64[s]"))
    assert (seconds[versions == lineage.numbers[-1]] == 0).all()
    assert not is_known[~np.isin(versions, lineage.numbers)].any()
    for version, time in zip(lineage.numbers.tolist(), lineage.times.tolist(), strict=True):
        if time is not None and time <= end.tolist():
            assert set(seen[versions == version].tolist()) <= {time}
    shorter, longer = (lineage.is_within(versions, dt.timedelta(seconds=limit)) for limit in (1000, 10**9))
    np.testing.assert_array_equal(shorter, is_known & (seconds <= 1000))
    assert (longer | ~shorter).all()


def test_a_limit_is_parsed_once() -> None:
    """Text of digits is a number of versions, as in a URL and on the command line."""
    assert age_limit("7") == age_limit(7) == 7
    assert age_limit("7d") == dt.timedelta(days=7)


def test_status_says_that_the_clock_was_behind(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As long as that version is current, carried ids have age 0."""
    verdicts = {}
    for number in (3, 4):
        Store(root).rollback(number)
        assert run(["status", "--store", str(root)]) == 0
        verdicts[number] = capsys.readouterr().out.splitlines()[0]
    assert verdicts[3].startswith("! ")
    assert "version 3 has an earlier time than version 2, so that ages in time are wrong" in verdicts[3]
    assert "earlier time" not in verdicts[4]
