"""Limiting the number of threads that FAISS uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from embsync.index.library import faiss
from embsync.rows import library_threads, worker_count


@contextmanager
def faiss_threads(threads: int) -> Iterator[None]:
    """Let FAISS and BLAS use ``threads`` threads (0 for all cores available to the process), then restore both."""
    before = faiss.omp_get_max_threads()
    workers = worker_count(threads)
    try:
        with library_threads(workers):
            faiss.omp_set_num_threads(workers)
            yield
    finally:
        faiss.omp_set_num_threads(before)
