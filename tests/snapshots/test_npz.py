"""Layout npz: archives of NumPy and models of implicit, stored or deflated, are read; forged ones are refused."""

from __future__ import annotations

import io
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from snapshots.made import ROW_NUMBERS, assert_reads, model, read, vectors, write_npz

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotChanged, SnapshotError
from embsync.rows import block_rows
from embsync.snapshots import open_snapshot

CONFIG = SnapshotConfig()


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("dtype", ["<f4", ">f2", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_type_order_and_compression_is_read_exactly(
    tmp_path: Path, deflate: bool, dtype: str, order: str
) -> None:
    """An archive gives the same rows as plain npy files."""
    made = model().typed(dtype)
    made = type(made)(
        np.asarray(made.items, order=order), made.item_ids, np.asarray(made.users, order=order), made.user_ids
    )
    assert_reads(open_snapshot(write_npz(tmp_path / "m.npz", made, deflate=deflate), CONFIG), made)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_compressed_member_is_read_in_many_blocks(tmp_path: Path, order: str) -> None:
    """A member longer than a block and than one read gives the same rows in blocks of the specified size."""
    rows = 3 * block_rows(32) + 5
    matrix = np.random.default_rng(0).standard_normal((rows, 32)).astype(np.float32)
    np.savez_compressed(tmp_path / "m.npz", items=np.asarray(matrix, order=order))
    side = open_snapshot(tmp_path / "m.npz", ROW_NUMBERS).items
    assert [len(block) for _, block in side.blocks()] == [block_rows(32)] * 3 + [5]
    np.testing.assert_array_equal(vectors(side), matrix)


def test_an_archive_in_its_own_directory_is_found(tmp_path: Path) -> None:
    """A directory with one archive and other files is read; with two archives it is refused."""
    write_npz(tmp_path / "model.npz", model().named())
    (tmp_path / "README").write_text("trained on Monday")
    assert_reads(open_snapshot(tmp_path, CONFIG), model().named())
    write_npz(tmp_path / "other.npz", model())
    with pytest.raises(SnapshotError, match=r"model\.npz, other\.npz"):
        open_snapshot(tmp_path, CONFIG)


@pytest.mark.services("implicit")
def test_a_model_saved_by_implicit_is_read(tmp_path: Path) -> None:
    """Row numbers are the ids of a model saved by implicit itself, only on request."""
    from implicit import als
    from scipy.sparse import random as random_sparse
    from threadpoolctl import threadpool_limits

    plays = random_sparse(60, 40, 0.2, "csr", np.float32, random_state=np.random.default_rng(1))
    with threadpool_limits(1, "blas"):  # implicit warns about other types
        trained = als.AlternatingLeastSquares(factors=6, iterations=2, random_state=3, num_threads=1)
        trained.fit(plays, show_progress=False)
    trained.save(str(tmp_path / "als.npz"))
    with pytest.raises(SnapshotError, match="row_number_ids"):
        open_snapshot(tmp_path / "als.npz", CONFIG)
    opened = open_snapshot(tmp_path / "als.npz", ROW_NUMBERS)
    assert opened.users is not None
    np.testing.assert_array_equal(vectors(opened.items), trained.item_factors)
    np.testing.assert_array_equal(vectors(opened.users), trained.user_factors)
    np.testing.assert_array_equal(opened.users.ids(), np.arange(60))


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _archive(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, data in members:
            packed.writestr(name, data)
    return path


ITEMS = _npy(np.ones((50, 4), np.float32))
IDS = _npy(np.arange(50))


def test_member_names_are_never_used_as_paths(tmp_path: Path) -> None:
    """Members with paths outside the archive are ignored, and no file is written."""
    path = _archive(
        tmp_path / "m.npz",
        [("items.npy", ITEMS), ("item_ids.npy", IDS), ("../../evil.npy", ITEMS), ("/etc/evil.npy", ITEMS)],
    )
    read(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.npz"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_repeated_member_names_are_refused(tmp_path: Path) -> None:
    """Two members of the same name are ambiguous."""
    path = _archive(tmp_path / "m.npz", [("items.npy", ITEMS), ("items.npy", ITEMS), ("item_ids.npy", IDS)])
    with pytest.raises(SnapshotError, match="member names repeat"):
        read(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(tmp_path: Path, method: int) -> None:
    """Only the methods that NumPy writes are read."""
    with pytest.raises(SnapshotError, match="unknown compression"):
        read(_archive(tmp_path / "m.npz", [("items.npy", ITEMS), ("item_ids.npy", IDS)], method))


def _patched(path: Path, offset: int, value: bytes) -> Path:
    """Overwrite bytes of the first entry of an archive's central directory."""
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02") + offset
    data[start : start + len(value)] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (8, b"\x01\x00", "encrypted"),
        (24, struct.pack("<I", 2**32 - 2), "impossible size"),
        (20, struct.pack("<I", 2**31), "impossible size"),
        (16, b"\0\0\0\0", "CRC"),
        (42, struct.pack("<I", 5), "ill-formed archive"),
    ],
)
def test_forged_central_directories_are_refused(tmp_path: Path, offset: int, value: bytes, message: str) -> None:
    """Encryption, impossible sizes, a wrong checksum and a wrong position are refused."""
    path = _patched(_archive(tmp_path / "m.npz", [("items.npy", ITEMS), ("item_ids.npy", IDS)]), offset, value)
    with pytest.raises(SnapshotError, match=message):
        read(path)


def test_an_archive_with_a_giant_central_directory_is_refused(tmp_path: Path) -> None:
    """An archive with a hundred thousand members is not listed."""
    path = _archive(tmp_path / "m.npz", [(f"member-{number:070}", b"") for number in range(40_000)])
    with pytest.raises(SnapshotError, match="ill-formed archive"):
        read(path)


def test_an_archive_that_expands_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    """A small file that expands to a large one is refused before decompression, in little memory."""
    path = tmp_path / "m.npz"
    np.savez_compressed(path, items=np.zeros((400_000, 64), np.float32), item_ids=np.arange(400_000))
    assert path.stat().st_size < 2**21
    with pytest.raises(SnapshotError, match="max_bytes"):
        read(path, SnapshotConfig(max_bytes=2**26))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in open_snapshot(path, CONFIG).items.blocks():
        pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # of the side's 100,000 KiB


@pytest.mark.parametrize("keep", [0, 10, 200, -1, -30])
def test_truncated_archives_are_refused(tmp_path: Path, keep: int) -> None:
    """An archive truncated anywhere is refused in one line."""
    path = write_npz(tmp_path / "m.npz", model())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SnapshotError):
        read(path)


def test_an_archive_that_changes_between_passes_is_noticed(tmp_path: Path) -> None:
    """Another shape in the second pass is a change."""
    path = write_npz(tmp_path / "m.npz", model())
    items = open_snapshot(path, CONFIG).items
    write_npz(path, model(items=20))
    with pytest.raises(SnapshotChanged):
        vectors(items)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("rows", [3, 5000])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("member", ["items", "item_ids", "users", "user_ids", "item_weights"])
def test_a_member_with_a_wrong_checksum_is_refused(
    tmp_path: Path, deflate: bool, rows: int, order: str, member: str
) -> None:
    """One flipped bit in the last values of a member, short or long, stored or deflated, is refused."""
    made = model(items=rows, users=rows)
    arrays = {**vars(made), "items": np.asarray(made.items, order=order), "item_weights": np.ones(rows)}
    path = tmp_path / "m.npz"
    (np.savez_compressed if deflate else np.savez)(path, **arrays)
    with zipfile.ZipFile(path) as packed:
        info = packed.getinfo(f"{member}.npy")
    data = bytearray(path.read_bytes())
    name, extra = struct.unpack("<HH", data[info.header_offset + 26 : info.header_offset + 30])
    data[info.header_offset + 30 + name + extra + info.compress_size - 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(SnapshotError, match=rf"m\.npz\({member}.npy\): ill-formed archive"):
        read(path, CONFIG)
