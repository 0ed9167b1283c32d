"""Snapshots that are not published are reported in the log, in metrics and by ``embsync status``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from daemons import COMMAND, OBEYING, Place, environment, eventually
from support.nights import night, write_npy


def metric(place: Place, sample: str) -> float | None:
    """Return a value of metrics.prom, None if the sample is missing."""
    file = place.store.root / "metrics.prom"
    lines = file.read_text().splitlines() if file.exists() else []
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{sample} ")), None)


def leave(place: Place, name: str, number: int) -> Path:
    """Write a snapshot with this name."""
    folder = write_npy(place.watch / name, night(number))
    (folder / "_SUCCESS").touch()
    return folder


def test_a_newer_snapshot_that_is_passed_over_is_reported(root: Path) -> None:
    """It is reported once in the log, as a metric and by a line of ``status`` with advice, until the next publish."""
    place = Place(root, order="name")
    leave(place, "9f1c2b7e", 1)
    with place.daemon():
        eventually(place.published)
        leave(place, "3a77d0c4", 2)
        eventually(lambda: place.logged("passed_over"))
        eventually(lambda: metric(place, "embsync_passed_over_snapshots") == 1.0)
        output = place.run("status").stdout
        assert "passed    3a77d0c4" in output
        assert output.splitlines()[0].endswith(" Also: newer snapshots were passed over.")
        assert "watch.order: mtime" in output
        place.send(signal.SIGUSR1)
        leave(place, "b0e41f92", 3)
        eventually(lambda: len(place.published()) == 2)
        eventually(lambda: metric(place, "embsync_passed_over_snapshots") == 0.0)
        assert "passed  " not in place.run("status").stdout
    lines = place.logged("passed_over")
    assert [(line["snapshot"], line["level"]) for line in lines] == [("3a77d0c4", "warning")]
    assert "embsync sync " in lines[0]["reason"]


def test_the_command_in_a_reason_publishes_the_snapshot(root: Path) -> None:
    """The command works as printed, from any directory."""
    place = Place(root, order="name")
    leave(place, "b", 1)
    with place.daemon():
        eventually(place.published)
        leave(place, "a", 2)
        reason = eventually(lambda: place.logged("passed_over"))[0]["reason"]
        command = reason.rpartition("to publish it: ")[2]
        output = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, check=False, cwd="/", env=environment()
        )
        assert output.returncode == 0, (command, output.stderr)
    assert place.published() == ["b", "a"]


@pytest.mark.parametrize("order", ["auto", "mtime"])
def test_a_directory_that_is_not_a_snapshot_delays_nothing(root: Path, order: str) -> None:
    """It is never journaled or waited for; the nights beside it are published, and each one is logged once."""
    place = Place(root, order=order, complete="settled", settle_seconds=0.0)
    place.command = OBEYING
    strays = ("logs", "eval_reports", "@eaDir", "mlruns", "checkpoints", "zz", "lost+found")
    for name in strays:
        (place.watch / name).mkdir()
    for name in strays[:4]:
        (place.watch / name / "meta.yaml").write_text("a: 1\n")
        (place.watch / name / "train.log").write_text("epoch 1\n")
    (place.watch / "checkpoints" / "epoch=3.ckpt").write_bytes(b"weights")
    (place.watch / "lost+found").chmod(0)
    (place.watch / "notes.md").write_text("to do\n")
    (place.watch / ".snapshot").mkdir()
    with place.daemon():
        for number in (1, 2):  # in one step, since an empty directory that has settled is not a snapshot either
            write_npy(root / "complete", night(number)).rename(place.watch / f"day={number}")
            place.wait_for(number)
        status = eventually(lambda: (found := place.status())["state"] == "idle" and found)
        assert status["waiting"] == {}
        eventually(lambda: len(place.logged("not_a_snapshot")) > len(strays))
    assert {(event.snapshot or {})["name"] for event in place.events()} == {"day=1", "day=2"}
    assert sorted(line["snapshot"] for line in place.logged("not_a_snapshot")) == sorted((*strays, "notes.md"))


@pytest.mark.parametrize("closed", [".", "items.npy"])
def test_an_unreadable_snapshot_is_reported(place: Place, closed: str) -> None:
    """It has its own state, one log line, a metric and a line in ``status``; a single unreadable file suffices."""
    place.command = OBEYING
    place.configure(watch={"settle_seconds": 0.5})  # a file whose mode changed is newer than the marker
    folder = place.drop(1) / closed
    folder.chmod(0)
    with place.daemon():
        eventually(lambda: metric(place, 'embsync_watched_snapshots{state="not_permitted"}') == 1.0)
        assert len(eventually(lambda: place.logged("not_permitted"))) == 1
        place.command = COMMAND
        if os.geteuid() == 0:
            output = place.run("status").stdout
            assert "the daemon reports not permitted" in output, output
        folder.chmod(0o755)
        place.wait_for(1)
        eventually(lambda: metric(place, 'embsync_watched_snapshots{state="not_permitted"}') == 0.0)
    assert len(place.logged("not_permitted")) == 1


@pytest.mark.parametrize("how", ["missing", "closed"])
def test_an_unreadable_root_is_reported_at_the_start(place: Place, how: str) -> None:
    """The log has one line for it, and another once the directory is readable."""
    place.command = OBEYING
    if how == "missing":
        place.remove_root()
    else:
        place.watch.chmod(0)
    with place.daemon():
        (line,) = eventually(lambda: place.logged("watch"))
        assert (line["health"], line["level"]) == ("missing", "warning")
        if how == "missing":
            place.watch.mkdir()
        else:
            place.watch.chmod(0o755)
        place.drop(1)
        place.wait_for(1)
        eventually(lambda: len(place.logged("watch")) >= 2)  # the version may be published first
    assert [line["health"] for line in place.logged("watch")] == ["missing", "events"]


def test_the_order_is_logged_at_the_start(place: Place) -> None:
    """It is logged again when more of it is decided."""
    with place.daemon():
        assert eventually(lambda: place.logged("order"))[0]["reason"].startswith("by time; by date")
        for number in (1, 2, 3):
            place.drop(number)
            place.wait_for(number)
        eventually(lambda: len(place.logged("order")) == 2)
        assert "day=#" in eventually(lambda: "day=#" in place.status()["order"] and place.status()["order"])
    with place.daemon():
        eventually(lambda: len(place.logged("order")) == 3)
    assert "day=#" in place.logged("order")[-1]["reason"]


@pytest.mark.parametrize("how", ["published", "deleted"])
def test_a_resolved_error_disappears_from_the_status(place: Place, how: str) -> None:
    """A later publish or the deletion of the bad snapshot removes the error."""
    with place.daemon():
        place.drop(1)
        place.wait_for(1)
        bad = place.drop(2, marker=False)
        (bad / "items.npy").write_bytes(b"no array")
        (bad / "_SUCCESS").touch()
        eventually(lambda: place.status()["last_error"])
        if how == "published":
            place.drop(3)
        else:
            shutil.rmtree(bad)
        eventually(lambda: place.status()["last_error"] is None)
        assert "error     " not in place.run("status").stdout


def test_a_refusal_is_over_once_a_later_snapshot_is_published(place: Place) -> None:
    """It stays in status.json, marked as over; ``status`` shows it only until then."""
    with place.daemon():
        place.drop(1)
        place.wait_for(1)
        place.drop(2, night(2).shuffled_item_ids())
        eventually(lambda: (place.status()["last_refusal"] or {}).get("snapshot") == "day=2")
        assert place.status()["last_refusal"]["over"] is None
        assert "refused   day=2" in place.run("status").stdout
        place.drop(3)
        place.wait_for(3)
        eventually(lambda: place.status()["last_refusal"]["over"])
        assert "refused   day=2" not in place.run("status").stdout


def test_thousands_of_old_snapshots_do_not_flood_the_log(place: Place) -> None:
    """With ``watch.backlog: newest``, 20 of the skipped snapshots are logged, and one line counts the others."""
    for number in range(1, 31):
        (place.watch / f"day={number}").mkdir()
        (place.watch / f"day={number}" / "items.npy").write_bytes(b"not read")
        (place.watch / f"day={number}" / "_SUCCESS").touch()
    place.drop(31)
    place.configure(watch={"backlog": "newest"})
    with place.daemon():
        place.wait_for(31)
        eventually(lambda: len(place.logged("skipped")) >= 21)
    assert [line["count"] for line in place.logged("skipped") if "count" in line] == [10]


@pytest.mark.parametrize("how", ["its files", "the version"])
def test_versions_that_cannot_be_pruned_do_not_block_publishing(place: Place, how: str) -> None:
    """Every night is published; the version that cannot be removed is logged once and counted."""
    place.command = OBEYING
    place.configure(store={"keep_versions": 2})
    with place.daemon():
        for number in (1, 2):
            place.drop(number)
            place.wait_for(number)
        place.wait_state("idle")
        version = place.store.path(1)
        closed = version / "items" if how == "its files" else version
        closed.chmod(0o555 if how == "its files" else 0)
        for number in (3, 4):
            place.drop(number)
            place.wait_for(number)
        eventually(lambda: metric(place, "embsync_unpruned_versions") == 1.0)
        eventually(lambda: place.logged("not_pruned"))
        assert place.status()["last_error"] is None
    assert len(place.logged("not_pruned")) == 1
    assert place.published() == ["day=1", "day=2", "day=3", "day=4"]
    for folder in place.store.versions.iterdir():
        folder.chmod(0o755)
        (folder / "items").chmod(0o755)
    assert place.run("prune").returncode == 0
    assert sorted(path.name for path in place.store.versions.iterdir()) == ["000003", "000004"]
