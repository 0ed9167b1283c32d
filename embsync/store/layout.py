"""Names inside a store; see ``docs/store-format.md``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from embsync.dtypes import Array
from embsync.errors import NotFoundError, StoreError

CURRENT = "current"
VERSIONS = "versions"
JOURNAL = "journal.jsonl"
STATUS = "status.json"
LOCK = "lock"
DAEMON_LOCK = "daemon.lock"
MANIFEST = "manifest.json"
INDEX = "index.faiss"
INDEX_ROWS = "index_rows.npy"
LINEAGE = "lineage.npy"
SINGULAR_VALUES = "transform/singular_values.npy"

_VERSION_NAME = re.compile(r"[0-9]{6,}")


def version_name(number: int) -> str:
    """Return the directory name of a version."""
    return f"{number:06d}"


def version_numbers(versions: Path) -> list[int]:
    """Return the numbers of the versions in a directory, ascending."""
    return sorted(int(path.name) for path in versions.iterdir() if _VERSION_NAME.fullmatch(path.name))


def side_file(side: str, what: str) -> str:
    """Return the path of a side's ids, vectors or last_seen."""
    return f"{side}/{what}.npy"


def reference_files(folder: str, side: str) -> tuple[str, str]:
    """Return the paths of a side's ids and vectors in ``anchors`` or ``start``."""
    return f"{folder}/{side[:-1]}_ids.npy", f"{folder}/{side}.npy"


def current_number(root: Path) -> int | None:
    """Return the number ``current`` points to, None in a store without versions.

    Raises
    ------
    NotFoundError
        There is no store.
    StoreError
        The link does not point to a version.
    """
    try:
        target = (root / CURRENT).readlink()
    except FileNotFoundError:
        if (root / VERSIONS).is_dir():
            return None
        raise NotFoundError("no store here", where=root, hint="embsync sync SNAPSHOT --store DIR makes one") from None
    except OSError as error:
        raise StoreError("'current' is not a link", where=root / CURRENT, found=error.strerror,
                         expected="a link to versions/NNNNNN") from error
    if target.parent.name != VERSIONS or not _VERSION_NAME.fullmatch(target.name):
        raise StoreError("'current' does not name a version", where=root / CURRENT, found=str(target),
                         expected="versions/NNNNNN")
    return int(target.name)


def map_array(path: Path) -> Array:
    """Map a published ``.npy`` file, read-only.

    Raises
    ------
    StoreError
        Missing, truncated or not an array.
    """
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python: what it raises for a damaged one is open
        raise StoreError("damaged or missing file", where=path, found=str(error),
                         hint="embsync verify tells what else is damaged") from error
    return array
