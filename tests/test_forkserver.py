"""A forked command behaves like an executed one; a command for which forking would make a difference is executed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import forkserver
from support.launcher import launching
from support.waiting import alive, eventually

#: Prints what a process can see of itself.
_TELL = """if True:
    import json, os, sys
    names = os.listdir("/proc/self/fd")
    print(json.dumps({
        "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0), "session": os.getsid(0),
        "arguments": sys.argv, "here": os.getcwd(), "variable": os.environ.get("OF_A_TEST"), "mask": os.umask(0),
        "input": sys.stdin.read(),
        "descriptors": [int(name) for name in names if os.path.exists("/proc/self/fd/" + name)],
        "forked": "support.forkserver" in sys.modules, "loaded": "faiss" in sys.modules,
    }))
    print("to the other", file=sys.stderr)
    sys.exit(7)
"""
SCRIPT = [sys.executable, "-m", "support.script"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}


def output(*before: str, words: tuple[str, ...] = (), **options: Any) -> dict[str, Any]:
    options.setdefault("env", environment())
    command = [*before, *SCRIPT, _TELL, *words]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    ) as process:
        written, error = process.communicate("an input")
    found: dict[str, Any] = json.loads(written)
    assert process.returncode == 7
    assert error == "to the other\n"
    assert found["input"] == "an input"
    assert found["pid"] == process.pid or before
    return found


def test_a_forked_process_runs_as_requested(tmp_path: Path) -> None:
    """It is a child of the caller, with exactly the given arguments, variables, directory and descriptors."""
    kept = os.open("/dev/null", os.O_RDONLY)
    before = os.umask(0o027)
    try:
        found = output(words=("a", "ü b"), cwd=tmp_path, env=environment(OF_A_TEST="x"), pass_fds=[kept])
    finally:
        os.umask(before)
        os.close(kept)
    assert found["forked"]
    assert found["loaded"]
    assert found["parent"] == os.getpid()
    assert found["group"] == os.getpgid(0)
    assert found["arguments"] == ["-c", "a", "ü b"]
    assert found["here"] == str(tmp_path)
    assert found["variable"] == "x"
    assert found["mask"] == 0o027
    assert sorted(found["descriptors"]) == [0, 1, 2, kept]


def test_a_forked_process_has_the_encoding_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """All three streams have the requested encoding and error handler."""
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    script = """if True:
        import sys
        print("support.forkserver" in sys.modules, sys.stdin.encoding, sys.stdout.errors, "\\xfc")
        print("\\xfc", sys.stderr.encoding, file=sys.stderr)
    """
    for asked, written, error in (
        ("ascii:replace", b"True ascii replace ?\n", b"\\xfc ascii\n"),
        ("utf-8", "True utf-8 strict ü\n".encode(), "ü utf-8\n".encode()),
    ):
        done = subprocess.run(
            [*SCRIPT, script], env=environment(PYTHONIOENCODING=asked), stdin=subprocess.DEVNULL, capture_output=True,
            check=True,
        )  # fmt: skip
        assert (done.stdout, done.stderr) == (written, error)


def test_a_forked_process_may_lead_its_group_or_session() -> None:
    """A forked process can start its own group or session, as the daemon's worker process does."""
    grouped, alone = output(process_group=0), output(start_new_session=True)
    assert grouped["group"] == grouped["pid"]
    assert grouped["session"] == os.getsid(0)
    assert alone["session"] == alone["group"] == alone["pid"]
    assert grouped["forked"]
    assert alone["forked"]


def test_a_process_is_executed_where_forking_would_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command is executed under another program, with variables that affect loading, and if a test requests it."""
    assert not output("env")["forked"]
    assert not output(env=environment(OMP_NUM_THREADS="3"))["forked"]
    assert not output(env=environment(**{forkserver.SWITCH: "0"}))["forked"]
    monkeypatch.setenv("LD_PRELOAD", "")
    assert not output()["loaded"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_forked_process_dies_of_signals(number: signal.Signals) -> None:
    """The exit status is that of an executed process, also after an interrupt, which raises an exception first."""
    code = "import time; print('up', flush=True); time.sleep(1000)"
    with subprocess.Popen(
        [*SCRIPT, code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.wait() == -number


def test_children_of_a_forked_process_end_with_it() -> None:
    """A child that dies with its parent dies with a forked parent, and exit handlers run."""
    code = """if True:
        import atexit, os, subprocess, sys
        from embsync.processes import ChildProcess
        atexit.register(print, "at exit", flush=True)
        inner = "import os; from embsync.processes import die_with_parent; die_with_parent(" + str(os.getpid()) + ");"
        inner += "print(os.getpid(), os.getppid(), flush=True); import time; time.sleep(1000)"
        child = ChildProcess([sys.executable, "-m", "support.script", inner], stdin=subprocess.PIPE)
        print(child.pid, os.getpid(), flush=True)
        input()
    """
    with subprocess.Popen(
        [*SCRIPT, code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        lines = {process.stdout.readline() for _ in range(2)}
        assert len(lines) == 1
        child, parent = map(int, lines.pop().split())
        assert parent == process.pid
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "at exit\n"
        assert process.wait() == 0
    eventually(lambda: not alive(child))


@pytest.mark.parametrize("option", [{"process_group": 0}, {"start_new_session": True}])
def test_a_forked_process_leads_its_group_from_the_start(option: dict[str, Any]) -> None:
    """Killing the group immediately after the start ends the process: otherwise the caller would wait forever."""
    for _ in range(20):
        with subprocess.Popen([*SCRIPT, "import time; time.sleep(600)"], env=environment(), **option) as process:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            finally:
                process.kill()
        assert process.returncode == -signal.SIGKILL


def in_a_shell(lines: str) -> subprocess.CompletedProcess[str]:
    programs = {"tell": f"-m support.script {shlex.quote(_TELL)}", "python": ""}
    with launching(programs) as place:
        return subprocess.run(
            ["sh", "-e", "-c", lines], input="an input", cwd="/", capture_output=True, text=True, check=False,
            env=environment(PATH=f"{place}:{os.environ['PATH']}", OF_A_TEST="x"),
        )  # fmt: skip


def test_a_program_of_a_shell_is_forked(tmp_path: Path) -> None:
    """The program gets arguments, directory, variables and input, and the shell gets its output and exit code."""
    done = in_a_shell("cd /usr; tell a 'ü b'")
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (7, "to the other\n")
    assert (found["arguments"], found["here"], found["variable"]) == (["-c", "a", "ü b"], "/usr", "x")
    assert (found["input"], found["forked"]) == ("an input", True)
    (tmp_path / "beside.py").write_text("name = __file__")
    (tmp_path / "file.py").write_text(f"import beside, sys\nprint(beside.name, sys.argv)\n{_TELL}")
    first, second = in_a_shell(f"python {tmp_path / 'file.py'} a").stdout.splitlines()
    assert first == f"{tmp_path / 'beside.py'} ['{tmp_path / 'file.py'}', 'a']"
    assert json.loads(second)["forked"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_program_of_a_shell_ends_with_its_client(number: signal.Signals) -> None:
    """A signal is passed on, and the shell sees which one it was; killing the client kills the process as well."""
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with launching({"code": f"-m support.script {shlex.quote(code)}"}) as place:
        path = f"{place}:{os.environ['PATH']}"
        with subprocess.Popen(["sh", "-c", "exec code"], stdout=subprocess.PIPE, env=environment(PATH=path)) as client:
            assert client.stdout is not None
            process = int(client.stdout.readline())
            assert process != client.pid
            client.send_signal(number)
            assert client.wait() == -number
        eventually(lambda: not alive(process))
