"""The reader's functions from the shell: search, lookup, transform and fold-in, with JSON and .npy."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nights import night
from support.stores import published_nights, sync

import embsync
from embsync.cli.main import run
from embsync.reader import Version

SIZES = {"items": 100, "users": 80, "width": 6}


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with published_nights(3, **SIZES) as store:
        yield store


@pytest.fixture(scope="module")
def version(root: Path) -> Iterator[Version]:
    with embsync.open(root) as reader:
        yield reader.current


@pytest.fixture
def output(root: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def parsed(*arguments: object) -> Any:
        assert run([*map(str, arguments), "--store", str(root), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return parsed


def test_search_by_several_ids_with_filters(output: Any, version: Version, tmp_path: Path) -> None:
    """A search omits the given items and blocked ones, returns only allowed ones, writes .npy, and maps raw vectors."""
    items = version.items.ids[version.items.live][:2].tolist()
    query = ["search", "--item", items[0], "--item", items[1], "-k", 3, "--block", items[1]]
    expected, scores = version.search_by_item(items, 3, blocked=[items[1]])
    assert [[hit["id"] for hit in hits] for hits in output(*query)["results"]] == expected.tolist()
    assert output(*query, "-o", tmp_path / "i.npy")["rows"] == 2
    np.testing.assert_array_equal(np.load(tmp_path / "i.npy")["id"], expected)
    np.testing.assert_array_equal(np.load(tmp_path / "i.npy")["score"], scores)
    only = output("search", "--item", items[0], "--allow", items[1])
    assert [hit["id"] for hit in only["results"][0]] == [items[1]]
    raw = night(2, **SIZES).both[1]
    np.save(tmp_path / "raw.npy", raw)
    answer = output("search", "-v", tmp_path / "raw.npy", "--space", "snapshot", "-k", 2)
    assert [[hit["id"] for hit in hits] for hits in answer["results"]] == version.search(raw, 2, space="snapshot")[
        0
    ].tolist()


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (["lookup", "items", "--ids", "none.npy"], "no rows\n"),
        (["transform", "items", "empty.npy"], "no rows\n"),
        (["search", "--vector", "empty.npy"], "version 3: no queries\n"),
        (["rollback", "3"], "current already points to version 3\n"),
    ],
)
def test_an_empty_answer_is_a_sentence(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    answer: str,
) -> None:
    """The output is neither empty nor a table with only a header."""
    np.save(tmp_path / "none.npy", np.empty(0, np.int64))
    np.save(tmp_path / "empty.npy", np.empty((0, SIZES["width"]), np.float32))
    monkeypatch.chdir(tmp_path)
    assert run([*command, "--store", str(root)]) == 0
    assert capsys.readouterr().out == answer


def test_a_history_without_events_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The history of a store without versions is a sentence."""
    (tmp_path / "versions").mkdir()
    assert run(["history", "--store", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no events: nothing has been published or refused\n"


def test_lookup_shows_the_origin_of_a_vector(output: Any, version: Version, tmp_path: Path) -> None:
    """Age and version are printed; an id above ``--max-age`` counts as unknown; vectors are written to .npy."""
    gone = version.items.ids[version.items.age(version.items.ids) == 2][:1].tolist()
    row, unknown = output("lookup", "items", *gone, 5, "-m", "nan")["results"]
    assert (row["id"], row["age"], row["from_version"]) == (gone[0], 2, 1)
    assert (unknown["id"], unknown["age"], unknown["vector"]) == (5, None, [None] * 6)
    first, last = (f"{version.lineage_times[place]}Z" for place in (0, 2))
    assert (row["last_seen_at"], unknown["last_seen_at"], unknown["age_seconds"]) == (first, None, None)
    assert row["age_seconds"] == version.items.age(gone, unit="seconds")[0]
    assert first <= last == version.record.created
    assert output("lookup", "items", *gone, "-o", tmp_path / "v.npy")["rows"] == 1
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), version.items.lookup(gone))
    store = ("--store", str(version.path.parents[1]))
    assert run(["lookup", "items", str(gone[0]), "--max-age", "1", *store]) == 6
    assert run(["search", "-i", str(gone[0]), "--max-age", "1", *store]) == 6
    assert output("search", "-i", *gone, "--max-age", "1", "-m", "nan")["results"] == [[]]
    assert run(["search", "-v", str(tmp_path / "v.npy"), "--max-age", "1", *store]) == 2


@pytest.mark.parametrize(
    ("limit", "code"), [("0", 6), ("2", 0), ("52w", 0), ("7 dayz", 2), ("7 parsecs", 2), ("-1", 2), ("nan", 2)]
)
def test_an_age_is_a_number_of_versions_or_a_time(
    version: Version, capsys: pytest.CaptureFixture[str], limit: str, code: int
) -> None:
    """Other values give one line with the value found, what is allowed, and the probable intention."""
    gone = version.items.ids[version.items.age(version.items.ids) == 2][0]
    assert run(["lookup", "items", str(gone), "--max-age", limit, "--store", str(version.path.parents[1])]) == code
    printed = capsys.readouterr()
    if code == 0:
        assert f"{version.lineage_times[0]}Z" in printed.out
    elif code == 2:
        assert printed.err.startswith("embsync: --max-age: not a length of time; found ")
        assert "expected a number of versions, at least 0, or a duration: a number and a unit" in printed.err
        assert ("did you mean 7d?" in printed.err) == (limit == "7 dayz")
        assert ("did you mean" in printed.err) == (limit == "7 dayz")
        assert printed.err.count("\n") == 1


def test_an_unknown_id_is_printed_like_a_known_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is a string if the store's ids are strings, whatever the type in the file."""
    sync(tmp_path / "S", night(0, **SIZES).named(), "n0")
    np.save(tmp_path / "ids.npy", np.array([b"nobody"]))
    asked = ["lookup", "items", "--ids", str(tmp_path / "ids.npy"), "-m", "nan", "--store", str(tmp_path / "S")]
    assert run([*asked, "--json"]) == 0
    assert [one["id"] for one in json.loads(capsys.readouterr().out)["results"]] == ["nobody"]


def test_transform_maps_both_ways(output: Any, tmp_path: Path) -> None:
    """Raw vectors from .npy are mapped to .npy, and back to the same values."""
    raw = night(2, **SIZES).both[1]
    np.save(tmp_path / "raw.npy", raw)
    assert output("transform", "users", tmp_path / "raw.npy", "-o", tmp_path / "stable.npy")["rows"] == len(raw)
    back = output("transform", "users", tmp_path / "stable.npy", "--inverse")["vectors"]
    np.testing.assert_allclose(back, raw, atol=1e-5)


def test_fold_in_equals_the_reader(output: Any, version: Version, capsys: pytest.CaptureFixture[str]) -> None:
    """Both methods with weights give the reader's results; unknown ids are exit code 6."""
    ids = version.items.ids[:3].tolist()
    assert version.users is not None
    answer = output("fold-in", *ids, "-w", 1, "-w", 2, "-w", 3)
    np.testing.assert_allclose(answer["vectors"][0], version.users.fold_in(ids, [1, 2, 3]), rtol=1e-6)
    answer = output("fold-in", *ids, "--method", "mean")
    np.testing.assert_allclose(answer["vectors"][0], version.users.fold_in(ids, method="mean"), rtol=1e-6)
    assert run(["fold-in", "9999999", "--store", str(version.path.parents[1])]) == 6
    assert "unknown items ids" in capsys.readouterr().err


def test_ids_can_be_read_from_files(output: Any, version: Version, tmp_path: Path) -> None:
    """A file has a list of integers or strings; for fold-in, a matrix has one user per row."""
    ids = version.items.ids[:6]
    np.save(tmp_path / "ids.npy", ids)
    np.save(tmp_path / "texts.npy", ids.astype(str))
    for name in ("ids", "texts"):
        rows = output("lookup", "items", "--ids", tmp_path / f"{name}.npy")["results"]
        assert [row["id"] for row in rows] == ids.tolist()
        np.testing.assert_allclose([row["vector"] for row in rows], version.items.vectors[:6], rtol=1e-6)
    np.save(tmp_path / "lists.npy", ids.reshape(2, 3))
    assert output("fold-in", "--ids", tmp_path / "lists.npy", "-o", tmp_path / "u.npy")["rows"] == 2
    np.testing.assert_array_equal(np.load(tmp_path / "u.npy"), version.side("users").fold_in(ids.reshape(2, 3)))


@pytest.mark.parametrize("form", ["f64", "fortran", "big_endian", "half"])
def test_vectors_of_any_float_type_are_accepted(output: Any, version: Version, tmp_path: Path, form: str) -> None:
    """Column-major and big-endian arrays are accepted too."""
    raw = night(2, **SIZES).both[1].astype(np.float16)
    saved = {"f64": raw.astype(float), "fortran": np.asfortranarray(raw), "big_endian": raw.astype(">f4"), "half": raw}
    np.save(tmp_path / "raw.npy", saved[form])
    output("transform", "users", tmp_path / "raw.npy", "-o", tmp_path / "stable.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "stable.npy"), version.transform.users(raw))


def spoilt(tmp_path: Path) -> dict[str, Path]:
    """Write files that do not contain vectors of the store's width."""
    rows = np.ones((3, SIZES["width"]), np.float32)
    arrays = {
        "wide": np.ones((2, 5)),
        "nan": np.where(np.arange(6) == 4, np.nan, rows),
        "text": np.array(["a"]),
        "cube": rows[None],
        "scalar": np.float32(1),
        "truth": rows > 0,
        "large": np.full((1, 6), 1e39),
    }
    for name, array in arrays.items():
        np.save(tmp_path / name, array)
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", rows)
    whole = (tmp_path / "cube.npy").read_bytes()
    for name, data in {
        "empty": b"",
        "junk": b"not numpy",
        "cut": whole[:-3],
        "tail": whole + b"x",
        "forged": whole.replace(b"(1, 3, 6), ", b"(4000000000"),
    }.items():
        (tmp_path / f"{name}.npy").write_bytes(data)
    (tmp_path / "directory.npy").mkdir()
    os.mkfifo(tmp_path / "pipe.npy")
    return {path.stem: path for path in tmp_path.iterdir()}


def test_a_file_without_vectors_is_refused_by_name(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command exits with code 2 and one line; a missing file is exit code 6."""
    for name, path in spoilt(tmp_path).items():
        for command in (
            ["search", "-v", str(path)],
            ["transform", "users", str(path)],
            ["lookup", "items", "-f", str(path)],
        ):
            assert run([*command, "--store", str(root)]) == 2, (name, command)
            output = capsys.readouterr()
            assert (output.out, len(output.err.splitlines())) == ("", 1)
            assert "found" in output.err
            assert "unexpected" not in output.err
    assert run(["transform", "users", str(tmp_path / "none.npy"), "--store", str(root)]) == 6


@pytest.mark.parametrize(
    "arguments",
    [
        ["lookup", "items"],
        ["lookup", "items", "1000", "-f", "ids.npy"],
        ["fold-in"],
        ["search", "-u", "2000", "--space", "snapshot"],
        ["search", "-u", "2000", "-k", "0"],
        ["search"],
        ["search", "-u", "1", "-i", "2"],
        ["search", "-u", "2000", "-p", "efSearch"],
        ["search", "-u", "2000", "-p", "efSearch=5"],
        ["fold-in", "1000", "-w", "1", "-w", "2"],
        ["lookup", "items", "1000", "-o", "/nonexistent/x.npy", "-m", "nan"],
    ],
)
def test_invalid_arguments_are_usage_errors(root: Path, arguments: list[str], capsys: Any) -> None:
    """The exit code is 2 (6 for an unknown id), with one line."""
    assert run([*arguments, "--store", str(root)]) in {2, 6}
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_hints_for_negative_ids_can_be_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A negative id is printed after ``--`` with a side, and if it is unknown, ``--missing`` is printed before."""
    assert run(["lookup", "-57", "--store", str(root)]) == 2
    without_side = capsys.readouterr().err.partition("hint: embsync ")[2].split()
    assert without_side == ["lookup", "--store", str(root), "--", "items", "-57"]
    assert run(without_side) == 6
    capsys.readouterr()
    assert run(["lookup", "user", "-57", "--store", str(root)]) == 2
    assert "-- users -57" in capsys.readouterr().err
    assert run(["lookup", "1000", "-57", "--store", str(root)]) == 2
    assert "-- items 1000 -57" in capsys.readouterr().err
    assert run(["lookup", "users", "-57", "--store", str(root)]) == 2
    first = capsys.readouterr().err.partition("hint: embsync ")[2].split()
    assert first == ["lookup", "--store", str(root), "--", "users", "-57"]
    assert run(first) == 6
    said = capsys.readouterr().err
    assert "unknown users ids; found -57; hint: to go on without an error: embsync lookup " in said
    assert run(said.partition("without an error: embsync ")[2].split()) == 0


FORGED = ["a\nversion 9", "b\x1b[2J\x1b[31m", "c\r\x9b1A", "d\u2028\u202e"]


def test_ids_cannot_forge_terminal_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Line breaks and terminal escapes in ids, names and paths are escaped in text output, and exact in JSON."""
    made = night(0, items=20, users=16, width=4)
    names = np.array([*FORGED, *(f"i{number}" for number in range(16))])
    ids = replace(made, item_ids=names, user_ids=np.array([f"{name} u" for name in names[:16]]))
    root = tmp_path / "S"
    sync(root, ids, "n0")
    vectors = tmp_path / "v.npy"
    np.save(vectors, made.items[:1])
    commands: list[list[object]] = [
        ["lookup", "items", *FORGED],
        ["lookup", "items", "never\x1b[1m\nseen", "--missing", "nan"],
        ["lookup", "items", "never\x1b[1m\nseen"],
        ["lookup", "users", *(f"{name} u" for name in FORGED)],
        ["search", "-k", 20, *(part for name in FORGED for part in ("--item", name))],
        ["search", "-k", 20, "--user", f"{FORGED[0]} u"],
        ["search", "-v", vectors, "-o", tmp_path / "o\x1b[2J\n.npy"],
        ["search", "--item", "never\x1b[1m\nseen"],
        ["fold-in", *FORGED],
        ["fold-in", "never\x1b[1m\nseen"],
        ["search", "--user", f"{FORGED[0]} u", "--allow", FORGED[1], "-p", "ef\x1b[2J=1"],
    ]
    for command in commands:
        run([*map(str, command), "--store", str(root)])
        printed = capsys.readouterr()
        lines = (printed.out + printed.err).removesuffix("\n").split("\n")
        assert all(line.isprintable() for line in lines), command
        assert sum(line.startswith("version") for line in lines) <= 1, command
        run([*map(str, command), "--store", str(root), "--json"])
        printed = capsys.readouterr()
        assert "\x1b" not in printed.out + printed.err
    run(["lookup", "items", *FORGED, "--store", str(root), "--json"])
    assert [one["id"] for one in json.loads(capsys.readouterr().out)["results"]] == FORGED
    run(["search", "-k", "20", "--user", f"{FORGED[0]} u", "--store", str(root), "--json"])
    assert {hit["id"] for hit in json.loads(capsys.readouterr().out)["results"][0]} >= set(FORGED)
