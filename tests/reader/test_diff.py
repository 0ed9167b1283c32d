"""Differences between two versions, in Python and from the shell, compared with figures computed from the files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from support.nights import Night, configured, night
from support.quick import quick_directory
from support.stores import sync

import embsync
from embsync.cli.main import run
from embsync.errors import NotFoundError, UsageError
from embsync.pipeline.widen import widen
from embsync.reader import StoreReader
from embsync.store import Store

SIZES = {"items": 120, "users": 80, "width": 6}


def _turned(nights: list[Night]) -> int:
    """Return the row, in the last night, of the first item that exists on all nights."""
    common = np.intersect1d(nights[0].item_ids, nights[2].item_ids)
    return int(np.flatnonzero(nights[2].item_ids == common[0])[0])


@pytest.fixture(scope="module", params=["integer", "string"])
def nights(request: pytest.FixtureRequest) -> list[Night]:
    """Three retrainings; in the last one, one known item has the opposite direction and twice the length."""
    made = [night(number, **SIZES) for number in range(3)]
    made[2].items[_turned(made)] *= -2.0
    return made if request.param == "integer" else [one.named() for one in made]


@pytest.fixture(scope="module")
def reader(nights: list[Night]) -> Iterator[StoreReader]:
    with quick_directory() as directory:
        for number, made in enumerate(nights):
            sync(directory / "S", made, f"n{number}")
        with embsync.open(directory / "S") as opened:
            yield opened


def test_a_diff_compares_ids_rows_neighbours_and_scores(reader: StoreReader, nights: list[Night]) -> None:
    """Counts and names of ids, cosines of common ids and the ten nearest items equal those computed from the files."""
    with reader.version(1) as before, reader.version(3) as after:
        found = after.diff(before, limit=4)
        assert (found.before, found.after, found.same_space) == (1, 3, True)
        for name, side in (("items", found.items), ("users", found.users)):
            assert side is not None
            old, new = (made.arrays()[f"{name[:-1]}_ids"] for made in (nights[0], nights[2]))
            order = np.char.encode if new.dtype.kind == "U" else np.asarray
            assert (side.live_before, side.live_after) == (len(old), len(new))
            joined, gone = np.setdiff1d(new, old), np.setdiff1d(old, new)
            assert (side.new, side.gone, side.common) == (len(joined), len(gone), len(np.intersect1d(old, new)))
            assert side.new_ids == joined[np.argsort(order(joined))][:4].tolist()
            assert side.gone_ids == gone[np.argsort(order(gone))][:4].tolist()
            both = np.intersect1d(old, new)
            first, second = before.side(name).lookup(both), after.side(name).lookup(both)
            lengths = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
            cosines = np.einsum("ij,ij->i", first, second) / (lengths[0] * lengths[1])
            assert side.cosine == pytest.approx(cosines.mean(), abs=1e-6)
            assert side.cosine_p05 == pytest.approx(np.percentile(cosines, 5), abs=1e-6)
            order = np.argsort(cosines)[:4]
            assert [row.id for row in side.moved_most] == both[order].tolist()
            np.testing.assert_allclose([row.cosine for row in side.moved_most], cosines[order], atol=1e-6)
            ratios = [row.norm_ratio for row in side.moved_most]
            np.testing.assert_allclose(ratios, (lengths[1] / lengths[0])[order], rtol=1e-5)
        assert found.items.moved_most[0].id == nights[2].item_ids[_turned(nights)]
        assert found.items.moved_most[0].cosine < -0.5


def test_neighbours_are_compared_for_users_in_both(reader: StoreReader, nights: list[Night]) -> None:
    """The diff has the share of the first ten that is found again, and by how much their scores changed."""
    with reader.version(2) as before, reader.version(3) as after:
        found = after.diff(before).neighbours
        users = np.intersect1d(nights[1].user_ids, nights[2].user_ids)
        assert (found.side, found.sampled) == ("users", len(users))
        first, _ = before.search_by_user(users)
        second, _ = after.search_by_user(users)
        shared = [len(np.intersect1d(*pair)) / 10 for pair in zip(first, second, strict=True)]
        assert found.overlap_at_10 == pytest.approx(np.mean(shared))
        changes, sizes = [], []
        for user, items in zip(users, first, strict=True):
            kept = np.intersect1d(items, nights[2].item_ids)
            now = after.items.lookup(kept) @ after.side("users").lookup([user])[0]
            then = before.items.lookup(kept) @ before.side("users").lookup([user])[0]
            changes.append(np.abs(now - then))
            sizes.append(np.abs(then))
        expected = np.concatenate(changes).mean() / np.concatenate(sizes).mean()
        assert found.score_change == pytest.approx(expected, rel=1e-5)


def test_a_version_equals_itself(reader: StoreReader) -> None:
    version = reader.current
    found = version.diff(version)
    assert (found.items.new, found.items.gone, found.items.new_ids, found.items.gone_ids) == (0, 0, [], [])
    assert found.items.cosine == pytest.approx(1.0)
    assert (found.neighbours.overlap_at_10, found.neighbours.score_change) == (1.0, 0.0)
    assert version.diff(version, limit=0).items.moved_most == []
    with pytest.raises(UsageError, match="not a number of ids; found -1"):
        version.diff(version, limit=-1)


def test_an_item_that_was_only_carried_is_new_when_it_returns(tmp_path: Path) -> None:
    """It did not move either: its previous vector is older than the version compared."""
    whole = night(0, **SIZES)
    away = whole.item_ids[:3]
    for name, made in (("n0", whole), ("n1", whole.without_items(away)), ("n2", whole)):
        sync(tmp_path / "S", made, name)
    with embsync.open(tmp_path / "S") as reader, reader.version(2) as before:
        assert before.items.rows(away).min() >= 0
        items = reader.current.diff(before).items
    assert (items.new, items.new_ids, items.gone) == (3, sorted(away.tolist()), 0)
    assert items.common == len(whole.item_ids) - 3


def test_versions_of_other_spaces_sides_and_widths_are_compared(tmp_path: Path) -> None:
    """Other spaces have no cosines; with one side, items are the queries; new axes change no cosine."""
    root = tmp_path / "S"
    sync(root, night(0, **SIZES).one_sided(), "n0")
    widen(Store(root), 9, configured())
    sync(root, night(1, **SIZES).one_sided(), "n1")
    sync(root, night(2, **SIZES).one_sided(), "n2", new_space=True)
    with (
        embsync.open(root) as reader,
        reader.version(1) as first,
        reader.version(2) as wide,
        reader.version(3) as next_,
    ):
        alike = wide.diff(first)
        assert alike.items.cosine == pytest.approx(1.0)
        assert alike.users is None
        assert (alike.neighbours.side, alike.neighbours.overlap_at_10) == ("items", 1.0)
        assert 0.5 < (next_.diff(first).items.cosine or 0.0) < 1.0
        other = reader.current.diff(next_)
        assert not other.same_space
        assert (other.items.cosine, other.items.moved_most) == (None, [])
        assert 0.3 < (other.neighbours.overlap_at_10 or 0.0) < 1.0
        assert other.items.new > 0


def test_movement_follows_ids_through_the_kept_versions(reader: StoreReader, nights: list[Night]) -> None:
    """Each kept version gives cosine to the current vector, length and age; NaN and -1 before the id existed."""
    version = reader.current
    old = np.setdiff1d(np.intersect1d(nights[0].item_ids, nights[1].item_ids), nights[2].item_ids)[0]
    new = np.setdiff1d(nights[2].item_ids, nights[1].item_ids)[0]
    found = version.movement([old, new])
    assert found.versions.tolist() == [1, 2, 3]
    assert found.ages.tolist() == [[0, 0, 1], [-1, -1, 0]]
    assert np.isnan(found.cosines[1, :2]).all()
    assert found.cosines[:, 2] == pytest.approx([1.0, 1.0])
    with reader.version(1) as first:
        then, now = first.items.lookup([old])[0], version.items.lookup([old])[0]
    assert found.norms[0, 0] == pytest.approx(np.linalg.norm(then))
    assert found.cosines[0, 0] == pytest.approx(then @ now / np.linalg.norm(then) / np.linalg.norm(now), abs=1e-6)
    users = version.movement(nights[2].user_ids[:1], "users")
    assert users.ages[0, -1] == 0
    unknown = "never" if nights[0].item_ids.dtype.kind == "U" else -1
    assert (version.movement([unknown], missing="nan").ages == -1).all()
    with pytest.raises(NotFoundError, match="unknown items ids"):
        version.movement([unknown])


def test_a_damaged_version_is_left_out_of_a_movement_and_named(tmp_path: Path) -> None:
    for number in range(3):
        sync(tmp_path / "S", night(number, **SIZES), f"n{number}")
    (tmp_path / "S/versions/000002/items/vectors.npy").write_bytes(b"")
    with embsync.open(tmp_path / "S") as reader:
        found = reader.current.movement(reader.current.items.ids[:1])
    assert (found.versions.tolist(), found.unreadable) == ([1, 3], (2,))


def test_the_command_prints_the_same_diff(reader: StoreReader, capsys: pytest.CaptureFixture[str]) -> None:
    """The default is the current version and its parent; any two can be given by number; the text output is a table."""
    root = str(reader.root)
    with reader.version(2) as parent:
        expected = msgspec.to_builtins(reader.current.diff(parent, limit=5))
    assert run(["diff", "--store", root, "-n", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert run(["diff", "1", "2", "--store", root]) == 0
    shown = capsys.readouterr().out
    assert "version 1 of 20" in shown
    assert "items moved most" in shown
    assert "users moved most" in shown
    assert run(["diff", "2", "9", "--store", root]) == NotFoundError.exit_code
    assert "no version 9" in capsys.readouterr().err
    assert run(["diff", "1", "2", "--store", f"{root}/none"]) == NotFoundError.exit_code
    assert "no store here" in capsys.readouterr().err


def test_the_first_version_of_a_space_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sync(tmp_path / "S", night(0, **SIZES), "n0")
    assert run(["diff", "--store", str(tmp_path / "S")]) == 2
    assert "version 1, the first of its space" in capsys.readouterr().err
