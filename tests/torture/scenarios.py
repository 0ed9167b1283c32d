"""Every command that changes a store, to be stopped at any point, and what must hold afterwards."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.nights import configured, night, write_npy
from support.stores import assert_intact
from torture.report import Tally

from embsync.daemon import work
from embsync.daemon.job import Job
from embsync.errors import EmbsyncError
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.on_publish import note
from embsync.pipeline.relabel import relabel
from embsync.pipeline.widen import widen
from embsync.store import Store, layout
from embsync.store.contents import PUBLISHES
from embsync.store.hold import hold, resume
from embsync.watching.backlog import Entry
from embsync.watching.discovery import Child

SIZES = {"items": 40, "users": 36, "width": 4}
CONFIG = configured(store__keep_versions=2)
#: All names that a store may contain after the next command.
_AT_REST = {"versions", "current", "journal.jsonl", "lock", "hold", "on_publish.json"}


@dataclass(frozen=True)
class Scenario:
    """A command: the store it starts from, the function that runs it, and which versions may be current afterwards."""

    name: str
    base: str
    act: Callable[[Path], object]
    current: frozenset[int | None]


def _publish(root: Path, number: int = 2, **request: object) -> None:
    publish_snapshot(Store(root), Request(root.parent / f"night-{number}", **request), CONFIG)


def _prune(root: Path) -> None:
    with Store(root).locked(even_when_full=True):
        Store(root).prune(1)


def _work(root: Path) -> None:
    """Run one job as the daemon's worker does."""
    path = root.parent / "night-2"
    entry = Entry(Child(path.name, path, "ready", "", None, 0), "next", "")
    outcome = work.run(Job(root, CONFIG, entry), lambda _: None)
    if outcome.kind in {"error", "crashed", "held"}:  # held: also if the hold cannot be read
        raise OSError(outcome.what)


def _relabel(root: Path) -> None:
    relabel(Store(root), root.parent / "labels.csv", CONFIG)


def _recover(root: Path) -> None:
    with Store(root).locked():
        pass


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("first publish", "empty", lambda root: _publish(root, 0), frozenset({None, 1})),
        Scenario("publish", "two", _publish, frozenset({2, 3})),
        Scenario("accept", "two", lambda root: _publish(root, accepted=("cosine_items",)), frozenset({2, 3})),
        Scenario("new space", "two", lambda root: _publish(root, new_space=True), frozenset({2, 3})),
        Scenario("widen", "two", lambda root: widen(Store(root), 6, CONFIG), frozenset({2, 3})),
        Scenario("relabel", "two", _relabel, frozenset({2, 3})),
        Scenario("worker", "two", _work, frozenset({2, 3})),
        Scenario("rollback", "two", lambda root: Store(root).rollback(1), frozenset({2, 1})),
        Scenario("prune", "two", _prune, frozenset({2})),
        Scenario("hold", "two", lambda root: hold(Store(root)), frozenset({2})),
        Scenario("resume", "held", lambda root: resume(Store(root)), frozenset({2})),
        Scenario("on_publish", "two", lambda root: note(Store(root), 2, None), frozenset({2})),
        Scenario("recover switched", "switched", _recover, frozenset({3})),
        Scenario("recover moved", "moved", _recover, frozenset({2})),
        Scenario("recover pruned", "pruned", _recover, frozenset({2})),
    )
}


class Bench:
    """The stores that scenarios start from, and the copy of one on which a command is run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for number in range(4):
            made = night(number, **SIZES)
            write_npy(directory / f"night-{number}", made)
            if number == 1:
                lines = ["item_id,stock", *(f"{one},true" for one in made.item_ids.tolist())]
                (directory / "labels.csv").write_text("\n".join(lines))
        for name in ("empty", "two", "held", "switched", "moved", "pruned"):
            self._build(name, directory / f"base-{name}")
        self.root = directory / "S"

    def _build(self, name: str, root: Path) -> None:
        if name == "empty":
            return
        for number in range(2):
            _publish(root, number)
        if name == "held":
            hold(Store(root))
        elif name == "moved":
            forked(lambda: _ended(Store, "_point_to", root))
        elif name == "switched":
            forked(lambda: _ended(type(Store(root).journal), "append", root))
        elif name == "pruned":
            versions = root / "versions"
            (versions / "000001").rename(versions / ".pruned-000001-0123abcd")
            (versions / ".staging-1-0123abcd").mkdir()
            (root / ".hold-0123abcd").touch()

    def fresh(self, scenario: Scenario, *, linked: bool = True) -> Path:
        """Copy the scenario's store; version files may be linked, since they are never written to."""
        shutil.rmtree(self.root, ignore_errors=True)
        base = self.directory / f"base-{scenario.base}"
        if base.is_dir():
            shutil.copytree(base, self.root, symlinks=True, copy_function=_linked if linked else shutil.copy2)
        return self.root


def _linked(source: str, target: str) -> None:
    (os.link if f"{os.sep}versions{os.sep}" in source else shutil.copy2)(source, target)


def _ended(owner: type, name: str, root: Path) -> None:
    setattr(owner, name, lambda *_: os._exit(0))
    _publish(root)


def forked(act: Callable[[], object]) -> int:
    """Run something in a child; return 0 if it completed, 1 after an error, 2 if interrupted, or minus the signal."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            act()
            code = 0
        except (EmbsyncError, OSError, MemoryError):
            code = 1
        except KeyboardInterrupt:
            code = signal.SIGINT
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def examine(bench: Bench, scenario: Scenario, tally: Tally, point: str, *, done: bool, follow: bool) -> None:
    """Count the harm that a stopped command did to the store, for readers at once and for the next command.

    Parameters
    ----------
    done : bool
        The command reported success.
    follow : bool
        Publish another night as well.
    """
    tally.points += 1
    root, where = bench.root, f"{scenario.name}: {point}"
    try:
        number = _read(root)
    except Exception as error:
        tally.harm("torn", f"{where}: {error}")
        return
    if number not in scenario.current:
        tally.harm("torn", f"{where}: version {number} is current")
    if not root.is_dir() or not (root / "versions").is_dir():
        if done:
            tally.harm("lost", f"{where}: the store")
        return
    try:
        _recover(root)
        after = _read(root)
        left = _left_over(root)
    except Exception as error:
        tally.harm("unrepaired", f"{where}: {type(error).__name__}: {error}")
        return
    if left:
        tally.harm("unrepaired", f"{where}: left behind: {left}")
    if after != number:
        tally.harm("lost", f"{where}: version {number} was current, then {after}")
    for harm in _compared(bench, scenario, after, done=done):
        tally.harm(*harm)
    if follow:
        _follow(bench, tally, where, after)


def _read(root: Path) -> int | None:
    if not (root / "versions").is_dir() or layout.current_number(root) is None:
        return None
    return assert_intact(root)


def _left_over(root: Path) -> list[str]:
    left = [path.name for path in root.iterdir() if path.name not in _AT_REST]
    for folder in (root / "versions").iterdir():
        if not folder.name.isdigit():
            left.append(folder.name)
        elif (folder / layout.PUBLISHING).exists():
            left.append(f"{folder.name}/{layout.PUBLISHING}")
    return left


def _compared(bench: Bench, scenario: Scenario, current: int | None, *, done: bool) -> list[tuple[str, str]]:
    """Compare the journal with the disk, and both with their state before the command."""
    store, harms = Store(bench.root), []
    events = list(store.journal.events())
    base = bench.directory / f"base-{scenario.base}"
    before = list(Store(base).journal.events()) if base.is_dir() else []
    if events[: len(before)] != before or store.journal.damaged():
        harms.append(("lost", f"{scenario.name}: lines of the journal"))
    published = [event.version for event in events if event.event in PUBLISHES]
    pruned = {event.version for event in events if event.event == "pruned"}
    if len(set(published)) != len(published):
        harms.append(("phantom", f"{scenario.name}: journaled twice: {published}"))
    if set(published) - pruned != set(store.numbers()):
        harms.append(("phantom", f"{scenario.name}: journaled {published}, pruned {pruned}, there {store.numbers()}"))
    if (
        done
        and len(scenario.current) > 1
        and current == min(scenario.current - {None, 1}, default=None)
        and scenario.name not in {"rollback"}
    ):
        harms.append(("lost", f"{scenario.name}: done, and version {current} is current"))
    if done and scenario.name == "rollback" and current != 1:
        harms.append(("lost", "rollback: done, and not rolled back"))
    if done and scenario.name in {"hold", "resume"} and (bench.root / "hold").exists() != (scenario.name == "hold"):
        harms.append(("lost", f"{scenario.name}: done, and not so"))
    return harms


def _follow(bench: Bench, tally: Tally, where: str, current: int | None) -> None:
    """Publish the next night on the current version."""
    store = Store(bench.root)
    try:
        expected = store.next_number()
        made = publish_snapshot(store, Request(bench.directory / "night-3"), CONFIG)
    except Exception as error:
        tally.harm("unrepaired", f"{where}: the next night: {error}")
        return
    if (made.version, made.parent) != (expected, current) or _read(bench.root) != expected:
        tally.harm("phantom", f"{where}: version {made.version} of {made.parent} on top of {current}")
