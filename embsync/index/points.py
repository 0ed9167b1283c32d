"""Search effort: the smallest that reaches a recall, and the effort for any number of neighbours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from embsync.manifest import OperatingPoint

#: Factor on the effort beyond the last point, in addition to scaling in proportion to k.
_BEYOND = 2.0


def effort_at(points: Sequence[OperatingPoint], k: int) -> dict[str, int]:
    """Return the search parameters for ``k`` neighbours.

    Up to the first point, its parameters; between two points, interpolated ones; beyond the last, where nothing was
    measured, twice the effort in proportion to ``k``: among 20,000 items a graph found 82 % of the best 500 with five
    times the effort that finds 99 % of the best 100. A refining factor is relative to ``k`` already and does not
    change.
    """
    if k <= points[0].k:
        return points[0].search
    for lower, upper in itertools.pairwise(points):
        if k <= upper.k:
            return _between(lower.search, upper.search, (k - lower.k) / (upper.k - lower.k))
    last = points[-1]
    growth = k / last.k * min(k / last.k, _BEYOND)
    return {name: value if name == "k_factor_rf" else math.ceil(value * growth) for name, value in last.search.items()}


def _between(lower: Mapping[str, int], upper: Mapping[str, int], share: float) -> dict[str, int]:
    return {name: math.ceil(value + share * (upper.get(name, value) - value)) for name, value in lower.items()}


def cheapest(measure: Callable[[int], float], low: int, most: int, target: float) -> int:
    """Return the smallest effort from ``low`` to ``most`` whose recall, by ``measure``, reaches ``target``.

    Recall grows with effort, so the effort is doubled and the last interval then bisected. When recall levels off, the
    largest effort shows whether the target can be reached at all: outlying neighbours are found only with much more
    effort. If it cannot, the first effort within a hundredth of the best recall is returned: more would gain nothing.
    """
    tried: dict[int, float] = {}
    value = low
    while True:
        tried[value] = measure(value)
        if tried[value] >= target or value >= most:
            break
        if _levelled(list(tried.values())):
            if measure(most) < target:
                break
            value = most
        else:
            value = min(2 * value, most)
    bar = target if tried[value] >= target else 0.99 * max(tried.values())
    high = min(value for value, recall in tried.items() if recall >= bar)
    below = max((value for value in tried if value < high), default=low - 1)
    while bar == target and high - below > 1:
        middle = (below + high) // 2
        if measure(middle) >= bar:
            high = middle
        else:
            below = middle
    return high


def _levelled(recalls: list[float]) -> bool:
    """Return whether doubling the effort twice found fewer than one more neighbour in two thousand."""
    return len(recalls) > 3 and recalls[-1] - recalls[-3] < 0.0005
