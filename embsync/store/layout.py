"""Names inside a store; see ``docs/store-format.md``."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from embsync.dtypes import Array
from embsync.errors import NotFoundError, SnapshotError, StoreDamaged, StoreError
from embsync.file_kinds import file_kind
from embsync.invocation import Command, command, quoted
from embsync.numpy_header import LONGEST_HEADER, parse_header
from embsync.store.durable import storage_errors

CURRENT = "current"
VERSIONS = "versions"
JOURNAL = "journal.jsonl"
STATUS = "status.json"
ORDER = "order.json"
LOCK = "lock"
DAEMON_LOCK = "daemon.lock"
#: In a store that is pulled: its source, and what was current there.
SOURCE = "source.json"
#: Held while a version is pulled, so that only one pull transfers at a time.
PULL_LOCK = "pull.lock"
MANIFEST = "manifest.json"
#: Hash of the manifest, in the format of sha256sum.
MANIFEST_HASH = "manifest.sha256"
INDEX = "index.faiss"
INDEX_ROWS = "index_rows.npy"
LINEAGE = "lineage.npy"
#: Absent in versions of earlier releases.
LINEAGE_TIMES = "lineage_times.npy"
#: Files that versions of earlier releases lack.
LATER_FILES = frozenset({LINEAGE_TIMES, "anchors/item_ages.npy", "anchors/user_ages.npy"})
SINGULAR_VALUES = "transform/singular_values.npy"
#: Rows of the sampled users and of their ten best items.
NEIGHBOURS = "neighbours.npy"
#: In a version that is being published: the line that the journal gets afterwards. A version that has it and is not
#: current was never published.
PUBLISHING = "publishing.json"

_VERSION_NAME = re.compile(r"[0-9]{6,18}")


def version_name(number: int) -> str:
    """Return the directory name of a version."""
    return f"{number:06d}"


def is_version_name(name: str) -> bool:
    """Return whether a version's directory can have this name."""
    return _VERSION_NAME.fullmatch(name) is not None


def version_files(*, two_sided: bool, in_parts: bool = False) -> set[str]:
    """Return the paths of a version's files, without its manifest, its labels and the part files of its users."""
    sides = ("items", "users") if two_sided else ("items",)
    found = {INDEX, INDEX_ROWS, LINEAGE, LINEAGE_TIMES, SINGULAR_VALUES}
    for side in sides:
        if not (in_parts and side == "users"):
            found |= {side_file(side, what) for what in ("ids", "vectors", "last_seen")}
        found |= {f"transform/{side}.npy"}
        found |= {*reference_files("anchors", side), ages_file(side), *reference_files("start", side)}
    return found


def version_numbers(versions: Path) -> list[int]:
    """Return the numbers of the published versions in a directory, ascending.

    Raises
    ------
    StoreError
        It cannot be listed.
    """
    hidden = unpublished_numbers(versions)
    return [number for number in directory_numbers(versions) if number not in hidden]


def unpublished_numbers(versions: Path) -> set[int]:
    """Return the numbers of versions that were moved into place but are not, or not yet, published."""
    with storage_errors(versions):
        marked = {number for number in directory_numbers(versions) if is_marked(versions / version_name(number))}
    if marked:
        with contextlib.suppress(StoreDamaged, NotFoundError):
            marked.discard(named_number(versions.parent) or 0)
    return marked


def is_marked(version: Path) -> bool:
    """Return whether publishing of a version is unfinished; False for a directory that this user may not enter."""
    try:
        return (version / PUBLISHING).exists()
    except PermissionError:
        return False


def directory_numbers(versions: Path) -> list[int]:
    """Return the numbers of all directories of versions, published or not, ascending."""
    with storage_errors(versions), os.scandir(versions) as entries:
        return sorted(
            int(entry.name)
            for entry in entries
            if _VERSION_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        )


def described_numbers(versions: Path) -> set[int]:
    """Return the numbers of the directories that have a manifest, published or not."""
    return {number for number in directory_numbers(versions) if is_described(versions / version_name(number))}


def is_described(folder: Path) -> bool:
    """Return whether a directory has a manifest; True for a directory that this user may not enter."""
    try:
        return stat.S_ISREG((folder / MANIFEST).stat().st_mode)
    except PermissionError:
        return True
    except OSError:
        return False


def without_manifest(root: Path) -> list[StoreDamaged]:
    """Return an error for each directory named like a version that has no manifest and is not being published."""
    versions = root / VERSIONS
    numbers = set(version_numbers(versions)) - described_numbers(versions) if versions.is_dir() else set()
    with contextlib.suppress(StoreError, NotFoundError):
        numbers.discard(named_number(root) or 0)  # reported when it is read
    folders = [versions / version_name(number) for number in sorted(numbers)]
    return [
        StoreDamaged(
            "a version without a manifest, or not a version",
            where=folder,
            hint=f"to move it aside: mv {quoted(str(folder))} {quoted(str(_free(root / folder.name)))}",
        )
        for folder in folders
        if folder.is_dir() and not is_described(folder)  # and was not pruned meanwhile
    ]


def side_file(side: str, what: str) -> str:
    """Return the path of a side's ids, vectors, last_seen or moments."""
    return f"{side}/{what}.npy"


def part_file(side: str, number: int) -> str:
    """Return the path of a side's part file."""
    return f"{side}/part-{number:05d}.parquet"


def reference_files(folder: str, side: str) -> tuple[str, str]:
    """Return the paths of a side's ids and vectors in ``anchors`` or ``start``."""
    return f"{folder}/{side[:-1]}_ids.npy", f"{folder}/{side}.npy"


def ages_file(side: str) -> str:
    """Return the path of the ages of a side's anchors."""
    return f"anchors/{side[:-1]}_ages.npy"


def current_number(root: Path) -> int | None:
    """Return the number of the current version, None in a store without versions.

    Raises
    ------
    NotFoundError
        There is no store.
    StoreDamaged
        ``current`` does not lead to an existing version, or is missing although versions exist.
    """
    named = named_number(root)
    while True:
        if named is None:
            missing = bool(version_numbers(root / VERSIONS))
        else:
            missing = not (root / VERSIONS / version_name(named)).is_dir()
        if not missing:
            return named
        before, named = named, named_number(root)
        if named == before:  # otherwise it was switched between the two reads
            raise _lost_error(root, named)


def require_directory(root: Path) -> None:
    """Refuse a file in the place of a store.

    Raises
    ------
    StoreError
        The path exists and is not a directory.
    """
    if os.path.exists(root) and not os.path.isdir(root):  # noqa: PTH110, PTH112  (these raise nothing)
        raise StoreError(
            "not a store",
            where=root,
            found=f"a {file_kind(root.stat())}",
            expected="a directory",
            hint="name the store's directory with --store",
        )


def named_number(root: Path) -> int | None:
    """Return the number that ``current`` names, whether or not that version exists; None without a link.

    Raises
    ------
    NotFoundError
        There is no store.
    StoreDamaged
        ``current`` is not a link, or does not name a version.
    """
    try:
        target = (root / CURRENT).readlink()
    except FileNotFoundError:
        if (root / VERSIONS).is_dir():
            return None
        raise NotFoundError(
            "no store here",
            where=root,
            hint="check the path; publishing a first snapshot creates the store",
        ) from None
    except OSError as error:
        require_directory(root)
        raise StoreDamaged(
            "'current' is not a link",
            where=root / CURRENT,
            found=error.strerror,
            expected="a link to versions/NNNNNN",
            hint=_relink_hint(root),
        ) from error
    if not _VERSION_NAME.fullmatch(target.name) or not _is_versions(root, target.parent):
        raise StoreDamaged(
            "'current' does not name a version",
            where=root / CURRENT,
            found=str(target),
            expected="versions/NNNNNN",
            hint=_relink_hint(root),
        )
    return int(target.name)


def _lost_error(root: Path, named: int | None) -> StoreDamaged:
    if named is None:
        numbers = ", ".join(map(str, version_numbers(root / VERSIONS)))
        return StoreDamaged(
            "'current' is missing: no version is current",
            where=root / CURRENT,
            found=f"no link beside versions {numbers}",
            expected="a link to one of them",
            hint=_relink_hint(root),
        )
    return StoreDamaged(
        "'current' names a version that does not exist",
        where=root / CURRENT,
        found=version_name(named),
        expected=f"a directory in {root / VERSIONS}",
        hint=_relink_hint(root),
    )


def _relink_hint(root: Path) -> str:
    """Return a command that makes a version of a store current again, or empties the store if it has none."""
    link, versions = quoted(str(root / CURRENT)), root / VERSIONS
    is_directory = (root / CURRENT).is_dir() and not (root / CURRENT).is_symlink()
    try:
        folders = [versions / version_name(number) for number in directory_numbers(versions)]
    except StoreError as error:
        return f"{versions} cannot be listed ({error.found}): mount it or put it back before anything else"
    published = [folder for folder in folders if not is_marked(folder)]
    steps = [f"mv {link} {quoted(f'{_free(root / CURRENT)}')}"] if is_directory else []
    if any(map(is_described, published)):
        return " && ".join([*steps, command("rollback", store=root).line])
    steps = steps or [f"rm -f {link}"]
    if published:
        aside = quoted(str(_free(versions)))
        steps.append(f"mkdir {aside} && mv {' '.join(quoted(str(path)) for path in published)} {aside}")
    return f"no version is left; to start again with the next snapshot: {' && '.join(steps)}"


def _free(path: Path) -> Path:
    """Return an unused name beside a path."""
    names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in itertools.count())
    return next(name for name in names if not os.path.lexists(name))


def _verify_command(path: Path) -> Command | None:
    """Return the command that shows what else is damaged in the version of a file; None outside a version."""
    folders = (folder for folder in path.parents if folder.parent.name == VERSIONS and is_version_name(folder.name))
    folder = next(folders, None)
    if folder is None:
        return None
    return command("verify", int(folder.name), purpose="to see what else is damaged", store=folder.parent.parent)


def _is_versions(root: Path, parent: Path) -> bool:
    """Return whether ``parent``, the directory of a link's target, is the store's ``versions``."""
    if parent == Path(VERSIONS):
        return True
    try:
        return (root / parent).samefile(root / VERSIONS)
    except (OSError, ValueError):
        return False


def _mapped(path: Path) -> Array:
    """Map a file with the strict header parser: NumPy evaluates headers, which fails in two threads on CPython 3.11."""
    with path.open("rb") as file:
        header = parse_header(file.read(LONGEST_HEADER), os.fstat(file.fileno()).st_size, str(path))
        order: Literal["F", "C"] = "F" if header.fortran_order else "C"
        return np.memmap(file, header.dtype, "r", header.offset, header.shape, order)


def map_array(path: Path, types: Sequence[str], shape: Sequence[int | None]) -> Array:
    """Map a published ``.npy`` file, read-only.

    Parameters
    ----------
    path : path
    types : sequence of str
        Accepted types, as NumPy writes them; ``S`` for byte strings of any length.
    shape : sequence of int or None
        Required shape; None for any extent.

    Raises
    ------
    StoreDamaged
        The file is missing, truncated, not an array, or has another type or shape.
    """
    expected = f"{' or '.join(types)} of shape ({', '.join('any' if size is None else str(size) for size in shape)})"
    try:
        if not path.is_file():
            raise ValueError("no such file")
        array: Array = _mapped(path)
        fits = array.ndim == len(shape) and array.flags.c_contiguous
        fits = fits and all(size in (None, found) for size, found in zip(shape, array.shape, strict=False))
        found = f"{array.dtype.str} of shape {array.shape}"
    except (OSError, ValueError, SnapshotError) as error:
        raise StoreDamaged(
            "damaged or missing file", where=path, found=str(error)[:200], expected=expected, hint=_verify_command(path)
        ) from error
    if not fits or not (array.dtype.str in types or ("S" in types and array.dtype.kind == "S" and array.itemsize)):
        raise StoreDamaged("damaged file", where=path, found=found, expected=expected, hint=_verify_command(path))
    return array
