"""Layout parquet: files of Spark, pandas and pyarrow are read exactly; files that crash the parser are refused."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from snapshots.made import ROW_NUMBERS, Array, Model, assert_reads, model, read, vectors
from support.stores import next_line, running

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotChanged, SnapshotError, UsageError
from embsync.rows import block_rows
from embsync.snapshots import decoder_process, open_snapshot

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

CONFIG = SnapshotConfig()


def lists(matrix: Array, kind: str = "list") -> object:
    """Return a matrix as an Arrow column."""
    flat = pa.array(matrix.reshape(-1))
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])
    offsets = np.arange(0, matrix.size + 1, matrix.shape[1])
    if kind == "large":
        return pa.LargeListArray.from_arrays(offsets, flat)
    return pa.ListArray.from_arrays(offsets.astype(np.int32), flat)


def table(ids: Array, matrix: Array, kind: str = "list", names: tuple[str, str] = ("id", "features")) -> object:
    """Return ids and vectors as an Arrow table."""
    texts = ids.tolist() if ids.dtype.kind == "U" else ids
    return pa.table({names[0]: pa.array(texts), names[1]: lists(matrix, kind)})


def write(path: Path, made: Model, kind: str = "list", **options: object) -> Path:
    """Write the model as one parquet file per side."""
    path.mkdir(exist_ok=True)
    pq.write_table(table(made.item_ids, made.items, kind), path / "items.parquet", **options)
    pq.write_table(table(made.user_ids, made.users, kind), path / "users.parquet", **options)
    return path


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_every_list_type_is_read_exactly(tmp_path: Path, kind: str, dtype: str) -> None:
    """Lists, large lists and fixed-size lists of every float type are read exactly."""
    made = model().typed(dtype)
    assert_reads(open_snapshot(write(tmp_path / "s", made, kind), CONFIG), made)


@pytest.mark.parametrize(
    "options",
    [
        {"row_group_size": 7},
        {"compression": "zstd"},
        {"compression": "none", "use_dictionary": False},
        {"data_page_version": "2.0", "data_page_size": 100},
        {"column_encoding": {"features.list.element": "BYTE_STREAM_SPLIT"}, "use_dictionary": False},
    ],
)
def test_every_encoding_and_compression_is_read_exactly(tmp_path: Path, options: dict[str, object]) -> None:
    """Rows do not depend on row groups, pages, codecs and encodings."""
    made = model().named()
    assert_reads(open_snapshot(write(tmp_path / "s", made, **options), CONFIG), made)


def test_part_files_are_read_in_natural_order_and_fixed_blocks(tmp_path: Path) -> None:
    """Part 9 is before part 10; empty parts, markers and checksums are skipped; blocks depend only on the width."""
    rows = 2 * block_rows(64) + 100
    made = model(items=rows, users=10, width=64)
    (tmp_path / "items").mkdir()
    cuts = [0, 3, 3, 2000, 2001, 5000, *range(5100, 5107), rows]  # no cut is beyond the rows
    assert cuts == sorted(cuts)
    for number, (start, end) in enumerate(pairwise(cuts)):
        part = table(made.item_ids[start:end], made.items[start:end])
        pq.write_table(part, tmp_path / "items" / f"part-{number}.parquet", row_group_size=999)
    for name in ("_SUCCESS", "._SUCCESS.crc", ".part-0.parquet.crc", "_metadata", "_temporary.parquet"):
        (tmp_path / "items" / name).write_bytes(b"not parquet")
    side = open_snapshot(tmp_path, CONFIG).items
    assert [len(block) for _, block in side.blocks()] == [block_rows(64), block_rows(64), 100]
    np.testing.assert_array_equal(vectors(side), made.items)
    np.testing.assert_array_equal(side.ids(), made.item_ids)


@pytest.mark.parametrize(
    ("names", "config"),
    [
        (("id", "features"), {}),
        (("key", "embedding"), {}),
        (("item_id", "embedding"), {}),
        (("id", "v"), {}),
        (("weird", "odd"), {"id_column": "weird", "vector_column": "odd"}),
    ],
)
def test_columns_are_found_by_name_and_type(tmp_path: Path, names: tuple[str, str], config: dict[str, str]) -> None:
    """The columns are Spark's or autofaiss's names, the only column of a type, or the configured ones."""
    made = model()
    pq.write_table(table(made.item_ids, made.items, names=names), tmp_path / "embeddings.parquet")
    for path in (tmp_path, tmp_path / "embeddings.parquet"):
        opened = open_snapshot(path, SnapshotConfig(**config))
        assert opened.users is None
        np.testing.assert_array_equal(opened.items.ids(), made.item_ids)
        np.testing.assert_array_equal(vectors(opened.items), made.items)


def test_ambiguous_columns_are_an_error(tmp_path: Path) -> None:
    """Two possible id columns without a known name are named with the configuration key, which then selects one."""
    made = model(items=5)
    extra = table(made.item_ids, made.items, names=("alpha", "features")).append_column("beta", pa.array(range(5)))
    pq.write_table(extra, tmp_path / "items.parquet")
    with pytest.raises(SnapshotError, match=r"alpha \(integer\).*beta \(integer\).*snapshot\.id_column"):
        open_snapshot(tmp_path, CONFIG)
    assert open_snapshot(tmp_path, SnapshotConfig(id_column="beta")).items.ids().tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(SnapshotError, match="named gamma"):
        open_snapshot(tmp_path, SnapshotConfig(id_column="gamma"))


def test_weights_come_from_the_configured_column(tmp_path: Path) -> None:
    """Numbers of any type become float64 and are validated."""
    made = model(items=4)
    weighted = table(made.item_ids, made.items).append_column("count", pa.array([3, 0, 1, 2], pa.int32()))
    pq.write_table(weighted, tmp_path / "items.parquet")
    weights = open_snapshot(tmp_path, SnapshotConfig(weight_column="count")).items.weights()
    assert weights is not None
    assert weights.tolist() == [3, 0, 1, 2]
    with pytest.raises(SnapshotError, match="no weight column"):
        open_snapshot(tmp_path, SnapshotConfig(weight_column="features"))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([3, 1, 2], pa.int16()),
        pa.array([3, 1, 2], pa.uint64()),
        pa.array(["ü", "b", "c"], pa.large_string()),
        pa.array(["ü", "b", "c"]).dictionary_encode(),
        pa.array(["ü", "b", "c"], pa.string_view()),
    ],
)
def test_every_integer_and_string_type_of_id_is_read(tmp_path: Path, column: object) -> None:
    """It includes pandas' categories."""
    try:
        pq.write_table(pa.table({"id": column, "v": lists(np.ones((3, 2), np.float32))}), tmp_path / "items.parquet")
    except pa.ArrowNotImplementedError:
        pytest.skip("this pyarrow does not write that type")
    expected = [3, 1, 2] if pa.types.is_integer(column.type) else ["ü".encode(), b"b", b"c"]
    assert open_snapshot(tmp_path, CONFIG).items.ids().tolist() == expected


def test_fixed_shape_tensors_are_read_as_lists(tmp_path: Path) -> None:
    """Arrow's tensor extension stores fixed-size lists, and is read as such."""
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(matrix)
    pq.write_table(pa.table({"id": [1, 2, 3], "vector": tensor}), tmp_path / "items.parquet")
    np.testing.assert_array_equal(vectors(open_snapshot(tmp_path, CONFIG).items), matrix)


def test_row_numbers_are_ids_only_on_request(tmp_path: Path) -> None:
    """A file without an id column is refused unless the configuration allows it."""
    pq.write_table(pa.table({"embedding": lists(np.ones((3, 2), np.float32))}), tmp_path / "items.parquet")
    with pytest.raises(SnapshotError, match="no id column"):
        open_snapshot(tmp_path, CONFIG)
    assert open_snapshot(tmp_path, ROW_NUMBERS).items.ids().tolist() == [0, 1, 2]


ones = np.ones((3, 2), np.float32)
FLOATS = pa.list_(pa.float32())
WRONG = {
    "a missing vector": ({"id": [1, 2, 3], "v": pa.array([[1.0, 2], None, [3, 4]], FLOATS)}, "null in row 1"),
    "a hole": ({"id": [1, 2, 3], "v": pa.array([[1.0, 2], [1, None], [3, 4]], FLOATS)}, "null in row 1"),
    "ragged": ({"id": [1, 2, 3], "v": pa.array([[1.0, 2], [1.0, 2], [3]], FLOATS)}, "1 numbers in row 2"),
    "empty lists": ({"id": [1, 2, 3], "v": pa.array([[], [], []], FLOATS)}, "width"),
    "a missing id": ({"id": [1, None, 3], "v": lists(ones)}, "null in row 1"),
    "repeated ids": ({"id": [1, 3, 3], "v": lists(ones)}, "among them 3"),
    "an empty id": ({"id": ["a", "", "c"], "v": lists(ones)}, "0 bytes in row 1"),
    "an endless id": ({"id": ["a", "b" * 5000, "c"], "v": lists(ones)}, "5000 bytes in row 1"),
    "a NUL at the end of an id": ({"id": ["a", "b\0", "c"], "v": lists(ones)}, "NUL"),
    "a NUL inside an id": ({"id": ["a", "b\0b", "c"], "v": lists(ones)}, "NUL"),
    "ids beyond int64": (
        {"id": pa.array([1, 2, 2**63], pa.uint64()), "v": lists(ones)},
        "an id beyond.* 9223372036854775",
    ),
    "float ids": ({"id": [1.0, 2.0, 3.0], "v": lists(ones)}, "no id column"),
    "integer vectors": ({"id": [1, 2, 3], "v": pa.array([[1], [2], [3]])}, "no vector column"),
    "no rows": ({"id": pa.array([], pa.int64()), "v": pa.array([], FLOATS)}, "no rows; found 1 file without"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_tables_without_a_complete_side_are_refused(tmp_path: Path, wrong: str) -> None:
    """Each message has the row or the columns that were found."""
    columns, message = WRONG[wrong]
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    with pytest.raises(SnapshotError, match=message):
        read(tmp_path)


def test_part_files_must_have_one_schema(tmp_path: Path) -> None:
    """Another type, another width, a directory and a link among part files are refused, and none is skipped."""
    items = tmp_path / "items"
    items.mkdir()
    pq.write_table(table(np.arange(3), ones), items / "a.parquet")
    pq.write_table(table(np.arange(3, 6), ones.astype(np.float64)), items / "b.parquet")
    with pytest.raises(SnapshotError, match=r"column features differs.*list float64"):
        read(tmp_path)
    pq.write_table(table(np.arange(3, 6), np.ones((3, 5), np.float32)), items / "b.parquet")
    with pytest.raises(SnapshotError, match="different widths"):
        read(tmp_path)
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-elsewhere")
    (items / "b.parquet").rename(elsewhere)
    (items / "b.parquet").symlink_to(elsewhere)
    with pytest.raises(SnapshotError, match="link"):
        read(tmp_path)
    (items / "b.parquet").unlink()
    (items / "more").mkdir()
    with pytest.raises(SnapshotError, match="a directory among part files"):
        read(tmp_path)


def test_a_part_that_changes_between_passes_is_noticed(tmp_path: Path) -> None:
    """A part with more rows than at opening, or none, is detected."""
    path = write(tmp_path / "s", model())
    items = open_snapshot(path, CONFIG).items
    vectors(items)
    write(path, model(items=20))
    with pytest.raises(SnapshotChanged, match="changed while it was read"):
        vectors(items)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" * 3, b"PAR1\xff\xff\xff\x7fPAR1", os.urandom(500)])
def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path, data: bytes) -> None:
    """Empty, truncated and random files are refused."""
    (tmp_path / "items.parquet").write_bytes(data)
    with pytest.raises(SnapshotError, match=r"items\.parquet: ill-formed parquet.*hint: .*write it again"):
        open_snapshot(tmp_path, CONFIG)


def _varint(value: int) -> bytes:
    data = b""
    while value > 0x7F:
        data, value = data + bytes([value & 0x7F | 0x80]), value >> 7
    return data + bytes([value])


def absurd_parquet(values: int) -> bytes:
    """Return a file of some kilobytes with a page that claims, twice, to hold ``values`` strings.

    The shape of arrow#49955: the number in the page's header and the one in front of its delta-encoded lengths.
    """
    sink = pa.BufferOutputStream()
    ids = [f"n{number}" for number in range(300)]
    pq.write_table(
        pa.table({"v": lists(np.ones((300, 2), np.float32)), "id": ids}),
        sink,
        use_dictionary=False,
        compression="none",
        column_encoding={"id": "DELTA_LENGTH_BYTE_ARRAY"},
        write_statistics=False,
        store_schema=False,
    )
    data = sink.getvalue().to_pybytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    size = pq.read_metadata(pa.BufferReader(data)).row_group(0).column(1).total_compressed_size
    # page header: type 0, two sizes, then the number of values; 300 is 600 in zigzag
    page = re.compile(rb"\x15\x00\x15([\x80-\xff]*[\x00-\x7f])\x15[\x80-\xff]*[\x00-\x7f],\x15\xd8\x04")
    header = next((found for found in page.finditer(data, 0, footer) if found.start() == footer - size), None)
    if header is None:
        pytest.skip("this pyarrow writes another page header")
    lengths = data.index(b"\x04\xac\x02", header.end())
    grown = len(_varint(values)) - 2
    old = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(header[1]))
    new = b"\x15" + _varint(old + 2 * grown)
    start = b"\x15\x00" + new + new + b",\x15" + _varint(2 * values)
    body = data[header.end() : lengths + 1] + _varint(values) + data[lengths + 3 : footer]
    tail = data[footer:]
    more = len(start) + len(body) - size
    assert tail.count(b"\x16" + _varint(2 * size)) == 2
    return (
        data[: header.start()]
        + start
        + body
        + tail.replace(b"\x16" + _varint(2 * size), b"\x16" + _varint(2 * (size + more)))
    )


#: Run in another process, so that RUSAGE_CHILDREN covers only its decoder.
_READ_AND_MEASURE = """
import resource, sys
from pathlib import Path
from embsync.errors import SnapshotError
from snapshots.made import read
try:
    read(Path(sys.argv[1]))
except SnapshotError:
    print("refused")
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, flush=True)
"""


def test_a_file_that_asks_for_absurd_memory_is_refused(tmp_path: Path) -> None:
    """A page of 2**31 values in a file of a kilobyte is refused, with little memory here and in the decoder."""
    (tmp_path / "items.parquet").write_bytes(absurd_parquet(2**31 - 1))
    with running(_READ_AND_MEASURE, tmp_path) as reader:
        assert next_line(reader) == "refused"
        assert int(next_line(reader)) < 2**20


def test_a_crash_of_the_decoder_is_a_refusal_and_the_next_one_works(tmp_path: Path) -> None:
    """A crash refuses the file being read; killing the decoder from outside is a transient error."""
    path = write(tmp_path / "s", model())
    for number, kind, transient in (
        (signal.SIGSEGV, SnapshotError, False),
        (signal.SIGXCPU, SnapshotError, False),
        (signal.SIGKILL, SnapshotChanged, True),
        (signal.SIGBUS, SnapshotChanged, True),  # of a mapped file that became shorter
    ):
        items = open_snapshot(path, CONFIG).items
        for process in _decoders():
            os.kill(process, number)
        with pytest.raises(kind) as ended:
            vectors(items)
        assert ended.value.transient is transient
        assert len(vectors(items)) == 300


def _decoders() -> list[int]:
    """Return the decoders that this process has started, as listed by the kernel: children with a socket as input."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _is_decoder(folder)]


def _is_decoder(folder: Path) -> bool:
    try:
        parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        return parent == os.getpid() and str((folder / "fd/0").readlink()).startswith("socket:")
    except OSError:
        return False


def test_decoders_end_when_their_snapshot_is_closed(tmp_path: Path) -> None:
    """None is left when the snapshot is released, nor after an interrupted pass."""
    gc.collect()
    before = set(_decoders())
    opened = open_snapshot(write(tmp_path / "s", model()), CONFIG)
    blocks = opened.items.blocks()
    next(blocks)
    assert set(_decoders()) - before
    blocks.close()
    del opened, blocks
    gc.collect()
    assert not set(_decoders()) - before


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code is 2, and the hint is the command that installs it."""
    path = write(tmp_path / "s", model())
    monkeypatch.setattr(decoder_process.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'embsync\[parquet\]'") as missing:
        open_snapshot(path, CONFIG)
    assert missing.value.exit_code == 2


def test_the_parent_process_never_imports_pyarrow(tmp_path: Path) -> None:
    """The process that reads a snapshot loads no parquet parser."""
    path = write(tmp_path / "s", model())
    code = (
        "import sys; from embsync.snapshots import open_snapshot; from embsync.config import SnapshotConfig; "
        f"s = open_snapshot({str(path)!r}, SnapshotConfig()); s.items.ids(); list(s.items.blocks()); "
        "assert 'pyarrow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    """The decompressed size in the footers is compared with snapshot.max_bytes."""
    path = write(tmp_path / "s", model(items=100, users=100, width=8))
    open_snapshot(path, SnapshotConfig(max_bytes=2 * 100 * 40))
    with pytest.raises(SnapshotError, match="max_bytes"):
        open_snapshot(path, SnapshotConfig(max_bytes=2 * 100 * 40 - 1))


def test_blocks_in_use_are_not_overwritten(tmp_path: Path) -> None:
    """No block is overwritten while it is held, however many are, and the caller cannot write to it."""
    step = block_rows(900)
    rows = 10 * step + 5
    matrix = np.random.default_rng(1).standard_normal((rows, 900)).astype(np.float16)
    items = tmp_path / "items"
    items.mkdir()
    for start in range(0, rows, 1000):
        part = matrix[start : start + 1000]
        pq.write_table(table(np.arange(start, start + len(part)), part), items / f"{start}.parquet", compression="none")
    side = open_snapshot(tmp_path, CONFIG).items
    held = list(side.blocks())
    assert len(held) == 11
    for start, block in held:
        np.testing.assert_array_equal(block, matrix[start : start + step])
        assert not block.flags.writeable
    parts = [block[3:5] for _, block in side.blocks()]
    del held
    assert all(np.array_equal(part, matrix[n * step + 3 : n * step + 5]) for n, part in enumerate(parts))


def test_two_passes_may_run_concurrently(tmp_path: Path) -> None:
    """It includes items and users in parallel, and one side twice."""
    made = model(items=5000, users=5000, width=128)
    opened = open_snapshot(write(tmp_path / "s", made), CONFIG)
    assert opened.users is not None
    for (start, a), (_, b), (_, c) in zip(
        opened.items.blocks(), opened.users.blocks(), opened.items.blocks(), strict=True
    ):
        np.testing.assert_array_equal(a, made.items[start : start + len(a)])
        np.testing.assert_array_equal(b, made.users[start : start + len(b)])
        np.testing.assert_array_equal(c, a)


def decoder_with(monkeypatch: pytest.MonkeyPatch, place: Path, *lines: str) -> None:
    """Make decoders run some lines before they start."""
    text = decoder_process._SCRIPT.read_text()
    served = '    importlib.import_module("embsync.decoder.service").start(channel)\n'
    assert text.count(served) == 1
    begun = "".join(
        f"    {line}\n" for line in ("import time", "from embsync.decoder import limits, tables, values", *lines)
    )
    script = place / "embsync" / "decoder" / "__main__.py"
    script.parent.mkdir(parents=True)
    script.write_text(text.replace(served, begun + served))
    monkeypatch.setattr(decoder_process, "_SCRIPT", script)


#: A function that takes longer than a test's time limit.
_SPIN = "def spin(*_): exec('while True: pass')"


@pytest.mark.parametrize("where", ["tables.ParquetTable.columns", "values.vectors"])
def test_a_hanging_parser_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Its processor time is limited for the footer and for each batch; exceeding it refuses the file."""
    path = write(tmp_path / "s", model())
    decoder_with(monkeypatch, tmp_path / "script", "limits.STEP_SECONDS = 0", _SPIN, f"{where} = spin")
    with pytest.raises(SnapshotError, match="a running decoder") as ended:
        read(path)
    assert not ended.value.transient


@pytest.mark.torture
def test_the_time_limit_applies_to_each_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large snapshot may take longer in total than the limit of a batch."""
    made = model(items=40 * block_rows(64), users=10, width=64)
    write(tmp_path / "s", made)
    burn = (
        "usual = values.vectors",
        "end = lambda: time.process_time() + 0.2",
        "loop = 'while time.process_time() < end: pass'",
        "burning = lambda *given: (exec(loop, {'time': time, 'end': end()}), usual(*given))[1]",
        "values.vectors = burning",
    )
    decoder_with(monkeypatch, tmp_path / "script", "limits.STEP_SECONDS = 2", *burn)
    np.testing.assert_array_equal(vectors(open_snapshot(tmp_path / "s", CONFIG).items), made.items)


def test_a_decoder_works_within_limits(tmp_path: Path) -> None:
    """While a file is read, the decoder has limits of processor time and memory."""
    made = model(items=6 * block_rows(64), users=10, width=64)
    opened = open_snapshot(write(tmp_path / "s", made), CONFIG)
    most = {"cpu time": 60, "data size": 8 * 2**30, "address space": 8 * 2**30}
    found = 0
    for _ in opened.items.blocks():
        for process in _decoders():
            limits = Path(f"/proc/{process}/limits").read_text()
            for name, bound in most.items():
                limit = re.search(rf"Max {name} +(\S+)", limits).group(1)
                assert limit != "unlimited", name
                assert int(limit) < bound, name
            found += 1
    assert found


@pytest.mark.services("pandas")
def test_a_decoder_does_not_load_pandas(tmp_path: Path) -> None:
    """Pyarrow loads pandas if it is installed, which takes longer than reading a small file."""
    gc.collect()
    before = set(_decoders())  # of an earlier test, held by its exception
    opened = open_snapshot(write(tmp_path / "s", model()), CONFIG)
    vectors(opened.items)
    (decoder,) = set(_decoders()) - before
    assert "pyarrow" in (mapped := Path(f"/proc/{decoder}/maps").read_text())
    assert "site-packages/pandas" not in mapped


def test_a_pass_after_an_interrupted_one_reads_everything(tmp_path: Path) -> None:
    """Rows left in the pipe by the interrupted pass are not returned by the next one."""
    made = model(items=6 * block_rows(64), users=10, width=64)
    items = open_snapshot(write(tmp_path / "s", made), CONFIG).items
    for _ in range(2):
        blocks = items.blocks()
        next(blocks)
        blocks.close()
        np.testing.assert_array_equal(vectors(items), made.items)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none", "use_dictionary": False},
        {"compression": "none", "data_page_version": "2.0"},
        {"compression": "zstd"},
        {"compression": "snappy", "data_page_size": 200, "use_dictionary": False},
    ],
)
@pytest.mark.parametrize("column", [0, 1])
def test_a_page_with_a_wrong_checksum_is_refused(tmp_path: Path, options: dict[str, object], column: int) -> None:
    """If the file has checksums, one changed byte of ids or vectors is refused, whatever value it gives."""
    made = model()
    path = write(tmp_path / "s", made, write_page_checksum=True, **options) / "items.parquet"
    read(path.parent, CONFIG)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(column)
    data = bytearray(path.read_bytes())
    data[
        chunk.data_page_offset
        + chunk.total_compressed_size
        - (chunk.data_page_offset - (chunk.dictionary_page_offset or chunk.data_page_offset))
        - 9
    ] ^= 4
    path.write_bytes(data)
    with pytest.raises(SnapshotError, match=r"items\.parquet.*(CRC|checksum|crc)"):
        read(path.parent, CONFIG)
