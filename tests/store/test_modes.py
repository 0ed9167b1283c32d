"""Permissions: who may read a store, write to it and take its locks, with any umask of its creator."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.nights import night, write_npy
from support.stores import assert_intact, running, sync

from embsync.cli.main import run
from embsync.daemon import status
from embsync.errors import StoreError
from embsync.store import Store
from embsync.store.hold import hold
from embsync.store.locks import exclusive, is_held
from embsync.store.owner import required_owner

SIZES = {"items": 60, "users": 50, "width": 4}
NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def _as_nobody(work: Callable[[], object]) -> int:
    """Run work as another user in a child; return its exit code."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            code = int(work() or 0)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000, 0o177])
def test_modes_are_as_documented(place: Path, umask: Callable[[int], int], mask: int) -> None:
    """Directories have mode 0755, files 0644 and locks 0600 in the entire store; another user can read all of it."""
    umask(mask)
    root = place / "S"
    sync(root, night(0, **SIZES), "n0")
    sync(root, night(1, **SIZES), "n1")
    hold(Store(root))
    with exclusive(root / "daemon.lock", 0.0, "the daemon"):
        pass
    umask(0o022)
    for path in [root, *root.rglob("*")]:
        if path.is_symlink():
            continue
        expected = 0o755 if path.is_dir() else 0o600 if path.name in {"lock", "daemon.lock"} else 0o644
        assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(expected), path
    assert _as_nobody(lambda: 0 if assert_intact(root) == 2 else 1) == 0


def test_an_existing_directory_keeps_its_mode_and_group(place: Path, umask: Callable[[int], int]) -> None:
    """A private directory stays private, and the members of a group can write to a directory of the group."""
    umask(0o022)
    private, shared = place / "private", place / "shared"
    private.mkdir(mode=0o700)
    shared.mkdir()
    shared.chmod(0o2775)
    if os.geteuid() == 0:
        os.chown(shared, 0, NOBODY)
    sync(private, night(0, **SIZES), "n0")
    sync(shared, night(0, **SIZES), "n1")
    sync(place / "public", night(0, **SIZES), "n2")
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert stat.S_IMODE((shared / "lock").stat().st_mode) == 0o660
    assert stat.S_IMODE((shared / "versions/000001/items").stat().st_mode) == 0o2775
    assert stat.S_IMODE((shared / "journal.jsonl").stat().st_mode) == 0o664
    assert _as_nobody(lambda: required_owner(shared) is not None or Store(shared).rollback(1) != (1, 1)) == 0
    assert _as_nobody(lambda: required_owner(private.parent / "public") is None) == 0


def test_a_reader_cannot_take_the_locks(place: Path) -> None:
    """Another user can open them neither for reading nor for writing; the mode of an old lock file is corrected."""
    root = place / "S"
    sync(root, night(0, **SIZES), "n0")
    for name in ("lock", "daemon.lock"):
        (root / name).touch()
        (root / name).chmod(0o644)
        with exclusive(root / name, 0.0, "it"):
            pass

        def take(name: str = name) -> int:
            for flags in (os.O_RDONLY, os.O_RDWR):
                try:
                    fcntl.flock(os.open(root / name, flags), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except PermissionError:
                    continue
                return 1
            return 0

        assert _as_nobody(take) == 0


def test_another_user_still_knows_whether_locks_are_held(place: Path) -> None:
    """The kernel's list of locks shows it: ``status`` reports a daemon as running exactly while it runs."""
    root = place / "S"
    sync(root, night(0, **SIZES), "n0")
    with exclusive(root / "daemon.lock", 0.0, "the daemon"), exclusive(root / "lock", 0.0, "the store"):
        assert _as_nobody(lambda: 0 if status.is_running(Store(root)) and is_held(root / "lock") else 1) == 0
    assert _as_nobody(lambda: 0 if not status.is_running(Store(root)) and not is_held(root / "lock") else 1) == 0


def test_root_makes_locks_for_the_owner_of_the_store(place: Path) -> None:
    """Lock files that root creates belong to the owner of the store; the command line refuses root before that."""
    root = place / "S"
    sync(root, night(0, **SIZES), "n0")
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    for path in [root, *root.rglob("*")]:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    (root / "lock").unlink()
    Store(root).rollback(1)
    assert (root / "lock").stat().st_uid == NOBODY


def test_a_lock_that_cannot_be_opened_is_a_store_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any command exits with 5 and one line."""
    root = place / "S"
    sync(root, night(0, **SIZES), "n0")

    def failing(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", failing)
    for command in (["rollback", "1"], ["prune"], ["hold"], ["status"], ["lookup", "items", "1"], ["verify"]):
        assert run([*command, "--store", str(root)]) == 5, command
    with pytest.raises(StoreError, match="No locks available"):
        Store(root).rollback(1)


LINGER = """
import sys
from pathlib import Path
from embsync.store import durable
path, _ = durable._create_temporary(Path(sys.argv[1]) / "status.json")
print(path.name, flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("name", ["hold", "on_publish.json", "status.json", "attempt.json", "metrics.prom"])
def test_any_command_removes_temporary_files_of_dead_processes_only(place: Path, name: str) -> None:
    """Files that a killed process left are removed; those of a running process, and foreign ones, stay."""
    root = place / "S"
    sync(root, night(0, **SIZES), "n0")
    (root / f".{name}-0123abcd").touch()
    (root / ".notes").touch()
    with running(LINGER, root) as living:
        assert living.stdout is not None
        temporary = living.stdout.readline().strip()
        assert run(["rollback", "1", "--store", str(root)]) == 0
        assert (root / temporary).exists()
    assert not (root / f".{name}-0123abcd").exists()
    assert (root / ".notes").exists()


# changes that took effect are reported as such


def _without_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _line: bytes) -> None:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr("embsync.store.journal.append_line", full)


@pytest.mark.parametrize(
    ("command", "effect", "took"),
    [
        (["rollback", "1"], "rolled back from version 2 to version 1", lambda root: Store(root).current() == 1),
        (["hold"], "on hold", lambda root: (root / "hold").exists()),
        (["resume"], "resumed", lambda root: not (root / "hold").exists()),
        (
            ["rollback", "1", "--hold"],
            "rolled back from version 2 to version 1",
            lambda root: (root / "hold").exists() and Store(root).current() == 1,
        ),
    ],
)
def test_a_change_that_could_not_be_journaled_is_reported_as_done(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    effect: str,
    took: Callable[[Path], bool],
) -> None:
    """The exit code is 5, and the error names both the effect and the failure of the journal."""
    root = place / "S"
    for number in range(2):
        sync(root, night(number, **SIZES), f"n{number}")
    if command == ["resume"]:
        hold(Store(root))
    with monkeypatch.context() as patch:
        _without_journal(patch)
        assert run([*command, "--store", str(root)]) == 5
    assert took(root)
    said = capsys.readouterr().err
    assert effect in said
    assert "but the journal could not be written" in said
    with Store(root).locked():
        pass
    assert took(root)


def test_pruned_versions_are_journaled_even_if_a_later_one_fails(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each version is journaled when it is pruned, not after all of them."""
    root = place / "S"
    for number in range(4):
        sync(root, night(number, **SIZES), f"n{number}")
    store = Store(root)
    real = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == "000002":
            raise OSError(5, "Input/output error", str(path))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with store.locked(), pytest.raises(StoreError):
        store.prune(1)
    assert store.numbers() == [2, 3, 4]
    assert [event.version for event in store.journal.events() if event.event == "pruned"] == [1]


def test_an_interrupted_pruning_is_journaled_by_the_next_command(place: Path) -> None:
    """It is journaled once, as recovered."""
    root = place / "S"
    for number in range(2):
        sync(root, night(number, **SIZES), f"n{number}")
    (root / "versions/000001").rename(root / "versions/.pruned-000001-0123abcd")
    for _ in range(2):
        with Store(root).locked():
            pass
    output = [(event.version, event.recovered) for event in Store(root).journal.events() if event.event == "pruned"]
    assert output == [(1, True)]


@pytest.mark.parametrize(
    "name", ["day=1\nrefused   day=9", "day=1\x1b[2K\x1b[1Aforged", "day=1\r\x9b31m\u2028x\u202egnp"]
)
def test_a_name_cannot_forge_a_log_line(place: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Line breaks, terminal escapes and bidirectional control characters are shown as escapes, on one line."""
    root = place / "S"
    made = night(0, **SIZES)
    sync(root, made, name)
    broken = write_npy(place / f"bad{name}", made.with_vectors(lambda vectors: vectors * float("nan")))
    capsys.readouterr()
    for arguments in (["status"], ["history"], ["show"], ["sync", str(broken)], ["hold", "--reason", name], ["status"]):
        run([*arguments, "--store", str(root)])
        said = capsys.readouterr()
        lines = (said.out + said.err).split("\n")
        assert all(line.isprintable() for line in lines), lines
        assert not any(line.startswith(("refused", "forged", "x")) for line in lines)
    run(["history", "--json", "--store", str(root)])
    assert json.loads(capsys.readouterr().out)[0]["snapshot"]["name"] == name, "exact for programs"
