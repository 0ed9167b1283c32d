"""``embsync-deliver@`` and ``embsync-pull@`` under a real systemd, one pulling what the other delivers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine import Machine, cannot, interpreter_paths
from support.nights import configured, night
from support.stores import sync
from support.units import stop_seconds
from support.waiting import eventually

pytestmark = [pytest.mark.torture, pytest.mark.skipif(cannot() is not None, reason=str(cannot()))]

STORE, COPY = "/var/lib/embsync/books/store", "/var/lib/embsync/copy/store"
DELIVER, PULL = "embsync-deliver@books.service", "embsync-pull@copy.service"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    # Not in /dev/shm, where pytest's directories are: systemd has its own.
    with tempfile.TemporaryDirectory(dir="/tmp") as place, Machine(Path(place)).booted() as booted:
        sight = f"[Service]\nBindReadOnlyPaths={' '.join(interpreter_paths())}\n"
        for unit in ("embsync-deliver@.service", "embsync-pull@.service"):
            booted.drop_in(unit, "sight", sight)
        yield booted


class Host:
    """A store with nights, a directory to which they are delivered, and the configuration of the service."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.folder = folder
        self.nights = 0
        self.owner = int(machine.run("id", "-u", "embsync"))
        for name in ("remote", "other"):
            machine.within(f"/srv/{name}").mkdir()
            os.chown(machine.within(f"/srv/{name}"), self.owner, -1)
        machine.drop_in(DELIVER, "places", "[Service]\nReadWritePaths=/srv/remote /srv/other\n")
        self.configure("remote")
        machine.within("/etc/embsync/copy.pull").write_text("EMBSYNC_URL=file:///srv/remote\n")

    def configure(self, *names: str) -> None:
        """Write the configuration, with these directories as sinks."""
        sinks = [{"name": name, "kind": "object_store", "url": f"file:///srv/{name}"} for name in names]
        delivery = {"sinks": sinks, "rescan_seconds": 0.2}
        text = json.dumps({"store": {"path": STORE}, "delivery": delivery})
        self.machine.within("/etc/embsync/books.yaml").write_text(text)

    def publish(self) -> int:
        """Publish a night outside, and copy it into the machine as rsync would: the versions, then ``current``."""
        number = sync(self.folder / "store", night(self.nights), f"day={self.nights}", configured()).version
        self.nights += 1
        store = self.machine.within(STORE)
        store.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.folder / "store" / "versions", store / "versions", dirs_exist_ok=True)
        subprocess.run(["chown", "-Rh", str(self.owner), str(store.parent)], check=True)
        (store / "current.new").symlink_to(f"versions/{number:06d}")
        (store / "current.new").rename(store / "current")
        return number

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.machine.show(unit, name)

    def delivered(self, name: str) -> int | None:
        """Return the number of the version that a directory's pointer names."""
        pointer = self.machine.within(f"/srv/{name}/current.json")
        return json.loads(pointer.read_text())["version"] if pointer.exists() else None

    def pulled(self) -> str | None:
        """Return the target of ``current`` in the copy."""
        link = self.machine.within(f"{COPY}/current")
        return str(link.readlink()) if link.is_symlink() else None


def test_the_units_deliver_and_pull(machine: Machine, tmp_path: Path) -> None:
    """As shipped, they are sandboxed, notify readiness, reload, are restarted when they hang, and stop in time."""
    host = Host(machine, tmp_path)
    host.publish()
    for unit in (DELIVER, PULL):
        machine.drop_in(unit, "hurry", "[Service]\nWatchdogSec=8s\nRestartSec=1s\n")
        machine.systemctl("start", unit)
        assert host.show(unit, "ActiveState") == "active"
        process = machine.main_process(unit)
        about = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        assert about["Uid"].split()[0] == str(host.owner)
        assert (about["NoNewPrivs"], about["Seccomp"], about["CapBnd"]) == ("1", "2", "0" * 16)
    eventually(lambda: host.delivered("remote") == 1)
    eventually(lambda: host.pulled() == "versions/000001")
    eventually(lambda: host.show(DELIVER, "StatusText") == "every sink is current")
    eventually(lambda: host.show(PULL, "StatusText") == "following")

    process = machine.main_process(DELIVER)
    host.configure("remote", "other")
    machine.systemctl("reload", DELIVER)
    eventually(lambda: host.delivered("other") == 1)
    assert machine.main_process(DELIVER) == process

    for unit in (DELIVER, PULL):
        heard = host.show(unit, "WatchdogTimestampMonotonic")
        eventually(lambda unit=unit, heard=heard: host.show(unit, "WatchdogTimestampMonotonic") != heard)
        assert host.show(unit, "NRestarts") == "0"
        os.kill(machine.main_process(unit), signal.SIGSTOP)
        eventually(lambda unit=unit: host.show(unit, "NRestarts") == "1")
        eventually(lambda unit=unit: host.show(unit, "ActiveState") == "active")
    host.publish()
    eventually(lambda: (host.delivered("remote"), host.delivered("other")) == (2, 2))
    eventually(lambda: host.pulled() == "versions/000002")
    for unit in (DELIVER, PULL):
        begin = time.monotonic()
        machine.systemctl("stop", unit)
        assert time.monotonic() - begin < stop_seconds(unit.replace("@books", "@").replace("@copy", "@"))
        assert host.show(unit, "Result") == "success"


def test_a_unit_with_a_wrong_configuration_is_not_restarted(machine: Machine) -> None:
    """It exits with 2, which prevents a restart."""
    machine.within("/etc/embsync/wrong.pull").write_text("EMBSYNC_URL=nonsense\n")
    machine.within("/etc/embsync/wrong.yaml").write_text('{"store": {"path": "/var/lib/embsync/wrong/store"}}')
    for unit in ("embsync-pull@wrong.service", "embsync-deliver@wrong.service"):
        machine.systemctl("start", unit, check=False)
        eventually(lambda unit=unit: machine.show(unit, "ActiveState") == "failed")
        assert (machine.show(unit, "ExecMainStatus"), machine.show(unit, "NRestarts")) == ("2", "0")
