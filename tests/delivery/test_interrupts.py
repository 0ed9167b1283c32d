"""Signals during a transfer: it ends at once, readers see the previous version, and the next run completes it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from contract import Stores, deliver, pinned
from servers import BUCKET, S3Server
from support.stores import assert_intact
from support.units import exit_code_in_time, listening
from support.waiting import PATIENCE, eventually

from embsync.config import ObjectStoreConfig
from embsync.delivery.endpoints import open_objects
from embsync.delivery.object_store import ObjectStoreSink
from embsync.delivery.pull import Pull
from embsync.store import Store

pytestmark = pytest.mark.services("obstore")

_PREFIXES = itertools.count()
#: Part of the request at which the endpoint stops responding.
_STALLS_AT = b"users/vectors.npy"


class Stalling:
    """An endpoint that never responds to requests for one object, like a connection that was silently cut."""

    def __init__(self, server: S3Server) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self._target = host, int(port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.stalled = threading.Event()
        self._sockets = [self._listening]
        self._threads: list[threading.Thread] = []
        self._start(self._serve)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments))
        self._threads[-1].start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._target)
                self._sockets += client, server
                self._start(self._forward, client, server, True)
                self._start(self._forward, server, client, False)

    def _forward(self, source: socket.socket, target: socket.socket, requests: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if requests and _STALLS_AT in data:
                    self.stalled.set()
                    return  # leaves both ends open
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close every connection."""
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()


class Line:
    """A store with version 3, a prefix where version 2 is current, and a copy of version 2."""

    def __init__(self, server: S3Server, store: Path, folder: Path) -> None:
        self.url = f"s3://{BUCKET}/interrupted-{next(_PREFIXES)}"
        self.endpoint = server.url
        self.config = ObjectStoreConfig(name="test", url=self.url, endpoint=server.url, lock_seconds=1.0)
        self.stores = {"push": store, "pull": folder / "copy"}
        with pinned(store, 2) as version:
            deliver(ObjectStoreSink(self.config), version)
        Pull(Store(self.stores["pull"]), open_objects(self.config), 3).once()

    def current(self, command: str) -> int | None:
        """Return the version that readers see after a command."""
        return ObjectStoreSink(self.config).current() if command == "push" else assert_intact(self.stores["pull"])

    def arguments(self, command: str, endpoint: str, *more: str) -> list[str]:
        options = ["--endpoint", endpoint, "--store", str(self.stores[command]), *more]
        return [sys.executable, "-m", "embsync", command, self.url, *options]

    def complete(self, command: str) -> None:
        """Run the command again, without the stalling endpoint."""
        done = subprocess.run(self.arguments(command, self.endpoint), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert self.current(command) == 3


@pytest.fixture
def line(rclone_server: S3Server, stores: Stores, tmp_path: Path) -> Line:
    return Line(rclone_server, stores("plain"), tmp_path)


@contextmanager
def at_work(line: Line, server: S3Server, command: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command until it waits for the object that never arrives."""
    stalling = Stalling(server)
    with subprocess.Popen(
        line.arguments(command, stalling.url, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert stalling.stalled.wait(PATIENCE)
            yield process
        finally:
            process.kill()
            stalling.close()


@pytest.mark.parametrize(
    ("command", "number"),
    [("push", signal.SIGINT), ("push", signal.SIGTERM), ("pull", signal.SIGINT), ("pull", signal.SIGHUP)],
)
def test_a_transfer_ends_on_a_signal(command: str, number: signal.Signals, line: Line, rclone_server: S3Server) -> None:
    """It prints one line and exits with 128 plus the signal's number, even while a library waits for the service."""
    if command == "pull":
        line.complete("push")
    with at_work(line, rclone_server, command) as process:
        process.send_signal(number)
        output = process.communicate(timeout=50)  # less than the library's own timeout of 60 s
    assert (process.returncode, output[0]) == (128 + number, "")
    assert output[1].splitlines()[-1].startswith(f"embsync: ended by {number.name}; the current version stays")
    assert "Traceback" not in output[1]
    assert line.current(command) == 2
    line.complete(command)


_OTHER_THREAD = """
import signal, threading, time
from embsync.cli.interrupts import until_signal

def work():
    time.sleep(0.3)  # the main thread waits by now
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(600)

until_signal(work)
"""


def test_a_signal_that_another_thread_receives_ends_the_work() -> None:
    """The kernel may choose any thread; a thread that waits in a library does not wake the main thread."""
    command = [sys.executable, "-c", _OTHER_THREAD]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr.startswith("embsync: ended by SIGTERM")


_SECTION = """
import threading, time
from embsync.store.critical import exit_between_sections, uninterrupted

entered = threading.Event()

def work():
    with uninterrupted():
        entered.set()
        time.sleep(0.3)
        print("complete", flush=True)
    with uninterrupted():
        print("and another one", flush=True)

threading.Thread(target=work).start()
entered.wait()
exit_between_sections(7)
"""


def test_a_switch_that_has_begun_is_completed_first() -> None:
    """A critical section on another thread is completed, and the next one is not begun."""
    done = subprocess.run([sys.executable, "-c", _SECTION], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "complete\n")


def test_a_follower_ends_during_a_transfer(
    line: Line, rclone_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends within the unit's timeout with exit code 0, notifies systemd, and logs that work was ended."""
    line.complete("push")
    address = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(address))
    with listening(address) as messages, at_work(line, rclone_server, "pull", "--follow", "--json") as process:
        process.send_signal(signal.SIGTERM)
        assert exit_code_in_time(process, "embsync-pull@.service") == 0
        assert process.stderr is not None
        last = json.loads(process.stderr.read().splitlines()[-1])
        eventually(lambda: "STOPPING=1" in messages)
    assert (last["event"], last["work_ended"]) == ("stopped", True)
    assert line.current("pull") == 2
    line.complete("pull")


def test_a_delivery_once_ends_on_a_signal(line: Line, rclone_server: S3Server, tmp_path: Path) -> None:
    """``--once`` ends with 128 plus the signal's number, the service with 0, within the unit's timeout."""
    shutil.copytree(line.stores["push"], tmp_path / "store", symlinks=True)
    line.stores["push"] = tmp_path / "store"
    for once in ([], ["--once"]):
        stalling = Stalling(rclone_server)
        sink = {"name": "slow", "kind": "object_store", "url": line.url, "endpoint": stalling.url, "lock_seconds": 1.0}
        config = tmp_path / "embsync.yaml"
        config.write_text(json.dumps({"store": {"path": "store"}, "delivery": {"sinks": [sink]}}))
        command = [sys.executable, "-m", "embsync", "deliver", *once, "--config", str(config)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
            assert stalling.stalled.wait(PATIENCE)
            process.send_signal(signal.SIGTERM)
            assert exit_code_in_time(process, "embsync-deliver@.service") == (143 if once else 0)
        stalling.close()
    assert line.current("push") == 2
    line.complete("push")
