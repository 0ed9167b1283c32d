"""The shipped units under a real systemd, PID 1 in its own namespaces, installed as in docs/operations.md.

The units run unchanged: ``Type=notify``, the user that the sysusers file creates, all hardening options. Drop-ins only
make the test's interpreter visible (``BindReadOnlyPaths=``: it may be in a home directory or in /tmp, which the units
hide) and shorten ``WatchdogSec=`` and ``RestartSec=`` where a test waits for them. The program at
/opt/embsync/bin/embsync is a launcher of that interpreter. systemd skips options that the kernel here does not support
(filters of addresses need BPF, for example).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import eventually
from support.machine import HELD, Machine, cannot, interpreter_paths
from support.nights import night, write_npy
from support.units import stop_seconds

pytestmark = [pytest.mark.long, pytest.mark.skipif(cannot() is not None, reason=str(cannot()))]

WATCH = "/srv/models/{}"
STORE = "/var/lib/embsync/{}/store"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    # Not in /dev/shm, where pytest's directories are: systemd has its own.
    with tempfile.TemporaryDirectory(dir="/tmp") as place, Machine(Path(place)).booted() as booted:
        for unit in ("embsync@.service", "embsync-serve@.service"):
            booted.drop_in(unit, "sight", f"[Service]\nBindReadOnlyPaths={' '.join(interpreter_paths())}\n")
        yield booted


class Model:
    """One instance of ``embsync@``: its unit, its snapshots, its store."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        self.unit = f"embsync@{name}.service"
        self.watch = machine.within(WATCH.format(name))
        self.store = machine.within(STORE.format(name))
        self.watch.mkdir()
        machine.within(f"/etc/embsync/{name}.yaml").write_text(
            json.dumps(
                {
                    "watch": {
                        "path": WATCH.format(name),
                        "complete": "marker",
                        "backlog": "every",
                        "rescan_seconds": 0.5,
                    },
                    "store": {"path": STORE.format(name)},
                    "index": {"factory": "Flat"},
                    "threads": 1,
                }
            )
        )

    def drop(self, number: int, **size: int) -> None:
        """Write a snapshot as a training job would: the files belong to root and are readable by all."""
        folder = write_npy(self.watch / f"day={number}", night(number, **size))
        (folder / "_SUCCESS").touch()

    def publish(self, number: int) -> None:
        """Write a snapshot and wait until the version with this number is current."""
        self.drop(number)
        eventually(lambda: self.current() == f"versions/{number:06d}")

    def current(self) -> str | None:
        """Return the target of ``current``."""
        link = self.store / "current"
        return str(link.readlink()) if link.is_symlink() else None

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.machine.show(self.unit, name)

    def start(self) -> int:
        """Start the unit and return its main process; ``systemctl start`` returns after READY."""
        self.machine.systemctl("start", self.unit)
        assert self.show("ActiveState") == "active"
        return self.machine.main_process(self.unit)

    def stop(self) -> float:
        """Stop the unit; return the seconds it took."""
        begin = time.monotonic()
        self.machine.systemctl("stop", self.unit)
        return time.monotonic() - begin


def test_a_unit_becomes_active_when_the_daemon_is_ready_and_publishes(machine: Machine) -> None:
    """READY makes the unit active, not the start of the process; STATUS shows its work; the daemon is sandboxed."""
    model = Model(machine, "books")
    machine.within(HELD).touch()
    machine.systemctl("start", "--no-block", model.unit)
    process = machine.main_process(model.unit)
    assert model.show("ActiveState") == "activating"
    machine.within(HELD).unlink()
    eventually(lambda: model.show("ActiveState") == "active")
    eventually(lambda: model.show("StatusText") == f"watching {WATCH.format('books')}")
    model.publish(1)

    about = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    assert (model.store / "current").lstat().st_uid == int(about["Uid"].split()[0]) != 0
    assert (about["NoNewPrivs"], about["Seccomp"], about["CapBnd"]) == ("1", "2", "0" * 16)
    assert model.stop() < stop_seconds("embsync@.service")
    assert model.show("Result") == "success"
    assert json.loads((model.store / "status.json").read_text())["state"] == "stopped"


def test_a_hanging_daemon_is_killed_and_restarted(machine: Machine) -> None:
    """A daemon that does not notify the watchdog is killed and restarted, and publishes the backlog."""
    model = Model(machine, "films")
    machine.drop_in(model.unit, "hurry", "[Service]\nWatchdogSec=10s\nRestartSec=1s\n")
    process = model.start()
    model.publish(1)
    heard = model.show("WatchdogTimestampMonotonic")
    eventually(lambda: model.show("WatchdogTimestampMonotonic") != heard)  # a running daemon notifies it
    assert model.show("NRestarts") == "0"
    os.kill(process, signal.SIGSTOP)
    model.drop(2)
    eventually(lambda: model.show("Result") == "watchdog")
    eventually(lambda: model.show("NRestarts") == "1")
    eventually(lambda: model.show("ActiveState") == "active")
    assert machine.main_process(model.unit) != process
    eventually(lambda: model.current() == "versions/000002")
    assert model.stop() < stop_seconds("embsync@.service")


@pytest.mark.torture
def test_a_killed_daemon_is_restarted(machine: Machine) -> None:
    """The unit as shipped restarts the daemon each time it is killed."""
    model = Model(machine, "plays")
    process = model.start()
    for number in (1, 2):
        model.publish(number)
        os.kill(process, signal.SIGKILL)
        eventually(lambda restarts=str(number): model.show("NRestarts") == restarts)
        eventually(lambda: model.show("ActiveState") == "active")
        process = machine.main_process(model.unit)
    model.publish(3)
    model.stop()


@pytest.mark.torture
def test_a_daemon_whose_store_was_replaced_is_restarted_on_the_new_one(machine: Machine) -> None:
    """The daemon exits with 5, is restarted, and publishes into the new store."""
    model = Model(machine, "poems")
    machine.drop_in(model.unit, "hurry", "[Service]\nRestartSec=2s\n")
    model.start()
    model.publish(1)
    model.store.rename(model.store.parent / "aside")
    eventually(lambda: model.show("ExecMainStatus") == "5")
    eventually(lambda: model.show("NRestarts") == "1" and model.show("ActiveState") == "active")
    eventually(lambda: model.current() == "versions/000001")
    model.stop()


def test_a_reload_and_a_stop_during_work(machine: Machine) -> None:
    """``systemctl reload`` applies the changed configuration; ``systemctl stop`` takes less than the unit's timeout."""
    model = Model(machine, "songs")
    process = model.start()
    file = machine.within("/etc/embsync/songs.yaml")
    settings = json.loads(file.read_text())
    settings["watch"]["path"] = WATCH.format("other-songs")
    settings["index"]["factory"] = "HNSW32"
    file.write_text(json.dumps(settings))
    model.watch.rename(model.watch.parent / "other-songs")
    model.watch = model.watch.parent / "other-songs"
    machine.systemctl("reload", model.unit)
    eventually(lambda: model.show("StatusText") == f"watching {WATCH.format('other-songs')}")
    assert machine.main_process(model.unit) == process

    model.drop(1, items=40_000, users=2_000, width=32)
    eventually(lambda: model.show("StatusText") == "working on day=1: indexing")
    assert model.stop() < stop_seconds("embsync@.service")
    assert model.show("Result") == "success"
    assert list((model.store / "versions").iterdir()) == []


def test_the_reader_serves_what_the_daemon_publishes(machine: Machine) -> None:
    """``embsync-serve@`` sees the store read-only, and answers over HTTP on this host."""
    pytest.importorskip("uvicorn")
    model = Model(machine, "games")
    model.start()
    model.publish(1)
    machine.systemctl("start", "embsync-serve@games")
    assert eventually(lambda: ask(machine, "/readyz")) is not None
    assert json.loads(ask(machine, "/v1/version") or "{}")["version"] == 1
    model.publish(2)
    eventually(lambda: json.loads(ask(machine, "/v1/version") or "{}").get("version") == 2)
    assert ask(machine, "/healthz") is not None
    serving = machine.main_process("embsync-serve@games")
    seen = f"/proc/{serving}/root{STORE.format('games')}"
    assert os.statvfs(seen).f_flag & os.ST_RDONLY
    machine.systemctl("stop", "embsync-serve@games")
    model.stop()


def ask(machine: Machine, path: str) -> str | None:
    """Return what the server answers, None if it is not a success."""
    script = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:8980{path}').read().decode())"
    return machine.run(shutil.which("python3") or "python3", "-c", script, check=False) or None
