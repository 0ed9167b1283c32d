"""Natural order of names: numbers inside them are compared by value."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(\d+)", re.ASCII)


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return a sort key under which ``day=9`` comes before ``day=10``, and dates are in order.

    Names that differ only in leading zeros are ordered by their characters, so that the order is total.
    """
    parts = _NUMBER.split(name)
    # text at even positions, digits at odd ones; digits before text, as in ASCII
    keys = tuple((0, int(part), "") if number % 2 else (1, 0, part) for number, part in enumerate(parts) if part)
    return keys, name
