"""Transfer of decoded rows from the decoder process: embsync's pipe compared with shared memory.

Once without a file: a process that has the rows hands over blocks of the size that embsync uses, by ``pwrite`` to
shared memory and a message a block, or by ``write`` to a pipe that is read into a new array. Once with decoding:
parquet by embsync, and by a process that writes the numbers of pyarrow's batches to a pipe, without limits, checks of
rows or refusals. The reader adds up every block. Best of alternating pairs, wall and processor seconds of both.

    python benchmarks/handover.py [--mib 512] [--repeats 9]
"""

from __future__ import annotations

import argparse
import fcntl
import mmap
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pairs import best

from embsync.config import SnapshotConfig
from embsync.rows import block_rows
from embsync.snapshots import open_snapshot

WIDTH = 128
STEP = block_rows(WIDTH)
BLOCK = STEP * WIDTH * 4
#: Slots of shared memory that the writer may fill before the reader has read them.
SLOTS = 4
PIPE = 2**20


class Writer:
    """A process that sends blocks on request."""

    def __init__(self, blocks: Callable[[], Iterator[Any]]) -> None:
        self.memory = os.memfd_create("handover")
        os.ftruncate(self.memory, SLOTS * BLOCK)
        self.map = mmap.mmap(self.memory, SLOTS * BLOCK)
        self.messages, messages = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pipe, pipe = os.pipe()
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)
        self.requests, requests = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=self._work, args=(blocks, messages, pipe, requests), daemon=True)
        self.process.start()
        messages.close()
        os.close(pipe)

    def _work(
        self, blocks: Callable[[], Iterator[Any]], messages: socket.socket, pipe: int, requests: Connection
    ) -> None:
        while True:
            if requests.recv() == "pipe":
                for block in blocks():
                    view = memoryview(block).cast("B")
                    while view:
                        view = view[os.write(pipe, view) :]
                continue
            for number, block in enumerate(blocks()):
                messages.recv(8)
                os.pwrite(self.memory, memoryview(block).cast("B"), number % SLOTS * BLOCK)
                messages.send(b"%d" % (number % SLOTS))

    def through_memory(self, count: int) -> None:
        """Add up ``count`` blocks from shared memory."""
        self.requests.send("memory")
        for _ in range(SLOTS):
            self.messages.send(b"free")
        for number in range(count):
            slot = int(self.messages.recv(8))
            np.frombuffer(self.map, np.float32, BLOCK // 4, slot * BLOCK).sum()
            if number < count - SLOTS:
                self.messages.send(b"free")

    def through_pipe(self, size: int) -> None:
        """Add up blocks from the pipe."""
        self.requests.send("pipe")
        while size:
            block = np.empty(min(BLOCK, size) // 4, np.float32)
            view = memoryview(block).cast("B")
            size -= len(view)
            while view:
                view = view[os.readv(self.pipe, [view]) :]
            block.sum()


def decoded(path: Path) -> Iterator[Any]:
    """Yield the values of parquet's batches, decoded as in the decoder."""
    pa.set_cpu_count(1)
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20, page_checksum_verification=True) as file:
        for batch in file.iter_batches(STEP, columns=["features"], use_threads=False):
            yield batch.column("features").flatten().to_numpy()


def main() -> None:
    """Compare, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    count = options.mib * 2**20 // BLOCK
    rows = np.random.default_rng(0).standard_normal((count * STEP, WIDTH), np.float32)
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "items.parquet"
        lists = pa.FixedSizeListArray.from_arrays(rows.reshape(-1), WIDTH)
        pq.write_table(pa.table({"id": np.arange(len(rows)), "features": lists}), path)
        held = Writer(lambda: (rows[start : start + STEP] for start in range(0, len(rows), STEP)))
        parquet = Writer(lambda: decoded(path))
        side = open_snapshot(path, SnapshotConfig()).items
        works: dict[str, Callable[[], object]] = {
            "rows at hand, shared memory": lambda: held.through_memory(count),
            "rows at hand, pipe": lambda: held.through_pipe(rows.nbytes),
            "parquet, embsync": lambda: [block.sum() for _, block in side.blocks()],
            "parquet, pipe": lambda: parquet.through_pipe(rows.nbytes),
        }
        for work_ in works.values():
            work_()
        for name, spent in zip(works, best(list(works.values()), options.repeats), strict=True):
            print(f"{name:<30} {spent.wall:.3f} s   {spent.processor:.3f} processor s")


if __name__ == "__main__":
    main()
