"""Which columns of a table are ids and vectors: by their names first, by their types only where no name speaks.

A column that is named as ids and has a type that no id has is a refusal that says how to cast it. It is never a reason
to take another column: a leftover index, a count or a rank would be published as ids. Two candidates are a question.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from embsync.config import SideColumns, SnapshotConfig
from embsync.errors import SnapshotError
from embsync.snapshots.dimensions import NUMBERS, Dimensions, numbered
from embsync.snapshots.named_arrays import reject_ids
from embsync.snapshots.names import side_of
from embsync.snapshots.sides import ITEMS, USERS

FLOATS = {"list float16": "f2", "list float32": "f4", "list float64": "f8", "list vector": "f8", "list text": "f4"}
#: What a column that is named as vectors may be; numbers in text become float32.
VECTORS = FLOATS | {"string": "f4"}
IDS = frozenset({"integer", "string"})

_VECTOR_NAMES = (
    "features",
    "embedding",
    "embeddings",
    "vector",
    "vectors",
    "factors",
    "emb",
    "vec",
    "latent",
    "latents",
)
_VECTOR_WORDS = frozenset(_VECTOR_NAMES) | {"embs", "vecs", "factor"}
#: What a side's own rows are called; each also with ``id``, ``ids``, ``key``, ``uuid`` and ``code`` behind it.
_SUBJECTS = {
    ITEMS: (
        "item",
        "items",
        "product",
        "article",
        "movie",
        "film",
        "book",
        "song",
        "track",
        "video",
        "show",
        "episode",
        "listing",
        "offer",
        "content",
        "document",
        "doc",
        "candidate",
        "post",
        "ad",
        "job",
        "game",
        "recipe",
        "hotel",
        "place",
        "poi",
        "news",
    ),
    USERS: (
        "user",
        "users",
        "customer",
        "client",
        "member",
        "visitor",
        "account",
        "viewer",
        "listener",
        "query",
        "reader",
        "player",
        "guest",
        "buyer",
        "subscriber",
    ),
}
_OWN_NAMES = {
    ITEMS: frozenset({"sku", "asin", "isbn", "isbn10", "isbn13", "ean", "gtin", "upc", "iid"}),
    USERS: frozenset({"uid", "cid", "visitorid"}),
}
_ANY_NAMES = frozenset({"id", "ids", "uuid", "guid", "pk"})
_ID_ENDS = ("id", "ids", "uuid", "guid", "key", "code", "token")
#: Names that ids have where no better one is there: of words, graphs and the web.
_LAST_NAMES = frozenset(
    {"word", "words", "token", "tokens", "key", "keys", "uri", "url", "entity", "node", "term", "name", "label"}
)
#: Words of columns that stand beside ids, are numbers or text as well, and are none.
_NEVER = frozenset(
    {
        "index",
        "level",
        "unnamed",
        "rank",
        "ranking",
        "popularity",
        "count",
        "counts",
        "freq",
        "frequency",
        "n",
        "num",
        "number",
        "total",
        "timestamp",
        "ts",
        "time",
        "date",
        "datetime",
        "created",
        "updated",
        "modified",
        "at",
        "day",
        "hour",
        "month",
        "year",
        "week",
        "score",
        "weight",
        "weights",
        "norm",
        "bias",
        "age",
        "price",
        "stock",
        "quantity",
        "rating",
        "ratings",
        "cluster",
        "bucket",
        "partition",
        "shard",
        "fold",
        "split",
        "version",
        "ds",
        "dt",
        "row",
        "rownum",
        "position",
        "offset",
        "dim",
        "dimension",
        "size",
        "length",
        "title",
        "text",
        "description",
        "caption",
        "category",
        "categories",
        "genre",
        "genres",
        "brand",
        "lang",
        "language",
        "country",
        "city",
        "source",
        "status",
        "type",
        "flag",
        "session",
        "run",
        "model",
        "batch",
        "job",
        "tenant",
        "store",
        "shop",
        "seller",
        "author",
        "event",
        "order",
        "clicks",
        "views",
        "sales",
    }
)
_NO_VALUES = ("timestamp", "date", "time", "duration", "bool", "list", "large_list", "fixed_size_list", "map", "null")
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")


@dataclass(frozen=True)
class Columns:
    """The columns of a table: where it is, the kind of each (as the decoder says), and its type in full."""

    where: str
    kinds: Mapping[str, str]
    types: Mapping[str, str]

    def one_a_dimension(self, side: str) -> list[Dimensions]:
        """Return the groups of numbered columns of numbers that are not named as the other side's."""
        other = USERS if side == ITEMS else ITEMS
        return [group for group in numbered(self.kinds, self.types) if side_of(group.prefix) != other]

    def shown(self, names: Iterable[str] | None = None) -> str:
        """Return columns with their types, for messages."""
        chosen = self.kinds if names is None else names
        return ", ".join(f"{name} ({self._type(name)})" for name in chosen)[:300]

    def _type(self, name: str) -> str:
        kind = self.kinds[name]
        return kind if kind in {"integer", "string"} or kind in FLOATS else self.types.get(name, kind)


@dataclass(frozen=True)
class Chosen:
    """The columns of a side: of vectors (one of lists, or one a dimension), ids (None: row numbers), weights."""

    vectors: tuple[str, ...]
    dtype: np.dtype[Any]
    ids: str | None
    weights: str | None


def choose(side: str, columns: Columns, config: SnapshotConfig) -> Chosen:
    """Return the columns of vectors, ids (None: row numbers) and weights (None: alike).

    Raises
    ------
    SnapshotError
        There is none, more than one, or one of a type that is not read; the message names it and what helps.
    """
    weight = config.weight_column
    if weight is not None and columns.kinds.get(weight) not in {"integer", *NUMBERS}:
        raise _none("weight", columns, f"a column of numbers named {weight}")
    vectors = _vectors(side, columns, _configured(config.vector_column, side))
    kind = columns.kinds[vectors[0]]
    dtype = np.dtype(VECTORS[kind] if len(vectors) == 1 else NUMBERS.get(kind, "f4"))
    return Chosen(vectors, dtype, choose_ids(side, columns, config, {weight, *vectors, *(config.labels or ())}), weight)


def _configured(value: str | SideColumns, side: str) -> str:
    return value if isinstance(value, str) else str(getattr(value, side))


def _vectors(side: str, columns: Columns, configured: str) -> tuple[str, ...]:
    if configured.endswith("*") and configured not in columns.kinds:
        return _configured_dimensions(configured, columns)
    if configured != "auto":
        return (_usable("vector", configured, columns, VECTORS.keys(), side),)
    exact = [name for name in columns.kinds if _folded(name) in {*_VECTOR_NAMES, *_prefixed(side)}]
    lists = [name for name, kind in columns.kinds.items() if kind in FLOATS]
    named = [name for name in lists if not _VECTOR_WORDS.isdisjoint(_words(name))]
    groups = columns.one_a_dimension(side)
    of_vectors = [group for group in groups if not _VECTOR_WORDS.isdisjoint(_words(group.prefix))]
    candidates = list(dict.fromkeys([*exact, *named])) or ([] if of_vectors else lists)
    groups = of_vectors or ([] if candidates else [group for group in groups if group.is_plain])
    if len(groups) + len(candidates) > 1 and groups:
        found = ", ".join([*candidates, *(group.shown for group in groups)])
        hint = f"set snapshot.vector_column: {candidates[0] if candidates else groups[0].pattern}, or whichever it is"
        raise SnapshotError(
            "more than one may be the vectors", where=columns.where, found=found[:300], expected="one", hint=hint
        )
    if groups:
        return groups[0].in_order(columns.where)
    if not candidates:
        likely = columns.one_a_dimension(side)
        cast = f"set snapshot.vector_column: {likely[0].pattern} if it is right" if likely else _likely_vectors(columns)
        raise _none("vector", columns, "a list of float16, float32 or float64, or one column a dimension", cast)
    return (_one("vector", candidates, columns, VECTORS.keys(), side),)


def _configured_dimensions(pattern: str, columns: Columns) -> tuple[str, ...]:
    for group in numbered(columns.kinds, columns.types):
        if group.pattern == pattern:
            return group.in_order(columns.where)
    raise _none("vector", columns, f"columns of numbers named {pattern[:-1]}0, {pattern[:-1]}1 and so on")


def _prefixed(side: str) -> set[str]:
    return {side[:-1] + name for name in _VECTOR_NAMES}


def _likely_vectors(columns: Columns) -> str | None:
    likely = [
        name
        for name, kind in columns.kinds.items()
        if kind.startswith("list") or not _VECTOR_WORDS.isdisjoint(_words(name))
    ]
    return _cast("vector", likely[0], columns) if likely else None


def choose_ids(side: str, columns: Columns, config: SnapshotConfig, taken: Collection[str | None] = ()) -> str | None:
    """Return the column of ids among those that are not taken for something else; errors as of :func:`choose`."""
    others = [name for name in columns.kinds if name not in taken]
    configured = _configured(config.id_column, side)
    if configured != "auto":
        if config.row_number_ids:
            reject_ids([f"snapshot.id_column: {configured}"], columns.where)
        return _usable("id", configured, columns, IDS, side)
    strangers = [name for name in others if _is_of(name, USERS if side == ITEMS else ITEMS)]
    mine = [name for name in others if name not in strangers]
    strong = [name for name in mine if _folded(name) in _ANY_NAMES or _is_of(name, side)]
    ended = [
        name for name in mine if _words(name) and _words(name)[-1] in _ID_ENDS and _NEVER.isdisjoint(_words(name)[:-1])
    ]
    last = [name for name in mine if _folded(name) in _LAST_NAMES]
    if config.row_number_ids:
        reject_ids(strong or ended or last, columns.where)
        return None
    rest = [name for name in mine if _may_be_ids(name, columns)]
    candidates = strong or ended or last or ([] if strangers else rest)
    if not candidates and strangers:
        raise SnapshotError(
            f"ids of the other side among {side}",
            where=columns.where,
            found=columns.shown(strangers),
            expected=f"{side[:-1]}_id",
            hint=f"set snapshot.id_column: {strangers[0]} if it is right",
        )
    if not candidates:
        raise _none(
            "id",
            columns,
            "integers or strings in a column that is named as ids",
            "set snapshot.id_column, or snapshot.row_number_ids: true if row numbers are the ids",
        )
    return _one("id", candidates, columns, IDS, side)


def _is_of(name: str, side: str) -> bool:
    folded = _folded(name)
    subjects = _SUBJECTS[side]
    return (
        folded in _OWN_NAMES[side]
        or folded in subjects[:2]
        or any(folded == subject + end for subject in subjects for end in _ID_ENDS)
    )


def _may_be_ids(name: str, columns: Columns) -> bool:
    kind, words = columns.kinds[name], _words(name)
    if not name and kind == "integer":
        return False  # the row numbers that pandas writes beside a table
    if kind in NUMBERS or kind.startswith("list") or columns.types.get(name, "").startswith(_NO_VALUES):
        return False
    return _NEVER.isdisjoint(words) and not (kind == "other" and not _VECTOR_WORDS.isdisjoint(words))


def _one(what: str, candidates: list[str], columns: Columns, kinds: Iterable[str], side: str) -> str:
    if len(candidates) > 1:
        raise SnapshotError(
            f"more than one column may be the {what}",
            where=columns.where,
            found=columns.shown(candidates),
            expected="one",
            hint=f"set snapshot.{what}_column: {candidates[0]}, or whichever it is (for both sides: "
            f"{{items: …, users: …}})",
        )
    return _usable(what, candidates[0], columns, kinds, side)


def _usable(what: str, name: str, columns: Columns, kinds: Iterable[str], side: str) -> str:
    if name not in columns.kinds:
        raise _none(
            what,
            columns,
            f"a column named {name}",
            f"snapshot.{what}_column may differ by side: {{items: …, users: …}}",
        )
    if columns.kinds[name] not in kinds:
        expected = "integers or strings" if what == "id" else "a list of float16, float32 or float64"
        raise SnapshotError(
            f"no {what} column: {name} is of an unusable type",
            where=columns.where,
            found=columns.shown([name]),
            expected=expected,
            hint=_cast(what, name, columns),
        )
    return name


def _cast(what: str, name: str, columns: Columns) -> str:
    """Return how a column is made usable where it is written."""
    kind, column = columns.types.get(name, columns.kinds[name]), f'df["{name}"]'
    for starts, line in _ID_CASTS if what == "id" else _VECTOR_CASTS:
        if kind.startswith(starts):
            return line.format(column=column, name=name)
    return f"cast {name} to " + ("int64 or string" if what == "id" else "a list of float32") + " where it is written"


_ID_CASTS = (
    (
        ("double", "float", "halffloat", "decimal", "dictionary<values=double", "dictionary<values=float"),
        'cast it where it is written: {column} = {column}.astype("int64") (pandas), CAST({name} AS BIGINT) (SQL)',
    ),
    (
        ("fixed_size_binary[16]", "extension<arrow.uuid"),
        "write it as text: {column} = {column}.map(lambda b: str(uuid.UUID(bytes=b)))",
    ),
    (
        ("fixed_size_binary", "binary", "large_binary", "binary_view"),
        'write it as text: {column} = {column}.str.decode("utf-8"), or {column}.map(bytes.hex)',
    ),
    (("struct",), "write one field of it: SELECT {name}.id AS {name}"),
    (("list", "large_list", "fixed_size_list"), 'write one id a row: df = df.explode("{name}")'),
    (("timestamp", "date", "time", "bool", "duration"), "write it as text: {column} = {column}.astype(str)"),
)
_VECTOR_CASTS = (
    (("string", "large_string"), "write it as a list: {column} = {column}.map(json.loads)"),
    (("struct",), 'in Spark: df.withColumn("{name}", pyspark.ml.functions.vector_to_array("{name}", "float32"))'),
    (
        ("binary", "large_binary", "fixed_size_binary"),
        'write it as a list: {column} = {column}.map(lambda b: numpy.frombuffer(b, "f4"))',
    ),
    (
        ("list", "large_list", "fixed_size_list"),
        'cast it where it is written: {column} = {column}.map(lambda v: numpy.asarray(v, "f4")) (pandas), '
        "CAST({name} AS ARRAY<FLOAT>) (SQL)",
    ),
)


def _none(what: str, columns: Columns, expected: str, hint: str | None = None) -> SnapshotError:
    return SnapshotError(f"no {what} column", where=columns.where, found=columns.shown(), expected=expected, hint=hint)


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]
