"""Recall of the same version in FAISS, pgvector and milvus-lite: at FAISS's search effort, and at each sink's own.

    python benchmarks/sinks.py SNAPSHOT

Starts the servers of the tests (extra ``test-services``). Recall@10 is that of up to 1,000 users who are not among
those of the probe, against exact search. milvus-lite is Python over FAISS: its line says nothing about Milvus.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from pymilvus import MilvusClient
from support.milvus import running_milvus
from support.nights import configured
from support.postgresql import PostgresqlServer, running_postgresql
from support.quick import quick_directory

from embsync.config import MilvusConfig, PostgresqlConfig
from embsync.delivery.kinds import open_sink
from embsync.delivery.queries import QUERIES, ProbeQueries, probe_queries
from embsync.delivery.sink import Sink
from embsync.pipeline import Request, publish_snapshot
from embsync.reader import Version, open_version
from embsync.store import Store

Search = Callable[[int], list[list[Any]]]


def held_out(version: Version) -> ProbeQueries:
    """Return queries that the probe does not use."""
    many = probe_queries(version, QUERIES + 1000)
    probed = {row.tobytes() for row in probe_queries(version).vectors}
    kept = [place for place, row in enumerate(many.vectors) if row.tobytes() not in probed]
    return ProbeQueries(many.vectors[kept], many.k, many.ids[kept], many.metric, many.target, version, many._rows[kept])


def in_faiss(version: Version, queries: ProbeQueries, effort: int) -> list[list[Any]]:
    return version.search(queries.vectors, queries.k, parameters={"efSearch": effort})[0].tolist()


def in_postgresql(connection: Any, queries: ProbeQueries, effort: int) -> list[list[Any]]:
    statement = "SELECT item_id FROM embsync.search_version(1, %s::vector, %s, %s)"
    return [
        [row[0] for row in connection.execute(statement, (str(row.tolist()), queries.k, effort)).fetchall()]
        for row in queries.vectors
    ]


def in_milvus(url: str, queries: ProbeQueries, effort: int) -> list[list[Any]]:
    client = MilvusClient(url)
    hits = client.search(
        "embsync", data=queries.vectors.tolist(), anns_field="vector", limit=queries.k, partition_names=["items"],
        filter="live == true", output_fields=["id"], search_params={"params": {"ef": effort}},
    )  # fmt: skip
    client.close()
    return [[hit["entity"]["id"] for hit in found] for found in hits]


@contextlib.contextmanager
def delivered(
    sink: Sink, version: Version, name: str, faiss_effort: int, queries: ProbeQueries, search: Search
) -> Iterator[None]:
    """Deliver, and print a line."""
    start = time.monotonic()
    sink.stage(version)
    staged = time.monotonic() - start
    probe = sink.probe(version)
    sink.commit(version.number, None)
    ((knob, effort),) = probe.search.items()
    at_faiss = queries.recall(search(faiss_effort))
    own = queries.recall(search(effort))
    print(
        f"| {name} | {at_faiss:.3f} | {knob} {effort} | {probe.recall:.3f} | {own:.3f} | {staged:.1f} s |", flush=True
    )
    yield
    sink.close()


def in_database(server: PostgresqlServer, version: Version, effort: int, queries: ProbeQueries, **keys: Any) -> None:
    with server.database() as database, server.connect(database) as connection:
        config = PostgresqlConfig(name="b", url=server.url(database), password_file=str(server.password_file), **keys)
        name = f"pgvector, {keys.get('index', 'hnsw')}{' on halfvec' if keys.get('halfvec') else ''}"
        with delivered(open_sink(config), version, name, effort, queries, partial(in_postgresql, connection, queries)):
            pass


def main(snapshot: Path) -> None:
    with quick_directory() as directory:
        config = configured(index__factory="HNSW32", index__recall_at=10)
        publish_snapshot(Store(directory / "store"), Request(snapshot), config)
        with open_version(directory / "store") as version:
            record, queries = version.record, held_out(version)
            effort = record.index.search["efSearch"]
            print(f"{record.items.live} items x {record.dimension}, {len(queries)} queries, target {queries.target}\n")
            print(
                "| | recall@10 at FAISS's effort | own effort | of the probe | of other users | loading and indexing |"
            )
            print("| --- | --- | --- | --- | --- | --- |")
            own = queries.recall(in_faiss(version, queries, effort))
            print(f"| FAISS, HNSW32 | {own:.3f} | efSearch {effort} | {record.index.recall_at_10:.3f} | {own:.3f} | |")
            with running_postgresql() as server:
                in_database(server, version, effort, queries)
                in_database(server, version, effort, queries, halfvec=True)
                in_database(server, version, effort, queries, index="ivfflat")
            with running_milvus() as url:
                sink = open_sink(MilvusConfig(name="b", url=url))
                search = partial(in_milvus, url, queries)
                with delivered(sink, version, "milvus-lite, HNSW", effort, queries, search):
                    pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshot", type=Path, metavar="SNAPSHOT")
    main(parser.parse_args().snapshot)
