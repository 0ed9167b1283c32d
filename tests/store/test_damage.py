"""Damage to the store's own files is reported, never trusted, and never fatal."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.damage import build, config_of, copy, drop, files_of, flip, next_night, waiting
from support.quick import quick_directory

import embsync
from embsync.cli.main import run
from embsync.daemon import status
from embsync.daemon.attempts import ATTEMPT, Attempts
from embsync.errors import EmbsyncError, StoreDamaged, StoreError
from embsync.pipeline.on_publish import HOOK_RECORD, pending_version
from embsync.store import Store, layout
from embsync.store.hold import HOLD, held
from embsync.store.journal import Event, Journal

COMMANDS = (
    ["status"],
    ["history"],
    ["show"],
    ["verify"],
    ["lookup", "items", "2000"],
    ["hold"],
    ["resume"],
    ["prune", "--keep", "9"],
    ["rollback"],
)
NONSENSE = {
    "empty": b"",
    "NUL": b"\0" * 64,
    "half": b'{"format": 1, "ver',
    "no UTF-8": b'{"time": "\xff\xfe"}',
    "list": b"[]",
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 50_000,
    "number": b'{"version": 1e999, "pid": -1}',
    "types": b'{"event": 3, "version": "x", "time": [], "name": null}',
    "large": b" " * (1 << 21) + b"{",
}


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A watched directory with a store: three versions, and a night that was refused."""
    with quick_directory() as place:
        build(place)
        yield place


@pytest.fixture
def root(directory: Path) -> Path:
    """A copy of the store."""
    return copy(directory / "S", directory / "copy")


def replace(path: Path, data: bytes) -> None:
    """Replace the contents of a file."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def said(capfd: pytest.CaptureFixture[str], *command: str) -> tuple[int, str]:
    """Return the exit code of a command and all of its output."""
    code = run(command)
    printed = capfd.readouterr()
    return code, printed.out + printed.err


RECORDS = (
    layout.JOURNAL,
    layout.STATUS,
    layout.ORDER,
    HOLD,
    ATTEMPT,
    HOOK_RECORD,
    layout.LOCK,
    layout.DAEMON_LOCK,
    "versions/000003/manifest.json",
    "versions/000003/manifest.sha256",
    "versions/000003/lineage.npy",
    "versions/000003/lineage_times.npy",
    "versions/000003/items/ids.npy",
    "versions/000003/transform/items.npy",
    "versions/000003/index_rows.npy",
)


@pytest.mark.parametrize("name", RECORDS)
def test_no_damaged_file_causes_an_unexpected_error(
    root: Path, directory: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """With any content of any one file, commands exit with a documented code and one line, without a traceback."""
    for turn, (what, data) in enumerate(NONSENSE.items()):
        copy(directory / "S", root)
        replace(root / name, data)
        for command in (*COMMANDS, *COMMANDS)[turn::4][:3]:  # each file is read by each command, in turn
            code, printed = said(capfd, *command, "--store", str(root))
            assert code in (0, 5, 6), (what, command, printed)
            assert "unexpected" not in printed


@pytest.mark.parametrize("kind", ["directory", "FIFO", "link to nothing", "link in a circle"])
@pytest.mark.parametrize(
    "name",
    [
        layout.JOURNAL,
        layout.STATUS,
        layout.ORDER,
        HOLD,
        ATTEMPT,
        HOOK_RECORD,
        "versions/000003/manifest.json",
        "versions/000003/lineage.npy",
        "versions/000003",
    ],
)
def test_anything_else_in_place_of_a_file_is_reported(
    root: Path, capfd: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    """No command blocks or fails unexpectedly."""
    path = root / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name if kind == "link in a circle" else "nowhere")
    for command in COMMANDS:
        code, printed = said(capfd, *command, "--store", str(root))
        assert code in (0, 5, 6), (command, printed)


@pytest.mark.parametrize(
    "target",
    [
        "versions/000009",
        "versions/0",
        "elsewhere",
        "versions/000003/items",
        "current",
        "versions/" + "9" * 200,
        "versions/../versions",
        "/etc",
        "versions/00000\n3",
        ".",
    ],
)
def test_a_damaged_link_is_reported_and_repaired_by_rollback(
    root: Path, capfd: pytest.CaptureFixture[str], target: str
) -> None:
    """Every command reports it; ``rollback`` returns to the last current version that is intact."""
    (root / "current").unlink()
    (root / "current").symlink_to(target)
    for command in COMMANDS[:5]:
        code, printed = said(capfd, *command, "--store", str(root))
        assert code in ((0, 5, 6) if command == ["history"] else (5, 6)), (command, printed)
    code, printed = said(capfd, "rollback", "--store", str(root))
    assert code == 0, printed
    assert run(["verify", "--store", str(root)]) == 0


@pytest.mark.parametrize("left", [None, 100])
def test_status_reports_a_file_that_is_missing_or_has_another_size(
    root: Path, capfd: pytest.CaptureFixture[str], left: int | None
) -> None:
    """Status checks existence and sizes of the current version's files, but not hashes or other versions."""
    name = "users/vectors.npy"
    (root / "versions/000001" / name).unlink()
    assert said(capfd, "status", "--store", str(root))[0] == 0
    file = root / "versions/000003" / name
    data = file.read_bytes()
    file.unlink()
    if left is not None:
        file.write_bytes(data[:left])
    code, printed = said(capfd, "status", "--store", str(root))
    assert code == 5
    assert "Part of the store is damaged" in printed
    assert f"{file}: damaged version; found {'No such file' if left is None else '100 bytes'}" in printed
    code, printed = said(capfd, "status", "--json", "--store", str(root))
    assert (code, json.loads(printed)["intact"], len(json.loads(printed)["damage"])) == (5, False, 1)
    assert run(["rollback", "2", "--store", str(root)]) == 0
    assert said(capfd, "status", "--store", str(root))[0] == 0


def test_rollback_finds_the_last_intact_version(root: Path) -> None:
    """It is found even if the current manifest is damaged, and damaged older versions are skipped."""
    flip(root / "versions/000003/manifest.json", 200)
    assert Store(root).rollback(None) == (3, 2)
    flip(root / "versions/000002/manifest.json", 0)
    flip(root / "versions/000001/items/vectors.npy", 300)
    with pytest.raises(StoreDamaged, match=r"no older version is intact; found 1: items/vectors\.npy"):
        Store(root).rollback(None)


def test_rollback_skips_a_damaged_parent(root: Path) -> None:
    """Rollback without a number skips it; with its number, rollback is refused."""
    flip(root / "versions/000002/users/vectors.npy", 300)
    with pytest.raises(StoreDamaged, match="version 2 is damaged"):
        Store(root).rollback(2)
    assert Store(root).rollback(None) == (3, 1)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_changed_byte_of_a_manifest_is_detected(root: Path, number: int) -> None:
    """The manifest's hash is in a file that sha256sum can check, and whose changes are detected too."""
    folder = root / "versions" / f"{number:06d}"
    for name in ("manifest.json", "manifest.sha256"):
        whole = (folder / name).read_bytes()
        for offset in range(0, len(whole), 1 + len(whole) // 97):
            flip(folder / name, offset, offset % 8)
            with pytest.raises(StoreDamaged, match=str(folder / "manifest")):
                Store(root).manifest(number)
            replace(folder / name, whole)
        Store(root).manifest(number)
    assert os.system(f"cd {folder} && sha256sum --quiet --strict -c manifest.sha256") == 0


MANIFEST_LIES = [
    ("created", "2026-13-45T99:99:99Z"),
    ("created", ""),
    ("created", "2026-11-25"),
    ("version", 4),
    ("version", -1),
    ("version", 10**30),
    ("dimension", 0),
    ("dimension", "4"),
    ("parent", 0),
    ("files", []),
    ("items", None),
    ("users", None),
    ("format", "1"),
    ("format", None),
    ("snapshot", {"name": 3}),
    ("index", {}),
    ("checks", {}),
    ("seconds", {"total": "x"}),
    ("space_id", None),
]


@pytest.mark.parametrize(("field", "value"), MANIFEST_LIES)
def test_a_manifest_without_a_hash_is_validated_by_its_values(root: Path, field: str, value: object) -> None:
    """Such versions are read; a value that no publisher writes is damage, and the error names the file."""
    folder = root / "versions/000003"
    (folder / "manifest.sha256").unlink()
    assert Store(root).manifest(3).version == 3
    said = json.loads((folder / "manifest.json").read_bytes())
    replace(folder / "manifest.json", json.dumps({**said, field: value}).encode())
    with pytest.raises(StoreError, match=r"manifest\.json: (damaged manifest|store of another format)"):
        Store(root).manifest(3)
    with pytest.raises(StoreError, match=r"manifest\.json"):
        embsync.open(root)


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../../../etc/passwd"},
        {"path": "/etc/passwd"},
        {"bytes": -1},
        {"sha256": "x"},
        {"path": "items/ids.npy\n"},
    ],
)
def test_a_manifest_lists_the_files_of_a_version_and_no_others(root: Path, change: dict[str, object]) -> None:
    """Paths outside the version, negative sizes and malformed hashes are damage."""
    folder = root / "versions/000003"
    (folder / "manifest.sha256").unlink()
    said = json.loads((folder / "manifest.json").read_bytes())
    said["files"].append({"path": "more.npy", "bytes": 1, "sha256": "0" * 64} | change)
    replace(folder / "manifest.json", json.dumps(said).encode())
    with pytest.raises(StoreDamaged, match="damaged manifest"):
        Store(root).manifest(3)


def test_a_store_of_a_later_format_is_not_read(root: Path) -> None:
    """The exit code is 5, and the error names the format found and those that can be read."""
    folder = root / "versions/000003"
    (folder / "manifest.sha256").unlink()
    said = json.loads((folder / "manifest.json").read_bytes())
    for later in (3, 0, 99):
        replace(folder / "manifest.json", json.dumps({**said, "format": later}).encode())
        with pytest.raises(StoreError, match=f"store of another format; found format {later}; expected format 1 or 2"):
            embsync.open(root)
        assert run(["verify", "--store", str(root)]) == 5


def part(first: object, last: object, rows: int, name: str = "0") -> dict[str, object]:
    """Return the description of a part file in a manifest."""
    return {"file": f"users/part-{name}.parquet", "rows": rows, "first": first, "last": last}


PARTS_LIES = {
    "none": (None, "without part files"),
    "an empty list": ([], "length >= 1"),
    "more rows than the side": ([part(0, 99, 41)], "more or fewer rows"),
    "overlapping": ([part(0, 20, 20), part(20, 99, 20, "1")], "begins before the end"),
    "not in order": ([part(50, 99, 20), part(0, 20, 20, "1")], "begins before the end"),
    "upside down": ([part(99, 0, 40)], "from 99 to 0"),
    "one id many times": ([part(7, 7, 40)], "from 7 to 7"),
    "one row, two ids": ([part(7, 8, 1), part(9, 99, 39, "1")], "from 7 to 8"),
    "two types": ([part(0, "b", 20), part("c", "d", 20, "1")], "two types"),
    "text in the order of code points alone": ([part("a", "\ufeff", 20), part("\U0001f600", "b", 20, "1")], "to 'b'"),
    "beyond 64 bits": ([part(0, 2**63, 40)], "9223372036854775807"),
    "no rows": ([part(0, 1, 0), part(2, 9, 40, "1")], ">= 1"),
    "one file twice": ([part(0, 20, 20), part(21, 99, 20)], "twice"),
    "a file that is not listed": ([part(0, 99, 40, "9")], "missing or listed twice"),
    "a flag": ([part(False, 99, 40)], "bool"),
}


@pytest.mark.parametrize("how", PARTS_LIES)
def test_part_files_are_described_in_order_or_not_at_all(root: Path, how: str) -> None:
    """The bounds of part files must ascend and their rows add up to those of the side, since lookups rely on them."""
    parts, found = PARTS_LIES[how]
    folder = root / "versions/000003"
    (folder / "manifest.sha256").unlink()
    said = json.loads((folder / "manifest.json").read_bytes())
    said["files"] += [{"path": f"users/part-{name}.parquet", "bytes": 1, "sha256": "0" * 64} for name in "01"]
    said["users"]["rows"] = 40
    said |= {"format": 2, "parts": {"users": [part(0, 20, 20), part(21, 99, 20, "1")]}}
    replace(folder / "manifest.json", json.dumps(said).encode())
    assert Store(root).manifest(3).format == 2
    said |= {"parts": {"users": parts}}
    if parts is None:
        del said["parts"]
    replace(folder / "manifest.json", json.dumps(said).encode())
    with pytest.raises(StoreDamaged, match=f"damaged manifest; found .*{found}"):
        Store(root).manifest(3)


def test_format_1_has_no_part_files(root: Path) -> None:
    """A release that knows only format 1 would read such a version as one without users."""
    folder = root / "versions/000003"
    (folder / "manifest.sha256").unlink()
    said = json.loads((folder / "manifest.json").read_bytes())
    said["parts"] = {"users": [part(0, 99, said["users"]["rows"])]}
    said["files"].append({"path": "users/part-0.parquet", "bytes": 1, "sha256": "0" * 64})
    replace(folder / "manifest.json", json.dumps(said).encode())
    with pytest.raises(StoreDamaged, match="part files in format 1"):
        Store(root).manifest(3)


HEADERS = {
    "another type": ("<f4", "<i4"),
    "another order": ("False", "True "),
    "another shape": ("(60, 4)", "(4, 60)"),
    "no shape": ("(60, 4)", "(240,)"),
    "too large": ("(60, 4)", "(99,9999)"),
    "a program": ("'<f4'", "f(4) "),
}


@pytest.mark.parametrize("how", HEADERS)
def test_array_headers_are_validated(root: Path, how: str) -> None:
    """Type, order and shape must be those of the format and the manifest."""
    path = root / "versions/000003/items/vectors.npy"
    old, new = (text.encode() for text in HEADERS[how])
    data = path.read_bytes()
    rows = Store(root).manifest(3).items.rows
    old, new = old.replace(b"60", b"%d" % rows), new.replace(b"60", b"%d" % rows)
    assert old in data[:128]
    header = data[:128].replace(old, new)[:127].ljust(127) + b"\n"
    replace(path, header + data[128:])
    with embsync.open(root) as reader, pytest.raises(StoreDamaged, match=r"items/vectors\.npy: damaged"):
        reader.current.search(reader.current.items.vectors[:1])


def test_a_damaged_line_is_reported_by_every_command(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Status, history and verify report it with its line number."""
    lines = (root / layout.JOURNAL).read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"published", b"pub\0ished")
    replace(root / layout.JOURNAL, b"".join(lines))
    for command in ("status", "history", "verify"):
        code, printed = said(capfd, command, "--store", str(root))
        assert (code, "journal.jsonl:2: damaged line" in printed) == (0, True), command
    assert run(["status", "--json", "--store", str(root)]) == 0
    assert "journal.jsonl:2" in json.loads(capfd.readouterr().out)["damage"][0]


def test_a_damaged_order_is_reported_by_every_command(
    root: Path, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Status, history, verify and sync report it; no handled snapshot becomes new."""
    path = root / layout.ORDER
    settings = directory / "order.yaml"
    settings.write_text(f"watch: {{path: {directory / 'watch'}, complete: marker}}\nstore: {{path: {root}}}\n")
    others = {"another order": b'{"order": "none"}', "series": b'{"order": "auto", "series": 1}'}
    for what, data in {**NONSENSE, **others}.items():
        replace(path, data)
        for command in (
            ["status"],
            ["history"],
            ["verify"],
            ["sync", "--check", "--config", str(settings)],
            ["sync", "--config", str(settings)],
        ):
            store = [] if command[0] == "sync" else ["--store", str(root)]
            assert f"{path}: damaged file" in said(capfd, *command, *store)[1], (what, command)
        assert [error.where for error in Store(root).damage()] == [str(path)]
    assert Store(root).numbers() == [1, 2, 3]
    path.unlink()
    assert Store(root).damage() == []


LINES = {
    "half": lambda line: line[: len(line) // 2],
    "gone": lambda _: b"",
    "NUL": lambda line: b"\0" * len(line),
    "number": lambda line: line.replace(b'"version":', b'"version":1e400,"x":'),
    "deep": lambda _: b"[" * 100_000,
    "type": lambda line: line.replace(b'"event":"', b'"event":["'),
    "huge": lambda line: line * 20_000,
    "first byte": lambda line: b"\x7b\x7b" + line[1:],
    "name": lambda line: line.replace(b"day=", b"dax="),
    "version": lambda line: line.replace(b'"version":', b'"version":7'),
    "time": lambda line: line.replace(b'"mtime_ns":"', b'"mtime_ns":"x'),
    "checksum and snapshot": lambda line: line.replace(b'"crc32"', b'"crc33"').replace(b'"snapshot"', b'"snapshox"'),
    "checksum and stamp": lambda line: line.replace(b'"crc32"', b'"crc33"').replace(b'"stamp"', b'"stamq"'),
    "checksum and name": lambda line: line.replace(b'"crc32":', b'"crc32";').replace(b"day=", b"dax="),
}


@pytest.mark.parametrize("how", LINES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_damaged_line_makes_no_published_snapshot_new(root: Path, directory: Path, how: str, number: int) -> None:
    """The rest of the line, or the version's manifest, shows that the snapshot was handled."""
    lines = (root / layout.JOURNAL).read_bytes().splitlines()
    lines[number] = LINES[how](lines[number])
    replace(root / layout.JOURNAL, b"\n".join(lines) + b"\n")
    assert set(next_night(root, directory)) <= {"UnchangedError"}
    assert Store(root).numbers() == [1, 2, 3]
    assert Store(root).next_number() == 4
    assert waiting(root, directory) == []


def test_a_missing_journal_makes_no_published_snapshot_new(root: Path, directory: Path) -> None:
    """The manifests of the versions name the snapshots that they were made from."""
    (root / layout.JOURNAL).unlink()
    assert "published" not in next_night(root, directory) or Store(root).current() == 4
    names = [entry.snapshot for entry in Store(root).events() if entry.recovered]
    assert [name["name"] for name in names if name] == ["day=1", "day=2", "day=3"]


def test_no_flipped_bit_of_the_journal_makes_a_handled_snapshot_new(root: Path, directory: Path) -> None:
    """Published and refused snapshots are at most compared once more and found unchanged."""
    whole = (root / layout.JOURNAL).read_bytes()
    for offset in range(0, len(whole), 1 + len(whole) // 50):
        flip(root / layout.JOURNAL, offset, offset % 8)
        assert [entry for entry in waiting(root, directory) if entry.fingerprint is None] == []
        replace(root / layout.JOURNAL, whole)


def test_lines_of_earlier_releases_are_read(tmp_path: Path) -> None:
    """Lines without a checksum are read."""
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event":"published","time":"2026-11-25T02:00:00Z","version":7}\n')
    journal = Journal(path)
    journal.append(Event(event="pruned", version=7))
    assert [event.event for event in journal.events()] == ["published", "pruned"]
    assert journal.damaged() == []


def test_every_flipped_bit_of_a_line_is_detected(tmp_path: Path) -> None:
    """The only exception is the name of the checksum, without which a line is not checked."""
    path = tmp_path / "journal.jsonl"
    Journal(path).append(Event(event="refused", snapshot={"name": "day=1", "stamp": "ab12"}, reason="cosine"))
    (event,) = Journal(path).events()
    whole = path.read_bytes()
    for offset in range(len(whole) - 1):
        flip(path, offset, offset % 8)
        assert list(Journal(path).events()) in ([], [event]), whole[offset:]
        assert list(Journal(path).events()) == [event] or Journal(path).damaged()
        path.write_bytes(whole)


def test_an_unreadable_hold_is_in_force(root: Path) -> None:
    """It is in force without a reason, or with one that says that it is damaged."""
    for data in NONSENSE.values():
        replace(root / HOLD, data)
        found = held(root)
        assert found is not None
        if data != b"":
            assert found.reason is None or "damaged" in found.reason
    (root / HOLD).unlink()
    assert held(root) is None


def test_damage_to_the_records_of_the_daemon_is_reported(root: Path) -> None:
    """Each is reported as damage with the file's name, or read in the safe way."""
    for data in NONSENSE.values():
        replace(root / layout.STATUS, data)
        with pytest.raises(StoreDamaged, match=r"status\.json: damaged"):
            status.read(Store(root))
        replace(root / ATTEMPT, data)
        with pytest.raises(StoreDamaged, match=r"attempt\.json: damaged"):
            Attempts(root).load()
        replace(root / HOOK_RECORD, data)
        assert pending_version(Store(root)) == 3


def test_readers_report_any_damage_as_an_error(root: Path, directory: Path) -> None:
    """If a file is cut short, empty or missing, opening or searching raises an error that names its directory."""
    for path in sorted(files_of(root / "versions/000003")):
        name = path.relative_to(root)
        for data in (b"", path.read_bytes()[:-1], None):
            copy(directory / "S", root)
            path.unlink()
            if data is not None:
                path.write_bytes(data)
            if path.name == "manifest.sha256" and data != b"":
                continue  # a version without a hash, as from earlier releases, or a hash without a line break
            with pytest.raises(EmbsyncError, match=str(name.parent)), embsync.open(root) as reader:
                reader.current.search(reader.current.items.vectors[:2])


@pytest.mark.parametrize(
    ("name", "place", "message"),
    [
        ("lineage.npy", -1, "lineage.npy: damaged file; found .4.; expected version 3 last"),
        ("index_rows.npy", 0, "index_rows.npy: damaged file; found rows .* to {rows}; expected -1 to {last}"),
    ],
)
def test_readers_report_impossible_numbers_as_damage(root: Path, name: str, place: int, message: str) -> None:
    """Readers do not hash the files that they open, but check their values."""
    path = root / "versions/000003" / name
    rows = Store(root).manifest(3).items.rows
    array = np.load(path)
    array[place] = 4 if name == "lineage.npy" else rows
    path.unlink()
    np.save(path, array)
    with pytest.raises(StoreDamaged, match=message.format(rows=rows, last=rows - 1)), embsync.open(root) as reader:
        reader.current.search(reader.current.items.vectors[:2])


def test_the_configured_directory_is_watched(directory: Path) -> None:
    """The copy of a store treats the snapshots of the original as handled, on which the other tests here rely."""
    root = copy(directory / "S", directory / "copy")
    assert waiting(root, directory) == []
    assert config_of(directory).watch.path == str(directory / "watch")
    drop(directory, 5)
    try:
        assert [entry.child.name for entry in waiting(root, directory)] == ["day=5"]
    finally:
        shutil.rmtree(directory / "watch" / "day=5")
