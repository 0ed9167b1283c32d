"""Signals, crashes, retries, holds: real processes and real signals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
from pathlib import Path

import pytest
from daemons import PATIENCE, Place, eventually
from support.forkserver import SWITCH
from support.nights import Night, night
from support.stores import assert_intact
from support.units import exit_code_in_time
from support.waiting import alive

from embsync.store import Store
from embsync.store.hold import hold, resume


def big(number: int) -> Night:
    """Return a night whose index takes seconds to build."""
    return night(number, items=40_000, users=2_000, width=32)


def test_a_second_daemon_names_the_process_that_holds_the_store(place: Place) -> None:
    """Only one daemon runs on a store; a second one exits with 5."""
    with place.daemon() as process:
        place.wait_state("idle")
        second = place.run("run")
        assert second.returncode == 5
        assert f"process {process.pid}" in second.stderr


def test_the_daemon_and_its_worker_are_separate_processes(place: Place) -> None:
    """Both load all libraries themselves here; in other tests, they are forked."""
    place.drop(1)
    with place.daemon(**{SWITCH: "0"}):
        place.wait_for(1)
    assert place.status()["state"] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_an_index_build_is_quick(place: Place, number: signal.Signals) -> None:
    """The work ends without leftovers, nothing is published, and the daemon exits with 0."""
    place.configure(index={"factory": "HNSW32"})
    place.drop(1, big(1))
    with place.daemon() as process:
        place.wait_state("working")
        eventually(lambda: (place.status()["work"] or {}).get("stage") == "indexing")
        worker = place.worker()
        process.send_signal(number)
        assert exit_code_in_time(process, "embsync.service") == 0
    assert worker is not None
    assert not alive(worker)
    assert place.published() == []
    assert list(place.store.versions.iterdir()) == []
    assert place.status()["state"] == "stopped"
    place.assert_at_rest()


def test_a_stop_during_hashing_is_quick(root: Path) -> None:
    """The comparison of a manifest's hashes is reported as work, and a stop ends it."""
    place = Place(root, complete="manifest")
    folder = place.drop(1, marker=False)
    with (folder / "items.npy").open("r+b") as file:
        file.truncate(1000 * 2**30)  # sparse: hashing takes ten minutes, longer than the test waits
    files = [
        {"path": path.name, "bytes": path.stat().st_size, "sha256": "0" * 64}
        for path in (folder / "items.npy", *folder.glob("[!i]*.npy"), folder / "item_ids.npy")
    ]
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    with place.daemon() as process:
        eventually(lambda: (place.status().get("work") or {}).get("stage") == "comparing")
        process.terminate()
        assert exit_code_in_time(process, "embsync.service") == 0


def test_a_stop_is_always_within_the_timeout_of_the_unit(place: Place) -> None:
    """The daemon waits neither for work that no longer runs nor for a lock that is held forever."""
    place.configure(index={"factory": "HNSW32"})
    place.drop(1, big(1))
    with place.daemon() as process:
        worker = place.at_work()
        os.kill(worker, signal.SIGSTOP)
        with Store(place.store.root).locked():
            process.terminate()
            assert exit_code_in_time(process, "embsync@.service") == 0
    assert not alive(worker)


def test_a_second_signal_ends_the_daemon_at_once(place: Place) -> None:
    """It holds while the first signal is being handled; the worker is killed too."""
    place.configure(index={"factory": "HNSW32"})
    place.drop(1, big(1))
    with place.daemon() as process:
        worker = place.at_work()
        process.send_signal(signal.SIGSTOP)  # so that both signals are pending before the first is handled
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE) in {128 + signal.SIGTERM, 128 + signal.SIGINT}
        eventually(lambda: not alive(worker))


def test_the_worker_dies_with_the_daemon(place: Place) -> None:
    """After SIGKILL, a worker that reports nothing for minutes dies too; the next daemon removes leftovers."""
    place.configure(index={"factory": "HNSW64"})
    folder = place.drop(1, night(1, items=150_000, users=200, width=32))
    with place.daemon() as process:
        worker = place.at_work()
        eventually(lambda: (place.status()["work"] or {}).get("stage") == "indexing")
        process.kill()
        process.wait()
        try:
            eventually(lambda: not alive(worker), 60)  # otherwise it would end when the index is built
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
    shutil.rmtree(folder)
    place.configure(index={"factory": "Flat"})
    place.drop(2)
    with place.daemon():
        place.wait_for(2)
    place.assert_at_rest()


def test_a_snapshot_that_kills_the_worker_three_times_is_set_aside(place: Place) -> None:
    """It is journaled as failed, and the next snapshot is handled."""
    place.configure(index={"factory": "HNSW32"})
    place.drop(1, big(1))
    with place.daemon():
        for times in range(1, 4):
            worker = place.at_work(times)
            assert Path(f"/proc/{worker}/oom_score_adj").read_text() == "500\n"  # the kernel's OOM killer prefers it
            os.kill(worker, signal.SIGKILL)
            eventually(lambda times=times: len(place.logged("crashed")) == times)
        failed = eventually(lambda: place.events("failed"))
        assert "set aside" in (failed[0].reason or "")
        assert "SIGKILL" in (failed[0].reason or "")
        place.configure(index={"factory": "Flat"})
        place.send(signal.SIGHUP)
        place.drop(2)
        place.wait_for(2)
        place.wait_state("idle")
    assert place.published() == ["day=2"]
    output = (place.store.root / "metrics.prom").read_text().splitlines()
    assert {"embsync_worker_crashes_total 3", "embsync_set_aside_total 1", "embsync_errors_total 0"} <= {*output}
    assert len(place.logged("crashed")) == 3


def test_a_transient_error_is_retried_with_growing_pauses(place: Place) -> None:
    """A failure of the store appears as a retry in the status; after the repair, the snapshot is published."""
    folder = place.drop(1)
    shutil.rmtree(folder)
    held = place.store.root.parent / "elsewhere"
    with place.daemon():
        place.wait_state("idle")
        place.store.versions.rename(held)  # the store is broken for a while
        place.store.versions.touch()
        place.drop(1)
        status = place.wait_state("retrying")
        assert status["retry"]["snapshot"] == folder.name
        eventually(lambda: (place.status()["retry"] or {}).get("attempts", 0) >= 2)
        assert place.status()["last_error"]["what"]
        place.store.versions.unlink()
        held.rename(place.store.versions)
        place.wait_for(1)
        eventually(lambda: place.status()["state"] == "idle")


def test_ill_formed_and_refused_snapshots_are_recorded_once(place: Place) -> None:
    """A failure that only a new snapshot can repair is journaled and not retried; other snapshots are published."""
    place.drop(1)
    with place.daemon():
        place.wait_for(1)
        (place.drop(2, marker=False) / "items.npy").write_bytes(b"no array")
        (place.watch / "day=2" / "_SUCCESS").touch()
        eventually(lambda: place.events("failed"))
        place.drop(3, night(3).shuffled_item_ids())
        eventually(lambda: place.events("refused"))
        place.drop(4)
        place.wait_for(4)
        place.send(signal.SIGUSR1)
        place.wait_looks(3)
    assert [event.event for event in place.events()] == ["published", "failed", "refused", "published"]
    assert place.status()["last_refusal"]["snapshot"] == "day=3"


def test_sighup_reloads_the_configuration(root: Path) -> None:
    """A valid file takes effect at once; an invalid one changes nothing and is reported."""
    place = Place(root, rescan_seconds=60.0)
    with place.daemon():
        place.wait_state("idle")
        place.file.write_text("watch: {path: watch, rescan: 1}")
        place.send(signal.SIGHUP)
        assert "did you mean" in eventually(lambda: place.status()["last_error"])["what"]
        other = root / "other"
        place.watch.rename(other)
        place.watch = other
        place.configure(watch={"path": "other"})
        place.send(signal.SIGHUP)
        eventually(lambda: place.logged("reloaded"))
        eventually(lambda: place.status()["last_error"] is None)
        place.drop(1)
        place.wait_for(1)
    assert len(place.logged("reload_failed")) == 1


def test_a_factory_that_faiss_rejects_is_refused_at_the_start(place: Place) -> None:
    """``run`` exits with 2 and one line; a reload with such an error changes nothing, and the status reports it."""
    place.drop(1)
    for factory, width in (("HNWS32", None), ("PQ5", 24)):
        place.configure(index={"factory": factory}, space={"dimension": width})
        output = place.run("run")
        assert (output.returncode, output.stderr.count("\n")) == (2, 1)
        assert f"'{factory}'" in output.stderr
        assert not place.store.root.exists()
    place.configure(index={"factory": "Flat"}, space={"dimension": None})
    with place.daemon():
        place.wait_for(1)
        width = place.store.manifest(1).dimension
        place.configure(index={"factory": f"PQ{width + 1}"})
        place.send(signal.SIGHUP)
        assert f"at width {width}" in eventually(lambda: place.status()["last_error"])["what"]
        place.configure(index={"factory": "Flat"})
        verdict = place.run("status").stdout.splitlines()[0]
        assert (verdict[:2], verdict.partition(" Also: ")[2]) == ("! ", "the daemon reports an error.")
        place.drop(2)
        place.wait_for(2)
    assert place.store.manifest(2).index.factory == "Flat"


def test_sigusr1_starts_a_scan(place: Place) -> None:
    """Without events, and with the next rescan a day away, the signal causes a scan."""
    place.configure(watch={"rescan_seconds": 86_400.0})
    with place.daemon():
        place.wait_state("idle")
        for _ in range(2):
            looks = place.looks()
            place.send(signal.SIGUSR1)
            eventually(lambda looks=looks: place.looks() > looks)


def test_a_hold_stops_publishing_until_resume(place: Place) -> None:
    """During a hold, the daemon scans and queues but does not publish; the journal records hold and resume."""
    place.drop(1)
    with place.daemon():
        place.wait_for(1)
        assert hold(place.store, "moving house")
        place.drop(2)
        status = eventually(lambda: (found := place.status())["state"] == "held" and found["queue"] and found)
        assert status["held"]["reason"] == "moving house"
        assert not hold(place.store)
        assert place.published() == ["day=1"]
        assert resume(place.store)
        place.wait_for(2)
    assert [event.event for event in place.events()] == ["published", "held", "resumed", "published"]


def test_a_hold_stops_work_in_progress(place: Place) -> None:
    """A version that is being made when the hold is set is not published."""
    place.configure(index={"factory": "HNSW32"})
    place.drop(1, big(1))
    with place.daemon():
        place.at_work()
        assert json.loads(place.run("hold", "--json").stdout)["changed"]
        eventually(lambda: place.logged("held"))
        eventually(lambda: place.status()["state"] == "held")
        assert place.published() == []


def test_a_manual_rollback_persists(place: Place) -> None:
    """The snapshot that was rolled back is not published again; with ``--hold``, nothing is until ``resume``."""
    place.drop(1)
    place.drop(2)
    with place.daemon():
        place.wait_for(1, 2)
        assert place.run("rollback", "--hold").returncode == 0
        place.drop(3)
        eventually(lambda: place.status()["queue"] == ["day=3"])
        assert place.store.current() == 1
        resume(place.store)
        place.wait_for(3)
        eventually(lambda: place.status()["current"]["version"] == 3)
    assert place.store.manifest(3).parent == 1
    assert place.published() == ["day=1", "day=2", "day=3"]


def test_a_command_runs_after_each_publish_and_may_fail(place: Place) -> None:
    """The command gets version and path; its failure is reported and reverts nothing."""
    note = place.watch.parent / "note"
    place.configure(store={"on_publish": f'echo "$EMBSYNC_VERSION $EMBSYNC_PATH" >> {note}; exit 3'})
    place.drop(1)
    with place.daemon():
        place.wait_for(1)
        eventually(lambda: "ended with 3" in (place.status()["on_publish"] or ""))
    assert note.read_text() == f"1 {place.store.path(1)}\n"
    record = json.loads((place.store.root / "on_publish.json").read_text())
    assert (record["version"], record["failed"]) == (1, "store.on_publish ended with 3")
    assert "embsync_on_publish_failures_total 1" in (place.store.root / "metrics.prom").read_text()
    assert assert_intact(place.store.root) == 1


def test_logs_are_text_on_a_terminal_and_json_elsewhere(place: Place) -> None:
    """Each event is one line; with ``log.format: text`` a file gets text too."""
    place.drop(1)
    ours, theirs = pty.openpty()
    parts: list[bytes] = []
    with open(ours, "rb", buffering=0) as terminal:  # noqa: PTH123
        with open(theirs, "wb") as stderr, place.daemon(stderr):  # noqa: PTH123
            eventually(lambda: (found := place.status()).get("current") and found["state"] == "idle")
        with contextlib.suppress(OSError):  # reading fails with EIO once the process has exited
            while part := terminal.read(65536):
                parts.append(part)
    output = [line.split() for line in b"".join(parts).decode().splitlines()]
    assert [line[2] for line in output] == ["started", "order", "begun", "published", "stopped"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line[0]) and line[1] == "info" for line in output)
    assert "snapshot=day=1" in output[2]
    place.configure(log={"format": "text"})
    with place.daemon():
        place.wait_state("idle")
    assert "  info     started " in place.log.read_text()
