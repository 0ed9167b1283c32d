"""A byte-mutation fuzzer for the readers: ``python fuzz.py FORMAT FILES SEED FOLDER`` prints one line of JSON.

Small valid snapshots are damaged at random and read as the pipeline reads them. Only a complete read and a refusal are
allowed, within 10 seconds of processor time and 1 GiB; any other result, or none within two minutes, is kept in FOLDER
and counted as a failure. Parquet's decoders are
forked here instead of started, which saves loading pyarrow for every file; what they do with the file is the same.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import numpy as np
from snapshots import made

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.snapshots import decoder_process, spark_pipeline
from embsync.snapshots.files import Place

FORMATS = (
    "npy",
    "npy_parts",
    "npz",
    "parquet",
    "spark_pipeline",
    "arrow",
    "csv",
    "projector",
    "safetensors",
    "state_dict",
    "word2vec",
    "word2vec_packed",
    "word2vec_binary",
)
#: Variants of a format, which only the long run fuzzes separately.
WAYS = ("bfloat16", "spark_metadata", "hive", "ml_vectors", "text_vectors", "dimensions")
LAYOUTS = {
    "word2vec_packed": "word2vec",
    "bfloat16": "safetensors",
    "spark_metadata": "spark_pipeline",
    **dict.fromkeys(("hive", "ml_vectors", "text_vectors", "dimensions"), "parquet"),
}
#: Those that are read in a decoder process.
DECODED = ("parquet", "spark_pipeline", "arrow", "csv", "projector", *WAYS[2:])
#: Seconds after which a read counts as hanging, on a busy machine too.
SECONDS = 120
MEMORY = 2**30
INTERESTING = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1]


class TooLong(BaseException):
    """Reading a file took longer than its limit."""


def good_snapshots(name: str, folder: Path) -> list[Path]:
    """Write small valid snapshots of a format to a folder and return them."""
    small = made.model(items=40, users=20, width=4)
    if name == "npy":
        fortran = made.Model(np.asfortranarray(small.items), small.item_ids, small.users.astype(">f8"), small.user_ids)
        return [
            made.write_npy(folder / "a", small),
            made.write_npy(folder / "b", small.named()),
            made.write_npy(folder / "c", fortran),
        ]
    if name == "npy_parts":
        from snapshots.test_npy_parts import write as write_parts

        return [write_parts(folder / "a", small, many=3), write_parts(folder / "b", small.named(), many=2)]
    if name == "state_dict":
        from snapshots.test_state_dict import BOTH
        from snapshots.test_state_dict import write as write_model

        text = {"item_ids__txt": b"".join(b"i%d\n" % row for row in range(30)), "user_vocab__json": list(range(20))}
        return [write_model(folder / "a", **BOTH), write_model(folder / "b", **text)]
    if name == "npz":
        return [made.write_npz(folder / "a.npz", small), made.write_npz(folder / "b.npz", small.named(), deflate=True)]
    if name == "word2vec":
        from snapshots.test_word2vec import text

        names = small.named().item_ids.tolist()
        for file, header in (("a.vec", True), ("b.vec", False)):
            (folder / file).write_bytes(text(names, small.items, header=header))
        return [folder / "a.vec", folder / "b.vec"]
    if name == "word2vec_packed":
        import gzip

        from backports import zstd
        from snapshots.test_word2vec import text

        data = text(small.named().item_ids.tolist(), small.items)
        (folder / "a.vec.gz").write_bytes(gzip.compress(data))
        (folder / "b.vec.zst").write_bytes(zstd.compress(data))
        return [folder / "a.vec.gz", folder / "b.vec.zst"]
    if name == "word2vec_binary":
        from snapshots.test_word2vec_binary import binary

        for file, end in (("a.bin", b"\n"), ("b.bin", b"")):
            (folder / file).write_bytes(binary(small.named().item_ids.tolist(), small.items, end))
        return [folder / "a.bin", folder / "b.bin"]
    if name in WRITERS:
        return [WRITERS[name](folder / "a", small), WRITERS[name](folder / "b", small.named())]
    if name == "safetensors":
        from snapshots.test_safetensors import write as write_safetensors

        return [write_safetensors(folder / "a", small), write_safetensors(folder / "b", small.named())]
    if name in {"spark_pipeline", "spark_metadata"}:
        from snapshots.test_spark_pipeline import pipeline, stage

        made_of = [pipeline(folder / "a", small), pipeline(folder / "b", small.named())]
        for whole in made_of:
            stage(whole, "0_StringIndexer_a", outputCol="genre_index")
        return made_of
    if name in {"csv", "projector"}:
        return good_text(name, folder)
    if name == "arrow":
        from snapshots.test_arrow import write as write_arrow

        wide = made.model(items=40, users=20, width=4)
        return [
            write_arrow(folder / "a", small, rows=7),
            write_arrow(folder / "b", small.named(), "large", compression="lz4"),
            write_arrow(folder / "c", small.named(), "fixed", compression="zstd", stream=True),
            write_arrow(folder / "d", wide, stream=True),
        ]
    return good_parquet(folder, small)


def good_text(name: str, folder: Path) -> list[Path]:
    """Write small CSV and TSV files of several kinds."""
    from snapshots import test_delimited as text

    if name == "projector":
        return [text.projector(folder / "p", text.ONE_COLUMN)]
    for number, kind in enumerate(("one column a dimension", "JSON lists", "StarSpace", "gzip")):
        end, data = text.GOOD[kind]
        (folder / f"{number}{end[1:]}").write_bytes(data)
    return sorted(folder.iterdir())


def good_parquet(folder: Path, small: made.Model) -> list[Path]:
    """Write small parquet snapshots with several codecs and encodings."""
    from snapshots.test_parquet import write as write_parquet

    delta = {"use_dictionary": False, "column_encoding": {"id": "DELTA_LENGTH_BYTE_ARRAY"}, "compression": "none"}
    split = {"use_dictionary": False, "column_encoding": {"features.list.element": "BYTE_STREAM_SPLIT"}}
    return [
        write_parquet(folder / "a", small),
        write_parquet(folder / "b", small.named(), **delta),
        write_parquet(folder / "c", small.named(), "large", compression="zstd", data_page_version="2.0"),
        write_parquet(folder / "d", small, "fixed", compression="gzip", row_group_size=7, store_schema=False),
        write_parquet(folder / "e", small.typed("f8"), compression="brotli", **split),
    ]


def sides_of(small: made.Model) -> Iterator[tuple[str, made.Array, made.Array]]:
    """Yield the name, vectors and ids of each side."""
    yield "items", small.items, small.item_ids
    yield "users", small.users, small.user_ids


def good_bfloat16(folder: Path, small: made.Model) -> Path:
    """Write bfloat16 vectors."""
    folder.mkdir()
    for side, rows, ids in sides_of(small):
        vectors = (rows.view("<u4") >> 16).astype("<u2").tobytes()
        table = made.utf8(ids)
        kind, shape = ("I64", [len(ids)]) if table.dtype.kind == "i" else ("U8", [len(ids), table.dtype.itemsize])
        end = len(vectors) + table.nbytes
        head = {"vectors": {"dtype": "BF16", "shape": rows.shape, "data_offsets": [0, len(vectors)]}}
        head["ids"] = {"dtype": kind, "shape": shape, "data_offsets": [len(vectors), end]}
        text = json.dumps(head).encode()
        (folder / f"{side}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + vectors + table.tobytes())
    return folder


def write_column(path: Path, ids: made.Array, column: Any) -> None:
    """Write one part file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": ids, "features": column}), path)


def good_hive(folder: Path, small: made.Model) -> Path:
    """Write both sides in partitions, with and without suffixes."""
    for side, rows, ids in sides_of(small):
        half = len(ids) // 2
        write_column(folder / side / "b=0/hour=1/part-0.parquet", ids[:half], list(rows[:half]))
        write_column(folder / side / "b=1/000000_0", ids[half:], list(rows[half:]))
    return folder


def good_ml_vectors(folder: Path, small: made.Model) -> Path:
    """Write vectors of Spark's ML library, dense and sparse."""
    import pyarrow as pa

    kinds = {"type": pa.int8(), "size": pa.int32(), "indices": pa.list_(pa.int32()), "values": pa.list_(pa.float64())}
    for side, rows, ids in sides_of(small):
        vectors = [
            {"type": row % 2, "size": 4 if row % 2 == 0 else None, "indices": [0, 1, 2, 3] if row % 2 == 0 else None}
            | {"values": numbers}
            for row, numbers in enumerate(rows.tolist())
        ]
        write_column(folder / f"{side}.parquet", ids, pa.array(vectors, pa.struct(list(kinds.items()))))
    return folder


def good_text_vectors(folder: Path, small: made.Model) -> Path:
    """Write vectors as text, separated by commas or blanks."""
    for side, rows, ids in sides_of(small):
        text = [str(numbers) for numbers in rows.astype("f8").tolist()]
        write_column(
            folder / f"{side}.parquet", ids, text if side == "items" else [row.replace(",", "") for row in text]
        )
    return folder


def good_dimensions(folder: Path, small: made.Model) -> Path:
    """Write one column per dimension."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    for side, rows, ids in sides_of(small):
        columns = {f"d{number}": rows[:, number] for number in range(rows.shape[1])}
        pq.write_table(pa.table({"id": ids, **columns}), folder / f"{side}.parquet")
    return folder


WRITERS = {
    "dimensions": good_dimensions,
    "bfloat16": good_bfloat16,
    "hive": good_hive,
    "ml_vectors": good_ml_vectors,
    "text_vectors": good_text_vectors,
}


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return data with one to six random changes, mostly in headers and footers."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        if not changed:
            break
        size = len(changed)
        near = chance.choice([256, 1024, size])
        at = chance.randrange(min(near, size))
        at = size - 1 - at if chance.random() < 0.5 else at
        kind = chance.randrange(7)
        if kind == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        elif kind == 2:
            width = chance.choice([1, 2, 4, 8])
            value = chance.choice(INTERESTING) % 256**width
            changed[at : at + width] = value.to_bytes(width, chance.choice(["little", "big"]))
        elif kind == 3:
            del changed[at : at + chance.choice([1, 2, 8, 64])]
        elif kind == 4:
            changed[at:at] = chance.randbytes(chance.choice([1, 2, 8, 64]))
        elif kind == 5:
            other = chance.randrange(size)
            changed[at : at + 16] = changed[other : other + chance.choice([1, 16, 64])]
        else:
            del changed[at if chance.random() < 0.3 else size :]
            text = str(chance.choice([*INTERESTING, -1, 10**30])).encode()
            changed[at : at + 1] = text  # numbers written as text, for the formats that have them
    return bytes(changed)


class Forked:
    """A forked decoder, with what :class:`decoder_process.DecoderProcess` needs of a process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._code: int | None = None

    def kill(self) -> int:
        """Kill it; return its exit code."""
        if self._code is None:
            os.kill(self._pid, signal.SIGKILL)
        return self.wait()

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code, negative for a signal."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._code


def fork_decoders() -> None:
    """Make decoders forks of this process, which has the libraries loaded."""
    from embsync.decoder import service

    def start() -> decoder_process.DecoderProcess:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            service.start(theirs)
            os._exit(0)
        theirs.close()
        assert ours.recv(64)
        return decoder_process.DecoderProcess(Forked(pid), ours)

    decoder_process.DecoderProcess.start = start


def mutants(snapshots: list[Path], folder: Path, files: int, seed: int, files_of: str = "*") -> Iterator[Path]:
    """Yield damaged snapshots one after the other, all at the same path."""
    chance = random.Random(seed)
    for number in range(files):
        original = snapshots[number % len(snapshots)]
        target = folder / f"mutant{''.join(original.suffixes)}"
        if original.is_file():
            target.write_bytes(damaged(original.read_bytes(), chance))
        else:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(original, target)
            file = chance.choice(sorted(path for path in target.rglob(files_of) if path.is_file()))
            file.write_bytes(damaged(file.read_bytes(), chance))
        yield target


def read_metadata(path: Path, _: SnapshotConfig) -> None:
    """Read the metadata of a pipeline's stages, as far as this process parses them."""
    place = Place.at(path)
    spark_pipeline._reject_indexed(place, spark_pipeline._als_stages(place)[0])


def processor_seconds() -> float:
    """Return the processor seconds of this process and of the decoders that it has ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _too_long(*_: object) -> None:
    raise TooLong


def fuzz(name: str, files: int, seed: int, folder: Path) -> dict[str, object]:
    """Read damaged snapshots and return how many ended in which way."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in DECODED:
        fork_decoders()
    snapshots = good_snapshots(name, folder)
    config = SnapshotConfig(layout=LAYOUTS.get(name, name))
    for good in snapshots:
        made.read(good, config)
    read = read_metadata if name == "spark_metadata" else made.read
    files_of = "part-00000" if name == "spark_metadata" else "*"
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    signal.signal(signal.SIGALRM, _too_long)
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    slowest = 0.0
    for number, mutant in enumerate(mutants(snapshots, folder, files, seed, files_of)):
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        started = processor_seconds()
        try:
            read(mutant, config)
            outcomes["read"] += 1
        except SnapshotError as error:
            outcomes["failed" if "\n" in str(error) or "does not progress" in str(error) else "refused"] += 1
            outcomes["crashed_decoders"] += "the decoder ended" in str(error)
        except BaseException as error:
            outcomes["failed"] += 1
            kept = folder / f"failure-{seed}-{number}{mutant.suffix}"
            (shutil.copytree if mutant.is_dir() else shutil.copy)(mutant, kept)
            failures.append(f"{kept}: {error!r}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, processor_seconds() - started)
    peak = max(own_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return {
        "format": name,
        "files": files,
        **outcomes,
        "slowest_seconds": round(slowest, 2),
        "peak_mib": peak // 1024,
        "failures": list(itertools.islice(failures, 5)),
    }


def own_peak() -> int:
    """Return this program's peak in KiB; ``ru_maxrss`` would include the peak of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    print(json.dumps(fuzz(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))
