"""Building an index: training it, and adding vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from embsync.dtypes import Float32, Int64
from embsync.errors import UsageError
from embsync.index.codes import stores
from embsync.index.factory import create, reject_few_rows
from embsync.index.files import faiss_sentence
from embsync.index.layers import innermost, takes_ids
from embsync.index.library import faiss
from embsync.index.live_rows import LiveVectors

#: Training vectors per centroid; FAISS's k-means would sample as many from a larger set.
POINTS_PER_CENTROID = 256
#: Training vectors for an index without a coarse quantizer: codebooks of 256 entries, ranges, PCA.
LEAST_TRAINING_ROWS = 65_536
#: Vectors added to a graph at once. Each further block slows the build down (for a 100k x 64 graph, 2 blocks cost
#: 15 %, 4 blocks 22 % and 12 blocks 30 % more processor time); each block is also a copy in addition to the index.
GRAPH_BLOCK_BYTES = 64 << 20


def build(factory: str, live: LiveVectors, metric: str) -> Any:
    """Return an index of all live vectors, label i for the i-th live row.

    Raises
    ------
    UsageError
        The factory needs more rows than are live, or FAISS cannot train on these vectors.
    """
    index = create(factory, live.width, metric)
    reject_few_rows(index, factory, live.count)
    train(index, live)
    if type(index) is faiss.IndexHNSWFlat:
        _fill_from_storage(index, live)
        return index
    reserve(index, live.count)
    fill(index, live, live.rows)
    return index


def train(index: Any, live: LiveVectors) -> None:
    """Train ``index`` on a sample of the live vectors; do nothing if it needs no training."""
    if index.is_trained:
        return
    finder = innermost(index)
    lists = int(finder.nlist) if isinstance(finder, faiss.IndexIVF) else 0
    sample = live.sample(max(LEAST_TRAINING_ROWS, POINTS_PER_CENTROID * lists))
    try:
        index.train(sample)
    except RuntimeError as error:
        raise UsageError(
            "the index cannot be trained on these vectors",
            where="index.factory",
            found=f"{live.count} live rows of width {live.width}: {faiss_sentence(error)}",
            hint="a factory string with fewer lists or codes, or 'auto'",
        ) from None


def fill(index: Any, live: LiveVectors, rows: Int64) -> None:
    """Add the vectors at ``rows``, in order, after the labels the index already has."""
    finder = innermost(index)
    step = live.step
    if isinstance(finder, faiss.IndexNSG | faiss.IndexNNDescent):
        step = max(rows.size, 1)  # their graph is made in one step, at the first and only add
    elif isinstance(finder, faiss.IndexHNSW):
        step = max(1024, GRAPH_BLOCK_BYTES // (4 * live.width))
    for start in range(0, rows.size, step):
        _add(index, live.at(rows[start : start + step]))


def _fill_from_storage(index: Any, live: LiveVectors) -> None:
    """Add all live vectors to an empty graph in one step, from the memory in which the index stores them.

    Building a graph in one step costs 15 % to 30 % less than in blocks, but a single ``add`` needs all vectors in one
    array: a second copy. So the vectors are first written to the memory that ``add`` would copy them to, and ``add``
    is then called on that memory: it allocates nothing and copies each vector onto itself.
    """
    storage = faiss.downcast_index(index.storage)
    numbers = live.count * live.width
    storage.codes.resize(4 * numbers)
    array = faiss.rev_swig_ptr(storage.get_xb(), numbers).reshape(live.count, live.width)
    for start, block in live.blocks():
        array[start : start + block.shape[0]] = block
    index.add(array)


def reserve(index: Any, count: int) -> None:
    """Allocate room for ``count`` labels at once: a vector that grows by doubling briefly needs three times as much."""
    for store in stores(index):
        codes = store.codes.codes
        if codes.size() == 0:
            codes.resize(count * store.codes.code_size)
            codes.resize(0)


def _add(index: Any, block: Float32) -> None:
    if takes_ids(index):
        start = int(index.ntotal)
        index.add_with_ids(block, np.arange(start, start + block.shape[0], dtype=np.int64))
    else:
        index.add(block)
