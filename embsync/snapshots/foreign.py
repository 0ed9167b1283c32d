"""Formats that no layout reads: recognised by first bytes or name, each with the command that converts it.

First bytes take precedence, since a pickle or a Git LFS pointer may have any name. In a command, ``{py}`` is the file,
``{dir}`` its directory with a slash, ``{model}`` the pickle it belongs to, and ``{parquet}``, ``{vec}`` and ``{npz}``
the same path with another ending, quoted for Python; ``{sh}``, ``{shto}`` (without its ending) and ``{shdir}`` (its
directory) are quoted for a shell. A command has the path only once where possible, to fit on a terminal.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass

#: Bytes that :func:`by_start` inspects.
LONGEST_START = 1024
GENSIM_ARRAY = re.compile(r"\.(vectors|syn1neg|syn1|vectors_ngrams|vectors_vocab|vectors_lockf|cum_table)\.npy$", re.I)

_GENSIM = (
    "in Python: import gensim; p = {}; m = gensim.utils.SaveLoad.load(p); "
    "getattr(m, 'wv', m).save_word2vec_format(p + '.vec')"
)
_CHECKPOINT = (
    "in Python: import numpy, tensorflow as tf; r = tf.train.load_checkpoint({}); numpy.savez({{npz}}, "
    "items=r.get_tensor(NAME), item_ids=…) with a name that r.get_variable_to_shape_map() gives"
)
_EXPORT = "write ids and vectors with numpy.savez('day.npz', items=…, item_ids=…) where the model is exported"
_NAMED = "numpy.savez({npz}, items=…, item_ids=…)"


@dataclass(frozen=True)
class Foreign:
    """A format: what it is, the command that converts it, and the pattern of its file names."""

    what: str
    command: str
    endings: str = "$^"
    #: The command for a file with another ending.
    renamed: str | None = None

    def is_named(self, name: str) -> bool:
        """Return whether a file of this format may have this name."""
        return re.search(self.endings, name, re.IGNORECASE) is not None


_ZARR = Foreign(
    "a Zarr group",
    "in Python: import numpy, zarr; g = zarr.open({py}); numpy.savez({npz}, items=g['items'], item_ids=g['item_ids'])",
)
KINDS = {
    "text": Foreign(
        "CSV or TSV without a column of vectors",
        'write id,embedding with quoted lists such as "[0.1, 0.2]", or id,d0,d1 and so on, one column per dimension; '
        "numbers need a decimal point",
        r"\.[ct]sv(\.gz|\.zst)?$",
    ),
    "gzip": Foreign("compressed", "gunzip -k {sh}", r"\.(gz|gzip)$", "mv {sh} {sh}.gz && gunzip {sh}.gz"),
    "zstd": Foreign("compressed", "zstd -d {sh}", r"\.(zst|zstd)$", "mv {sh} {sh}.zst && zstd -d --rm {sh}.zst"),
    "bzip2": Foreign("compressed", "bunzip2 -k {sh}", r"\.bz2$", "mv {sh} {sh}.bz2 && bunzip2 {sh}.bz2"),
    "xz": Foreign("compressed", "xz -dk {sh}", r"\.(xz|lzma)$", "mv {sh} {sh}.xz && xz -d {sh}.xz"),
    "tar": Foreign("an archive", "tar -xf {sh} -C {shdir}", r"\.(tar|tgz)(\.\w+)?$"),
    "npz": Foreign("an .npz under another name", "mv {sh} {shto}.npz", r"\.npz$"),
    "zip": Foreign("an archive", "unzip {sh} -d {shdir}", r"\.(zip|npz)$"),
    "json lines": Foreign(
        "JSON lines",
        "in Python: import pandas; pandas.read_json({py}, lines=True).to_parquet({parquet})",
        r"\.(jsonl|ndjson)$",
    ),
    "json": Foreign("JSON", "in Python: import pandas; pandas.read_json({py}).to_parquet({parquet})", r"\.json$"),
    "arrow": Foreign(
        "Arrow IPC (Feather)",
        "in Python: import pyarrow.feather as f, pyarrow.parquet as p; p.write_table(f.read_table({py}), {parquet})",
        r"\.(feather|arrows?|ipc)$",
        "mv {sh} {shto}.arrow",
    ),
    "orc": Foreign("ORC", "in Python: import pandas; pandas.read_orc({py}).to_parquet({parquet})", r"\.orc$"),
    "avro": Foreign("Avro", "in Python: import polars; polars.read_avro({py}).write_parquet({parquet})", r"\.avro$"),
    "gensim array": Foreign(
        "a matrix that gensim keeps beside its pickle", _GENSIM.format("{model}"), GENSIM_ARRAY.pattern
    ),
    "gensim": Foreign("a pickle, probably gensim's", _GENSIM.format("{py}"), r"\.(model|kv|wordvectors|w2v|d2v)$"),
    "tensorflow": Foreign(
        "a TensorFlow checkpoint", _CHECKPOINT.format("{dir}"), r"\.data-\d{5}-of-\d{5}$|ckpt.*\.(index|meta)$"
    ),
    "torch": Foreign(
        "a PyTorch file, which is a pickle",
        "in Python: import numpy, torch; m = torch.load({py}, map_location='cpu', weights_only=True); "
        "numpy.save({dir} + 'items', m['item_embedding.weight'].numpy()) with the name of your tensor, and the "
        "ids in item_ids.npy",
        r"^(pytorch_model|model_state|optimizer).*\.bin$|\.(pt|pth|ckpt)$",
    ),
    "fasttext": Foreign(
        "a fastText model",
        "in Python: from gensim.models.fasttext import load_facebook_vectors; load_facebook_vectors({py})"
        ".save_word2vec_format({vec})",
    ),
    "binary": Foreign("binary, but not word2vec, which begins with 'count width'", _EXPORT, r"\.bin$"),
    "joblib": Foreign(
        "a joblib pickle, which is never read",
        f"in Python: import joblib, numpy; m = joblib.load({{py}}); {_NAMED}",
        r"\.(joblib|jl)(\.\w+)?$",
    ),
    "pickle": Foreign(
        "a pickle, which is never read",
        f"in Python: import numpy, pandas; m = pandas.read_pickle({{py}}); {_NAMED}",
        r"\.(pkl|pickle|dill|p)(\.\w+)?$",
    ),
    "hdf5": Foreign(
        "HDF5",
        "in Python: import h5py, numpy; f = h5py.File({py}); numpy.savez({npz}, items=f['items'], "
        "item_ids=f['item_ids']) with the names that list(f) gives",
        r"\.(h5|hdf5?|he5|mat|keras|nc)$",
    ),
    "tfrecord": Foreign("TFRecord", _EXPORT, r"\.tfrecords?(-\d+-of-\d+)?$"),
    "lance": Foreign(
        "a Lance table",
        "in Python: import lance, pyarrow.parquet as p; p.write_table(lance.dataset({py}).to_table(), {parquet})",
        r"\.lance$",
    ),
    "index": Foreign(
        "an index, whose ids are not reliable",
        "write the vectors that it was built from: numpy.savez('day.npz', items=…, item_ids=…)",
        r"\.(faiss|index|ann|hnsw|usearch|voy)$",
    ),
    "other text": Foreign("perhaps word2vec text", "mv {sh} {shto}.vec", r"\.(glove|emb|embedding|embeddings|w2vec)$"),
    "onnx": Foreign(
        "an ONNX model",
        "in Python: import numpy, onnx; m = {{i.name: onnx.numpy_helper.to_array(i) for i in "
        f"onnx.load({{py}}).graph.initializer}}}}; {_NAMED}",
        r"\.onnx$",
    ),
    "matlab": Foreign(
        "a MATLAB file",
        "in Python: import numpy, scipy.io; m = scipy.io.loadmat({py}); numpy.savez({npz}, items=m['items'], "
        "item_ids=m['item_ids'].ravel()) with the names that list(m) gives",
        r"\.mat$",
    ),
    "sqlite": Foreign(
        "an SQLite database",
        "in Python: import sqlite3, pandas; pandas.read_sql('SELECT id, embedding FROM …', "
        "sqlite3.connect({py})).to_parquet({parquet})",
        r"\.(db3?|sqlite3?)$",
    ),
    "duckdb": Foreign(
        "a DuckDB database",
        "duckdb {sh} \"COPY (SELECT id, embedding FROM …) TO 'items.parquet'\"",
        r"\.(duckdb|ddb|db)$",
    ),
    "r": Foreign(
        "an R data file",
        "in R: load({py}) or readRDS({py}); write.csv(data.frame(id=rownames(items), items), 'items.csv', "
        "row.names=FALSE)",
        r"\.(rds|rda|rdata)$",
    ),
    "excel": Foreign(
        "an Excel workbook", "in Python: import pandas; pandas.read_excel({py}).to_parquet({parquet})", r"\.xlsx?$"
    ),
    "keras": Foreign(
        "a Keras model",
        f"in Python: import keras, numpy; m = keras.saving.load_model({{py}}); {_NAMED} from its layers' get_weights()",
        r"\.keras$",
    ),
    "other model": Foreign("of a format that is not read", _EXPORT, r"\.(pb|tflite|gguf|ggml)$"),
    "numbered array": Foreign(
        "a numbered part of an array",
        "keep all parts in one directory, and the ids as item_ids.npy or as parts (item_ids-0.npy) beside them",
        r"[_-]?\d+\.npy$",
    ),
    "npy": Foreign(
        "an array under another name", "mv {sh} {shdir}/items.npy, and the ids to item_ids.npy beside it", r"\.npy$"
    ),
    "safetensors": Foreign(
        "safetensors under another name",
        "mv {sh} {shdir}/items.safetensors, with tensors vectors and ids",
        r"\.safetensors$",
    ),
    "parquet": Foreign(
        "parquet under another name",
        "mv {sh} {shdir}/items.parquet (or users.parquet)",
        r"\.parq(uet)?$|\.pq$",
    ),
    "bare parquet": Foreign("parquet without its ending", "mv {sh} {shto}.parquet", r"\.parq(uet)?$|\.pq$"),
    "lfs": Foreign("a Git LFS pointer instead of the file", "git lfs pull, where {sh} comes from"),
    "page": Foreign("an HTML or XML page, perhaps from a failed download", "download {sh} again"),
}

_DECIMAL_COMMA = re.compile(rb"([;\t])-?\d+,\d+(?=[;\t\r\n]|$)", re.M)
#: Models that are directories, by files that each has.
_MODELS = (
    (
        {"saved_model.pb"},
        Foreign("a TensorFlow SavedModel", _CHECKPOINT.format("{py} + '/variables/variables'")),
    ),
    ({"checkpoint"}, Foreign("a TensorFlow checkpoint", _CHECKPOINT.format("{py}"))),
    (
        {"metadata", "data"},
        Foreign(
            "a Spark model other than ALS",
            "in Spark: spark.read.parquet({py} + '/data') shows its contents; write ids and vectors with "
            ".write.parquet('items')",
        ),
    ),
    ({"MLmodel"}, Foreign("an MLflow model", _EXPORT)),
    ({".zgroup"}, _ZARR),
    ({"zarr.json"}, _ZARR),
)
_PICKLE = re.compile(
    rb"\x80[\x04\x05]\x95|\x80[\x02\x03][}\])(c\x8a\x8b\x8cGIJKMNQUVXq]|c[A-Za-z_][\w.]*\n\w+\n|\((?:dp|lp|i)\d*\n",
    re.S,
)
_TORCH_BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ONNX = re.compile(rb"\x08[\x03-\x1f]\x12[\x01-\x40](pytorch|tf2onnx|skl2onnx|onnx|keras)", re.I)
_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml)", re.I)
_FAISS = re.compile(rb"I[A-Z-a-z][A-Za-z0-9]{2}[^\0]..\0", re.S)
_ZIPPED = (
    (re.compile(rb"\.pkl$"), "torch"),
    (re.compile(rb"\.npy$"), "npz"),
    (re.compile(rb"^\[Content_Types\]|^xl/|^_rels/"), "excel"),
    (re.compile(rb"^(metadata|config)\.json$|\.weights\.h5$"), "keras"),
)
_STARTS = (
    ("npy", b"\x93NUMPY"),
    ("bare parquet", b"PAR1"),
    ("arrow", b"ARROW1\0\0"),
    ("arrow", b"FEA1"),
    ("orc", b"ORC"),
    ("avro", b"Obj\x01"),
    ("hdf5", b"\x89HDF\r\n\x1a\n"),
    ("hdf5", b"MATLAB 7.3 MAT-file"),
    ("matlab", b"MATLAB 5.0 MAT-file"),
    ("sqlite", b"SQLite format 3\0"),
    ("r", b"RDX2\n"),
    ("r", b"RDX3\n"),
    ("r", b"X\n\0\0\0"),
    ("other model", b"GGUF"),
    ("xz", b"\xfd7zXZ\0"),
    ("bzip2", b"BZh"),
    ("zstd", b"\x28\xb5\x2f\xfd"),
    ("fasttext", b"\xba\x16\x4f\x2f"),
    ("lfs", b"version https://git-lfs.github.com/spec/"),
)
_PATTERNS: tuple[tuple[str, Callable[[bytes], object]], ...] = (
    ("page", _PAGE.match),
    ("onnx", _ONNX.match),
    ("index", _FAISS.match),
    ("tar", lambda data: data[257:262] == b"ustar"),
    ("duckdb", lambda data: data[8:12] == b"DUCK"),
    ("safetensors", lambda data: data[8:10] == b'{"' and 2 <= int.from_bytes(data[:8], "little") < 2**27),
)
#: Formats based on pickle whose file names are more specific than their first bytes.
_PICKLED = {"gensim", "torch", "joblib"}


def by_start(data: bytes) -> str | None:
    """Return the kind of file that begins with these bytes, None if they do not show it."""
    if data.startswith(b"PK\x03\x04"):
        first = data[30 : 30 + int.from_bytes(data[26:28], "little")]
        return next((kind for pattern, kind in _ZIPPED if pattern.search(first)), "zip")
    if data.startswith((b"\x1f\x8b", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")):
        return _inside(data)
    if data.startswith(_TORCH_BEFORE_ZIP):
        return "torch"
    if _PICKLE.match(data):
        return "joblib" if b"joblib" in data else "gensim" if b"gensim." in data else "pickle"
    found = next((kind for kind, start in _STARTS if data.startswith(start)), None)
    return found or next((kind for kind, matches in _PATTERNS if matches(data)), None)


def by_name(name: str) -> str | None:
    """Return the kind of file that has this name."""
    return next((kind for kind, foreign in KINDS.items() if foreign.is_named(name)), None)


def foreign_kind(name: str, start: bytes) -> str | None:
    """Return the kind of a file by its first bytes, else by its name, None if neither shows it."""
    named, begun = by_name(name), by_start(start)
    if begun is None or KINDS[begun].is_named(name) or (begun in {"pickle", "joblib"} and named in _PICKLED):
        return named
    return begun


def decimal_commas(start: bytes) -> Foreign | None:
    """Return how to convert a table that begins with numbers such as ``0,5``, None for any other."""
    found = _DECIMAL_COMMA.search(start)
    if found is None:
        return None
    line = f"pandas.read_csv({{py}}, sep={found[1].decode()!r}, decimal=',').to_parquet({{parquet}})"
    return Foreign("CSV or TSV with decimal commas", f"in Python: import pandas; {line}")


def model_of(entries: Collection[str]) -> Foreign | None:
    """Return the kind of model whose directory has these entries."""
    return next((model for files, model in _MODELS if files <= {*entries}), None)


def contradicts(name: str, start: bytes) -> Foreign | None:
    """Return the format of a file whose first bytes contradict its ending."""
    begun = by_start(start) if "." in name else None
    return None if begun is None or KINDS[begun].is_named(name) else KINDS[begun]


def _inside(data: bytes) -> str | None:
    """Return the kind of a compressed file: a pickle or R file, which are often compressed, or an archive."""
    try:
        inner = zlib.decompressobj(wbits=47).decompress(data, LONGEST_START)
    except zlib.error:
        return None
    found = by_start(inner) if inner[:1] not in b"x\x1f" else None
    if found in {"pickle", "joblib", "r", "tar"}:
        return found
    return "gzip" if data.startswith(b"\x1f\x8b") else None
