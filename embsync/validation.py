"""What msgspec says of a value of the wrong form, in its parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

_SENTENCE = re.compile(r"(?:Expected (?P<expected>.+?)(?:, got (?P<found>.+))?|.*)", re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[([^]]+)\]")


@dataclass(frozen=True)
class Violation:
    """A value that is not as its type says.

    Attributes
    ----------
    what : str
        The sentence, without the path.
    path : str
        Where, such as ``$.ids[3]``; ``$`` is the whole.
    expected, found : str or None
        Types and limits, where the sentence names them.
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
        """Return what stands at the path in ``tree``.

        Raises
        ------
        LookupError
            The path does not lead to one place.
        """
        for key, place in _STEP.findall(self.path):
            try:
                tree = tree[key] if key else tree[int(place)]
            except (TypeError, ValueError) as error:
                raise LookupError(self.path) from error
        return tree
