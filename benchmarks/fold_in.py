"""What folding in finds of a user's taste, on five real retrainings; writes the table of docs/consumers.md.

    python benchmarks/fold_in.py ../shared/data/goodbooks

The data holds no interactions, so none can be held out. Instead each user of the newest day is hidden and folded in
again from n of the 20 items the model itself scores highest for it; the figure is the share of the other items of its
top 10 + n that the folded vector finds. That measures how well a list of items stands for a vector of this model. It
does not measure how well either predicts what a person does next: that takes held-out ratings, which only the training
job has.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import embsync
from embsync.config import load
from embsync.pipeline import Request, process
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
    hits = [len(np.setdiff1d(np.intersect1d(line, wanted), hidden))
            for line, wanted, hidden in zip(found, best, given, strict=True)]
    return float(np.mean(hits)) / FOUND


def popular(version: Version, users: np.ndarray, count: int, random: np.random.Generator) -> float:
    """Return the same for one answer to everybody: the best items of the mean user."""
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
            process(store, Request(data / f"day={day}"), load(environment={}))
        with embsync.open(store.root) as reader:
            version = reader.current
            users = np.asarray(version.users.vectors[version.users.live])[::2]
            print(f"{len(users)} users, {version.items.live.sum()} items; mean row energy {version.items.energy:.3f}")
            print("| way | " + " | ".join(f"{count} items" for count in SHOWN) + " |")
            rows: list[tuple[str, dict[str, object]]] = [
                (f"ridge, {multiple:g} x energy", {"regularization": multiple}) for multiple in MULTIPLES]
            rows.append(("mean of unit vectors", {"method": "mean"}))
            for name, how in rows:
                shares = [recall(version, users, count, np.random.default_rng(count), **how) for count in SHOWN]
                print(f"| {name} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
            shares = [popular(version, users, count, np.random.default_rng(count)) for count in SHOWN]
            print("| the mean user, the same for all | " + " | ".join(f"{share:.3f}" for share in shares) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
