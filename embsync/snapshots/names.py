"""Interpret the name of an entry of a snapshot: side, role, and whether it is still being written.

Layouts read files with fixed names. This parser is for everything else in the directory: a table in another format,
another name for a side, or a temporary name under which a program writes a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Side = Literal["items", "users"]
Role = Literal["vectors", "ids", "weights"]

#: Lower-case words that name a side as part of a name (``customer_factors``, ``productFactors``).
_WORDS: dict[Side, frozenset[str]] = {
    "users": frozenset(
        {
            "usr",
            "uid",
            "uids",
            "customer",
            "customers",
            "client",
            "clients",
            "member",
            "members",
            "visitor",
            "visitors",
            "account",
            "accounts",
            "query",
            "queries",
            "viewer",
            "viewers",
        }
    ),
    "items": frozenset(
        {
            "iid",
            "iids",
            "product",
            "products",
            "article",
            "articles",
            "movie",
            "movies",
            "track",
            "tracks",
            "song",
            "songs",
            "book",
            "books",
            "video",
            "videos",
            "sku",
            "skus",
            "asin",
            "asins",
            "candidate",
            "candidates",
        }
    ),
}
#: Words that begin with one of these also name a side: ``userfactors``, ``itemids``.
_STEMS: dict[Side, str] = {"users": "user", "items": "item"}
_ID_WORDS = frozenset(
    {
        "id",
        "ids",
        "uid",
        "uids",
        "iid",
        "iids",
        "key",
        "keys",
        "map",
        "mapping",
        "mappings",
        "vocab",
        "vocabulary",
        "encoder",
        "index",
        "indices",
        "token",
        "tokens",
        "names",
        "2id",
        "id2",
        "labels",
    }
)
#: Words in names of files about a side that do not contain its vectors: ``num_users.txt``, ``user_history.parquet``.
_ABOUT = frozenset(
    {
        "num",
        "count",
        "stats",
        "statistics",
        "info",
        "meta",
        "metadata",
        "schema",
        "history",
        "histories",
        "interactions",
        "events",
        "clicks",
        "ratings",
        "purchases",
        "sessions",
        "logs",
        "report",
        "metrics",
        "summary",
        "similar",
        "similarity",
        "neighbours",
        "neighbors",
        "recommendations",
        "recs",
    }
)
_WEIGHT_WORDS = frozenset({"weight", "weights", "bias", "biases", "counts", "popularity"})

#: Suffixes of data files. Anything else after one was added by the program that writes the file.
_DATA = (
    "parquet|parq|pq|npy|npz|safetensors|vec|txt|csv|tsv|json|jsonl|ndjson|arrow|feather|ipc|orc|avro|h5|hdf5|pt|"
    "pth|pkl|pickle|bin|kv|model|ckpt|tfrecord|tfrecords|lance|gz|zst|bz2|xz|lz4|zip|tar|tgz|snappy"
)
_DATA_END = re.compile(rf"\.(?:{_DATA})$", re.IGNORECASE)
_DATA_NAME = re.compile(rf"^(?P<final>.+?(?:\.(?:{_DATA}))+)(?P<rest>[._~-].+|~|_)$", re.IGNORECASE)
#: Added by rsync, Hadoop, gsutil, rclone, aria2, browsers, WinSCP, Flink, Hugging Face, MinIO, editors, ``mkstemp``.
_UNFINISHED_END = re.compile(
    r"(?:\._COPYING_|_?\.gstmp|\.(?:part|partial|crdownload|opdownload|download|filepart|tmp|temp|inprogress|in-progress|"
    r"incomplete|pending|uploading|downloading|unfinished|writing|aria2|st|meta4|minio|lftp|swp|swx|bak~?)|~)"
    r"(?:[._-]\w{1,40})?$",
    re.IGNORECASE,
)
_UNFINISHED_START = re.compile(
    r"^(?:[.~#_]+(?:in\.|syncthing[.~]|tmp[._-]|goutputstream-)?|(?:tmp|temp)[._-])", re.IGNORECASE
)
_RSYNC = re.compile(r"^\.(?P<final>.+)\.[A-Za-z0-9]{6}$")
_UNFINISHED_DIRECTORY = re.compile(
    r"^(?:_temporary|\.~tmp~|\.rsync-(?:partial|tmp).*|\.spark-staging.*|"
    r"\.hive-staging.*|_tmp.*|\.tmp.*|__magic.*|_incoming.*)$",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"^(?P<final>.+)\.(?:aria2|st|meta4)$", re.IGNORECASE)

#: Names that writers, file systems and people leave beside data, and that are never vectors.
_HARMLESS = re.compile(
    r"^(?:_SUCCESS|\.?success|manifest\.json|_metadata|_common_metadata|\.\.data(?:_tmp)?|\.\.\d{4}_.*|_committed_.*|_started_.*|_commits|metadata|"
    r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|@eaDir|lost\+found|\.nfs[0-9a-f]+|\.fuse_hidden.*|\.snapshot|\.zfs|"
    r"\.git.*|\.dvc.*|\.ipynb_checkpoints|__pycache__|__init__\.py|\.mlflow.*|\.cache|"
    r"readme.*|license.*|licence.*|copying|notice.*|changelog.*|changes|version|authors|"
    r"MLmodel|conda\.ya?ml|python_env\.ya?ml|requirements\.txt|meta\.json|config\.json|params\.json|metrics\.json|"
    r"args\.json|hyperparameters\.json|training_args\..*|"
    r"(?:md5|sha1|sha256|sha512)sums?(?:\.txt)?|"
    r".*\.(?:crc|md5|sha1|sha256|sha512|asc|sig|log|md|rst|html?|png|jpe?g|svg|gif|pdf|ya?ml|toml|ini|cfg|py|sh|ipynb|"
    r"sql|lock))$",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|2(?=[a-z]*id)", re.ASCII)


@dataclass(frozen=True)
class ParsedName:
    """The interpretation of a name.

    Attributes
    ----------
    name : str
        The name of the entry, or the one it will have once it is complete.
    side : "items", "users" or None
        None if the name is about neither or both.
    role : "vectors", "ids", "weights" or None
        Without a side, None, or ``ids`` if it cannot be anything else.
    finished : bool
        False for a temporary name of a file that is being written.
    controls : bool
        True for a file that a download manager keeps beside ``name`` until ``name`` is complete.
    harmless : bool
        Known never to be data.
    """

    name: str
    side: Side | None = None
    role: Role | None = None
    finished: bool = True
    controls: bool = False
    harmless: bool = False


def parse(name: str) -> ParsedName:
    """Return the interpretation of the name of a file or directory."""
    if _UNFINISHED_DIRECTORY.match(name):
        return ParsedName(name, finished=False)
    if _HARMLESS.match(name):
        return ParsedName(name, harmless=True)
    control = _CONTROL.match(name)
    final = _final_name(name)
    side = side_of(final)
    words = set(_words(final.partition(".")[0]))
    role: Role | None = None if side is None else "vectors"
    if words & _ID_WORDS or any(
        word.endswith(("ids", "id")) and word[:-1] not in words and len(word) > 3 and word.startswith(("user", "item"))
        for word in words
    ):
        role = "ids"
    elif side is not None and words & _WEIGHT_WORDS:
        role = "weights"
    # a hidden file that is neither data nor about a side belongs to a program, and is not a transfer
    own = side is None and ((name.startswith((".", "_")) and not _DATA_END.search(final)) or name.lstrip("_") == final)
    return ParsedName(final, side, role, final == name or own, controls=control is not None)


def side_of(name: str) -> Side | None:
    """Return the side that a name is about, None if it is about neither or both."""
    words = _words(name)
    if not _ABOUT.isdisjoint(words):
        return None
    sides: list[Side] = [
        side for side in _WORDS if any(word in _WORDS[side] or word.startswith(_STEMS[side]) for word in words)
    ]
    return sides[0] if len(sides) == 1 else None


def _final_name(name: str) -> str:
    """Return the name without what a program adds to it while it writes the file."""
    rsync = _RSYNC.match(name)
    if rsync is not None and not _DATA_END.search(name) and _named_data(rsync["final"]):
        return rsync["final"]
    final = _UNFINISHED_START.sub("", name) or name
    while (shorter := _UNFINISHED_END.sub("", final)) != final and shorter:
        final = shorter
    if _DATA_END.search(final):
        return final
    added = _DATA_NAME.match(final)
    return final if added is None else added["final"]


def _named_data(name: str) -> bool:
    return _DATA_END.search(name) is not None or side_of(name) is not None


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]
