"""A systemd for tests: PID 1 in its own namespaces, where the shipped units are installed as documented."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.waiting import PATIENCE, eventually

REPOSITORY = Path(__file__).resolve().parents[2]
UNITS = REPOSITORY / "systemd"
SYSTEMD = Path("/lib/systemd/systemd")
#: As it is when tests are collected: Spark adds a directory of a session, which only its owner may enter.
_PATH = tuple(sys.path)
_TOOLS = ("unshare", "nsenter", "systemctl", "systemd-sysusers", "systemd-tmpfiles")
_BOOTED = "booting"
#: While this file exists, services are started and not ready.
HELD = "/run/held"

#: Overlays over the directories that an installation writes to: changes are lost with the namespace. A home or
#: temporary directory with the interpreter that others may not enter is made accessible in an overlay as well.
#: systemd empties /dev/shm of a user's files when the last service stops (``RemoveIPC=``): it must not be the host's.
_BOOT = f"""
set -e
place="$1" units="$2" closed="$3"
mount --make-rprivate /
mount -t tmpfs tmpfs "$place/layers"
layer() {{
    mkdir -p "$place/layers$1/upper" "$place/layers$1/work"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$place/layers$1/upper,workdir=$place/layers$1/work" "$1"
}}
for name in /etc /opt /var /srv; do
    [ ! -d "$name" ] || layer "$name"
done
for name in $closed; do
    layer "$name"
    chmod 0755 "$name"
done
mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
systemd-sysusers "$units/embsync.sysusers" >/dev/null 2>&1
systemd-tmpfiles --create "$units/embsync.tmpfiles"
mkdir -p /opt/embsync/bin /srv/models
cp "$place/embsync" /opt/embsync/bin/embsync
echo {_BOOTED}
exec {SYSTEMD} --system --log-target=null --show-status=no
"""

#: The default targets of services, empty, so that nothing of the host's is started.
_TARGETS = ("sysinit", "basic", "shutdown", "multi-user", "local-fs", "remote-fs", "umount")


class Machine:
    """A booted systemd; paths inside are reached through its root directory."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._units = place / "units"
        self._units.mkdir()
        (place / "layers").mkdir()
        for name in _TARGETS:
            (self._units / f"{name}.target").write_text("[Unit]\n")
        (self._units / "default.target").symlink_to("multi-user.target")
        for unit in UNITS.glob("*.service"):
            shutil.copy(unit, self._units)
        launcher = place / "embsync"
        launcher.write_text(
            f"#!/bin/sh\nwhile [ -e {HELD} ]; do sleep 0.02; done\n"
            f"PYTHONPATH='{os.pathsep.join(_package_path())}' OMP_NUM_THREADS=1 "
            f'OPENBLAS_NUM_THREADS=1 exec {sys.executable} -m embsync "$@"\n'
        )
        launcher.chmod(0o755)
        self.log = place / "systemd.log"
        self._boot: subprocess.Popen[bytes] | None = None
        self.pid = 0

    @contextlib.contextmanager
    def booted(self) -> Iterator[Machine]:
        """Boot; the namespace ends when the context is left."""
        with self.log.open("wb") as log:
            self._boot = subprocess.Popen(
                [
                    "unshare",
                    "--pid",
                    "--mount",
                    "--cgroup",
                    "--net",
                    "--ipc",
                    "--uts",
                    "--fork",
                    "--kill-child",
                    "--mount-proc",
                    "sh",
                    "-c",
                    _BOOT,
                    "boot",
                    str(self._place),
                    str(UNITS),
                    " ".join(map(str, _closed_directories())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "container": "test", "SYSTEMD_UNIT_PATH": str(self._units)},
            )
        try:
            self._wait_until_booted(self._boot)
            yield self
        finally:
            self._boot.kill()
            self._boot.wait()

    def _wait_until_booted(self, boot: subprocess.Popen[bytes]) -> None:
        eventually(lambda: boot.poll() is not None or _BOOTED in self.log.read_text())
        if boot.poll() is not None:
            pytest.skip(f"no namespaces for a systemd here: {self.log.read_text().strip()[-200:]}")
        self.pid = int(Path(f"/proc/{boot.pid}/task/{boot.pid}/children").read_text().split()[0])
        eventually(lambda: self.systemctl("is-system-running", check=False) == "running")

    def within(self, path: str) -> Path:
        """Return the path outside of a path in the machine."""
        return Path(f"/proc/{self.pid}/root{path}")

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside; return its output."""
        output = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-p", "-n", "--", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert not check or output.returncode == 0, output.stderr
        return output.stdout.strip()

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """Run systemctl inside; return its output."""
        return self.run("systemctl", "--no-pager", *arguments, check=check)

    def show(self, unit: str, name: str) -> str:
        """Return one property of a unit."""
        return self.systemctl("show", "--value", "-p", name, unit)

    def drop_in(self, unit: str, name: str, text: str) -> None:
        """Add a drop-in, as ``systemctl edit`` does."""
        folder = self._units / f"{unit}.d"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.conf").write_text(text)
        self.systemctl("daemon-reload")

    def main_process(self, unit: str) -> int:
        """Return the process id of a unit's main process outside the namespace, once it exists."""
        inside = eventually(lambda: int(self.show(unit, "MainPID")))
        return int(eventually(lambda: _outside(self.pid, inside)))


def _package_path() -> list[str]:
    return [str(REPOSITORY), *(path for path in _PATH if path and path != str(REPOSITORY))]


def interpreter_paths() -> list[str]:
    """Return the directories that a service needs to run this interpreter and the package."""
    places = {sys.prefix, sys.base_prefix, str(REPOSITORY), *(path for path in _PATH if Path(path).is_dir())}
    return sorted(place for place in places if not any(place.startswith(f"{other}/") for other in places))


def _closed_directories() -> list[Path]:
    """Return the directories on the way to the interpreter and the package that only their owner may enter."""
    ways = {way for place in map(Path, interpreter_paths()) for way in (place, *place.parents)}
    return sorted(way for way in ways if not way.stat().st_mode & stat.S_IXOTH)


def _outside(manager: int, inside: int) -> int | None:
    """Return the process id outside of a process in the namespace."""
    namespace = Path(f"/proc/{manager}/ns/pid").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            if fields["NSpid"].split()[-1] == str(inside) and (process / "ns/pid").readlink() == namespace:
                return int(process.name)
    return None


def cannot() -> str | None:
    """Return why no systemd can be booted here, None if it can."""
    if os.geteuid() != 0:
        return "booting a systemd needs root"
    missing = [name for name in _TOOLS if shutil.which(name) is None] + [str(SYSTEMD)] * (not SYSTEMD.exists())
    return f"not installed: {', '.join(missing)}" if missing else None
