"""Errors in the work on a partition, as data in their text: of an error on another machine, an engine gets no more."""

from __future__ import annotations

import contextlib
import json
import re

_MARK = '{"embsync": '
#: What is left if the text was cut off after the first two parts.
_CUT_OFF = re.compile(r'\{"embsync": "(\w+)", "what": "([^"\\]+)"')


class PartitionError(Exception):
    """The work on a partition failed; raised on machines without embsync as well.

    Parameters
    ----------
    code : str
        What :mod:`embsync.engines.spark.errors` tells the class of the error by.
    what, found, expected : str
        As of :class:`embsync.errors.EmbsyncError`.
    """

    def __init__(self, code: str, what: str, found: str, expected: str) -> None:
        super().__init__(json.dumps({"embsync": code, "what": what, "found": found, "expected": expected}))


def parts_in(text: str) -> dict[str, str | None]:
    """Return the parts of the first :class:`PartitionError` in a text, its code as ``embsync``; none without one.

    ``found`` and ``expected`` are None if the text was cut off before their end.
    """
    with contextlib.suppress(ValueError, KeyError):
        found = json.JSONDecoder().raw_decode(text, text.index(_MARK))[0]
        return {name: str(found[name]) for name in ("embsync", "what", "found", "expected")}
    cut = _CUT_OFF.search(text)
    return {} if cut is None else {"embsync": cut[1], "what": cut[2], "found": None, "expected": None}
