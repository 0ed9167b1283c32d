"""Ids as callers pass and receive them: arrays of bounded size, text, and the error for unknown ones."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embsync.dtypes import Array, Bool
from embsync.errors import NotFoundError, StoreDamaged, UsageError
from embsync.invocation import command, store_of

Missing = Literal["raise", "nan", "mean"]
Ids = Sequence[int] | Sequence[str] | Array

#: Characters of the longest decimal id.
_DIGITS = 20
#: Number of unknown ids named in an error, and characters shown of each.
_NAMED, _SHOWN = 5, 80


def check_missing(missing: str) -> None:
    """Refuse a value other than those of :data:`Missing`."""
    if missing not in ("raise", "nan", "mean"):
        raise UsageError("unknown option for missing ids", found=repr(missing), expected="raise, nan or mean")


def as_array(ids: Any, stored: Array, side: str) -> Array:
    """Return ids as an array whose itemsize is bounded by that of the side's ids.

    NumPy stores each string in the length of the longest: one id of a megabyte among ten thousand would take 40
    GB. Ids longer than any here are truncated to one character more than the longest, so that they remain unknown.
    """
    if isinstance(ids, list | tuple) and ids and isinstance(ids[0], str | bytes):
        longest = stored.dtype.itemsize if stored.dtype.kind == "S" else _DIGITS
        with contextlib.suppress(TypeError):  # not only strings: left to NumPy
            if max(map(len, ids)) > longest:
                ids = [one[: longest + 1] for one in ids]
    try:
        return np.asarray(ids)
    except ValueError:
        raise UsageError(f"{side} ids are not a list", found="lists of different lengths") from None


def decoded(stored: Array, side: str, file: str | Path | None) -> Array:
    """Return UTF-8 ids as str; ``file`` is the memory-mapped file they are from, if any.

    Raises
    ------
    StoreDamaged
        They are not UTF-8.
    """
    try:
        return np.asarray(np.char.decode(stored, "utf-8"))
    except UnicodeDecodeError as error:
        raise StoreDamaged(
            f"{side} ids are damaged",
            found=ascii(error.object)[:_SHOWN],
            expected="UTF-8",
            hint=command(
                "verify", purpose="to see what else is damaged", store=None if file is None else store_of(file)
            ),
        ) from None


def unknown_ids(
    side: str, ids: Ids, known: Bool, hint: str = "pass missing=nan or missing=mean to get a result for unknown ids"
) -> NotFoundError:
    """Return the error for unknown ids, which names the first of them."""
    places = np.flatnonzero(~known)
    names = [str(ids[place])[:_SHOWN] for place in places[:_NAMED]]
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return NotFoundError(f"unknown {side} ids", found=", ".join(names) + more, hint=hint)
