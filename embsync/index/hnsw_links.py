"""Leading the links of a graph past labels that are dead: FAISS has no way for a node to leave."""

from __future__ import annotations

from typing import Any

import numpy as np

from embsync.dtypes import Bool, Int64
from embsync.index.layers import innermost
from embsync.index.library import faiss

#: Nodes whose links are looked at in one go: 1 MB of them at 64 a node, and less than 1 kB for each that is dead.
_BLOCK = 4096


def bypass(index: Any, dead: Bool) -> None:
    """Replace links to dead labels by links to living neighbours of theirs, drawn at random.

    Search then reaches what it reached through the dead, and they take fewer places among its candidates. Only the
    lowest level is changed: above it a search visits few nodes. A link stays, as a stepping stone, where what is
    drawn is dead too, an empty slot, the node itself or linked already, so that no list of links ever gets shorter.

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
    starts = faiss.rev_swig_ptr(graph.offsets.data(), graph.offsets.size()).view(np.int64)
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
        fit &= _first_of_its_kind(nodes * gone.size + drawn)
        links[places[fit]] = drawn[fit]


def _first_of_its_kind(values: Int64) -> Bool:
    """Tell of each value whether none before it is equal."""
    first = np.zeros(values.size, np.bool_)
    first[np.unique(values, return_index=True)[1]] = True
    return first
