"""Layouts csv and projector: files of pandas, StarSpace, pgvector and by hand are read; ill-formed text is refused."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from snapshots.made import model, read, vectors

from embsync.config import SnapshotConfig, WatchConfig
from embsync.errors import SnapshotChanged, SnapshotError
from embsync.rows import block_rows
from embsync.snapshots import open_snapshot
from embsync.watching.discovery import discover

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

CONFIG = SnapshotConfig()
MADE = model(items=40, users=20, width=4)
NAMES = ["item_id", "d0", "d1", "d2", "d3"]


def wide(delimiter: str = ",", header: list[str] | None = NAMES, ids: list[object] | None = None) -> bytes:
    """Return the items with one column per dimension."""
    rows = [] if header is None else [delimiter.join(header)]
    for id_, row in zip(MADE.item_ids.tolist() if ids is None else ids, MADE.items.tolist(), strict=True):
        rows.append(delimiter.join(map(str, (id_, *row))))
    return ("\n".join(rows) + "\n").encode()


def listed(
    write: Callable[[list[float]], str] = json.dumps, delimiter: str = ",", header: str | None = "id,embedding"
) -> bytes:
    """Return the items with one column of lists, quoted."""
    rows = [] if header is None else [header.replace(",", delimiter)]
    for id_, row in zip(MADE.item_ids.tolist(), MADE.items.tolist(), strict=True):
        rows.append(f'{id_}{delimiter}"{write(row)}"')
    return ("\n".join(rows) + "\n").encode()


GOOD = {
    "one column a dimension": ("a.csv", wide()),
    "numbers as names, as pandas has them": ("a.csv", wide(header=["item_id", "0", "1", "2", "3"])),
    "no header": ("a.csv", wide(header=None)),
    "StarSpace": ("a.tsv", wide("\t", None)),
    "semicolons": ("a.csv", wide(";")),
    "bars": ("a.csv", wide("|")),
    "Windows": ("a.csv", b"\xef\xbb\xbf" + wide().replace(b"\n", b"\r\n")),
    "no end of the last line": ("a.csv", wide()[:-1]),
    "JSON lists": ("a.csv", listed()),
    "lists without blanks": ("a.csv", listed(lambda row: json.dumps(row, separators=(",", ":")))),
    "braces, as PostgreSQL's arrays": ("a.csv", listed(lambda row: "{" + ",".join(map(str, row)) + "}")),
    "numbers and blanks": ("a.csv", listed(lambda row: " ".join(map(str, row)))),
    "lists of NumPy": ("a.csv", listed(lambda row: f"[{'  '.join(map(str, row))}]")),
    "lists without header": ("a.csv", listed(header=None)),
    "lists and semicolons": ("a.csv", listed(delimiter=";")),
    "lists in TSV": ("a.tsv", listed(delimiter="\t")),
    "a list under any name": ("a.csv", listed(header="id,whatever")),
    "gzip": ("a.csv.gz", gzip.compress(wide())),
    "gzip in members": ("a.csv.gz", gzip.compress(wide()[:100]) + gzip.compress(wide()[100:])),
    "gzip of TSV": ("a.tsv.gz", gzip.compress(wide("\t"))),
}


@pytest.mark.parametrize("case", GOOD)
def test_every_dialect_is_read_exactly(tmp_path: Path, case: str) -> None:
    """Each dialect is read as a file, alone in a directory, and as a side; values are float32."""
    name, data = GOOD[case]
    end = name.removeprefix("a")
    (tmp_path / "side").mkdir()
    for path in (tmp_path / name, tmp_path / "side" / f"items{end}"):
        path.write_bytes(data)
    for path in (tmp_path / name, tmp_path / "side"):
        opened = open_snapshot(path, CONFIG)
        assert (opened.layout, opened.users, opened.unread) == ("csv", None, ())
        np.testing.assert_array_equal(vectors(opened.items), MADE.items)
        np.testing.assert_array_equal(opened.items.ids(), MADE.item_ids)


@pytest.mark.services("backports.zstd")
def test_zstd_compressed_text_is_read(tmp_path: Path) -> None:
    """The decoder decompresses it with pyarrow."""
    from backports import zstd

    (tmp_path / "items.csv.zst").write_bytes(zstd.compress(wide()))
    np.testing.assert_array_equal(vectors(open_snapshot(tmp_path, CONFIG).items), MADE.items)
    (tmp_path / "items.csv.zst").write_bytes(zstd.compress(b"id,d0,d1\n" + b"1,0,0\n" * 10**7))
    with pytest.raises(SnapshotError, match="more than text can expand to"):
        read(tmp_path)


IDS: dict[str, tuple[list[object], list[object]]] = {
    "zeros in front": (["007", "08", "10"], [b"007", b"08", b"10"]),
    "integers": ([7, -8, 0], [7, -8, 0]),
    "one of them is none": ([7, 8, "x9"], [b"7", b"8", b"x9"]),
    "a plus": (["+7", 8, 9], [b"+7", b"8", b"9"]),
    "beyond 64 bits": ([7, 8, 2**63], [b"7", b"8", b"9223372036854775808"]),
    "the largest": ([7, 8, 2**63 - 1], [7, 8, 2**63 - 1]),
    "words, quoted": (['"a, b"', '"say ""no"""', "nan"], [b"a, b", b'say "no"', b"nan"]),
    "not ASCII": (["müsli", "茶", "a b"], ["müsli".encode(), "茶".encode(), b"a b"]),
}


@pytest.mark.parametrize("case", IDS)
def test_ids_are_integers_only_if_all_are_written_as_integers(tmp_path: Path, case: str) -> None:
    """It depends on all part files together; otherwise ids are the strings as written."""
    given, expected = IDS[case]
    (tmp_path / "items").mkdir()
    for number, id_ in enumerate(given):
        (tmp_path / "items" / f"part-{number}.csv").write_text(f"id,vector\n{id_},[1 2]\n")
    assert open_snapshot(tmp_path, CONFIG).items.ids().tolist() == expected


def test_many_blocks_with_weights_are_read(tmp_path: Path) -> None:
    """Blocks have the specified size across several pieces of the file, and the last row is included."""
    rows = 2 * block_rows(200) + 7
    matrix = np.random.default_rng(1).standard_normal((rows, 200)).astype(np.float32)
    lines = [f"i{row},{row % 5},{','.join(map(repr, map(float, numbers)))}" for row, numbers in enumerate(matrix)]
    head = ",".join(["sku", "plays", *(f"f{place}" for place in range(200))])
    (tmp_path / "items.csv").write_text("\n".join([head, *lines]))
    items = open_snapshot(tmp_path, SnapshotConfig(weight_column="plays")).items
    np.testing.assert_array_equal(vectors(items), matrix)
    assert items.ids()[-1] == f"i{rows - 1}".encode()
    assert items.weights().tolist() == [row % 5 for row in range(rows)]


def test_both_sides_are_read(tmp_path: Path) -> None:
    """The sides may have different types of ids and different notations of vectors."""
    (tmp_path / "items.csv").write_bytes(listed())
    users = [f"u{row},{','.join(map(repr, map(float, numbers)))}" for row, numbers in enumerate(MADE.users)]
    (tmp_path / "users.csv").write_text("\n".join(["user_id,0,1,2,3", *users]))
    opened = open_snapshot(tmp_path, CONFIG)
    assert opened.users is not None
    np.testing.assert_array_equal(vectors(opened.users), MADE.users)
    assert opened.users.ids()[0] == b"u0"


#: More rows than are used to determine the columns.
FAR = b"id,d0,d1\n" + b"".join(b"%d,0.5,1\n" % row for row in range(10, 1100))

BAD: dict[str, tuple[str, bytes, str]] = {
    "a short row": ("a.csv", wide() + b"1,2,3\n", "Expected 5 columns, got 3"),
    "a long row": ("a.csv", wide() + b"1,2,3,4,5,6\n", "Expected 5 columns, got 6"),
    "a header of another width": ("a.csv", wide(header=NAMES[:4]), "different number of fields"),
    "no number": ("a.csv", wide() + b"1,2,3,4,x\n", "differ in type"),
    "an empty number": ("a.csv", wide() + b"1,2,,4,5\n", "differ in type"),
    "no number, far below": ("a.csv", FAR + b"1,x,3\n", "invalid value 'x'"),
    "an empty number, far below": ("a.csv", FAR + b"1,,3\n", "missing values"),
    "an empty id": ("a.csv", wide() + b",2,3,4,5\n", "0 bytes in row 40"),
    "no number in a list": ("a.csv", listed() + b'1,"[1, 2, x, 3]"\n', "not a number"),
    "a list that is cut off": ("a.csv", listed() + b'1,"[1, 2, 3, 4"\n', "truncated"),
    "lists of other widths": ("a.csv", listed() + b'1,"[1, 2, 3]"\n', "different widths.*3 numbers in row 40"),
    "not UTF-8": ("a.csv", wide() + b"\xff\xfe,2,3,4,5\n", "UTF8"),
    "ids that repeat": ("a.csv", wide() + wide().splitlines()[-1] + b"\n", "repeated ids"),
    "float ids": ("a.csv", wide(ids=[f"{number}.0" for number in range(40)]), "item_id.*float in text.*astype"),
    "a header alone": ("items.csv", b"id,embedding\n", "no known layout|no rows"),
    "quotes that do not end": ("a.csv", wide() + b'"1,2,3,4,5\n', "ill-formed text table"),
    "a row number for ids": ("a.csv", wide(header=["", "d0", "d1", "d2", "d3"]), "no id column"),
    "numbers alone": ("a.csv", b"0.5,1.5\n2.5,3.5\n", "no id column.*row_number_ids"),
    "cut gzip": ("a.csv.gz", gzip.compress(wide())[:-30], "ill-formed"),
    "damaged gzip": ("a.csv.gz", gzip.compress(wide())[:-8] + b"\0" * 8, "ill-formed"),
    "no gzip": ("a.csv.gz", wide(), "ill-formed"),
    # Made only when needed, since each worker collects this module.
    "a bomb": ("a.csv.gz", lambda: gzip.compress(b"id,d0,d1\n" + b"1,0,0\n" * 10**7), "more than text can expand to"),
    "a bomb in one line": (
        "a.csv.gz",
        lambda: gzip.compress(b"1,0.5,0.5\n" + b"1" * (64 * 2**20)),
        "ill-formed|more than text",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_ill_formed_text_is_refused(tmp_path: Path, case: str) -> None:
    """The message is one line with what was found, and exit code 3."""
    name, data, says = BAD[case]
    (tmp_path / name).write_bytes(data() if callable(data) else data)
    with pytest.raises(SnapshotError, match=says) as refused:
        read(tmp_path / name, CONFIG)
    assert refused.value.exit_code == 3
    assert not refused.value.transient
    assert "\n" not in str(refused.value)


def test_ids_that_repeat_across_parts_are_refused(tmp_path: Path) -> None:
    """They are refused like repeated ids within one file."""
    (tmp_path / "items").mkdir()
    for number in range(2):
        (tmp_path / "items" / f"part-{number}.csv").write_bytes(wide())
    with pytest.raises(SnapshotError, match="repeated ids"):
        read(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "id,title,price\n1,a,2.5\n2,b,3.5\n",
        "1,296,5.0,1147880044\n1,306,3.5,114786\n",
        "user,item,rating\n1,2,3\n",
        "x\n",
    ],
)
def test_tables_without_vectors_are_refused(tmp_path: Path, text: str) -> None:
    """Titles and ratings beside arrays are reported as not read; alone, they are not a snapshot."""
    for name, array in (("items", MADE.items), ("item_ids", MADE.item_ids)):
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "catalogue.csv").write_text(text)
    opened = open_snapshot(tmp_path, CONFIG)
    assert (opened.layout, opened.unread) == ("npy", ("catalogue.csv",))
    with pytest.raises(SnapshotError, match=r"no known layout.*CSV"):
        open_snapshot(tmp_path / "catalogue.csv", CONFIG)


def test_row_numbers_are_ids_only_on_request(tmp_path: Path) -> None:
    """They are refused if the first column can be ids."""
    allowed = SnapshotConfig(row_number_ids=True)
    (tmp_path / "a.csv").write_text("0.5,1.5\n2.5,3.5\n")
    assert open_snapshot(tmp_path / "a.csv", allowed).items.ids().tolist() == [0, 1]
    (tmp_path / "b.csv").write_bytes(wide(header=None))
    with pytest.raises(SnapshotError, match="there are ids"):
        open_snapshot(tmp_path / "b.csv", allowed)


def test_a_file_that_changes_between_passes_is_noticed(tmp_path: Path) -> None:
    """The rows are counted when the file is opened."""
    (tmp_path / "items.csv").write_bytes(wide())
    items = open_snapshot(tmp_path, CONFIG).items
    (tmp_path / "items.csv").write_bytes(wide() + b"99999,1,2,3,4\n")
    with pytest.raises(SnapshotChanged, match="changed while it was read"):
        vectors(items)


def projector(path: Path, labels: str, name: str = "tensors.tsv") -> Path:
    """Write the two files that the Embedding Projector loads."""
    path.mkdir(exist_ok=True)
    (path / name).write_bytes(wide("\t", None).replace(b"\r", b""))
    lines = ["\t".join(map(str, row)) for row in MADE.items.tolist()]
    (path / name).write_text("\n".join(lines) + "\n")
    (path / "metadata.tsv").write_text(labels)
    return path


ONE_COLUMN = "".join(f"item {row}\n" for row in range(40))


@pytest.mark.parametrize("name", ["tensors.tsv", "vectors.tsv"])
@pytest.mark.parametrize("labels", [ONE_COLUMN, "id\ttitle\n" + "".join(f"item {row}\tx\n" for row in range(40))])
def test_the_files_of_the_embedding_projector_are_read(tmp_path: Path, name: str, labels: str) -> None:
    """Labels of one column have no header, of several columns they have one; quotes are ordinary characters."""
    opened = open_snapshot(projector(tmp_path / "p", labels.replace("item 7", '"item 7'), name), CONFIG)
    assert (opened.layout, opened.unread) == ("projector", ())
    np.testing.assert_array_equal(vectors(opened.items), MADE.items)
    ids = [value.decode() for value in opened.items.ids().tolist()]
    assert ids == ['"item 7' if row == 7 else f"item {row}" for row in range(40)]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (ONE_COLUMN + "more\n", "differ in number.*41 ids"),
        (ONE_COLUMN[:-8], "differ in number.*39 ids"),
        (ONE_COLUMN.replace("item 7\n", "\n"), "0 bytes in row 7"),
        ("", "no rows"),
        ("title\tgenre\n" + "a\tb\n" * 40, "no id column"),
    ],
)
def test_projector_labels_of_another_length_are_refused(tmp_path: Path, labels: str, says: str) -> None:
    """More or fewer labels, an empty label, no label, and columns that cannot be ids are refused."""
    with pytest.raises(SnapshotError, match=says):
        read(projector(tmp_path / "p", labels), CONFIG)


def test_watched_tables_are_ready_when_both_sides_are(tmp_path: Path) -> None:
    """A snapshot waits while users are transferred; a table of something else is not a snapshot."""
    watch = WatchConfig(settle_seconds=0)
    night = tmp_path / "day=1"
    night.mkdir()
    (night / "items.csv").write_bytes(listed())
    (night / ".users.csv.aB3xY9").write_bytes(b"id,embed")
    (tmp_path / "ratings.csv").write_text("user,item,rating\n1,2,3\n")

    def states() -> dict[str, str]:
        return {child.name: child.state for child in discover(tmp_path, watch, CONFIG, now=time.time() + 1).children}

    assert states() == {"day=1": "waiting", "ratings.csv": "not_a_snapshot"}
    (night / ".users.csv.aB3xY9").rename(night / "users.csv")
    (night / "users.csv").write_bytes(listed(header="user_id,embedding"))
    assert states() == {"day=1": "ready", "ratings.csv": "not_a_snapshot"}


def test_blanks_around_column_names_are_ignored(tmp_path: Path) -> None:
    """Some writers put a blank after each comma."""
    (tmp_path / "items.csv").write_text("id, d0, d1\na, 0.5, 1.5\nb, 2.5, 3.5\n")
    np.testing.assert_array_equal(vectors(open_snapshot(tmp_path, CONFIG).items), [[0.5, 1.5], [2.5, 3.5]])
