"""Filtered searches of ours beside Qdrant's local client, LanceDB and bare FAISS: the same data, queries and filters.

20,000 items of 32 numbers in 30 genres, 100 queries in one call (Qdrant's local client, which looks at every item in
Python: 3), the ten best by inner product. Filters let through 50, 10, 1 and 0.1 % of the items: by a string that
follows the vectors (the hardest for a graph), a range of numbers, a string in a list, allowed ids and blocked ids.
Recall against the exact answer; processor and wall milliseconds for each query, best of alternating rounds, one thread
for FAISS and for us.

    pip install 'embsync[bench]'
    python benchmarks/peers.py [--rounds 5] [--without qdrant]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import faiss
import numpy as np
import pyarrow
import pyarrow.parquet
from pairs import best

import embsync
from embsync.config_loader import load
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store

ITEMS, WIDTH, ASKED, K = 20_000, 32, 100, 10
#: Queries for Qdrant's local client.
FEW = 3
SHARES = {"half": 0.5, "tenth": 0.1, "hundredth": 0.01, "thousandth": 0.001}
Search = Callable[[], Any]


@dataclass(frozen=True)
class Data:
    """Items with labels, and queries."""

    ids: Any
    items: Any
    queries: Any
    shelf: Any
    price: Any
    tags: list[list[str]]

    @classmethod
    def made(cls) -> Data:
        """Return seeded data: genres, a label determined by the first value, and labels independent of the vectors."""
        random = np.random.default_rng(42)
        genres = random.normal(size=(30, WIDTH))
        norms = random.lognormal(0, 0.5, (ITEMS, 1))
        items = (genres[random.integers(0, 30, ITEMS)] + 0.7 * random.normal(size=(ITEMS, WIDTH))) * norms
        queries = genres[random.integers(0, 30, ASKED)] + 0.7 * random.normal(size=(ASKED, WIDTH))
        shelf = np.full(ITEMS, "rest", dtype="U10")
        order, start = np.argsort(items[:, 0]), 0
        for name, share in SHARES.items():
            shelf[order[start : start + int(share * ITEMS)]] = name
            start += int(share * ITEMS)
        tags = [[name for name, share in SHARES.items() if random.random() < share] for _ in range(ITEMS)]
        price = random.permutation(ITEMS) * 1000 / ITEMS
        return cls(
            np.arange(ITEMS) * 7 + 1000, items.astype(np.float32), queries.astype(np.float32), shelf, price, tags
        )


@dataclass(frozen=True)
class Filter:
    """A filter as a condition and as the items that pass it."""

    kind: str
    name: str
    mask: Any

    @classmethod
    def all_of(cls, data: Data) -> list[Filter]:
        """Return every kind of filter at every selectivity."""
        random = np.random.default_rng(1)
        found = []
        for name, share in SHARES.items():
            chosen = np.zeros(ITEMS, np.bool_)
            chosen[random.permutation(ITEMS)[: int(share * ITEMS)]] = True
            found += [
                cls("string", name, data.shelf == name),
                cls("number", name, data.price <= 1000 * share - 1e-9),
                cls("list", name, np.array([name in one for one in data.tags])),
                cls("allowed", name, chosen),
                cls("blocked", name, chosen),
            ]
        return sorted(found, key=lambda one: [*dict.fromkeys(each.kind for each in found)].index(one.kind))


def ours(data: Data, directory: Path) -> Callable[[Filter], Search]:
    """Publish the items, the queries as users, and labels; search a version with the reader."""
    snapshot = directory / "snapshot"
    snapshot.mkdir()
    np.save(snapshot / "items.npy", data.items)
    np.save(snapshot / "item_ids.npy", data.ids)
    labels = {"item_id": data.ids, "shelf": data.shelf.tolist(), "price": data.price, "tags": data.tags}
    pyarrow.parquet.write_table(pyarrow.table(labels), snapshot / "item_labels.parquet")
    options = {
        "index.factory": "HNSW32",
        "snapshot.labels": ["shelf", "price", "tags"],
        "space.standardize": False,
        "threads": 1,
    }
    publish_snapshot(Store(directory / "S"), Request(snapshot), load(environment={}, options=options))
    version = embsync.open(directory / "S").current
    queries = data.queries @ version.transform.maps.items.astype(np.float32)  # a first version may turn the axes

    def search(one: Filter) -> Search:
        where = {
            "string": {"shelf": one.name},
            "number": {"price": {"max": 1000 * SHARES[one.name] - 1e-9}},
            "list": {"tags": one.name},
        }
        if one.kind in where:
            return lambda: version.search(queries, K, where=where[one.kind])[0]
        allowed, blocked = data.ids[one.mask], data.ids[~one.mask]
        if one.kind == "allowed":
            return lambda: version.search(queries, K, allowed=allowed)[0]
        return lambda: version.search(queries, K, blocked=blocked)[0]

    return search


def bare_faiss(data: Data, index: Any, parameters: Callable[[Any], Any]) -> Callable[[Filter], Search]:
    """Search with FAISS and a bitmap computed from NumPy columns, as its wiki shows."""
    index.add(data.items)
    positions = {name: place for place, name in enumerate(data.ids.tolist())}
    shares = {name: 1000 * share - 1e-9 for name, share in SHARES.items()}
    tagged = {name: np.array([name in one for one in data.tags]) for name in SHARES}  # one column per tag

    def mask_of(one: Filter, ids: list[int]) -> Any:
        if one.kind == "string":
            return data.shelf == one.name
        if one.kind == "number":
            return data.price <= shares[one.name]
        if one.kind == "list":
            return tagged[one.name]
        mask = np.full(ITEMS, one.kind == "blocked")
        mask[[positions[name] for name in ids]] = one.kind == "allowed"
        return mask

    def search(one: Filter) -> Search:
        ids = data.ids[one.mask if one.kind == "allowed" else ~one.mask].tolist()

        def run() -> Any:
            selector = faiss.IDSelectorBitmap(np.packbits(mask_of(one, ids), bitorder="little"))
            _, found = index.search(data.queries, K, params=parameters(selector))
            return np.where(found < 0, -1, data.ids[found])

        return run

    return search


def qdrant(data: Data) -> Callable[[Filter], Search]:
    """Search with Qdrant in this process: payload beside the points, filters by payload and by id."""
    from qdrant_client import QdrantClient, models  # noqa: PLC0415  (large, and may be left out)

    client = QdrantClient(":memory:")
    client.create_collection("items", models.VectorParams(size=WIDTH, distance=models.Distance.DOT))
    payload = [
        {"shelf": shelf, "price": price, "tags": tags}
        for shelf, price, tags in zip(data.shelf.tolist(), data.price.tolist(), data.tags, strict=True)
    ]
    client.upload_collection("items", data.items, payload, data.ids.tolist())

    def condition(one: Filter) -> Any:
        if one.kind == "allowed":
            return models.Filter(must=[models.HasIdCondition(has_id=data.ids[one.mask].tolist())])
        if one.kind == "blocked":
            return models.Filter(must_not=[models.HasIdCondition(has_id=data.ids[~one.mask].tolist())])
        if one.kind == "number":
            within = models.Range(lte=1000 * SHARES[one.name] - 1e-9)
            return models.Filter(must=[models.FieldCondition(key="price", range=within)])
        key = "shelf" if one.kind == "string" else "tags"
        return models.Filter(must=[models.FieldCondition(key=key, match=models.MatchValue(value=one.name))])

    def search(one: Filter) -> Search:
        def run() -> Any:
            chosen = condition(one)
            asked = [models.QueryRequest(query=query.tolist(), filter=chosen, limit=K) for query in data.queries[:FEW]]
            return [[hit.id for hit in found.points] for found in client.query_batch_points("items", asked)]

        return run

    return search


def lance(data: Data, directory: Path) -> Callable[[Filter], Search]:
    """Search with LanceDB: a table on disk with scalar indexes, exactly, as it recommends below 100,000 rows."""
    import lancedb  # noqa: PLC0415  (large, and may be left out)

    table = lancedb.connect(directory / "lance").create_table(
        "items",
        pyarrow.table(
            {
                "id": data.ids,
                "vector": pyarrow.FixedSizeListArray.from_arrays(data.items.ravel(), WIDTH),
                "shelf": data.shelf.tolist(),
                "price": data.price,
                "tags": data.tags,
            }
        ),
    )
    for column, kind in (("id", "BTREE"), ("shelf", "BITMAP"), ("price", "BTREE"), ("tags", "LABEL_LIST")):
        table.create_scalar_index(column, index_type=kind)

    def clause(one: Filter) -> str:
        if one.kind == "string":
            return f"shelf = '{one.name}'"
        if one.kind == "number":
            return f"price <= {1000 * SHARES[one.name] - 1e-9}"
        if one.kind == "list":
            return f"array_has_any(tags, ['{one.name}'])"
        ids = data.ids[one.mask if one.kind == "allowed" else ~one.mask]
        return f"id {'' if one.kind == 'allowed' else 'NOT '}IN ({', '.join(map(str, ids.tolist()))})"

    def search(one: Filter) -> Search:
        def run() -> Any:
            asked = table.search(data.queries).distance_type("dot").where(clause(one), prefilter=True)
            found = asked.limit(K).select(["id", "_distance"]).to_arrow()
            hits: list[list[int]] = [[] for _ in data.queries]
            for query, name in zip(found["query_index"].to_pylist(), found["id"].to_pylist(), strict=True):
                hits[query].append(name)
            return hits

        return run

    return search


def recall(found: Any, truth: list[set[int]]) -> float:
    """Return the share of the exact answer that was found."""
    asked = truth[: len(found)]
    hits = sum(len(wanted & set(map(int, one))) for one, wanted in zip(found, asked, strict=True))
    return hits / max(sum(map(len, asked)), 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without", action="append", default=[], choices=["qdrant", "lancedb"])
    given = parser.parse_args()
    faiss.omp_set_num_threads(1)
    warnings.filterwarnings("ignore", module="qdrant_client")  # it advises a server above 20,000 points
    data = Data.made()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        graph = faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 200
        systems = {
            "embsync": ours(data, place),
            "FAISS, HNSW32": bare_faiss(
                data, graph, lambda selector: faiss.SearchParametersHNSW(efSearch=64, sel=selector)
            ),
            "FAISS, Flat": bare_faiss(
                data, faiss.IndexFlatIP(WIDTH), lambda selector: faiss.SearchParameters(sel=selector)
            ),
        }
        if "lancedb" not in given.without:
            systems["LanceDB"] = lance(data, place)
        if "qdrant" not in given.without:
            systems["Qdrant, local"] = qdrant(data)
        print("| filter | lets through | " + " | ".join(systems) + " |\n| --- | --- |" + " --- |" * len(systems))
        scores = data.queries @ data.items.T
        for one in Filter.all_of(data):
            rows = np.flatnonzero(one.mask)
            truth = [set(data.ids[rows[np.argsort(-line[rows])[:K]]].tolist()) for line in scores]
            searches = [make(one) for make in systems.values()]
            recalls = [recall(search(), truth) for search in searches]
            costs = best(searches, given.rounds)
            cells = []
            for name, share, cost in zip(systems, recalls, costs, strict=True):
                each = 1e3 / (FEW if name == "Qdrant, local" else ASKED)
                cells.append(f"{share:.3f} · {each * cost.processor:.3f} · {each * cost.wall:.3f}")
            print(f"| {one.kind} | {100 * SHARES[one.name]:g} % | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
