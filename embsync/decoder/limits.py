"""Resource limits of a decoder, and its refusals."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Memory beyond that of the libraries. Pages are about 1 MiB and a batch 4 MiB; the rest is for writers with
#: large pages or batches. With the interpreter and pyarrow (some 100 MiB resident) this stays below 1 GiB.
MEMORY = 768 * 1024**2
#: Processor seconds for one step: the footer, the first row, one batch. Valid files take milliseconds.
STEP_SECONDS = 6

Message = dict[str, Any]


class Unusable(Exception):
    """The file is refused."""

    def __init__(self, what: str, found: object = None, expected: object = None) -> None:
        super().__init__(what)
        self.message: Message = {
            "refused": what,
            "found": None if found is None else str(found)[:300],
            "expected": None if expected is None else str(expected)[:300],
        }


def limit_step() -> None:
    """Limit the processor time of the next step; beyond it, the kernel kills this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(usage.ru_utime + usage.ru_stime)
    _lower(resource.RLIMIT_CPU, spent + STEP_SECONDS + 1)


def limit_memory() -> None:
    """Limit the memory of this process; to be called once the libraries are loaded."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    data, addresses = (int(status.split(f"{name}:")[1].split()[0]) * 1024 for name in ("VmData", "VmSize"))
    _lower(resource.RLIMIT_DATA, data + MEMORY)
    resource.setrlimit(resource.RLIMIT_AS, (addresses + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    _lower(resource.RLIMIT_CORE, 0)


@contextmanager
def addresses_of(handle: int) -> Iterator[None]:
    """Raise the limit on the address space by the size of a mapped file, which takes addresses but no memory."""
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    if before != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_AS, (before + os.fstat(handle).st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def _lower(kind: int, limit: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
