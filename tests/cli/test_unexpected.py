"""Unexpected errors: exit code 1 and one line with advice, or with ``--debug`` a traceback."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nights import night
from support.stores import sync

import embsync
from embsync import logs
from embsync.cli.main import run
from embsync.config import LogConfig
from embsync.errors import EmbsyncError
from embsync.store import Store


@pytest.mark.parametrize("error", [ValueError("two\nlines"), KeyError("x"), TypeError("x"), ZeroDivisionError()])
@pytest.mark.parametrize("command", [["history"], ["prune"], ["rollback", "1"]])
def test_an_unexpected_error_is_one_line_and_exit_code_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    command: list[str],
) -> None:
    """The line names the error and ``--debug``, with which it is raised."""

    def fail(*_: object, **__: object) -> None:
        raise error

    for name in ("require", "locked", "rollback", "events"):
        monkeypatch.setattr(Store, name, fail)
    (tmp_path / "versions").mkdir()
    assert run([*command, "--store", str(tmp_path)]) == 1
    output = capfd.readouterr().err
    assert output.count("\n") == 1
    assert output.startswith(f"embsync: unexpected {type(error).__name__}: ")
    assert "--debug" in output
    with pytest.raises(type(error)):
        run([*command, "--store", str(tmp_path), "--debug"])


def test_debug_also_raises_expected_errors(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without ``--debug``, they are one line and have their own exit code."""
    command = ["show", "--store", str(tmp_path / "none")]
    assert run(command) == 6
    assert capfd.readouterr().err.count("\n") == 1
    with pytest.raises(EmbsyncError):
        run([*command, "--debug"])


#: The signals that each service handles.
REQUESTS = {
    name: ["signal.SIGHUP", "signal.SIGUSR1"][: 1 if name == "serve" else 2]
    for name in ("run", "deliver", "pull", "serve")
}
#: Lines of a module that sends a signal to its process; the second sends it within the body of a class.
SENDS = {
    "module": "os.kill(os.getpid(), {})",
    "class": "class A:\n    class B:\n        def __set_name__(*_): os.kill(os.getpid(), {})\n    b = B()",
}


def loading(module: str, folder: Path, sent: str, *command: str | Path) -> list[str]:
    """Return a command in which the import of a module first sends a signal; ``folder`` gets the substitute module."""
    found = "import sys; sys.path.remove(__import__('os').path.dirname(__file__)); del sys.modules[__name__]"
    (folder / f"{module}.py").write_text(f"import os, signal\n{sent}\n{found}\nimport {module}\n")
    paths = [str(folder), str(Path(embsync.__file__).parents[1])]
    code = f"import sys; sys.path[:0] = {paths}; sys.argv[0] = 'embsync'; from embsync.__main__ import main; main()"
    return [sys.executable, "-c", code, *map(str, command)]


@pytest.mark.parametrize("place", SENDS)
@pytest.mark.parametrize("module", ["click", "numpy"])  # numpy is imported by a command
def test_ctrl_c_while_modules_load_ends_without_a_traceback(tmp_path: Path, place: str, module: str) -> None:
    """The output is an empty line, and the exit code is that of SIGINT."""
    line = loading(module, tmp_path, SENDS[place].format("signal.SIGINT"), "sync", "night", "--store", tmp_path / "S")
    done = subprocess.run(line, env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\n")


SERVICES = {
    "run": ["--config", "CONFIG"],
    "deliver": ["--config", "CONFIG"],
    "pull": ["file://MIRROR", "--follow", "--interval", "1", "--config", "CONFIG", "--store", "COPY", "--json"],
    "serve": ["--store", "STORE", "--listen", "127.0.0.1:0", "--json"],
}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_handles_requests_that_come_while_modules_load(tmp_path: Path, service: str) -> None:
    """The signals do not end the service, which runs until it is stopped."""
    root = tmp_path / "S"
    sync(root, night(0), "n0")
    places = {name: tmp_path / name.lower() for name in ("CONFIG", "MIRROR", "COPY", "WATCH")} | {"STORE": root}
    places["WATCH"].mkdir()
    places["MIRROR"].mkdir()
    sink = f"{{name: mirror, kind: object_store, url: 'file://{places['MIRROR']}'}}"
    places["CONFIG"].write_text(
        f"store: {{path: {root}}}\nwatch: {{path: {places['WATCH']}}}\ndelivery: {{sinks: [{sink}]}}\n"
    )
    options = [re.sub("[A-Z]+", lambda found: str(places[found[0]]), option) for option in SERVICES[service]]
    sent = "\n".join(SENDS["module"].format(number) for number in REQUESTS[service])
    line = loading("click", tmp_path, sent, service, *options)
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={}) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        if service == "pull":  # the first line precedes the signal handlers; the next one is of its first attempt
            said += process.stderr.readline()
        process.terminate()
        said += process.communicate()[1]
    assert process.returncode == 0, said


@pytest.mark.parametrize("command", [["deliver", "--once"], ["pull", "file:///none"], ["status"]])
def test_a_hangup_ends_other_commands_at_once(tmp_path: Path, command: list[str]) -> None:
    """They end by SIGHUP even while their modules are loaded."""
    line = loading("click", tmp_path, SENDS["module"].format("signal.SIGHUP"), *command)
    assert subprocess.run(line, env={}, capture_output=True, check=False).returncode == -signal.SIGHUP


@pytest.fixture
def logger() -> Iterator[None]:
    """Restore the logging configuration."""
    root, own = logging.getLogger(), logging.getLogger("embsync")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:], root.level = before[0], before[1]
    own.setLevel(before[2])
    logging.captureWarnings(False)


LEVELS = ("debug", "info", "warning", "error")


@pytest.mark.usefixtures("logger")
@pytest.mark.parametrize("level", LEVELS)
def test_log_level_is_the_lowest_level_written(level: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Events below ``log.level`` are omitted, in both formats."""
    for form in ("json", "text"):
        logs.configure(LogConfig(level=level, format=form))
        for name in LEVELS:
            logs.log(getattr(logging, name.upper()), f"event-{name}", reason="r")
        lines = capfd.readouterr().err.splitlines()
        expected = LEVELS[LEVELS.index(level) :]
        if form == "json":
            assert [json.loads(line)["level"] for line in lines] == list(expected)
        else:
            assert [line.split()[1] for line in lines] == list(expected)
