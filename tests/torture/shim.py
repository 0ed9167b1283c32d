"""``shim.c``, compiled, and the wall clock that it shifts."""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

#: The environment variable with the path of the file that processes with the shim map.
CLOCK = "SHIM_CLOCK"
_FIGURES = struct.Struct("ll")


def build(directory: Path) -> Path | None:
    """Build the shim in a directory; return None if there is no compiler or there are no headers."""
    built = directory / "shim.so"
    command = ["gcc", "-O1", "-shared", "-fPIC", "-o", built, Path(__file__).with_name("shim.c"), "-ldl"]
    try:
        return built if subprocess.run(command, check=False).returncode == 0 else None
    except FileNotFoundError:
        return None


class WallClock:
    """The wall clock of processes with the shim: the real one plus a shift, the same for all of them.

    Parameters
    ----------
    path : path
        A file to be created; processes find it by the environment variable :data:`CLOCK`.
    """

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_FIGURES.size))
        with path.open("r+b") as file:
            self._mapped = mmap.mmap(file.fileno(), _FIGURES.size)

    @property
    def asked(self) -> int:
        """How often the clock was read."""
        return int(_FIGURES.unpack_from(self._mapped)[1])

    def set(self, seconds: int) -> None:
        """Shift the clock from the real one by a number of seconds."""
        struct.pack_into("l", self._mapped, 0, seconds)
