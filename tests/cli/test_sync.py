"""``embsync sync`` and the commands used after it, on small snapshots, through the real command line."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embsync.cli.main import run
from embsync.reporting.numerals import age

WIDTH = 8


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    return rng.standard_normal((300, WIDTH)).astype("f4"), rng.standard_normal((200, WIDTH)).astype("f4")


def save(folder: Path, **arrays: np.ndarray) -> Path:
    """Write a snapshot; ids default to row numbers."""
    folder.mkdir()
    for side in ("items", "users"):
        if side in arrays:
            arrays.setdefault(f"{side[:-1]}_ids", np.arange(len(arrays[side])))
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=True)
    return folder


@pytest.fixture
def good(tmp_path: Path, rows: tuple[np.ndarray, np.ndarray]) -> Path:
    return save(tmp_path / "good", items=rows[0], users=rows[1])


@pytest.fixture
def store(tmp_path: Path, good: Path) -> Path:
    path = tmp_path / "store"
    assert run(["sync", str(good), "--store", str(path), "--json"]) == 0
    return path


def state(store: Path) -> dict[str, object]:
    """Return everything in the store except the journal: names, contents, link targets."""
    found: dict[str, object] = {}
    for path in sorted(store.rglob("*")):
        if path.name == "journal.jsonl":
            continue
        name = str(path.relative_to(store))
        found[name] = path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
    return found


def one_line(captured: str) -> str:
    assert captured.count("\n") == 1, captured
    assert "Traceback" not in captured
    return captured


def ill_formed(tmp_path: Path, rows: tuple[np.ndarray, np.ndarray], what: str) -> Path:
    """Make a snapshot with one fault."""
    items, users = (array.copy() for array in rows)
    folder = tmp_path / what
    ids = np.arange(len(items))
    match what:
        case "empty":
            folder.mkdir()
            return folder
        case "lengths":
            return save(folder, items=items, users=users, item_ids=ids[:-1])
        case "duplicates":
            return save(folder, items=items, users=users, item_ids=np.append(ids[:-1], 5))
        case "nan":
            items[7, 3] = np.nan
        case "infinity":
            items[7, 3] = np.inf
        case "flat":
            return save(folder, items=items[:, 0], users=users, item_ids=ids)
        case "objects":
            return save(folder, items=items.astype(object), users=users)
        case "widths":
            users = users[:, :-1]
        case "strings":
            return save(
                folder,
                items=items,
                users=users,
                item_ids=np.array([f"i{i}" for i in ids]),
                user_ids=np.array([f"u{i}" for i in range(len(users))]),
            )
        case "no_users":
            return save(folder, items=items)
        case "truncated":
            save(folder, items=items, users=users)
            os.truncate(folder / "items.npy", 500)
            return folder
        case "pickle":
            save(folder, users=users, item_ids=ids)
            np.save(folder / "items.npy", np.array([{"a": 1}] * 3), allow_pickle=True)
            return folder
    return save(folder, items=items, users=users)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("empty", ["empty", "items.npy"]),
        ("lengths", ["item_ids.npy", "299", "300"]),
        ("duplicates", ["item_ids.npy", "5"]),
        ("nan", ["items.npy", "row 7", "finite"]),
        ("infinity", ["items.npy", "row 7", "finite"]),
        ("flat", ["items.npy", "(300,)"]),
        ("objects", ["items.npy", "object"]),
        ("widths", ["users.npy", "7", "8"]),
        ("strings", ["strings", "integers", "never change"]),
        ("no_users", ["items only", "items and users"]),
        ("truncated", ["items.npy", "500 bytes"]),
        ("pickle", ["items.npy", "pickle"]),
    ],
)
def test_an_ill_formed_snapshot_is_exit_3_in_one_line_and_leaves_the_store(
    what: str,
    words: list[str],
    tmp_path: Path,
    rows: tuple[np.ndarray, np.ndarray],
    store: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The error names the file, the finding and the expectation; the store, with its journal, is unchanged."""
    bad = ill_formed(tmp_path, rows, what)
    before, journal = state(store), (store / "journal.jsonl").read_bytes()
    capfd.readouterr()

    assert run(["sync", str(bad), "--store", str(store)]) == 3

    line = one_line(capfd.readouterr().err)
    for word in words:
        assert word in line
    assert state(store) == before
    assert (store / "journal.jsonl").read_bytes() == journal


def test_an_ill_formed_first_snapshot_leaves_no_store(
    tmp_path: Path, rows: tuple[np.ndarray, np.ndarray], capfd: pytest.CaptureFixture[str]
) -> None:
    """A store is created only when there is a version to publish."""
    bad = ill_formed(tmp_path, rows, "nan")
    assert run(["sync", str(bad), "--store", str(tmp_path / "store")]) == 3
    assert not (tmp_path / "store").exists()
    one_line(capfd.readouterr().err)


def test_a_missing_path_is_exit_6(tmp_path: Path, store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A missing snapshot is not an ill-formed one."""
    capfd.readouterr()
    assert run(["sync", str(tmp_path / "nowhere"), "--store", str(store)]) == 6
    assert "nowhere" in one_line(capfd.readouterr().err)


def test_the_refusal_of_shuffled_ids_has_name_value_and_limit(
    tmp_path: Path, rows: tuple[np.ndarray, np.ndarray], store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Scores cannot show shuffled ids, but the fit to the anchors does; only the journal changes."""
    ids = np.random.default_rng(3).permutation(300)
    bad = save(tmp_path / "shuffled", items=rows[0], users=rows[1], item_ids=ids)
    before = state(store)
    capfd.readouterr()

    assert run(["sync", str(bad), "--store", str(store)]) == 4

    line = one_line(capfd.readouterr().err)
    for word in ("cosine_items", "limit at least 0.5", "lost_items", "the item ids are shuffled"):
        assert word in line
    assert state(store) == before
    last = json.loads((store / "journal.jsonl").read_bytes().splitlines()[-1])
    assert last["event"] == "refused"
    assert {check["name"] for check in last["checks"]} >= {"cosine_items", "score_error", "rank"}


def test_accept_publishes_a_refused_snapshot_and_records_it(
    tmp_path: Path, rows: tuple[np.ndarray, np.ndarray], store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only the named checks are overridden; the manifest marks them."""
    bad = save(tmp_path / "half", items=rows[0][:140], users=rows[1])
    assert run(["sync", str(bad), "--store", str(store)]) == 4
    assert run(["accept", str(bad), "--check", "cosine_users", "--store", str(store)]) == 4
    assert run(["accept", str(bad), "--check", "finite", "--store", str(store)]) == 2
    assert run(["accept", str(bad), "--check", "live_item", "--store", str(store)]) == 2
    assert run(["accept", str(bad), "--store", str(store)]) == 2
    assert run(["accept", str(bad), "--check", "live_items", "--store", str(store)]) == 0
    capfd.readouterr()
    assert run(["show", "--store", str(store), "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capfd.readouterr().out)["checks"]}
    assert checks["live_items"]["outcome"] == "refuse"
    assert checks["live_items"]["accepted"] is True
    assert not checks["rank"]["accepted"]


def test_a_refusal_does_not_stop_the_rest_and_sets_the_exit_code(
    tmp_path: Path, rows: tuple[np.ndarray, np.ndarray], good: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Paths are handled independently, in the order in which they are given."""
    few = save(tmp_path / "few", items=rows[0][:5], users=rows[1])
    paths = [str(path) for path in (good, few, tmp_path / "nowhere", good)]
    assert run(["sync", *paths, "--store", str(tmp_path / "store"), "--json"]) == 4
    found = json.loads(capfd.readouterr().out)
    assert found["exit_code"] == 4
    assert [result["outcome"] for result in found["results"]] == ["published", "refused", "failed", "published"]
    assert [result["version"] for result in found["results"]] == [1, None, None, 2]
    assert found["results"][3]["checks"][0]["name"] == "same_snapshot"


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--bogus"], {}, ["--bogus", "--help"]),
        (["-c", "nowhere.yaml"], {}, ["nowhere.yaml"]),
        ([], {"EMBSYNC_STORE__KEEP_VERSION": "3"}, ["store.keep_version", "store.keep_versions"]),
        ([], {"EMBSYNC_INDEX__METRIC": "cosine"}, ["metric", "standardize"]),
        ([], {"EMBSYNC_INDEX__FACTORY": "HNSWx"}, ["HNSWx"]),
        ([], {"EMBSYNC_SPACE__DIMENSION": "16"}, ["widen"]),
    ],
)
def test_wrong_usage_is_exit_2_before_any_work(
    arguments: list[str],
    environment: dict[str, str],
    words: list[str],
    good: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Options, configuration and factory strings are validated first, with a hint if one applies."""
    before = state(store)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    capfd.readouterr()
    assert run(["sync", str(good), "--store", str(store), *arguments]) == 2
    line = one_line(capfd.readouterr().err)
    for word in words:
        assert word in line
    assert state(store) == before


def test_a_locked_store_is_exit_5_and_names_the_holder(
    good: Path, store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command waits for the lock as long as requested, and no longer."""
    before = state(store)
    capfd.readouterr()
    with (store / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for command in (["sync", str(good)], ["rollback"], ["prune"], ["widen", "9"]):
            assert run([*command, "--store", str(store), "--wait", "0.1"]) == 5
            assert "locked" in one_line(capfd.readouterr().err)
    assert state(store) == before


def test_an_unwritable_store_is_exit_5(good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """If no directory can be created, the error is one line without a traceback."""
    (tmp_path / "file").write_text("")
    for place in ("/proc/no-store-here", str(tmp_path / "file")):
        assert run(["sync", str(good), "--store", place]) == 5
        one_line(capfd.readouterr().err)


def test_a_directory_with_other_files_is_refused_as_a_store(
    good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A directory that already contains other files, such as a home directory, is not used as a store."""
    assert run(["sync", str(good), "--store", str(tmp_path)]) == 5
    assert "not a store" in one_line(capfd.readouterr().err)
    assert not (tmp_path / "versions").exists()


def test_too_little_space_is_exit_5_before_anything_is_written(
    good: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The needed bytes are estimated and compared with the free space."""
    before = state(store)
    real = os.statvfs(store)
    full = os.statvfs_result((real.f_bsize, real.f_frsize, real.f_blocks, 3, 3, *tuple(real)[5:]))
    monkeypatch.setattr("os.statvfs", lambda _: full)
    capfd.readouterr()
    assert run(["sync", str(good), "--store", str(store)]) == 5
    assert "bytes free" in one_line(capfd.readouterr().err)
    assert state(store) == before


@pytest.mark.parametrize(
    "command",
    [
        ["show", "99"],
        ["rollback", "99"],
        ["verify", "99"],
        ["search", "-u", "99999"],
        ["lookup", "users", "99999"],
        ["search", "-u", "1", "--version", "99"],
    ],
)
def test_missing_versions_and_snapshots_exit_with_6(
    command: list[str], store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exit code for unknown versions and ids differs from that for damage."""
    capfd.readouterr()
    assert run([*command, "--store", str(store)]) == 6
    assert "99" in one_line(capfd.readouterr().err)


@pytest.mark.parametrize("command", ["status", "history", "show", "verify", "rollback", "prune", "widen"])
def test_commands_without_a_store_exit_with_6(command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Commands that only read do not create a store."""
    arguments = [command, *(["12"] if command == "widen" else []), "--store", str(tmp_path / "none")]
    assert run(arguments) == 6
    assert "no store here" in one_line(capfd.readouterr().err)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["history"],
        ["show"],
        ["verify"],
        ["check-config"],
        ["version"],
        ["search", "-u", "1"],
        ["search", "-i", "1", "-k", "3"],
        ["lookup", "users", "1", "2"],
        ["prune"],
        ["widen", "12"],
    ],
)
def test_every_command_prints_one_json_document(
    command: list[str], store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With --json, standard output contains nothing but JSON."""
    capfd.readouterr()
    assert run([*command, "--store", str(store), "--json"]) == 0
    captured = capfd.readouterr()
    json.loads(captured.out)
    assert captured.err == ""


def test_show_prints_the_manifest_file_unchanged(store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """``show --json`` prints the bytes of the file."""
    capfd.readouterr()
    run(["show", "--store", str(store), "--json"])
    assert capfd.readouterr().out == (store / "current" / "manifest.json").read_text()


def test_the_next_snapshot_follows_a_rollback(
    good: Path, store: Path, tmp_path: Path, rows: tuple[np.ndarray, np.ndarray], capfd: pytest.CaptureFixture[str]
) -> None:
    """The next version's parent is the current version, and its number is the highest ever used plus one."""
    second = save(tmp_path / "second", items=rows[0] * 1.01, users=rows[1])
    assert run(["sync", str(second), "--store", str(store)]) == 0
    assert run(["rollback", "--store", str(store)]) == 0
    assert (store / "current").readlink() == Path("versions/000001")
    assert run(["sync", str(second), "--store", str(store)]) == 0
    capfd.readouterr()
    run(["show", "--store", str(store), "--json"])
    shown = json.loads(capfd.readouterr().out)
    assert (shown["version"], shown["parent"]) == (3, 1)
    assert np.load(store / "versions/000003/lineage.npy").tolist() == [1, 3]


def test_verify_finds_one_flipped_byte(store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Damage is exit code 5, and the error names the file."""
    vectors = store / "versions/000001/users/vectors.npy"
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.write_bytes(data)
    capfd.readouterr()
    assert run(["verify", "--store", str(store)]) == 5
    assert "users/vectors.npy" in capfd.readouterr().err


def test_verify_recomputes_the_certificate_from_the_snapshot(
    store: Path, good: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """While the snapshot exists, the scores are compared again; if it was deleted, verify reports that."""
    capfd.readouterr()
    assert run(["verify", "--store", str(store), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["score_error"] < 1e-6
    assert found["snapshot"] == str(good)
    np.save(good / "users.npy", np.load(good / "users.npy") * 2)
    assert run(["verify", "--store", str(store), "--json"]) == 0
    assert "changed" in json.loads(capfd.readouterr().out)["note"]


def test_two_concurrent_commands_both_publish(good: Path, store: Path) -> None:
    """Neither waits for the other's work; one version is published on top of the other."""
    command = [sys.executable, "-m", "embsync", "sync", str(good), str(good), "--store", str(store)]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors
    manifests = [json.loads((path / "manifest.json").read_bytes()) for path in sorted((store / "versions").iterdir())]
    assert [(one["version"], one["parent"]) for one in manifests] == [(1, None), (2, 1), (3, 2), (4, 3), (5, 4)]
    assert {path.name for path in store.iterdir()} == {"current", "versions", "journal.jsonl", "lock"}


def test_the_backlog_is_synced_and_every_entry_listed(
    tmp_path: Path,
    rows: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without paths, sync handles the watched directory; ill-formed snapshots are journaled and not tried again."""
    watched = tmp_path / "runs"
    watched.mkdir()
    for name in ("day=9", "day=10"):
        save(watched / name, items=rows[0], users=rows[1])
        (watched / name / "_SUCCESS").touch()
    save(watched / "day=11", items=rows[0], users=rows[1][:, :-1])
    (watched / "day=11" / "_SUCCESS").touch()
    (watched / "_temporary").mkdir()
    monkeypatch.setenv("EMBSYNC_WATCH__PATH", str(watched))
    monkeypatch.setenv("EMBSYNC_WATCH__BACKLOG", "every")
    store = str(tmp_path / "store")

    assert run(["sync", "--store", store, "--json"]) == 3
    results = json.loads(capfd.readouterr().out)["results"]
    assert [Path(result["snapshot"]).name for result in results] == ["day=9", "day=10", "day=11"]
    capfd.readouterr()
    assert run(["sync", "--store", store, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["results"] == []

    assert run(["status", "--store", store, "--json"]) == 0
    states = {entry["name"]: entry["state"] for entry in json.loads(capfd.readouterr().out)["snapshots"]}
    assert states == {"_temporary": "not_a_snapshot", "day=9": "published", "day=10": "published", "day=11": "failed"}


@pytest.mark.parametrize("reached", ["items/ids.npy", "lineage.npy"])
def test_a_killed_command_leaves_no_staging_directory(tmp_path: Path, store: Path, reached: str) -> None:
    """After SIGKILL at any stage of publishing, current is intact, and the next command removes the leftovers."""
    traced = shutil.which("strace") is not None  # delays each rename, so that fewer rows suffice
    rng = np.random.default_rng(4)
    large = save(
        tmp_path / "large",
        items=rng.standard_normal((2000 if traced else 20_000, WIDTH)).astype("f4"),
        users=rng.standard_normal((500, WIDTH)).astype("f4"),
    )
    before = (store / "current").readlink()
    command = [sys.executable, "-m", "embsync", "accept", str(large), "--new-space", "--store", str(store)]
    renames = "rename,renameat,renameat2"
    slowly = ["strace", "-D", "-f", "--seccomp-bpf", "-o/dev/null", f"-etrace={renames}"]
    slowly.append(f"-einject={renames}:delay_enter=5000000")
    with subprocess.Popen(
        [*(slowly if traced else ()), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "EMBSYNC_INDEX__FACTORY": "HNSW32"},
    ) as process:
        while process.poll() is None and not list((store / "versions").glob(f".staging-*/{reached}")):
            time.sleep(0.01 if traced else 0)  # the last stages take milliseconds, except for the rename
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it was done before"
    assert list((store / "versions").glob(".staging-*"))
    assert run(["verify", "--store", str(store)]) == 0
    assert run(["prune", "--store", str(store)]) == 0
    assert [path.name for path in (store / "versions").iterdir()] == ["000001"]
    assert (store / "current").readlink() == before


@pytest.mark.parametrize(
    ("items", "users", "sentence"),
    [
        (0, 100, "100 all-zero user rows"),
        (1, 0, "1 all-zero item row"),
        (2, 1, "2 all-zero item rows and 1 all-zero user row"),
    ],
)
def test_zero_rows_are_reported_once_with_their_count(
    tmp_path: Path,
    rows: tuple[np.ndarray, np.ndarray],
    capfd: pytest.CaptureFixture[str],
    items: int,
    users: int,
    sentence: str,
) -> None:
    """``sync`` and ``status`` report the count; the share that a limit applies to is not repeated."""
    first, second = (array.copy() for array in rows)
    first[:items] = 0
    second[:users] = 0
    store = ["--store", str(tmp_path / "store")]
    assert run(["sync", str(save(tmp_path / "zeros", items=first, users=second)), *store]) == 0
    lines = [line.strip() for line in "".join(capfd.readouterr()).splitlines()]
    assert [line for line in lines if line.startswith("warning:")] == [f"warning: {sentence}"]
    assert run(["status", *store, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["warnings"] == [sentence]


def test_history_shows_the_last_events(store: Path, good: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """All events, or the requested number of them, are shown with the newest last."""
    for _ in range(2):
        assert run(["sync", str(good), "--store", str(store)]) == 0
    for last, versions in (([], [1, 2, 3]), (["-n", "2"], [2, 3]), (["--last", "9"], [1, 2, 3])):
        capfd.readouterr()
        assert run(["history", *last, "--store", str(store), "--json"]) == 0
        assert [event["version"] for event in json.loads(capfd.readouterr().out)] == versions


def test_a_reader_that_stops_early_is_not_an_error(store: Path) -> None:
    """If the reader of a pipe exits, as in ``embsync history | head``, the exit code is 0 and nothing is printed."""
    ours, theirs = os.pipe()
    os.close(ours)
    with subprocess.Popen(
        [sys.executable, "-m", "embsync", "history", "--store", str(store)], stdout=theirs, stderr=subprocess.PIPE
    ) as process:
        os.close(theirs)
        _, said = process.communicate(timeout=500)
    assert (process.returncode, said) == (0, b"")


def test_a_refusal_is_shown_until_something_is_published(
    tmp_path: Path, rows: tuple[np.ndarray, np.ndarray], store: Path, good: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """``status`` shows it even without a daemon."""
    few = save(tmp_path / "few", items=rows[0][:5], users=rows[1])
    for snapshot, code, shown in ((few, 4, True), (few, 4, True), (good, 0, False)):
        assert run(["sync", str(snapshot), "--store", str(store)]) == code
        capfd.readouterr()
        assert run(["status", "--store", str(store)]) == 0
        assert ("refused   few at " in capfd.readouterr().out) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "just now"),
        (59.0, "59 seconds ago"),
        (60.0, "1 minute ago"),
        (7_300.0, "2 hours ago"),
        (172_800.0, "2 days ago"),
    ],
)
def test_an_age_is_shown_in_a_suitable_unit(seconds: float, shown: str) -> None:
    """A unit is used from two of it on, minutes from one."""
    assert age(seconds) == shown
