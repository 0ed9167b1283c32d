"""The entire demo: real snapshots, a real store, and their figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

import embsync
from embsync.demo import measure
from embsync.demo.measure import Embeddings
from embsync.demo.story import Story, run
from embsync.demo.taste import World
from embsync.errors import UsageError


def raw(played: Story, night: int) -> Embeddings:
    """Return a night's raw vectors."""
    return measure.of_snapshot(played.snapshots / f"day={night}")


def test_a_classifier_works_on_stable_and_fails_on_raw_vectors(played: Story) -> None:
    """On every later night, AUC is near chance on raw vectors, within 0.05 of a retrained one on stable vectors."""
    later = played.nights[1:]
    assert all(abs(night.auc_raw - 0.5) < 0.15 for night in later)
    assert abs(float(np.mean([night.auc_raw for night in later])) - 0.5) < 0.1
    assert all(abs(night.auc_stable - night.auc_retrained) < 0.05 for night in later)
    assert all(night.auc_retrained > 0.8 for night in later)


def test_all_vectors_work_equally_before_the_first_retraining(played: Story) -> None:
    """On night 1 the classifier works as well on raw as on stable vectors: the space costs nothing."""
    first = played.nights[0]
    assert first.auc_raw == pytest.approx(first.auc_stable, abs=0.01)
    assert first.item_cosine is None
    assert first.item_cosine_raw is None


def test_a_stale_query_finds_more_with_stable_vectors(played: Story) -> None:
    """With raw vectors it finds little; with stable ones most of the fresh top 10, and more of later likes."""
    assert [stale.night for stale in played.stale] == [5, 1]
    for stale in played.stale:
        assert stale.users > 100
        assert stale.overlap_raw < 0.2
        assert stale.overlap_stable > 0.5
        assert stale.recall_stable > stale.recall_popular
        assert stale.recall_stable > 2 * stale.recall_raw
        assert stale.recall_stable > 0.7 * stale.recall_fresh


def test_items_stay_in_place_between_nights(played: Story) -> None:
    """Raw cosines are near zero and stable ones high; both agree with the manifests."""
    with embsync.open(played.store) as store:
        for night in played.nights[1:]:
            assert night.item_cosine_raw is not None
            assert night.item_cosine is not None
            assert abs(night.item_cosine_raw) < 0.2
            assert night.item_cosine > 0.75
            with store.version(night.version) as version:
                drift = version.manifest["drift"]["items"]
            assert night.item_cosine_raw == pytest.approx(drift["cosine_raw"], abs=1e-4)
            assert night.item_cosine == pytest.approx(drift["cosine"], abs=1e-4)


def test_every_version_is_published_without_a_warning_and_certified(played: Story) -> None:
    """Every check passes, and the score error is at the level of rounding."""
    with embsync.open(played.store) as store:
        assert [night.version for night in played.nights] == [1, 2, 3, 4, 5, 6]
        for night in played.nights:
            with store.version(night.version) as version:
                checks = version.manifest["checks"]
            assert [check["name"] for check in checks if check["outcome"] != "pass"] == []
            assert night.score_error < 1e-6
            assert night.map_error < 1e-11
            assert night.top_k_agreement == 1.0


def test_snapshots_are_complete_and_have_different_axes(played: Story) -> None:
    """Raw items of two nights are nearly orthogonal, and close to each other after a rotation."""
    for night in played.nights:
        files = {path.name for path in (played.snapshots / f"day={night.night}").iterdir()}
        assert files == {"items.npy", "item_ids.npy", "users.npy", "user_ids.npy", "item_labels.csv", "_SUCCESS"}
    one, two = raw(played, 1), raw(played, 2)
    _, a, b = np.intersect1d(one.item_ids, two.item_ids, return_indices=True)
    turned = one.items[a] @ orthogonal_procrustes(one.items[a], two.items[b])[0]
    distance = np.linalg.norm(two.items[b])
    assert np.linalg.norm(one.items[a] - two.items[b]) > 1.2 * distance
    assert np.linalg.norm(turned - two.items[b]) < 0.7 * distance


def test_users_and_items_come_and_go_every_night(played: Story) -> None:
    """Each night has ids that the previous one lacks, and vice versa, on both sides."""
    for night in played.nights[1:]:
        before, now = raw(played, night.night - 1), raw(played, night.night)
        assert len(np.setdiff1d(now.item_ids, before.item_ids)) == night.new_items > 0
        assert len(np.setdiff1d(now.user_ids, before.user_ids)) == night.new_users > 0
        assert len(np.setdiff1d(before.item_ids, now.item_ids)) > 0
        assert len(np.setdiff1d(before.user_ids, now.user_ids)) > 0


def test_the_example_equals_the_answers_of_the_store(played: Story) -> None:
    """The user shown is absent from the last snapshot, and the list shown is the result of a search by its id."""
    shown = played.example
    assert shown.user not in raw(played, 6).user_ids
    assert shown.user in raw(played, shown.night).user_ids
    with embsync.open(played.store) as store:
        users = store.current.users
        assert users is not None
        assert users.age([shown.user]).tolist() == [1]
        found, _ = store.current.search(users.lookup([shown.user]), 5)
    assert [hit.id for hit in shown.stable] == found[0].tolist()
    titles = (played.directory / "items.csv").read_text().splitlines()
    assert f"{shown.stable[0].id},{shown.stable[0].title},{shown.stable[0].genre}" in titles


def test_the_same_seed_gives_the_same_figures(tmp_path: Path, small: World) -> None:
    """All figures except times are equal; another seed gives other figures."""
    stories = [run(tmp_path / str(number), 3, seed=seed, world=small) for number, seed in enumerate((3, 3, 4))]
    one, again, other = (dataclasses.asdict(story)["nights"] for story in stories)
    assert one == again
    assert stories[0].stale == stories[1].stale
    assert stories[0].example == stories[1].example
    assert one != other


def test_two_nights_are_the_minimum(tmp_path: Path, small: World) -> None:
    """Two nights give one group of stale users; with one night there is nothing to compare."""
    played = run(tmp_path / "two", 2, world=small)
    assert [stale.night for stale in played.stale] == [1]
    with pytest.raises(UsageError, match="too few nights"):
        run(tmp_path / "one", 1)
    assert not (tmp_path / "one").exists()


def test_progress_never_goes_back(tmp_path: Path, small: World) -> None:
    """The completed share rises from 0 to 1."""
    heard: list[tuple[str, float]] = []
    run(tmp_path, 2, lambda stage, share: heard.append((stage, share)), world=small)
    shares = [share for _, share in heard]
    assert [stage for stage, _ in heard] == ["night 1", "night 2", "measuring", "done"]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_the_environment_does_not_change_the_demo(
    tmp_path: Path, small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that configure a store are ignored by the demo."""
    monkeypatch.setenv("EMBSYNC_SPACE__ANCHORS__POLICY", "first")
    run(tmp_path, 2, world=small)
    with embsync.open(tmp_path / "store") as store:
        assert store.current.manifest["alignment"]["policy"] == "two_time_scales"
