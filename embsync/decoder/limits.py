"""Resource limits of a decoder, and its refusals."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Memory beyond that of the libraries. Pages are about 1 MiB and a batch 4 MiB; the rest is for files with larger
#: pages or batches. With the interpreter and pyarrow (about 100 MiB resident) this stays below 1 GiB.
MEMORY = 768 * 1024**2
#: Processor seconds for one step: the footer, the first row, one batch. Valid files take milliseconds.
STEP_SECONDS = 6

Message = dict[str, Any]


class Unusable(Exception):
    """The file is refused."""

    def __init__(self, what: str, found: object = None, expected: object = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.message: Message = {
            "refused": what,
            "found": None if found is None else str(found)[:300],
            "expected": None if expected is None else str(expected)[:300],
            "hint": hint,
        }


def limit_step() -> None:
    """Limit the processor time of the next step; beyond it, the kernel kills this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(usage.ru_utime + usage.ru_stime)
    _lower(resource.RLIMIT_CPU, spent + STEP_SECONDS + 1)


def limit_memory() -> None:
    """Limit the memory of this process; to be called once the libraries are loaded."""
    _lower(resource.RLIMIT_DATA, _size("VmData") + MEMORY)
    _limit_addresses()
    _lower(resource.RLIMIT_CORE, 0)


@contextmanager
def addresses_of(handle: int) -> Iterator[None]:
    """Leave room in the address space for a mapped file, which takes addresses but no memory."""
    _limit_addresses(os.fstat(handle).st_size)
    try:
        yield
    finally:
        _limit_addresses()


def _limit_addresses(mapped: int = 0) -> None:
    """Limit the address space to its present size, ``MEMORY``, and the size of a file that is about to be mapped.

    The present size may include the file mapped before: a thread of pyarrow unmaps it shortly after it is closed.
    """
    _lower(resource.RLIMIT_AS, _size("VmSize") + MEMORY + mapped)


def _size(name: str) -> int:
    """Return one of the sizes of this process, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


def _lower(kind: int, limit: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
