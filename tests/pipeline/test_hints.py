"""Hints are commands that work as printed, from any directory."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.damage import SIZES, build, config_of, copy, drop, flip
from support.hints import PLACEHOLDER, printed_command, run_as_printed
from support.nights import configured, night, write_npy
from support.quick import quick_directory
from support.stores import assert_intact

import embsync
from embsync.checks import CHECKS
from embsync.errors import EmbsyncError, StoreDamaged, UsageError
from embsync.invocation import Invocation, set_invocation
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.widen import widen
from embsync.store import Store

SOURCE = Path(embsync.__file__).parent
#: A hint on a damaged store may lead to the next one, at most this many times.
ROUNDS = 4


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A watched directory with a store of three versions, under a name that needs quoting."""
    with quick_directory() as place:
        folder = place / "the watcher's; $HOME"
        folder.mkdir()
        build(folder)
        drop(folder, 5)
        yield folder


@pytest.fixture
def root(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the store, used by a process with embsync as a library, in an unrelated directory."""
    monkeypatch.chdir(tmp_path)
    set_invocation(Invocation())
    return copy(directory / "S", directory / "the copy")


def _damage(root: Path, name: str, *numbers: int) -> None:
    for number in numbers:
        flip(root / f"versions/00000{number}" / name, 200)


def _point(root: Path, target: str) -> None:
    (root / "current").unlink()
    (root / "current").symlink_to(target)


def _back_to_two_and_damaged(root: Path) -> None:
    _point(root, "versions/000002")
    _damage(root, "items/vectors.npy", 1, 2)


def _a_directory_in_the_place_of_the_link(root: Path) -> None:
    (root / "current").unlink()
    shutil.copytree(root / "versions/000002", root / "current")


def _no_versions(root: Path) -> None:
    for path in (root / "versions").iterdir():
        shutil.rmtree(path)


def _no_manifests(root: Path) -> None:
    for path in (root / "versions").iterdir():
        (path / "manifest.json").unlink()
    (root / "current").unlink()


def _no_versions_behind_a_directory(root: Path) -> None:
    _no_versions(root)
    (root / "current").unlink()
    (root / "current").mkdir()
    (root / "current.damaged").mkdir()


def _cut(root: Path) -> None:
    path = root / "versions/000003/index_rows.npy"
    data = path.read_bytes()[:-8]
    path.unlink()
    path.write_bytes(data)


def _only(root: Path, name: str) -> None:
    """Leave only version 1, with a damaged file."""
    _point(root, "versions/000001")
    for number in (2, 3):
        shutil.rmtree(root / f"versions/00000{number}")
    flip(root / "versions/000001" / name, 200)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "vectors of the parent": lambda root: _damage(root, "items/vectors.npy", 3),
    "vectors of two versions": lambda root: _damage(root, "items/vectors.npy", 2, 3),
    "vectors of all": lambda root: _damage(root, "items/vectors.npy", 1, 2, 3),
    "what stays the same": lambda root: _damage(root, "start/users.npy", 3),
    "manifest": lambda root: _damage(root, "manifest.json", 3),
    "every manifest": lambda root: _damage(root, "manifest.json", 1, 2, 3),
    "every version before a whole one": _back_to_two_and_damaged,
    "a file cut short": _cut,
    "a file gone": lambda root: (root / "versions/000003/users/vectors.npy").unlink(),
    "vectors of the only version": lambda root: _only(root, "items/vectors.npy"),
    "manifest of the only version": lambda root: _only(root, "manifest.json"),
    "dangling": lambda root: _point(root, "versions/000009"),
    "elsewhere": lambda root: _point(root, "../000001"),
    "missing": lambda root: (root / "current").unlink(),
    "a directory in its place": _a_directory_in_the_place_of_the_link,
    "no versions": _no_versions,
    "no manifests": _no_manifests,
    "no versions behind a directory": _no_versions_behind_a_directory,
}


def _raise_first(damage: list[StoreDamaged]) -> None:
    if damage:
        raise damage[0]


def _lookup(root: Path) -> None:
    with embsync.open(root) as store:
        items = store.current.items
        items.lookup(items.names(np.arange(2)))


ACTIONS: dict[str, Callable[[Path, Path], object]] = {
    "read": lambda root, _: _lookup(root),
    "next night": lambda root, place: publish_snapshot(Store(root), Request(place / "watch/day=5"), config_of(place)),
    "widen": lambda root, place: widen(Store(root), 6, config_of(place)),
    "rollback": lambda root, _: Store(root).rollback(None),
    "rollback to 1": lambda root, _: Store(root).rollback(1),
    "status": lambda root, _: _raise_first(Store(root).damage()),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_hints_on_a_damaged_store_repair_it(
    root: Path, directory: Path, damage: str, action: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """After a few commands, run as printed in another directory, the store is intact or empty."""
    DAMAGE[damage](root)
    for _ in range(ROUNDS):
        try:
            ACTIONS[action](root, directory)
        except EmbsyncError as error:
            output = str(error)
        else:
            break
        if "found a store without versions" in output or run_all(output, root, capfd):
            assert Store(root).current() is None
            return
        if action.startswith("rollback"):  # another rollback would move again
            break
    else:
        pytest.fail("the hints do not repair the store")
    if action not in {"read", "status"} and Store(root).current() is not None:  # these two do not check hashes
        assert_intact(root)


def run_all(output: str, root: Path, capfd: pytest.CaptureFixture[str]) -> bool:
    """Run the command of each hint in turn; return whether a first snapshot is needed."""
    seen: set[str] = set()
    while True:
        if output.endswith("no version yet; hint: publish a first snapshot"):
            return True
        assert not PLACEHOLDER.search(output.replace(str(root.parent), "")), output
        line = printed_command(output)
        assert line is not None, output
        assert line not in seen
        seen.add(line)
        capfd.readouterr()
        code = run_as_printed(line)
        said = capfd.readouterr()
        if code == 0:
            return "embsync history" in line  # only the user knows a first snapshot
        assert code == 5, said.err
        output = next(one for one in (said.err + said.out).splitlines() if "hint: " in one)


def test_a_refusal_of_arrays_names_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused call with arrays can be repeated with the argument that the hint names."""
    set_invocation(Invocation())
    for name, options in (("rows", {"checks.rows_items.refuse": 10_000}), ("sides", {})):
        root = tmp_path / name
        one, two = night(1, **SIZES), night(2, **SIZES)
        given = {"index.factory": "Flat", "index.sample_queries": 20, **options}
        first = {"items": one.items, "item_ids": one.item_ids, "users": one.users, "user_ids": one.user_ids}
        embsync.publish(root, **first, accept=("rows_items",) if options else (), config=given)
        second = {"items": two.items, "item_ids": two.item_ids}
        second |= {"users": two.users, "user_ids": two.user_ids} if options else {}
        with pytest.raises(EmbsyncError, match=r"publish the same with ") as caught:
            embsync.publish(root, **second, config=given)
        assert "embsync-" not in str(caught.value.hint)
        argument = eval(f"dict({str(caught.value.hint).rpartition('publish the same with ')[2]})")
        assert embsync.publish(root, **second, config=given, **argument).version == 2


def test_the_hint_never_suggests_widen_for_a_narrower_space(tmp_path: Path) -> None:
    """A space cannot become narrower: the printed command begins a new one."""
    set_invocation(Invocation())
    root = tmp_path / "the store"
    publish_snapshot(Store(root), Request(write_npy(tmp_path / "n1", night(1, **SIZES))), configured())
    path = write_npy(tmp_path / "n2", night(2, **SIZES))
    for wanted, word in ((3, "accept"), (6, "widen")):
        with pytest.raises(UsageError) as caught:
            publish_snapshot(Store(root), Request(path), configured(space__dimension=wanted))
        line = printed_command(str(caught.value))
        assert line is not None
        assert line.split()[1] == word
        assert run_as_printed(line) == 0


def _literals(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def test_hints_in_the_source_are_commands_or_advice() -> None:
    """No word in a hint or a printed command is a placeholder."""
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            hints = [word.value for word in node.keywords if word.arg in {"hint", "purpose"}]
            if isinstance(node.func, ast.Name) and node.func.id in {"command", "Command"}:
                hints += node.args
            found += [f"{path.name}: {text}" for hint in hints for text in _literals(hint) if PLACEHOLDER.search(text)]
    found += [f"{name}: {check.remedy}" for name, check in CHECKS.items() if PLACEHOLDER.search(check.remedy)]
    assert not found
