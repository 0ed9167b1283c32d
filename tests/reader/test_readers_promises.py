"""What docs/consumers.md says of filters, spaces and followers, each with a test that fails without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.nights import configured, night
from support.quick import quick_directory
from support.stores import sync
from support.waiting import eventually

import embsync
from embsync.errors import UsageError
from embsync.reader import Version, follower, open_version, pin, search
from embsync.store import layout

SIZES = {"items": 300, "users": 80, "width": 6}


@pytest.fixture
def root() -> Iterator[Path]:
    """A store with a graph and one version."""
    with quick_directory() as directory:
        sync(directory / "S", night(0, **SIZES), "n0", configured(index__factory="HNSW16"))
        yield directory / "S"


def test_what_a_graph_misses_is_filled(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of little effort among few allowed items gives up; each place is filled, exactly."""
    with embsync.open(root) as reader:
        version = reader.current
        assert version.users is not None
        queries = np.asarray(version.users.vectors[:40])
        chosen = np.flatnonzero(version.items.live)[::20]
        ids = version.items.names(chosen)
        exact, their_scores = version.search(queries, len(ids), allowed=ids)
        mask = np.zeros(len(version.items.ids), np.bool_)
        mask[chosen] = True
        given_up, _ = version.searcher.search(queries, len(ids), {"efSearch": 1}, mask)
        assert (given_up < 0).any()
        monkeypatch.setattr(search, "_SCANNED", 0)
        monkeypatch.setattr(search, "_HELD", 4)  # and put together from parts
        found, scores = version.search(queries, len(ids), allowed=ids, parameters={"efSearch": 1})
        assert found.tolist() == exact.tolist()
        np.testing.assert_allclose(scores, their_scores, rtol=1e-6)


def test_k_is_cut_where_allowed_items_go_through_the_index(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above what is scanned, too: no more places than items that may be found."""
    monkeypatch.setattr(search, "_SCANNED", 5)
    with embsync.open(root) as reader:
        live = reader.current.items.names(np.flatnonzero(reader.current.items.live))
        ids, scores = reader.current.search(np.ones((2, 6), np.float32), 1000, allowed=live[:50])
        assert ids.shape == scores.shape == (2, 50)
        assert set(ids[0].tolist()) == set(live[:50].tolist())


def test_raw_queries_of_another_space_are_refused(root: Path) -> None:
    """A snapshot that was never aligned to this space says nothing here."""
    sync(root, night(5, **SIZES, seed=9), "other", new_space=True)
    with open_version(root, 1) as old, open_version(root, 2) as new:
        assert old.space_id != new.space_id
        for version, source in ((new, old), (old, new)):
            with pytest.raises(UsageError, match="raw vectors of another space"):
                version.search(np.ones((1, 6)), space="snapshot", snapshot=source)


def test_on_error_is_told_once_while_the_store_is_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty looks, one error; and one more when it has gone a second time."""
    looks, errors = [0], list[Exception]()
    current_number = layout.current_number

    def counted(path: Path) -> int | None:
        looks[0] += 1
        return current_number(path)

    with embsync.open(root) as reader:
        monkeypatch.setattr(layout, "current_number", counted)
        reader.follow(on_error=errors.append, interval=0.01)
        for times in (1, 2):
            root.rename(root.with_name("away"))
            eventually(lambda times=times: len(errors) >= times)
            eventually(lambda end=looks[0] + 20: looks[0] > end)
            assert len(errors) == times
            root.with_name("away").rename(root)
            eventually(lambda: reader.follower is not None and reader.follower.health.healthy)


def test_what_was_refused_is_hashed_again_after_a_while(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at every look, but when the time is over: then a file that was mended in place is found whole."""
    hashed, verify = [0], follower.verify
    looks, current_number = [0], layout.current_number

    def looked(path: Path) -> int | None:
        looks[0] += 1
        return current_number(path)

    def counted(*arguments: object) -> None:
        hashed[0] += 1
        verify(*arguments)

    monkeypatch.setattr(layout, "current_number", looked)
    monkeypatch.setattr(follower, "_TRY_AGAIN", 3600.0)
    with embsync.open(root) as reader:
        sync(root, night(1, **SIZES), "n1", configured(index__factory="HNSW16"))
        file = root / "versions/000002/items/vectors.npy"
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        errors: list[Exception] = []
        followed = follower.Follower(
            root,
            lambda version: setattr(reader, "current", version),
            serving=reader.current,
            on_error=errors.append,
            interval=0.01,
            verify=counted,
        )
        followed.start()
        eventually(lambda: errors)
        eventually(lambda end=looks[0] + 20: looks[0] > end)
        assert hashed == [1]
        followed.stop()
        monkeypatch.setattr(follower, "_TRY_AGAIN", 0.05)
        followed = follower.Follower(
            root,
            lambda version: setattr(reader, "current", version),
            serving=reader.current,
            on_error=errors.append,
            interval=0.01,
            verify=counted,
        )
        followed.start()
        eventually(lambda: hashed[0] >= 4)
        file.write_bytes(whole)
        eventually(lambda: reader.current.number == 2)
        followed.stop()


def test_a_version_pruned_before_it_was_pinned_is_no_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link was read, the version went: the link is read again. One asked for by number is not there."""
    missed = [0]

    class Late(Version):
        def __init__(self, path: Path, **options: bool) -> None:
            if missed[0] < 3:
                missed[0] += 1
                raise FileNotFoundError(path)
            super().__init__(path, **options)

    monkeypatch.setattr(pin, "Version", Late)
    with open_version(root) as version:
        assert version.number == 1
    assert missed == [3]
