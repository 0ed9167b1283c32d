"""Ids within a file of vectors, one word before each row, as in word2vec's formats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np

from embsync.dtypes import Array
from embsync.errors import SnapshotError
from embsync.ids import LONGEST_ID
from embsync.snapshots.files import Place

_IDS_AT_ONCE = 65_536


class RowsWithWords(Protocol):
    """Rows of a file that begin with a word."""

    @property
    def place(self) -> Place:
        """The file."""

    @property
    def count(self) -> int:
        """Number of rows."""

    def split_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (word, numbers) of each row."""


@dataclass(frozen=True)
class WordIds:
    """The words of a file, each before the numbers of its row."""

    rows: RowsWithWords

    def __str__(self) -> str:
        return str(self.rows.place)

    @property
    def count(self) -> int:
        """Number of ids."""
        return self.rows.count

    @property
    def dtype(self) -> np.dtype[Any]:
        """Strings, whose length is known only after reading."""
        return np.dtype("S1")

    def read(self) -> Array:
        """Return the ids in file order, as bytes."""
        rows = self.rows.split_rows()
        parts = []
        while words := [word for word, _ in islice(rows, _IDS_AT_ONCE)]:
            wrong = [word for word in words if len(word) > LONGEST_ID or b"\0" in word]
            if wrong:
                raise SnapshotError(
                    "an id that is too long or holds a NUL",
                    where=str(self),
                    found=repr(wrong[0][:60]),
                    expected=f"text of at most {LONGEST_ID} bytes",
                )
            parts.append(np.array(words))
        return np.concatenate(parts) if parts else np.array([], self.dtype)
