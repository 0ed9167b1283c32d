"""The process that reads a Delta table's log, so that a malformed log does to this process alone whatever it does.

Run as a script by :mod:`embsync.snapshots.delta`: it gets the module path and the table on standard input, as JSON, and
writes what the newest version of the table consists of. Data files are named, never opened.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from typing import Any
from urllib.parse import unquote, urlparse

#: Address space on top of what the libraries take, and processor seconds, for a log and its checkpoint.
MEMORY = 2 * 1024**3
SECONDS = 60
#: Commits that are looked at; logs are kept for thirty days as a rule.
_MOST_COMMITS = 1000


def _listing(table: Any, root: str) -> dict[str, Any]:
    protocol = table.protocol()
    return {
        "version": table.version(),
        "files": [os.path.relpath(_path(uri), root) for uri in table.file_uris()],
        "features": list(protocol.reader_features or []),
        "mapping": table.metadata().configuration.get("delta.columnMapping.mode", "none"),
        "deleted": any(len(batch) for batch in table.deletion_vectors())
        if "deletionVectors" in (protocol.reader_features or []) else False,
        "history": [{name: commit.get(name) for name in ("version", "timestamp", "operation", "userMetadata")}
                    for commit in table.history(_MOST_COMMITS)],
    }


def _path(uri: str) -> str:
    return unquote(urlparse(uri).path) if uri.startswith("file:") else uri


def main() -> None:
    """Load the library, take on the limits, and answer once."""
    wanted = json.loads(sys.stdin.read())
    sys.path[:] = wanted["path"]
    deltalake = importlib.import_module("deltalake")
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 -- no more imports than needed
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = _listing(deltalake.DeltaTable(wanted["table"]), wanted["table"])
    except Exception as error:  # whatever a malformed log causes is an answer about that log
        answer = {"refused": f"{type(error).__name__}: {error}"[:300]}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
