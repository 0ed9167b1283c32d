"""Unusual nights: widths, ranks, ids, sides, absences, rollbacks, concurrent commands."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.nights import Array, Night, configured, item_name, night, rotation, write_npy
from support.quick import quick_directory
from support.stores import assert_at_rest, assert_intact, next_line, running, snapshot_of, sync

import embsync
from embsync.config import DEFAULT_LIMITS
from embsync.errors import NotFoundError, SnapshotChanged, SnapshotError, StoreBusy, UsageError
from embsync.pipeline import CheckRefusedError, Request, publish_snapshot, run
from embsync.pipeline.verify import verify
from embsync.pipeline.widen import widen
from embsync.reader import Version
from embsync.snapshots import stamp
from embsync.store import Store


@pytest.fixture
def root() -> Iterator[Path]:
    """A path for a store."""
    with quick_directory() as directory:
        yield directory / "S"


def _scores_kept(root: Path, made: Night) -> None:
    """Assert, in float64, that the current version has the scores of a night."""
    with embsync.open(root) as reader:
        version = reader.current
        items = version.items.lookup(made.item_ids).astype(np.float64)
        users = items if version.users is None else version.users.lookup(made.user_ids).astype(np.float64)
        other = made.items if made.users is None else made.users
        raw = made.items.astype(np.float64) @ other.astype(np.float64).T
        assert np.linalg.norm(items @ users.T - raw) < 1e-6 * np.linalg.norm(raw)


def _cosine(one: Array, other: Array) -> float:
    dot = (one * other).sum(axis=1)
    return float((dot / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).mean())


def _column(made: Night, value: float | None = None, times: float = 0.5) -> Night:
    """Add a column to both sides: a constant, or a nonlinear function of the other columns."""

    def wider(rows: Array) -> Array:
        column = times * np.tanh(2 * rows.sum(axis=1)) if value is None else np.full(len(rows), value)
        return np.column_stack([rows, column]).astype(np.float32)

    return made.with_vectors(wider)


# widths


def test_the_width_may_change_between_nights(root: Path) -> None:
    """A narrower night is published; a wider one is refused with its loss until ``widen``; all are aligned."""
    sync(root, night(0), "eight")
    cut = np.eye(8)[:, :6]  # the strongest axes of the signal
    narrow = night(1, turned=False).with_vectors(lambda rows: (rows @ cut).astype(np.float32))
    manifest = sync(root, narrow, "six")
    assert (manifest.dimension, manifest.snapshot.width, manifest.alignment.rank) == (8, 6, 6)
    assert manifest.preservation.score_error < 1e-6
    assert manifest.drift is not None
    assert manifest.drift.items.cosine is not None
    assert manifest.drift.items.cosine > 0.8
    assert manifest.drift.items.cosine_raw is None  # the parent's raw vectors have another width
    _scores_kept(root, narrow)

    wide = _column(night(2))
    before = snapshot_of(root / "versions")
    with pytest.raises(CheckRefusedError, match=r"truncation_loss 0\.\d+ \(limit at most 0\)"):
        sync(root, wide, "nine")
    assert snapshot_of(root / "versions") == before

    assert widen(Store(root), 10, configured()).dimension == 10
    manifest = sync(root, wide, "nine")
    assert (manifest.version, manifest.dimension, manifest.snapshot.width) == (4, 10, 9)
    _scores_kept(root, wide)
    with embsync.open(root) as reader:
        assert not reader.current.items.vectors[:, 9].any()
    again = sync(root, _column(night(3)), "nine again")
    assert again.alignment.items.cosine is not None
    assert again.alignment.items.cosine > 0.8


def test_widening_changes_no_score_and_no_id(root: Path) -> None:
    """Live rows, ages and anchors are those of the parent, and the new axes are zero."""
    sync(root, night(0), "n0")
    two = sync(root, night(1), "n1")
    manifest = widen(Store(root), 11, configured())
    assert (manifest.version, manifest.parent, manifest.dimension) == (3, 2, 11)
    assert manifest.snapshot == two.snapshot
    assert manifest.space_id == two.space_id
    assert manifest.preservation == two.preservation
    assert (manifest.drift, manifest.checks) == (None, [])  # the parent's own compare with its parent
    live = two.items.live
    assert manifest.items == msgspec.structs.replace(two.items, new=0, returned=0, gone=0, common=live)
    with embsync.open(root) as reader, reader.version(2) as old:
        new = reader.current
        assert new.record.files == manifest.files
        for name in ("items", "users"):
            side, before = new.side(name), old.side(name)
            np.testing.assert_array_equal(side.ids, before.ids)
            np.testing.assert_array_equal(side.live, before.live)
            np.testing.assert_array_equal(side.vectors[:, :8], before.vectors)
            assert not side.vectors[:, 8:].any()
            for folder in ("anchors", "start"):
                for wide, narrow in zip(new.reference(folder, name), old.reference(folder, name), strict=True):
                    np.testing.assert_array_equal(wide[:, :8] if wide.ndim == 2 else wide, narrow)
        gone = np.setdiff1d(night(0).item_ids, night(1).item_ids)
        assert set(new.items.age(gone).tolist()) == {2}
        queries = old.side("users").vectors[:5]
        ids, scores = new.search(np.pad(queries, ((0, 0), (0, 3))), k=10)
        expected = old.search(queries, k=10)
        assert ids.tolist() == expected[0].tolist()
        np.testing.assert_allclose(scores, expected[1], rtol=1e-5)
        assert verify(Store(root), new, configured()).sound
    _scores_kept(root, night(1))
    assert_at_rest(root)
    before = snapshot_of(root)
    for same_or_less in (11, 8):
        with pytest.raises(UsageError, match="the space is not narrower; found 11 dimensions; expected less than"):
            widen(Store(root), same_or_less, configured())
    assert snapshot_of(root) == before
    assert widen(Store(root), 12, configured(store__keep_versions=2)).version == 4
    assert Store(root).numbers() == [3, 4]


def test_the_dimension_is_configured_or_that_of_the_first_snapshot(root: Path) -> None:
    """A configured dimension applies from the first version on; later, only ``widen`` changes the space's."""
    config = configured(space__dimension=12)
    assert sync(root, night(0), "n0", config).dimension == 12
    assert sync(root, night(1), "n1", config).dimension == 12
    assert sync(root, night(2), "n2").dimension == 12
    with pytest.raises(UsageError, match=r"space\.dimension differs from the space's; found 9; expected 12"):
        sync(root, night(3), "n3", configured(space__dimension=9))


# ranks


@pytest.mark.parametrize("kind", ["duplicate", "constant"])
def test_a_rank_deficient_model_is_published_and_aligned(root: Path, kind: str) -> None:
    """With a duplicated or constant column, scores are kept, maps are small, and the next night is aligned."""
    for number in range(2):
        made = night(number, width=7)
        assert made.users is not None
        if kind == "duplicate":
            made = made.with_vectors(lambda rows: np.column_stack([rows, rows[:, 0]]))
        else:  # a bias: constant for users, and a duplicated column for items
            made = replace(
                made,
                items=np.column_stack([made.items, made.items[:, 1]]),
                users=np.column_stack([made.users, np.ones(len(made.users), np.float32)]),
            )
        manifest = sync(root, made, f"n{number}")
        assert manifest.alignment.rank == 7
        assert manifest.preservation.score_error < 1e-6
        assert manifest.preservation.map_error < 1e-6
        assert [check.outcome for check in manifest.checks if check.name == "rank"] == ["warn"]
        _scores_kept(root, made)
        with embsync.open(root) as reader:
            assert np.abs(reader.current.transform.maps.items).max() < 1e3
            assert not reader.current.transform.maps.invertible
    assert manifest.drift is not None
    assert manifest.drift.items.cosine is not None
    assert manifest.drift.items.cosine > 0.7
    assert manifest.drift.items.cosine_raw is None


def test_a_constant_column_on_both_sides_is_recovered(root: Path) -> None:
    """It cannot be seen in the stable vectors, but the inverse map recovers it."""
    made = _column(night(0, width=7), 1.0)
    assert sync(root, made, "n0").alignment.rank == 8
    with embsync.open(root) as reader:
        back = reader.current.transform.items_inverse(reader.current.items.lookup(made.item_ids))
    np.testing.assert_allclose(back[:, 7], 1.0, atol=1e-4)


# ids and sides


def test_string_ids_give_the_same_version_as_integers(root: Path) -> None:
    """The same nights with names as ids give the same vectors."""
    other = root.parent / "T"
    for number in range(3):
        sync(root, night(number), f"i{number}")
        sync(other, night(number).named(), f"s{number}")
    with embsync.open(root) as integers, embsync.open(other) as strings:
        names = [item_name(id_) for id_ in integers.current.items.ids.tolist()]
        found = strings.current.items.lookup(names)
        assert strings.current.items.ids.dtype.kind == "S"
        assert len(strings.current.items.ids) == len(names)
        assert np.abs(found - integers.current.items.vectors).max() < 1e-5
        ages = integers.current.items.age(integers.current.items.ids)
        assert strings.current.items.age(names).tolist() == ages.tolist()
        moved = strings.current.record.drift
        assert moved is not None
        assert isinstance(moved.items.moved_most[0].id, str)


def test_the_type_of_ids_and_the_sides_never_change(root: Path) -> None:
    """Other types or sides are ill-formed; ids of another type are so even in a new space, and nothing is written."""
    sync(root, night(0), "n0")
    before = snapshot_of(root)
    for new_space in (False, True):
        with pytest.raises(SnapshotError, match="items ids of a different type from the store's; found strings"):
            sync(root, night(1).named(), "strings", new_space=new_space)
    with pytest.raises(SnapshotError, match=r"sides differ from the store's; found items only.*accept .*--new-space"):
        sync(root, night(1).one_sided(), "one side")
    assert snapshot_of(root) == before
    other = root.parent / "T"
    sync(other, night(0).one_sided(), "one")
    with pytest.raises(SnapshotError, match=r"sides differ .*; found items and users; expected items only"):
        sync(other, night(1), "two")


def test_a_new_space_may_have_other_sides(root: Path) -> None:
    """A store that became one-sided by mistake can be corrected, and its older versions are unchanged."""
    sync(root, night(0).one_sided(), "half")
    sync(root, night(1), "whole", new_space=True)
    sync(root, night(2), "next")
    sync(root, night(3).one_sided(), "one again", new_space=True)
    sync(root, night(4).one_sided(), "one more")
    with embsync.open(root) as reader:
        assert (reader.current.users is None, reader.current.record.parent) == (True, 4)
        assert [Store(root).manifest(number).users is None for number in (1, 2, 3, 4)] == [True, False, False, True]
    Store(root).rollback(3)
    with embsync.open(root) as reader:
        assert reader.current.users is not None
    sync(root, night(5), "after the rollback")


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_a_store_of_items_alone_is_published(root: Path, metric: str) -> None:
    """Item-item products are kept, nights are aligned, and everything about users is null."""
    options: dict[str, object] = {"index__metric": metric, "space__standardize": metric == "inner_product"}
    for number in range(3):
        made = night(number).one_sided()
        manifest = sync(root, made, f"n{number}", configured(**options))
        assert manifest.users is None
        assert manifest.preservation.score_error < 1e-6
        assert manifest.preservation.top_k_agreement == 1.0
        _scores_kept(root, made)
    assert manifest.drift is not None
    assert manifest.drift.users is None
    assert manifest.drift.items.cosine is not None
    assert manifest.drift.items.cosine > 0.9
    assert manifest.alignment.users is None
    assert not manifest.alignment.standardized
    assert [check.outcome for check in manifest.checks] == ["pass"] * len(manifest.checks)
    with embsync.open(root) as reader:
        assert not (reader.current.path / "users").exists()
        ids, _ = reader.current.search(reader.current.items.lookup(made.item_ids[:20]), k=1)
        if metric != "inner_product":
            assert ids[:, 0].tolist() == made.item_ids[:20].tolist()
        assert verify(Store(root), reader.current, configured(**options)).sound


def test_weights_of_the_snapshot_are_used(root: Path) -> None:
    """Rows with weight zero in ``item_weights.npy`` do not affect the rotation."""
    sync(root, night(0, churn=0.0), "n0")
    made = night(1, churn=0.0)
    weights = np.ones(240)
    weights[:50] = 0.0
    made.items[:50] = 5.0 * made.items[:50] @ rotation(8, 5).astype(np.float32)
    honest = night(1, churn=0.0)
    ids = np.sort(honest.item_ids[50:])
    cosines = []
    for name, given in (("plain", None), ("weighted", weights)):
        place = root.parent / name
        shutil.copytree(root, place, symlinks=True)
        path = write_npy(root.parent / f"in-{name}", made)
        if given is not None:
            np.save(path / "item_weights.npy", given)
        publish_snapshot(Store(place), Request(path, tuple(DEFAULT_LIMITS)), configured())
        with embsync.open(place) as reader, reader.version(1) as old:
            cosines.append(_cosine(reader.current.items.lookup(ids), old.items.lookup(ids)))
    assert cosines[1] > cosines[0]


# time


def test_an_item_missing_for_one_night_returns(root: Path) -> None:
    """It is carried with its last vector and not searched, then live again and counted as returned."""
    nights = [night(number, churn=0.0) for number in range(3)]
    missing = nights[1].item_ids[:9]
    sync(root, nights[0], "n0")
    counts = sync(root, nights[1].without_items(missing), "n1").items
    assert (counts.rows, counts.live, counts.gone, counts.carried, counts.common) == (240, 231, 9, 9, 231)
    with embsync.open(root) as reader, reader.version(1) as first:
        assert reader.current.items.lookup(missing).tobytes() == first.items.lookup(missing).tobytes()
        assert set(reader.current.items.age(missing).tolist()) == {1}
        ids, _ = reader.current.search(first.items.lookup(missing), k=240)
        assert ids.shape[1] == 231
        assert not np.isin(missing, ids).any()
    counts = sync(root, nights[2], "n2").items
    assert (counts.live, counts.new, counts.returned, counts.carried, counts.common) == (240, 9, 9, 0, 231)
    with embsync.open(root) as reader, reader.version(1) as first:
        assert set(reader.current.items.age(missing).tolist()) == {0}
        assert _cosine(reader.current.items.lookup(missing), first.items.lookup(missing)) > 0.9


@pytest.mark.parametrize("carry", [0, 1, 2])
def test_absent_ids_are_dropped_after_the_configured_versions(root: Path, carry: int) -> None:
    """With 0, they are dropped at once."""
    config = configured(store__carry_forward_versions=carry)
    for number in range(5):
        manifest = sync(root, night(number), f"n{number}", config)
    assert manifest.items.carried == 12 * carry
    gone_first = np.setdiff1d(night(0).item_ids, night(1).item_ids)
    with embsync.open(root) as reader, pytest.raises(NotFoundError):
        reader.current.items.lookup(gone_first)


def test_the_next_night_follows_a_rollback(root: Path) -> None:
    """The next version continues from the version rolled back to: parent, anchors, lineage and ages."""
    for number in range(3):
        sync(root, night(number), f"n{number}")
    Store(root).rollback(1)
    straight = root.parent / "T"
    sync(straight, night(0), "s0")
    sync(straight, night(3), "s3")
    manifest = sync(root, night(3), "n3")
    assert (manifest.version, manifest.parent) == (4, 1)
    assert manifest.drift is not None
    assert manifest.drift.parent == 1
    with embsync.open(root) as reader, embsync.open(straight) as other:
        assert reader.current.lineage.tolist() == [1, 4]
        assert reader.current.items.ids.tolist() == other.current.items.ids.tolist()
        assert reader.current.items.vectors.tobytes() == other.current.items.vectors.tobytes()
        gone = np.setdiff1d(night(0).item_ids, night(3).item_ids)
        assert set(reader.current.items.age(gone).tolist()) == {1}


def test_a_refused_night_is_only_in_the_journal(root: Path) -> None:
    """The nights after it are published as if it had not been offered."""
    clean = root.parent / "T"
    for number in range(3):
        sync(clean, night(number), f"c{number}")
    sync(root, night(0), "n0")
    sync(root, night(1), "n1")
    before = snapshot_of(root / "versions")
    with pytest.raises(CheckRefusedError):
        sync(root, night(2).shuffled_item_ids(), "bad")
    assert snapshot_of(root / "versions") == before
    sync(root, night(2), "n2")
    events = list(Store(root).journal.events())
    assert [(event.event, event.version) for event in events] == [
        ("published", 1),
        ("published", 2),
        ("refused", None),
        ("published", 3),
    ]
    assert events[2].snapshot is not None
    assert events[2].snapshot["name"] == "bad"
    assert events[2].snapshot["fingerprint"]
    assert {check["name"] for check in events[2].checks or [] if check["outcome"] == "refuse"} >= {"cosine_items"}
    with embsync.open(root) as reader, embsync.open(clean) as other:
        assert reader.current.items.vectors.tobytes() == other.current.items.vectors.tobytes()
        assert reader.current.record.snapshot.fingerprint == other.current.record.snapshot.fingerprint


def test_the_same_path_twice_is_published_twice_with_a_warning(root: Path) -> None:
    """The second version has the same vectors and records that its snapshot is the parent's."""
    first = sync(root, night(0), "n0")
    second = sync(root, night(0), "n0")
    assert (second.version, second.parent, second.space_id) == (2, 1, first.space_id)
    assert [check.name for check in second.checks if check.outcome != "pass"] == ["same_snapshot"]
    assert second.snapshot.fingerprint == first.snapshot.fingerprint
    with embsync.open(root) as reader, reader.version(1) as old:
        assert np.abs(reader.current.items.vectors - old.items.vectors).max() < 1e-5


def test_a_refused_first_night_publishes_nothing(root: Path) -> None:
    """The refusal is in the journal, and there is no version to open."""
    made = night(0)
    assert made.users is not None
    assert made.user_ids is not None
    few = replace(made, users=made.users[:5], user_ids=made.user_ids[:5])
    with pytest.raises(CheckRefusedError, match="rows_users"):
        sync(root, few, "n0")
    with pytest.raises(NotFoundError, match="no version yet"):
        embsync.open(root)
    assert sync(root, night(0), "n0").version == 1


def test_a_new_space_has_no_history(root: Path) -> None:
    """It has a new space id and no parent, and nothing is carried."""
    sync(root, night(0), "n0")
    old = sync(root, night(1), "n1")
    unrelated = night(2, seed=99)
    with pytest.raises(CheckRefusedError):
        sync(root, unrelated, "other model")
    manifest = sync(root, unrelated, "other model", new_space=True)
    assert (manifest.version, manifest.parent, manifest.drift) == (3, None, None)
    assert manifest.space_id != old.space_id
    assert (manifest.items.carried, manifest.items.common, manifest.items.new) == (0, 0, 240)
    with embsync.open(root) as reader:
        assert reader.current.lineage.tolist() == [3]
        assert len(reader.current.items.ids) == 240
    following = sync(root, night(3, seed=99), "next")
    assert (following.space_id, following.parent) == (manifest.space_id, 3)
    Store(root).rollback(None)
    assert Store(root).rollback(None) == (3, 2)


def test_a_snapshot_that_changes_while_it_is_read_is_not_published(root: Path) -> None:
    """A change between the two passes is detected, the error is transient, and the store is unchanged."""
    sync(root, night(0), "n0")
    before = snapshot_of(root)
    path = write_npy(root.parent / "n1", night(1))
    swapped: list[bool] = []

    def swap(stage: str, _: float) -> None:
        if stage == "writing" and not swapped:
            swapped.append(True)
            write_npy(path, night(2))

    with pytest.raises(SnapshotChanged) as raised:
        publish_snapshot(Store(root), Request(path), configured(), swap)
    assert raised.value.transient
    assert snapshot_of(root) == before


def test_a_change_of_values_alone_during_reading_is_not_published(root: Path) -> None:
    """A write through a memory map changes neither time, size nor stamp, but the fingerprint."""
    path = write_npy(root.parent / "n0", night(0))
    mapped = np.lib.format.open_memmap(path / "items.npy", "r+")
    mapped[3, 1] += np.float32(0.0)  # the page now belongs to the writer, whose writes leave no trace
    before = stamp(path)

    def write(stage: str, share: float) -> None:
        if stage == "reading" and share > 0.0:  # the items have been read
            mapped[3, 1] = 2.0

    with pytest.raises(SnapshotChanged, match="different contents in the second pass"):
        publish_snapshot(Store(root), Request(path), configured(), write)
    assert stamp(path) == before
    assert Store(root).current() is None


def test_a_snapshot_removed_while_it_is_opened_is_not_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is being replaced is reported as changed; if it stays incomplete, it is ill-formed."""
    path, really = write_npy(root.parent / "n0", night(0)), run.open_snapshot

    def removed(*arguments: Any, **options: Any) -> Any:
        (path / "items.npy").unlink(missing_ok=True)
        return really(*arguments, **options)

    monkeypatch.setattr(run, "open_snapshot", removed)
    with pytest.raises(SnapshotChanged, match="changed while it was read; found incomplete snapshot"):
        publish_snapshot(Store(root), Request(path), configured())
    with pytest.raises(SnapshotError, match="incomplete snapshot") as raised:
        publish_snapshot(Store(root), Request(path), configured())
    assert not raised.value.transient
    assert not root.exists()


def test_a_snapshot_replaced_during_its_checks_is_not_refused(root: Path) -> None:
    """Rows that may belong to two nights are not refused, and nothing is journaled."""
    sync(root, night(0), "n0")
    before = snapshot_of(root)
    path = write_npy(root.parent / "n1", replace(night(1), item_ids=night(1).item_ids + 10**6))

    def replaced(stage: str, share: float) -> None:
        if stage == "reading" and share > 0.0 and not path.with_name("old").exists():
            path.rename(path.with_name("old"))
            write_npy(path, night(1))

    with pytest.raises(SnapshotChanged, match="changed while it was read") as raised:
        publish_snapshot(Store(root), Request(path), configured(), replaced)
    assert isinstance(raised.value.__cause__, CheckRefusedError)
    assert snapshot_of(root) == before


# concurrent commands


SYNC = """
import sys
from pathlib import Path
from support.nights import configured
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store
print("ready", flush=True)
sys.stdin.readline()
request = Request(Path(sys.argv[2]))
print(publish_snapshot(Store(sys.argv[1]), request, configured(store__keep_versions=50)).version, flush=True)
"""


def test_two_concurrent_processes_both_publish(root: Path) -> None:
    """They publish one after the other, each aligned to the previous version, without leftovers."""
    sync(root, night(0), "n0")
    paths = [write_npy(root.parent / f"at-once-{number}", night(number)) for number in (1, 2, 3)]
    with contextlib.ExitStack() as stack:
        commands = [stack.enter_context(running(SYNC, root, path)) for path in paths]
        for command in commands:
            assert next_line(command) == "ready"
        for command in commands:
            assert command.stdin is not None
            command.stdin.write("\n")
            command.stdin.flush()
        versions = sorted(int(next_line(command)) for command in commands)
    assert versions == [2, 3, 4]
    manifests = [Store(root).manifest(number) for number in versions]
    assert [manifest.parent for manifest in manifests] == [1, 2, 3]
    assert {manifest.snapshot.name for manifest in manifests} == {path.name for path in paths}
    assert [event.version for event in Store(root).journal.events()] == [1, 2, 3, 4]
    assert assert_intact(root) == 4
    assert_at_rest(root)


def test_an_overtaken_run_is_repeated(root: Path) -> None:
    """After a rollback and a publish during the run, it is repeated on the version that is then current."""
    sync(root, night(0), "n0")
    sync(root, night(1), "n1")
    path = write_npy(root.parent / "n2", night(2))
    overtaken: list[int] = []

    def meanwhile(stage: str, share: float) -> None:
        if stage == "publishing" and share == 0.0:
            overtaken.append(Store(root).current() or 0)
            if len(overtaken) == 1:
                Store(root).rollback(1)
            elif len(overtaken) == 2:
                sync(root, night(3), "n3")

    manifest = publish_snapshot(Store(root), Request(path), configured(), meanwhile)
    assert overtaken == [2, 1, 3]
    assert (manifest.version, manifest.parent) == (4, 3)


def test_a_version_number_used_meanwhile_is_not_reused(root: Path) -> None:
    """If another version was published and rolled back during the run, the next number is used."""
    sync(root, night(0), "n0")
    path = write_npy(root.parent / "n2", night(2))
    runs: list[int] = []

    def meanwhile(stage: str, share: float) -> None:
        if stage == "publishing" and share == 0.0:
            runs.append(1)
            if len(runs) == 1:
                sync(root, night(1), "n1")
                Store(root).rollback(1)

    manifest = publish_snapshot(Store(root), Request(path), configured(), meanwhile)
    assert (manifest.version, manifest.parent) == (3, 1)
    assert Store(root).numbers() == [1, 2, 3]
    assert_at_rest(root)


def test_a_run_that_is_overtaken_repeatedly_publishes_in_the_end(root: Path) -> None:
    """After three discarded runs, the next one holds the lock, and rollbacks wait."""
    sync(root, night(0), "n0")
    sync(root, night(1), "n1")
    path = write_npy(root.parent / "n2", night(2))
    waited: list[bool] = []

    def meanwhile(stage: str, share: float) -> None:
        if stage == "publishing" and share == 0.0:
            assert len(waited) < 6, "never published"
            try:
                Store(root, wait=0.05).rollback(1 if Store(root).current() == 2 else 2)
            except StoreBusy:
                waited.append(True)
            else:
                waited.append(False)

    assert publish_snapshot(Store(root), Request(path), configured(), meanwhile).version == 3
    assert waited == [False, False, False, True]


def test_many_threads_may_read_while_one_publishes(root: Path) -> None:
    """Searches from several threads return the same results, since a version is immutable."""
    sync(root, night(0), "n0")
    with embsync.open(root) as reader:
        version: Version = reader.current
        queries = version.side("users").vectors[:40]
        expected = version.search(queries, k=5)
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(version.search, queries, 5) for _ in range(16)]
            sync(root, night(1), "n1")
            for future in found:
                ids, scores = future.result()
                assert ids.tolist() == expected[0].tolist()
                np.testing.assert_allclose(scores, expected[1], rtol=1e-6)


# verify


def test_verify_names_damaged_and_missing_files(root: Path) -> None:
    """A changed byte, a missing file, and a changed or missing snapshot have their own messages."""
    sync(root, night(0), "n0")
    store = Store(root)
    config = configured()
    with embsync.open(root) as reader:
        found = verify(store, reader.current, config)
        assert (found.sound, found.damaged, found.note) == (True, [], None)
        assert found.files == len(reader.current.record.files)
        assert found.map_error is not None
        assert found.map_error < 1e-11
        assert found.score_error is not None
        assert found.score_error < 1e-6

        snapshot = root.parent / "snapshots" / "n0"
        write_npy(snapshot, night(1))
        changed = verify(store, reader.current, config)
        assert (changed.sound, changed.score_error, changed.snapshot) == (True, None, None)
        assert changed.note is not None
        assert "changed" in changed.note
        snapshot.rename(root.parent / "elsewhere")
        gone = verify(store, reader.current, config)
        assert gone.note is not None
        assert "not on this host" in gone.note
        (root.parent / "moved").mkdir()
        (root.parent / "elsewhere").rename(root.parent / "moved" / "n0")
        write_npy(root.parent / "moved" / "n0", night(0))
        moved = verify(store, reader.current, configured(watch__path=str(root.parent / "moved")))
        assert (moved.snapshot, moved.note) == (str(root.parent / "moved/n0"), None)
        write_npy(snapshot, night(0))

        file = reader.current.path / "users/vectors.npy"
        data = bytearray(file.read_bytes())
        data[-2] ^= 0x40
        file.write_bytes(data)
        damaged = verify(store, reader.current, config)
        assert not damaged.sound
        assert len(damaged.damaged) == 1
        assert damaged.damaged[0].startswith("users/vectors.npy: sha256")
        assert damaged.score_error is not None
        assert damaged.score_error > 1e-6
        file.unlink()
        assert verify(store, reader.current, config).damaged == ["users/vectors.npy: No such file or directory"]


def test_an_accepted_truncation_loss_is_not_damage(root: Path) -> None:
    """A narrower space is intact if only the accepted loss is missing; a changed value is damage."""
    config = configured(space__dimension=4)
    manifest = sync(root, night(0, width=6), "n0", config, accepted=("truncation_loss",))
    assert manifest.alignment.truncation_loss > 1e-3
    with embsync.open(root) as reader:
        found = verify(Store(root), reader.current, config)
        assert found.score_error is not None
        assert found.score_error > 1e-3
        assert found.sound
