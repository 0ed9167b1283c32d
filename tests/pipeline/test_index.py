"""The index from night to night, through the entire pipeline, even if something is damaged."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nights import Night, configured, night, write_npy
from support.quick import quick_directory
from support.stores import assert_at_rest, assert_intact, snapshot_of, sync

import embsync
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline import run as pipeline_run
from embsync.store import Store, layout

#: With fixed anchors, the same snapshot gives the same rows.
GRAPH = configured(index__factory="HNSW16", space__anchors__policy="first")
SIZES = {"items": 400, "users": 200}


@pytest.fixture
def root() -> Iterator[Path]:
    """A path for a store."""
    with quick_directory() as directory:
        yield directory / "S"


def _publish(root: Path, made: Night, name: str) -> dict[str, object]:
    """Publish a night with a graph index; return figures of the manifest's ``index``."""
    path = write_npy(root.parent / name, made)
    manifest = publish_snapshot(Store(root), Request(path), GRAPH)
    return {
        "action": manifest.index.action,
        "reason": manifest.index.reason,
        "dead": manifest.index.dead,
        "recall": manifest.index.recall_at_10,
    }


def _history(root: Path) -> list[dict[str, object]]:
    output = subprocess.run(
        [sys.executable, "-m", "embsync", "history", "--store", str(root), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(output.stdout))


def test_an_index_is_built_rotated_and_reused_and_history_says_why(root: Path) -> None:
    """The first night rebuilds, the next one rotates, and the repeated night reuses once no row moves any more."""
    nights = [night(0, **SIZES), *[night(1, **SIZES)] * 3]
    output = [_publish(root, made, f"n{number}") for number, made in enumerate(nights)]
    assert [one["action"] for one in output] == ["rebuilt", "rotated", "rotated", "reused"]
    assert int(str(output[1]["dead"])) == round(0.05 * SIZES["items"])
    assert all(float(str(one["recall"])) >= GRAPH.index.target_recall for one in output)
    with embsync.open(root) as reader:
        version = reader.current
        assert version.users is not None
        ids, _ = version.search(np.asarray(version.users.lookup(nights[1].user_ids[:50])), 10)
        assert np.isin(ids, nights[1].item_ids).all()
    published = [event for event in _history(root) if event["event"] == "published"]
    assert [(event["action"], event["reason"]) for event in published] == [
        (one["action"], one["reason"]) for one in output
    ]


@pytest.mark.parametrize("file", [layout.INDEX, layout.INDEX_ROWS])
@pytest.mark.parametrize("damage", ["missing", "flipped", "truncated"])
def test_a_damaged_index_is_journaled_and_not_inherited(root: Path, file: str, damage: str) -> None:
    """The next night gets its own index; the journal has what was found and what was expected."""
    _publish(root, night(0, **SIZES), "n0")
    path = Store(root).path(1) / file
    content = bytearray(path.read_bytes())
    path.parent.chmod(0o755)
    path.unlink()
    if damage != "missing":
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flipped" else content[:-9])
    output = _publish(root, night(1, **SIZES), "n1")
    assert output["action"] == "rebuilt"
    assert "the previous index cannot be used" in str(output["reason"])
    *_, last = Store(root).journal.events()
    assert last.event == "published"
    assert last.error is not None
    assert str(last.error["where"]).startswith(str(path.parent))
    if damage == "flipped":
        assert "hash" in str(last.error["what"])
        assert last.error["found"] != last.error["expected"]
    assert assert_intact(root) == 2


def test_exchanged_labels_are_not_reused(root: Path) -> None:
    """An index whose labels were exchanged on disk is rebuilt, and the journal has the reason."""
    made = night(1, **SIZES)
    for number in range(3):
        output = _publish(root, made, f"n{number}")
    assert output["action"] == "reused"
    path = Store(root).path(3) / layout.INDEX_ROWS
    labels = np.load(path)
    labels[[5, 300]] = labels[[300, 5]]
    path.chmod(0o644)
    np.save(path, labels)
    output = _publish(root, made, "n3")
    assert (output["action"], output["reason"]) == ("rebuilt", "the previous index cannot be used: hash mismatch")
    *_, last = Store(root).journal.events()
    assert last.error is not None
    assert last.error["where"] == str(path)


@pytest.mark.parametrize("factory", ["HNSW32,Nonsense", "IVF0,Flat", "IVF4000,Flat", "NSG0"])
def test_a_factory_that_faiss_rejects_is_refused_before_any_work(root: Path, factory: str) -> None:
    """The error has exit code 2 and the factory; no store is created, and an existing store is unchanged."""
    path = write_npy(root.parent / "n0", night(0, **SIZES))
    command = [sys.executable, "-m", "embsync", "sync", str(path), "--store", str(root)]
    environment = {**os.environ, "EMBSYNC_INDEX__FACTORY": factory}
    for _ in range(2):
        before = snapshot_of(root) if root.exists() else None
        failed = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert failed.returncode == 2
        assert factory in failed.stderr
        assert failed.stderr.count("\n") == 1
        assert (snapshot_of(root) if root.exists() else None) == before
        if before is None:
            assert not root.exists()
            sync(root, night(0, **SIZES), "n1")


def test_a_trained_index_is_kept_when_the_catalogue_shrinks_below_its_lists(root: Path) -> None:
    """An index with 240 lists, trained on 300 rows, keeps its lists for 200 rows."""
    config = configured(index__factory="IVF240,Flat")
    for number, rows in enumerate((300, 200)):
        path = write_npy(root.parent / f"n{number}", night(0, items=rows, users=200))
        manifest = publish_snapshot(Store(root), Request(path), config)
    assert (manifest.items.live, manifest.index.action) == (200, "rotated")


def test_the_gate_uses_the_configured_number_of_queries(root: Path) -> None:
    """The recall of n queries is a multiple of 1/10n; the certificate's sample is unchanged."""
    path = write_npy(root.parent / "n0", night(0, **SIZES))
    recalls = []
    for queries in (1, 7, 1000):
        config = configured(index__factory="IVF16,PQ2x4", index__sample_queries=queries)
        manifest = publish_snapshot(Store(root), Request(path), config)
        recalls.append(float(str(manifest.index.recall_at_10)))
        assert manifest.preservation.sampled_users == SIZES["users"]
    for recall, neighbours in zip(recalls, (10, 70, 10 * SIZES["users"]), strict=True):
        assert recall * neighbours == pytest.approx(round(recall * neighbours))
    assert len(set(recalls)) == 3


def test_recall_and_indexing_are_timed_separately(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both stages are separate in the manifest's ``seconds``."""
    real = pipeline_run.refresh

    def slowly(*arguments: Any) -> Any:
        return replace(real(*arguments), seconds={"build": 1.0, "gate": 100.0, "truth": 20.0})

    monkeypatch.setattr(pipeline_run, "refresh", slowly)
    seconds = sync(root, night(0, **SIZES), "n0").seconds
    assert (seconds.recall, seconds.index) == (120.0, 0.0)


def test_out_of_memory_while_indexing_changes_nothing(root: Path) -> None:
    """A graph of 400 MB under a limit of 100 MB fails with exit code 5, and the store is unchanged."""
    sync(root, night(0, items=3000, users=200), "n0")
    before = snapshot_of(root)
    path = write_npy(root.parent / "n1", night(1, items=3000, users=200))
    failed = subprocess.run(
        [sys.executable, __file__, str(root), str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert "out of memory" in failed.stdout, failed.stderr
    assert failed.returncode == 5
    assert snapshot_of(root) == before
    assert_at_rest(root)


def _index_under_a_limit(root: Path, path: Path) -> int:
    from embsync.errors import EmbsyncError

    def limit(stage: str, _: float) -> None:
        if stage == "indexing":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * resource.getpagesize() + 100 * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (most, most))

    try:
        publish_snapshot(Store(root), Request(path), configured(index__factory="HNSW16384"), limit)
    except EmbsyncError as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_index_under_a_limit(Path(sys.argv[1]), Path(sys.argv[2])))
