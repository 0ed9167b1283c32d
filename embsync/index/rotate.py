"""Rotation: keeping a trained index and replacing its vectors, possible because both are in one stable space."""

from __future__ import annotations

from typing import Any

import numpy as np

from embsync.dtypes import Int64
from embsync.index.build import fill
from embsync.index.codes import stores
from embsync.index.hnsw_links import bypass
from embsync.index.layers import innermost, layers
from embsync.index.library import faiss
from embsync.index.live_rows import LiveVectors

#: Indexes that keep everything trained when they are emptied: quantizers, codebooks, ranges, transforms.
_REFILLED = (
    faiss.IndexFlat,
    faiss.IndexFlatIP,
    faiss.IndexFlatL2,
    faiss.IndexScalarQuantizer,
    faiss.IndexPQ,
    faiss.IndexPQFastScan,
    faiss.IndexIVFFlat,
    faiss.IndexIVFScalarQuantizer,
    faiss.IndexIVFPQ,
    faiss.IndexIVFPQFastScan,
)
_WRAPPERS = (faiss.IndexPreTransform, faiss.IndexIDMap, faiss.IndexIDMap2, faiss.IndexRefine, faiss.IndexRefineFlat)
_GRAPHS = (faiss.IndexHNSWFlat, faiss.IndexHNSWSQ, faiss.IndexHNSWPQ)
_IN_PLACE = (faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2, faiss.IndexScalarQuantizer, faiss.IndexPQ)

#: Share of its link slots that a full node frees when another node links to it; otherwise each new link prunes all 64
#: again. Adding 2 % rows to 40k x 64 cost 1/47 of a build instead of 1/28, with the same recall after six nights
#: (0.923); in real retrainings 1/54 instead of 1/44, and efSearch for 0.95 went from 20 to 22 after ten nights.
PRUNE_HEADROOM = 0.1

#: Vectors sampled per centroid, on average, to move it. On ten nights of goodbooks with 256 lists, recall at the effort
#: of a rebuilt index rose from 0.942 to 0.957 (rebuilt: 0.951), for an eighth of the time of a rebuild.
_VECTORS_PER_CENTROID = 64
_QUANTIZERS = (faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2, faiss.IndexHNSWFlat)


def obstacle(index: Any) -> str | None:
    """Return why ``index`` cannot be rotated, or None."""
    *outer, finder = layers(index)
    for layer in outer:
        if type(layer) not in _WRAPPERS:
            return f"{type(layer).__name__} cannot be rotated"
    if type(finder) in _REFILLED:
        return None
    if type(finder) not in _GRAPHS:
        return f"{type(finder).__name__} cannot be rotated"
    for store in stores(index):
        if type(store.codes) not in _IN_PLACE:
            return f"{type(store.codes).__name__} below a graph cannot be rewritten in place"
    return None


def has_graph(index: Any) -> bool:
    """Return whether labels are nodes of a graph, from which they cannot be removed."""
    return isinstance(innermost(index), faiss.IndexHNSW)


def rotate(index: Any, live: LiveVectors, moved: Int64) -> Int64:
    """Replace the vectors of ``index`` in place and add the new rows.

    Parameters
    ----------
    index : faiss.Index
        The parent's index, owned by the caller.
    live : LiveVectors
    moved : (labels,) ndarray of int64
        The live row of each label, -1 for a dead label.

    Returns
    -------
    (labels,) ndarray of int64
        The row of each label. A graph keeps its dead labels, with fewer links to them; other indexes have none: they
        are emptied, the centroids of their lists are moved by one step of k-means, and they are filled again.
    """
    if not has_graph(index):
        index.reset()
        move_centroids(index, live)
        fill(index, live, live.rows)
        return live.rows
    there = np.zeros(live.vectors.shape[0], np.bool_)
    there[moved[moved >= 0]] = True
    fresh = live.rows[~there[live.rows]]
    move(index, live, moved, fresh.size)
    grow(index, live, moved, fresh)
    return np.concatenate([moved, fresh])


def move_centroids(index: Any, live: LiveVectors) -> None:
    """Move each centroid of an emptied index to the mean of the sampled vectors that are nearest to it.

    Done only for lists of unencoded vectors: codes encode residuals to the centroids they were trained with. A centroid
    without vectors is unchanged; for the inner product, moved ones are scaled to length one, as FAISS trains them.
    """
    index = faiss.downcast_index(index)
    if type(index) is not faiss.IndexIVFFlat:
        return
    quantizer = faiss.downcast_index(index.quantizer)
    if type(quantizer) not in _QUANTIZERS:
        return
    centroids = quantizer.reconstruct_n(0, int(index.nlist))
    sums, counts = np.zeros(centroids.shape), np.zeros(int(index.nlist), np.int64)
    rows = live.rows[:: max(1, live.count // (_VECTORS_PER_CENTROID * int(index.nlist)))]
    for start in range(0, rows.size, live.step):
        block = live.at(rows[start : start + live.step])
        lists = quantizer.search(block, 1)[1].ravel()
        order = np.argsort(lists, kind="stable")
        there, firsts = np.unique(lists[order], return_index=True)
        sums[there] += np.add.reduceat(block[order], firsts, axis=0)
        counts += np.bincount(lists, minlength=counts.size)
    filled = counts > 0
    means = sums[filled] / counts[filled, None]
    if int(index.metric_type) == faiss.METRIC_INNER_PRODUCT:
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        means /= np.where(norms > 0, norms, 1.0)
    centroids[filled] = means
    quantizer.reset()
    quantizer.add(centroids)


def move(index: Any, live: LiveVectors, moved: Int64, room: int) -> None:
    """Write the new vectors of a graph's live labels, and allocate room for ``room`` more labels."""
    for store in stores(index):
        store.rewrite(live, moved, room)


def grow(index: Any, live: LiveVectors, moved: Int64, fresh: Int64) -> None:
    """Replace links to dead labels in a graph, and add the rows ``fresh``."""
    bypass(index, moved < 0)
    innermost(index).hnsw.prune_headroom = PRUNE_HEADROOM
    fill(index, live, fresh)


def unchanged(index: Any, live: LiveVectors, moved: Int64) -> bool | None:
    """Return whether the index already holds exactly the live vectors; None if its codes cannot show it."""
    parts = list(stores(index))
    if not any(isinstance(part.codes, faiss.IndexFlat) and not part.steps for part in parts):
        return None
    return all(part.holds(live, moved) for part in parts if isinstance(part.codes, faiss.IndexFlat))
