"""Commands as operators type them: hints that run as printed, mistakes that create no store, users, files, dry runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.nights import night, write_npy
from support.quick import quick_directory

from embsync import environment
from embsync.cli.main import COMMANDS, run
from embsync.config_loader import load
from embsync.invocation import quoted
from embsync.store import Store

_NOBODY = 65534


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """Nights, one with shuffled ids, and a store of the first two; the names need quoting in a shell."""
    with quick_directory() as directory:
        for number in range(4):
            write_npy(directory / f"watch it/day={number}", night(number))
        write_npy(directory / "a bad one", night(4).shuffled_item_ids())
        nights = [str(directory / f"watch it/day={number}") for number in (0, 1)]
        assert run(["sync", *nights, "--store", str(directory / "the store")]) == 0
        (directory / "embsync.yaml").write_text(
            f"store: {{path: {directory}/the store}}\nwatch: {{path: 'watch it', settle_seconds: 0}}\n"
        )
        yield directory


@pytest.fixture
def place(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy as the working directory."""
    with quick_directory() as directory:
        shutil.copytree(made, directory, symlinks=True, dirs_exist_ok=True)
        (directory / "embsync.yaml").write_text((made / "embsync.yaml").read_text().replace(str(made), str(directory)))
        monkeypatch.chdir(directory)
        yield directory


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, modification time and contents of everything in a directory."""
    found = {}
    for path in (root, *sorted(root.rglob("*"))):
        status = path.lstat()
        found[str(path)] = (
            status.st_mode,
            status.st_mtime_ns,
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
        )
    return found


def printed(output: str) -> list[str]:
    """Return the last command in a line, split as by a shell, without the program."""
    words = shlex.split(re.search(r"\bembsync (?:--?\w+ )*[a-z-]+ .*$|\bembsync [a-z-]+$", output.strip())[0])
    assert words[0] == "embsync"
    return words[1:]


_BY_OPTION = ({}, ["--store", "the store"])
_BY_FILE = ({}, ["--config", "embsync.yaml"])
_BY_VARIABLE = ({"EMBSYNC_STORE": "the store"}, [])
_BY_FILE_VARIABLE = ({"EMBSYNC_CONFIG": "embsync.yaml"}, [])
_BY_BOTH = ({"EMBSYNC_CONFIG": "embsync.yaml", "EMBSYNC_STORE": "the store"}, [])


@pytest.mark.parametrize(("variables", "options"), [_BY_OPTION, _BY_FILE, _BY_VARIABLE, _BY_FILE_VARIABLE, _BY_BOTH])
def test_a_refusal_names_a_command_that_publishes_as_printed(
    place: Path,
    variables: dict[str, str],
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """However the store was given, the command refers to the same store in another shell without variables."""
    write_npy(place / "half of it", night(2, items=100, churn=0.05))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    capfd.readouterr()
    assert run(["sync", "half of it", *options]) == 4
    words = printed(capfd.readouterr().err)
    assert words[:2] == ["accept", "half of it"]
    for name in variables:
        monkeypatch.setenv(name, "") if name == "EMBSYNC_CONFIG" else monkeypatch.delenv(name)
    assert run(words) == 0
    assert Store(place / "the store").current() == 3


@pytest.mark.parametrize(
    ("spoil", "arguments", "code", "after"),
    [
        ("nothing", ["hold"], 0, "resumed"),
        ("nothing", ["rollback", "--hold"], 0, "resumed"),
        ("hash", ["verify"], 5, "rolled back from version 2 to version 1"),
        ("map", ["lookup", "items", "1000"], 5, "rolled back from version 2 to version 1"),
        ("link", ["lookup", "items", "1000"], 5, "to version"),
    ],
)
def test_every_hint_works_as_printed(
    place: Path, spoil: str, arguments: list[str], code: int, after: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command in the last line runs as printed, and solves the problem or prints the next step."""
    root = place / "the store"
    if spoil in {"hash", "map"}:
        file = root / "versions/000002/items/vectors.npy"
        file.chmod(0o644)
        os.truncate(file, 300)
    elif spoil == "link":
        (root / "current").unlink()
        (root / "current").symlink_to("versions/none")
    capfd.readouterr()
    assert run([*arguments, "--store", "the store"]) == code
    output = capfd.readouterr()
    lines = [line for line in (output.out + output.err).splitlines() if " --store " in line and "embsync " in line]
    words = printed(lines[-1])
    assert words[-2:] == ["--store", "the store"]
    assert run(words) == 0
    assert after in capfd.readouterr().out


@pytest.mark.parametrize("empty", [False, True])
def test_without_a_version_the_hint_says_how_to_create_one(
    place: Path, empty: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a store, or without versions, no command is printed, since the snapshot is not known."""
    shutil.rmtree(place / "the store")
    if empty:
        Store(place / "the store").create()
    for arguments in (["lookup", "items", "1000"], ["search", "--item", "1000"]):
        capfd.readouterr()
        assert run([*arguments, "--store", "the store"]) == 6
        output = capfd.readouterr().err
        assert ("no version yet" if empty else "no store here") in output
        assert "first snapshot" in output.partition("hint: ")[2]
        assert "embsync " not in output.partition("hint: ")[2]


def test_an_argument_that_begins_with_a_dash_is_not_an_option_in_a_hint(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Arguments that were given after ``--`` stay there."""
    write_npy(place / "-half", night(2, items=100))
    capfd.readouterr()
    assert run(["sync", "--store", "the store", "--", "-half"]) == 4
    assert run(printed(capfd.readouterr().err)) == 0


@pytest.mark.parametrize(
    "name", ["two  blanks", "a \n line", "tab\t'quoted' \\ $HOME", "bell\a\x1b[2J \u200b", "über  `id`"]
)
def test_a_printed_command_works_with_any_path(place: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The command is one line of printable characters, which a shell splits into exactly this path."""
    write_npy(place / name, night(2, items=100))
    shutil.copytree(place / "the store", place / f"{name} store", symlinks=True)
    capfd.readouterr()
    assert run(["sync", name, "--store", f"{name} store"]) == 4
    (line,) = capfd.readouterr().err.splitlines()
    assert line.isprintable()
    words = read_by_a_shell(re.findall(r"embsync accept .*", line)[0])
    assert (words[2], words[-2:]) == (name, ["--store", f"{name} store"])
    assert run(words[1:]) == 0


@pytest.mark.parametrize("word", ["", "plain", "a  b", "\r\n", "\\n", "'\n'", "caf\udce9", "\x85", "7\x017"])
def test_a_shell_undoes_the_quoting(word: str) -> None:
    """A shell reads a quoted word unchanged, even bytes that are not text and a digit after an escape."""
    assert quoted(word).isprintable()
    assert read_by_a_shell(quoted(word)) == [word]


def read_by_a_shell(line: str) -> list[str]:
    """Return the words of a command line as bash reads them."""
    shell = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    return [os.fsdecode(word) for word in shell.stdout.split(b"\0")[:-1]]


#: Arguments with which each command would have an effect.
_ARGUMENTS = {
    "accept": ["watch it/day=2", "--new-space"],
    "relabel": ["watch it/day=2"],
    "widen": ["16"],
    "search": ["--item", "1000"],
    "lookup": ["items", "1000"],
    "transform": ["items", "watch it/day=0/items.npy"],
    "fold-in": ["1000"],
    "sync": ["watch it/day=2"],
    "push": ["file:///nowhere/at/all"],
    "deliver": ["--once", "--config", "delivery.yaml"],
}

_MAKE_STORES = {"sync", "run", "demo", "pull"}
_NEED_NONE = {"version", "serve", "write"}


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - _MAKE_STORES - _NEED_NONE))
def test_only_publishing_creates_a_store(place: Path, name: str) -> None:
    """On a missing path or an empty directory, other commands report that there is no store, and create nothing."""
    before = tree(place)
    os.mkdir("empty")  # noqa: PTH102
    Path("delivery.yaml").write_text("delivery: {sinks: [{name: copy, kind: object_store, url: 'file:///nowhere'}]}")
    with_empty = tree(place)
    for path in ("wrong path", "wrong/path/deeper", "empty"):
        code = run([name, *_ARGUMENTS.get(name, []), "--store", path])
        assert code == (0 if name == "check-config" else 6), path
        assert tree(place) == with_empty
    assert set(before) < set(with_empty)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(
    "arguments",
    [
        ["rollback"],
        ["prune"],
        ["hold"],
        ["resume"],
        ["widen", "12"],
        ["run"],
        ["sync", "watch it/day=2"],
        ["accept", "watch it/day=2", "--new-space"],
    ],
)
def test_users_other_than_the_owner_are_refused(
    place: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Any other user, including root, is refused before anything is changed; reading is always allowed."""
    _give(place / "the store")
    before = tree(place / "the store")
    capfd.readouterr()
    assert run([*arguments, "--config", "embsync.yaml"]) == 2
    output = capfd.readouterr().err
    assert output.count("\n") == 1
    assert "sudo -u nobody" in output
    assert tree(place / "the store") == before
    assert run(["status", "--store", "the store"]) == 0
    assert run(["sync", "--check", "watch it/day=2", "--store", "the store"]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_root_acts_as_the_owner_on_request(place: Path) -> None:
    """The command in the message works; no file in the store or beside it belongs to root."""
    _give(place / "the store")
    place.chmod(0o755)
    output = _process(place, "sync", "watch it/day=2", "--store", "the store")
    assert output.returncode == 2
    if shutil.which("sudo") is None:
        assert printed(output.stderr) == ["sync", "--as-owner", "watch it/day=2", "--store", "the store"]
    for arguments in (["sync", "watch it/day=2"], ["rollback"], ["hold"], ["resume"], ["prune"]):
        output = _process(place, *arguments, "--store", "the store", "--as-owner")
        assert output.returncode == 0, output.stderr
        if arguments == ["hold"]:
            assert printed(output.stdout) == ["resume", "--store", "the store", "--as-owner"]
    assert {path.lstat().st_uid for path in (place / "the store").rglob("*")} == {_NOBODY}
    (place / "theirs").mkdir()
    os.chown(place / "theirs", _NOBODY, _NOBODY)
    assert _process(place, "sync", "watch it/day=2", "--store", "theirs/st").returncode == 2
    assert not (place / "theirs/st").exists()


def _give(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        os.lchown(path, _NOBODY, _NOBODY)


def _process(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-m", "embsync", *arguments],
        cwd=place,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_file_is_found_by_option_variable_or_system_in_this_order(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """``status`` and ``check-config`` show the file; with ``--store`` or an empty variable, none is read."""
    for number, name in enumerate(("system", "variable", "option"), 6):
        (place / name).write_text(f"store: {{path: the store, keep_versions: {number}}}\n")
    monkeypatch.setattr(environment, "SYSTEM_FILE", place / "system")

    def kept(*options: str) -> tuple[int, str]:
        capfd.readouterr()
        assert run(["check-config", *options]) == 0
        output = capfd.readouterr().out
        return yaml.safe_load(output)["store"]["keep_versions"], output.splitlines()[0].removeprefix("# ")

    assert kept() == (5, "configuration file: none")
    monkeypatch.delenv("EMBSYNC_CONFIG")
    assert kept() == (6, f"configuration file: {place / 'system'} (found)")
    monkeypatch.setenv("EMBSYNC_CONFIG", "variable")
    assert kept() == (7, "configuration file: variable (EMBSYNC_CONFIG)")
    assert kept("--config", "option") == (8, "configuration file: option (--config)")
    assert kept("--store", "st") == (5, "configuration file: none")
    assert kept("--store", "st", "--config", "option")[0] == 8
    capfd.readouterr()
    assert run(["status"]) == 0
    assert "config    variable (EMBSYNC_CONFIG)\n" in capfd.readouterr().out
    monkeypatch.setenv("EMBSYNC_CONFIG", "nowhere")
    assert run(["status"]) == 2
    assert "nowhere: configuration file not found" in capfd.readouterr().err


def test_a_variable_names_the_store(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """``EMBSYNC_STORE`` works like ``--store``, which has priority; it is not a configuration key."""
    monkeypatch.setenv("EMBSYNC_STORE", "the store")
    assert run(["status"]) == 0
    assert str(place / "the store") in capfd.readouterr().out
    assert run(["status", "--store", "other"]) == 6
    assert load().store.path == "embsync-store"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("EMBSYNC_WATCH__SETTLE_SECONDS", "abc", ["found 'abc'", "expected a number"]),
        ("EMBSYNC_STORE__KEEP_VERSIONS", "0", ["found 0"]),
        ("EMBSYNC_SNAPSHOT__MAX_BYTES", "a lot", ["not a size", "'a lot'"]),
        ("EMBSYNC_SERVE__LIMITS__SECONDS", "0", ["found 0"]),
        ("EMBSYNC_CHECKS__COSINE_ITEMS", "5", ["expected a section"]),
        ("EMBSYNC_STORE__PATH", "[a", ["not a valid value"]),
        ("EMBSYNC_WATCH__PAHT", "x", ["did you mean EMBSYNC_WATCH__PATH"]),
        ("EMBSYNC_WATCH_PATH", "x", ["did you mean EMBSYNC_WATCH__PATH"]),
        ("EMBSYNC_WTACH__PATH", "x", ["did you mean EMBSYNC_WATCH__PATH"]),
        ("EMBSYNC_CONFG", "x", ["did you mean EMBSYNC_CONFIG"]),
    ],
)
def test_an_error_in_a_variable_names_the_variable(
    place: Path,
    name: str,
    value: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The file, which is valid, is not named; for an unknown variable, the most similar one is suggested."""
    monkeypatch.setenv(name, value)
    capfd.readouterr()
    assert run(["status", "--config", "embsync.yaml"]) == 2
    output = capfd.readouterr().err
    assert output.startswith(f"embsync: {name}: ")
    assert "embsync.yaml" not in output
    for word in words:
        assert word in output


def test_an_error_in_the_file_names_the_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error names the file even if a variable sets another key of the section."""
    (place / "wrong.yaml").write_text("watch: {settle_seconds: abc}\n")
    monkeypatch.setenv("EMBSYNC_WATCH__PATH", "watch it")
    capfd.readouterr()
    assert run(["status", "--config", "wrong.yaml"]) == 2
    assert capfd.readouterr().err.startswith("embsync: wrong.yaml: watch.settle_seconds: ")


def test_check_config_prints_an_equivalent_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It includes the limits in force and the sources of values that are not defaults, and works in any directory."""
    monkeypatch.setenv("EMBSYNC_CHECKS__COSINE_ITEMS__WARN", "0.9")
    monkeypatch.setenv("EMBSYNC_SERVE__LISTEN", "unix:some/socket")
    capfd.readouterr()
    assert run(["check-config", "--config", "embsync.yaml", "--store", "the store"]) == 0
    first = capfd.readouterr().out
    assert re.search(r"^    warn: 0\.9 +# EMBSYNC_CHECKS__COSINE_ITEMS__WARN$", first, re.M)
    assert re.search(r"^  settle_seconds: 0 ?.*# file$", first.replace("0.0", "0"), re.M)
    assert yaml.safe_load(first)["checks"]["cosine_users"]["refuse"] == 0.5
    monkeypatch.delenv("EMBSYNC_CHECKS__COSINE_ITEMS__WARN")
    monkeypatch.delenv("EMBSYNC_SERVE__LISTEN")
    (place / "elsewhere").mkdir()
    (place / "elsewhere/written.yaml").write_text(first)
    assert run(["check-config", "--config", "elsewhere/written.yaml"]) == 0
    assert yaml.safe_load(capfd.readouterr().out) == yaml.safe_load(first)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("sttaus", "status"),
        ("sycn", "sync"),
        ("check_config", "check-config"),
        ("roll-back", "rollback"),
        ("serv", "serve"),
    ],
)
def test_a_mistyped_command_gets_a_suggestion(given: str, nearest: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The exit code is 2, and the error is one line."""
    assert run([given]) == 2
    output = capfd.readouterr().err
    assert f"found '{given}'" in output
    assert output.endswith(f"; hint: embsync {nearest}\n")
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["sync", "--sotre", "x"], "--store"),
        (["rollback", "--hodl"], "--hold"),
        (["prune", "--keeep", "3"], "--keep"),
        (["accept", "x", "--newspace"], "--new-space"),
        (["search", "--usr", "3"], "--user"),
    ],
)
def test_a_mistyped_option_gets_a_suggestion(
    arguments: list[str], nearest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2, and the error is one line."""
    assert run(arguments) == 2
    output = capfd.readouterr().err
    words = [nearest if word.startswith("--") else word for word in arguments]
    assert output.endswith(f": embsync {' '.join(words)}\n")
    assert output.count("\n") == 1


@pytest.mark.parametrize("option", ["--check", "--dry-run", "-n"])
def test_a_dry_run_checks_and_writes_nothing(place: Path, option: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Outcome and exit code are those of the run itself, and no file, lock, directory or time changes."""
    before = tree(place)
    for snapshot, code, words in (
        ("watch it/day=2", 0, "would be published as version 3, aligned to version 2"),
        ("a bad one", 4, "would be refused"),
        ("nowhere", 6, "rejected"),
    ):
        capfd.readouterr()
        assert run(["sync", option, snapshot, "--store", "the store"]) == code
        output = capfd.readouterr()
        assert words in output.out
        assert ("cosine_items" in output.out) == (code != 6)
        assert run(["sync", option, snapshot, "--store", "no store/here", "--json"]) == (code if code == 6 else 0)
    assert tree(place) == before
    assert run(["sync", "watch it/day=2", "--store", "the store"]) == 0
    assert Store(place / "the store").current() == 3


@pytest.mark.parametrize("where", ["the store", "TMPDIR"])
def test_a_dry_run_requires_as_much_space_as_a_run(
    place: Path, where: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The space in the store and in TMPDIR, where a dry run writes, is checked; nothing is left in either."""
    (place / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place / "tmp"))
    real, full = os.statvfs(place), f"{place}/{'tmp' if where == 'TMPDIR' else where}"
    none = os.statvfs_result((real.f_bsize, real.f_frsize, real.f_blocks, 1, 1, *tuple(real)[5:]))
    monkeypatch.setattr("os.statvfs", lambda path: none if str(path).startswith(full) else real)
    before = tree(place)
    capfd.readouterr()
    assert run(["sync", "--check", "watch it/day=2", "--store", "the store"]) == 5
    output = capfd.readouterr().err
    assert f"too little space for a {'dry run' if where == 'TMPDIR' else 'version'}; found 4,096 bytes free" in output
    assert ("set TMPDIR" in output) == (where == "TMPDIR")
    assert tree(place / "the store") == {name: one for name, one in before.items() if "/the store" in name}
    assert list((place / "tmp").iterdir()) == []


def test_a_dry_run_of_the_backlog_explains_each_decision(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It only scans: no decision is saved, and nothing is written."""
    (place / "watch it/logs").mkdir()
    before = tree(place)
    capfd.readouterr()
    assert run(["sync", "-n", "--config", "embsync.yaml"]) == 0
    output = capfd.readouterr().out
    assert re.search(r"day=3 +would be handled", output)
    assert re.search(r"day=2 +skipped +day=3 is newer", output)
    assert "logs" in output
    assert tree(place) == before
    assert run(printed(output)) == 0
    assert tree(place) == before
