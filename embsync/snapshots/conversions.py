"""What a file that no layout reads is, by its name and first bytes, and the line that makes it readable."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from embsync.errors import SnapshotError, printable
from embsync.invocation import quoted
from embsync.snapshots import names
from embsync.snapshots.files import FileBytes, Place


@dataclass(frozen=True)
class _Rule:
    """Names of one kind of file, what it is, and how to convert it.

    In the line, ``{py}`` is the file, ``{dir}`` its directory with a slash, ``{model}`` the pickle it belongs to,
    and ``{parquet}``, ``{vec}`` and ``{npz}`` the same path with another ending,
    quoted for Python; ``{sh}``, ``{shto}`` (without its ending) and ``{shdir}`` (its directory) are quoted for a shell.
    A path stands in a line once, as far as that can be: a terminal has to show it.
    """

    pattern: re.Pattern[str]
    what: str
    line: str


def _rule(pattern: str, what: str, line: str) -> _Rule:
    return _Rule(re.compile(pattern, re.IGNORECASE), what, line)


_GENSIM = re.compile(r"\.(vectors|syn1neg|syn1|vectors_ngrams|vectors_vocab|vectors_lockf|cum_table)\.npy$")
_GENSIM_LINE = (
    "in Python: import gensim; p = {}; m = gensim.utils.SaveLoad.load(p); "
    "getattr(m, 'wv', m).save_word2vec_format(p + '.vec')"
)
_RULES = (
    _rule(
        r"\.[ct]sv(\.gz|\.zst)?$",
        "CSV or TSV without a column of vectors",
        'write id,embedding with quoted lists such as "[0.1, 0.2]", or id,d0,d1 and so on with one column a dimension',
    ),
    _rule(r"\.(gz|gzip)$", "compressed", "gunzip -k {sh}"),
    _rule(r"\.(zst|zstd)$", "compressed", "zstd -d {sh}"),
    _rule(r"\.bz2$", "compressed", "bunzip2 -k {sh}"),
    _rule(r"\.(xz|lzma)$", "compressed", "xz -dk {sh}"),
    _rule(r"\.(tar|tgz)$", "an archive", "tar -xf {sh} -C {shdir}"),
    _rule(r"\.zip$", "an archive", "unzip {sh} -d {shdir}"),
    _rule(
        r"\.(jsonl|ndjson)$",
        "JSON lines",
        "in Python: import pandas; pandas.read_json({py}, lines=True).to_parquet({parquet})",
    ),
    _rule(r"\.json$", "JSON", "in Python: import pandas; pandas.read_json({py}).to_parquet({parquet})"),
    _rule(
        r"\.(feather|arrow|ipc)$",
        "Arrow IPC (Feather)",
        "in Python: import pyarrow.feather as f, pyarrow.parquet as p; p.write_table(f.read_table({py}), {parquet})",
    ),
    _rule(r"\.orc$", "ORC", "in Python: import pandas; pandas.read_orc({py}).to_parquet({parquet})"),
    _rule(r"\.avro$", "Avro", "in Python: import polars; polars.read_avro({py}).write_parquet({parquet})"),
    _rule(_GENSIM.pattern, "a matrix that gensim keeps beside its pickle", _GENSIM_LINE.format("{model}")),
    _rule(r"\.(model|kv|wordvectors|w2v|d2v)$", "a pickle, probably gensim's", _GENSIM_LINE.format("{py}")),
    _rule(
        r"^(pytorch_model|model_state|optimizer).*\.bin$|\.(pt|pth|ckpt)$",
        "a PyTorch file, which is a pickle",
        "in Python: import numpy, torch; m = torch.load({py}, map_location='cpu', weights_only=True); "
        "numpy.save({dir} + 'items', m['item_embedding.weight'].numpy()) with the name of your tensor, and the "
        "ids in item_ids.npy",
    ),
    _rule(
        r"\.bin$",
        "binary, probably word2vec's",
        "in Python: from gensim.models import KeyedVectors; KeyedVectors.load_word2vec_format({py}, binary=True)"
        ".save_word2vec_format({vec})",
    ),
    _rule(
        r"\.(pkl|pickle|joblib|dill)$",
        "a pickle, which is never read",
        "in Python: import numpy, pandas; m = pandas.read_pickle({py}); numpy.savez({npz}, items=…, item_ids=…)",
    ),
    _rule(
        r"\.(h5|hdf5|hdf)$",
        "HDF5",
        "in Python: import h5py, numpy; f = h5py.File({py}); numpy.savez({npz}, items=f['items'], "
        "item_ids=f['item_ids']) with the names that list(f) gives",
    ),
    _rule(
        r"\.tfrecords?(-\d+-of-\d+)?$",
        "TFRecord",
        "write ids and vectors with numpy.savez('day.npz', items=…, item_ids=…) where the model is exported",
    ),
    _rule(
        r"\.lance$",
        "a Lance table",
        "in Python: import lance, pyarrow.parquet as p; p.write_table(lance.dataset({py}).to_table(), {parquet})",
    ),
    _rule(
        r"\.(faiss|index|ann|hnsw|usearch|voy)$",
        "an index, which has no ids to rely on",
        "leave the vectors that it was built from: numpy.savez('day.npz', items=…, item_ids=…)",
    ),
    _rule(r"\.(glove|emb|embedding|embeddings|w2vec)$", "perhaps word2vec text", "mv {sh} {shto}.vec"),
    _rule(
        r"\.(onnx|pb|keras|tflite|mat|rds|rdata|db|sqlite3?|duckdb|xlsx?)$",
        "of no format that is read",
        "write ids and vectors with numpy.savez('day.npz', items=…, item_ids=…) where the model is exported",
    ),
    _rule(
        r"[_-]?\d+\.npy$",
        "a numbered part of an array",
        "keep all parts in one directory, and the ids as item_ids.npy or as parts (item_ids-0.npy) beside them",
    ),
    _rule(r"\.npy$", "an array under another name", "mv {sh} {shdir}/items.npy, and the ids to item_ids.npy beside it"),
    _rule(
        r"\.safetensors$",
        "safetensors under another name",
        "mv {sh} {shdir}/items.safetensors, with tensors vectors and ids",
    ),
    _rule(r"\.parq(uet)?$|\.pq$", "parquet under another name", "mv {sh} {shdir}/items.parquet (or users.parquet)"),
)
PARQUET_MAGIC = b"PAR1"
PARTITION = re.compile(r"^[A-Za-z_][\w-]*=")
#: Names looked at for one line.
_MOST = 1000


def conversion_of(place: Place, kind: str) -> tuple[str, str] | None:
    """Return what is at ``place`` and the line that converts it, or None where neither its name nor its start tells."""
    if kind == "directory":
        return _of_directory(place)
    if kind != "file":
        return None
    rule = next((rule for rule in _RULES if rule.pattern.search(place.name)), None)
    if rule is not None:
        return rule.what, rule.line.format(**_paths(place))
    if begins_with(place, PARQUET_MAGIC):
        return "parquet without its ending", f"mv {_shell(place)} {_shell(place)}.parquet"
    return None


def belongs_to_another(name: str) -> bool:
    """Tell whether an array is one of a model of another format, such as the context vectors of gensim's."""
    return _GENSIM.search(name) is not None


def seen(place: Place) -> tuple[str, str | None]:
    """Return what was seen at a snapshot's root that no layout recognises, and the line that helps."""
    if place.kind() != "directory":
        advice = conversion_of(place, place.kind())
        return (f"{printable(place.name)}, {advice[0]}", advice[1]) if advice else (f"a file named {place.name}", None)
    everything = place.entries()
    entries = {name: kind for name, kind in everything.items() if not names.parse(name).harmless}
    if not entries:
        return f"nothing but {', '.join(list(everything)[:5])}" if everything else "an empty directory", None
    whole = _of_snapshots(place, entries) or _of_directory(place)
    if whole is not None:
        return whole
    # metadata.tsv is converted with the vectors that it is beside
    tried = sorted(list(entries.items())[:_MOST], key=lambda entry: entry[0] in {"metadata.tsv", "labels.tsv"})
    for name, kind in tried:
        advice = conversion_of(place.child(name), kind)
        if advice is not None:
            others = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
            return f"{printable(name)}, {advice[0]}{others}", advice[1]
    more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
    return printable(f"{len(entries)} entries: {', '.join(list(entries)[:8])}{more}"), None


def _of_snapshots(place: Place, entries: Mapping[str, str]) -> tuple[str, str] | None:
    """Return what a directory of snapshots is, which is watched or whose snapshots are named one by one."""
    folders = [name for name, kind in list(entries.items())[:_MOST] if kind == "directory"]
    snapshots = [
        name for name in folders if any(names.parse(entry).side == "items" for entry in place.child(name).entries())
    ]
    if not snapshots or len(snapshots) < len(folders) // 2 or names.parse(snapshots[0]).side:
        return None
    first = place.child(min(snapshots))
    return (
        f"a directory of snapshots ({printable(min(snapshots))}/ and so on) instead of one of them",
        f"begin with the oldest, such as {_shell(first)}",
    )


def _of_directory(place: Place) -> tuple[str, str] | None:
    if place.name.endswith(".lance"):
        rule = next(rule for rule in _RULES if rule.what == "a Lance table")
        return rule.what, rule.line.format(**_paths(place))
    entries = place.entries()
    folders = [name for name, kind in entries.items() if kind == "directory"]
    partitions = [name for name in folders if PARTITION.match(name)]
    if partitions:
        return (
            f"a partitioned table ({printable(partitions[0])}/ and so on); partitioned tables are not read",
            "write it without partitionBy (pandas, pyarrow: without partition_cols), one directory of part files",
        )
    files = [name for name, kind in list(entries.items())[:_MOST] if kind == "file" and not names.parse(name).harmless]
    bare = [name for name in files if "." not in name and begins_with(place.child(name), PARQUET_MAGIC)]
    if bare:
        return (
            f"{printable(bare[0])}, parquet without its ending",
            f'for f in {_shell(place)}/*; do mv "$f" "$f.parquet"; done',
        )
    if folders and not files and not names.parse(place.name).side:
        for name in folders[:10]:
            advice = _of_directory(place.child(name))
            if advice is not None:
                return f"{printable(name)}/ with {advice[0]}", advice[1]
    return None


def _paths(place: Place) -> dict[str, str]:
    path = PurePosixPath(str(place))
    to = path.with_suffix("") if path.suffix else path
    model = re.sub(r"(\.wv)?\.(vectors|syn1neg|syn1|vectors_\w+)\.npy$", "", str(path))
    to_other = {ending: repr(f"{to}.{ending}") for ending in ("parquet", "vec", "npz")}
    return {
        "py": repr(str(path)),
        "name": repr(path.name),
        "dir": repr(f"{path.parent}/"),
        "model": repr(model),
        "sh": quoted(str(path)),
        "shto": quoted(str(to)),
        "shdir": quoted(str(path.parent)),
        **to_other,
    }


def _shell(place: Place) -> str:
    return quoted(str(place))


def begins_with(place: Place, magic: bytes) -> bool:
    """Tell whether a file can be read and begins with these bytes."""
    try:
        with place.open() as file:
            return FileBytes(file, str(place)).read(len(magic), 0) == magic
    except SnapshotError:
        return False
