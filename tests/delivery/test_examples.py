"""The examples for schedulers and containers: their files are parsed, and their commands are run."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import program
from support.nights import night, write_npy
from support.waiting import PATIENCE

import embsync
from embsync.cli.main import COMMANDS
from embsync.errors import EmbsyncError, SinkError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


class Place:
    """A directory with the layout that the examples expect of a machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("snapshots", "var/lib/embsync", "etc/embsync", "embeddings", "bucket", "bin"):
            (folder / name).mkdir(parents=True)
        path = write_npy(folder / "snapshots" / "day=1", night(1))
        (path / "_SUCCESS").touch()
        wrapper = folder / "bin" / "embsync"
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m embsync "$@"\n')
        wrapper.chmod(0o755)

    def here(self, text: str) -> str:
        """Return text with its paths moved below the directory, and its bucket replaced by a directory."""
        text = text.replace("s3://models/books", f"file://{self.folder}/bucket")
        return re.sub(r"(?<![\w/.:])/(snapshots|var|etc|embeddings)\b", rf"{self.folder}/\1", text)

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command of an example in the directory."""
        environment = {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        words = [self.here(word) for word in command]
        if words[0] == "embsync":  # as its wrapper would, but forked
            words[:1] = [sys.executable, "-m", "embsync"]
        return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def documents(name: str) -> list[dict[str, Any]]:
    """Return the objects of a Kubernetes file."""
    return list(yaml.safe_load_all((EXAMPLES / "kubernetes" / name).read_text(encoding="utf-8")))


def containers(spec: dict[str, Any]) -> dict[str, list[str]]:
    """Return the command of each container of a pod, in the order in which they start."""
    return {one["name"]: one["command"] for one in (*spec.get("initContainers", ()), *spec["containers"])}


def configure(place: Place, **changes: Any) -> None:
    """Write the configuration of the example to the path that it expects."""
    config = yaml.safe_load(place.here(documents("publish.yaml")[0]["data"]["embsync.yaml"]))
    (place.folder / "etc/embsync/embsync.yaml").write_text(json.dumps({**config, **changes}))


def test_the_cron_job_publishes_and_delivers_and_the_sidecar_follows(place: Place) -> None:
    """The commands work in the order in which Kubernetes runs them; the server's is tested elsewhere."""
    configure(place)
    job = containers(documents("publish.yaml")[1]["spec"]["jobTemplate"]["spec"]["template"]["spec"])
    assert list(job) == ["publish", "deliver"]
    published = place.run(job["publish"])
    assert (published.returncode, published.stderr) == (0, "")
    json.loads(published.stdout)
    assert place.run(job["deliver"]).returncode == 0
    pod = containers(documents("sidecar.yaml")[0]["spec"]["template"]["spec"])
    assert list(pod) == ["first-version", "follow", "search"]
    assert place.run(pod["first-version"]).returncode == 0
    with embsync.open(place.folder / "embeddings/store") as reader:
        assert reader.current.number == 1
    assert pod["follow"][:-2] == pod["first-version"]
    words = [place.here(word) for word in pod["follow"]]
    with subprocess.Popen([sys.executable, "-m", *words], stderr=subprocess.PIPE, text=True) as follower:
        try:
            publish_another(place, job)
            assert follower.stderr is not None
            line = next(line for line in iter(follower.stderr.readline, "") if '"pulled"' in line)
            assert json.loads(line)["version"] == 2
            follower.send_signal(signal.SIGTERM)
            assert follower.wait(PATIENCE) == 0
        finally:
            follower.kill()


def publish_another(place: Place, job: dict[str, list[str]]) -> None:
    """Publish and deliver a second night."""
    path = write_npy(place.folder / "snapshots" / "day=2", night(2))
    (path / "_SUCCESS").touch()
    for step in ("publish", "deliver"):
        assert place.run(job[step]).returncode == 0


def test_every_kubernetes_manifest_is_valid() -> None:
    """Mounted volumes exist, commands exist in this release, and the image has its version."""
    specs = [documents("publish.yaml")[1]["spec"]["jobTemplate"]["spec"]["template"]["spec"]]
    specs.append(documents("sidecar.yaml")[0]["spec"]["template"]["spec"])
    for spec in specs:
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["command"][0] == "embsync"
            assert container["command"][1] in COMMANDS
            assert container["image"].endswith(f":{embsync.__version__}")


def test_the_container_image_has_what_it_needs() -> None:
    """The image installs this release with extras that exist, and runs an existing command, not as root."""
    lines = (EXAMPLES / "container" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(lines)
    found = re.search(r'"embsync\[([a-z,]+)\]==([\d.]+)"', text)
    assert found is not None
    assert found[2] == embsync.__version__
    assert all(re.search(rf"^{extra} = ", PROJECT, re.MULTILINE) for extra in found[1].split(","))
    (last,) = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD ")]
    assert last[0] == "embsync"
    assert last[1] in COMMANDS
    assert "USER embsync" in lines


class Fatal(Exception):
    """Stands for an error after which a scheduler does not retry."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()


class Again(Fatal):
    """Stands for an error after which a scheduler retries."""


def _stub(name: str, **members: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(members)
    return module


def _decorator(*arguments: Any, **_: Any) -> Any:
    return arguments[0] if arguments and callable(arguments[0]) else lambda function: lambda *given: None


@pytest.fixture
def schedulers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the two schedulers by stubs, since only their use of exit codes is tested."""
    anything: Callable[..., Any] = lambda *_, **__: None  # noqa: E731
    dagster = _stub(
        "dagster", asset=_decorator, Definitions=anything, RetryPolicy=anything, Failure=Fatal, RetryRequested=Again
    )
    vars(dagster)["Backoff"] = types.SimpleNamespace(EXPONENTIAL=1)
    for module in (
        _stub("airflow"),
        _stub("airflow.decorators", dag=_decorator, task=_decorator),
        _stub("airflow.exceptions", AirflowFailException=Fatal),
        dagster,
    ):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("name", ["airflow/embsync_dag.py", "dagster/definitions.py"])
def test_exit_codes_tell_a_scheduler_what_to_retry(
    place: Place, schedulers: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Only the exit codes of transient errors are retried; the JSON output is returned."""
    ast.parse((EXAMPLES / name).read_text(encoding="utf-8"))
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setenv("PATH", f"{place.folder / 'bin'}:{os.environ['PATH']}")
    wrapper = place.folder / "bin" / "embsync"
    kinds = {*EmbsyncError.__subclasses__(), *SinkError.__subclasses__()}
    for code in sorted({kind.exit_code for kind in kinds} - {0}):
        wrapper.write_text(f"#!/bin/sh\nexit {code}\n")
        if code not in (5, 7):
            with pytest.raises(Fatal) as caught:
                example.embsync("sync")
            assert type(caught.value) is Fatal
        else:
            with pytest.raises((Again, RuntimeError)):
                example.embsync("sync")
    wrapper.write_text('#!/bin/sh\nprintf \'{"arguments": "%s"}\' "$*"\n')
    assert example.embsync("deliver", "--once")["arguments"] == f"deliver --once --config {example.CONFIG} --json"


def test_copies_made_by_other_programs_are_intact(place: Place) -> None:
    """As docs/delivery.md describes, rclone omits the link, and one command restores it in the copy."""
    configure(place)
    job = containers(documents("publish.yaml")[1]["spec"]["jobTemplate"]["spec"]["template"]["spec"])
    assert place.run(job["publish"]).returncode == 0
    store, copy = place.folder / "var/lib/embsync/store", place.folder / "copy"
    rclone = program("rclone")
    if not shutil.which(rclone):
        pytest.skip("rclone not installed (extra 'test-services')")
    subprocess.run([rclone, "--config", "", "copy", store, copy], check=True, capture_output=True)
    assert not (copy / "current").exists()
    (copy / "current").symlink_to("versions/000001")
    with embsync.open(copy) as reader:
        assert reader.current.number == 1
    linked = place.folder / "linked"
    subprocess.run([rclone, "--config", "", "copy", "--links", store, linked], check=True, capture_output=True)
    assert (linked / "current").is_symlink() or (linked / "current.rclonelink").exists()
