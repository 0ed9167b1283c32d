"""Rows in blocks: the protocol of every source of rows, and the parallel loop over them.

No side is held in memory. Worker threads process the blocks (NumPy and BLAS release the GIL), and results are yielded
in file order, so every sum is added in the same order and has the same result.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal, Protocol, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from embsync.dtypes import Array, RowNumbers

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Values in one block, 2 MiB in float64. The time of both passes over 1M x 128 rows is constant from 2**17 to 2**19
#: (0.25 s and 0.6 s on 2 cores) and rises beyond, where blocks no longer fit the cache. It bounds a worker's memory.
BLOCK_NUMBERS = 2**18
#: The same where rows are so wide that a block has fewer than twice as many rows as values: adding up its products then
#: takes as long as forming them. Aligning 120,000 x 768 took 12.4 instead of 13.8 processor seconds.
WIDE_BLOCK_NUMBERS = 2**20


def block_rows(width: int) -> int:
    """Return how many rows of ``width`` values make one block."""
    width = max(width, 1)
    return max(64, BLOCK_NUMBERS // width, min(2 * width, WIDE_BLOCK_NUMBERS // width))


class Rows(Protocol):
    """A side's raw rows, readable any number of times, block by block, in one fixed order."""

    @property
    def count(self) -> int:
        """Number of rows, t."""

    @property
    def width(self) -> int:
        """Values in a row, e."""

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield ``(start, block)``: the position of the block's first row, and a read-only (b, e) float array.

        The receiver may keep a block: a source never reuses its memory.
        """


@dataclass(frozen=True)
class ArrayRows:
    """An array as :class:`Rows`.

    Parameters
    ----------
    array : (t, e) ndarray of float16, float32 or float64
    """

    array: Array

    @property
    def count(self) -> int:
        """Number of rows."""
        return int(self.array.shape[0])

    @property
    def width(self) -> int:
        """Values in a row."""
        return int(self.array.shape[1])

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield views of the array."""
        step = block_rows(self.width)
        for start in range(0, self.count, step):
            yield start, self.array[start : start + step]


def worker_count(threads: int) -> int:
    """Return the number of workers for a ``threads`` setting, where 0 means all cores this process may use."""
    return threads or len(os.sched_getaffinity(0))


@contextlib.contextmanager
def library_threads(count: int, libraries: Literal["blas"] | None = None) -> Iterator[None]:
    """Limit the numerical libraries, or only those for linear algebra, to ``count`` threads in a ``with`` block."""
    with _thread_pools(len(sys.modules)).limit(limits=count, user_api=libraries):
        yield


@lru_cache(1)
def _thread_pools(modules: int) -> ThreadpoolController:
    """Return the thread pools of the loaded libraries; they are searched again if ``modules`` has changed."""
    return ThreadpoolController()


def release_memory() -> None:
    """Return freed memory to the system: glibc keeps it in arenas of the worker threads (measured: 20 to 40 MB)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def map_blocks(work: Callable[[int, Array], Result], rows: Rows, threads: int = 0) -> Iterator[tuple[int, Result]]:
    """Yield ``(start, work(start, block))`` for every block, in order, computed by worker threads.

    BLAS runs single-threaded meanwhile, since the blocks run in parallel. At most two blocks per worker are held. For
    one worker or one block, no thread is started.
    """
    workers = worker_count(threads)
    with library_threads(1, "blas"):
        if workers == 1 or rows.count <= block_rows(rows.width):
            for start, block in rows.blocks():
                yield start, _quietly(work, start, block)
        else:
            yield from _in_threads(work, rows, workers)


def _in_threads(work: Callable[[int, Array], Result], rows: Rows, workers: int) -> Iterator[tuple[int, Result]]:
    pending: deque[tuple[int, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers, "embsync-rows") as pool:
        try:
            for start, block in rows.blocks():
                pending.append((start, pool.submit(_quietly, work, start, block)))
                del block
                if len(pending) > 2 * workers:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int = 0) -> Iterator[Result]:
    """Yield ``work(item)`` for every item, in order, computed by worker threads; one worker starts none."""
    if (workers := worker_count(threads)) == 1:
        yield from map(partial(_silently, work), items)
    else:
        with ThreadPoolExecutor(workers, "embsync-work") as pool:
            yield from pool.map(partial(_silently, work), items)


def row_numbers(values: Array, bound: int) -> RowNumbers:
    """Return row numbers below ``bound``, or -1, in the smallest type that holds them."""
    if bound < 2**31:
        return values.astype(np.int32, copy=False)
    return values.astype(np.int64, copy=False)


def _quietly(work: Callable[[int, Array], Result], start: int, block: Array) -> Result:
    """Run work without NumPy's warnings, which are lost in threads: overflow is detected from the results."""
    with np.errstate(over="ignore", invalid="ignore"):
        return work(start, block)


def _silently(work: Callable[[Item], Result], item: Item) -> Result:
    """Run work as :func:`_quietly` does."""
    with np.errstate(over="ignore", invalid="ignore"):
        return work(item)


def as_slice(rows: Array) -> Array | slice:
    """Return consecutive row numbers as a slice, which reads a memory map without a copy; return others unchanged."""
    if len(rows) == 0 or rows[-1] - rows[0] + 1 != len(rows) or (np.diff(rows) != 1).any():
        return rows
    return slice(int(rows[0]), int(rows[-1]) + 1)
