"""Links in a watched directory: which of them lead to a snapshot."""

from __future__ import annotations

import os
from collections.abc import Mapping

from embsync.snapshots.files import Place

#: Of links inside a snapshot; why is in docs/decisions/0012-links.md.
FOLLOWED_NOWHERE = "links inside a snapshot are never followed: cp -rL FROM TO makes files of them"


def followed(root: Place, name: str, named: Mapping[str, bool]) -> tuple[Place | None, str]:
    """Return what a link in a watched directory leads to, or None and why it is not taken.

    Parameters
    ----------
    root : Place
        The watched directory.
    name : str
        Of the link in it.
    named : mapping of str to bool
        What has a name of its own already, by its path below the directory, and whether it is a snapshot.
    """
    top = str(root)
    try:
        target = os.path.realpath(os.path.join(top, name), strict=True)  # noqa: PTH118
    except OSError as error:
        return None, f"a link that leads nowhere: {error.strerror}"
    if target == top:
        return None, "a link to the watched directory itself"
    if not target.startswith(top.rstrip("/") + "/"):
        return None, f"a link that leads out of the watched directory, to {target}"
    parts = tuple(os.path.relpath(target, top).split("/"))
    whole = "/".join(parts)
    if whole in named:
        return None, f"a link to {whole}" + (", which is taken by that name" if named[whole] else "")
    for depth in range(1, len(parts)):
        if named.get(way := "/".join(parts[:depth])):
            return None, f"a link into {way}, which is a snapshot"
    return Place(root.root, parts), ""
