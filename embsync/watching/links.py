"""Symbolic links in the watched directory: which of them lead to a snapshot."""

from __future__ import annotations

import os
from collections.abc import Mapping

from embsync.snapshots.files import Place

#: For links inside a snapshot; the reason is in docs/decisions/0012-links.md.
LINKS_NOT_FOLLOWED = "links inside a snapshot are not followed; cp -rL FROM TO replaces them with files"


def resolve_link(root: Place, name: str, named: Mapping[str, bool]) -> tuple[Place | None, str]:
    """Return the target of a link in the watched directory, or None and the reason why it is ignored.

    Parameters
    ----------
    root : Place
        The watched directory.
    name : str
        Name of the link.
    named : mapping of str to bool
        Paths below the directory that are already known, and whether each is a snapshot.
    """
    top = str(root)
    try:
        target = os.path.realpath(os.path.join(top, name), strict=True)  # noqa: PTH118
    except OSError as error:
        return None, f"a broken link: {error.strerror}"
    if target == top:
        return None, "a link to the watched directory itself"
    if not target.startswith(top.rstrip("/") + "/"):
        return None, f"a link to {target}, outside the watched directory"
    parts = tuple(os.path.relpath(target, top).split("/"))
    path = "/".join(parts)
    if path in named:
        return None, f"a link to {path}" + (", which is handled under that name" if named[path] else "")
    for depth in range(1, len(parts)):
        if named.get(parent := "/".join(parts[:depth])):
            return None, f"a link into the snapshot {parent}"
    return Place(root.root, parts), ""
