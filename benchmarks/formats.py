"""One pass of ours over each format, against what its usual library takes to load the same file into arrays.

Ours gives ids and every block of vectors, checked, a block at a time; the library the ids and one array of vectors.
Files are in the system's cache, decoders run already. Best of alternating pairs, processor seconds of all processes.
What needs a library that is not installed is left out, and named.

    python benchmarks/formats.py [--rows 400000] [--pairs 5] [FORMAT ...]
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pairs import best

from embsync.config import SnapshotConfig
from embsync.snapshots import Snapshot, open_snapshot

WIDTH = 64
#: Text is slow to read for every library.
TEXT_SHARE = 20


@dataclass(frozen=True)
class Data:
    """The data that every format holds."""

    ids: Any
    vectors: Any

    @property
    def words(self) -> list[str]:
        """The ids as text."""
        return [f"item-{number}" for number in self.ids.tolist()]

    def some(self, share: int) -> Data:
        """Return the first ``1 / share`` of the rows."""
        rows = len(self.ids) // share
        return Data(self.ids[:rows], self.vectors[:rows])


Loads = Callable[[], Any]
#: Writes a file or directory and yields the ways in which libraries load it.
Format = Callable[[Path, Data], Iterator[tuple[str, Loads]]]


def need(name: str) -> Any:
    return importlib.import_module(name)


def npy(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    path.mkdir()
    np.save(path / "items.npy", data.vectors)
    np.save(path / "item_ids.npy", data.ids)
    yield "np.load", lambda: (np.load(path / "items.npy"), np.load(path / "item_ids.npy"))


def npz(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    np.savez(path, items=data.vectors, item_ids=data.ids)
    yield "np.load", lambda: dict(np.load(path))


def npz_deflated(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    np.savez_compressed(path, items=data.vectors, item_ids=data.ids)
    yield "np.load", lambda: dict(np.load(path))


def safetensors(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    library = need("safetensors.numpy")
    library.save_file({"vectors": data.vectors, "ids": data.ids}, path)
    yield "safetensors", lambda: library.load_file(path)


def bfloat16(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    kind = need("ml_dtypes").bfloat16
    upper, ids = data.vectors.astype(kind).tobytes(), data.ids.tobytes()
    head = {"vectors": {"dtype": "BF16", "shape": data.vectors.shape, "data_offsets": [0, len(upper)]}}
    head["ids"] = {"dtype": "I64", "shape": data.ids.shape, "data_offsets": [len(upper), len(upper) + len(ids)]}
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + upper + ids)
    yield "ml_dtypes", lambda: np.fromfile(path, kind, data.vectors.size, offset=8 + len(text)).astype(np.float32)


def flat(column: Any) -> Any:
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), -1)


def parquet(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    pa, pq = need("pyarrow"), need("pyarrow.parquet")
    pq.write_table(pa.table({"id": data.ids, "embedding": list(data.vectors)}), path)

    def load() -> Any:
        table = pq.read_table(path)
        return table["id"].to_numpy(), flat(table["embedding"])

    yield "pyarrow.parquet", load
    polars = need("polars")
    yield "polars", lambda: np.stack(polars.read_parquet(path)["embedding"].to_numpy())


def hive(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    pa, pq = need("pyarrow"), need("pyarrow.parquet")
    table = pa.table({"id": data.ids, "embedding": list(data.vectors), "bucket": data.ids % 8})
    pq.write_to_dataset(table, path / "items", partition_cols=["bucket"])

    def load() -> Any:
        read = pq.read_table(path / "items")
        return read["id"].to_numpy(), flat(read["embedding"])

    yield "pyarrow.dataset", load


def ml_vectors(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    pa, pq = need("pyarrow"), need("pyarrow.parquet")
    rows, empty = len(data.ids), pa.nulls
    values = pa.array(list(data.vectors.astype("f8")))
    parts = [pa.array(np.ones(rows, "i1")), empty(rows, pa.int32()), empty(rows, pa.list_(pa.int32())), values]
    vectors = pa.StructArray.from_arrays(parts, ["type", "size", "indices", "values"])
    pq.write_table(pa.table({"id": data.ids, "features": vectors}), path)

    def load() -> Any:
        table = pq.read_table(path)
        values = table["features"].combine_chunks().field("values")
        return table["id"].to_numpy(), values.flatten().to_numpy().reshape(rows, -1)

    yield "pyarrow.parquet", load


def text_vectors(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    pa, pq = need("pyarrow"), need("pyarrow.parquet")
    data = data.some(TEXT_SHARE)
    pq.write_table(pa.table({"id": data.ids, "embedding": [json.dumps(row) for row in data.vectors.tolist()]}), path)

    def load() -> Any:
        table = pq.read_table(path)
        return table["id"].to_numpy(), np.array([json.loads(row) for row in table["embedding"].to_pylist()], "f4")

    yield "pyarrow, json.loads", load


def word2vec_text(data: Data) -> bytes:
    numbers = [" ".join(map(repr, row)) for row in data.vectors.astype("f8").round(6).tolist()]
    lines = "".join(f"{word} {row}\n" for word, row in zip(data.words, numbers, strict=True))
    return f"{len(numbers)} {WIDTH}\n{lines}".encode()


def word2vec(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    content = word2vec_text(data.some(TEXT_SHARE))
    path.write_bytes(gzip.compress(content, 6) if path.suffix == ".gz" else content)
    vectors = need("gensim.models").KeyedVectors
    yield "gensim", lambda: vectors.load_word2vec_format(str(path))
    pandas = need("pandas")
    yield (
        "pandas.read_csv",
        lambda: pandas.read_csv(path, sep=" ", header=None, skiprows=1, quoting=3).iloc[:, 1:].to_numpy("f4"),
    )


def word2vec_zstd(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    zstd, pandas = need("backports.zstd"), need("pandas")
    path.write_bytes(zstd.compress(word2vec_text(data.some(TEXT_SHARE))))

    def load() -> Any:
        with zstd.open(path) as file:
            return pandas.read_csv(file, sep=" ", header=None, skiprows=1, quoting=3).iloc[:, 1:].to_numpy("f4")

    yield "pandas.read_csv", load


def word2vec_binary(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    rows = (word.encode() + b" " + row.tobytes() for word, row in zip(data.words, data.vectors, strict=True))
    path.write_bytes(f"{len(data.ids)} {WIDTH}\n".encode() + b"".join(rows))
    vectors = need("gensim.models").KeyedVectors
    yield "gensim", lambda: vectors.load_word2vec_format(str(path), binary=True)


def feather(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    pa, library = need("pyarrow"), need("pyarrow.feather")
    library.write_feather(pa.table({"id": data.ids, "embedding": list(data.vectors)}), str(path))

    def load() -> Any:
        table = library.read_table(str(path))
        return table["id"].to_numpy(), flat(table["embedding"])

    yield "pyarrow.feather", load
    polars = need("polars")
    yield "polars", lambda: np.stack(polars.read_ipc(path)["embedding"].to_numpy())


def dimensions(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    pa, pq = need("pyarrow"), need("pyarrow.parquet")
    columns = {f"emb_{number}": data.vectors[:, number] for number in range(WIDTH)}
    pq.write_table(pa.table({"id": data.ids, **columns}), path)
    yield "pyarrow.parquet", lambda: np.stack([column.to_numpy() for column in pq.read_table(path).columns[1:]], axis=1)


def csv(path: Path, data: Data) -> Iterator[tuple[str, Loads]]:
    pandas, library = need("pandas"), need("pyarrow.csv")
    data = data.some(TEXT_SHARE)
    columns = {f"emb_{number}": data.vectors[:, number] for number in range(WIDTH)}
    pandas.DataFrame({"id": data.ids, **columns}).to_csv(path, index=False)
    yield "pandas.read_csv", lambda: pandas.read_csv(path).to_numpy()
    yield (
        "pyarrow.csv",
        lambda: np.stack([column.to_numpy() for column in library.read_csv(path).columns[1:]], axis=1),
    )
    polars = need("polars")
    yield "polars.read_csv", lambda: polars.read_csv(path).to_numpy()


FORMATS: dict[str, tuple[str, Format]] = {
    "npy": ("day", npy),
    "npz": ("day.npz", npz),
    "npz, deflated": ("day.npz", npz_deflated),
    "safetensors": ("day.safetensors", safetensors),
    "safetensors, bfloat16": ("day.safetensors", bfloat16),
    "parquet": ("day.parquet", parquet),
    "parquet, 8 partitions": ("day", hive),
    "parquet, Spark's ML vectors": ("day.parquet", ml_vectors),
    "parquet, text": ("day.parquet", text_vectors),
    "parquet, a column a dimension": ("day.parquet", dimensions),
    "Feather": ("day.feather", feather),
    "CSV": ("day.csv", csv),
    "word2vec": ("day.vec", word2vec),
    "word2vec, gzip": ("day.vec.gz", word2vec),
    "word2vec, zstd": ("day.vec.zst", word2vec_zstd),
    "word2vec, binary": ("day.bin", word2vec_binary),
}


def read(opened: Snapshot) -> None:
    """Read all of a snapshot once with embsync."""
    opened.items.ids()
    for _ in opened.items.blocks():
        pass


def measure(name: str, data: Data, pairs: int) -> None:
    """Print a line for each library."""
    file, write = FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        libraries = write(path, data)
        try:
            loads = list(libraries)
            opened = open_snapshot(path, SnapshotConfig())
        except (ImportError, ValueError) as error:
            print(f"| {name} | left out: {error} | | | | |", flush=True)
            return
        except Exception as error:  # a layout that does not exist, or not yet
            print(f"| {name} | left out: {str(error)[:60]} | | | | |", flush=True)
            return
        read(opened)
        for library, load in loads:
            ours, theirs = best([lambda: read(opened), load], pairs)
            times = (f"{ours.processor:.3f}", f"{theirs.processor:.3f}", f"{ours.processor / theirs.processor:.2f}")
            print(f"| {name} | {opened.items.count:,} | {library} | {' | '.join(times)} |", flush=True)


def main() -> None:
    """Measure and print a table."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help="default: all")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    data = Data(np.arange(given.rows), np.random.default_rng(0).standard_normal((given.rows, WIDTH)).astype(np.float32))
    print("| format | rows | library | ours, s | library, s | ratio |\n| --- | --- | --- | --- | --- | --- |")
    for name in given.formats or FORMATS:
        measure(name, data, given.pairs)


if __name__ == "__main__":
    main()
