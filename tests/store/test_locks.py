"""Locks between real processes: the holder is named, waiting works, and the kernel releases a dead holder's lock."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from support.stores import next_line, running
from support.waiting import PATIENCE

from embsync.errors import StoreBusy, StoreError
from embsync.store.locks import exclusive, is_held

HOLD = """
import sys
from pathlib import Path
from embsync.store.locks import exclusive
with exclusive(Path(sys.argv[1]), 5.0, "the store"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_the_error_of_a_held_lock_names_its_holder(tmp_path: Path) -> None:
    """After the wait, the error is transient with exit code 5, and has the process id of the holder."""
    lock = tmp_path / "lock"
    with running(HOLD, lock) as holder:
        assert next_line(holder) == "held"
        assert is_held(lock)
        began = time.monotonic()
        with (
            pytest.raises(StoreBusy, match=rf"the store is locked; found process {holder.pid} holding it") as raised,
            exclusive(lock, 0.3, "the store"),
        ):
            pytest.fail("two holders")
        assert time.monotonic() - began >= 0.3
        assert raised.value.exit_code == 5
        assert raised.value.transient


def test_a_killed_holder_releases_its_lock(tmp_path: Path) -> None:
    """After SIGKILL, the lock can be acquired at once."""
    lock = tmp_path / "lock"
    with running(HOLD, lock) as holder:
        assert next_line(holder) == "held"
        holder.send_signal(signal.SIGKILL)
        holder.wait(PATIENCE)
        assert not is_held(lock)
        with exclusive(lock, 0.0, "the store"):
            assert is_held(lock)
    assert not is_held(lock)


def test_a_lock_released_in_time_is_acquired(tmp_path: Path) -> None:
    """The lock is acquired as soon as its holder releases it."""
    lock = tmp_path / "lock"
    with running(HOLD, lock) as holder:
        assert next_line(holder) == "held"
        assert holder.stdin is not None
        timer = threading.Timer(0.3, lambda: (holder.stdin.write("\n"), holder.stdin.flush()))
        timer.start()
        with exclusive(lock, 20.0, "the store"):
            assert holder.wait(PATIENCE) == 0
        timer.join()


def test_checking_a_lock_creates_no_file(tmp_path: Path) -> None:
    """A lock without a file is not held."""
    assert not is_held(tmp_path / "lock")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_never_opened_through_a_link(tmp_path: Path) -> None:
    """A link in place of the lock file is an error, and no file is created at its target."""
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError), exclusive(tmp_path / "lock", 0.0, "the store"):
        pytest.fail("locked a link")
    assert not (tmp_path / "elsewhere").exists()
