"""What folding in finds of a user's taste, on five real retrainings; writes the table of docs/how-to/cold-start.md.

    python benchmarks/fold_in.py [../shared/data/goodbooks]

The data holds no interactions, so none can be held out. Instead each user of the newest day is hidden and folded in
again from n of the 20 items the model itself scores highest for it; the figure is the share of the other items of its
top 10 + n that the folded vector finds. That measures how well a list of items stands for a vector of this model. It
does not measure how well either predicts what a person does next: that takes held-out ratings, which only the training
job has.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import embsync
from embsync.config_loader import load
from embsync.pipeline import Request, publish_snapshot
from embsync.reader import Version
from embsync.store import Store

SHOWN, FOUND = (3, 5, 10, 20), 10
MULTIPLES = (0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0)


def recall(version: Version, users: np.ndarray, count: int, random: np.random.Generator, **how: object) -> float:
    """Return the mean share of a user's best 10 items beyond the ``count`` shown that its folded vector finds."""
    items = version.items.vectors[version.items.live]
    ids = version.items.ids[version.items.live]
    best = np.argsort(-(users @ items.T), axis=1)[:, : FOUND + count]
    shown = np.stack([random.permutation(FOUND + count)[:count] for _ in users])
    given = np.take_along_axis(best, shown, axis=1)
    folded = version.users.fold_in(ids[given], **how)
    scores = folded @ items.T
    np.put_along_axis(scores, given, -np.inf, axis=1)
    found = np.argpartition(-scores, FOUND, axis=1)[:, :FOUND]
    hits = [
        len(np.setdiff1d(np.intersect1d(line, wanted), hidden))
        for line, wanted, hidden in zip(found, best, given, strict=True)
    ]
    return float(np.mean(hits)) / FOUND


def popular(version: Version, users: np.ndarray, count: int, random: np.random.Generator) -> float:
    """Return the same for a single result for all users: the best items of the mean user."""
    items = version.items.vectors[version.items.live]
    best = np.argsort(-(users @ items.T), axis=1)[:, : FOUND + count]
    common = np.argsort(-(items @ version.users.mean))
    shares = []
    for line in best:
        given = random.permutation(line)[:count]
        answer = common[~np.isin(common, given)][:FOUND]
        shares.append(len(np.intersect1d(answer, np.setdiff1d(line, given))) / FOUND)
    return float(np.mean(shares))


def main(data: Path) -> None:
    """Publish the five days and print a row for each way of folding in."""
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "S")
        for day in range(1, 6):
            publish_snapshot(store, Request(data / f"day={day}"), load(environment={}))
        with embsync.open(store.root) as reader:
            version = reader.current
            users = np.asarray(version.users.vectors[version.users.live])[::2]
            print(f"{len(users)} users, {version.items.live.sum()} items; mean row energy {version.items.energy:.3f}")
            print("| way | " + " | ".join(f"{count} items" for count in SHOWN) + " |")
            rows: list[tuple[str, dict[str, object]]] = [
                (f"ridge, {multiple:g} x energy", {"regularization": multiple}) for multiple in MULTIPLES
            ]
            rows.append(("mean of unit vectors", {"method": "mean"}))
            for name, how in rows:
                shares = [recall(version, users, count, np.random.default_rng(count), **how) for count in SHOWN]
                print(f"| {name} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
            shares = [popular(version, users, count, np.random.default_rng(count)) for count in SHOWN]
            print("| the mean user, the same for all | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
            newcomers(reader)


def newcomers(reader: embsync.Store) -> None:
    """Print the same for users that the previous version did not have, folded in there."""
    print("| way, for users new the next day | " + " | ".join(f"{count} items" for count in SHOWN) + " |")
    ways: list[dict[str, object]] = [{}, {"method": "mean"}, {"method": "nearest"}]
    gains: dict[int, list[np.ndarray]] = {count: [] for count in SHOWN}
    table: dict[str, list[float]] = {}
    for how in ways:
        for count in SHOWN:
            hits: list[float] = []
            for day in range(2, 6):
                with reader.version(day - 1) as before, reader.version(day) as after:
                    hits += _newcomers(before, after, count, np.random.default_rng(count), how)
            table.setdefault(str(how.get("method", "ridge")), []).append(float(np.mean(hits)))
            gains[count].append(np.array(hits))
    for name, shares in table.items():
        print(f"| {name} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    errors = [float((found[2] - found[0]).std() / np.sqrt(len(found[0]))) for found in gains.values()]
    print(
        f"| standard error of nearest minus ridge, {len(gains[3][0])} users | "
        + " | ".join(f"{error:.4f}" for error in errors)
        + " |"
    )


def _newcomers(
    before: Version, after: Version, count: int, random: np.random.Generator, how: dict[str, object]
) -> list[float]:
    new = after.users.live & ~np.isin(after.users.ids, before.users.ids)
    items = after.items.live & np.isin(after.items.ids, before.items.ids[before.items.live])
    ids = after.items.ids[items]
    best = np.argsort(-(after.users.vectors[new] @ after.items.vectors[items].T), axis=1)[:, : FOUND + count]
    shown = np.stack([random.permutation(FOUND + count)[:count] for _ in best])
    given = np.take_along_axis(best, shown, axis=1)
    scores = before.users.fold_in(ids[given], **how) @ before.items.lookup(ids).T
    np.put_along_axis(scores, given, -np.inf, axis=1)
    found = np.argpartition(-scores, FOUND, axis=1)[:, :FOUND]
    return [
        len(np.setdiff1d(np.intersect1d(line, wanted), hidden)) / FOUND
        for line, wanted, hidden in zip(found, best, given, strict=True)
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "goodbooks"
    parser.add_argument("nights", type=Path, nargs="?", default=default, metavar="DIRECTORY")
    main(parser.parse_args().nights)
