"""``store.on_publish``: run after every publish, by any command, at least once, for a limited time."""

from __future__ import annotations

import json
import signal

import pytest
from daemons import PATIENCE, Place, eventually
from support.nights import night, write_npy
from support.stores import assert_intact
from support.waiting import alive

from embsync.pipeline.on_publish import note, pending_version, run_on_publish
from embsync.processes import ChildProcess

STATUS_WHILE_RUNNING = "store.on_publish for version"


def test_a_slow_command_is_killed_with_its_child_processes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit also ends processes that the shell started; the command counts as run, and is not run again."""
    publish(place, 1)
    started, wait = place.file.parent / "started", ChildProcess.wait

    def wait_once_started(process: ChildProcess, seconds: float | None = None) -> int | None:
        eventually(lambda: started.exists() and started.read_text().strip())
        return wait(process, seconds)

    monkeypatch.setattr(ChildProcess, "wait", wait_once_started)
    output = run_on_publish(place.store, f"sleep 86400 & echo $! > {started}; wait", 1, limit=0.5)
    assert output == "store.on_publish took longer than 0.5 s and was ended"
    eventually(lambda: not alive(int(started.read_text())))
    assert pending_version(place.store) is None


def test_every_command_that_publishes_runs_on_publish(place: Place) -> None:
    """sync, accept and widen pass version and path; with ``--json``, standard output is still one document."""
    said = place.file.parent / "said"
    place.configure(store={"on_publish": f'echo "$EMBSYNC_VERSION $EMBSYNC_PATH" | tee -a {said}'})
    paths = [str(write_npy(place.file.parent / f"day={number}", night(number))) for number in (1, 2)]
    shuffled = write_npy(place.file.parent / "day=3", night(3).shuffled_item_ids())
    assert place.run("sync", *paths).returncode == 0
    refused = place.run("sync", str(shuffled))
    assert refused.returncode == 4
    accepted = place.run("accept", str(shuffled), "--new-space", "--json")
    assert json.loads(accepted.stdout)["results"][0]["on_publish"] is None
    assert json.loads(place.run("widen", "12", "--json").stdout)["on_publish"] is None
    assert place.run("rollback").returncode == 0
    expected = [f"{number} {place.store.path(number)}" for number in (2, 3, 4)]  # the first has been pruned
    assert said.read_text().splitlines()[1:] == expected


def test_a_failure_of_on_publish_is_only_a_warning(place: Place) -> None:
    """The published version stays, and the next snapshot is published."""
    place.configure(store={"on_publish": "exit 3"})
    paths = [str(write_npy(place.file.parent / f"day={number}", night(number))) for number in (1, 2)]
    output = place.run("sync", *paths)
    assert output.returncode == 0
    assert output.stderr.splitlines() == [
        f"embsync: version {number} is published; warning: store.on_publish ended with 3" for number in (1, 2)
    ]
    assert assert_intact(place.store.root) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.torture)])
def test_on_publish_is_run_again_after_an_interrupted_daemon(place: Place, number: signal.Signals) -> None:
    """It is run at least once for the current version, however the daemon ended, and not again once it has ended."""
    here = place.file.parent
    place.configure(
        store={
            "on_publish": f"echo $$ > {here}/pid; test -e {here}/open || sleep 60; echo $EMBSYNC_VERSION >> {here}/said"
        }
    )
    place.drop(1)
    with place.daemon() as process:
        eventually(lambda: STATUS_WHILE_RUNNING in place.status().get("doing", ""))
        command = int(eventually(lambda: (here / "pid").exists() and (here / "pid").read_text().strip()))
        process.send_signal(number)
        process.wait(PATIENCE)
    eventually(lambda: not alive(command))
    assert pending_version(place.store) == 1
    (here / "open").touch()
    for _ in range(2):
        with place.daemon():
            eventually(lambda: (here / "said").exists() and place.status()["state"] == "idle")
            place.send(signal.SIGUSR1)
            place.wait_looks()
    assert (here / "said").read_text() == "1\n"
    place.assert_at_rest()


def test_a_rollback_does_not_run_on_publish(place: Place) -> None:
    """The command has already run for the version to which the store is rolled back."""
    publish(place, 1)
    assert pending_version(place.store) == 1
    note(place.store, 1, None)
    publish(place, 2)
    assert pending_version(place.store) == 2
    note(place.store, 2, "failed, which is an end too")
    place.store.rollback(1)
    assert pending_version(place.store) is None


def publish(place: Place, number: int) -> None:
    """Publish a night with ``embsync sync``."""
    assert place.run("sync", str(write_npy(place.file.parent / f"day={number}", night(number)))).returncode == 0
