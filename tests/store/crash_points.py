"""Kill a command with SIGKILL before each call that changes the disk, and report what a reader finds afterwards.

Run as a program: ``crash_points.py publish|rollback|widen DIRECTORY [STEP]``. Prints one JSON object per crash, one
before every STEP-th call, and four times as often around the switch. The command runs in a
forked child, so that a crash costs milliseconds; with one thread, so that forking is safe.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.nights import configured, night, write_npy
from support.stores import assert_at_rest, assert_intact

from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.widen import widen
from embsync.store import Store

_CHANGES = {("store", f"{name}.py") for name in ("durable", "staging", "removal")}
CALLS = ("open", "mkdir", "posix_fallocate", "fsync", "close", "rename", "replace", "symlink", "unlink", "rmdir")
CONFIG = configured(store__keep_versions=2)
SIZES = {"items": 60, "users": 50, "width": 4}


def watch(before: Callable[[int, str], None]) -> None:
    """Call ``before`` with the number and the name of each system call that changes the store."""
    counted = 0

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal counted
            if _from_durable():
                before(counted, name)
                counted += 1
            return real(*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name, getattr(os, name)))


def _from_durable() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if Path(frame.f_code.co_filename).parts[-2:] in _CHANGES:
            return True
        frame = frame.f_back
    return False


def build(directory: Path) -> Path:
    """Make a store with two versions, the first of which the next publish prunes."""
    root = directory / "base" / "S"
    for number in range(4):
        path = write_npy(directory / f"night-{number}", night(number, **SIZES))
        if number < 2:
            publish_snapshot(Store(root), Request(path), CONFIG)
    return root


def act(scenario: str, directory: Path, root: Path) -> None:
    """Run the command that is to be killed."""
    if scenario == "publish":
        publish_snapshot(Store(root), Request(directory / "night-2"), CONFIG)
    elif scenario == "widen":
        widen(Store(root), 6, CONFIG)
    else:
        Store(root).rollback(1)


def forked(work: Callable[[], None]) -> int:
    """Run work in a child; return the child's wait status."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def count_calls(scenario: str, directory: Path, root: Path) -> list[str]:
    """Return the names of the calls of an undisturbed run, in order."""
    log = directory / "calls"

    def work() -> None:
        with log.open("w") as file:
            watch(lambda _, name: file.write(f"{name}\n") and None)
            act(scenario, directory, root)

    assert forked(work) == 0
    return log.read_text().split()


def crash(scenario: str, directory: Path, root: Path, point: int) -> bool:
    """Run the command and kill it before call ``point``; return whether it was killed."""

    def kill(number: int, _: str) -> None:
        if number == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        watch(kill)
        act(scenario, directory, root)

    return os.WIFSIGNALED(forked(work))


def examine(directory: Path, root: Path, *, follow: bool) -> dict[str, Any]:
    """Return the state of the store after a crash, for readers at once and after the next command.

    With ``follow`` the next night is published as well.
    """
    number = assert_intact(root)
    with Store(root).locked():
        pass
    assert_at_rest(root)
    assert assert_intact(root) == number
    known = [event.version for event in Store(root).journal.events()]
    reported = {"current": number, "journaled": number in known}
    if not follow:
        return reported
    following = publish_snapshot(Store(root), Request(directory / "night-3"), CONFIG)
    assert_at_rest(root)
    return {**reported, "next": following.version, "parent": following.parent, "served": assert_intact(root)}


def main(scenario: str, directory: Path, step: int = 1) -> None:
    """Crash before every ``step``-th call, and four times as often around the move, the switch and the journal."""
    base = build(directory)
    work = directory / "work" / "S"

    def fresh() -> Path:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(base, work, symlinks=True)
        return work

    calls = count_calls(scenario, directory, fresh())
    moved = next(place for place, name in enumerate(calls) if name in {"rename", "symlink"})
    tried = 0
    for point, name in enumerate(calls):
        late = moved - 3 <= point < moved + 40  # moving into place, switching, journaling, hiding old versions
        if point % (max(step // 4, 1) if late else step):
            continue
        tried += 1
        killed = crash(scenario, directory, fresh(), point)
        result = {"point": point, "call": name, "killed": killed}
        try:
            result |= examine(directory, work, follow=(tried - 1) % min(max(step, 3), 8) == 0)
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
