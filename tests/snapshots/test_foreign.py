"""Unsupported formats are recognised by their first bytes, whatever the file name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import shutil
import sqlite3
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.snapshots import open_snapshot

CONFIG = SnapshotConfig()


def zipped(*names: str) -> bytes:
    """Return a zip archive with files of these names."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 40)
    return data.getvalue()


def database() -> bytes:
    """Return an SQLite database."""
    connection = sqlite3.connect(":memory:")
    connection.execute("create table items (id)")
    return bytes(connection.serialize())


def archive() -> bytes:
    """Return a tar file."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("items.npy"))
    return data.getvalue()


def saved(array: object) -> bytes:
    """Return an ``.npy`` file."""
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


PICKLE = pickle.dumps({"items": [1.5]})
JOBLIB = b"\x80\x04\x95\x9e\x00\x00\x00\x00\x00\x00\x00\x8c\x13joblib.numpy_pickle\x94\x8c\x11NumpyArrayWrapper\x94"
TORCH_OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
#: Contents of a file, its format in the message, and how the hint begins.
FILES = {
    "torch": (zipped("model/data.pkl", "model/byteorder", "model/data/0"), "PyTorch", "torch.load"),
    "torch before 1.6": (TORCH_OLD, "PyTorch", "torch.load"),
    "pickle": (PICKLE, "pickle", "read_pickle"),
    "pickle, protocol 0": (pickle.dumps({"items": 1}, 0), "pickle", "read_pickle"),
    "pickle, protocol 2": (pickle.dumps({"items": 1}, 2), "pickle", "read_pickle"),
    "pickle, protocol 3": (pickle.dumps([1, 2], 3), "pickle", "read_pickle"),
    "pickle of an object": (pickle.dumps(Path("x"), 0), "pickle", "read_pickle"),
    "pickle in gzip": (gzip.compress(PICKLE), "pickle", "read_pickle"),
    "joblib": (JOBLIB, "joblib", "joblib.load"),
    "joblib, packed": (zlib.compress(JOBLIB, 3), "joblib", "joblib.load"),
    "gensim": (
        b"\x80\x04\x95+\x00\x00\x00\x00\x00\x00\x00\x8c\x15gensim.models.word2vec\x94",
        "gensim",
        "save_word2vec",
    ),
    "fastText": (b"\xba\x16\x4f\x2f\x0c\x00\x00\x00", "fastText", "load_facebook_vectors"),
    "HDF5": (b"\x89HDF\r\n\x1a\n\x00", "HDF5", "h5py"),
    "MATLAB 5": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64, Created on", "MATLAB", "loadmat"),
    "MATLAB 7.3": (b"MATLAB 7.3 MAT-file, Platform: GLNXA64", "HDF5", "h5py"),
    "SQLite": (database(), "SQLite", "read_sql"),
    "DuckDB": (b"\x01\x02\x03\x04\x05\x06\x07\x08DUCK\x40\x00", "DuckDB", "COPY"),
    "RData": (gzip.compress(b"RDX3\nX\n\x00\x00\x00\x03"), "R data file", "write.csv"),
    "RDS": (gzip.compress(b"X\n\x00\x00\x00\x03\x00\x04"), "R data file", "write.csv"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "ONNX", "onnx.load"),
    "FAISS": (b"IxFI" + np.array([64, 12], "<i4").tobytes() + bytes(16), "an index", "numpy.savez"),
    "Avro": (b"Obj\x01\x04\x14avro.codec", "Avro", "read_avro"),
    "ORC": (b"ORC\x11\x00\x00", "ORC", "read_orc"),
    "Excel": (zipped("[Content_Types].xml", "xl/workbook.xml"), "Excel", "read_excel"),
    "Keras": (zipped("metadata.json", "config.json"), "Keras", "keras"),
    "zip": (zipped("items.csv"), "archive", "unzip"),
    "tar": (archive(), "archive", "tar -xf"),
    "tar in gzip": (gzip.compress(archive()), "archive", "tar -xf"),
    "xz": (b"\xfd7zXZ\x00\x00\x04", "compressed", "xz -d "),
    "bzip2": (b"BZh91AY&SY", "compressed", "bunzip2"),
    "Git LFS": (LFS, "Git LFS pointer", "git lfs pull"),
    "a page": (b"<!DOCTYPE html><html><body>403 Forbidden", "HTML or XML", "download"),
    "an answer of S3": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "HTML or XML", "download"),
}


def refusal(path: Path) -> SnapshotError:
    """Return the refusal of a snapshot, after checking that it is one line."""
    with pytest.raises(SnapshotError) as refused:
        open_snapshot(path, CONFIG)
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.mark.parametrize("name", ["day.bin", "model", "day.dat", "day.txt", "day.csv"])
@pytest.mark.parametrize("kind", FILES)
def test_unsupported_formats_are_recognised_by_their_first_bytes(tmp_path: Path, kind: str, name: str) -> None:
    """Alone and in a directory, the message has the line that converts it; none is read as word2vec_binary."""
    data, what, line = FILES[kind]
    (tmp_path / name).write_bytes(data)
    for path in (tmp_path, tmp_path / name):
        error = refusal(path)
        assert error.what == "no known layout"
        assert name in str(error.found)
        assert what in str(error.found)
        assert line in str(error.hint)


@pytest.mark.parametrize("name", ["items.npy", "day.npz", "items.safetensors", "day.vec", "day.npz/day.npz"])
@pytest.mark.parametrize("kind", FILES)
def test_a_misnamed_file_is_recognised_by_its_first_bytes(tmp_path: Path, kind: str, name: str) -> None:
    """A Git LFS pointer, a pickle or a web page with the name of an array is recognised."""
    data, what, line = FILES[kind]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)
    np.save(tmp_path / "item_ids.npy", np.arange(3))
    error = refusal((tmp_path / name).parent)
    if kind == "zip" and name.endswith(".npz"):  # an archive, but not of arrays
        assert "no arrays of a snapshot" in str(error)
        return
    assert error.what == "contents do not match the name"
    assert error.where == str(tmp_path / name)
    assert what in str(error.found)
    assert line in str(error.hint)


@pytest.mark.parametrize("name", ["items.parquet", "items.feather", "items/part-0.parquet", "items/b=1/part-0.parquet"])
def test_part_files_that_are_pointers_are_named_as_such(tmp_path: Path, name: str) -> None:
    """They contain neither parquet nor Arrow data; the message names the file."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(LFS)
    error = refusal(tmp_path)
    assert (error.what, error.where) == ("contents do not match the name", str(tmp_path / name))
    assert "Git LFS pointer" in str(error)


def leave_checkpoint(path: Path) -> None:
    """Write a TensorFlow checkpoint."""
    (path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-100"\n')
    (path / "model.ckpt-100.index").write_bytes(b"\x00\x00\x13")
    (path / "model.ckpt-100.data-00000-of-00001").write_bytes(bytes(64))


def leave_saved_model(path: Path) -> None:
    """Write a SavedModel."""
    (path / "variables").mkdir()
    (path / "saved_model.pb").write_bytes(b"\x08\x01\x12\x10")
    (path / "variables" / "variables.index").write_bytes(b"\x00")
    (path / "fingerprint.pb").write_bytes(b"\x09")


def leave_spark_model(path: Path) -> None:
    """Write a Word2VecModel of Spark."""
    for name in ("metadata", "data"):
        (path / name).mkdir()
    (path / "metadata" / "part-00000").write_text('{"class":"org.apache.spark.ml.feature.Word2VecModel"}')
    (path / "data" / "part-00000-7f.snappy.parquet").write_bytes(b"PAR1")


@pytest.mark.parametrize(
    ("leave", "what", "line"),
    [
        (leave_checkpoint, "a TensorFlow checkpoint", "tf.train.load_checkpoint"),
        (leave_saved_model, "a TensorFlow SavedModel", "tf.train.load_checkpoint"),
        (leave_spark_model, "a Spark model other than ALS", "spark.read.parquet"),
    ],
)
def test_directories_of_models_are_named(tmp_path: Path, leave: Callable[[Path], None], what: str, line: str) -> None:
    """They are recognised as the snapshot itself and one level below it."""
    for path in (tmp_path / "model", tmp_path / "day=1" / "model"):
        path.mkdir(parents=True)
        leave(path)
        for given in (path, path.parent) if path.parent != tmp_path else (path,):
            error = refusal(given)
            assert what in str(error.found)
            assert line in str(error.hint)


def test_objects_in_an_array_are_never_unpickled(tmp_path: Path) -> None:
    """For ids, the hint has the line that saves them as strings."""
    np.save(tmp_path / "items.npy", np.ones((3, 2), "f4"))
    np.save(tmp_path / "item_ids.npy", np.array(["a", "b", None], object), allow_pickle=True)
    error = refusal(tmp_path)
    assert "Python objects" in str(error.found)
    assert "ids.astype(str)" in str(error.hint)


@pytest.mark.parametrize("word", ["IxFI", "ORC", "BZh", "GGUF", "X", "PK", "Obj", "c", "(dp0"])
def test_words_that_look_like_magic_bytes_are_read_as_words(tmp_path: Path, word: str) -> None:
    """Text vectors are read even if the first id looks like the magic bytes of another format."""
    (tmp_path / "day.vec").write_text(f"{word} 0.5 1.5 2\nother 1 2 3.5\n")
    opened = open_snapshot(tmp_path / "day.vec", CONFIG)
    assert [id_.decode() for id_ in opened.items.ids().tolist()] == [word, "other"]


@pytest.mark.parametrize("name", ["items.CSV", "items.Parquet", "items.NPY", "day.VEC"])
def test_a_suffix_in_capital_letters_is_reported(tmp_path: Path, name: str) -> None:
    """The hint is the command that renames the file."""
    (tmp_path / name).write_bytes(b"id,d0,d1\n1,0.5,1.5\n")
    error = refusal(tmp_path)
    assert "an upper-case suffix" in str(error.found)
    assert str(error.hint) == f"mv {tmp_path / name} {(tmp_path / name.lower())}"


@pytest.mark.parametrize(("pack", "ending"), [(gzip.compress, "gz"), (bz2.compress, "bz2"), (lzma.compress, "xz")])
def test_the_hint_decompresses_a_file_with_a_plain_name(
    tmp_path: Path, pack: Callable[[bytes], bytes], ending: str
) -> None:
    """The tools decompress only files with their suffix: the file is renamed first, and back afterwards."""
    program = {"gz": "gunzip", "bz2": "bunzip2", "xz": "xz"}[ending]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    (tmp_path / "items.npy").write_bytes(pack(saved(np.ones((3, 2), "f4"))))
    np.save(tmp_path / "item_ids.npy", np.arange(3))
    subprocess.run(["bash", "-c", str(refusal(tmp_path).hint)], check=True)
    assert open_snapshot(tmp_path, CONFIG).items.count == 3
