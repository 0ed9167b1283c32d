"""Unexpected errors: exit code 1 and one line with what to do, or with ``--debug`` a traceback."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    """It names the error and ``--debug``, which raises it where it is."""

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
    """Without it they are one line and their own exit code."""
    command = ["show", "--store", str(tmp_path / "none")]
    assert run(command) == 6
    assert capfd.readouterr().err.count("\n") == 1
    with pytest.raises(EmbsyncError):
        run([*command, "--debug"])


def test_ctrl_c_while_modules_load_ends_without_a_traceback(tmp_path: Path) -> None:
    """As later: an empty line, and the exit code of SIGINT."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    path = os.pathsep.join([str(tmp_path), str(Path(embsync.__file__).parents[1])])
    line = [sys.executable, "-m", "embsync", "status"]
    done = subprocess.run(line, env={"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\n")


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
    """``log.level``: less severe events are omitted, in both formats."""
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
