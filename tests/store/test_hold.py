"""``hold`` is checked at the moment of publishing, however long before that the work began."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.nights import configured, night, write_npy
from support.quick import quick_directory
from support.stores import assert_intact, sync

from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store
from embsync.store.hold import HeldError, HoldableStore, hold, resume

SIZES = {"items": 60, "users": 50, "width": 4}


@pytest.mark.parametrize("stage", ["reading", "writing", "indexing", "publishing"])
@pytest.mark.parametrize("how", ["the command", "a file that says nothing"])
def test_a_hold_during_a_run_prevents_the_publish(stage: str, how: str) -> None:
    """It holds at each stage; after ``resume``, the same snapshot is published."""
    with quick_directory() as directory:
        root = directory / "S"
        sync(root, night(0, **SIZES), "n0")
        path = write_npy(directory / "n1", night(1, **SIZES))

        def meanwhile(at: str, _: float) -> None:
            if at == stage:
                if how == "the command":
                    hold(Store(root), "wait")
                else:
                    (Path(root) / "hold").touch()

        with pytest.raises(HeldError) as held:
            publish_snapshot(HoldableStore(root), Request(path), configured(), meanwhile)
        assert held.value.transient
        assert assert_intact(root) == 1
        assert [event.event for event in Store(root).journal.events() if event.event != "held"] == ["published"]
        assert resume(Store(root))
        assert publish_snapshot(HoldableStore(root), Request(path), configured()).version == 2
