"""Layout word2vec: text of gensim, fastText and GloVe is read as float32; other text is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots.made import Array, model, read, vectors

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotChanged, SnapshotError
from embsync.rows import block_rows
from embsync.snapshots import open_snapshot

CONFIG = SnapshotConfig()


def text(names: list[str], matrix: Array, *, header: bool = True, ending: str = "\n") -> bytes:
    """Return vectors as text."""
    lines = [f"{len(matrix)} {matrix.shape[1]}"] if header else []
    lines += [f"{name} {' '.join(map(str, row))}" for name, row in zip(names, matrix, strict=True)]
    return "".join(line + ending for line in lines).encode()


@pytest.mark.services("gensim")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["vectors.txt", "model.vec"])
def test_vectors_saved_by_gensim_are_read(tmp_path: Path, name: str) -> None:
    """A model saved by gensim itself is read."""
    import gensim.models

    sentences = [["müsli", "milk", "tea"], ["milk", "tea", "bread"], ["bread", "müsli"]] * 20
    trained = gensim.models.Word2Vec(sentences, vector_size=12, min_count=1, seed=1, workers=1)
    trained.wv.save_word2vec_format(str(tmp_path / name))
    for path in (tmp_path, tmp_path / name):
        opened = open_snapshot(path, CONFIG)
        assert (opened.layout, opened.users) == ("word2vec", None)
        assert [value.decode() for value in opened.items.ids().tolist()] == trained.wv.index_to_key
        np.testing.assert_array_equal(vectors(opened.items), trained.wv.vectors)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("ending", ["\n", "\r\n", " \n"])
def test_headers_and_line_ends_may_differ(tmp_path: Path, header: bool, ending: str) -> None:
    """Files without a header, with carriage returns, with trailing blanks or without a last line end are read."""
    made = model(items=30).named()
    names = made.item_ids.tolist()
    data = text(names, made.items, header=header, ending=ending)
    for content in (data, data.rstrip()):
        (tmp_path / "vectors.txt").write_bytes(content)
        items = open_snapshot(tmp_path, CONFIG).items
        np.testing.assert_array_equal(vectors(items), made.items)
        assert [value.decode() for value in items.ids().tolist()] == names


def test_text_of_many_blocks_is_read(tmp_path: Path) -> None:
    """There are several blocks of the specified size and a shorter last one."""
    rows = block_rows(100) + 11
    matrix = np.random.default_rng(0).standard_normal((rows, 100)).astype(np.float32)
    (tmp_path / "m.vec").write_bytes(text([f"w{row}" for row in range(rows)], matrix))
    items = open_snapshot(tmp_path / "m.vec", CONFIG).items
    assert [len(block) for _, block in items.blocks()] == [block_rows(100), 11]
    np.testing.assert_array_equal(vectors(items), matrix)


words = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters="\ufeff"),
    min_size=1,
    max_size=8,
)


@settings(max_examples=50)
@given(st.dictionaries(words, st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=20))
def test_any_words_and_numbers_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, list[float]]
) -> None:
    """Every float32 that Python prints is read back exactly, with its word."""
    path = tmp_path_factory.mktemp("s") / "m.vec"
    matrix = np.array(list(rows.values()), np.float32)
    path.write_bytes(text(list(rows), matrix))
    items = open_snapshot(path, CONFIG).items
    np.testing.assert_array_equal(vectors(items), matrix)
    assert [value.decode() for value in items.ids().tolist()] == list(rows)


FORGED = {
    "two blanks behind an id": b"2 2\na  1 2\nb 1 2\n",
    "two blanks in an id": b"2 2\na 1 2\nnew  york 1 2\n",
    "a byte order mark": b"\xef\xbb\xbfa 1 2\nb 1 2\n",
    "a byte order mark before a header": b"\xef\xbb\xbf2 2\na 1 2\nb 1 2\n",
    "empty": b"",
    "binary": bytes(range(256)),
    "one word": b"hello\n",
    "header only": b"3 2\n",
    "prose": b"These are notes about the model\nand more\n",
    "a header that does not fit": b"2 3\na 1 2\nb 3 4\n",
    "nothing but pairs": b"1 2\n3 4\n",
    "width one": b"a 1\nb 2\n",
    "zero rows": b"0 2\n",
    "billions of rows": b"999999999999999999 2\na 1 2\n",
    "more rows than the header says": b"1 2\na 1 2\nb 3 4\n",
    "fewer rows than the header says": b"3 2\na 1 2\nb 3.00000000 4\n",
    "a row too short": b"2 2\na 1 2\nb 3\n",
    "a row too long": b"2 2\na 1 2\nb 3 4 5\n",
    "a blank line": b"2 2\na 1 2\n\nb 3 4\n",
    "two spaces": b"2 2\na 1 2\nb  3\n",
    "a word for a number": b"2 2\na 1 2\nb x 4\n",
    "a comma": b"2 2\na 1 2\nb 3,0 4\n",
    "an underscore": b"2 2\na 1 2\nb 1_0 4\n",
    "a comment": b"2 2\na 1 2\nb 3 #4\n",
    "repeated words": b"2 2\na 1 2\na 3 4\n",
    "not UTF-8": b"2 2\na 1 2\n\xff 3 4\n",
    "a NUL": b"2 2\na 1 2\nb\0 3 4\n",
    "a word too long": b"2 2\na 1 2\n" + b"b" * 2000 + b" 3 4\n",
    "an endless line": b"1 2 3 4" * 2**20,
}


@pytest.mark.parametrize("forgery", FORGED)
def test_other_text_is_refused(tmp_path: Path, forgery: str) -> None:
    """Each message is one line that names the file; no row is skipped, padded or guessed."""
    (tmp_path / "m.vec").write_bytes(FORGED[forgery])
    with pytest.raises(SnapshotError, match=r"m\.vec") as refusal:
        read(tmp_path)
    assert "\n" not in str(refusal.value)


def test_text_files_beside_another_layout_are_ignored(tmp_path: Path) -> None:
    """A text file that does not start with vectors is not a layout of its own."""
    np.savez(tmp_path / "m.npz", items=np.ones((3, 2), np.float32), item_ids=np.arange(3))
    (tmp_path / "README.txt").write_text("trained on Monday\n")
    assert open_snapshot(tmp_path, CONFIG).layout == "npz"


def test_two_text_files_are_refused(tmp_path: Path) -> None:
    """Neither of them is chosen."""
    for name in ("a.vec", "b.vec"):
        (tmp_path / name).write_bytes(b"1 2\na 1 2\n")
    with pytest.raises(SnapshotError, match=r"a\.vec, b\.vec"):
        open_snapshot(tmp_path, CONFIG)


def test_a_file_that_changes_between_passes_is_noticed(tmp_path: Path) -> None:
    """A changed width is detected."""
    (tmp_path / "m.vec").write_bytes(b"1 2\na 1 2\n")
    items = open_snapshot(tmp_path, CONFIG).items
    (tmp_path / "m.vec").write_bytes(b"1 3\na 1 2 3\n")
    with pytest.raises(SnapshotChanged):
        vectors(items)
