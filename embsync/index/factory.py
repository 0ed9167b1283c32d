"""Index factory strings: resolving ``auto``, refusing unusable strings before any work, and estimating file sizes."""

from __future__ import annotations

import math
from typing import Any

from embsync.config import IndexConfig
from embsync.errors import UsageError
from embsync.index.files import faiss_sentence
from embsync.index.layers import layers, least_rows, parts, transforms
from embsync.index.library import faiss

AUTO = "auto"
#: Largest number of rows for which ``auto`` is a flat index. Measured in docs/decisions/0004-index-factories.md.
FLAT_ROWS = 5_000
#: Largest number of rows for which ``auto`` is a graph. Measured in docs/decisions/0004-index-factories.md.
HNSW_ROWS = 5_000_000

#: Build parameters of a graph that stays good after many rotations: docs/decisions/0005-dense-graphs.md.
EF_CONSTRUCTION = 80

#: Width at which a factory string is parsed when the real width is not known: it has many divisors.
_SOME_WIDTH = 64

#: Bytes of a file in addition to its vectors: headers, and a margin for the estimate.
_OVERHEAD = 1 << 16


def metric_of(metric: str) -> int:
    """Return the FAISS metric of ``metric``: cosine is the inner product of unit rows."""
    return int(faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)


def resolve_factory(factory: str, rows: int, previous: str | None = None) -> str:
    """Return the factory string for ``rows`` live rows; only ``auto`` depends on them.

    A catalogue whose size fluctuates around a limit keeps the kind of index it had (``previous``) until it is a fifth
    beyond the limit, so that the index is not rebuilt every other night.
    """
    if factory != AUTO:
        return factory
    names = ("Flat", "HNSW32", _lists(rows))
    for name, limit in zip(names, (FLAT_ROWS, HNSW_ROWS, math.inf), strict=True):
        if rows <= (limit * 1.2 if previous == name else limit):
            smaller = names.index(name)
            if previous in names[smaller + 1 :] and rows > 0.8 * limit:
                return str(previous)
            return name
    return names[-1]


def _lists(rows: int) -> str:
    """Return an IVF with about 4 sqrt(n) lists, rounded to a power of two so that growth rarely changes it."""
    return f"IVF{2 ** round(math.log2(4 * math.sqrt(max(rows, 1))))}_HNSW32,Flat"


def create(factory: str, width: int, metric: str) -> Any:
    """Return an empty index, with its graphs set to be dense.

    Raises
    ------
    UsageError
        FAISS rejects the string at this width, or the index does not support the metric.
    """
    try:
        index = faiss.index_factory(width, factory, metric_of(metric))
    except (RuntimeError, ValueError, OverflowError, MemoryError) as error:
        raise _rejected(f"'{factory}' at width {width} ({faiss_sentence(error)})") from None
    _reject_unfillable(index, factory)
    for layer in layers(index):
        _reject_unserviceable(layer, factory, metric)
    densify(index)
    _set_up_training(index)
    return index


def densify(index: Any) -> dict[str, int]:
    """Set build parameters that give nodes added to a graph many links; return them, or {} if there is no graph.

    FAISS does not store ``keep_max_size_level0`` in the file, so a graph that was loaded needs this before it grows.
    """
    for layer in layers(index):
        if isinstance(layer, faiss.IndexHNSW):
            layer.hnsw.efConstruction = EF_CONSTRUCTION
            layer.keep_max_size_level0 = True
            return {"efConstruction": EF_CONSTRUCTION, "keep_max_size_level0": 1}
    return {}


def check_factory(config: IndexConfig, width: int, rows: int | None = None) -> None:
    """Raise UsageError if ``config.factory`` cannot index such rows; nothing is built.

    Parameters
    ----------
    config : IndexConfig
    width : int
        Values in a row.
    rows : int, optional
        Live rows available for training; None if unknown, or if the index may already be trained.
    """
    index = create(resolve_factory(config.factory, HNSW_ROWS if rows is None else rows), width, config.metric)
    if rows is not None:
        reject_few_rows(index, config.factory, rows)


def check_spelling(factory: str) -> None:
    """Raise UsageError if ``factory`` is invalid at any width."""
    try:
        index = faiss.index_factory(_SOME_WIDTH, resolve_factory(factory, HNSW_ROWS))
    except (RuntimeError, ValueError, OverflowError, MemoryError) as error:
        sentence = faiss_sentence(error)
        if "could not parse" in sentence:
            raise _rejected(f"'{factory}' ({sentence})") from None
    else:
        _reject_unfillable(index, factory)


def _rejected(found: str) -> UsageError:
    return UsageError(
        "FAISS rejects the index factory string",
        where="index.factory",
        found=found,
        hint="see the FAISS wiki, 'The index factory', or use 'auto'",
    )


def reject_few_rows(index: Any, factory: str, rows: int) -> None:
    """Raise UsageError if there are fewer rows than ``index`` needs for training."""
    if rows < least_rows(index):
        raise UsageError(
            "too few rows to train the index",
            where="index.factory",
            found=f"'{factory}' and {rows} live rows",
            expected=f"{least_rows(index)} or more",
            hint="a factory string with fewer lists or codes, or 'auto'",
        )


def _reject_unfillable(index: Any, factory: str) -> None:
    """Raise UsageError for indexes that FAISS creates without an error but cannot train, fill or search."""
    inner = list(layers(index))[1:]
    if any(_has_empty_part(part) for part in parts(index)):
        what = "an index without lists, links or dimensions"
    elif any(isinstance(layer, faiss.IndexIDMap | faiss.IndexIDMap2) for layer in inner):
        what = "an IDMap inside another index"
    elif any(isinstance(layer, faiss.IndexRowwiseMinMaxBase) for layer in layers(index)):
        what = "MinMax indexes take codes, not vectors"
    else:
        return
    raise UsageError(what, where="index.factory", found=f"'{factory}'", hint="choose another factory string, or 'auto'")


def _has_empty_part(part: Any) -> bool:
    """Return whether a number in the factory string left a part empty: 0, or the 1 of ``HNSW1``."""
    if isinstance(part, faiss.IndexHNSW):
        return bool(part.hnsw.cum_nneighbor_per_level.size() < 2 or part.hnsw.nb_neighbors(0) == 0)
    if isinstance(part, faiss.IndexNSG):
        return bool(part.nsg.R == 0)
    return bool(getattr(part, "nlist", 1) == 0 or any(step.d_out == 0 for step in transforms(part)))


def _reject_unserviceable(layer: Any, factory: str, metric: str) -> None:
    if layer.metric_type != metric_of(metric):
        raise UsageError(
            f"{type(layer).__name__} does not support metric {metric}",
            where="index.factory",
            found=f"'{factory}'",
            hint="choose another factory string or metric",
        )
    if isinstance(layer, faiss.IndexLSH):
        raise UsageError(
            "LSH ranks by Hamming distance, not by a metric of the store",
            where="index.factory",
            found=f"'{factory}'",
            hint="choose another factory string, or use 'auto'",
        )
    for step in transforms(layer):
        if step.d_out > step.d_in and isinstance(step, faiss.PCAMatrix):
            raise UsageError(
                "PCA cannot widen vectors",
                where="index.factory",
                found=f"'{factory}'",
                expected=f"at most {step.d_in} dimensions",
            )
        if isinstance(step, faiss.OPQMatrix) and step.d_out % step.M:
            raise UsageError(
                "OPQ cannot divide the dimensions",
                where="index.factory",
                found=f"'{factory}'",
                expected=f"a divisor of {step.d_out}",
            )


def _set_up_training(index: Any) -> None:
    """Skip training that is not needed, and silence FAISS's warning about too few training points.

    Polysemous codes take 4/5 of a PQ's training and serve a filter that is not used; the recall gate judges the result.
    """
    for layer in layers(index):
        if hasattr(layer, "do_polysemous_training"):
            layer.do_polysemous_training = False
        for part in ("cp", "pq"):
            owner = getattr(layer, part, None)
            clustering = getattr(owner, "cp", owner)
            if clustering is not None and hasattr(clustering, "min_points_per_centroid"):
                clustering.min_points_per_centroid = 1


def estimate_bytes(rows: int, k: int, factory: str, compact_dead_fraction: float = 0.2) -> int:
    """Return an upper estimate of the serialized size in bytes, including dead labels.

    Parameters
    ----------
    rows : int
        Live rows.
    k : int
        Width of the space.
    factory : str
        As configured; ``auto`` is resolved for ``rows``.
    compact_dead_fraction : float
        Largest share of dead labels in a rotated graph.
    """
    chosen = resolve_factory(factory, rows)
    if factory == AUTO and 0.8 * FLAT_ROWS < rows <= FLAT_ROWS:
        chosen = "HNSW32"  # the larger of the two candidates, see resolve_factory
    index = create(chosen, k, "l2")
    graph = any(isinstance(layer, faiss.IndexHNSW) for layer in layers(index))
    living = 1.0 - min(compact_dead_fraction, 0.99) if graph else 1.0
    return math.ceil(rows / living * _label_bytes(index)) + _fixed_bytes(index) + _OVERHEAD


def _label_bytes(index: Any) -> float:
    """Return the bytes that one label takes in all layers."""
    total = 0.0
    for layer in layers(index):
        if isinstance(layer, faiss.IndexIDMap | faiss.IndexIDMap2):
            total += 8
        elif isinstance(layer, faiss.IndexRefine):
            total += _label_bytes(layer.refine_index)
        elif isinstance(layer, faiss.IndexHNSW):
            # Level 0, and the upper levels that one vector in M reaches, doubled because levels are random.
            links = 4.0 * layer.hnsw.nb_neighbors(0) + 8.0 * layer.hnsw.nb_neighbors(1) / 8
            total += _label_bytes(layer.storage) + links + 12
        elif isinstance(layer, faiss.IndexNSG):
            total += _label_bytes(layer.storage) + 4.0 * layer.nsg.R
        elif not isinstance(layer, faiss.IndexPreTransform):
            total += float(getattr(layer, "code_size", 4 * layer.d)) + 16
    return total


def _fixed_bytes(index: Any) -> int:
    """Return the bytes of the trained parts: centroids, codebooks, matrices."""
    total = 0
    for layer in layers(index):
        total += 4 * layer.d * 4096  # codebooks of at most 8 bits, ranges, means
        if isinstance(layer, faiss.IndexPreTransform):
            for position in range(layer.chain.size()):
                step = layer.chain.at(position)
                total += 16 * step.d_in * max(step.d_in, step.d_out) + 4 * step.d_in * 4096
        if isinstance(layer, faiss.IndexIVF):
            total += int(layer.nlist * (_label_bytes(layer.quantizer) + 32))
    return total
