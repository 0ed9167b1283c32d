"""Figures of the manifest compared with plain arithmetic on the files, and the settings that affect them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from support.nights import Array, Night, configured, night, write_npy
from support.quick import quick_directory
from support.stores import sync

import embsync
from embsync import rows
from embsync.errors import SnapshotChanged
from embsync.manifest import Manifest
from embsync.pipeline import CheckRefusedError, Request, neighbours, publish_snapshot
from embsync.pipeline.verify import verify
from embsync.pipeline.widen import widen
from embsync.reader import Version
from embsync.store import Store
from embsync.store.staging import Staging

NIGHTS = [night(number, churn=0.15) for number in range(4)]


@dataclass(frozen=True)
class World:
    """Open versions of a store with four nights, with ids that came, left and are carried."""

    manifest: Manifest
    version: Version
    parent: Version
    first: Version


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A store of four nights whose index has dead labels."""
    with quick_directory() as directory:
        root = directory / "S"
        config = configured(index__factory="HNSW32", index__compact_dead_fraction=0.9)
        for number, made in enumerate(NIGHTS):
            manifest = sync(root, made, f"n{number}", config)
        with embsync.open(root) as reader, reader.version(3) as parent, reader.version(1) as first:
            yield World(manifest, reader.current, parent, first)


@pytest.fixture
def root() -> Iterator[Path]:
    """A path for a store."""
    with quick_directory() as directory:
        yield directory / "S"


def _cosines(one: Array, other: Array) -> Array:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def _top(queries: Array, items: Array, ids: Array, k: int = 10) -> list[set[int]]:
    """Return the ids of the exact neighbours of each query."""
    order = np.argsort(-(queries.astype(np.float64) @ items.astype(np.float64).T), axis=1)[:, :k]
    return [set(ids[row].tolist()) for row in order]


def _shared(first: list[set[int]], second: list[set[int]]) -> float:
    return float(np.mean([len(one & other) / len(one) for one, other in zip(first, second, strict=True)]))


def _live(version: Version, side: str) -> tuple[Array, Array]:
    """Return the ids and vectors of the live rows."""
    rows = version.side(side)
    return np.asarray(rows.ids)[rows.live], np.asarray(rows.vectors)[rows.live]


@pytest.mark.parametrize("side", ["items", "users"])
def test_drift_since_the_start_covers_live_rows(world: World, side: str) -> None:
    """Carried rows do not move, and would lower the measured drift."""
    start, before = world.version.reference("start", side)
    ids, vectors = _live(world.version, side)
    common = np.intersect1d(start, ids)
    assert len(common) < np.isin(start, world.version.side(side).ids).sum()
    expected = _cosines(vectors[np.searchsorted(ids, common)], before[np.searchsorted(start, common)]).mean()
    drift = world.manifest.drift
    assert drift is not None
    found = getattr(drift, side).cosine_since_start
    assert found == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(before, world.first.side(side).lookup(start))


@pytest.mark.parametrize("side", ["items", "users"])
def test_drift_since_the_parent_covers_rows_live_in_both(world: World, side: str) -> None:
    """Cosine, its 5th percentile, displacement and norms are compared by id, for stable and raw vectors."""
    ids, vectors = _live(world.version, side)
    old_ids, old = _live(world.parent, side)
    common = np.intersect1d(ids, old_ids)
    new, old = vectors[np.searchsorted(ids, common)], old[np.searchsorted(old_ids, common)]
    drift = world.manifest.drift
    assert drift is not None
    found = getattr(drift, side)
    assert found.cosine == pytest.approx(_cosines(new, old).mean(), abs=1e-6)
    assert found.cosine_p05 == pytest.approx(np.percentile(_cosines(new, old), 5), abs=1e-5)
    assert found.displacement == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-4)
    raw = [_by_id(made, side, common) for made in (NIGHTS[3], NIGHTS[2])]
    assert found.cosine_raw == pytest.approx(_cosines(*raw).mean(), abs=1e-5)
    assert found.displacement_raw == pytest.approx(np.linalg.norm(raw[0] - raw[1]) / np.linalg.norm(raw[1]), rel=1e-4)
    ratio = np.median(np.linalg.norm(new, axis=1)) / np.median(np.linalg.norm(old, axis=1))
    assert getattr(world.manifest.alignment, side).norm_ratio == pytest.approx(ratio, rel=1e-4)
    assert getattr(world.manifest, side).common == len(common)


def _by_id(made: Night, side: str, ids: Array) -> Array:
    own = getattr(made, f"{side[:-1]}_ids")
    order = np.argsort(own)
    return np.asarray(getattr(made, side)[order[np.searchsorted(own[order], ids)]], np.float64)


def test_overlaps_count_live_items_of_users_live_in_both(world: World) -> None:
    """The parent's carried items are nobody's neighbours, since search never returns them."""
    new_items, old_items = _live(world.version, "items"), _live(world.parent, "items")
    new_users, old_users = _live(world.version, "users"), _live(world.parent, "users")
    common = np.intersect1d(new_users[0], old_users[0])
    new, old = (vectors[np.searchsorted(ids, common)] for ids, vectors in (new_users, old_users))
    own = _top(new, new_items[1], new_items[0])
    drift = world.manifest.drift
    assert drift is not None
    assert drift.overlap_at_10 == pytest.approx(_shared(own, _top(old, old_items[1], old_items[0])), abs=1e-9)
    assert drift.stale_overlap_at_10 == pytest.approx(_shared(own, _top(old, new_items[1], new_items[0])), abs=1e-9)
    raw = _top(_by_id(NIGHTS[2], "users", common), NIGHTS[3].items, NIGHTS[3].item_ids)
    assert drift.stale_overlap_at_10_raw == pytest.approx(_shared(own, raw), abs=1e-9)
    assert drift.overlap_at_10 != drift.stale_overlap_at_10


@pytest.mark.parametrize("side", ["items", "users"])
def test_moments_are_those_of_the_live_rows(world: World, side: str) -> None:
    """The stored moments equal those computed from all rows, as for a version of an earlier release."""
    stored = world.version.side(side)
    computed = replace(stored, moments=None)
    assert stored.moments is not None
    np.testing.assert_allclose(stored.mean, computed.mean, rtol=1e-6, atol=1e-9)
    assert stored.energy == pytest.approx(computed.energy, rel=1e-12)
    assert stored.energy == pytest.approx(
        float((_live(world.version, side)[1].astype(np.float64) ** 2).sum(axis=1).mean())
    )


def test_the_neighbours_of_the_sampled_users_are_stored(world: World) -> None:
    """The table has the sampled users' rows, ascending, and the rows of their ten best live items."""
    table, users, items = world.version.neighbours, world.version.users, world.version.items
    assert table is not None
    assert users is not None
    assert (np.diff(table[:, 0]) > 0).all()
    assert users.live[table[:, 0]].all()
    found = [set(np.asarray(items.ids)[row].tolist()) for row in table[:, 1:]]
    new_items = _live(world.version, "items")
    assert found == _top(np.asarray(users.vectors)[table[:, 0]], new_items[1], new_items[0])


@pytest.mark.parametrize("lacks", ["all of it", "some users", "another metric"])
def test_overlaps_are_the_same_without_stored_neighbours(world: World, root: Path, lacks: str) -> None:
    """For users without stored neighbours, as in earlier releases, neighbours are searched in the parent's rows."""
    config = configured(index__factory="HNSW32", index__compact_dead_fraction=0.9)
    shutil.copytree(world.version.path.parents[1], root, symlinks=True)
    Store(root).rollback(3)
    folder = root / "versions/000003"
    stored, file = json.loads((folder / "manifest.json").read_text()), folder / "neighbours.npy"
    table = np.load(file)
    if lacks == "all of it":
        file.unlink()
        stored["files"] = [entry for entry in stored["files"] if entry["path"] != file.name]
    else:
        table = table[::3] if lacks == "some users" else np.where(np.arange(11) > 0, 0, table)
        np.save(file, table)
        entry = next(entry for entry in stored["files"] if entry["path"] == file.name)
        entry |= {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        if lacks == "another metric":
            stored["index"]["metric"] = "l2"
    (folder / "manifest.json").write_text(json.dumps(stored))
    (folder / "manifest.sha256").unlink()
    manifest = sync(root, NIGHTS[3], "again", config)
    assert manifest.parent == 3
    assert manifest.drift is not None
    assert world.manifest.drift is not None
    assert manifest.drift.overlap_at_10 == world.manifest.drift.overlap_at_10


def test_stored_neighbours_are_used(world: World, root: Path) -> None:
    """Neighbours of users that the parent has stored are not searched again."""
    shutil.copytree(world.version.path.parents[1], root, symlinks=True)
    Store(root).rollback(3)
    config = configured(index__factory="HNSW32", index__compact_dead_fraction=0.9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "RunningTopK", None)
        manifest = sync(root, NIGHTS[2].with_vectors(lambda rows: rows * np.float32(1.01)), "again", config)
    assert manifest.drift is not None
    assert manifest.drift.overlap_at_10 is not None


def test_dead_labels_refer_to_no_row(world: World) -> None:
    """Items that left stay in the graph, but are never found, not even by their own vector; live items all are."""
    assert world.manifest.index.action == "rotated"
    assert world.manifest.index.dead > 50
    gone = np.setdiff1d(np.concatenate([made.item_ids for made in NIGHTS[:3]]), NIGHTS[3].item_ids)
    assert len(gone) >= world.manifest.index.dead
    ids, _ = world.version.search(world.version.items.lookup(gone, "mean"), 240, parameters={"efSearch": 400})
    assert set(ids.ravel().tolist()) == set(NIGHTS[3].item_ids.tolist())
    found, _ = world.version.search(world.version.users.lookup(NIGHTS[3].user_ids), 10)
    exact = _top(
        *(array for array in (_by_id(NIGHTS[3], "users", NIGHTS[3].user_ids), NIGHTS[3].items)), NIGHTS[3].item_ids
    )
    assert world.manifest.index.recall_at_10 == pytest.approx(
        _shared(exact, [set(row.tolist()) for row in found]), abs=0.01
    )


def test_the_live_check_compares_with_the_parents_live_rows(world: World) -> None:
    """Carried rows do not count as missing."""
    checks = {check.name: check for check in world.manifest.checks}
    for side in ("items", "users"):
        counts = getattr(world.parent.record, side)
        assert counts.carried > 0
        assert checks[f"live_{side}"].value == pytest.approx(getattr(world.manifest, side).live / counts.live)
    assert checks["common"].value == world.manifest.alignment.items.common + world.manifest.alignment.users.common


def _off_centre(made: Night, by: float) -> Night:
    """Return a night whose rows have similar directions, as in models with a large common component."""
    return made.with_vectors(lambda rows: rows + np.float32(by))


@pytest.mark.parametrize("by", [2.0, 6.0])
def test_a_cosine_that_mismatched_rows_also_reach_is_refused(root: Path, by: float) -> None:
    """If all rows are similar, wrong ids have a high cosine too, and the margin decides."""
    made = _off_centre(night(1, churn=0.0, turned=False), by)
    sync(root, _off_centre(night(0, churn=0.0, turned=False), by), "n0")
    with pytest.raises(CheckRefusedError) as refused:
        sync(root, made.shuffled_item_ids(), "bad")
    found = {record.name: record for record in refused.value.records}
    assert found["cosine_items"].outcome == "pass"
    assert found["cosine_margin_items"].outcome == "refuse"
    assert found["cosine_margin_items"].value == pytest.approx(0.0, abs=0.02)
    healthy = {record.name: record for record in sync(root, made, "good").checks}
    for side in ("items", "users"):
        fit = getattr(Store(root).manifest(2).alignment, side)
        assert healthy[f"cosine_margin_{side}"].outcome == "pass"
        assert healthy[f"cosine_margin_{side}"].value == pytest.approx(fit.cosine - fit.cosine_mismatched)


# settings that might be ignored unnoticed


def test_the_configured_number_of_anchors_is_kept(root: Path) -> None:
    """``space.anchors.rows`` limits the anchors of each side, which the next nights are aligned to."""
    config = configured(space__anchors__rows=50)
    for number in range(3):
        manifest = sync(root, night(number), f"n{number}", config)
        with embsync.open(root) as reader:
            for side in ("items", "users"):
                ids, vectors = reader.current.reference("anchors", side)
                assert len(ids) == len(vectors) == 50
    for fit in (manifest.alignment.items, manifest.alignment.users):
        assert fit is not None
        assert fit.anchors == 50
        assert 30 < fit.common <= 50


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({"space__anchors__policy": "moving_average", "space__anchors__weight": 0.3}, 0.3),
        ({"space__anchors__policy": "moving_average", "space__anchors__weight": 0.8}, 0.8),
        ({"space__anchors__policy": "previous"}, 1.0),
        ({"space__anchors__policy": "first"}, 0.0),
        ({"space__anchors__slow_weight": 0.2}, 0.2),
        ({"space__anchors__slow_weight": 0.6}, 0.6),
    ],
)
def test_anchors_move_by_the_configured_share(root: Path, options: dict[str, object], share: float) -> None:
    """Anchors of live ids move by the weight of the policy towards the new vector; others stay."""
    config = configured(**options)
    sync(root, night(0), "n0", config)
    record = sync(root, night(1), "n1", config).alignment
    assert record.policy == (config.space.anchors.policy or "two_time_scales")
    if record.policy in {"moving_average", "two_time_scales"}:
        assert record.weight == share
    assert record.parent_share == (0.45 if record.policy == "two_time_scales" else None)
    with embsync.open(root) as reader, reader.version(1) as parent:
        ids, vectors = reader.current.reference("anchors", "items")
        old_ids, old = parent.reference("anchors", "items")
        live = np.isin(ids, night(1).item_ids)
        known = np.isin(ids, old_ids)
        before = old[np.searchsorted(old_ids, ids[known])]
        new = reader.current.items.lookup(ids[known])
        moved = live[known][:, None]
        expected = np.where(moved, (1.0 - share) * before + share * new, before)
        np.testing.assert_allclose(vectors[known], expected, atol=1e-5)
        np.testing.assert_array_equal(vectors[~known], reader.current.items.lookup(ids[~known]))
        assert (~live).any()
        assert (~known).any()


def test_the_reference_is_the_configured_mix_of_previous_and_slow_average(root: Path) -> None:
    """If ``space.anchors.parent_share`` is 1, the slow average has no effect."""
    found = {}
    for share, slow in ((1.0, 0.2), (1.0, 0.9), (0.5, 0.2), (0.5, 0.9), (0.0, 0.2)):
        place = root.parent / f"S{share}-{slow}"
        for made in range(4):
            config = configured(space__anchors__parent_share=share, space__anchors__slow_weight=slow)
            sync(place, night(made), f"n{made}", config)
        with embsync.open(place) as reader:
            found[share, slow] = np.array(reader.current.items.lookup(night(3).item_ids))
    np.testing.assert_allclose(found[1.0, 0.2], found[1.0, 0.9], atol=1e-6)
    for one, other in (((0.5, 0.2), (0.5, 0.9)), ((0.5, 0.2), (1.0, 0.2)), ((0.5, 0.2), (0.0, 0.2))):
        assert np.abs(found[one] - found[other]).max() > 1e-3


@pytest.mark.parametrize(("asked", "sampled"), [(10, 1000), (1000, 1000), (1200, 1200), (5000, 1300)])
def test_the_configured_number_of_users_is_sampled(root: Path, asked: int, sampled: int) -> None:
    """``index.sample_queries`` may exceed the certificate's thousand users, up to the number of users."""
    made = night(0, items=60, users=1300, width=4)
    manifest = sync(root, made, "n0", configured(index__sample_queries=asked, index__factory="IVF16,PQ2x4"))
    assert manifest.preservation.sampled_users == sampled
    neighbours = 10 * min(asked, 1300)
    recall = manifest.index.recall_at_10
    assert recall is not None
    assert recall * neighbours == pytest.approx(round(recall * neighbours), abs=1e-6)


@pytest.mark.parametrize("depth", [1, 10, 40])
def test_recall_is_measured_at_the_configured_depth(root: Path, depth: int) -> None:
    """``index.recall_at`` is the number of exact neighbours and of requested results."""
    config = configured(index__factory="IVF16,PQ2x4", index__recall_at=depth)
    manifest = sync(root, night(0), "n0", config)
    with embsync.open(root) as reader:
        version = reader.current
        users = _live(version, "users")[1]
        found, _ = version.search(users, depth)
        exact = _top(users, *reversed(_live(version, "items")), k=depth)
    expected = _shared(exact, [set(row.tolist()) for row in found])
    assert manifest.index.recall_at_10 == pytest.approx(expected, abs=0.005)
    assert expected < 1.0


@pytest.mark.parametrize("threads", [1, 3])
def test_every_pass_uses_the_configured_threads(root: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """It includes both passes, axes, score error, anchors, the parent's neighbours, widen and verify."""
    asked: list[int] = []
    real = rows.worker_count

    def noted(setting: int) -> int:
        asked.append(setting)
        return real(setting)

    monkeypatch.setattr(rows, "worker_count", noted)
    monkeypatch.setattr(Version, "neighbours", None)  # as in versions of earlier releases
    config = configured(threads=threads)
    counts = []
    for number in range(2):
        before = len(asked)
        sync(root, night(number), f"n{number}", config)
        counts.append(len(asked) - before)
    with embsync.open(root) as reader:
        assert verify(Store(root), reader.current, config).sound
    widen(Store(root), 9, config)
    assert counts[0] == 8
    assert counts[1] >= 9
    assert set(asked) == {threads}


# what was read is what is published


def _touch(path: Path) -> None:
    (path / "items.npy").touch()


def _copy_over(path: Path) -> None:
    fresh = path / ".new"
    fresh.write_bytes((path / "users.npy").read_bytes())
    fresh.rename(path / "users.npy")


CHANGES = {
    "touched": _touch,
    "replaced by the same bytes": _copy_over,
    "a file added": lambda path: (path / "notes.txt").write_text("late"),
    "a file removed": lambda path: (path / "readme").unlink(),
    "a directory added": lambda path: (path / "more").mkdir(),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("when", ["writing", "reading"])
def test_files_that_change_after_they_were_read_are_not_published(root: Path, what: str, when: str) -> None:
    """It holds even if the values are the same, since the journaled snapshot would no longer exist."""
    path = write_npy(root.parent / "n0", night(0))
    (path / "readme").touch()
    changed: list[str] = []

    def change(stage: str, _: float) -> None:
        if stage == when and not changed:
            changed.append(stage)
            CHANGES[what](path)

    with pytest.raises(SnapshotChanged) as raised:
        publish_snapshot(Store(root), Request(path), configured(), change)
    assert raised.value.transient
    assert Store(root).current() is None
    manifest = publish_snapshot(Store(root), Request(path), configured())
    assert manifest.version == 1


# space


@pytest.fixture
def needed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The requested numbers of bytes, in order."""
    asked: list[int] = []
    real = Store.stage

    def stage(self: Store, wanted: int) -> Staging:
        asked.append(wanted)
        return real(self, wanted)

    monkeypatch.setattr(Store, "stage", stage)
    return asked


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (night(0, items=20_000, users=500, width=16), {"index__factory": "Flat"}),
        (night(0, items=500, users=20_000, width=16), {"index__factory": "Flat"}),
        (night(0, items=9_000, users=9_000, width=8), {"index__factory": "HNSW8"}),
        (night(0, items=9_000, users=9_000, width=4).named(), {"index__factory": "Flat"}),
        (night(0, items=9_000, users=9_000, width=4), {"index__factory": "Flat", "space__dimension": 60}),
    ],
    ids=["items", "users", "graph", "long ids", "wide space"],
)
def test_the_estimate_covers_a_version(root: Path, needed: list[int], made: Night, options: dict[str, object]) -> None:
    """The estimate covers a version, whichever of its parts is large, and is at most about three times too high."""
    config = configured(index__target_recall=0.3, **options)
    sizes = [_bytes(sync(root, one, f"n{number}", config)) for number, one in enumerate((made, _half(made)))]
    for size, wanted in zip(sizes, needed, strict=True):
        assert size <= wanted <= 3 * size + 2**22, (size, wanted)


def test_the_estimate_covers_a_wider_version(root: Path, needed: list[int]) -> None:
    """The added zeros take as much space as other values."""
    config = configured(index__factory="Flat")
    sync(root, night(0, items=9_000, users=9_000, width=4), "n0", config)
    size = _bytes(widen(Store(root), 60, config))
    assert size <= needed[-1] <= 3 * size


@pytest.mark.parametrize("options", [{"index__refresh": "rotate"}, {"index__compact_dead_fraction": 0.8}])
def test_the_estimate_covers_dead_labels(root: Path, needed: list[int], options: dict[str, object]) -> None:
    """The estimate covers as many dead labels as the configuration allows in a graph."""
    config = configured(
        index__factory="HNSW16",
        index__target_recall=0.3,
        index__max_search_cost_growth=100.0,
        store__carry_forward_versions=0,
        **options,
    )
    for number in range(4):
        manifest = sync(root, night(number, items=3000, users=60, width=4, churn=0.45), f"n{number}", config)
        assert _bytes(manifest) <= needed[-1]
    assert manifest.index.dead > manifest.items.live


def _half(made: Night) -> Night:
    """Return a night with every other row, so that the remaining rows are carried."""
    assert made.users is not None
    assert made.user_ids is not None
    return replace(
        made, items=made.items[::2], item_ids=made.item_ids[::2], users=made.users[::2], user_ids=made.user_ids[::2]
    )


def _bytes(manifest: Manifest) -> int:
    return sum(entry.bytes for entry in manifest.files)


def test_the_scale_check_names_the_side_that_changed(root: Path) -> None:
    """It is the scale of the raw rows if only one side changed, and below 1 if both did."""
    same, made = night(0, churn=0.0), night(1, churn=0.0)
    assert made.users is not None
    sync(root, same, "n0")
    found = {}
    for factors in ((3.0, 1.0), (3.0, 3.0), (4.0, 0.25)):
        items, users = (
            np.float32(factor) * rows for factor, rows in zip(factors, (made.items, made.users), strict=True)
        )
        manifest = sync(
            root,
            replace(made, items=items, users=users),
            f"times{factors}",
            accepted=("norm_ratio_items", "norm_ratio_users"),
        )
        side = manifest.alignment.items
        found[factors] = side.lone_scale
        Store(root).rollback(1)
    assert found[3.0, 1.0] == pytest.approx(3.0, rel=0.15)
    assert max(found[3.0, 3.0], found[4.0, 0.25]) < 1.0
