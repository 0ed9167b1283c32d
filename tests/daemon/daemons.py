"""A real daemon in its own process, and operations of tests on it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import yaml
from support.nights import Night, night, write_npy
from support.waiting import PATIENCE, eventually

from embsync.store import Store
from embsync.store.journal import Event

RESCAN = 0.4
COMMAND = [sys.executable, "-m", "embsync"]
#: A command that respects file modes even if root runs it.
OBEYING = [sys.executable, "-m", "support.obeying", "embsync"]

#: All names that a store may contain while its daemon is idle or stopped.
AT_REST = {
    "versions",
    "current",
    "journal.jsonl",
    "lock",
    "daemon.lock",
    "status.json",
    "metrics.prom",
    "on_publish.json",
    "order.json",
}


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which the package under test is found and one thread is used."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        **more,
    }


class Place:
    """A watched directory, a store and a configuration, and the daemon on them."""

    def __init__(self, root: Path, **watch: object) -> None:
        self.watch = root / "watch"
        self.store = Store(root / "store", wait=20.0)
        self.file = root / "embsync.yaml"
        self.log = root / "log"
        self.command = COMMAND
        self.settings: dict[str, Any] = {
            "watch": {"path": "watch", "rescan_seconds": RESCAN, "backlog": "every", "complete": "marker", **watch},
            "store": {"path": "store", "keep_versions": 3},
            "index": {"factory": "Flat"},
            "threads": 1,
        }
        self.watch.mkdir()
        self.configure()
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, **sections: dict[str, Any]) -> None:
        """Write the configuration, changed as given."""
        for section, keys in sections.items():
            self.settings.setdefault(section, {}).update(keys)
        self.file.write_text(yaml.safe_dump(self.settings))

    @contextlib.contextmanager
    def daemon(self, stderr: IO[bytes] | None = None, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a daemon; on exit it gets SIGTERM, and is killed if it does not stop."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, "run", "-c", str(self.file)], stderr=stderr or log, env=environment(**variables)
            )
        try:
            yield self.process
        finally:
            if self.process.poll() is None:
                self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command on the same configuration."""
        return subprocess.run(
            [*self.command, *arguments, "-c", str(self.file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
            env=environment(),
        )

    def drop(self, number: int, made: Night | None = None, *, marker: bool = True) -> Path:
        """Write a snapshot, and its marker last."""
        folder = write_npy(self.watch / f"day={number}", night(number) if made is None else made)
        if marker:
            (folder / "_SUCCESS").touch()
        return folder

    def events(self, *names: str) -> list[Event]:
        """Return the journal's events with these names, or all events."""
        return [event for event in self.store.journal.events() if not names or event.event in names]

    def published(self) -> list[str]:
        """Return the names of published snapshots, in order."""
        return [(event.snapshot or {}).get("name") or "" for event in self.events("published")]

    def wait_for(self, *numbers: int, seconds: float = PATIENCE) -> None:
        """Wait until these days are published."""
        eventually(lambda: {f"day={number}" for number in numbers} <= set(self.published()), seconds)

    def status(self) -> dict[str, Any]:
        """Return status.json, empty while there is none."""
        try:
            found: dict[str, Any] = json.loads((self.store.root / "status.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def wait_state(self, *states: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait until the daemon reports one of these states."""
        return eventually(lambda: (found := self.status()).get("state") in states and found, seconds)

    def looks(self) -> int:
        """Return how often the daemon has scanned the directory."""
        with contextlib.suppress(FileNotFoundError):
            for line in (self.store.root / "metrics.prom").read_text().splitlines():
                if line.startswith("embsync_scans_total "):
                    return int(line.split()[1])
        return 0

    def wait_looks(self, more: int = 2) -> None:
        """Wait until this number of scans has ended: of two, the second began after the call."""
        before = self.looks()
        eventually(lambda: self.looks() >= before + more)

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the JSON lines of the log, except one that is still being written."""
        written = self.log.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in written.splitlines() if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of an event."""
        return [line for line in self.log_lines() if line["event"] == event]

    def worker(self) -> int | None:
        """Return the process that works or waits for a job, None between two of them."""
        assert self.process is not None
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(found[0]) if found else None

    def at_work(self, times: int = 1) -> int:
        """Wait until work has begun this number of times; return its process."""
        eventually(lambda: len(self.logged("begun")) >= times)
        return int(eventually(self.worker))

    def send(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def replace_root(self, aside: str) -> None:
        """Move the watched directory away and make an empty one."""
        self.watch.rename(self.watch.parent / aside)
        self.watch.mkdir()

    def remove_root(self) -> None:
        """Delete the watched directory and all in it."""
        shutil.rmtree(self.watch)

    def assert_at_rest(self) -> None:
        """Assert that the store contains only final files."""
        assert {path.name for path in self.store.root.iterdir()} <= AT_REST
        assert all(path.name.isdigit() for path in self.store.versions.iterdir())


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """Yield the file that adds processes to a control group with this memory limit; skip if no group can be made."""
    for place, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(place) / f"embsync-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
        with contextlib.suppress(OSError):
            (group / name).write_text(str(limit))
            break
        with contextlib.suppress(OSError):
            group.rmdir()
    else:
        pytest.skip("no control group with a limit of memory can be made here")
    try:
        yield group / "cgroup.procs"
    finally:
        eventually(lambda: _gone(group))


def _gone(group: Path) -> bool:
    with contextlib.suppress(OSError):  # busy until the last process is reaped
        group.rmdir()
    return not group.exists()
