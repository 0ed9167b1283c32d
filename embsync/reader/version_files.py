"""The files of one published version: pinned, checked and memory-mapped."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import numpy as np

from embsync.dtypes import Array, Float32, Int64, Times
from embsync.errors import StoreDamaged, StoreError, UsageError
from embsync.file_hashes import mismatch
from embsync.labels import VALUE_TYPES, LabelColumn, LabelKind, damage, files_of
from embsync.manifest import Parts
from embsync.reader.lineage import Lineage
from embsync.sides import SideName
from embsync.similarity import TOP_K
from embsync.store import layout
from embsync.store.durable import close
from embsync.store.locks import identity, pin
from embsync.store.records import damage_hint, damaged_file
from embsync.store.version_manifest import read

#: Array types of files, for :meth:`VersionFiles._map`.
INTEGER, INT32, FLOAT32, FLOAT64, IDS = ("<i8",), ("<i4",), ("<f4",), ("<f8",), ("<i8", "S")
#: The range of times in a manifest.
_FIRST, _LAST = np.datetime64("0001-01-01T00:00:00", "s"), np.datetime64("9999-12-31T23:59:59", "s")


class VersionFiles:
    """The files of :class:`embsync.reader.version.Version`, which describes parameters and errors."""

    def __init__(self, path: Path, *, indexed: bool = True) -> None:
        self.path = path
        self._warns = True
        self._pin = pin(path)
        self.identity = identity(path, self._pin)
        try:
            self.manifest_bytes, self.record = read(path)
            self._check_sizes(() if indexed else (layout.INDEX, layout.INDEX_ROWS))
            self._require_in_place()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pin", -1) >= 0:
            if self._warns and not sys.is_finalizing():
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<embsync version {self.number} of space {self.space_id[:8]}>"

    def close(self) -> None:
        """Release the pin; returned arrays remain valid while they are referenced."""
        pin, self._pin = getattr(self, "_pin", -1), -1
        if pin >= 0:
            close(pin)

    def leave_to_collection(self) -> None:
        """Do not warn if the version is garbage-collected without having been closed."""
        self._warns = False

    @property
    def number(self) -> int:
        """The version's number."""
        return self.record.version

    @property
    def space_id(self) -> str:
        """The space of the vectors; vectors of different spaces must never be compared."""
        return self.record.space_id

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest as plain Python values, exactly as in the file."""
        plain: dict[str, Any] = msgspec.json.decode(self.manifest_bytes)
        return plain

    @cached_property
    def lineage(self) -> Int64:
        """(v,) int64: the version and its ancestors, ascending; for a relabelled version, those of the original."""
        lineage = self._map(layout.LINEAGE, INTEGER, (None,))
        if len(lineage) == 0 or lineage[-1] != self.record.night:
            raise self._damaged(layout.LINEAGE, str(lineage[-1:]), f"version {self.record.night} last")
        return lineage

    @cached_property
    def lineage_times(self) -> Times:
        """(v,) datetime64[s]: when each version of :attr:`lineage` was made, UTC; NaT if unknown."""
        created = np.datetime64(self.record.created.removesuffix("Z"), "s")
        if not self._has(layout.LINEAGE_TIMES):
            unknown = np.full(len(self.lineage) - 1, "NaT", created.dtype)
            return np.append(unknown, created)
        times: Times = self._map(layout.LINEAGE_TIMES, INTEGER, (len(self.lineage),)).view(created.dtype)
        if times[-1] != created:
            raise self._damaged(layout.LINEAGE_TIMES, str(times[-1]), f"{created} last, as in the manifest")
        known = times[~np.isnat(times)]
        if known.min() < _FIRST or known.max() > _LAST:
            raise self._damaged(layout.LINEAGE_TIMES, f"{known.min()} to {known.max()}", f"{_FIRST} to {_LAST}")
        return times

    def _has(self, name: str) -> bool:
        """Whether the version has a file that earlier releases did not write."""
        return any(entry.path == name for entry in self.record.files)

    def _ancestry(self) -> Lineage:
        return Lineage(self.lineage, self.lineage_times, self._has(layout.LINEAGE_TIMES))

    @cached_property
    def labels(self) -> Mapping[str, LabelColumn]:
        """The labels of the items, by name, memory-mapped; row i belongs to row i of the items."""
        return {label.name: self._label(label.name, label.kind) for label in self.record.labels}

    def _label(self, name: str, kind: LabelKind) -> LabelColumn:
        types = {"values": VALUE_TYPES[kind], "starts": INTEGER, "offsets": INTEGER, "text": ("|u1",)}
        parts = {part: self._map(path, types[part], (None,)) for part, path in files_of(name, kind).items()}
        column = LabelColumn(name, kind, **parts)
        for problem in damage(column, self.record.items.rows):
            raise StoreDamaged(
                "damaged label",
                where=self.path / files_of(name, kind)["values"],
                found=problem,
                expected=f"{self.record.items.rows} rows, as the manifest says",
                hint=damage_hint(self.path),
            )
        return column

    def reference(self, folder: Literal["anchors", "start"], side: SideName) -> tuple[Array, Float32]:
        """Return ids (a,) and vectors (a, k) float32 of a side's anchors or start sample, memory-mapped."""
        ids_file, vectors_file = layout.reference_files(folder, side)
        ids = self._map(ids_file, IDS, (None,))
        return ids, self._map(vectors_file, FLOAT32, (len(ids), self.record.dimension))

    def anchor_ages(self, side: SideName) -> Array | None:
        """Return how many versions updated each anchor of a side, (a,) int32; None in versions of earlier releases."""
        name = layout.ages_file(side)
        if not self._has(name):
            return None
        ages = self._map(name, INT32, (len(self.reference("anchors", side)[0]),))
        if len(ages) and ages.min() < 0:
            raise self._damaged(name, f"an age of {ages.min()}", "at least 0")
        return ages

    @cached_property
    def neighbours(self) -> Int64 | None:
        """(s, 11) int64, memory-mapped: rows of the sampled users and of their ten best items, -1 if there are fewer.

        None in versions of earlier releases.
        """
        return self._computed(layout.NEIGHBOURS, INTEGER, (None, TOP_K + 1))

    @cached_property
    def index_rows(self) -> Int64:
        """(labels,) int64: the row of each label of the index, -1 for a dead label."""
        labels = self._map(layout.INDEX_ROWS, INTEGER, (self.record.index.labels,))
        if len(labels) and not (labels.min() >= -1 and labels.max() < self.record.items.rows):
            found, expected = f"rows {labels.min()} to {labels.max()}", f"-1 to {self.record.items.rows - 1}"
            raise self._damaged(layout.INDEX_ROWS, found, expected)
        return labels

    def part_of(self, row: int) -> str:
        """Return the path of the part file that contains a row of the users."""
        assert isinstance(self.record.parts, Parts)
        ends = np.cumsum([part.rows for part in self.record.parts.users])
        return self.record.parts.users[int(np.searchsorted(ends, row, "right"))].file

    def _part_columns(self) -> tuple[Array, Float32, Int64]:
        """Return ids, vectors and ``last_seen`` of the users of a version of format 2, indexed like arrays."""
        try:
            from embsync.reader.columns import columns_of  # noqa: PLC0415  (an extra)
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("pyarrow"):
                raise
            raise UsageError(
                "the users of this version are in parquet files, which need pyarrow",
                where=self.path,
                expected="the extra 'parquet'",
                hint="pip install 'embsync[parquet]'",
            ) from None
        columns: Any = columns_of(self.path, self.record)
        self._require_in_place()
        return columns[0], columns[1], columns[2]

    def _map(self, name: str, types: Sequence[str], shape: Sequence[int | None]) -> Array:
        array = layout.map_array(self.path / name, types, shape)
        self._require_in_place()
        return array

    def _computed(self, name: str, types: Sequence[str], shape: Sequence[int | None]) -> Array | None:
        """Map a file that versions of earlier releases do not have; None for those."""
        there = any(entry.path == name for entry in self.record.files)
        return self._map(name, types, shape) if there else None

    def _damaged(self, name: str, found: str, expected: str) -> StoreDamaged:
        hint = damage_hint(self.path)
        return StoreDamaged("damaged file", where=self.path / name, found=found, expected=expected, hint=hint)

    def _require_in_place(self) -> None:
        """Refuse a file whose path may now belong to a version of another store."""
        if identity(self.path) != self.identity:
            raise StoreError(
                "the version was deleted while it was in use",
                where=self.path,
                hint="open the store again, if there is one",
            )

    def _check_sizes(self, unchecked: Sequence[str]) -> None:
        for entry in self.record.files:
            wrong = None if entry.path in unchecked else mismatch(self.path, entry, hashed=False)
            if wrong is not None:
                raise damaged_file(self.path, entry, wrong)
