"""What a test asks of a store on disk, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

import embsync
from embsync.store import Store

#: Everything a store may hold at rest.
AT_REST = {"versions", "current", "journal.jsonl", "lock"}


def assert_at_rest(root: Path) -> None:
    """Assert that a store holds only final files: no staging, no stray link, nothing a manifest does not name."""
    assert {path.name for path in root.iterdir()} <= AT_REST
    for folder in (root / "versions").iterdir():
        assert folder.name.isdigit(), f"left behind: {folder.name}"
        named = {entry.path for entry in Store(root).manifest(int(folder.name)).files} | {"manifest.json"}
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert found == named


def assert_whole(root: Path) -> int:
    """Assert that the current version opens, is as its manifest says, and answers; return its number."""
    with embsync.open(root) as reader:
        version = reader.current
        assert Store(root).damaged_files(version.number) == []
        queries = version.items if version.users is None else version.users
        ids, scores = version.search(queries.vectors[:3], k=4)
        assert ids.shape == scores.shape == (3, 4)
        return version.number


def snapshot_of(root: Path) -> dict[str, bytes | str]:
    """Return every name, file and link of a tree, to tell whether anything changed."""
    tree: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            tree[name] = str(path.readlink())
        elif path.is_file():
            tree[name] = path.read_bytes()
        else:
            tree[name] = ""
    return tree
