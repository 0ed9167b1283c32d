"""Training and filling an index from nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embsync.errors import UsageError
from embsync.index.factory import create
from embsync.index.files import faiss_sentence
from embsync.index.library import faiss
from embsync.index.live import LiveVectors
from embsync.index.structure import innermost, layers, takes_ids

Int64 = NDArray[np.int64]

#: Training vectors for each centroid, as FAISS's own k-means would sample them from more.
POINTS_PER_CENTROID = 256
#: Training vectors of an index without a coarse quantizer: codebooks of 256 entries, ranges, PCA.
LEAST_TRAINING_ROWS = 65_536


def build(factory: str, live: LiveVectors, metric: str) -> Any:
    """Return an index of all live vectors, label i for the i-th live row.

    Raises
    ------
    UsageError
        The factory needs more rows than there are.
    """
    index = create(factory, live.width, metric)
    train(index, live)
    reserve(index, live.count)
    fill(index, live, live.rows)
    return index


def train(index: Any, live: LiveVectors) -> None:
    """Train ``index`` on a sample of the live vectors; a no-op where there is nothing to train."""
    if index.is_trained:
        return
    finder = innermost(index)
    lists = int(finder.nlist) if isinstance(finder, faiss.IndexIVF) else 0
    sample = live.sample(max(LEAST_TRAINING_ROWS, POINTS_PER_CENTROID * lists))
    try:
        index.train(sample)
    except RuntimeError as error:
        raise UsageError("the index cannot be trained on these vectors", where="index.factory",
                         found=f"{live.count} live rows of width {live.width}: {faiss_sentence(error)}",
                         hint="a factory string with fewer lists or codes, or 'auto'") from None


def fill(index: Any, live: LiveVectors, rows: Int64) -> None:
    """Add the vectors at ``rows``, in order, behind the labels the index has."""
    if isinstance(innermost(index), _ONE_ADD):
        _add(index, live.at(rows))
        return
    for _, block in live.blocks(rows):
        _add(index, block)


#: Their graph is made in one step, when vectors are added for the first and only time.
_ONE_ADD = (faiss.IndexNSG, faiss.IndexNNDescent)


def reserve(index: Any, count: int) -> None:
    """Make room for ``count`` labels at once: a vector that grows by doubling holds three copies meanwhile."""
    for store in _stores(index):
        codes = store.codes
        if store.ntotal == 0 and codes.size() == 0:
            codes.resize(count * store.code_size)
            codes.resize(0)


def _stores(index: Any) -> list[Any]:
    """Return the parts that hold one code a label, in label order."""
    found = []
    for layer in layers(index):
        parts = [layer]
        if isinstance(layer, faiss.IndexHNSW):
            parts = [faiss.downcast_index(layer.storage)]
        elif isinstance(layer, faiss.IndexRefine):
            parts = [faiss.downcast_index(layer.refine_index)]
        found += [part for part in parts if isinstance(part, faiss.IndexFlatCodes)]
    return found


def _add(index: Any, block: NDArray[np.float32]) -> None:
    if takes_ids(index):
        start = int(index.ntotal)
        index.add_with_ids(block, np.arange(start, start + block.shape[0], dtype=np.int64))
    else:
        index.add(block)
