"""Child processes end as a group, and with their parent, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import alive, eventually

from embsync.processes import ChildProcess, describe_exit


def started(file: Path) -> int:
    """Return the process id that a command wrote to a file."""
    return int(eventually(lambda: file.exists() and file.read_text().strip()))


#: Starts a child process, writes its id to a file, and waits for it.
COMMAND = "sleep 86400 & echo $! > {}; wait"


@pytest.mark.parametrize("guarded", [False, True])
def test_a_child_is_killed_with_its_descendants(tmp_path: Path, guarded: bool) -> None:
    """Killing a child that leads a group kills the group."""
    child = ChildProcess(["/bin/sh", "-c", COMMAND.format(tmp_path / "id")], guarded=guarded)
    grandchild = started(tmp_path / "id")
    assert child.poll() is None
    assert child.kill() == -signal.SIGKILL
    eventually(lambda: not alive(grandchild))


def test_a_guarded_command_ends_with_its_parent_and_descendants(tmp_path: Path) -> None:
    """A guarded command and its descendants end even if the parent is killed."""
    code = f"""
from embsync.processes import ChildProcess
ChildProcess(["/bin/sh", "-c", {COMMAND.format(tmp_path / "id")!r}], guarded=True).wait()
"""
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        grandchild = started(tmp_path / "id")
        assert alive(grandchild)
        parent.kill()
    eventually(lambda: not alive(grandchild))


def test_a_child_in_the_group_of_its_parent_is_killed_alone() -> None:
    """Otherwise its group, which includes the test, would be killed."""
    child = ChildProcess(["/bin/sleep", "86400"], own_group=False)
    assert os.getpgid(child.pid) == os.getpgid(0)
    assert child.wait(0.0) is None
    assert child.kill() == -signal.SIGKILL


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("exit 0", "ended with 0"),
        ("exit 3", "ended with 3"),
        ("kill -TERM $$", "was killed by SIGTERM"),
        ("kill -KILL $$", "was killed by SIGKILL"),
        ("kill -PIPE $$", "was killed by SIGPIPE"),
    ],
)
def test_a_guard_reports_how_a_command_ended(guarded: bool, command: str, words: str) -> None:
    """A guard passes on the exit code or signal of its command."""
    code = ChildProcess(["/bin/sh", "-c", command], guarded=guarded).wait()
    assert code is not None
    assert describe_exit(code) == words


def test_a_command_is_asked_and_answers() -> None:
    """The command reads its whole input, and all its output is returned; its exit code is known afterwards."""
    child = ChildProcess(["/bin/sh", "-c", "cat; exit 3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.communicate(b"question", 60.0) == (b"question", b"")
    assert child.wait() == 3


def test_a_command_that_does_not_answer_in_time_is_killed(tmp_path: Path) -> None:
    """A command that exceeds its time limit is killed with its descendants."""
    child = ChildProcess(
        ["/bin/sh", "-c", COMMAND.format(tmp_path / "id")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    grandchild = started(tmp_path / "id")
    assert child.communicate(b"", 0.01) is None
    assert child.wait() == -signal.SIGKILL
    eventually(lambda: not alive(grandchild))


def test_an_unnamed_signal_is_reported_by_number() -> None:
    """Real-time signals have no names."""
    assert describe_exit(-63) == "was killed by signal 63"
