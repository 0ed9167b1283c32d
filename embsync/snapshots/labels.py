"""Labels of the items: columns of ``items.parquet``, or of a table with ids beside any other layout."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from embsync.config import SnapshotConfig
from embsync.dtypes import Array
from embsync.errors import SnapshotError
from embsync.ids import canonical
from embsync.labels import KINDS, LONGEST, NAME, LabelColumn, LabelEncoder, LabelKind
from embsync.snapshots.column_files import FileColumn, Part
from embsync.snapshots.columns import Columns, choose_ids
from embsync.snapshots.decoded_rows import read_column
from embsync.snapshots.decoder_process import Decoders
from embsync.snapshots.files import Place
from embsync.snapshots.sides import ITEMS, IdentifiedSide

#: Files of labels beside a snapshot's sides.
TABLES = ("item_labels.parquet", "item_labels.csv")
#: Rows of a batch, and the bytes of one.
_BATCH, _BATCH_BYTES = 2048, 2**24
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_WIDE = re.compile(r"-?[0-9]{19,300}")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_BOOLEANS = {"true": 1, "false": 0}


@dataclass(frozen=True)
class Labels:
    """Labels in the order of a file, with the unique ids of its rows; None: the ids of the items."""

    where: str
    ids: Array | None
    columns: tuple[LabelColumn, ...]


class LabelTable(Protocol):
    """A source of labels."""

    def read(self, names: Sequence[str] | None, kinds: Mapping[str, LabelKind], ids: str) -> Labels:
        """Return labels.

        Parameters
        ----------
        names : sequence of str or None
            None: all columns but the ids.
        kinds : mapping
            Kinds of labels that are already known; another kind is refused.
        ids : "integer" or "string"
            The kind of the items' ids.

        Raises
        ------
        SnapshotError
            A label is missing, of a type that is not read, or of a different kind from before.
        """


def table_at(place: Place, config: SnapshotConfig) -> LabelTable:
    """Return the labels in a file.

    Raises
    ------
    SnapshotError
        It is neither parquet nor CSV.
    """
    if place.name.endswith(".parquet"):
        return ParquetLabels(place, Decoders(), config)
    if place.name.endswith(".csv"):
        return CsvLabels(place, config)
    raise SnapshotError("not a table of labels", where=str(place), found=place.name, expected="a .parquet or .csv file")


def tables_beside(place: Place) -> tuple[str, ...]:
    """Return the names of tables of labels in a snapshot's directory."""
    return tuple(name for name in TABLES if place.kind() == "directory" and name in place.entries())


def find(place: Place, items: IdentifiedSide, config: SnapshotConfig) -> LabelTable | None:
    """Return the source of a snapshot's labels, None if none are configured.

    Raises
    ------
    SnapshotError
        There are no labels, or two tables of them.
    """
    if not config.labels:
        return None
    tables = tables_beside(place)
    if len(tables) > 1:
        raise SnapshotError("more than one table of labels", where=str(place), found=", ".join(tables), expected="one")
    if tables:
        return table_at(place.child(tables[0]), config)
    if not items.parts or items.parts[0].form["kind"] == "text":
        raise SnapshotError(
            "no labels",
            where=str(place),
            found="neither " + " nor ".join(TABLES),
            expected=f"one with {', '.join(config.labels)} (snapshot.labels)",
        )
    return FileLabels(items.source, items.parts, Decoders())


#: Types of values in JSON.
_JSON: dict[str | None, set[type]] = {
    None: set(),
    "boolean": {bool},
    "float": {float},
    "integer": {int},
    "string": {str},
}


@dataclass(frozen=True)
class FileLabels:
    """Columns beside the vectors of the items, over all their files."""

    source: str
    parts: tuple[Part, ...]
    decoders: Decoders

    def read(self, names: Sequence[str] | None, kinds: Mapping[str, LabelKind], ids: str) -> Labels:
        """Return the named columns, in the order of the files."""
        del ids
        return Labels(self.source, None, tuple(self.column(name, kinds.get(name)) for name in names or ()))

    def column(self, name: str, known: LabelKind | None) -> LabelColumn:
        """Return one column."""
        missing = next((part for part in self.parts if name not in part.kinds), None)
        if missing is not None:
            raise _no_label(str(missing.place), name, list(missing.kinds))
        wanted = {"as": "labels", "batch": _BATCH, "longest": LONGEST, "most_bytes": _BATCH_BYTES}
        encoder = None if known is None else LabelEncoder(name, known)
        empty = 0
        with self.decoders.one() as decoder:
            for part in self.parts:
                asked, total = wanted | part.wanted([name]), part.rows or 0
                for rows, data in read_column(decoder, part.place, asked, part.head([name]), total):
                    kind, values = _decoded(part.place, rows, data)
                    if kind is None and encoder is None:  # only nulls so far
                        empty += len(values)
                        continue
                    if encoder is None:
                        encoder = LabelEncoder(name, _kind(kind))
                        encoder.add([None] * empty)
                    if not _fits(kind, encoder.kind):
                        raise _other_kind(str(part.place), name, str(kind), encoder.kind)
                    encoder.add(values)
        if encoder is None:
            encoder = LabelEncoder(name, "string")
            encoder.add([None] * empty)
        return encoder.column()


def _decoded(place: Place, rows: int, data: Array) -> tuple[str | None, list[Any]]:
    """Return the kind and the values of a batch, after validating everything that :class:`LabelEncoder` relies on."""
    try:
        kind, values = json.loads(data.tobytes())
        if not (kind is None or kind in KINDS) or len(values) != rows or not _are(values, kind):
            raise TypeError(kind)
    except (ValueError, TypeError, RecursionError):
        raise SnapshotError(
            "malformed table", where=str(place), found=f"{len(data)} bytes", expected=f"{rows} labels"
        ) from None
    return kind, values


def _are(values: Sequence[Any], kind: str | None) -> bool:
    types = set(map(type, values)) - {type(None)}
    if kind == "strings":
        return types <= {list} and {type(word) for one in values for word in one or ()} <= {str}
    return types <= _JSON[kind] and (kind != "integer" or all(one is None or abs(one) < 2**63 for one in values))


def _kind(kind: str | None) -> LabelKind:
    return next(one for one in KINDS if one == kind)


def _fits(kind: str | None, known: LabelKind) -> bool:
    return kind in {None, known} or (kind == "integer" and known == "float")


@dataclass(frozen=True)
class ParquetLabels:
    """A parquet file of ids and labels."""

    place: Place
    decoders: Decoders
    config: SnapshotConfig

    def read(self, names: Sequence[str] | None, kinds: Mapping[str, LabelKind], ids: str) -> Labels:
        """Return ids and the named columns."""
        where = str(self.place)
        part = Part.at(self.place, {"kind": "parquet"}, self.decoders)
        chosen = choose_ids(ITEMS, part.columns, self.config, names or ())
        if chosen is None:
            raise _no_ids(where)
        kind = part.kinds[chosen]
        found = canonical(FileColumn(where, (part,), chosen, kind, self.decoders).read(), f"{where}({chosen})")
        if kind != ids:
            raise _other_ids(where, kind, ids)
        wanted = [name for name in part.kinds if name != chosen] if names is None else names
        _require_names(where, wanted)
        source = FileLabels(where, (part,), self.decoders)
        return Labels(where, found, tuple(source.column(name, kinds.get(name)) for name in wanted))


@dataclass(frozen=True)
class CsvLabels:
    """A CSV file in UTF-8 with a header. An empty field is null; it has no lists."""

    place: Place
    config: SnapshotConfig

    def read(self, names: Sequence[str] | None, kinds: Mapping[str, LabelKind], ids: str) -> Labels:
        """Return ids and the named columns, each of the narrowest kind that fits all its values."""
        where = str(self.place)
        with self.place.open() as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
            try:
                rows = csv.reader(text, strict=True)
                header = next(rows, [])
                if len(set(header)) != len(header) or not header:
                    raise SnapshotError("not a header", where=where, found=", ".join(header)[:80], expected="names")
                columns = Columns(where, dict.fromkeys(header, "string"), {})
                chosen = choose_ids(ITEMS, columns, self.config, names or ())
                if chosen is None:
                    raise _no_ids(where)
                wanted = [name for name in header if name != chosen] if names is None else names
                _require_names(where, wanted)
                for name in wanted:
                    if name not in header:
                        raise _no_label(where, name, header)
                found, texts = self._texts(rows, header, [chosen, *wanted])
            except (UnicodeDecodeError, csv.Error) as error:
                raise SnapshotError("not CSV", where=where, found=str(error)[:200], expected="CSV in UTF-8") from None
        columns_read = tuple(_typed(where, column, kinds.get(column.name)) for column in texts)
        return Labels(where, canonical(_ids(where, found, ids), where), columns_read)

    def _texts(
        self, rows: Iterator[list[str]], header: list[str], wanted: list[str]
    ) -> tuple[list[str], list[LabelColumn]]:
        """Return the first of the wanted columns as it is, the others as columns of strings."""
        places = [header.index(name) for name in wanted]
        encoders = [LabelEncoder(name, "string") for name in wanted[1:]]
        found: list[str] = []
        for batch in _batches(rows, len(header), str(self.place)):
            found += [row[places[0]] for row in batch]
            for encoder, place in zip(encoders, places[1:], strict=True):
                encoder.add([row[place] or None for row in batch])
        return found, [encoder.column() for encoder in encoders]


def _batches(rows: Iterator[list[str]], width: int, where: str) -> Iterator[list[list[str]]]:
    batch: list[list[str]] = []
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != width:
            raise SnapshotError(
                "a row with a different number of fields",
                where=where,
                found=f"{len(row)} fields in row {number}",
                expected=width,
            )
        if max(map(len, row)) > LONGEST:
            raise SnapshotError(
                "a label that is too long", where=where, found=f"row {number}", expected=f"at most {LONGEST} characters"
            )
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch


def _ids(where: str, texts: list[str], ids: str) -> Array:
    if ids == "string":
        return np.array([text.encode() for text in texts] or [b"?"])[: len(texts)]
    wrong = next((text for text in texts if not _INTEGER.fullmatch(text)), None)
    if wrong is not None:
        raise _other_ids(where, f"{wrong[:80]!r}", ids)
    return np.array([min(max(int(text), -(2**63)), 2**63 - 1) for text in texts], np.int64)


def _typed(where: str, column: LabelColumn, known: LabelKind | None) -> LabelColumn:
    """Return a column of strings converted to the kind of its values, or to the kind it is known to have."""
    words = [word.decode() for word in column.words()]
    kind = _kind_of_words(where, column.name, words, known)
    if kind == "string":
        return column
    encoder = LabelEncoder(column.name, kind)
    if kind == "strings":
        encoder.add([None] * len(column))
        return encoder.column()
    if kind == "boolean":
        table: list[float] = [_BOOLEANS[word.lower()] for word in words]
    else:
        table = [int(word) if kind == "integer" else float(word) for word in words]
    encoder.add([None if code < 0 else table[code] for code in column.values.tolist()])
    return encoder.column()


def _kind_of_words(where: str, name: str, words: list[str], known: LabelKind | None) -> LabelKind:
    """Return the known kind if all values are of it; if none is known, the narrowest kind that fits all values."""
    kinds: dict[LabelKind, bool] = {
        "boolean": all(word.lower() in _BOOLEANS for word in words),
        "integer": all(_INTEGER.fullmatch(word) and abs(int(word)) < 2**63 for word in words),
        "float": all(_FLOAT.fullmatch(word) for word in words),
        "string": True,
    }
    narrowest = next(kind for kind, fits in kinds.items() if fits) if words else "string"
    wide = next((word for word in words if _WIDE.fullmatch(word) and abs(int(word)) >= 2**63), None)
    if wide is not None and narrowest == "float" and known != "string":
        raise SnapshotError(
            f"label {name} has an integer out of range",
            where=where,
            found=wide[:80],
            expected="above -2^63 and below 2^63",
            hint="write it with a decimal point, as a float, or with a letter, as a string",
        )
    kind = known or narrowest
    if words and not kinds.get(kind, False):
        raise _other_kind(where, name, narrowest, kind)
    return kind


def _require_names(where: str, names: Sequence[str]) -> None:
    for name in names:
        if not NAME.fullmatch(name):
            raise SnapshotError(
                "not a valid label name",
                where=where,
                found=repr(name)[:80],
                expected="letters, digits and _, at most 64",
                hint="rename the column, or name those to be read in snapshot.labels",
            )


def _no_label(where: str, name: str, found: list[str]) -> SnapshotError:
    return SnapshotError(f"no label {name}", where=where, found=f"columns {', '.join(found)[:200]}", expected=name)


def _no_ids(where: str) -> SnapshotError:
    return SnapshotError("labels without ids", where=where, found="row numbers", expected="a column item_id")


def _other_ids(where: str, found: str, expected: str) -> SnapshotError:
    return SnapshotError(
        "labels with ids of a different type from the items'", where=where, found=found, expected=expected
    )


def _other_kind(where: str, name: str, found: str, expected: str) -> SnapshotError:
    return SnapshotError(
        f"label {name} is of a different type from before",
        where=where,
        found=found,
        expected=expected,
        hint="cast the column, or give it another name",
    )
