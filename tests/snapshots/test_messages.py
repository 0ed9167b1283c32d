"""A snapshot of no known layout: one line with what was found, and code that converts it."""

from __future__ import annotations

import pickle
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.snapshots import open_snapshot

CONFIG = SnapshotConfig()
ROWS = np.random.default_rng(1).standard_normal((12, 4)).astype(np.float32)


def refusal(path: Path) -> SnapshotError:
    """Return the refusal of a snapshot, after checking that it is one short line."""
    with pytest.raises(SnapshotError) as refused:
        open_snapshot(path, CONFIG)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 320 + 5 * len(str(path))
    return refused.value


@pytest.mark.parametrize(
    ("name", "seen", "hint"),
    [
        ("model.pth", "PyTorch", "torch.load"),
        ("model.pt", "PyTorch", "torch.load"),
        ("pytorch_model.bin", "PyTorch", "torch"),
        ("model.pkl", "pickle", "numpy"),
        ("items.csv", "CSV", "id,embedding"),
        ("items.tsv", "TSV", "id,embedding"),
        ("w2v.model", "gensim", "save_word2vec_format"),
        ("w2v.kv", "gensim", "save_word2vec_format"),
        ("w2v.bin", "but not word2vec", "numpy.savez"),
        ("items.npy.gz", "compressed", "gunzip"),
        ("items.npy.zst", "compressed", "zstd"),
        ("items.lance", "Lance", "lance.dataset"),
        ("items.h5", "HDF5", "h5py"),
        ("items.tfrecord", "TFRecord", "numpy.savez"),
        ("items.faiss", "index", "vectors"),
        ("items.jsonl", "JSON", "read_json"),
        ("model.wv.vectors.npy", "gensim", "save_word2vec_format"),
        ("model.syn1neg.npy", "gensim", "save_word2vec_format"),
        ("embeddings.npy", "another name", "item_ids"),
        ("img_emb_0.npy", "numbered", "item_ids-0"),
        ("day.zip", "archive", "unzip"),
        ("items.orc", "ORC", "read_orc"),
        ("items.avro", "Avro", "polars"),
        ("model.safetensors", "another name", "items.safeten"),
    ],
)
def test_messages_name_the_format_and_how_to_convert_it(tmp_path: Path, name: str, seen: str, hint: str) -> None:
    """Alone in a directory, the file is named, and the layouts are not listed."""
    (tmp_path / name).write_bytes(b"\x00")
    error = refusal(tmp_path)
    assert error.what == "no known layout"
    assert name in str(error.found)
    assert seen in str(error.found)
    assert hint in str(error.hint)
    assert error.expected is None


def keyed_vectors(path: Path) -> Path:
    from gensim.models import KeyedVectors

    keyed = KeyedVectors(4)
    keyed.add_vectors([f"i{number}" for number in range(12)], ROWS)
    keyed.save(str(path / "w2v.kv"), separately=["vectors"])
    return path


SAVED_BY_GENSIM = [pytest.param(write, marks=pytest.mark.services("gensim")) for write in (keyed_vectors,)]


@pytest.mark.parametrize("write", SAVED_BY_GENSIM)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a single line does not close the file
@pytest.mark.parametrize("folder", ["plain", "two  blanks \n 'and' a line"])
def test_the_printed_conversion_works_as_printed(tmp_path: Path, write: Callable[[Path], Path], folder: str) -> None:
    """Run by Python or a shell, it writes a readable snapshot with the same vectors, order and ids."""
    tmp_path = tmp_path / folder
    tmp_path.mkdir()
    hint = str(refusal(write(tmp_path))).partition("hint: ")[2]
    if hint.startswith("in Python: "):
        line = re.split(r", and the ids| with the name of", hint.removeprefix("in Python: "))[0]
        exec(line, {})
    else:
        subprocess.run(["bash", "-c", hint.partition(" if ")[0]], check=True)
    made = next((path for path in tmp_path.iterdir() if path.suffix in {".vec", ".parquet"}), tmp_path)
    items = open_snapshot(made, CONFIG).items
    np.testing.assert_allclose(np.concatenate([block for _, block in items.blocks()]), ROWS, rtol=1e-5)
    assert [re.sub(r"\D", "", str(id_)) for id_ in items.ids().tolist()] == [str(number) for number in range(12)]


@pytest.mark.services("pandas")
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_decimal_commas_are_converted_by_the_printed_line(tmp_path: Path, ending: str) -> None:
    """A table with a European locale is refused with a line of Python that converts it."""
    separator = ";" if ending == ".csv" else "\t"
    lines = [separator.join(["item_id", "d0", "d1", "d2", "d3"])]
    lines += [separator.join([str(id_), *(f"{value:.6f}" for value in row)]) for id_, row in enumerate(ROWS)]
    (tmp_path / f"items{ending}").write_text("\n".join([lines[0], *(line.replace(".", ",") for line in lines[1:])]))
    error = refusal(tmp_path)
    assert "decimal commas" in str(error.found)
    exec(str(error.hint).removeprefix("in Python: "), {})
    items = open_snapshot(tmp_path / "items.parquet", CONFIG).items
    np.testing.assert_allclose(np.concatenate([block for _, block in items.blocks()]), ROWS, atol=1e-6)
    assert items.ids().tolist() == list(range(12))


@pytest.mark.parametrize(
    "name",
    [
        "w2v.model",
        "w2v.kv",
        "w2v.model.vectors.npy",
        "w2v.bin",
        "items.csv",
        "model.pkl",
        "items.h5",
    ],
)
def test_a_message_fits_two_lines_of_a_terminal(tmp_path: Path, name: str) -> None:
    """It excludes the paths: that of the file and that of the snapshot."""
    (tmp_path / name).write_bytes(b"\x00")
    error = refusal(tmp_path)
    assert str(error.hint).count(str(tmp_path)) <= 2
    assert len(str(error.hint).replace(str(tmp_path), "")) <= 160


@pytest.mark.parametrize(
    "nights", [["day=1"], ["day=1", "day=2"], ["2026-11-01", "2026-11-02", "logs"], ["run_7f", "run_a1"]]
)
@pytest.mark.parametrize("entry", ["items.npy", "items.parquet", "items"])
def test_a_directory_of_snapshots_is_not_a_table(tmp_path: Path, nights: list[str], entry: str) -> None:
    """If a watched directory is given as one snapshot, the hint names a snapshot in it."""
    for night in nights:
        (tmp_path / night).mkdir()
        if night != "logs":
            (tmp_path / night / entry).mkdir() if entry == "items" else (tmp_path / night / entry).write_bytes(b"")
    error = refusal(tmp_path)
    assert "a directory of snapshots" in str(error)
    assert (tmp_path / str(error.hint).rpartition("/")[2]).is_dir()


@pytest.mark.parametrize("depth", [""])
def test_partitioned_tables_are_reported_as_such(tmp_path: Path, depth: str) -> None:
    """At the root, the directory may also be a watched one."""
    for bucket in range(2):
        folder = tmp_path / depth / f"bucket={bucket}"
        folder.mkdir(parents=True)
        (folder / "part-0.parquet").write_bytes(b"PAR1")
    assert "partitioned tables are not read" in str(refusal(tmp_path))


@pytest.mark.parametrize("kind", ["vectors", "syn1neg", "wv.vectors"])
def test_matrices_of_gensim_are_never_read_alone(tmp_path: Path, kind: str) -> None:
    """They are refused even with row numbers as ids, since their words are in the pickle."""
    np.save(tmp_path / f"w2v.model.{kind}.npy", ROWS)
    (tmp_path / "w2v.model").write_bytes(pickle.dumps({}))
    for path in (tmp_path / f"w2v.model.{kind}.npy", tmp_path):
        with pytest.raises(SnapshotError, match="save_word2vec_format"):
            open_snapshot(path, SnapshotConfig(row_number_ids=True))
