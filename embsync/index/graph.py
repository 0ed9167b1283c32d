"""Leading the links of a graph past labels that are dead: FAISS has no way for a node to leave."""

from __future__ import annotations

from typing import Any

import numpy as np

from embsync.dtypes import Bool
from embsync.index.library import faiss
from embsync.index.structure import innermost

#: Nodes whose links are looked at in one go: 1 MB of them, at 64 a node.
_BLOCK = 4096


def bypass(index: Any, dead: Bool) -> None:
    """Replace the links to dead labels by links to living neighbours of theirs, drawn at random.

    Search then reaches what it reached through the dead, and they take no place among its candidates. Only the lowest
    level is changed: above it a search visits few nodes. A link stays, as a stepping stone, where the neighbour
    drawn is dead too, is the node itself or is linked already, so that no list of links ever gets shorter.

    Parameters
    ----------
    index : faiss.IndexHNSW, or what wraps one
        Changed in place.
    dead : (labels,) ndarray of bool
    """
    if not dead.any():
        return
    graph = innermost(index).hnsw
    links = faiss.rev_swig_ptr(graph.neighbors.data(), graph.neighbors.size())
    starts = faiss.vector_to_array(graph.offsets).astype(np.int64)
    slots = np.arange(graph.nb_neighbors(0))
    gone = np.append(dead, False)  # the label of an empty slot is -1
    rng = np.random.default_rng(0)  # the same graph and the same dead give the same file
    for first in range(0, dead.size, _BLOCK):
        block = starts[first : first + _BLOCK + 1]
        places = block[0] + np.flatnonzero(gone[links[block[0] : block[-1]]])
        nodes = first + np.searchsorted(block, places, side="right") - 1
        lowest = places - starts[nodes] < slots.size
        places, nodes = places[lowest], nodes[lowest]
        drawn = links[starts[links[places]] + rng.integers(slots.size, size=places.size)]
        linked = links[starts[nodes, None] + slots]
        fit = (drawn >= 0) & ~gone[drawn] & (drawn != nodes) & (linked != drawn[:, None]).all(axis=1)
        links[places[fit]] = drawn[fit]
