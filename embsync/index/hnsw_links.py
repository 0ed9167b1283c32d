"""Replacing links to dead labels in a graph: FAISS cannot remove a node."""

from __future__ import annotations

from typing import Any

import numpy as np

from embsync.dtypes import Bool, Int64
from embsync.index.layers import innermost
from embsync.index.library import faiss

#: Passes over the links. If the longest tenth of 19,536 real items dies, to which half of all links lead, efSearch for
#: recall 0.95 is 112, 107, 46 and 37 after one to four passes; if a random twentieth dies, it is 17 after each.
_PASSES = 4
#: Nodes whose links are processed at once: 1 MB of links at 64 per node, and less than 1 kB for each dead link.
_BLOCK = 4096


def bypass(index: Any, dead: Bool) -> None:
    """Replace each link to a dead label by a link to one of that label's live neighbours, drawn at random.

    Searches then reach the same nodes without passing dead ones, which take fewer places among the candidates. Only
    the lowest level is changed: a search visits few nodes above it. A link is kept if the neighbour drawn is dead, an
    empty slot, the node itself or already linked, so no list of links ever gets shorter. Kept links are tried again:
    neighbours of a dead hub are often dead hubs, whose own links lead to live ones after the first pass.

    Parameters
    ----------
    index : faiss.IndexHNSW, or an index that wraps one
        Changed in place.
    dead : (labels,) ndarray of bool
    """
    if not dead.any():
        return
    rng = np.random.default_rng(0)  # the same graph and dead labels give the same file
    for _ in range(_PASSES):
        if not _replace(innermost(index).hnsw, np.append(dead, False), rng):  # the label of an empty slot is -1
            return


def _replace(graph: Any, gone: Bool, rng: np.random.Generator) -> bool:
    """Try to replace each link to a dead label once; return whether any was."""
    links = faiss.rev_swig_ptr(graph.neighbors.data(), graph.neighbors.size())
    starts = faiss.rev_swig_ptr(graph.offsets.data(), graph.offsets.size()).view(np.int64)
    slots = np.arange(graph.nb_neighbors(0))
    replaced = False
    for first in range(0, gone.size - 1, _BLOCK):
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
        replaced |= bool(fit.any())
    return replaced


def _first_of_its_kind(values: Int64) -> Bool:
    """Return for each position whether its value occurs there for the first time."""
    first = np.zeros(values.size, np.bool_)
    first[np.unique(values, return_index=True)[1]] = True
    return first
