"""The structure of an index: its layers, its search-time parameters, and what a search costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from embsync.index.library import faiss

#: Search effort at which a graph becomes slower than a scan of half a million rows; tuning stops here.
LARGEST_EF_SEARCH = 4096
#: Value of ``IndexIVF.quantizer_trains_alone``, a C char, for a multi-index, whose lists are not clusters.
_TRAINS_ALONE = "\x01"
#: Minimum rows of an NSG. Its initial NNDescent graph rejects 100 rows and aborts the process on some counts up to 130;
#: with only slightly more rows than links (1.25 times as many in FAISS 1.15.1), building it never ends.
_NSG_ROWS = 256
#: Centroids of the product quantizer that an ``OPQMatrix`` trains internally, independently of the index.
_OPQ_CENTROIDS = 256
#: Largest number of candidates re-ranked per result; FAISS's tuner has the same limit.
LARGEST_REFINE_FACTOR = 64


@dataclass(frozen=True)
class Tunable:
    """A search parameter with its smallest and largest useful values."""

    name: str
    low: int
    high: int


def layers(index: Any) -> Iterator[Any]:
    """Yield the index and the indexes it wraps, outermost first, each downcast to its class.

    The next layer of a refining index is the index it refines; coarse quantizers and refining storage are not layers.
    """
    index = faiss.downcast_index(index)
    yield index
    if isinstance(index, faiss.IndexIDMap | faiss.IndexIDMap2 | faiss.IndexPreTransform):
        yield from layers(index.index)
    elif isinstance(index, faiss.IndexRefine):
        yield from layers(index.base_index)


def innermost(index: Any) -> Any:
    """Return the innermost layer, which finds the candidates."""
    *_, last = layers(index)
    return last


def parts(index: Any) -> Iterator[Any]:
    """Yield the index and all indexes within it: wrapped, refining and storage indexes, and coarse quantizers."""
    index = faiss.downcast_index(index)
    yield index
    for name in ("index", "base_index", "refine_index", "storage", "quantizer"):
        part = getattr(index, name, None)
        if part is not None:
            yield from parts(part)


def transforms(layer: Any) -> list[Any]:
    """Return the transforms that this layer applies to a vector, each downcast to its class."""
    if not isinstance(layer, faiss.IndexPreTransform):
        return []
    return [faiss.downcast_VectorTransform(layer.chain.at(place)) for place in range(layer.chain.size())]


def least_rows(index: Any) -> int:
    """Return the minimum number of rows for training: every k-means needs one per centroid."""
    return max(_least_rows(part) for part in parts(index))


def _least_rows(part: Any) -> int:
    least = [1]
    if isinstance(part, faiss.IndexIVF) and part.quantizer_trains_alone != _TRAINS_ALONE:
        least.append(int(part.nlist))
    if hasattr(part, "pq"):
        least.append(int(part.pq.ksub))
    for name in ("rq", "prq"):  # the other additive quantizers have no k-means
        if hasattr(part, name):
            least += [1 << bits for bits in faiss.vector_to_array(getattr(part, name).nbits).tolist()]
    if isinstance(part, faiss.IndexNSG):
        least += [_NSG_ROWS, 2 * int(part.nsg.R)]
    if any(isinstance(step, faiss.OPQMatrix) for step in transforms(part)):
        least.append(_OPQ_CENTROIDS)
    return max(least)


def takes_ids(index: Any) -> bool:
    """Return whether vectors must be added with explicit labels (the outermost layer is an IDMap)."""
    return isinstance(faiss.downcast_index(index), faiss.IndexIDMap | faiss.IndexIDMap2)


def is_exact(index: Any) -> bool:
    """Return whether a search compares the query with every vector, uncompressed."""
    return all(type(layer) in _EXACT for layer in layers(index))


_EXACT = (faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2, faiss.IndexIDMap, faiss.IndexIDMap2)


def tunables(index: Any, k: int) -> list[Tunable]:
    """Return the parameters that affect recall of the best ``k``: the candidate finder's, then the refining factor."""
    found: list[Tunable] = []
    finder = innermost(index)
    if isinstance(finder, faiss.IndexHNSW):
        found.append(Tunable("efSearch", k, max(k, min(LARGEST_EF_SEARCH, int(index.ntotal)))))
    elif isinstance(finder, faiss.IndexIVF):
        found.append(Tunable("nprobe", 1, int(finder.nlist)))
    if any(isinstance(layer, faiss.IndexRefine) for layer in layers(index)) and not _refines_exact(index):
        found.append(Tunable("k_factor_rf", 1, LARGEST_REFINE_FACTOR))
    return found


def _refines_exact(index: Any) -> bool:
    return type(innermost(index)) in _EXACT and not any(
        isinstance(layer, faiss.IndexPreTransform) for layer in layers(index)
    )


def completed(index: Any, values: Mapping[str, int]) -> dict[str, int]:
    """Return ``values`` with the parameters derived from them.

    An HNSW coarse quantizer finds the ``nprobe`` nearest lists. Twice that effort keeps it from limiting recall, and
    costs little compared with scanning the lists.
    """
    full = dict(values)
    finder = innermost(index)
    if "nprobe" in full and isinstance(finder, faiss.IndexIVF):
        quantizer = faiss.downcast_index(finder.quantizer)
        if isinstance(quantizer, faiss.IndexHNSW):
            full["quantizer_efSearch"] = max(16, 2 * full["nprobe"])
    return full


def effort(index: Any, values: Mapping[str, int], k: int) -> float:
    """Return the approximate number of vector comparisons per query with ``values``, by which costs are compared."""
    work = float(index.ntotal)
    finder = innermost(index)
    if "efSearch" in values and isinstance(finder, faiss.IndexHNSW):
        work = float(values["efSearch"] * finder.hnsw.nb_neighbors(1))
    elif "nprobe" in values and isinstance(finder, faiss.IndexIVF):
        work = values["nprobe"] * index.ntotal / finder.nlist
    return work + values.get("k_factor_rf", 0) * k


def search_parameters(index: Any, values: Mapping[str, int], selector: Any = None) -> Any:
    """Return FAISS search parameters for ``values``, nested like the index; None if it takes none.

    Parameters
    ----------
    selector : IDSelector, optional
        Labels a search may return. The object must outlive the parameters.
    """
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexIDMap | faiss.IndexIDMap2 | faiss.IndexPreTransform):
        return search_parameters(index.index, values, selector)
    if isinstance(index, faiss.IndexRefine):
        return _refine_parameters(index, values, selector)
    chosen: dict[str, Any] = {} if selector is None else {"sel": selector}
    if isinstance(index, faiss.IndexHNSW):
        _put(chosen, "efSearch", values.get("efSearch"))
        return faiss.SearchParametersHNSW(**chosen) if chosen else None
    if isinstance(index, faiss.IndexIVF):
        _put(chosen, "nprobe", values.get("nprobe"))
        if "quantizer_efSearch" in values:
            chosen["quantizer_params"] = faiss.SearchParametersHNSW(efSearch=values["quantizer_efSearch"])
        return faiss.SearchParametersIVF(**chosen) if chosen else None
    return faiss.SearchParameters(**chosen) if chosen else None


def _refine_parameters(index: Any, values: Mapping[str, int], selector: Any) -> Any:
    base = search_parameters(index.base_index, values, selector)
    chosen: dict[str, Any] = {} if base is None else {"base_index_params": base}
    _put(chosen, "k_factor", values.get("k_factor_rf"))
    return faiss.IndexRefineSearchParameters(**chosen) if chosen else None


def _put(chosen: dict[str, Any], name: str, value: int | None) -> None:
    if value is not None:
        chosen[name] = value
