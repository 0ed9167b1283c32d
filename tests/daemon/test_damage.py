"""The daemon on a damaged store keeps running, reports the damage, and publishes the night after the repair."""

from __future__ import annotations

import pytest
from daemons import Place, eventually
from support.damage import flip
from support.hints import printed_command, run_as_printed
from support.stores import assert_intact

from embsync.daemon.attempts import ATTEMPT
from embsync.pipeline.on_publish import HOOK_RECORD
from embsync.store import layout


def metric(place: Place, name: str) -> float:
    """Return a value of metrics.prom."""
    lines = (place.store.root / "metrics.prom").read_text().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_a_snapshot_waits_until_the_damage_is_repaired(place: Place) -> None:
    """Log, status and metrics report it; the snapshot is not blamed, and is published once the store is repaired."""
    with place.daemon():
        for number in (1, 2):
            place.drop(number)
            place.wait_for(number)
        path = place.store.root / "versions/000002/anchors/users.npy"
        flip(path, -2, 6)
        place.drop(3)
        waiting = place.wait_state("retrying")
        assert waiting["retry"]["snapshot"] == "day=3"
        assert str(path) in waiting["damage"][0]
        assert f"embsync rollback 1 --config {place.file}" in waiting["last_error"]["what"]
        assert str(path) in eventually(lambda: place.logged("error"))[0]["reason"]
        assert eventually(lambda: metric(place, "embsync_store_damaged")) == 1.0
        assert str(path) in place.run("status").stdout
        assert place.events("refused", "failed") == []
        assert place.run("rollback", "1").returncode == 0
        place.wait_for(3)
        assert place.wait_state("idle")["damage"] == []
        assert eventually(lambda: metric(place, "embsync_store_damaged") == 0.0)
    assert assert_intact(place.store.root) == 3
    assert place.store.manifest(3).parent == 1


def test_repairing_a_file_by_hand_ends_the_pause(place: Place) -> None:
    """The command in the error copies it from another version, and publishing continues at once."""
    place.configure(watch={"rescan_seconds": 300.0})  # so that no retry is due in the meantime
    with place.daemon():
        for number in (1, 2):
            place.drop(number)
            place.wait_for(number)
        flip(place.store.root / "versions/000002/start/users.npy", -2, 6)
        place.drop(3)
        waiting = place.wait_state("retrying")
        line = printed_command(f"hint: {waiting['last_error']['hint']}")
        assert line is not None
        assert line.startswith("cp ")
        assert run_as_printed(line) == 0
        place.wait_for(3)
        assert place.wait_state("idle")["damage"] == []
    assert assert_intact(place.store.root) == 3
    assert place.store.manifest(3).parent == 2


def start_with_a_damaged(place: Place, *names: str) -> None:
    """Publish a version, damage files, start another daemon and write the next night."""
    place.configure(store={"on_publish": "true"})
    with place.daemon():
        place.drop(1)
        place.wait_for(1)
        eventually((place.store.root / HOOK_RECORD).exists)
    for name in names:
        path = place.store.root / name
        path.unlink(missing_ok=True)
        if name == layout.CURRENT:
            path.symlink_to("versions/00000l")
        else:
            path.write_bytes(b'{"event":"published","version":1e999,"created":"\xff')
    place.drop(2)


def logged_of(place: Place, name: str) -> list[str]:
    """Return the reasons in the log that name a file."""
    return [line["reason"] for line in place.log_lines() if f"/{name}:" in (line.get("reason") or "")]


def test_the_daemon_survives_damage_to_its_records(place: Place) -> None:
    """The daemon reports and rewrites them and publishes the night; a lost journal line makes no snapshot new."""
    names = (layout.JOURNAL, layout.STATUS, layout.ORDER, ATTEMPT, HOOK_RECORD)
    start_with_a_damaged(place, *names)
    with place.daemon() as process:
        place.wait_for(2)
        assert eventually(
            lambda: all(logged_of(place, name) for name in (layout.JOURNAL, layout.ORDER, ATTEMPT, HOOK_RECORD))
        )
        assert place.wait_state("idle")["damage"] == [logged_of(place, layout.JOURNAL)[0]]
        assert process.poll() is None
    assert place.process is not None
    assert place.process.returncode == 0
    assert place.store.numbers() == [1, 2]


_LESS_LIKELY = [pytest.param(name, marks=pytest.mark.torture) for name in (layout.CURRENT, layout.MANIFEST_HASH)]


@pytest.mark.parametrize("name", [layout.MANIFEST, *_LESS_LIKELY])
def test_damage_to_what_the_next_snapshot_needs_makes_it_wait(place: Place, name: str) -> None:
    """The daemon starts and keeps running, reports the damage, and blames no snapshot."""
    start_with_a_damaged(place, name if name == layout.CURRENT else f"versions/000001/{name}")
    with place.daemon() as process:
        place.wait_state("retrying")
        assert eventually(lambda: place.logged("damaged"))
        assert place.status()["damage"]
        assert metric(place, "embsync_store_damaged") == 1.0
        assert process.poll() is None
        assert place.events("failed", "refused") == []
        if name == layout.CURRENT:
            assert place.run("rollback").returncode == 0
            place.wait_for(2)
    assert place.process is not None
    assert place.process.returncode == 0


def test_a_dangling_current_does_not_stop_the_daemon_and_can_be_repaired(place: Place) -> None:
    """The running daemon reports it, and publishes the waiting night after the repair."""
    current = place.store.root / layout.CURRENT
    place.configure(watch={"rescan_seconds": 300.0})  # so that no retry is due in the meantime
    with place.daemon() as process:
        place.drop(1)
        place.wait_for(1)
        current.unlink()
        current.symlink_to("versions/000009")
        place.drop(2)
        waiting = place.wait_state("retrying")
        assert str(current) in waiting["last_error"]["what"]
        assert "000009" in waiting["damage"][0]
        eventually(lambda: place.logged("damaged"))
        assert process.poll() is None
        current.unlink()
        current.symlink_to("versions/000001")
        place.wait_for(2, seconds=60.0)
        assert place.wait_state("idle")["damage"] == []
    assert place.events("failed", "refused") == []
    assert assert_intact(place.store.root) == 2
