"""Layout arrow: IPC files and streams of several writers are read exactly; ill-formed ones are refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from snapshots.made import Model, assert_reads, model, read, vectors
from snapshots.test_parquet import decoder_with, lists, table

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotChanged, SnapshotError
from embsync.rows import block_rows
from embsync.snapshots import open_snapshot

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
feather = pytest.importorskip("pyarrow.feather", reason="pyarrow is not installed")

CONFIG = SnapshotConfig()


def write(path: Path, made: Model, kind: str = "list", *, stream: bool = False, rows: int = 77, **options: str) -> Path:
    """Write the model as one IPC file or stream per side, in record batches of ``rows`` rows."""
    path.mkdir(exist_ok=True)
    begin = pa.ipc.new_stream if stream else pa.ipc.new_file
    for side, ids, matrix in (("items", made.item_ids, made.items), ("users", made.user_ids, made.users)):
        made_table = table(ids, matrix, kind)
        with begin(str(path / f"{side}.arrow"), made_table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
            writer.write_table(made_table, max_chunksize=rows)
    return path


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("options", [{}, {"compression": "lz4"}, {"compression": "zstd"}])
def test_files_and_streams_of_every_codec_are_read_exactly(
    tmp_path: Path, stream: bool, options: dict[str, str]
) -> None:
    """Rows do not depend on record batches or compression."""
    made = model().named()
    opened = open_snapshot(write(tmp_path / "s", made, stream=stream, **options), CONFIG)
    assert opened.layout == "arrow"
    assert_reads(opened, made)


@pytest.mark.services("polars")
def test_files_of_other_writers_and_many_parts_are_read(tmp_path: Path) -> None:
    """Feather of pyarrow and Polars, lists of every type, categories as ids and numbered parts are read."""
    polars = pytest.importorskip("polars", reason="polars is not installed")
    rows = block_rows(16) + 500
    matrix = np.random.default_rng(2).standard_normal((rows, 16)).astype(np.float32)
    names = [f"i{number}" for number in range(rows)]
    (tmp_path / "items").mkdir()
    for number, start in enumerate(range(0, rows, 2000)):
        ids, part = names[start : start + 2000], matrix[start : start + 2000]
        path = str(tmp_path / "items" / f"part-{number}.feather")
        if number % 3 == 0:
            kinds = pa.DictionaryArray.from_arrays(np.arange(len(ids), dtype=np.int32), ids)
            feather.write_feather(pa.table({"item_id": kinds, "embedding": lists(part, "fixed")}), path)
        elif number % 3 == 1:
            feather.write_feather(pa.table({"item_id": ids, "embedding": lists(part, "large")}), path, "lz4")
        else:
            dictionary = polars.DataFrame({"item_id": ids, "embedding": list(part)})
            dictionary.cast({"embedding": polars.List(polars.Float32)}).write_ipc(path, compression="zstd")
    stranger = tmp_path / "items/part-999.feather"
    feather.write_feather(pa.table({"item_id": [1], "embedding": lists(matrix[:1])}), str(stranger))
    with pytest.raises(SnapshotError, match="column item_id differs"):
        read(tmp_path)
    stranger.unlink()
    items = open_snapshot(tmp_path, CONFIG).items
    np.testing.assert_array_equal(vectors(items), matrix)
    assert [value.decode() for value in items.ids().tolist()] == names


def test_a_single_file_is_read_as_items(tmp_path: Path) -> None:
    """The file may be given itself or be alone in its directory."""
    made = model()
    feather.write_feather(table(made.item_ids, made.items), tmp_path / "day.feather")
    for path in (tmp_path, tmp_path / "day.feather"):
        opened = open_snapshot(path, CONFIG)
        assert (opened.layout, opened.users) == ("arrow", None)
        np.testing.assert_array_equal(vectors(opened.items), made.items)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def first_feather(path: Path) -> None:
    path.write_bytes(b"FEA1" + b"\0" * 64 + b"FEA1")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: b"", "ill-formed Arrow file"),
        (cut, "ill-formed Arrow file"),
        (lambda data: b"ARROW1\0\0" + b"\xff" * 64, "ill-formed Arrow file|more memory"),
        (lambda data: data[:-20] + b"\xff\xff\xff\x7f" + data[-16:], "ill-formed Arrow file|more memory"),
        (lambda _: b"FEA1" + b"\0" * 64 + b"FEA1", r"Feather of version 1.*write_feather"),
        (lambda _: b"\x93NUMPY" * 20, "contents do not match the name; found an array"),
    ],
)
def test_a_file_that_is_not_arrow_is_refused(tmp_path: Path, change: Callable[[bytes], bytes], says: str) -> None:
    """Empty, truncated and forged files, files of version 1 and of other formats are refused."""
    path = write(tmp_path / "s", model()) / "items.arrow"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(SnapshotError, match=says) as refused:
        read(tmp_path / "s", CONFIG)
    assert refused.value.exit_code == 3
    assert "\n" not in str(refused.value)


def test_offsets_outside_the_buffer_are_refused(tmp_path: Path) -> None:
    """An offset before a list's values would otherwise expose memory of the decoder."""
    values = pa.array(np.ones(6, np.float32))
    offsets = pa.py_buffer(np.array([0, 2, 2000, 6], np.int32))
    broken = pa.Array.from_buffers(pa.list_(pa.float32()), 3, [None, offsets], children=[values])
    feather.write_feather(pa.table({"id": [1, 2, 3], "v": broken}), tmp_path / "items.feather", "uncompressed")
    with pytest.raises(SnapshotError, match="ill-formed Arrow file"):
        read(tmp_path, CONFIG)


def large(place: Path) -> Path:
    """Write one record batch of 50 MiB."""
    rows, width = 200_000, 64
    place.mkdir()
    vector = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * width, np.float32)), width)
    made = pa.table({"id": np.arange(rows), "v": vector})
    with pa.ipc.new_file(str(place / "items.arrow"), made.schema) as writer:
        writer.write_table(made)
    return place


#: Makes pyarrow keep files mapped, as its thread does for a moment after a file is closed.
_KEEP = "kept = []; map = tables.pa.memory_map; tables.pa.memory_map = lambda path: keep(map(path))"
_KEEPING = "def keep(file): kept.append(file.read_buffer()); file.seek(0); return file"


def test_a_file_larger_than_the_memory_of_the_decoder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is mapped, which takes address space but no memory, even if an earlier file is still mapped."""
    lines = f"limits.MEMORY = {40 * 2**20}", f"exec({_KEEPING!r}, globals())", f"exec({_KEEP!r}, globals())"
    decoder_with(monkeypatch, tmp_path / "script", *("global tables", *lines))
    assert len(vectors(open_snapshot(large(tmp_path / "s"), CONFIG).items)) == 200_000


def test_addresses_that_the_system_does_not_give_are_not_a_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the limit of the service is below the file's size, the message is about memory."""
    at_most = "limits.resource.setrlimit(limits.resource.RLIMIT_AS, (limits._size('VmSize') + 40 * 2**20,) * 2)"
    decoder_with(monkeypatch, tmp_path / "script", f"limits.MEMORY = {40 * 2**20}", at_most)
    with pytest.raises(SnapshotError, match="needs more memory than reading it may take"):
        open_snapshot(large(tmp_path / "s"), CONFIG)


def test_a_file_that_changes_between_passes_is_noticed(tmp_path: Path) -> None:
    """A file with more rows than when it was opened is detected."""
    path = write(tmp_path / "s", model())
    items = open_snapshot(path, CONFIG).items
    vectors(items)
    write(path, model(items=20))
    with pytest.raises(SnapshotChanged, match="changed while it was read"):
        vectors(items)
