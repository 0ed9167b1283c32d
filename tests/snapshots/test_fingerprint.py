"""The fingerprint of a snapshot's contents: what it depends on, and how digests of parts are added."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from embsync.snapshots.fingerprint import SideDigest, fingerprint_of, fingerprints_of
from embsync.snapshots.row_digest import ALGORITHM, RowDigest, row_sums, side_digest

ROWS = (np.arange(60, dtype=np.float32) / 7).reshape(20, 3)
INTEGERS = np.arange(20)
STRINGS = np.array([f"item {number}" for number in range(20)], "S")


class Side:
    """A side of twenty rows in two blocks."""

    name, source, count, width = "items", "arrays", 20, 3

    def __init__(self, ids: Any, weights: Any = None, *, ordered: bool = True) -> None:
        self._ids = ids
        self._weights = weights
        self.ordered = ordered

    def ids(self) -> Any:
        """Return the ids."""
        return self._ids

    def weights(self) -> Any:
        """Return the weights."""
        return self._weights

    def blocks(self) -> Iterator[tuple[int, Any]]:
        """Yield twelve rows, then eight."""
        yield 0, ROWS[:12]
        yield 12, ROWS[12:]


#: Fingerprints of these sides by the release before the rule for rows in any order: ordered, ids, weighted.
EARLIER = {
    (True, "i", False): "f5a0a96ae6faa6cdf20d43d6fdd2b3be115a3984b16b891b4bee04e7c75cc778",
    (True, "i", True): "22e33fecad34793ca460ab55c648dd5f56ff3b44a02a0a857e04f00867050b78",
    (True, "S", False): "eb510c95680fa55b2a414479e74499f5d5d5e73d31dc2caa0d2de9eea98cbe81",
    (True, "S", True): "b8dd66e5062ba1607c40ce358f23bdc44516708f97b30b756b76308c46273a5b",
    (False, "i", False): "9564c9e6dcefc2f76833b770e21ac8bb9dc8c15afd0722e80649e368ea98f1da",
    (False, "i", True): "5e08892e808ff5371d7c674458da693c4c30cd1eec7030497330aae519bbf2f1",
    (False, "S", False): "0d23b35249d3e8d76bdbf4ade11d60c3fc5770af7c217f8ae391ac01f79d49e7",
    (False, "S", True): "081ac21f6c5eb8a803e9e45910e0782ec059090f7daac73e1cb81bba4ba2d050",
}
#: The same by the current rule, which does not depend on whether rows have an order.
TODAY = {
    ("i", False): "cfc7c6df5b2d8e57390bd84db1475125203e3c851fb208f493b575f29775e6e5",
    ("i", True): "c297ee4675fcb1cb7da21831d3e222cff8c3148114981c6892607e5bd15f6381",
    ("S", False): "2fe2e15e4c3d49afe168d0da1fc9dd028ef6ee33b205e5311534401ea279970c",
    ("S", True): "984903cb686675f26e157a1ae3c4d4010b4a894ef09ce1f44eca81c4848522ea",
}


@pytest.mark.parametrize(("ordered", "kind", "weighted"), EARLIER)
def test_fingerprints_of_earlier_releases_are_reproduced(ordered: bool, kind: str, weighted: bool) -> None:
    """Both rules belong to the store format: versions and journals contain their results."""
    ids = INTEGERS if kind == "i" else STRINGS
    side = Side(ids, INTEGERS / 2 if weighted else None, ordered=ordered)
    digest = SideDigest(side, ids, earlier=True)
    for start, block in digest.rows.blocks():
        digest.update(start, block)
    today = ALGORITHM + TODAY[kind, weighted]
    assert fingerprint_of([digest]) == today
    assert fingerprints_of([digest]) == {today, EARLIER[ordered, kind, weighted]}


def of(rows: Any, ids: Any, weights: Any = None, step: int = 50) -> str:
    """Return the digest of rows in blocks."""
    made = RowDigest("items", ids, weights)
    for start in range(0, len(rows), step):
        made.update(start, rows[start : start + step])
    return made.hexdigest()


def test_the_row_digest_depends_on_contents_but_not_on_order() -> None:
    """It is the same for any blocks; exchanged ids or weights, one bit, signs and other types change it."""
    random = np.random.default_rng(3)
    rows, ids, weights = random.standard_normal((50, 8)).astype(np.float32), np.arange(50), random.random(50)
    order = random.permutation(50)
    reference = of(rows, ids, weights)
    assert reference == of(rows[order], ids[order], weights[order], 7)
    flipped, negated, crossed = rows.copy(), rows.copy(), rows.copy()
    flipped.view(np.uint32)[4, 1] ^= 1
    negated[7, :4] *= -1
    crossed[[3, 4], 2] = crossed[[4, 3], 2]
    names = np.array([f"{number}" for number in ids], "S")
    others = {
        of(rows, ids[order], weights),
        of(flipped, ids, weights),
        of(negated, ids, weights),
        of(-rows, ids, weights),
        of(crossed, ids, weights),
        of(rows, ids, weights[order]),
        of(rows, ids, None),
        of(rows[:49], ids[:49], weights[:49]),
        of(rows, names, weights),
        of(rows.view(np.float64), ids, weights),
    }
    assert len(others | {reference}) == 11
    assert of(rows, names, weights) == of(rows, names.astype("S40"), weights)


@pytest.mark.parametrize("numbers", [np.float16, np.float32, np.float64])
def test_digests_of_parts_add_up_to_the_digest_of_the_side(numbers: Any) -> None:
    """Cluster workers compute the digests of their rows, with strings as wide as their own ids need."""
    random = np.random.default_rng(4)
    rows = random.standard_normal((30, 5)).astype(numbers)
    names = np.array([f"name of {number}" * (1 + number % 3) for number in range(30)], "S")
    sums = sum(
        (row_sums(np.array(names[part].tolist()), rows[part]) for part in (slice(20, 30), slice(0, 20))),
        np.zeros(2, np.uint64),
    )
    kind = np.dtype(numbers).str
    assert side_digest("items", kind, 5, 30, sums, weighted=False, strings=True) == of(rows, names)


def test_the_digest_of_incomplete_rows_is_none() -> None:
    """An interrupted pass has no fingerprint."""
    made = RowDigest("items", INTEGERS, None)
    made.update(0, ROWS[:12])
    with pytest.raises(RuntimeError, match="12 of 20 rows"):
        made.hexdigest()
