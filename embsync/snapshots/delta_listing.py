"""The process that reads a Delta table's log, so that a malformed log can only harm this process.

Run as a script by :mod:`embsync.snapshots.delta`: it reads the module path and the table as JSON from standard input,
and writes what the newest version of the table consists of. Data files are listed, never opened.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import sys
from typing import Any
from urllib.parse import unquote, urlparse

#: Address space beyond that of the libraries, and processor seconds, for a log and its checkpoint.
MEMORY = 2 * 1024**3
SECONDS = 60
#: Commits that are read; logs are usually kept for thirty days.
_MOST_COMMITS = 1000
_COMMIT = re.compile(r"\d{20}\.json")


def _listing(table: Any, root: str) -> dict[str, Any]:
    return {
        "version": table.version(),
        "files": [os.path.relpath(_path(uri), root) for uri in table.file_uris()],
        "mapping": table.metadata().configuration.get("delta.columnMapping.mode", "none"),
        "deleted": _has_deletion_vectors(table),
        **_commits(root + "/_delta_log", table.version()),
    }


def _has_deletion_vectors(table: Any) -> bool:
    """Return whether any file of the version has a deletion vector, even if the protocol does not list that feature."""
    try:
        return any(len(batch) for batch in table.deletion_vectors())
    except Exception:  # there are some, but not readable ones; tables with any are refused
        return True


def _commits(log: str, newest: int) -> dict[str, Any]:
    """Return the commits that wrote rows, oldest first, and whether the log still begins with the first commit.

    A commit that only moves rows, such as OPTIMIZE, is not one of them: its ``dataChange`` is false. Neither is a
    DELETE, which does not start a new night.
    """
    names = sorted(
        name
        for name in os.listdir(log)  # noqa: PTH208 -- no more imports than needed
        if _COMMIT.fullmatch(name)
    )[-_MOST_COMMITS:]
    commits = [_commit(f"{log}/{name}", int(name[:20])) for name in names if int(name[:20]) <= newest]
    return {"from_start": bool(names) and int(names[0][:20]) == 0, "commits": [one for one in commits if one["writes"]]}


def _commit(path: str, version: int) -> dict[str, Any]:
    info: dict[str, Any] = {}
    times = []
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 -- no more imports than needed
        for line in file:
            action = json.loads(line) if line.strip() else {}
            info = action.get("commitInfo") or info
            added = action.get("add") or {}
            if added.get("dataChange"):
                times.append(int(added.get("modificationTime") or 0))
    return {
        "version": version,
        "writes": bool(times) and str(info.get("operation")).upper() != "DELETE",
        "timestamp": int(info.get("timestamp") or max(times, default=0)),
        "userMetadata": info.get("userMetadata"),
    }


def _path(uri: str) -> str:
    return unquote(urlparse(uri).path) if uri.startswith("file:") else uri


def main() -> None:
    """Load the library, set the limits, and reply once."""
    wanted = json.loads(sys.stdin.read())
    sys.path[:] = wanted["path"]
    importlib.import_module("embsync.processes").die_with_parent(wanted["parent"])
    deltalake = importlib.import_module("deltalake")
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 -- no more imports than needed
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = _listing(deltalake.DeltaTable(wanted["table"]), wanted["table"])
    except Exception as error:  # any exception is caused by the log
        answer = {"error": type(error).__name__, "message": str(error)[:300]}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
