"""One bit of one file of a store is flipped; then verify, readers, the next night, ``widen`` and ``rollback`` run.

The flip must have no effect, or be reported and repaired by an ordinary command. It is never published
onward, no snapshot is reported as its cause, and only the project's own errors are raised.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.damage import build, config_of, copy, drop, files_of, flip, waiting
from support.quick import quick_directory
from torture.report import Tally, tally

import embsync
from embsync.cli.main import run
from embsync.daemon.report import Problem
from embsync.daemon.status import Status, Watch, write
from embsync.errors import EmbsyncError, StoreError
from embsync.pipeline.entry import publish_entry
from embsync.pipeline.widen import widen
from embsync.reader import open_version
from embsync.reader.verification import verify
from embsync.store import Store, layout
from embsync.store.durable import replace_file
from embsync.store.hold import hold

FLIPS = 10_000


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A watched directory whose fifth night is not yet handled, and a store with every file that it may contain."""
    with quick_directory() as place:
        root = build(place)
        drop(place, 5)
        hold(Store(root), "looked at")
        replace_file(root / "attempt.json", b'{"name":"day=5","stamp":null,"crashes":1}')
        replace_file(root / "on_publish.json", b'{"version":3,"time":"2026-11-25T02:00:00Z","failed":null}')
        problem = Problem("2026-11-25T02:00:00Z", "something")
        write(
            Store(root),
            Status(
                state="idle",
                since="2026-11-25T02:00:00Z",
                started="2026-11-25T02:00:00Z",
                updated="2026-11-25T02:00:00Z",
                doing="watching",
                current=None,
                queue=[],
                waiting={},
                work=None,
                retry=None,
                held=None,
                last_refusal=None,
                last_error=problem,
                on_publish=None,
                watch=Watch("watch", "events", "", 1, None, None),
            ),
            lambda: None,
        )
        yield place


def regions(path: Path, chance: random.Random, count: int) -> list[int]:
    """Return offsets in a file: the first byte, the header, the middle, the last, and more at random."""
    size = path.stat().st_size
    fixed = [0, min(9, size - 1), min(70, size - 1), size // 2, size - 2, size - 1] if size else []
    return [*fixed, *(chance.randrange(size) for _ in range(max(count - len(fixed), 0) if size else 0))][:count]


def points(root: Path, flips: int) -> Iterator[tuple[Path, int, int]]:
    """Yield file, offset and bit of this many flips, spread evenly over all files of a store."""
    chance = random.Random(1)
    files = [path for path in files_of(root) if path.stat().st_size]
    each = -(-flips // len(files))
    for path in files:
        for offset in regions(path, chance, each):
            yield path.relative_to(root), offset, chance.randrange(8)


def published(root: Path) -> dict[str, bytes]:
    """Return the files of the current version that damage of its parent may affect."""
    with open_version(root) as version:
        found = {
            entry.path: (version.path / entry.path).read_bytes()
            for entry in version.record.files
            if entry.path not in (layout.INDEX, layout.INDEX_ROWS)
        }
    found[layout.LINEAGE_TIMES] = found[layout.LINEAGE_TIMES][:-8]  # without the time of the version itself
    return found


class Harm(Exception):
    """A result that must not occur."""


def ask(root: Path) -> None:
    """Read as a consumer does; damage may raise an error of the project, or affect results that were not verified."""
    with contextlib.suppress(EmbsyncError, UserWarning), np.errstate(all="ignore"), embsync.open(root) as reader:
        version = reader.current
        version.items.lookup(version.items.names(np.arange(3)), missing="nan")
        version.transform.items(np.ones((1, version.record.snapshot.width), np.float32))
        with contextlib.suppress(EmbsyncError):
            verify(version)  # as a follower and the server do before they serve a version
            version.search(version.items.vectors[:2], k=3)


def examine(root: Path, directory: Path, good: dict[str, bytes], name: Path, *, thorough: bool) -> str:
    """Use a store with one flipped bit in every way; return how it ended.

    Raises
    ------
    Harm
        If the flip was not reported, was published onward, or could not be repaired.
    """
    ask(root)
    number = int(name.parts[1]) if name.parts[0] == layout.VERSIONS else None
    if thorough:
        for command in (["status"], ["history"], ["show"], ["verify"]):
            if run([*command, "--store", str(root)]) not in (0, 5):
                raise Harm(f"unrepaired: {command[0]} ended otherwise")
    if number is not None:
        _require_found(root, number)
    if number in (1, 2):  # the night is not made from these versions
        return "found"
    carried = number is not None and name.name not in (layout.INDEX, layout.INDEX_ROWS)
    if carried and thorough:
        with contextlib.suppress(StoreError):
            widen(Store(root), 6, config_of(directory))
        if Store(root).numbers() != [1, 2, 3]:
            raise Harm("torn: widened from damage")
    ended = _next_night(root, directory, good)
    if ended == "published":
        if carried:
            raise Harm("torn: not noticed by the night")
        if thorough:
            widen(Store(root), 6, config_of(directory))
        return ended
    if run(["rollback", "--store", str(root)]) != 0:
        raise Harm("unrepaired: rollback failed")
    if _next_night(root, directory, None) != "published":
        raise Harm("unrepaired: no night after the rollback")
    return ended


def _require_found(root: Path, number: int) -> None:
    """Require that ``verify`` and ``rollback`` report the damage of a version."""
    try:
        found = Store(root).damaged_files(number) != []
    except StoreError:
        found = True
    if not found:
        raise Harm("torn: not noticed by verify")
    if number < 3 and run(["rollback", str(number), "--store", str(root)]) != 5:
        raise Harm("torn: rolled back to damage")


def _next_night(root: Path, directory: Path, good: dict[str, bytes] | None) -> str:
    """Publish the queue; return ``published`` or the name of the error."""
    queue = waiting(root, directory)
    again = {entry.child.name for entry in queue if entry.fingerprint is None} - {"day=5"}
    if again:
        raise Harm(f"phantom: {again} is new")
    if "day=5" not in {entry.child.name for entry in queue}:
        raise Harm("lost: the night does not wait")
    for entry in queue:
        try:
            publish_entry(Store(root), entry, config_of(directory))
        except StoreError as error:
            return type(error).__name__
        except EmbsyncError as error:
            if entry.child.name == "day=5" or error.exit_code:
                raise Harm(f"the snapshot is blamed: {error}") from error
    if Store(root).current() != 4:
        raise Harm("lost: not current")
    if good is not None and published(root) != good:
        raise Harm("torn: published onward")
    with open_version(root) as version:
        verify(version)
    return "published"


def reported(work: Callable[[], object], *, apart: bool) -> str | None:
    """Run work, in a child if it may end its process; return the harm, None if there is none."""
    if not apart:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                work()
        except Harm as harm:
            return str(harm)
        except Exception as error:  # which counts as harm
            return f"unexpected {type(error).__name__}: {error}"
        return None
    read, written = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.write(written, (reported(work, apart=False) or "").encode()[:4000])
        os._exit(0)
    os.close(written)
    with os.fdopen(read, "rb") as file:
        said = file.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said or None if code == 0 else f"the process ended with {code}"


def kind_of(harm: str) -> Any:
    """Return the column of the tally for a harm."""
    first = harm.partition(":")[0]
    return first if first in {"torn", "lost", "phantom"} else "unrepaired"


def rot(directory: Path, places: Iterable[tuple[Path, int, int]], made: Tally) -> None:
    """Flip bits one at a time and count the harm."""
    base, root = directory / "S", directory / "copy"
    copy(base, root)
    (entry,) = waiting(root, directory)
    publish_entry(Store(root), entry, config_of(directory))
    good = published(root)
    for number, (name, offset, bit) in enumerate(places):
        copy(base, root)
        flip(root / name, offset, bit)
        work = partial(examine, root, directory, good, name, thorough=number % 4 == 0)
        harm = reported(work, apart=name.name in (layout.INDEX, layout.INDEX_ROWS))
        made.points += 1
        if harm is not None:
            made.harm(kind_of(harm), f"{name} at {offset}, bit {bit}: {harm}")


def rot_of_the_link(directory: Path, made: Tally) -> None:
    """Flip every bit of ``current``."""
    base, root = directory / "S", directory / "copy"
    target = os.fsencode((base / "current").readlink())
    for offset in range(len(target)):
        for bit in range(8):
            changed = bytearray(target)
            changed[offset] ^= 1 << bit
            if 0 in changed:
                continue  # a link cannot contain a NUL byte
            copy(base, root)
            (root / "current").unlink()
            (root / "current").symlink_to(os.fsdecode(bytes(changed)))
            harm = reported(partial(linked, root, directory), apart=False)
            made.points += 1
            if harm is not None:
                made.harm(kind_of(harm), f"current at {offset}, bit {bit}: {harm}")


def linked(root: Path, directory: Path) -> str:
    """Use a damaged link: it names another version, or is damage that ``rollback`` repairs."""
    ask(root)
    try:
        with open_version(root) as version:
            found = version.number
    except EmbsyncError:
        found = None
    if found is None and run(["rollback", "--store", str(root)]) != 0:
        raise Harm("unrepaired: rollback failed")
    return _next_night(root, directory, None)


def test_a_flipped_bit_is_detected(directory: Path) -> None:
    """Tested with one bit of every third file."""
    with tally("bit rot", least=20) as made:
        rot(directory, list(points(directory / "S", 1))[::3], made)


@pytest.mark.torture
def test_every_flipped_bit_is_detected(directory: Path) -> None:
    """Tested with ten thousand bits, in every region of every file, and with every bit of ``current``."""
    with tally("bit rot", least=FLIPS) as made:
        rot(directory, points(directory / "S", FLIPS), made)
        rot_of_the_link(directory, made)
