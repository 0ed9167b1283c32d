"""``embsync deliver``: sinks follow the store despite failures, and status and metrics report what they lack."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from contract import pinned
from directory_sink import DirectorySink, DirectorySinkConfig, served
from support.nights import configured, night
from support.stores import sync
from support.waiting import PATIENCE, eventually

from embsync.config import Config, DeliveryConfig
from embsync.delivery.pauses import LONGEST, Pauses
from embsync.delivery.service import DeliveryService
from embsync.delivery.sink import Probe
from embsync.delivery.state import read_report
from embsync.delivery.steps import deliver, versions_behind
from embsync.errors import SinkConflict, SinkError, SinkMoved, SinkUnavailable, StoreBusy
from embsync.store import Store

_PAUSES = {"rescan_seconds": 0.05, "recheck_seconds": 0.2, "retry_seconds": 0.1}


class Place:
    """A store with one night, and two directories as sinks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "store"
        self.sinks = {name: folder / name for name in ("one", "two")}
        self.nights = 0
        self.publish()

    def publish(self) -> int:
        number = sync(self.root, night(self.nights), f"day={self.nights}", configured()).version
        self.nights += 1
        return number

    def config(self, **delivery: Any) -> Config:
        sinks = tuple(
            DirectorySinkConfig(name=name, path=str(path), keep_versions=2) for name, path in self.sinks.items()
        )
        settings = DeliveryConfig(sinks=sinks, **{**_PAUSES, **delivery})
        return msgspec.structs.replace(configured(store__path=str(self.root)), delivery=settings)

    def service(self, open_: Any = DirectorySink, **delivery: Any) -> DeliveryService:
        return DeliveryService(lambda: self.config(**delivery), open_)

    def state(self) -> dict[str, Any]:
        """Return the report, once it exists: sinks may be served before."""
        found: dict[str, Any] = eventually(lambda: read_report(self.root))
        return found

    def sinks_reported(self) -> list[dict[str, Any]]:
        found = read_report(self.root)
        return [{"failures": 0}] if found is None else list(found["sinks"].values())

    def numbers(self) -> list[int | None]:
        """Return the current version of each sink; its files may be removed while it is polled."""
        return [
            DirectorySink(DirectorySinkConfig(name=name, path=str(path))).current() for name, path in self.sinks.items()
        ]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class Failing(DirectorySink):
    """A sink that raises a chosen error when it stages."""

    errors: dict[str, Exception]

    def __init__(self, config: DirectorySinkConfig) -> None:
        super().__init__(config)
        self._name = config.name

    def stage(self, version: Any) -> None:
        if self._name in self.errors:
            raise self.errors[self._name]
        super().stage(version)


@contextlib.contextmanager
def running(service: DeliveryService) -> Iterator[None]:
    """Run couriers and loop in this process, without the service's signal handlers."""
    from embsync.signals import Requests

    requests = Requests()
    for courier in service._couriers:
        courier.start()
    thread = threading.Thread(target=service._loop, args=(requests,))
    thread.start()
    try:
        yield
    finally:
        requests.record(signal.SIGTERM)
        thread.join()
        assert eventually(service._stop)  # one attempt has five seconds


def test_every_sink_follows_publishing_and_rollback(place: Place) -> None:
    """Each sink keeps the configured number of versions."""
    with running(place.service(recheck_seconds=600.0)):
        eventually(lambda: place.numbers() == [1, 1])
        for _ in range(3):
            place.publish()
        eventually(lambda: place.numbers() == [4, 4])
        Store(place.root).rollback(3)
        eventually(lambda: place.numbers() == [3, 3])
        done = {"state": "current", "current": 3, "behind": 0, "behind_since": None, "error": None}
        eventually(lambda: all(done.items() <= sink.items() for sink in place.sinks_reported()))
    generations = DirectorySink(DirectorySinkConfig(name="one", path=str(place.sinks["one"]))).generations()
    assert [found.number for found in generations] == [3, 4]


def test_a_sink_that_fails_stops_neither_the_others_nor_publishing(place: Place) -> None:
    """It is retried after growing pauses; state and metrics say how far it is behind, since when and why."""
    Failing.errors = {"one": SinkUnavailable("the line is cut", hint="wait")}
    with running(place.service(Failing)):
        eventually(lambda: place.numbers() == [None, 1])
        assert place.publish() == 2
        eventually(lambda: place.numbers() == [None, 2])
        wanted = {"state": "retrying", "current": None, "behind": 2}
        eventually(lambda: (one := place.sinks_reported()[0])["failures"] >= 3 and wanted.items() <= one.items())
        one = eventually(lambda: one if (one := place.state()["sinks"]["one"])["state"] == "retrying" else None)
        assert "the line is cut" in one["error"]
        assert one["behind_since"] <= one["next_attempt"]
        expected = (
            'embsync_delivery_versions_behind{sink="one"} 2',
            'embsync_delivery_versions_behind{sink="two"} 0',
            'embsync_delivery_state{sink="one",state="retrying"} 1',
        )
        metrics = place.root / "delivery.prom"
        eventually(lambda: all(line in metrics.read_text() for line in expected))
        Failing.errors = {}
        eventually(lambda: place.numbers() == [2, 2])
        eventually(lambda: place.state()["sinks"]["one"]["error"] is None)


def test_pauses_grow_and_start_over() -> None:
    """They double up to ten minutes, and start again after a success."""
    pauses = Pauses(5.0)
    assert [pauses.failed() for _ in range(9)] == [5, 10, 20, 40, 80, 160, 320, LONGEST, LONGEST]
    pauses.succeeded()
    assert pauses.failed() == 5.0


def test_after_a_success_the_pauses_start_over(place: Place) -> None:
    """The sink is checked again after ``recheck_seconds``."""
    Failing.errors = {"one": SinkUnavailable("the line is cut")}
    courier = place.service(Failing, recheck_seconds=33.0)._couriers[0]
    assert [courier.attempt()[0] for _ in range(3)] == [0.1, 0.2, 0.4]
    Failing.errors = {}
    assert courier.attempt() == (33.0, None)
    Failing.errors = {"one": SinkUnavailable("the line is cut")}
    place.publish()
    assert courier.attempt()[0] == 0.1
    assert (courier.report.failures, courier.report.failures_total) == (1, 4)


def test_versions_behind_is_at_least_one_after_a_rollback(place: Place) -> None:
    """Readers of the sink see another version than the store's, even if its number is higher."""
    for _ in range(3):
        place.publish()
    assert [versions_behind(place.root, there) for there in (None, 1, 3, 4)] == [4, 3, 1, 0]
    Store(place.root).rollback(2)
    assert [versions_behind(place.root, there) for there in (4, 2, 1)] == [1, 0, 1]


def test_a_version_staged_by_another_publisher_is_kept(place: Place) -> None:
    """An incomplete version with a higher number stays; one with a lower number was abandoned, and is removed."""
    for _ in range(2):
        place.publish()
    Store(place.root).rollback(2)
    sink = DirectorySink(DirectorySinkConfig(name="one", path=str(place.sinks["one"])))
    for number in (1, 3):
        with pinned(place.root, number) as version:
            sink.stage(version)
        (place.sinks["one"] / str(number) / "complete.json").unlink()
    assert deliver(sink, place.root, 3).dropped == (1,)
    assert [(found.number, found.complete) for found in sink.generations()] == [(2, True), (3, False)]


def test_an_old_version_in_use_is_reported_and_removed_later(place: Place) -> None:
    """The delivery succeeds, and the old version is listed in the report until it is removed."""

    class Busy(DirectorySink):
        busy = True

        def drop(self, number: int) -> None:
            if self.busy:
                raise SinkUnavailable("still in use")
            super().drop(number)

    service = place.service(Busy)
    for _ in range(3):
        place.publish()
        service.once()
    report = place.state()["sinks"]["one"]
    assert (report["state"], report["current"], report["old"]) == ("current", 4, [2])
    Busy.busy = False
    service.once()
    assert place.state()["sinks"]["one"]["old"] == []


def test_the_state_is_written_also_while_nothing_changes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The age of the state shows whether the service is running."""
    from embsync.delivery import service as module

    monkeypatch.setattr(module, "_WRITTEN_SECONDS", 0.2)
    with running(place.service(recheck_seconds=600.0)):
        eventually(lambda: all(sink.get("state") == "current" for sink in place.sinks_reported()))
        before = place.state()["updated"]
        eventually(lambda: place.state()["updated"] > before)


def test_a_failure_is_logged_once_and_without_secrets(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds for any text in an error, even an unexpected one."""
    from embsync.delivery.secrets import read_secret

    monkeypatch.setenv("A_PASSWORD", "xyzzy-secret/1")
    assert read_secret("test", variable="A_PASSWORD") == "xyzzy-secret/1"
    text = "postgresql://me:xyzzy-secret%2F1@host refused xyzzy-secret/1"
    Failing.errors = {"one": SinkError(text, found=text), "two": RuntimeError(text)}
    with caplog.at_level(logging.DEBUG), running(place.service(Failing)):
        eventually(lambda: all(sink["failures"] >= 3 for sink in place.sinks_reported()))
    failures = [record for record in caplog.records if record.getMessage() == "delivery_failed"]
    assert len(failures) == 2
    written = "".join(str(vars(record)) for record in caplog.records) + json.dumps(place.state())
    assert "xyzzy" not in written
    assert "***" in written


def test_a_version_that_is_superseded_while_it_is_staged_is_not_committed(place: Place) -> None:
    """After a rollback during staging, only the version that is then current is committed."""
    place.publish()

    class Slow(DirectorySink):
        def probe(self, version: Any) -> Probe:
            if version.number == 2:
                Store(place.root).rollback(1)
            return super().probe(version)

        def commit(self, number: int, expected: int | None) -> None:
            assert number == 1
            super().commit(number, expected)

    place.service(Slow).once()
    assert place.numbers() == [1, 1]


@pytest.mark.parametrize(
    ("probe", "error"),
    [(Probe(239, 160), "rows are missing"), (Probe(240, None), "rows are missing")],
    ids=["items", "users"],
)
def test_an_incomplete_version_is_not_switched_to(place: Place, probe: Probe, error: str) -> None:
    """Readers still see the previous version."""

    class Lossy(DirectorySink):
        def probe(self, version: Any) -> Probe:
            return probe

    sink = Lossy(DirectorySinkConfig(name="one", path=str(place.sinks["one"])))
    with pytest.raises(SinkError, match=error):
        deliver(sink, place.root, 3)
    assert place.numbers() == [None, None]


def test_a_missed_recall_is_noted_or_refused(place: Place) -> None:
    """``index.on_missed_recall`` decides."""

    class Bad(DirectorySink):
        def probe(self, version: Any) -> Probe:
            found = super().probe(version)
            return Probe(found.items, found.users, 10, 0.5, 0.95, {"effort": 7})

    sink = Bad(DirectorySinkConfig(name="one", path=str(place.sinks["one"])))
    with pytest.raises(SinkError, match="misses its target recall"):
        deliver(sink, place.root, 3, "refuse")
    place.service(Bad).once()
    state = place.state()["sinks"]["one"]
    assert (state["recall"], state["search"], state["current"]) == (0.5, {"effort": 7}, 1)
    assert "below the target" in state["notes"][0]


def test_a_sink_of_another_store_is_refused(place: Place, tmp_path: Path) -> None:
    """The number may be that of another version, or higher than all of this store's."""
    other = Place(tmp_path / "other")
    sink = DirectorySink(DirectorySinkConfig(name="one", path=str(place.sinks["one"])))
    other.publish()
    other.publish()
    deliver(sink, other.root, 3)
    with pytest.raises(SinkConflict, match="the sink is ahead") as caught:
        deliver(sink, place.root, 3)
    assert caught.value.hint
    for _ in range(2):
        place.publish()
    with pytest.raises(SinkConflict, match="not of this store"):
        deliver(sink, place.root, 3)
    assert place.numbers()[0] == 3
    with pinned(other.root) as version:
        assert served(place.sinks["one"]).items.ids == version.items.ids.tolist()


def test_an_overtaken_publisher_checks_again(place: Place) -> None:
    """If another delivery of the store was faster, the next attempt has nothing to do."""

    class Overtaken(DirectorySink):
        def commit(self, number: int, expected: int | None) -> None:
            DirectorySink(self._config).commit(number, expected)
            super().commit(number, expected)

        def __init__(self, config: DirectorySinkConfig) -> None:
            super().__init__(config)
            self._config = config

    sink = Overtaken(DirectorySinkConfig(name="one", path=str(place.sinks["one"])))
    with pytest.raises(SinkMoved):
        deliver(sink, place.root, 3)
    assert deliver(sink, place.root, 3).changed is False


def test_only_one_delivery_runs_at_a_time(place: Place) -> None:
    """A second delivery fails with the hint to run ``status``."""
    service = place.service()
    with service._alone(), pytest.raises(StoreBusy, match="another delivery") as caught:
        place.service().once()
    assert "status" in str(caught.value.hint)


def test_a_store_without_versions_is_waited_for(tmp_path: Path) -> None:
    """The sink's state is ``waiting``, and the first version is delivered when it is published."""
    place = Place(tmp_path)
    place.root = tmp_path / "later"
    with running(place.service(directory=str(tmp_path))):
        eventually(lambda: (read_report(tmp_path) or {}).get("sinks", {}).get("one", {}).get("state") == "waiting")
        place.publish()
        eventually(lambda: place.numbers() == [1, 1])
    assert not (place.root / "delivery.json").exists()


def _configuration(place: Place, url: str, **more: Any) -> Path:
    sink = {"name": "mirror", "kind": "object_store", "url": url, **more}
    path = place.folder / "embsync.yaml"
    text = {"store": {"path": "store"}, "delivery": {"sinks": [sink], **_PAUSES}}
    path.write_text(json.dumps(text))
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run embsync."""
    command = [sys.executable, "-m", "embsync", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_deliver_once_reports_each_sink(place: Place) -> None:
    """It prints the version of each sink and exits with the code of the first error, which ``status`` then shows."""
    (place.folder / "mirror").mkdir()
    config = _configuration(place, f"file://{place.folder}/mirror")
    done = run("deliver", "--once", "--config", config)
    assert (done.returncode, done.stdout) == (0, "mirror: version 1 is current\n")
    config = _configuration(place, f"file://{place.folder}/gone")
    failed = run("deliver", "--once", "--config", config)
    assert (failed.returncode, failed.stderr.count("\n")) == (7, 1)
    assert failed.stderr.startswith(f"embsync: mirror: {place.folder}/gone: no such directory")
    assert "mkdir -p" in failed.stderr
    other = Place(place.folder / "other")
    other.publish()
    config = _configuration(other, f"file://{place.folder}/mirror")
    refused = run("deliver", "--once", "--config", config)
    assert refused.returncode == 8
    assert refused.stderr.startswith("embsync: mirror: version 1 in the sink is not of this store")
    config = _configuration(place, f"file://{place.folder}/gone")
    shown = run("status", "--config", config).stdout
    assert "mirror (object_store): nothing, 1 behind since" in shown
    assert "no such directory" in shown
    assert shown.splitlines()[0].endswith(". Also: delivery fails to mirror.")


def test_the_service_responds_to_signals(place: Place) -> None:
    """SIGHUP reloads a valid configuration and keeps the old one otherwise; SIGTERM ends the service."""
    (place.folder / "mirror").mkdir()
    config = _configuration(place, f"file://{place.folder}/mirror")
    command = [sys.executable, "-m", "embsync", "deliver", "--config", str(config), "--json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            eventually((place.folder / "mirror" / "current.json").exists)
            eventually(lambda: place.state()["sinks"]["mirror"]["state"] == "current")
            assert place.state()["running"]
            assert process.stderr is not None
            events = [json.loads(process.stderr.readline())["event"] for _ in range(2)]
            (place.folder / "other").mkdir()
            _configuration(place, f"file://{place.folder}/other")
            process.send_signal(signal.SIGHUP)
            events += [json.loads(process.stderr.readline())["event"] for _ in range(2)]
            assert (place.folder / "other" / "current.json").exists()
            config.write_text(config.read_text().replace("file://", "files://"))
            process.send_signal(signal.SIGHUP)
            failed = json.loads(process.stderr.readline())
            eventually(lambda: place.state()["problem"])
            assert "not reloaded: not the URL" in run("status", "--config", config, "--store", place.root).stdout
            place.publish()
            events += [failed["event"], json.loads(process.stderr.readline())["event"]]
            _configuration(place, f"file://{place.folder}/other")
            process.send_signal(signal.SIGHUP)
            events.append(json.loads(process.stderr.readline())["event"])
            eventually(lambda: place.state()["problem"] is None)
        finally:
            process.send_signal(signal.SIGTERM)
        events += [json.loads(line)["event"] for line in process.stderr]
        assert process.wait(PATIENCE) == 0
    reloads = ["reloaded", "delivered", "reload_failed", "delivered", "reloaded"]
    assert events == ["started", "delivered", *reloads, "stopped"]
    assert failed["reason"] == "not the URL of an object store"
    assert not place.state()["running"]


def test_a_reload_replaces_the_sinks_that_changed(place: Place, tmp_path: Path) -> None:
    """A changed sink gets a new courier, unchanged sinks keep theirs, and a removed sink is left as it is."""
    import msgspec

    service = place.service()
    with running(service):
        eventually(lambda: place.numbers() == [1, 1])
        one, two = service._couriers
        place.sinks = {"two": place.sinks["two"], "three": tmp_path / "three"}
        fresh = place.config()
        service._load = lambda: fresh
        service._reload()
        assert [courier.name for courier in service._couriers] == ["two", "three"]
        assert service._couriers[0] is two
        assert one.join(PATIENCE)
        place.publish()
        eventually(lambda: place.numbers() == [2, 2])
        assert set(service.report.sinks) == {"two", "three"}
        changed = msgspec.structs.replace(fresh.delivery, retry_seconds=7.0)
        fresh = msgspec.structs.replace(fresh, delivery=changed)
        service._reload()
        assert service._couriers[0] is not two
        assert service._couriers[0].report.current == 2
        assert two.join(PATIENCE)
    assert served(tmp_path / "one").number == 1


def test_a_sink_that_changed_is_left_by_its_old_thread_first(place: Place) -> None:
    """The new courier begins after the running delivery of the old one has ended."""
    entered, proceed, at_once = threading.Event(), threading.Event(), []

    class Slow(DirectorySink):
        def stage(self, version: Any) -> None:
            at_once.append(threading.current_thread())
            entered.set()
            assert proceed.wait(PATIENCE)
            super().stage(version)

    place.sinks.pop("two")
    service = place.service(Slow)
    with running(service):
        assert entered.wait(PATIENCE)
        service._load = lambda: place.config(retry_seconds=3.0)
        service._reload()
        old, new = service._replaced[0], service._couriers[0]
        assert not new.wake.wait(0.3)
        assert len(at_once) == 1
        proceed.set()
        assert old.join(PATIENCE)
        eventually(lambda: new.report.state == "current")
    assert len(at_once) == 1


def test_a_reload_that_changes_fixed_settings_is_refused(place: Place, tmp_path: Path) -> None:
    """``delivery.directory`` and ``store.path`` cannot change; the sinks stay as they are."""
    service = place.service()
    before = service._couriers
    service._load = lambda: place.config(directory=str(tmp_path))
    service._reload()
    assert "delivery.directory changed" in str(service.report.problem)
    place.root = tmp_path / "other"
    service._load = place.config
    service._reload()
    assert "store.path changed" in str(service.report.problem)
    assert service._couriers is before


def test_a_configuration_without_sinks_is_refused(place: Place) -> None:
    """The exit code is 2, after which a service is not restarted."""
    done = run("deliver", "--once", "--store", place.root)
    assert (done.returncode, "no sinks" in done.stderr) == (2, True)
