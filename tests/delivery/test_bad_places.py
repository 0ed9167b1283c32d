"""Errors of a place: each is one line with a hint that contains no secret, and the store is unchanged."""

from __future__ import annotations

import http.server
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract import Stores
from servers import BUCKET, SECRET, S3Server
from support.ports import free_port
from support.stores import snapshot_of

from embsync.config import ObjectStoreConfig
from embsync.config_loader import load
from embsync.delivery.endpoints import open_objects
from embsync.delivery.object_store import ObjectStoreSink
from embsync.delivery.secrets import read_secret
from embsync.delivery.steps import deliver
from embsync.errors import EmbsyncError, SinkConflict, SinkError, SinkUnavailable, UsageError

_PREFIXES = itertools.count()


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run embsync."""
    command = [sys.executable, "-m", "embsync", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def refused(root: Path, config: ObjectStoreConfig) -> EmbsyncError:
    """Return the error of a delivery; assert that it is one line with a hint and that the store is unchanged."""
    before = snapshot_of(root)
    with pytest.raises(EmbsyncError) as caught:
        deliver(ObjectStoreSink(config), root, 3, where="test")
    assert snapshot_of(root) == before
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.hint
    assert SECRET not in text
    assert caught.value.__cause__ is None
    return caught.value


@pytest.fixture
def root(stores: Stores) -> Path:
    """The root of a store with three versions."""
    return stores("plain")


class Answering(http.server.BaseHTTPRequestHandler):
    """An endpoint that sends the same response to every request."""

    status, code, body = 500, "InternalError", ""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        text = f"<Error><Code>{self.code}</Code><Message>{self.body}</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def answering() -> Iterator[Callable[..., ObjectStoreConfig]]:
    """Return a function that starts an endpoint with this response, and returns its configuration."""
    servers = []

    def start(status: int, code: str, body: str = "") -> ObjectStoreConfig:
        methods = {f"do_{verb}": Answering.answer for verb in ("GET", "PUT", "HEAD", "POST", "DELETE")}
        handler = type("Handler", (Answering,), {"status": status, "code": code, "body": body, **methods})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return ObjectStoreConfig(name="test", url="s3://b/p", endpoint=f"http://127.0.0.1:{server.server_port}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.services("obstore")
def test_push_options_include_endpoint_and_region() -> None:
    """The options of ``embsync push`` include the endpoint and the region."""
    config = ObjectStoreConfig(name="test", url="s3://b/p", endpoint="http://127.0.0.1:9", region="eu-1")
    assert open_objects(config).push_options == ("--endpoint", "http://127.0.0.1:9", "--region", "eu-1")
    assert open_objects(ObjectStoreConfig(name="test", url="s3://b/p")).push_options == ()


@pytest.mark.services("obstore")
@pytest.mark.parametrize(
    ("status", "code", "error", "says"),
    [
        (403, "SignatureDoesNotMatch", SinkError, "not permitted"),
        (403, "InvalidAccessKeyId", SinkError, "not permitted"),
        (400, "AccessDenied", SinkError, "not permitted"),
        (403, "RequestTimeTooSkewed", SinkUnavailable, "the clock of this machine is wrong"),
        (404, "NoSuchBucket", SinkError, "no such bucket"),
        (507, "InsufficientStorage", SinkUnavailable, "no space left"),
        (400, "XMinioStorageFull", SinkUnavailable, "no space left"),
    ],
)
def test_errors_of_a_service_are_quoted(
    root: Path,
    answering: Callable[..., ObjectStoreConfig],
    status: int,
    code: str,
    error: type[EmbsyncError],
    says: str,
) -> None:
    """The error says whether a retry may succeed, and what to do; a secret in the response is not repeated."""
    caught = refused(root, answering(status, code, f"your secret {SECRET} is wrong"))
    assert type(caught) is error
    assert says in str(caught)
    assert code in str(caught.found)


@pytest.mark.services("obstore")
def test_an_unreachable_endpoint_is_reported(root: Path) -> None:
    """It may become reachable, so the error is transient."""
    config = ObjectStoreConfig(name="test", url="s3://b/p", endpoint=f"http://127.0.0.1:{free_port()}")
    caught = refused(root, config)
    assert type(caught) is SinkUnavailable
    assert "cannot be reached" in str(caught)


@pytest.mark.services("obstore")
def test_a_wrong_secret_is_never_shown(root: Path, rclone_server: S3Server, tmp_path: Path) -> None:
    """It is neither in the line, nor in a traceback by ``--debug``, nor in the log or the state of the service."""
    wrong = "a-wrong-secret-of-somebody"
    url = f"s3://{BUCKET}/wrong-{next(_PREFIXES)}"
    arguments = ["push", url, "--endpoint", rclone_server.url, "--store", root, "--debug"]
    done = run(*arguments, AWS_SECRET_ACCESS_KEY=wrong)
    assert "not permitted" in done.stderr
    assert "Traceback" in done.stderr
    config = tmp_path / "embsync.yaml"
    secrets = tmp_path / "secrets"
    secrets.write_text(f"AWS_ACCESS_KEY_ID=me\nAWS_SECRET_ACCESS_KEY={wrong}\n")
    sink = {
        "name": "m",
        "kind": "object_store",
        "url": url,
        "endpoint": rclone_server.url,
        "credentials_file": "secrets",
    }
    delivery = {"sinks": [sink], "directory": str(tmp_path)}
    config.write_text(json.dumps({"store": {"path": str(root)}, "delivery": delivery}))
    once = run("deliver", "--once", "--config", config, "--json")
    assert (once.returncode, once.stderr.count("\n")) == (8, 1)
    shown = run("check-config", "--config", config).stdout
    written = "".join(path.read_text() for path in tmp_path.glob("delivery.*"))
    for text in (done.stdout, done.stderr, once.stdout, once.stderr, shown, written):
        assert wrong not in text


def test_a_full_directory_is_reported(root: Path, tmp_path: Path) -> None:
    """The incomplete version is completed once there is space."""
    (tmp_path / "remote").mkdir()
    config = ObjectStoreConfig(name="test", url=f"file://{tmp_path}/remote")
    sink = ObjectStoreSink(config)
    upload = type(sink._objects).upload
    left = [5]

    def full(objects: object, key: str, path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            with objects._errors():
                raise OSError(28, os.strerror(28), key)
        upload(objects, key, path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(sink._objects), "upload", full)
        caught = refused(root, config)
    assert type(caught) is SinkUnavailable
    assert "no space left" in str(caught)
    (half,) = sink.generations()
    assert not half.complete
    assert deliver(sink, root, 3).version == 3


def test_an_unwritable_directory_is_reported(root: Path, tmp_path: Path) -> None:
    """A directory cannot be created below a file."""
    (tmp_path / "file").write_text("theirs")
    caught = refused(root, ObjectStoreConfig(name="test", url=f"file://{tmp_path}/file"))
    assert isinstance(caught, SinkUnavailable)
    assert (tmp_path / "file").read_text() == "theirs"


def test_a_prefix_of_another_program_is_refused(root: Path, tmp_path: Path) -> None:
    """The error is a conflict, and nothing is written there."""
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote" / "photo.jpg").write_text("theirs")
    before = snapshot_of(tmp_path / "remote")
    caught = refused(root, ObjectStoreConfig(name="test", url=f"file://{tmp_path}/remote"))
    assert isinstance(caught, SinkConflict)
    assert snapshot_of(tmp_path / "remote") == before


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"format": 9}', b"\xff" * 50])
def test_a_damaged_pointer_is_refused(root: Path, tmp_path: Path, damage: bytes) -> None:
    """A pointer that cannot be parsed is a conflict."""
    (tmp_path / "remote").mkdir()
    config = ObjectStoreConfig(name="test", url=f"file://{tmp_path}/remote")
    deliver(ObjectStoreSink(config), root, 3)
    open_objects(config).write("current.json", damage)
    assert isinstance(refused(root, config), SinkConflict)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://host/path", "not the URL of an object store"),
        ("bucket/prefix", "not the URL of an object store"),
        ("/srv/a copy", "the directory's URL is 'file:///srv/a copy'$"),
        ("file://relative/path", "not a directory's URL"),
        ("file:///", "not a directory's URL"),
        ("file:///srv/a#b", "without # and \\?"),
        ("file:///srv/a?b", "without # and \\?"),
        ("/srv/a#b", "or file:///directory$"),
        ("s3:///prefix", "not the URL of an object store"),
        ("s3://key:hunter2@bucket/prefix", "credentials in a URL"),
    ],
)
def test_invalid_urls_are_refused_before_connecting(url: str, says: str) -> None:
    """A secret in the URL is not repeated."""
    with pytest.raises(UsageError, match=says) as caught:
        open_objects(ObjectStoreConfig(name="test", url=url))
    assert "hunter2" not in str(caught.value)


@pytest.mark.services("obstore")
@pytest.mark.parametrize("text", ["nonsense\n", "=x\n", "AWS_NO_SUCH_KEY=1\n"])
def test_an_invalid_credentials_file_is_refused(tmp_path: Path, text: str) -> None:
    """A malformed line, an unknown key or a missing file is an error."""
    file = tmp_path / "credentials"
    file.write_text(text)
    with pytest.raises(UsageError):
        open_objects(ObjectStoreConfig(name="test", url="s3://b/p", credentials_file=str(file))).read("x")
    with pytest.raises(UsageError, match="cannot be read"):
        open_objects(ObjectStoreConfig(name="test", url="s3://b/p", credentials_file=f"{file}.gone")).read("x")


def test_secrets_come_from_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly one of the two is given, and it is not empty."""
    file = tmp_path / "password"
    file.write_text("from-a-file\nmore\n")
    monkeypatch.setenv("OF_A_SINK", "from-a-variable")
    assert read_secret("key") is None
    assert read_secret("key", variable="OF_A_SINK") == "from-a-variable"
    assert read_secret("key", file=str(file)) == "from-a-file"
    file.write_text("\n")
    for given in (
        {"variable": "OF_A_SINK", "file": str(file)},
        {"variable": "NOT_SET"},
        {"file": str(file)},
        {"file": f"{file}.gone"},
    ):
        with pytest.raises(UsageError):
            read_secret("key", **given)


@pytest.mark.parametrize(
    ("sinks", "says"),
    [
        ([{"name": "m"}], "unknown kind of sink; found nothing; expected"),
        ([{"name": "m", "kind": "s4"}], "unknown kind of sink; found 's4'"),
        (["m"], "not a sink"),
        ("m", "wrong value"),
        ([{"name": "m", "kind": "object_store"}], "url"),
        ([{"name": "M!", "kind": "object_store", "url": "file:///x"}], "wrong value"),
        ([{"name": "m", "kind": "object_store", "url": "file:///x", "keepversions": 3}], "keep_versions"),
        ([{"name": "m", "kind": "object_store", "url": "file:///x"}] * 2, "two sinks have the same name"),
        ([{"name": "m", "kind": "object_store", "url": "s3://a:hunter2@b/c"}], "credentials in a URL"),
        ([{"name": "m", "kind": "object_store", "url": "file:///x", "pasword": "hunter2"}], "unknown"),
    ],
)
def test_an_invalid_sink_configuration_is_refused(tmp_path: Path, sinks: object, says: str) -> None:
    """The key is named, and no value that may be a secret."""
    file = tmp_path / "embsync.yaml"
    file.write_text(json.dumps({"delivery": {"sinks": sinks}}))
    with pytest.raises(UsageError) as caught:
        load(file, environment={})
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_paths_of_a_sink_are_relative_to_the_configuration_file(tmp_path: Path) -> None:
    """They are resolved like all other paths in the file."""
    sink = {"name": "m", "kind": "object_store", "url": "s3://b/c", "credentials_file": "secrets"}
    file = tmp_path / "embsync.yaml"
    file.write_text(json.dumps({"delivery": {"sinks": [sink], "directory": "state"}}))
    config = load(file, environment={}).delivery
    assert getattr(config.sinks[0], "credentials_file", None) == str(tmp_path / "secrets")
    assert config.directory == str(tmp_path / "state")
