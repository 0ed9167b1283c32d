"""Names of columns: vectors, the ids of each side, and other columns beside them."""

from __future__ import annotations

import re

from embsync.snapshots.sides import ITEMS, USERS

VECTOR_NAMES = (
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
VECTOR_WORDS = frozenset(VECTOR_NAMES) | {"embs", "vecs", "factor"}
#: Names of a side's rows; each also with the suffixes ``id``, ``ids``, ``key``, ``uuid`` and ``code``.
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
ANY_NAMES = frozenset({"id", "ids", "uuid", "guid", "pk"})
ID_ENDS = ("id", "ids", "uuid", "guid", "key", "code", "token")
#: Names of ids if no column has a better one: words, graph nodes, URLs.
LAST_NAMES = frozenset(
    {"word", "words", "token", "tokens", "key", "keys", "uri", "url", "entity", "node", "term", "name", "label"}
)
#: Words in the names of columns that are numbers or text like ids, but are not ids.
NEVER = frozenset(
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
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")


def is_of(name: str, side: str) -> bool:
    """Return whether a column's name is one for ids of this side."""
    letters, subjects = folded(name), _SUBJECTS[side]
    return (
        letters in _OWN_NAMES[side]
        or letters in subjects[:2]
        or any(letters == subject + end for subject in subjects for end in ID_ENDS)
    )


def folded(name: str) -> str:
    """Return the letters, in lower case, and digits of a name."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def name_words(name: str) -> list[str]:
    """Return the words of a name, in lower case."""
    return [word.lower() for word in _WORD.findall(name)]
