"""Layout word2vec_binary: files of word2vec.c and gensim are read bit for bit; others are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from snapshots.made import Array, model, read, vectors

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.rows import block_rows
from embsync.snapshots import open_snapshot

CONFIG = SnapshotConfig()


def binary(names: list[str], matrix: Array, end: bytes = b"\n") -> bytes:
    """Return vectors as word2vec.c writes them; for gensim, ``end`` is empty."""
    rows = [name.encode() + b" " + row.astype("<f4").tobytes() + end for name, row in zip(names, matrix, strict=True)]
    return f"{len(matrix)} {matrix.shape[1]}\n".encode() + b"".join(rows)


@pytest.mark.services("gensim")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_vectors_saved_by_gensim_are_read(tmp_path: Path) -> None:
    """A model saved by gensim itself is read."""
    gensim = pytest.importorskip("gensim.models", reason="gensim is not installed")
    trained = gensim.Word2Vec([["müsli", "milk", "tea"]] * 20, vector_size=12, min_count=1, seed=1, workers=1)
    trained.wv.save_word2vec_format(str(tmp_path / "day=1.bin"), binary=True)
    for path in (tmp_path, tmp_path / "day=1.bin"):
        opened = open_snapshot(path, CONFIG)
        assert (opened.layout, opened.users) == ("word2vec_binary", None)
        assert [value.decode() for value in opened.items.ids().tolist()] == trained.wv.index_to_key
        np.testing.assert_array_equal(vectors(opened.items), trained.wv.vectors)


@pytest.mark.parametrize("end", [b"\n", b""])
def test_binary_files_of_many_blocks_are_read(tmp_path: Path, end: bytes) -> None:
    """Files may have several blocks and a shorter last one; bytes of values may be blanks and line feeds."""
    rows = block_rows(100) * 5 + 11
    matrix = np.random.default_rng(0).standard_normal((rows, 100)).astype(np.float32)
    matrix[::7] = np.frombuffer(b" \n \n", "<f4")[0]
    names = [f"w{row}" for row in range(rows)]
    (tmp_path / "m.bin").write_bytes(binary(names, matrix, end))
    items = open_snapshot(tmp_path / "m.bin", CONFIG).items
    np.testing.assert_array_equal(vectors(items), matrix)
    assert [value.decode() for value in items.ids().tolist()] == names


GOOD = model(items=20).named()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[:-5], "ill-formed row"),
        (lambda data: data + b"x", "more rows than the header says"),
        (lambda data: data.replace(b"20 8\n", b"21 8\n"), "ill-formed row|the size does not match"),
        (lambda data: data.replace(b"20 8\n", b"19 8\n"), "more rows than the header says"),
        (lambda data: data.replace(b"20 8\n", b"999999999999999999 8\n"), "the size does not match the header"),
        (lambda data: data.replace(b"20 8\n", b"20 9\n"), "ill-formed row|the size does not match|not UTF-8"),
        (lambda data: data.replace(b"\nm", b"\n m", 1), "ill-formed row"),
        (lambda data: data.replace(b"20 8\n", b"20,8\n"), "no known layout"),
    ],
)
def test_ill_formed_files_are_refused(tmp_path: Path, change: object, says: str) -> None:
    """Short rows, wrong counts and widths, an empty word and another first line are refused."""
    (tmp_path / "m.bin").write_bytes(change(binary(GOOD.item_ids.tolist(), GOOD.items)))
    with pytest.raises(SnapshotError, match=says):
        read(tmp_path / "m.bin", CONFIG)


def test_text_that_is_named_as_binary_is_refused(tmp_path: Path) -> None:
    """It is refused even if each number has four characters, so that the file size matches."""
    rows = "".join(f"w{row} 0.{row} 0.2 0.3\n" for row in range(1, 7))
    (tmp_path / "m.bin").write_text(f"6 3\n{rows}")
    with pytest.raises(
        SnapshotError, match=r"text in a file with the suffix of binary files.*hint: mv .*m.bin .*m.vec"
    ):
        read(tmp_path / "m.bin", CONFIG)


def test_the_message_shows_the_invalid_id(tmp_path: Path) -> None:
    """It is not the longest id."""
    names = ["w\0", *GOOD.item_ids.tolist()[1:]]
    (tmp_path / "m.bin").write_bytes(binary(names, GOOD.items))
    with pytest.raises(SnapshotError, match=r"holds a NUL; found b'w\\x00'"):
        read(tmp_path / "m.bin", CONFIG)
