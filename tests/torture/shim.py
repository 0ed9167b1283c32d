"""``shim.c``, built, and the wall clock that it shifts."""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

#: Names the file through which :class:`WallClock` reaches the processes that have the shim loaded.
CLOCK = "SHIM_CLOCK"
_FIGURES = struct.Struct("ll")


def build(directory: Path) -> Path | None:
    """Build the shim in a directory; None where there is no compiler or no headers."""
    built = directory / "shim.so"
    command = ["gcc", "-O1", "-shared", "-fPIC", "-o", built, Path(__file__).with_name("shim.c"), "-ldl"]
    try:
        return built if subprocess.run(command, check=False).returncode == 0 else None
    except FileNotFoundError:
        return None


class WallClock:
    """What processes with the shim take for the time: the real one and a shift, the same for all of them.

    Parameters
    ----------
    path : path
        A file to be made; the processes find it by the environment variable :data:`CLOCK`.
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
        """Set the clock so many seconds off the real one."""
        struct.pack_into("l", self._mapped, 0, seconds)
