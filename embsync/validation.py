"""msgspec's validation errors, split into their parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

_SENTENCE = re.compile(r"(?:Expected (?P<expected>.+?)(?:, got (?P<found>.+))?|.*)", re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[([^]]+)\]")


@dataclass(frozen=True)
class Violation:
    """A value that does not match its type.

    Attributes
    ----------
    what : str
        msgspec's message, without the path.
    path : str
        The path, such as ``$.ids[3]``; ``$`` is the root.
    expected, found : str or None
        Types and limits, if the message has them.
    """

    what: str
    path: str
    expected: str | None
    found: str | None

    @classmethod
    def of(cls, error: msgspec.ValidationError) -> Violation:
        """Return the parts of ``Expected `int` >= 0, got `str` - at `$.threads```."""
        what, _, path = str(error).partition(" - at `")
        match = _SENTENCE.fullmatch(what)
        assert match is not None
        expected, found = (part and part.replace("`", "") for part in match.group("expected", "found"))
        return cls(what, path.rstrip("`") or "$", expected, found)

    def value(self, tree: Any) -> Any:
        """Return the value at the path in ``tree``.

        Raises
        ------
        LookupError
            The path does not lead to a single value.
        """
        for key, place in _STEP.findall(self.path):
            try:
                tree = tree[key] if key else tree[int(place)]
            except (TypeError, ValueError) as error:
                raise LookupError(self.path) from error
        return tree
