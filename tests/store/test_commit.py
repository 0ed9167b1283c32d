"""The commit point: whatever fails before, at and after the rename of ``current``, the store is intact and usable."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.nights import configured, night, write_npy
from support.quick import quick_directory
from support.stores import assert_at_rest, assert_intact, snapshot_of, sync
from support.waiting import PATIENCE

import embsync
from embsync.cli.main import run
from embsync.errors import EmbsyncError, NotFoundError, StoreDamaged, StoreError
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.widen import widen
from embsync.reader import open_version
from embsync.store import Store, durable, layout
from embsync.store.critical import uninterrupted
from embsync.store.durable import NotReverted, append_line
from embsync.store.journal import Event

SIZES = {"items": 60, "users": 50, "width": 4}
STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A store with two versions, and the next nights beside it."""
    with quick_directory() as directory:
        for number in range(2):
            sync(directory / "S", night(number, **SIZES), f"n{number}")
        for number in (2, 3):
            write_npy(directory / f"n{number}", night(number, **SIZES))
        yield directory


@pytest.fixture
def store(made: Path) -> Iterator[Path]:
    """A copy of the store, which may be damaged."""
    with quick_directory() as directory:
        shutil.copytree(made, directory, symlinks=True, dirs_exist_ok=True)
        yield directory / "S"


def _next(store: Path) -> int:
    return publish_snapshot(Store(store), Request(store.parent / "n2"), configured()).version


def _failing(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    when: Callable[[str], bool],
    times: int = 10**6,
    after: bool = False,
    error: BaseException | None = None,
) -> list[str]:
    """Make ``os.<name>`` fail, before or after its work, for arguments that satisfy ``when``."""
    real: Callable[..., Any] = getattr(os, name)
    failed: list[str] = []

    def call(*arguments: Any, **options: Any) -> Any:
        what = " ".join(_named(argument) for argument in arguments)
        if not when(what) or len(failed) >= times:
            return real(*arguments, **options)
        failed.append(what)
        if after:
            real(*arguments, **options)
        raise error or OSError(errno.EIO, os.strerror(errno.EIO), what)

    monkeypatch.setattr(os, name, call)
    return failed


def _named(argument: object) -> str:
    return str(Path(f"/proc/self/fd/{argument}").readlink()) if isinstance(argument, int) else str(argument)


def _goes_on(store: Path) -> None:
    """Assert that the store is intact for readers at once, and without leftovers after the next command."""
    number = assert_intact(store)
    numbers = Store(store).numbers()
    with Store(store).locked():
        pass
    assert_at_rest(store)
    assert (assert_intact(store), Store(store).numbers()) == (number, numbers)
    published = [event.version for event in Store(store).journal.events() if event.event in {"published", "widened"}]
    assert sorted(set(published)) == published, "journaled twice"
    assert set(numbers) == set(published)
    following = publish_snapshot(Store(store), Request(store.parent / "n3"), configured())
    assert following.parent == number
    assert following.version == max(published) + 1
    assert_at_rest(store)


# errors after the switch


LONG = pytest.mark.torture


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (None, 1),
        (None, 10**6),
        (KeyboardInterrupt(), 1),
        pytest.param(None, 2, marks=LONG),
        pytest.param(KeyboardInterrupt(), 10**6, marks=LONG),
        pytest.param(MemoryError(), 1, marks=LONG),
    ],
)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("replace", "/current"),
        ("fsync", "/S"),
        ("symlink", "*/.current-"),
        ("write", "/journal.jsonl"),
        ("fsync", "/journal.jsonl"),
        ("ftruncate", "/journal.jsonl"),
        ("fdatasync", "/journal.jsonl"),
        ("rename", "/000003"),
        ("fsync", "/000003"),
        ("unlink", "/publishing.json"),
        ("close", "*/S/"),
    ],
)
def test_any_error_around_the_switch_leaves_the_old_or_the_new_version(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    where: str,
    times: int,
    after: bool,
    error: BaseException | None,
) -> None:
    """If some or all calls of a kind fail, before or after their work, the old or the new version is served."""
    with monkeypatch.context() as patch:
        if name in {"ftruncate", "fdatasync"}:  # called only after a line could not be written
            _failing(patch, "fsync", lambda what: what.endswith("/journal.jsonl"), 1)
        _failing(
            patch,
            name,
            lambda what: where[1:] in what if where[0] == "*" else what.endswith(where),
            times,
            after or name == "close",
            error if name != "close" else None,
        )  # Linux closes the descriptor in any case
        try:
            published = _next(store)
        except (StoreError, KeyboardInterrupt, MemoryError):
            published = None
    if published is not None:
        assert Store(store).current() == published
    assert Store(store).current() in {2, 3}
    _goes_on(store)


def test_a_full_disk_prevents_both_journaling_and_reverting(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If neither the line nor the switch back can be written, the new version stays current, and is journaled later."""
    links: list[str] = []
    with monkeypatch.context() as patch:
        _failing(patch, "write", lambda what: "/journal.jsonl" in what)
        real = os.symlink

        def once(*arguments: Any, **options: Any) -> None:
            links.append("")
            if len(links) > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(*arguments, **options)

        patch.setattr(os, "symlink", once)
        with pytest.raises(
            StoreError,
            match=r"version 3 is current, but its publishing could not be completed.*embsync "
            r"prune --store",
        ):
            _next(store)
    assert assert_intact(store) == 3
    assert run(["prune", "--store", str(store)]) == 0
    last = list(Store(store).journal.events())[-1]
    assert (last.event, last.version, last.recovered) == ("published", 3, True)
    assert (last.snapshot or {})["path"] == str(store.parent / "n2"), "the line of the publisher, not a poorer one"
    _goes_on(store)


def test_a_version_that_current_may_refer_to_is_never_removed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a switch back that is not durable, ``current`` may name the new version again, which is kept."""
    with monkeypatch.context() as patch:
        _failing(patch, "fsync", lambda what: what == str(store))
        with pytest.raises(StoreError):
            _next(store)
        assert Store(store).current() == 2
        assert (store / "versions/000003/manifest.json").is_file()
        with pytest.raises(StoreError), Store(store).locked():  # nor by a later command, until the disk works
            pass
        assert (store / "versions/000003/manifest.json").is_file()
    _goes_on(store)


# signals


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_is_deferred_to_the_end_of_the_section(number: signal.Signals) -> None:
    """Signals during the section call the previous handler once after it, and the handler is restored."""
    came: list[int] = []
    before = signal.signal(number, lambda number, _: came.append(number))
    ours = signal.getsignal(number)
    try:
        with uninterrupted(), uninterrupted():
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            assert came == []
        assert came == [number]
        assert signal.getsignal(number) is ours
    finally:
        signal.signal(number, before)


def test_an_interrupt_is_raised_when_the_section_ends() -> None:
    """All handlers are restored, even if the section failed."""
    before = [signal.getsignal(number) for number in STOPS]
    with pytest.raises(KeyboardInterrupt):
        _interrupted(None)
    with pytest.raises(KeyboardInterrupt) as raised:
        _interrupted(OSError(5, "no"))
    assert any(isinstance(error, OSError) for error in _chain(raised.value))  # finalizers may add others to the chain
    assert [signal.getsignal(number) for number in STOPS] == before


def test_no_deferred_signal_is_lost_if_one_raises() -> None:
    """KeyboardInterrupt is raised after all other signals were handled."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in STOPS[1:]}
    try:
        with pytest.raises(KeyboardInterrupt):
            _interrupted(None, *STOPS[1:])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert sorted(came) == sorted(STOPS[1:])


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


def _interrupted(error: Exception | None, *others: signal.Signals) -> None:
    with uninterrupted():
        for number in (signal.SIGINT, *others):
            os.kill(os.getpid(), number)
        if error is not None:
            raise error


def test_a_wake_up_descriptor_gets_each_signal_once() -> None:
    """A daemon that counts signals by the descriptor takes one SIGTERM for one."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    wakeup = signal.set_wakeup_fd(theirs)
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
        assert os.read(ours, 9) == bytes([signal.SIGTERM])
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        os.close(ours)
        os.close(theirs)


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


#: Runs a command once it is traced; Yama allows only its parent to trace it, unless the process permits others.
_WHEN_TRACED = """
import ctypes, runpy, sys
PR_SET_PTRACER = 0x59616d61
ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1))
print("waiting", flush=True)
if sys.stdin.readline() == "traced\\n":
    runpy.run_module("embsync", run_name="__main__", alter_sys=True)
"""


def _traced(store: Path, inject: str, *command: str, path: Path | None = None) -> tuple[int, str]:
    """Run a command with injected system calls; return its exit code and errors. Skip if tracing is not allowed.

    Tracing begins just before the command, since Python makes many thousands of calls when it starts.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-m", "support.script", _WHEN_TRACED, *command, "--store", str(store)]
    calls = [*([] if path is None else ["-P", str(path)]), f"-etrace={inject.partition(':')[0]}", f"-einject={inject}"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(words, env=environment, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        tracing = ["strace", "-f", "-o/dev/null", *calls, f"-p{process.pid}"]
        with subprocess.Popen(tracing, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            line = tracer.stderr.readline()
            if "attached" not in line:
                process.communicate(timeout=PATIENCE)
                pytest.skip(f"tracing is not allowed here: {line}")
            _, errors = process.communicate("traced\n", timeout=PATIENCE)
    return process.returncode, errors


@needs_strace
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("when", [1, 2, 3])
def test_an_interrupted_command_leaves_an_intact_store(store: Path, sent: str, when: int) -> None:
    """A signal at any rename of a publish ends the command, and leaves the old or the new version current."""
    code, errors = _traced(store, f"rename:signal={sent}:when={when}", "sync", str(store.parent / "n2"))
    assert code in {130, -signal.SIGTERM, 143}, errors
    assert Store(store).current() in {2, 3}
    _goes_on(store)


# durable lines


@needs_strace
@pytest.mark.parametrize(("call", "error"), [("write", "ENOSPC"), ("write", "EIO"), ("fsync", "EIO")])
def test_a_publish_that_could_not_be_journaled_is_retried(store: Path, call: str, error: str) -> None:
    """The exit code is 5, and the store is unchanged; the same command again publishes the night once."""
    before = snapshot_of(store)
    path = store / "journal.jsonl"
    code, errors = _traced(store, f"{call}:error={error}:when=1", "sync", str(store.parent / "n2"), path=path)
    assert code == 5, errors
    assert snapshot_of(store) == before
    assert run(["sync", str(store.parent / "n2"), "--store", str(store)]) == 0
    assert [event.version for event in Store(store).journal.events() if event.event == "published"] == [1, 2, 3]
    _goes_on(store)


@pytest.mark.parametrize("calls", [["write"], ["fsync"], ["close"], ["lseek"], ["fstat"], ["pread"]])
@pytest.mark.parametrize("new", [False, True])
def test_a_line_is_written_completely_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str], new: bool
) -> None:
    """However often a call fails, the file is unchanged after an error, and contains the line otherwise."""
    path = tmp_path / "lines"
    if not new:
        append_line(path, b"one")
    before = path.read_bytes() if path.exists() else b""
    for times in (1, 2, 10**6):
        with monkeypatch.context() as patch:
            _failing(patch, calls[0], lambda what: "/lines" in what or what == str(tmp_path), times)
            try:
                append_line(path, b"two")
            except (OSError, NotReverted):
                expected = before
            else:
                expected = before + b"two\n"
        assert path.read_bytes() == expected
        path.write_bytes(before)
    append_line(path, b"three")
    assert path.read_bytes() == before + b"three\n"


@pytest.mark.parametrize("most", [1, 3, 7])
def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A write may be partial."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:most]))
    append_line(tmp_path / "lines", b"a line of some length")
    durable.replace_file(tmp_path / "file", b"some contents")
    assert (tmp_path / "lines").read_bytes() == b"a line of some length\n"
    assert (tmp_path / "file").read_bytes() == b"some contents"


def test_a_write_that_did_nothing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a write reports success but wrote nothing, it is an error for a line and for a file."""
    append_line(tmp_path / "lines", b"one")
    durable.replace_file(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "write", lambda _, data: len(data))
    with pytest.raises(OSError, match="does not read back"):
        append_line(tmp_path / "lines", b"two")
    with pytest.raises(OSError, match="does not read back"):
        durable.replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "lines").read_bytes() == b"one\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"lines": b"one\n", "file": b"old"}


def test_a_line_that_cannot_be_reverted_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says that the line may be durable or not."""
    append_line(tmp_path / "lines", b"one")
    _failing(monkeypatch, "fsync", lambda what: what.endswith("/lines"))
    _failing(monkeypatch, "ftruncate", lambda _: True)
    with pytest.raises(NotReverted, match="could neither be written nor removed"):
        append_line(tmp_path / "lines", b"two")


# versions that were moved into place, but never became current


@pytest.fixture
def orphan(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store whose publisher died between moving version 3 into place and making it current."""
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Store, "_point_to", lambda *_: os._exit(0))
        _next(store)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (store / "versions/000003/manifest.json").is_file()
    return store


def test_an_unpublished_version_is_neither_listed_nor_opened(orphan: Path) -> None:
    """No reader sees it, even before it is removed."""
    store = Store(orphan)
    assert store.numbers() == [1, 2]
    with embsync.open(orphan) as reader:
        assert reader.numbers() == [1, 2]
    with pytest.raises(NotFoundError, match="no version 3"):
        open_version(orphan, 3)
    with pytest.raises(NotFoundError, match="no version 3"):
        store.path(3)


def test_an_unpublished_version_is_no_target_of_rollback_and_prunes_nothing(orphan: Path) -> None:
    """The next command that takes the lock removes it; its number is free, and it is not journaled."""
    with pytest.raises(NotFoundError, match="no version 3"):
        Store(orphan).rollback(3)
    with Store(orphan).locked():
        assert Store(orphan).prune(2) == ([], [])
    assert not (orphan / "versions/000003").exists()
    _goes_on(orphan)


def test_a_published_version_is_kept_even_if_its_journal_line_is_lost(store: Path) -> None:
    """Without a journal, or with a mark left by a crash, no published version is removed."""
    before = snapshot_of(store / "versions")
    (store / "journal.jsonl").write_text("")
    Store(store).rollback(1)
    assert snapshot_of(store / "versions") == before
    append_line(store / "journal.jsonl", b'{"event":"published","version":2,"parent":1}')
    (store / "versions/000002/publishing.json").write_text('{"event":"published","version":2}')
    with Store(store).locked():
        pass
    assert snapshot_of(store / "versions") == before, "journaled as published: only the mark goes"


def test_nothing_is_removed_while_current_is_broken(orphan: Path) -> None:
    """An unpublished version is kept, since a damaged ``current`` may have named it."""
    (orphan / "current").unlink()
    (orphan / "current").symlink_to("nowhere")
    with Store(orphan).locked():
        pass
    assert (orphan / "versions/000003/manifest.json").is_file()
    assert Store(orphan).rollback(None)[1] == 2
    _goes_on(orphan)


def test_a_first_version_that_was_never_switched_to_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store without ``current`` and with one unpublished version is treated as empty."""
    with quick_directory() as directory:
        path = write_npy(directory / "n0", night(0, **SIZES))
        child = os.fork()
        if child == 0:
            monkeypatch.setattr(Store, "_point_to", lambda *_: os._exit(0))
            publish_snapshot(Store(directory / "S"), Request(path), configured())
        os.waitpid(child, 0)
        assert Store(directory / "S").current() is None
        assert publish_snapshot(Store(directory / "S"), Request(path), configured()).version == 1
        assert_at_rest(directory / "S")


def test_a_widened_version_is_journaled_once_as_widened(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is also journaled once if the next command writes the line of a publisher that died."""
    assert widen(Store(store), 6, configured()).version == 3
    with Store(store).locked():
        pass
    events = [event for event in Store(store).journal.events() if event.version == 3]
    assert [(event.event, event.recovered) for event in events] == [("widened", False)]
    child = os.fork()
    if child == 0:
        monkeypatch.setattr("embsync.store.journal.append_line", lambda *_: os._exit(0))
        widen(Store(store), 7, configured())
    os.waitpid(child, 0)
    with Store(store).locked():
        pass
    events = [event for event in Store(store).journal.events() if event.version == 4]
    assert [(event.event, event.reason, event.recovered) for event in events] == [
        ("widened", "6 to 7 dimensions", True)
    ]
    _goes_on(store)


def test_a_switch_just_before_a_crash_is_journaled_afterwards(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next command writes the publisher's line, with the path and the stamp that mark the snapshot as handled."""
    path = write_npy(store.parent / "after", night(2, **SIZES))
    child = os.fork()
    if child == 0:
        monkeypatch.setattr("embsync.store.journal.append_line", lambda *_: os._exit(0))
        publish_snapshot(Store(store), Request(path), configured())
    os.waitpid(child, 0)
    number = Store(store).current()
    assert all(event.version != number for event in Store(store).journal.events())
    for _ in range(2):
        with Store(store).locked():
            pass
    (found,) = (event for event in Store(store).journal.events() if event.version == number)
    assert (found.event, found.recovered, found.parent) == ("published", True, 2)
    assert found.snapshot is not None
    assert found.snapshot["path"] == str(path)
    assert found.snapshot["stamp"]
    assert found.snapshot["fingerprint"] == Store(store).manifest(number or 0).snapshot.fingerprint
    _goes_on(store)


# a current that names no version


def _dangling(store: Path) -> None:
    (store / "current").unlink()
    (store / "current").symlink_to("versions/000009")


def _missing(store: Path) -> None:
    (store / "current").unlink()


def _pruned_by_hand(store: Path) -> None:
    shutil.rmtree(store / "versions/000002")


def _file(store: Path) -> None:
    (store / "current").unlink()
    (store / "current").write_text("versions/000002")


def _copied(store: Path) -> None:
    (store / "current").unlink()
    shutil.copytree(store / "versions/000002", store / "current")


COMMANDS = [
    ["status"],
    ["verify"],
    ["rollback", "9"],
    ["rollback"],
    ["sync", "SNAPSHOT"],
    ["widen", "6"],
    ["prune"],
    ["search", "--user", "2000"],
    ["lookup", "users", "2000"],
    ["show"],
]


@pytest.mark.parametrize("broken", [_dangling, _missing, _pruned_by_hand, _file, _copied])
@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_every_command_explains_a_broken_current_and_its_repair(
    store: Path, capfd: pytest.CaptureFixture[str], broken: Callable[[Path], None], command: list[str]
) -> None:
    """The exit code is 5, or 6 for a missing version, and the printed command repairs the store."""
    broken(store)
    arguments = [str(store.parent / "n2") if word == "SNAPSHOT" else word for word in command]
    code = run([*arguments, "--store", str(store)])
    if command == ["rollback"] and code == 0:  # rollback repairs it itself
        assert assert_intact(store) in {1, 2}
        return
    if command == ["rollback", "9"]:
        assert code == 6
        return
    assert code == 5
    said = capfd.readouterr()
    line = next(line for line in (said.err + said.out).splitlines() if "current'" in line)
    hint = line.partition("hint: ")[2]
    *before, command_line = hint.split(" && ")
    for first in before:
        subprocess.run(first, shell=True, check=True)
    assert shlex.split(command_line)[0] == "embsync"
    assert run(shlex.split(command_line)[1:]) == 0
    assert assert_intact(store) in {1, 2}


def test_with_no_version_left_the_hint_starts_a_new_space(store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The hint removes the link, and the next snapshot begins a new space with the next number."""
    for path in (store / "versions").iterdir():
        shutil.rmtree(path)
    assert run(["status", "--store", str(store)]) == 5
    hint = next(line for line in capfd.readouterr().out.splitlines() if "hint: " in line).partition("hint: ")[2]
    assert "rm " in hint
    subprocess.run(hint[hint.index("rm ") :].partition(" && ")[0].partition(";")[0], shell=True, check=True)
    assert _next(store) == 3
    assert assert_intact(store) == 3


def test_a_new_space_is_offered_from_an_existing_snapshot(store: Path) -> None:
    """The hint names the newest published snapshot that still exists, or ``history`` if none does."""
    everything = set(Store(store).numbers())
    (store / "journal.jsonl").unlink()
    for name in ("first", "second"):
        (store.parent / name).mkdir()
        Store(store).journal.append(Event(event="published", snapshot={"path": str(store.parent / name)}))
    for left in ("second", "first"):
        assert Store(store).repair_command(everything).arguments == ("accept", str(store.parent / left), "--new-space")
        (store.parent / left).rmdir()
    assert Store(store).repair_command(everything).arguments == ("history",)


def test_hold_works_while_current_is_broken(store: Path) -> None:
    """``hold`` and ``resume`` do not read ``current``."""
    _dangling(store)
    assert run(["hold", "--store", str(store)]) == 0
    assert run(["resume", "--store", str(store)]) == 0
    assert json.loads((store / "journal.jsonl").read_text().splitlines()[-1])["event"] == "resumed"
    with pytest.raises(StoreDamaged):
        Store(store).current()
    assert isinstance(Store(store).damage()[0], EmbsyncError)
    assert Store(store).rollback(None) == (2, 2)
    assert layout.current_number(store) == 2


def test_an_unjournaled_rollback_is_reported_by_the_next_command(store: Path) -> None:
    """The next command journals a change of ``current`` that was made by hand, and marks it as recovered."""
    (store / "current").unlink()
    (store / "current").symlink_to("versions/000001")
    for _ in range(2):  # journaled once, however often the lock is taken
        with Store(store).locked():
            pass
    moves = [event for event in Store(store).journal.events() if event.event == "rolled_back"]
    assert [(event.version, event.parent, event.recovered) for event in moves] == [(1, 2, True)]
