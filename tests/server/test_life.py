"""The life of a server: before the first version, during switches of versions under load, and until the signal."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.forkserver import SWITCH
from support.http import NPY, Server, command, environment, serving
from support.nights import configured, night
from support.quick import quick_directory
from support.stores import sync
from support.units import exit_code_in_time
from support.waiting import PATIENCE, eventually

from embsync.cli.main import run
from embsync.errors import StoreError
from embsync.store import Store

SIZES = {"items": 120, "users": 60, "width": 6}


@pytest.fixture
def root() -> Iterator[Path]:
    """A path for a store."""
    with quick_directory() as directory:
        yield directory / "S"


def until_version(server: Server, number: int) -> None:
    """Wait until a version is served."""
    eventually(lambda: server.ask("/readyz").headers["X-Embsync-Version"] == str(number))


def test_before_the_first_version_the_server_is_up_but_not_ready(root: Path) -> None:
    """Without a store the status is 503 with version "none"; the server becomes ready once a version is published."""
    with serving(root, ready=False) as server:
        assert (server.announced["store"], server.announced["version"]) == (str(root), None)
        answer = server.ask("/readyz")
        assert (answer.status, answer.headers["X-Embsync-Version"]) == (503, "none")
        assert server.ask("/healthz").status == 200
        assert server.ask("/v1/search", {"users": [2000]}).status == 503
        assert server.ask("/v1/version").plain["what"] == "no version yet"
        sync(root, night(0, **SIZES), "n0")
        until_version(server, 1)
        assert server.ask("/readyz").status == 200


def children(server: Server) -> set[int]:
    """Return the processes of a server's workers."""
    task = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return set(map(int, task.read_text().split()))


class Load(threading.Thread):
    """Sends requests over one connection until stopped; each response must be entirely of one version."""

    def __init__(self, server: Server, truth: dict[int, np.ndarray], stop: threading.Event) -> None:
        super().__init__()
        self._server, self._truth, self._stop_asking = server, truth, stop
        self.versions: list[int] = []
        self.failures: list[str] = []

    def run(self) -> None:
        """Send requests until stopped."""
        connection = self._server.connect()
        while not self._stop_asking.is_set():
            try:
                self._ask(connection)
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failures.append(repr(error))
                connection.close()
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        answer = self._server.ask("/v1/lookup", {"side": "items", "ids": [1700]}, connection=connection)
        assert answer.status == 200, answer.body
        assert answer.plain["version"] == answer.version
        np.testing.assert_array_equal(np.float32(answer.plain["vectors"]), self._truth[answer.version])
        self.versions.append(answer.version)
        hits = self._server.ask("/v1/search?k=3", self._truth[answer.version], connection=connection, Accept=NPY)
        assert hits.status == 200, hits.body
        self.versions.append(hits.version)


@pytest.mark.parametrize("switches", [8, pytest.param(100, marks=pytest.mark.torture)])
@pytest.mark.parametrize("workers", [1, 2])
def test_no_answer_fails_or_is_mixed_while_versions_change_under_load(root: Path, workers: int, switches: int) -> None:
    """Versions are published, pruned and rolled back without pauses, while four connections send requests."""
    import embsync

    config = configured(store__keep_versions=2)
    truth: dict[int, np.ndarray] = {}
    nights = [night(0, **SIZES, turned=True), night(1, **SIZES, churn=0.0), night(2, **SIZES, churn=0.0)]

    def publish(number: int) -> None:
        # The expected vectors must be known before a request: the version is published to another store first.
        sync(beside, nights[number % 3], f"b{number}", config)
        with embsync.open(beside) as reader:
            truth[reader.current.number] = reader.current.items.lookup([1700])
        sync(root, nights[number % 3], f"n{number}", config)

    beside = root.with_name("T")
    publish(0)
    stop = threading.Event()
    with serving(root, "--workers", str(workers)) as server:
        loads = [Load(server, truth, stop) for _ in range(4)]
        for load in loads:
            load.start()
        for number in range(1, switches + 1):
            publish(number)
            if number % 2:  # every second version is not waited for
                eventually(lambda wanted=number + 1: any(wanted in load.versions for load in loads))
        until_version(server, switches + 1)
        eventually(lambda: sum(len(load.versions) for load in loads) > 300)
        stop.set()
        for load in loads:
            load.join(PATIENCE)
        assert [failure for load in loads for failure in load.failures] == []
        seen = [number for load in loads for number in load.versions]
        assert len(seen) > 300
        assert len(set(seen)) > switches / 2
        if workers == 2:
            assert "embsync_http_requests_total" in server.ask("/metrics").body.decode()


def test_a_damaged_version_is_not_served_and_reported(root: Path) -> None:
    """With one wrong bit and the right size, the old version is served on, and health and metrics give the reason."""
    sync(root, night(0, **SIZES), "n0")
    sync(root, night(1, **SIZES), "n1")
    Store(root).rollback(1)
    file = root / "versions/000002/index_rows.npy"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with serving(root) as server:
        (root / "current").unlink()
        (root / "current").symlink_to("versions/000002")
        eventually(lambda: server.ask("/healthz").plain["error"])
        state = server.ask("/healthz").plain
        assert "index_rows.npy: damaged version" in state["error"]
        assert (state["serving"], state["newest"]) == (1, 2)
        assert server.ask("/v1/search", {"users": [2007], "k": 1}).version == 1
        moved = server.ask("/v1/movement", {"side": "users", "id": 2007}).plain
        assert [step["version"] for step in moved["steps"]] == [1]
        raw = {"side": "users", "vectors": [[1] * 6], "version": 2}
        assert server.ask("/v1/transform", raw).status == 200  # its maps are intact
        assert "embsync_version_errors_total 1.0" in server.ask("/metrics").body.decode()
    output = [json.loads(line) for line in (root.parent / "serve.log").read_text().splitlines()]
    assert [(line["event"], line["level"]) for line in output] == [("serving", "info"), ("not_served", "error")]
    assert output[0]["version"] == 1
    assert "damaged version" in output[1]["reason"]


def test_a_damaged_map_of_a_kept_version_is_not_used(root: Path) -> None:
    """With one wrong bit and the right size, mapping vectors and searching with raw ones give 503."""
    for number in range(2):
        sync(root, night(number, **SIZES), f"n{number}")
    file = root / "versions/000001/transform/users.npy"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with serving(root) as server:
        for path, asked in (
            ("transform", {"side": "users", "version": 1}),
            ("search", {"space": "snapshot", "snapshot_version": 1}),
        ):
            answer = server.ask(f"/v1/{path}", {"vectors": [[1] * 6], **asked})
            assert (answer.status, answer.version) == (503, 2)
            assert "transform/users.npy" in answer.plain["where"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_shuts_the_server_down_in_order(root: Path, number: signal.Signals, workers: str) -> None:
    """The exit code is 0, soon, even with idle connections, and no worker is left."""
    sync(root, night(0, **SIZES), "n0")
    with serving(root, "--workers", workers) as server:
        connection = server.connect()
        server.ask("/readyz", connection=connection)
        workers = children(server)
        server.process.send_signal(number)
        assert exit_code_in_time(server.process, "embsync-serve@.service") == 0
        connection.close()
        assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


#: A server that gets the signal just before a call.
_TOO_EARLY = """
import os, signal, sys, threading
import uvicorn
from embsync.server import server
threading.Thread(target=threading.Event().wait, daemon=True).start()  # the kernel may give it the signal
where, name, *arguments = sys.argv[1:]
where = {"uvicorn": uvicorn.Server, "server": server}[where]
call = getattr(where, name)
def signalled(*given, **named):
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    return call(*given, **named)
setattr(where, name, signalled)
from embsync.cli.main import main
main(arguments)
"""


@pytest.mark.parametrize(
    ("where", "name", "workers"), [("uvicorn", "run", "1"), ("server", "_name", "1"), ("server", "_name", "2")]
)
def test_a_signal_during_startup_is_not_lost(root: Path, tmp_path: Path, where: str, name: str, workers: str) -> None:
    """A stop signal after one to reload, which does not end the server, gives exit code 0 and leaves no socket."""
    sync(root, night(0, **SIZES), "n0")
    _, _, _, _, _, *arguments = command(root, "--listen", f"unix:{tmp_path}/s", "--workers", workers)
    done = subprocess.run(
        [sys.executable, "-m", "support.script", _TOO_EARLY, where, name, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_to_reload_is_logged_as_unsupported(root: Path, workers: str) -> None:
    """SIGHUP does not end the server; the log says that versions are followed, and other changes need a restart."""
    sync(root, night(0, **SIZES), "n0")
    with serving(root, "--workers", workers) as server:
        server.process.send_signal(signal.SIGHUP)
        log = root.parent / "serve.log"
        eventually(lambda: server.process.poll() is not None or "not_reloaded" in log.read_text())
        assert server.process.poll() is None
        assert server.ask("/v1/version").version == 1


def test_a_worker_that_dies_is_replaced(root: Path) -> None:
    """After SIGKILL the other worker serves, a new one starts, and the metrics of the killed one are removed."""
    sync(root, night(0, **SIZES), "n0")
    with serving(root, "--workers", "2") as server:
        before = children(server)
        assert len(before) == 2
        os.kill(min(before), signal.SIGKILL)
        end = time.monotonic() + PATIENCE
        while len(children(server) - before) != 1 or len(children(server)) != 2:
            assert time.monotonic() < end
            assert server.ask("/healthz").status == 200
            time.sleep(0.05)
        sync(root, night(1, **SIZES), "n1")
        eventually(lambda: "embsync_serving_version 2.0" in server.ask("/metrics").body.decode())
        Store(root).rollback(1)
        eventually(lambda: server.ask("/readyz").plain["newest"] == 1)
        newest = "embsync_newest_version 1.0"  # until the other worker has checked too, the response may have its value
        eventually(lambda: all(newest in server.ask("/metrics").body.decode() for _ in range(8)))


def test_a_worker_starts_while_the_token_file_is_missing(root: Path, tmp_path: Path) -> None:
    """It accepts no token until the file exists again; the log has the death of the previous worker."""
    sync(root, night(0, **SIZES), "n0")
    token = tmp_path / "token"
    token.write_text("sesame")
    with serving(root, "--workers", "2", "--token-file", str(token)) as server:
        token.unlink()
        before = children(server)
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        end = time.monotonic() + PATIENCE
        while len(children(server) - before) != 2 or server.ask("/v1/version").status != 401:
            assert time.monotonic() < end
            time.sleep(0.05)
        begun = children(server)
        token.write_text("sesame")
        assert server.ask("/v1/version", Authorization="Bearer sesame").version == 1
        assert children(server) == begun
    output = [json.loads(line) for line in (root.parent / "serve.log").read_text().splitlines() if line.startswith("{")]
    died = {line["worker"]: line["status"] for line in output if line["event"] == "worker_died"}
    assert died == dict.fromkeys(before, -signal.SIGKILL)


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="systemd-tmpfiles cleans by age")
def test_shared_files_of_workers_are_not_removed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if they look months old, a new version is served and counted."""
    sync(root, night(0, **SIZES), "n0")
    shared = tmp_path / "tmp"
    (shared / "left").mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(shared))
    (tmp_path / "clean.conf").write_text(f"d {shared} 0700 - - 0\n")
    with serving(root, "--workers", "2") as server:
        subprocess.run(["systemd-tmpfiles", "--clean", tmp_path / "clean.conf"], check=True, capture_output=True)
        assert [path.name.startswith("embsync-metrics-") for path in shared.iterdir()] == [True]
        sync(root, night(1, **SIZES), "n1")
        until_version(server, 2)
        eventually(lambda: "embsync_newest_version 2.0" in server.ask("/metrics").body.decode())  # both have checked


def test_the_server_ends_if_all_workers_die_at_once(root: Path) -> None:
    """The exit code is 1, for the service manager."""
    sync(root, night(0, **SIZES), "n0")
    with serving(root, "--workers", "2", ready=False) as server:
        end = time.monotonic() + PATIENCE
        while server.process.poll() is None:
            assert time.monotonic() < end
            for worker in children(server):
                with contextlib.suppress(ProcessLookupError):  # ended since it was listed
                    os.kill(worker, signal.SIGKILL)
            time.sleep(0.02)
        assert server.process.returncode == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--listen", "0.0.0.0:0"], "refusing to listen beyond this machine without a token"),
        (["--listen", "nowhere"], "not an address"),
        (["--listen", "127.0.0.1:99999"], "not an address"),
        (["--token-file", "/nonexistent"], "no token"),
    ],
)
def test_invalid_options_of_serve_are_usage_errors(root: Path, options: list[str], message: str) -> None:
    """The exit code is 2, with one line."""
    done = subprocess.run(command(root, *options), capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("given", [["--host", "0.0.0.0", "--listen", "127.0.0.1:0"], ["--listen", "0.0.0.0:0"]])
def test_the_printed_command_creates_a_token_and_listens(
    root: Path, tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Both halves of the printed shell line are run here."""
    assert run(["serve", *given, "--store", str(root)]) == 2
    making, _, serving_it = capsys.readouterr().err.rpartition("with a token: ")[2].partition(" && ")
    subprocess.run(["sh", "-c", making], cwd=tmp_path, check=True)
    token = tmp_path / "embsync.token"
    assert (token.stat().st_mode & 0o777, len(token.read_text().strip())) == (0o600, 32)
    name, *words = shlex.split(serving_it)
    assert name == "embsync"
    line = [sys.executable, "-m", "embsync", *words]
    with subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on http://0.0.0.0:")
        process.terminate()


def test_a_file_in_the_place_of_the_store_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message is one line with the exit code of a damaged store; the server does not wait for a first version."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="not a store"):
        Store(tmp_path / "file").make()
    for line in (["serve", "--listen", f"unix:{tmp_path}/s"], ["status"], ["hold"]):
        assert run([*line, "--store", str(tmp_path / "file")]) == 5
        assert "file: not a store; found a file; expected a directory; hint: " in capsys.readouterr().err


def has_read(process: int) -> int:
    """Return the bytes a process has read, 0 once it has ended."""
    try:
        return int(Path(f"/proc/{process}/io").read_text().split("rchar: ")[1].split()[0])
    except OSError:
        return 0


def most_read(server: Server) -> int:
    """Return the largest number of bytes that a worker has read."""
    try:
        return max(map(has_read, children(server)), default=0)
    except OSError:
        return 0


def with_padding(root: Path, size: int, digest: str) -> None:
    """Add a file of zeros to the first version that takes time to hash."""
    version = root / "versions/000001"
    (version / "padding").touch()
    os.truncate(version / "padding", size)
    manifest = json.loads((version / "manifest.json").read_text())
    files = [file for file in manifest["files"] if file["path"] != "padding"]
    manifest["files"] = [*files, {"path": "padding", "bytes": size, "sha256": digest}]
    (version / "manifest.json").unlink()
    (version / "manifest.json").write_text(json.dumps(manifest))
    (version / "manifest.sha256").unlink(missing_ok=True)


def test_one_worker_hashes_for_all_and_hashing_does_not_delay_a_stop(root: Path) -> None:
    """A stop while the first version is hashed does not wait for that; otherwise the file is read only once."""
    sync(root, night(0, **SIZES), "n0")
    with_padding(root, 1 << 42, "0" * 64)  # which takes an hour
    with serving(root, "--workers", "3", ready=False) as server:
        eventually(lambda: most_read(server) > 1 << 26)
        server.process.send_signal(signal.SIGTERM)
        assert exit_code_in_time(server.process, "embsync-serve@.service") == 0
    nothing = hashlib.sha256()
    for _ in range((size := 1 << 28) >> 26):
        nothing.update(bytes(1 << 26))
    with_padding(root, size, nothing.hexdigest())
    with serving(root, "--workers", "3") as server:
        for _ in range(20):  # each worker gets connections, but none before it serves
            assert server.ask("/v1/version").status == 200
        assert size < sum(map(has_read, children(server))) < 2 * size


def test_the_server_and_its_workers_are_separate_processes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They load all modules themselves, unlike forked ones in other tests, and without a warning."""
    monkeypatch.setenv(SWITCH, "0")
    sync(root, night(0, **SIZES), "n0")
    with serving(root, "--workers", "2") as server:
        assert server.ask("/readyz").status == 200
