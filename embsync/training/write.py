"""Write a snapshot atomically: to a hidden directory beside it, synced and listed with hashes, then renamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from embsync.alignment.gram import require_finite
from embsync.config import SnapshotConfig
from embsync.dtypes import Array, Float64
from embsync.errors import NotFoundError, SnapshotError, UsageError, printable
from embsync.invocation import quoted
from embsync.snapshots import SnapshotSide
from embsync.snapshots.array_sides import side_of_arrays
from embsync.snapshots.arrays import native
from embsync.snapshots.files import Place
from embsync.snapshots.layouts import recognised_by
from embsync.snapshots.sides import ITEMS, USERS, IdentifiedSide, require_agreement
from embsync.store.durable import rename_to_free, write_errors
from embsync.store.removal import sweep_staging
from embsync.store.staging import Staging
from embsync.watching.source_manifest import NAME as MANIFEST

#: Directories being written; names that begin with a dot are never snapshots.
PREFIX = ".embsync-writing-"


def write_snapshot(
    path: str | Path,
    *,
    items: Any,
    item_ids: Any = None,
    users: Any = None,
    user_ids: Any = None,
    item_weights: Any = None,
    user_weights: Any = None,
    overwrite: bool = False,
) -> Path:
    """Write a snapshot atomically: either all of it or nothing is visible.

    The files are written to a hidden directory beside ``path``, synced, read back and listed in ``manifest.json`` with
    their sizes and sha256, and the directory is renamed. A killed job leaves nothing at ``path``; its unfinished files
    are removed by the next call.

    Parameters
    ----------
    path : str or Path
        The directory to create; its parent must exist.
    items : (t, e) array of float16, float32 or float64
        NumPy, or anything with ``__array__`` or DLPack (PyTorch, JAX, CuPy's ``get()``), a pandas DataFrame, a pandas
        Series of vectors, or an Arrow array of lists. bfloat16 is written as float32.
    item_ids : (t,) array of integers or strings
        Not needed if ``items`` is a pandas object with an index other than row numbers.
    users, user_ids : (w, e) and (w,) arrays, optional
        The other side; its ids may be of another type.
    item_weights, user_weights : (t,) and (w,) arrays, optional
        Weights of the rows in the fit to the anchors.
    overwrite : bool
        Replace an existing snapshot, or an empty directory: atomically if the file system can exchange two
        directories, else file by file. In the latter case, its manifest does not match its files until all are
        replaced, so that it is not published until then.

    Returns
    -------
    Path
        The snapshot.

    Raises
    ------
    SnapshotError
        ``embsync sync`` would refuse the arrays as ill-formed, with the same message, or a side is all zeros; nothing
        is written.
    UsageError
        Something exists at ``path``, or with ``overwrite`` something that is not a snapshot, or the name is not
        allowed for a snapshot.
    NotFoundError
        The parent directory does not exist.
    StoreError
        The snapshot could not be written.

    Examples
    --------
    >>> import numpy as np, embsync, tempfile
    >>> rng = np.random.default_rng(7)
    >>> watched = tempfile.mkdtemp()
    >>> embsync.write_snapshot(
    ...     f"{watched}/day=1", items=rng.normal(size=(30, 4)), item_ids=np.arange(30),
    ...     users=rng.normal(size=(20, 4)), user_ids=[f"user {number}" for number in range(20)],
    ... ).name
    'day=1'
    """
    if users is None and (user_ids is not None or user_weights is not None):
        raise SnapshotError("incomplete snapshot", found="user_ids or user_weights without users", expected="users")
    sides = [side_of_arrays(ITEMS, items, item_ids, item_weights)]
    if users is not None:
        sides.append(side_of_arrays(USERS, users, user_ids, user_weights))
    return write_sides(Path(path), sides, overwrite=overwrite)


def write_sides(path: Path, sides: list[IdentifiedSide], *, overwrite: bool) -> Path:
    """Write items, and users if given, as :func:`write_snapshot` does."""
    require_agreement(sides[0], sides[1] if len(sides) > 1 else None, SnapshotConfig().max_bytes)
    target = _target(path, overwrite)
    columns = [(side, side.ids(), side.weights()) for side in sides]
    for side in sides:
        _require_rows(side)
    with write_errors("a snapshot", target):
        sweep_staging(target.parent, PREFIX)
        with Staging(target.parent, PREFIX) as staging:
            for side, ids, weights in columns:
                _write_side(staging, side, ids, weights)
            manifest = msgspec.json.encode({"files": staging.seal()})
            with staging.stream(MANIFEST) as write:
                write(manifest)
            _put_in_place(staging, target, overwrite)
    return target


def _target(path: Path, overwrite: bool) -> Path:
    target = path.absolute()
    name = target.name
    if (
        not name
        or name.startswith((".", "_"))
        or name.endswith(".tmp")
        or printable(name) != name
        or "\0" in str(target)
    ):
        raise UsageError(
            "not a valid name of a snapshot",
            where=printable(str(path)).replace("\0", "\\0"),
            expected="UTF-8, not beginning with . or _ and not ending in .tmp",
        )
    with write_errors("a snapshot", target):
        if not target.parent.is_dir():
            raise NotFoundError(
                "no directory to write to",
                where=target.parent,
                expected="a directory",
                hint=f"mkdir -p {quoted(str(target.parent))}",
            )
        if target.is_symlink() or target.exists():
            _reject_existing(target, overwrite)
    return target


def _reject_existing(target: Path, overwrite: bool) -> None:
    if target.is_symlink() or not target.is_dir():
        raise UsageError("the path exists", where=target, found="a link or file", expected="an unused name")
    if not overwrite:
        raise UsageError(
            "the directory exists",
            where=target,
            expected="an unused name",
            hint="pass overwrite=True to replace it",
        )
    place = Place.at(target)
    entries = place.entries()
    if entries and MANIFEST not in entries and not recognised_by(place, SnapshotConfig()):
        raise UsageError(
            "the directory exists and is not a snapshot",
            where=target,
            found=", ".join(entries)[:100],
            expected="a snapshot or an empty directory, since the replaced one is deleted",
        )


def _require_rows(side: SnapshotSide) -> None:
    filled = False
    for start, block in side.blocks():
        require_finite(side.source, start, block)
        filled = filled or bool(np.any(block))
    if not filled:
        raise SnapshotError("no scores: every vector is zero", where=side.source, found="rank 0")


def _write_side(staging: Staging, side: SnapshotSide, ids: Array, weights: Float64 | None) -> None:
    dtype: np.dtype[Any] | None = None
    one = side.name[:-1]
    blocks = _little_endian(side)
    for start, block in blocks:
        if dtype is None:
            dtype = block.dtype
            file = staging.array(f"{side.name}.npy", (side.count, side.width), dtype)
        file.put(slice(start, start + len(block)), block)
    staging.save(f"{one}_ids.npy", ids)
    if weights is not None:
        staging.save(f"{one}_weights.npy", weights)


def _little_endian(side: SnapshotSide) -> Iterator[tuple[int, Array]]:
    for start, block in side.blocks():
        yield start, block if block.dtype.isnative else native(block.copy())


def _put_in_place(staging: Staging, target: Path, overwrite: bool) -> None:
    try:
        staging.move(target, rename_to_free)
        staging.keep()
    except FileExistsError:
        _reject_existing(target, overwrite)
        staging.replace(target, first=MANIFEST)
