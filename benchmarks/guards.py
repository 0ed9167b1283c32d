"""Verdicts of the checks on healthy retrainings and on damage: the basis of their limits.

    python benchmarks/guards.py [--json FILE] [--data ../shared/data/goodbooks] [--healthy | --damaged] [--only KIND]

Every snapshot goes through the product's own pipeline, onto a store whose current version is the night before, with
every refusal accepted so that all figures are there; then the store is rolled back. Models are trained once and kept
(EMBSYNC_BENCHMARK_CACHE).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from damage import Scene, all_of
from healthy import Pair, healthy, scenes
from small_models import Model, nights

from embsync.config import DEFAULT_LIMITS, Config
from embsync.config_loader import load
from embsync.errors import EmbsyncError
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.checks import CheckRefusedError, require
from embsync.store import Store

MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Verdict:
    """Result for one snapshot: ``outcome`` is refused, warned or silent; ``figures`` by check."""

    kind: str
    scene: str
    side: str
    share: float
    outcome: str
    refused: list[str]
    warned: list[str]
    figures: dict[str, float | None]
    message: str


def configuration(**options: object) -> Config:
    """Return a fast configuration: exact index, one thread, few queries."""
    return load(
        environment={},
        options={
            "index.factory": "Flat",
            "threads": 1,
            "index.sample_queries": 200,
            "store.keep_versions": 50,
            **options,
        },
    )


class Judge:
    """A store in memory with a history; each snapshot is judged as if it were the next one."""

    def __init__(self, root: Path, history: list[Model], options: dict[str, object]) -> None:
        self._root, self._config = root, configuration(**options)
        self._store = Store(root / "S")
        for place, model in enumerate(history):
            number = self._publish(model, f"n{place}")
        self._number = number

    def _publish(self, model: Model, name: str) -> int:
        return publish_snapshot(
            self._store, Request(model.save(self._root / name), tuple(DEFAULT_LIMITS)), self._config
        ).version

    def judge(self, model: Model, kind: str, scene: str, side: str = "", share: float = 0.0) -> Verdict:
        """Return the verdict on one snapshot; the store is rolled back."""
        path = model.save(self._root / "tonight")
        message = ""
        try:
            published = publish_snapshot(self._store, Request(path, tuple(DEFAULT_LIMITS)), self._config)
            records = published.checks
            self._store.rollback(self._number)
            shutil.rmtree(self._store.path(published.version))  # otherwise prune would delete the night before
        except EmbsyncError as error:
            return Verdict(kind, scene, side, share, "refused", [f"exit {error.exit_code}"], [], {}, str(error))
        finally:
            shutil.rmtree(path)
        try:
            require([msgspec.structs.replace(record, accepted=False) for record in records], "SNAPSHOT")
        except CheckRefusedError as refusal:
            message = str(refusal)
        refused = [record.name for record in records if record.outcome == "refuse"]
        warned = [record.name for record in records if record.outcome == "warn"]
        outcome = "refused" if refused or message else "warned" if warned else "silent"
        figures = {record.name: record.value for record in records}
        return Verdict(kind, scene, side, share, outcome, refused, warned, figures, message)


def _judge_pair(pair: Pair) -> list[Verdict]:
    with tempfile.TemporaryDirectory(prefix="embsync-guards-", dir=MEMORY if MEMORY.is_dir() else None) as place:
        judge = Judge(Path(place), pair.history[:-1], pair.options)
        return [judge.judge(pair.history[-1], "healthy", pair.name)]


def _judge_scene(scene: Scene, only: str | None) -> list[Verdict]:
    with tempfile.TemporaryDirectory(prefix="embsync-guards-", dir=MEMORY if MEMORY.is_dir() else None) as place:
        judge = Judge(Path(place), [scene.before], {})
        return [
            judge.judge(one.model, one.kind, scene.name, one.side, one.share)
            for one in all_of(scene)
            if only in (None, one.kind) or (only == "whole" and one.share == 1)
        ]


def run(pairs: Iterable[Pair], damaged: Iterable[Scene], only: str | None, jobs: int) -> list[Verdict]:
    """Judge everything, in ``jobs`` processes."""
    verdicts: list[Verdict] = []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        tasks = [pool.submit(_judge_scene, scene, only) for scene in damaged]
        tasks += [pool.submit(_judge_pair, pair) for pair in pairs]
        for task in tasks:
            verdicts += task.result()
            print(f"  {len(verdicts)} judged, {verdicts[-1].scene} done", file=sys.stderr, flush=True)
    return verdicts


def show(verdicts: list[Verdict]) -> None:
    """Print a line for each healthy pair with a warning or refusal, and one for each kind of damage."""
    well = [one for one in verdicts if one.kind == "healthy"]
    bad = [one for one in verdicts if one.kind != "healthy"]
    print(f"{len(well)} healthy pairs: {_counts(well)}")
    for one in well:
        if one.outcome != "silent":
            names = one.refused or one.warned
            print(
                f"  {one.outcome:8} {one.scene}: "
                + ", ".join(f"{name} {_short(one.figures.get(name))}" for name in names)
            )
    print(
        f"{len(bad)} damaged: {_counts(bad)}; at 5 % and above: "
        f"{_counts([one for one in bad if one.share >= 0.05])}; at 2 %: "
        f"{_counts([one for one in bad if one.share == 0.02])}"
    )
    groups = defaultdict(list)
    for one in bad:
        groups[one.kind, one.share].append(one)
    for (kind, share), ones in sorted(groups.items()):
        passed = [f"{one.scene}/{one.side}" for one in ones if one.outcome != "refused"]
        by = defaultdict(int)
        for one in ones:
            for name in one.refused or one.warned:
                by[name] += 1
        most = ", ".join(f"{name} {count}" for name, count in sorted(by.items(), key=lambda pair: -pair[1])[:4])
        print(
            f"  {kind:28} {share:5.0%} {_counts(ones):38} {most}"
            + (f"   not refused: {', '.join(passed)}" if passed and share >= 0.05 else "")
        )


def table(verdicts: list[Verdict]) -> str:
    """Return refused/warned/silent of each kind of damage by the share of affected rows, as Markdown."""
    shares = (0.02, 0.05, 0.1, 0.3, 0.5, 0.6, 1.0)
    found: dict[tuple[str, float], list[str]] = defaultdict(list)
    for one in verdicts:
        if one.kind != "healthy":
            found[one.kind, one.share].append(one.outcome)
    lines = ["| damage | " + " | ".join(f"{share:.0%}" for share in shares) + " |", "| --- " * (len(shares) + 1) + "|"]
    for kind in sorted({kind for kind, _ in found}):
        cells = [found.get((kind, share)) for share in shares]
        lines.append(
            f"| {kind} | "
            + " | ".join(
                "" if cell is None else "/".join(str(cell.count(word)) for word in ("refused", "warned", "silent"))
                for cell in cells
            )
            + " |"
        )
    return "\n".join(lines)


def _counts(ones: list[Verdict]) -> str:
    return ", ".join(f"{sum(one.outcome == word for one in ones)} {word}" for word in ("refused", "warned", "silent"))


def _short(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every verdict with its figures to this file")
    parser.add_argument(
        "--verdicts", type=Path, nargs="+", metavar="JSON", help="show what earlier runs wrote and run nothing"
    )
    parser.add_argument("--markdown", action="store_true", help="damage as a table of refused/warned/silent")
    parser.add_argument("--data", type=Path, help="directory with the goodbooks days; left out where it is missing")
    parser.add_argument("--only", help="one kind of damage, or whole: those that reach a whole side")
    parser.add_argument("--scene", action="append", default=[], help="damage to this model alone; may be repeated")
    parser.add_argument("--pair", default="", help="healthy pairs with this in their name alone")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--healthy", action="store_true", help="healthy pairs alone")
    parser.add_argument("--damaged", action="store_true", help="made damage alone")
    given = parser.parse_args()
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "goodbooks"
    data = given.data or default
    parts = ("healthy",) if given.healthy else ("damaged",) if given.damaged else ("healthy", "damaged")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.verdicts:
        verdicts = [Verdict(**one) for path in given.verdicts for one in json.loads(path.read_text())]
    else:
        nights()
        found = data if data.is_dir() else None
        verdicts = run(
            [pair for pair in healthy(found) if given.pair in pair.name] if "healthy" in parts else [],
            [one for one in scenes(found) if one.name in (given.scene or [one.name])] if "damaged" in parts else [],
            given.only,
            given.jobs,
        )
    show(verdicts)
    if given.markdown:
        print(table(verdicts))
    if given.json:
        given.json.write_text(json.dumps([asdict(one) for one in verdicts], indent=1))


if __name__ == "__main__":
    main()
