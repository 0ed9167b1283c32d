"""Rotating an index beside rebuilding it: seconds, recall, search cost, the gate's decisions, what people feel.

Every figure of a rotated index is taken beside a rebuilt one of the same night, in the same run: take ratios.

    python benchmarks/rotation.py [--rows 1000000] [--parts synthetic,goodbooks,decisions,search,consistency]
                                  [--factories HNSW32 ...] [--nights 1 5 20] [--cosines 0.95 0.86] [--json FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rotation_worlds import Night, enlarged, goodbooks, lasting, retrainings, wandering

import embsync
from embsync.config import IndexConfig
from embsync.config_loader import load
from embsync.index import Built, ParentIndex, Searcher, refresh
from embsync.index.build import build
from embsync.index.gate import RecallGate, SearchTuning
from embsync.index.ground_truth import exact_neighbours
from embsync.index.layers import search_parameters
from embsync.index.library import faiss
from embsync.index.live_rows import LiveVectors, live_vectors
from embsync.index.rotate import grow, has_graph, move, rotate
from embsync.index.threads import faiss_threads
from embsync.manifest import Manifest
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store

METRIC = "inner_product"
TARGET = 0.95
K = 10
Row = dict[str, Any]


@dataclass
class Chain:
    """An index that is rotated night after night and never rebuilt."""

    index: Any
    ids: np.ndarray

    def advance(self, night: Night, live: LiveVectors) -> tuple[float, float]:
        """Rotate to ``night``; return the seconds of moving the survivors and those in total."""
        moved = positions(night.ids, self.ids)
        known = np.isin(night.ids, self.ids)
        fresh = live.rows[~known]
        began = time.perf_counter()
        if has_graph(self.index):  # the steps of ``rotate``, one by one
            move(self.index, live, moved, fresh.size)
            middle = time.perf_counter()
            grow(self.index, live, moved, fresh)
            rows = np.concatenate([moved, fresh])
        else:
            rows = rotate(self.index, live, moved)
            middle = time.perf_counter()
        ended = time.perf_counter()
        self.ids = np.where(rows >= 0, night.ids[np.maximum(rows, 0)], -1)
        return middle - began, ended - began

    def rows(self, night: Night) -> np.ndarray:
        """Return the row of ``night`` for each label."""
        return positions(night.ids, self.ids)


def positions(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the positions of ``wanted`` in the ascending ``ids``, -1 for missing ones."""
    found = np.minimum(np.searchsorted(ids, wanted), ids.size - 1)
    return np.where(ids[found] == wanted, found, -1).astype(np.int64)


def aging(name: str, nights: Iterable[Night], factories: Iterable[str], checkpoints: Iterable[int]) -> Iterator[Row]:
    """Rotate one index per factory through all nights; at each checkpoint, rebuild another one and compare."""
    chains: dict[str, Chain] = {}
    for number, night in enumerate(nights):
        live = live_vectors(night.vectors, np.arange(night.ids.size), METRIC)
        for factory in factories:
            if number == 0:
                chains[factory] = Chain(build(factory, live, METRIC), night.ids)
                continue
            chain = chains[factory]
            moving, rotating = chain.advance(night, live)
            if number in checkpoints:
                yield {
                    "world": name,
                    "factory": factory,
                    "night": number,
                    "rows": night.ids.size,
                    "dead": int((chain.ids < 0).sum()),
                    **compare(chain, night, live, factory, moving, rotating),
                }


def compare(chain: Chain, night: Night, live: LiveVectors, factory: str, moving: float, rotating: float) -> Row:
    """Rebuild, judge both indexes, and time both."""
    rebuilt, building = timed(lambda: build(factory, live, METRIC))
    truth, exact = timed(lambda: exact_neighbours(live, night.queries, K, METRIC))
    gate = RecallGate(live, night.queries, truth, METRIC, TARGET)
    rows = chain.rows(night)
    old, judging = timed(lambda: gate.judge(chain.index, rows))
    new = gate.judge(rebuilt, live.rows)
    equal = recall_with(gate, chain.index, rows, new.search)
    generous = {"efSearch": 64} if has_graph(rebuilt) else {}
    return {
        "rebuild_s": building,
        "move_s": moving,
        "rotate_s": rotating,
        "move_ratio": building / moving,
        "rotate_ratio": building / rotating,
        "recall_rotated_equal_effort": equal,
        "recall_rebuilt": new.recall,
        **(
            {
                "recall_rotated_ef64": recall_with(gate, chain.index, rows, generous),
                "recall_rebuilt_ef64": recall_with(gate, rebuilt, live.rows, generous),
            }
            if generous
            else {}
        ),
        "search_rotated": old.search,
        "reached": gate.reached(old),
        "search_rebuilt": new.search,
        "truth_s": exact,
        "gate_s": judging,
        "gate_share": (exact + judging) / building,
        **latency("rotated", chain.index, rows, old, night.queries),
        **latency("rebuilt", rebuilt, live.rows, new, night.queries),
    }


def recall_with(gate: RecallGate, index: Any, rows: np.ndarray, search: dict[str, int]) -> float:
    """Return the recall of an index with given search parameters, such as those another one needs."""
    return gate.recall(Searcher(index, rows, METRIC, search).search(gate.queries, K)[0])


def latency(which: str, index: Any, rows: np.ndarray, verdict: SearchTuning, queries: np.ndarray) -> Row:
    """Return the best of several runs: a batch of all queries, and single ones, each with its own parameters."""
    searcher = Searcher(index, rows, METRIC, verdict.search)
    batch = best(lambda: searcher.search(queries, K), 3)
    singles = [queries[i : i + 1] for i in range(min(100, len(queries)))]
    single = best(lambda: [searcher.search(query, K) for query in singles], 3) / len(singles)
    return {f"batch_ms_{which}": 1e3 * batch, f"single_us_{which}": 1e6 * single}


def decisions(name: str, nights: Iterable[Night], factory: str) -> Iterator[Row]:
    """Let ``refresh`` decide every night, as the pipeline does, files and hashes included."""
    config, previous, before = IndexConfig(factory=factory, target_recall=TARGET), None, None
    with tempfile.TemporaryDirectory() as directory:
        for number, night in enumerate(nights):
            if before is not None:
                row_map = positions(night.ids, before[0].ids)
                previous = ParentIndex(before[2], before[3], before[1].labels, row_map, before[1].report)
            built, seconds = timed(
                lambda n=night, p=previous: refresh(n.vectors, np.arange(n.ids.size), n.queries, None, config, 0, p)
            )
            report = built.report
            yield {
                "world": name,
                "factory": factory,
                "night": number,
                "action": report.action,
                "reason": report.reason,
                "recall": report.recall_at_10,
                "search": report.search,
                "dead": report.dead,
                "seconds": seconds,
                "steps": dict(built.seconds),
            }
            path = Path(directory) / f"{number}.faiss"
            if before is not None:
                before[2].unlink()
            before = (night, built, path, save(built, path))


def save(built: Built, path: Path) -> str:
    """Write an index; return its hash."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        built.write(lambda chunk: (file.write(chunk), digest.update(chunk)))
    return digest.hexdigest()


def overhead(night: Night, factory: str) -> Row:
    """Time ``version.search`` of a published store and bare FAISS, with the same parameters on the same mapped file."""
    with tempfile.TemporaryDirectory() as directory:
        manifest = published(Path(directory), night, factory)
        with embsync.open(Path(directory) / "store") as store:
            version = store.current
            queries = np.array(version.side("users").vectors)
            _, opening = timed(version.open_files)
            bare = faiss.read_index(str(version.path / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
            parameters = search_parameters(bare, manifest.index.search)
            singles = [queries[i : i + 1] for i in range(200)]
            ways: dict[str, Callable[[], Any]] = {
                "batch": lambda: version.search(queries, K),
                "bare_batch": lambda: bare.search(queries, K, params=parameters),
                "single": lambda: [version.search(query, K) for query in singles],
                "bare_single": lambda: [bare.search(query, K, params=parameters) for query in singles],
            }
            figures: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(25):  # in turn, so that other load affects all alike
                for name, way in ways.items():
                    figures[name].append(timed(way)[1])
    least = {name: min(values) for name, values in figures.items()}
    return {
        "factory": factory,
        "rows": night.ids.size,
        "search": manifest.index.search,
        "open_ms": 1e3 * opening,
        "batch_ms": 1e3 * least["batch"],
        "bare_batch_ms": 1e3 * least["bare_batch"],
        "batch_overhead": least["batch"] / least["bare_batch"] - 1,
        "single_us": 1e6 * least["single"] / 200,
        "single_extra_us": 1e6 * (least["single"] - least["bare_single"]) / 200,
    }


def published(place: Path, night: Night, factory: str) -> Manifest:
    """Publish a night as version 1 of ``place/store``."""
    snapshot = place / "night"
    snapshot.mkdir()
    for name, array in {
        "items": night.vectors,
        "item_ids": night.ids,
        "users": night.queries,
        "user_ids": night.users,
    }.items():
        np.save(snapshot / f"{name}.npy", array)
    config = load(environment={}, options={"index.factory": factory})
    return publish_snapshot(Store(place / "store"), Request(snapshot), config)


def consistency(days: list[tuple[Night, Night]], factory: str) -> Iterator[Row]:
    """Compare consecutive nights' results of the same users: raw, stable and rebuilt, stable and rotated, exact.

    ``days`` holds each night stable and raw. ``fresh``: each night's own user vector; ``stale``: last night's.
    """
    shown: dict[str, dict[str, tuple[np.ndarray, np.ndarray | None]]] = {}
    chain: Chain | None = None
    for number, (stable, raw) in enumerate(days):
        now: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        for name, night in (("raw_rebuilt", raw), ("stable_rebuilt", stable)):
            live = live_vectors(night.vectors, np.arange(night.ids.size), METRIC)
            now[name] = finder(build(factory, live, METRIC), live.rows, night, live)
            now[f"exact_{name.split('_')[0]}"] = lambda q, n=night, v=live: n.ids[exact_neighbours(v, q, K, METRIC)]
        live = live_vectors(stable.vectors, np.arange(stable.ids.size), METRIC)
        if chain is None:
            chain = Chain(build(factory, live, METRIC), stable.ids)
        else:
            chain.advance(stable, live)
        now["stable_rotated"] = finder(chain.index, chain.rows(stable), stable, live)
        results = {}
        for name, find in now.items():
            own = raw if "raw" in name else stable
            past = shown.get(name, {}).get("queries")
            results[name] = {
                "fresh": find(own.queries),
                "queries": own.queries,
                "users": own.users,
                "stale": None if past is None else find(past),
            }
        if shown:
            yield {
                "factory": factory,
                "night": number,
                **{
                    f"{name}_{kind}": overlap(shown[name], results[name], kind)
                    for kind in ("fresh", "stale")
                    for name in now
                },
            }
        shown = results


def finder(index: Any, rows: np.ndarray, night: Night, live: LiveVectors) -> Callable[[np.ndarray], np.ndarray]:
    """Return a search for ids with the parameters the gate finds."""
    gate = RecallGate(live, night.queries, exact_neighbours(live, night.queries, K, METRIC), METRIC, TARGET)
    searcher = Searcher(index, rows, METRIC, gate.judge(index, rows).search)
    return lambda queries: night.ids[searcher.search(queries, K)[0]]


def overlap(before: Row, now: Row, kind: str) -> float:
    """Return the share of ten results that two nights have in common, over the users both have."""
    common, old, new = np.intersect1d(before["users"], now["users"], return_indices=True)
    # A stale query is last night's user; it is looked up in last night's order.
    later = now["fresh"][new] if kind == "fresh" else now["stale"][old]
    earlier = before["fresh"][old] if kind == "fresh" else now["fresh"][new]
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(earlier, later, strict=True)])) if common.size else 0.0


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``work`` returns, and its seconds."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def best(work: Callable[[], Any], runs: int) -> float:
    """Return the least seconds of several runs."""
    return min(timed(work)[1] for _ in range(runs))


def cell(value: object) -> str:
    """Return a figure as it is printed."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(part)}" for key, part in value.items()) or "-"
    return str(value)


def show(row: Row) -> None:
    """Print one line of figures, as soon as they are known."""
    print("  ".join(f"{key} {cell(value)}" for key, value in row.items()), flush=True)


def tabulate(rows: list[Row]) -> None:
    """Print a table with the longer of cases and figures as rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([cell(row.get(name, "")) for name in names] for row in rows)]
    if len(names) > len(rows):
        lines = [list(line) for line in zip(*lines, strict=True)]
    lines.insert(1, ["---"] * len(lines[0]))
    print("\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines), flush=True)


def synthetic(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the aging of every factory on synthetic retrainings."""
    for cosine in options.cosines:
        nights = retrainings(options.rows, options.width, cosine, max(options.nights))
        yield from aging(f"synthetic {cosine}", nights, options.factories, options.nights)


def real(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the aging of every factory over ten real retrainings."""
    nights = enlarged(
        (stable for stable, _ in goodbooks(options.goodbooks, 10)), options.enlarge, lasting(options.goodbooks)
    )
    factories = [fitting(factory, options.enlarge) for factory in options.factories]
    yield from aging(f"goodbooks x{options.enlarge}", nights, factories, (1, 5, 10))


def judged(options: argparse.Namespace) -> Iterator[Row]:
    """Yield what the gate decides over 20 nights of heavy drift."""
    rows = min(options.rows, options.decision_rows)
    for name, world in (("retrainings 0.86", retrainings), ("wandering 0.86", wandering)):
        for factory in ("HNSW32", "IVF256,Flat"):
            yield from decisions(name, world(rows, options.width, 0.86, 20), factory)


def searched(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the overhead of a search over bare FAISS."""
    for factory in ("HNSW32", "IVF256,Flat", "Flat"):
        night = next(retrainings(min(options.rows, 100_000), options.width, 0.95, 0))
        yield overhead(night, factory)


def felt(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the consistency of results on real retrainings."""
    yield from consistency(list(goodbooks(options.goodbooks, 4)), "HNSW32")


PARTS = {"synthetic": synthetic, "goodbooks": real, "decisions": judged, "search": searched, "consistency": felt}


def fitting(factory: str, enlarge: int) -> str:
    """Return the factory with as many lists as a smaller catalogue allows."""
    return factory.replace("IVF4096", f"IVF{min(4096, 64 * max(1, enlarge))}")


def main(arguments: list[str] | None = None) -> int:
    """Run the parts asked for; print a table, write JSON."""
    here = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--nights", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--cosines", type=float, nargs="+", default=[0.95, 0.86])
    parser.add_argument("--factories", nargs="+", default=["Flat", "HNSW32", "IVF4096,Flat", "IVF4096,PQ32x8"])
    parser.add_argument("--parts", default="synthetic,goodbooks,decisions,search,consistency")
    parser.add_argument("--goodbooks", type=Path, default=here / "shared" / "data" / "goodbooks")
    parser.add_argument("--enlarge", type=int, default=10, help="items made of pairs of real items, per real item")
    parser.add_argument("--decision-rows", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    results: dict[str, list[Row]] = {}
    with faiss_threads(options.threads):
        for part in options.parts.split(","):
            print(f"\n== {part}")
            for row in PARTS[part](options):
                results.setdefault(part, []).append(row)
                show(row)
                if options.json:
                    options.json.write_text(json.dumps(results, indent=1))
            if part in results:
                tabulate(results[part])
    return 0


if __name__ == "__main__":
    sys.exit(main())
