"""What the checks say to healthy retrainings and to made damage: the table their limits are set by.

    python benchmarks/guards.py [--json FILE] [--data ../shared/data/goodbooks] [--healthy | --damaged] [--only KIND]

Every snapshot goes through the product's own pipeline, onto a store whose current version is the night before, with
every refusal accepted so that all figures are there; then the store is rolled back. Models are trained once and kept
(EMBSYNC_BENCHMARK_CACHE).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from damage import Scene, all_of
from small_models import Model, nights, trained

from embsync.config import DEFAULT_LIMITS, Config, load
from embsync.errors import EmbsyncError
from embsync.pipeline import Request, process
from embsync.pipeline.checks import CheckRefusedError, require
from embsync.store import Store

MEMORY = Path("/dev/shm")
KINDS = ("als", "bpr", "lmf", "puresvd", "item2vec", "two_tower")
OTHER = {"als": "bpr", "bpr": "als", "lmf": "bpr", "puresvd": "als", "item2vec": "two_tower", "two_tower": "item2vec"}


@dataclass(frozen=True)
class Pair:
    """Snapshots published one after the other, the last of which is healthy and judged."""

    name: str
    history: list[Model]
    options: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What came of one snapshot: outcome is refused, warned or silent; figures by check."""

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
    """Return a quick configuration: exact index, one thread, few queries."""
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
    """A store in memory with a history, which judges snapshots as if each were the next."""

    def __init__(self, root: Path, history: list[Model], options: dict[str, object]) -> None:
        self._root, self._config = root, configuration(**options)
        self._store = Store(root / "S")
        for place, model in enumerate(history):
            number = self._publish(model, f"n{place}")
        self._number = number

    def _publish(self, model: Model, name: str) -> int:
        return process(self._store, Request(model.save(self._root / name), tuple(DEFAULT_LIMITS)), self._config).version

    def judge(self, model: Model, kind: str, scene: str, side: str = "", share: float = 0.0) -> Verdict:
        """Return the verdict on one snapshot; the store is as before."""
        path = model.save(self._root / "tonight")
        message = ""
        try:
            published = process(self._store, Request(path, tuple(DEFAULT_LIMITS)), self._config)
            records = published.checks
            self._store.rollback(self._number)
            shutil.rmtree(self._store.path(published.version))  # or prune would delete the night before
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


def healthy(data: Path | None) -> Iterator[Pair]:
    """Yield pairs that nothing is wrong with."""
    for kind in KINDS:
        yield Pair(f"{kind}: another seed", [trained(kind, 1, 0), trained(kind, 1, 5)])
        for night in (1, 2, 3):
            yield Pair(f"{kind}: night {night + 1}", [trained(kind, one, one) for one in range(1, night + 2)])
        yield Pair(f"{kind}: churn of five nights", [trained(kind, 1, 1), trained(kind, 6, 6)])
        yield Pair(f"{kind}: fewer factors", [trained(kind, 1, 1), trained(kind, 2, 2, factors=24)])
        yield Pair(
            f"{kind}: more factors", [trained(kind, 1, 1), trained(kind, 2, 2, factors=40)], {"space.dimension": 40}
        )
        yield Pair(f"{kind}: items alone", [_items(trained(kind, 1, 1)), _items(trained(kind, 2, 2))])
        if kind not in ("puresvd", "item2vec"):
            warm = trained(kind, 1, 1)
            yield Pair(f"{kind}: warm start", [warm, trained(kind, 2, 2, start=warm)])
    for kind, given in _SETTINGS:
        words = ", ".join(f"{key} {value:g}" for key, value in given.items())
        yield Pair(f"{kind}: {words}", [trained(kind, 1, 1), trained(kind, 2, 2, **given)])
    yield from _shapes()
    if data is not None:
        days = [Model.load(data / f"day={number}") for number in range(1, 6)]
        for number in range(2, 6):
            yield Pair(f"goodbooks: day {number}", days[:number])
        yield Pair("goodbooks: day 5 after day 1", [days[0], days[4]])
        yield Pair("goodbooks: day 1 after day 5", [days[4], days[0]])
        yield Pair("goodbooks: items alone", [_items(days[0]), _items(days[1])])
        yield Pair("goodbooks: cohorts", [_cohort(day, number % 2, 0.0) for number, day in enumerate(days[:3])])


_SETTINGS: list[tuple[str, dict[str, float]]] = [
    ("als", {"alpha": 1.0}),
    ("als", {"alpha": 15.0}),
    ("als", {"regularization": 0.1}),
    ("als", {"regularization": 10.0}),
    ("als", {"iterations": 5}),
    ("als", {"iterations": 40}),
    ("bpr", {"rate": 0.1}),
    ("bpr", {"regularization": 0.02}),
    ("bpr", {"iterations": 200}),
    ("lmf", {"regularization": 5.0}),
    ("lmf", {"iterations": 60}),
    ("puresvd", {"split": 0.0}),
    ("puresvd", {"split": 1.0}),
    ("item2vec", {"iterations": 10}),
    ("item2vec", {"rate": 0.03}),
    ("two_tower", {"temperature": 0.5}),
    ("two_tower", {"iterations": 4000}),
]


def _items(model: Model) -> Model:
    return Model(model.items, model.item_ids)


def _cohort(model: Model, which: int, shared: float) -> Model:
    """Return a night whose users are one half of them, beside a share that is there every night."""
    ids = model.user_ids
    kept = (ids % 2 == which) | (ids // 2 % 100 < 100 * shared)
    return model.with_rows(users=model.users[kept], user_ids=ids[kept])


def _shapes() -> Iterator[Pair]:
    """Yield healthy pairs of other forms: precision, ids, scale, cohorts, zero rows, incremental training."""
    first, second = trained("als", 1, 1), trained("als", 2, 2)
    names = ("items", "users")
    for dtype in (np.float16, np.float64):
        yield Pair(
            f"als: saved as {np.dtype(dtype)}",
            [first, second.with_rows(**{name: getattr(second, name).astype(dtype) for name in names})],
        )
    for kind in ("als", "two_tower"):
        one, two = trained(kind, 1, 1), trained(kind, 2, 2)
        yield Pair(
            f"{kind}: saved in 8 bits", [one, two.with_rows(**{name: _in_8_bits(getattr(two, name)) for name in names})]
        )
    yield Pair("als: twice as large", [first, second.with_rows(**{n: 1.4 * getattr(second, n) for n in names})])
    yield Pair("als: other scale split", [first, second.with_rows(items=4 * second.items, users=second.users / 4)])
    yield Pair("als: in raw axes of another kind", [first, _turned(second)])
    for kind in ("als", "bpr", "two_tower"):
        cohorts = [_cohort(trained(kind, night, night), night % 2, 0.0) for night in (1, 2, 3)]
        yield Pair(f"{kind}: cohorts of users in turn", cohorts)
        half = [_cohort(trained(kind, night, night), night % 2, 0.5) for night in (1, 2)]
        yield Pair(f"{kind}: half of the users change", half)
    zeros = [_some_zero(model) for model in (first, second)]
    yield Pair("als: 3 % zero rows each night", zeros)
    yield Pair("als: a constant column each night", [_some_constant(model) for model in (first, second)])
    yield Pair("als: non-negative values", [_non_negative(model) for model in (first, second)])
    yield Pair("als: incremental, 90 % untouched", [first, _incremental(first, second)])
    small = [_only(model, 320, 260) for model in (first, second)]
    yield Pair("als: a small catalogue", small)
    few = [_only(model, 2000, 150) for model in (first, second)]
    yield Pair("als: few users", few)
    yield Pair("als: twice the items", [_only(first, 700, 2000), second])


def _in_8_bits(rows: np.ndarray) -> np.ndarray:
    scale = np.abs(rows).max() / 127
    return (np.round(rows / scale) * scale).astype(np.float32)


def _turned(model: Model) -> Model:
    """Return the same scores in axes of condition 100."""
    random = np.random.default_rng(4)
    width = model.items.shape[1]
    left, right = (np.linalg.qr(random.standard_normal((width, width)))[0] for _ in range(2))
    scales = np.geomspace(0.1, 10, width)
    return model.with_rows(
        items=((model.items @ left) * scales @ right).astype(np.float32),
        users=((model.users @ left) / scales @ right).astype(np.float32),
    )


def _some_zero(model: Model) -> Model:
    sides = {}
    for name in ("items", "users"):
        rows = getattr(model, name).copy()
        rows[getattr(model, f"{name[:-1]}_ids") % 33 == 0] = 0
        sides[name] = rows
    return model.with_rows(**sides)


def _some_constant(model: Model) -> Model:
    items, users = model.items.copy(), model.users.copy()
    users[:, -1] = 1.0
    items[:, -1] = 0.2 * np.linalg.norm(items, axis=1)
    return model.with_rows(items=items, users=users)


def _non_negative(model: Model) -> Model:
    """Return rows as a network with rectified outputs leaves them: in fixed axes, a good part exactly zero."""
    reference = trained("als", 1, 1)
    _, here, there = np.intersect1d(model.item_ids, reference.item_ids, return_indices=True)
    U, _, Vt = np.linalg.svd(model.items[here].T @ reference.items[there])
    return model.with_rows(items=np.maximum(model.items @ (U @ Vt), 0), users=np.maximum(model.users @ (U @ Vt), 0))


def _incremental(before: Model, after: Model) -> Model:
    """Return the night before with new values for a tenth of the ids, in its own axes."""
    _, here, there = np.intersect1d(after.item_ids, before.item_ids, return_indices=True)
    U, _, Vt = np.linalg.svd(after.items[here].T @ before.items[there])
    sides = {}
    for name in ("items", "users"):
        rows, ids = getattr(before, name).copy(), getattr(before, f"{name[:-1]}_ids")
        new, new_ids = getattr(after, name) @ (U @ Vt), getattr(after, f"{name[:-1]}_ids")
        _, mine, theirs = np.intersect1d(ids, new_ids, return_indices=True)
        changed = ids[mine] % 10 == 0
        rows[mine[changed]] = new[theirs[changed]]
        sides[name] = rows
    return before.with_rows(**sides)


def _only(model: Model, items: int, users: int) -> Model:
    """Return the model of the lowest ids."""
    first, second = np.argsort(model.item_ids)[:items], np.argsort(model.user_ids)[:users]
    return Model(model.items[first], model.item_ids[first], model.users[second], model.user_ids[second])


def scenes(data: Path | None) -> Iterator[Scene]:
    """Yield the healthy pairs that damage is done to."""
    for kind in KINDS:
        yield Scene(kind, trained(kind, 1, 1), trained(kind, 2, 2), trained(kind, 2, 9), trained(OTHER[kind], 2, 2))
    yield Scene(
        "als, items alone",
        *(
            _items(model)
            for model in (trained("als", 1, 1), trained("als", 2, 2), trained("als", 2, 9), trained("bpr", 2, 2))
        ),
    )
    if data is not None:
        days = [Model.load(data / f"day={number}") for number in (1, 2, 3)]
        random = np.random.default_rng(8)
        unrelated = days[1].with_rows(
            **{name: random.permuted(getattr(days[1], name), axis=0) for name in ("items", "users")}
        )
        yield Scene("goodbooks", days[0], days[1], days[2], unrelated)


def run(data: Path | None, parts: tuple[str, ...], only: str | None, scene_names: list[str]) -> list[Verdict]:
    """Judge everything."""
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="embsync-guards-", dir=MEMORY if MEMORY.is_dir() else None) as place:
        if "healthy" in parts:
            for number, pair in enumerate(healthy(data)):
                judge = Judge(Path(place) / f"h{number}", pair.history[:-1], pair.options)
                verdicts.append(judge.judge(pair.history[-1], "healthy", pair.name))
                shutil.rmtree(Path(place) / f"h{number}")
        if "damaged" in parts:
            for number, scene in enumerate(scenes(data)):
                if scene_names and scene.name not in scene_names:
                    continue
                judge = Judge(Path(place) / f"d{number}", [scene.before], {})
                verdicts += [
                    judge.judge(one.model, one.kind, scene.name, one.side, one.share)
                    for one in all_of(scene)
                    if only in (None, one.kind) or (only == "whole" and one.share == 1)
                ]
                print(f"  {scene.name} done", flush=True)
                shutil.rmtree(Path(place) / f"d{number}")
    return verdicts


def show(verdicts: list[Verdict]) -> None:
    """Print a line for each healthy pair that is not silent, and one for each kind of damage."""
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
    """Return refused/warned/silent of each kind of damage by the share of rows it reaches, as Markdown."""
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
        verdicts = run(data if data.is_dir() else None, parts, given.only, given.scene)
    show(verdicts)
    if given.markdown:
        print(table(verdicts))
    if given.json:
        given.json.write_text(json.dumps([asdict(one) for one in verdicts], indent=1))


if __name__ == "__main__":
    main()
