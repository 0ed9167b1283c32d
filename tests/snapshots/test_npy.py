"""Layout npy: everything NumPy writes is read exactly, and everything else refused."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots.made import ROW_NUMBERS, assert_reads, model, read, utf8, vectors, write_npy

from embsync.config import SnapshotConfig
from embsync.errors import NotFoundError, SnapshotChanged, SnapshotError
from embsync.rows import block_rows
from embsync.snapshots import open_snapshot, stamp

CONFIG = SnapshotConfig()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f2", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_float_type_and_order_is_read_exactly(tmp_path: Path, dtype: str, order: str) -> None:
    """Little- and big-endian arrays in C and Fortran order give the same native rows."""
    made = model().typed(dtype)
    made = type(made)(
        np.asarray(made.items, order=order), made.item_ids, np.asarray(made.users, order=order), made.user_ids
    )
    assert_reads(open_snapshot(write_npy(tmp_path / "s", made), CONFIG), made)


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_come_in_blocks_of_the_agreed_size(tmp_path: Path, order: str) -> None:
    """There are several blocks and a shorter last one, so sums over blocks do not depend on the layout."""
    rows = 2 * block_rows(32) + 17
    matrix = np.asarray(np.arange(rows * 32, dtype=np.float32).reshape(rows, 32), order=order)
    np.save(tmp_path / "items.npy", matrix)
    side = open_snapshot(tmp_path, ROW_NUMBERS).items
    assert [len(block) for _, block in side.blocks()] == [block_rows(32), block_rows(32), 17]
    np.testing.assert_array_equal(vectors(side), matrix)


@pytest.mark.parametrize("dtype", ["<i4", ">i8", "u1", "<u8", ">u2"])
def test_integer_ids_are_converted_to_int64(tmp_path: Path, dtype: str) -> None:
    """Any integer type with values that fit gives int64 in file order."""
    ids = np.arange(100)[::-1].astype(dtype)
    np.save(tmp_path / "items.npy", np.ones((100, 2), np.float32))
    np.save(tmp_path / "item_ids.npy", ids)
    got = open_snapshot(tmp_path, CONFIG).items.ids()
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, np.arange(100)[::-1])


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=60)
@given(st.lists(texts, min_size=1, max_size=30, unique=True), st.sampled_from(["U", ">U", "S"]))
def test_string_ids_are_converted_to_utf_8(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], kind: str
) -> None:
    """Text of any script, in both string types of NumPy, gives the same UTF-8 of minimal width."""
    path = tmp_path_factory.mktemp("s")
    ids = np.array(names) if "U" in kind else np.array([name.encode() for name in names])
    np.save(path / "items.npy", np.ones((len(names), 2), np.float32))
    np.save(path / "item_ids.npy", ids.astype(ids.dtype.newbyteorder(">")) if kind == ">U" else ids)
    got = open_snapshot(path, CONFIG).items.ids()
    assert [value.decode() for value in got.tolist()] == names
    assert got.dtype == utf8(np.array(names)).dtype


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from(["f2", ">f4", "f8"]), st.randoms(use_true_random=False))
def test_arrays_of_any_shape_round_trip(tmp_path_factory, rows: int, width: int, dtype: str, random) -> None:
    """Values are equal bit for bit, including NaN and infinity: reading does not check values."""
    path = tmp_path_factory.mktemp("s")
    numbers = np.random.default_rng(random.randrange(2**32)).integers(0, 256, rows * width * 8, np.uint8).tobytes()
    matrix = np.frombuffer(numbers, dtype, rows * width).reshape(rows, width)
    np.save(path / "items.npy", matrix)
    got = vectors(open_snapshot(path, ROW_NUMBERS).items)
    assert got.astype(dtype).tobytes() == matrix.tobytes()


def test_row_numbers_are_ids_only_on_request(tmp_path: Path) -> None:
    """A matrix without ids is refused, with the key that allows it; then rows are numbered from 0."""
    np.save(tmp_path / "items.npy", np.ones((4, 2), np.float32))
    with pytest.raises(SnapshotError, match=r"item_ids.*row_number_ids: true"):
        open_snapshot(tmp_path, CONFIG)
    np.testing.assert_array_equal(open_snapshot(tmp_path, ROW_NUMBERS).items.ids(), [0, 1, 2, 3])
    one_file = open_snapshot(tmp_path / "items.npy", ROW_NUMBERS)
    assert (one_file.name, one_file.layout, one_file.users) == ("items.npy", "npy", None)


def test_weights_are_read_and_validated(tmp_path: Path) -> None:
    """Weights are float64; a negative or non-finite one is refused with its row."""
    path = write_npy(tmp_path / "s", model(items=5))
    np.save(path / "item_weights.npy", np.array([0, 1, 2, 3, 4], np.float32))
    weights = open_snapshot(path, CONFIG).items.weights()
    assert weights is not None
    assert weights.tolist() == [0, 1, 2, 3, 4]
    np.save(path / "item_weights.npy", np.array([0, 1, -2, 3, 4], np.float32))
    with pytest.raises(SnapshotError, match=r"-2\.0 in row 2"):
        open_snapshot(path, CONFIG).items.weights()


WRONG_ARRAYS = {
    "one dimension": ({"items": np.ones(6, np.float32)}, "matrix"),
    "no rows": ({"items": np.ones((0, 2), np.float32), "item_ids": np.arange(0)}, "at least one row"),
    "no columns": ({"items": np.ones((3, 0), np.float32)}, "at least one row"),
    "too many columns": ({"items": np.ones((1, 65_537), np.float32), "item_ids": np.arange(1)}, "unusable width"),
    "integers for vectors": ({"items": np.ones((3, 2), np.int32)}, "not floats"),
    "too many ids": ({"item_ids": np.arange(4)}, "found 4 ids; expected 3"),
    "float ids": ({"item_ids": np.arange(3.0)}, "unusable type"),
    "boolean ids": ({"item_ids": np.array([True, False, True])}, "numbers or strings"),
    "object ids": ({"item_ids": np.array(["a", "b", None], object)}, "pickle"),
    "records": ({"item_ids": np.zeros(3, [("a", "i4")])}, "ill-formed .npy header"),
    "complex": ({"items": np.ones((3, 2), np.complex64)}, "numbers or strings"),
    "two-dimensional ids": ({"item_ids": np.ones((3, 1), np.int64)}, "one dimension"),
    "widths differ": ({"users": np.ones((3, 5), np.float32), "user_ids": np.arange(3)}, "found width 5; expected 2"),
    "users without ids": ({"users": np.ones((3, 2), np.float32)}, "user_ids"),
    "ids without users": ({"user_ids": np.arange(3)}, "expected users"),
    "unsigned id too big": ({"item_ids": np.array([1, 2, 2**63], np.uint64)}, "9223372036854775808"),
    "repeated ids": ({"item_ids": np.array([4, 4, 1])}, "repeated ids; found 1 repeated rows, among them 4"),
    "repeated strings": ({"item_ids": np.array(["x", "y", "x"])}, "among them x"),
    "empty id": ({"item_ids": np.array(["x", "", "z"])}, "row 1"),
    "empty ids": ({"item_ids": np.array(["", "", ""])}, "row 0"),
    "an id with a NUL": ({"item_ids": np.array([b"x", b"a\0b", b"z"])}, "NUL.*row 1"),
    "not UTF-8": ({"item_ids": np.array([b"x", b"\xff", b"z"])}, "UTF-8.*row 1"),
    "ids too long": ({"item_ids": np.array(["x", "y" * 2000, "z"])}, "1024"),
}


@pytest.mark.parametrize("wrong", WRONG_ARRAYS)
def test_arrays_that_do_not_belong_together_are_refused(tmp_path: Path, wrong: str) -> None:
    """Each refusal has exit code 3, the file, the value found and the expected one."""
    arrays, message = WRONG_ARRAYS[wrong]
    good = {"items": np.ones((3, 2), np.float32), "item_ids": np.arange(3)}
    for name, array in {**good, **arrays}.items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    with pytest.raises(SnapshotError, match=message) as refusal:
        read(tmp_path)
    assert refusal.value.exit_code == 3
    assert str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def _npy(header: str, data: bytes = bytes(24), version: bytes = b"\x01\x00") -> bytes:
    text = header.encode()
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + text + data


GOOD_HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }"
FORGED = {
    "empty": b"",
    "magic only": b"\x93NUMPY",
    "text": b"hello, world, this is not an array",
    "version 9": _npy(GOOD_HEADER, version=b"\x09\x00"),
    "header longer than the file": b"\x93NUMPY\x01\x00\xff\xff{",
    "4 GB of header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "terabytes of rows": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 128), }"),
    "overflowing shape": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999, 4), }"),
    "negative shape": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-3, -2), }"),
    "one byte short": _npy(GOOD_HEADER, bytes(23)),
    "one byte more": _npy(GOOD_HEADER, bytes(25)),
    "a call": _npy("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (3, 2), }"),
    "missing key": _npy("{'descr': '<f4', 'shape': (3, 2), }"),
    "key twice": _npy("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }"),
    "more keys": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), 'x': 'y'}"),
    "nested a thousand deep": _npy("(" * 4000),
    "rubbish after": _npy(GOOD_HEADER + " 12"),
    "never closed": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2"),
    "huge float": _npy("{'descr': '<f16', 'fortran_order': False, 'shape': (3, 2), }"),
    "native order": _npy("{'descr': '=f4', 'fortran_order': False, 'shape': (3, 2), }"),
    "wrong order mark": _npy("{'descr': '|f4', 'fortran_order': False, 'shape': (3, 2), }"),
    "pickle": _npy("{'descr': '|O', 'fortran_order': False, 'shape': (3, 2), }", b"cos\nsystem\n(S'true'\ntR."),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_forged_headers_are_refused_before_anything_is_allocated(tmp_path: Path, forgery: str) -> None:
    """A header that does not describe every byte of the file is refused in one line."""
    (tmp_path / "items.npy").write_bytes(FORGED[forgery])
    with pytest.raises(SnapshotError, match=r"items\.npy"):
        open_snapshot(tmp_path, ROW_NUMBERS)


@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00", b"\x03\x00"])
@pytest.mark.parametrize(
    "header",
    [
        GOOD_HEADER + "      \n",
        '{"descr": "<f4", "fortran_order": False, "shape": (3, 2)}',
        "{'shape': (3L, 2L), 'fortran_order': False, 'descr': '<f4'}\n",
    ],
)
def test_headers_of_other_writers_are_read(tmp_path: Path, header: str, version: bytes) -> None:
    """Versions 1 to 3, other quotes, key order, padding and Python 2's long integers give the same header."""
    (tmp_path / "items.npy").write_bytes(_npy(header, version=version))
    assert open_snapshot(tmp_path, ROW_NUMBERS).items.count == 3


def test_a_missing_path_is_not_found(tmp_path: Path) -> None:
    """The exit code is 6, also for a stamp."""
    for action in (lambda: open_snapshot(tmp_path / "none", CONFIG), lambda: stamp(tmp_path / "none")):
        with pytest.raises(NotFoundError, match="none") as missing:
            action()
        assert missing.value.exit_code == 6


def test_an_unknown_directory_is_described(tmp_path: Path) -> None:
    """The message names the files found and the known layouts; this includes an empty directory."""
    with pytest.raises(SnapshotError, match="an empty directory"):
        open_snapshot(tmp_path, CONFIG)
    (tmp_path / "weights.xyz").write_bytes(b"")
    with pytest.raises(SnapshotError, match=r"weights\.xyz.*expected items\.npy with item_ids\.npy.*\.npz"):
        open_snapshot(tmp_path, CONFIG)


def test_two_layouts_in_one_directory_are_an_error(tmp_path: Path) -> None:
    """The message names both and the configuration key, which then selects one."""
    path = write_npy(tmp_path / "s", model())
    np.savez(path / "model.npz", **vars(model()))
    with pytest.raises(SnapshotError, match=r"found npy, npz.*snapshot\.layout"):
        open_snapshot(path, CONFIG)
    assert open_snapshot(path, SnapshotConfig(layout="npz")).layout == "npz"


def test_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    """The bytes of both sides together are limited by snapshot.max_bytes."""
    path = write_npy(tmp_path / "s", model(items=100, users=100, width=8))
    open_snapshot(path, SnapshotConfig(max_bytes=2 * 100 * (32 + 8)))
    with pytest.raises(SnapshotError, match=r"max_bytes.*8000 bytes"):
        open_snapshot(path, SnapshotConfig(max_bytes=2 * 100 * (32 + 8) - 1))


@pytest.mark.parametrize("kind", ["link", "directory", "FIFO", "socket", "dangling link"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links, even to a valid file, directories, FIFOs and sockets are refused without blocking."""
    path = write_npy(tmp_path / "s", model())
    target = path / "items.npy"
    target.rename(tmp_path / "real.npy")
    monkeypatch.chdir(path)  # the path of a socket must be short
    if kind == "FIFO":
        os.mkfifo(target)
    elif kind == "directory":
        target.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("items.npy")
    else:
        target.symlink_to(tmp_path / ("real.npy" if kind == "link" else "nowhere"))
    with pytest.raises(SnapshotError, match=r"items\.npy: will not be opened") as refusal:
        open_snapshot(path, CONFIG)
    assert not refusal.value.transient


def test_a_device_is_refused() -> None:
    """Devices without an end are not read."""
    with pytest.raises(SnapshotError):
        open_snapshot("/dev/zero", SnapshotConfig(layout="npy"))


def test_a_link_to_the_snapshot_itself_is_followed_once(tmp_path: Path) -> None:
    """A path given by hand may be a link, such as ``latest``; callers that found the path otherwise can forbid it."""
    write_npy(tmp_path / "day=1", model())
    (tmp_path / "latest").symlink_to("day=1")
    opened = open_snapshot(tmp_path / "latest", CONFIG)
    assert opened.name == "latest"
    assert stamp(tmp_path / "latest") == stamp(tmp_path / "day=1")
    with pytest.raises(SnapshotError, match="found a link"):
        open_snapshot(tmp_path / "latest", CONFIG, follow_link=False)
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("elsewhere")
    assert len(vectors(opened.items)) == 300


def test_a_side_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    """A side truncated, replaced by another shape or deleted between two passes is a transient error."""
    path = write_npy(tmp_path / "s", model())
    items = open_snapshot(path, CONFIG).items
    np.save(path / "items.npy", np.ones((7, 8), np.float32))
    with pytest.raises(SnapshotChanged, match=r"items\.npy: changed while it was read"):
        vectors(items)
    (path / "items.npy").unlink()
    with pytest.raises(SnapshotChanged) as gone:
        vectors(items)
    assert gone.value.transient


def test_a_file_that_shrinks_during_a_pass_is_noticed(tmp_path: Path) -> None:
    """A short read during a pass counts as a change, and does not raise SIGBUS."""
    np.save(tmp_path / "items.npy", np.ones((3 * block_rows(64), 64), np.float32))
    blocks = open_snapshot(tmp_path, ROW_NUMBERS).items.blocks()
    next(blocks)
    os.truncate(tmp_path / "items.npy", 5000)
    with pytest.raises(SnapshotChanged, match="became shorter"):
        list(blocks)


def test_the_stamp_changes_with_every_change_and_only_then(tmp_path: Path) -> None:
    """It changes after a touch, an overwrite of equal size, and a new, lost or renamed file, and not otherwise."""
    path = write_npy(tmp_path / "s", model())
    (path / "deeper").mkdir()
    stamps = [stamp(path)]
    assert stamp(path) == stamps[0]
    np.save(path / "items.npy", np.load(path / "items.npy") + 1)
    stamps.append(stamp(path))
    os.utime(path / "items.npy", ns=(1, 1))
    stamps.append(stamp(path))
    (path / "deeper" / "new").touch()
    stamps.append(stamp(path))
    (path / "deeper" / "new").rename(path / "deeper" / "newer")
    stamps.append(stamp(path))
    (path / "users.npy").unlink()
    stamps.append(stamp(path))
    assert len(set(stamps)) == len(stamps)


def test_a_directory_listing_without_end_is_refused(tmp_path: Path) -> None:
    """Directories nested deeper than any snapshot are not traversed."""
    (tmp_path / "/".join("abcdefghijkl")).mkdir(parents=True)
    with pytest.raises(SnapshotError, match="directories nested too deeply"):
        stamp(tmp_path)


@pytest.mark.parametrize("named", [False, True])
def test_duplicate_ids_far_apart_are_found(tmp_path: Path, named: bool) -> None:
    """An id repeated among 140,000, in rows of different blocks, is named."""
    ids = np.arange(140_000)
    ids[139_990] = 17
    np.save(tmp_path / "items.npy", np.ones((140_000, 1), np.float32))
    np.save(tmp_path / "item_ids.npy", ids.astype(str) if named else ids)
    with pytest.raises(SnapshotError, match="repeated ids; found 1 repeated rows, among them 17"):
        open_snapshot(tmp_path, CONFIG).items.ids()


@pytest.mark.parametrize("many", [0, 299, 301, 600])
@pytest.mark.parametrize("side", ["item", "user"])
def test_weights_of_another_length_are_refused(tmp_path: Path, side: str, many: int) -> None:
    """Each row needs one weight; other numbers do not belong to these rows."""
    write_npy(tmp_path, model(items=300, users=300))
    np.save(tmp_path / f"{side}_weights.npy", np.ones(many))
    with pytest.raises(SnapshotError, match=f"weights and vectors differ in number; found {many} weights"):
        read(tmp_path, CONFIG)


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file system returns fewer bytes than requested, each byte is still read once."""
    made = model()
    write_npy(tmp_path, made)
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, views, offset: real(file, [views[0][:1001]], offset))
    assert_reads(open_snapshot(tmp_path, CONFIG), made)
