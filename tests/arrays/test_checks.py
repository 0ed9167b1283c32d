"""``embsync.stabilize`` with anchors refuses what the pipeline refuses, with the same messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.documents import Document
from support.nights import Night, night, rotation

import embsync
from embsync.arrays.anchors import Anchors
from embsync.errors import RefusedError, SnapshotError

FIRST, SECOND = (night(number, items=400, users=300, churn=0.0) for number in range(2))


def run(made: Night, anchors: Anchors | None = None, **options: Any) -> Any:
    """Stabilize a night with its ids."""
    return embsync.stabilize(
        made.items, made.users, **{"item_ids": made.item_ids, "user_ids": made.user_ids, **options}, anchors=anchors
    )


ANCHORS = run(FIRST).anchors


def test_a_healthy_night_passes_and_lists_its_checks() -> None:
    """The result lists every figure of the fit to the anchors with its limits; a new space has none."""
    found = run(SECOND, ANCHORS)
    outcomes = {record.name: record.outcome for record in found.checks}
    assert set(outcomes.values()) == {"pass"}
    assert {"common", "score_error", "cosine_items", "cosine_margin_users", "rotation_disagreement"} <= set(outcomes)
    assert run(FIRST).checks == ()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            {"item_ids": SECOND.item_ids + 10**6, "user_ids": SECOND.user_ids + 10**6},
            r"almost no ids are known.*common 0",
        ),
        (
            {"item_ids": np.r_[SECOND.item_ids[:9], np.arange(391) + 10**6], "user_ids": SECOND.user_ids + 10**6},
            r"almost no ids are known.*common 9 \(limit at least 16\)",
        ),
        ({"item_ids": np.roll(SECOND.item_ids, 7)}, "the item ids are shuffled or shifted"),
        (
            {"item_ids": np.roll(SECOND.item_ids, 7), "user_ids": np.roll(SECOND.user_ids, 7)},
            "this is another model, or every id has another id's vector",
        ),
    ],
)
def test_too_few_shared_ids_and_random_vectors_are_refused(wrong: dict[str, Any], says: str) -> None:
    """The message is one line with the most likely cause, the figures, and how to get the result anyway."""
    with pytest.raises(RefusedError, match=says) as caught:
        run(SECOND, ANCHORS, **wrong)
    assert "\n" not in str(caught.value)
    assert "hint: " in str(caught.value)
    assert "pass check=False to get the result anyway, or no anchors to begin a new space" in str(caught.value)
    assert "embsync accept" not in str(caught.value)
    looked = run(SECOND, ANCHORS, **wrong, check=False)
    assert "refuse" in {record.outcome for record in looked.checks}
    assert len(looked.items) == 400


def test_sides_of_two_runs_are_refused() -> None:
    """Items and users with different rotations are refused, since no common rotation fits."""
    turned = {"users": SECOND.users @ rotation(8, 3).astype(np.float32)}
    with pytest.raises(RefusedError, match="two training runs"):
        embsync.stabilize(SECOND.items, **turned, item_ids=SECOND.item_ids, user_ids=SECOND.user_ids, anchors=ANCHORS)


def test_a_single_side_is_checked_too() -> None:
    """Without users there is no disagreement, but shuffled items are refused."""
    alone = embsync.stabilize(FIRST.items, item_ids=FIRST.item_ids).anchors
    assert "pass" in {
        record.outcome for record in embsync.stabilize(SECOND.items, item_ids=SECOND.item_ids, anchors=alone).checks
    }
    with pytest.raises(RefusedError, match="no items resemble earlier versions"):
        embsync.stabilize(SECOND.items, item_ids=np.roll(SECOND.item_ids, 7), anchors=alone)


@pytest.mark.parametrize("missing", ["item_ids", "user_ids"])
def test_anchors_require_ids(missing: str) -> None:
    """Row numbers are never used as ids for anchors, since they mean other items on another night."""
    with pytest.raises(SnapshotError, match=rf"vectors without ids; expected {missing} .*hint: {missing}=range\(len"):
        run(SECOND, ANCHORS, **{missing: None}, check=False)


def test_the_documented_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example prints what its comments show."""
    monkeypatch.chdir(tmp_path)
    Document("docs/api.md").run_python()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("<Stabilized: 500 items, 400 users, 16 dimensions, score error ")
    assert second.startswith("most likely this is another model, or every id has another id's vector: ")
