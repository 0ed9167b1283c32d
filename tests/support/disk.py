"""File systems for tests, which only root can mount: ext4 in a file with simulated power loss, and small ones."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

#: ext4's shutdown ioctl, and the flag that also discards the end of the journal.
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NOLOGFLUSH = 2


class Disk:
    """An ext4 file system in a file, with simulated power loss."""

    def __init__(self, folder: Path) -> None:
        self.image = folder / "image"
        self.place = folder / "disk"
        self.place.mkdir()
        with self.image.open("wb") as file:
            file.truncate(64 << 20)
        self._run("mkfs.ext4", "-q", str(self.image))
        self.mount()

    def mount(self) -> None:
        """Mount the file system, replaying its journal."""
        self._run("mount", "-o", "loop", str(self.image), str(self.place))

    def unmount(self) -> None:
        """Unmount it, also in mount namespaces made meanwhile, where it would remain mounted."""
        self._run("umount", str(self.place))
        self.place.rmdir()  # ends every mount on it
        self.place.mkdir()

    def cut(self) -> None:
        """Lose all data that was not made durable."""
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def mounted(path: Path, size: str) -> Iterator[None]:
    """Mount a small file system in memory at a directory; skip the test if that is not permitted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
