"""Layout delta: a Delta table for each side; the rows are those of the newest version of each table.

The log is read by ``deltalake``, in a separate process under limits; it lists the files of the version, which are read
like any parquet. Two tables are one snapshot only if their newest data is from the same night: see
``docs/decisions/0011-delta-tables.md``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotChanged, SnapshotError, SnapshotIncomplete, UsageError
from embsync.processes import ChildProcess, describe_exit
from embsync.snapshots import parquet
from embsync.snapshots.accounting import Claim
from embsync.snapshots.column_files import open_files
from embsync.snapshots.decoder_process import Decoders
from embsync.snapshots.files import Place
from embsync.snapshots.sides import ITEMS, USERS, IdentifiedSide
from embsync.snapshots.tables import delta_sides

EXPECTS = "items and users, each a Delta table; or one Delta table of items"
_SCRIPT = Path(__file__).with_name("delta_listing.py")
_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class TableVersion:
    """One version of a table: its number, its files, and the commits that wrote rows, oldest first."""

    place: Place
    number: int
    files: tuple[str, ...]
    commits: tuple[dict[str, Any], ...]
    from_start: bool

    @property
    def run(self) -> str | None:
        """The name of the run that wrote the newest rows, if it was recorded."""
        return self.commits[-1].get("userMetadata") if self.commits else None

    @property
    def written(self) -> int:
        """When the newest rows were committed, in ms, according to the commit."""
        return int(self.commits[-1]["timestamp"]) if self.commits else 0

    @property
    def commit(self) -> str:
        """The newest commit that wrote rows, for messages."""
        return f"commit {self.commits[-1]['version']}" if self.commits else "no commit"


def recognise(place: Place) -> bool:
    """Return whether there is a Delta table at ``place`` or for one of its sides."""
    return bool(delta_sides(place))


def claim(place: Place, _: SnapshotConfig) -> Claim:
    """Return what this layout reads at ``place``."""
    found = delta_sides(place)
    names = place.entries() if found.get(ITEMS) == place else [side.name for side in found.values()]
    return Claim(frozenset(found), frozenset(names), closed=True)


def open_sides(place: Place, config: SnapshotConfig) -> tuple[IdentifiedSide, IdentifiedSide | None]:
    """Return the sides at ``place``, at the newest version of each table.

    Raises
    ------
    SnapshotError
        The log is ill-formed, or uses features that are not supported.
    SnapshotIncomplete
        A table has no commit yet, or it is unknown whether the newest data of the two tables is from the same night.
    UsageError
        deltalake is not installed.
    """
    found = delta_sides(place)
    if ITEMS not in found:
        raise SnapshotError(
            "incomplete snapshot",
            where=str(place),
            found=", ".join(p.name for p in found.values()),
            expected="items, a Delta table as well",
        )
    versions = {side: _newest(table) for side, table in found.items()}
    if USERS in versions and config.sides != "items":
        _require_one_night(versions[ITEMS], versions[USERS], place)
    decoders = Decoders()
    items, users = (
        _open_side(side, versions[side], decoders, config) if side in versions else None for side in (ITEMS, USERS)
    )
    assert items is not None
    return items, users


def _open_side(side: str, version: TableVersion, decoders: Decoders, config: SnapshotConfig) -> IdentifiedSide:
    files = [(_below(version.place, name), parquet.FORM) for name in version.files]
    return open_files(side, version.place, files, decoders, config, ordered=False)


def _below(place: Place, name: str) -> Place:
    if name.startswith(("/", "..")) or "://" in name:
        raise SnapshotError(
            "a file outside the table",
            where=str(place),
            found=name[:200],
            expected="files below it",
            hint="a shallow clone: copy the table first",
        )
    for part in name.split("/"):
        place = place.child(part)
    return place


def _newest(place: Place) -> TableVersion:
    if importlib.util.find_spec("deltalake") is None:
        raise UsageError(
            "a Delta table needs deltalake",
            where=str(place),
            expected="the extra 'delta'",
            hint="pip install 'embsync[delta]'",
        )
    _require_log(place)
    answer = _ask(place)
    _reject_features(place, answer)
    return TableVersion(
        place, answer["version"], tuple(sorted(answer["files"])), tuple(answer["commits"]), answer["from_start"]
    )


def _require_log(place: Place) -> None:
    """Require a log of regular files, with at least one commit."""
    log = place.child("_delta_log").entries()
    links = [name for name, kind in log.items() if kind not in {"file", "directory"}]
    if links:
        raise SnapshotError(
            "will not be opened",
            where=f"{place}/_delta_log/{links[0]}",
            found="not a regular file",
            expected="a log of regular files",
        )
    if not any(name.endswith((".json", ".parquet")) for name in log):
        raise SnapshotIncomplete(
            "a Delta table without a commit", where=str(place), found="an empty log", expected="its first commit"
        )


def _reject_features(place: Place, answer: Mapping[str, Any]) -> None:
    unread = [
        feature
        for feature, there in (
            ("deletion vectors", answer["deleted"]),
            (f"column mapping by {answer['mapping']}", answer["mapping"] != "none"),
        )
        if there
    ]
    if unread:
        raise SnapshotError(
            "a Delta table with unsupported features",
            where=str(place),
            found=", ".join(unread),
            expected="none of them",
            hint=f"REORG TABLE delta.`{place}` APPLY (PURGE), or write it again",
        )


def _ask(place: Place) -> dict[str, Any]:
    request = json.dumps({"parent": os.getpid(), "path": sys.path, "table": str(place)})
    child = ChildProcess(
        [sys.executable, "-I", str(_SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    written = child.communicate(request.encode(), _TIMEOUT_SECONDS)
    if written is None:
        raise SnapshotChanged(
            "reading the log does not progress", where=str(place), found=f"nothing for {_TIMEOUT_SECONDS} s"
        )
    try:
        answer: dict[str, Any] = json.loads(written[0])
    except ValueError:
        raise SnapshotError(
            "malformed Delta log",
            where=str(place),
            found=f"its reader {describe_exit(child.wait() or 0)}",
            expected="a log that can be read",
        ) from None
    if "error" in answer:
        found = f"{answer['error']}: {answer['message']}"
        raise SnapshotError("malformed Delta log", where=str(place), found=found, expected="a log that can be read")
    return answer


def _require_one_night(items: TableVersion, users: TableVersion, place: Place) -> None:
    """Refuse two tables unless their newest data is known to be from the same run."""
    runs = [version.run for version in (items, users)]
    if runs == [None, None]:
        found, paired = f"items at version {items.number}, users at version {users.number}", _in_step(items, users)
    else:
        found, paired = f"userMetadata {runs[0]!r} on items and {runs[1]!r} on users", runs[0] == runs[1]
    if paired:
        return
    (_, behind, other), (_, ahead, newest) = sorted(
        (version.written, side, version) for side, version in ((ITEMS, items), (USERS, users))
    )
    raise SnapshotIncomplete(
        "items and users may be of different nights",
        where=str(place),
        found=f"{ahead} at {newest.commit}, but {behind} still at {other.commit}; {found}",
        expected="the same userMetadata in the newest commit of both, or pairs from version 0",
        hint='write both with one run\'s name: .option("userMetadata", RUN) in Spark, '
        'CommitProperties(custom_metadata={"userMetadata": RUN}) in deltalake',
    )


def _in_step(items: TableVersion, users: TableVersion) -> bool:
    """Return whether both have the same number of commits that wrote rows, and each pair precedes the next."""
    if not (items.from_start and users.from_start and len(items.commits) == len(users.commits)):
        return False
    pairs = [(one["timestamp"], other["timestamp"]) for one, other in zip(items.commits, users.commits, strict=True)]
    return all(max(before) <= min(after) for before, after in pairwise(pairs))
