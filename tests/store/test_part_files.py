"""Rows in part files: found by id and by number, one row group at a time; contents that no writer writes are damage."""

from __future__ import annotations

import gc
import io
import os
import resource
import shutil
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.nights import night
from support.parts import in_parts, replaced, write_parts
from support.quick import quick_directory
from support.stores import next_line, running, snapshot_of, sync
from support.waiting import PATIENCE

import embsync
from embsync.cli.main import run
from embsync.errors import StoreDamaged, StoreError, UsageError
from embsync.ids import positions_in
from embsync.pipeline.verify import _WrittenRows
from embsync.reader import Version
from embsync.reader.columns import PartColumn
from embsync.store import Store
from embsync.store.part_files import PartTable, _LruCache
from embsync.store.row_groups import RowGroups

SIZES = {"items": 40, "users": 60, "width": 4}
PART = "users/part-00001.parquet"


@pytest.fixture(scope="module", params=["integer", "string"])
def published(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A store with carried rows, and a copy of it whose newest version has its users in part files."""
    with quick_directory() as directory:
        for number in range(2):
            made = night(number, **SIZES)
            sync(directory / "S", made if request.param == "integer" else made.named(), f"n{number}")
        shutil.copytree(directory / "S", directory / "parts", symlinks=True)
        in_parts(directory / "parts")
        yield directory


@pytest.fixture
def root(published: Path) -> Path:
    """A copy of the store with part files, which may be changed."""
    target = published / "copy"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(published / "parts", target, symlinks=True)
    return target


@pytest.fixture
def folder(root: Path) -> Path:
    return root / "versions/000002"


@pytest.fixture
def sides(published: Path) -> Iterator[tuple[Any, Any]]:
    """The users as arrays and as part files."""
    with embsync.open(published / "S") as one, embsync.open(published / "parts") as other:
        yield one.current.users, other.current.users


def test_rows_are_those_of_the_arrays(sides: tuple[Any, Any]) -> None:
    """It holds by number in any order and shape, by slice, by mask, singly and in iteration."""
    arrays, parts = sides
    rng = np.random.default_rng(7)
    for name in ("ids", "vectors", "last_seen", "live"):
        column, array = getattr(parts, name), np.asarray(getattr(arrays, name))
        assert (column.shape, column.ndim, len(column)) == (array.shape, array.ndim, len(array))
        assert column.dtype.kind == array.dtype.kind
        mask = rng.random(len(array)) < 0.4
        for rows in (
            slice(None), slice(5, 40), slice(40, 5), slice(3, None, 4), slice(None, None, -1), mask, [0, 0, 3],
            rng.permutation(len(array)), rng.integers(-len(array), len(array), (2, 30)), np.empty(0, np.int64),
        ):  # fmt: skip
            np.testing.assert_array_equal(column[rows], array[rows])
        np.testing.assert_array_equal(column[-1], array[-1])
        np.testing.assert_array_equal(list(column), list(array))
        for wrong in (len(array), -len(array) - 1, [0, len(array)], mask[1:]):
            with pytest.raises(IndexError):
                column[wrong]


def test_all_rows_at_once_are_read_only_where_that_is_asked_for(sides: tuple[Any, Any]) -> None:
    """An accidental conversion to an array would fill the memory; the error names the methods to use."""
    arrays, parts = sides
    for column in (parts.ids, parts.vectors, parts.last_seen, parts.live):
        with pytest.raises(UsageError, match=r"not one array.*side\.blocks\(\).*side\.lookup\(ids\)"):
            np.asarray(column)
        with pytest.raises(UsageError, match="not one array"):
            np.flatnonzero(column)
    assert parts.to_arrow().equals(arrays.to_arrow())


@pytest.mark.parametrize("rows", [1, 10, 1000])
def test_blocks_have_as_many_rows_as_asked_for(sides: tuple[Any, Any], rows: int) -> None:
    """Blocks cross row groups and files; by default, each is one row group."""
    arrays, parts = sides
    for (ids, vectors), (expected, theirs) in zip(parts.blocks(rows), arrays.blocks(rows), strict=True):
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_array_equal(vectors, theirs)
    assert {len(ids) for ids, _ in parts.blocks()} <= set(range(1, 8))
    assert sum(len(ids) for ids, _ in parts.blocks()) == len(arrays)


def test_ids_are_found_wherever_they_are(sides: tuple[Any, Any]) -> None:
    """Stored ids are found in any order and if repeated; other ids are not."""
    arrays, parts = sides
    stored = np.asarray(arrays.ids)
    wanted = np.concatenate([stored[::-1], stored[:9]])
    between = stored[:-1] + 1 if stored.dtype.kind == "i" else np.char.add(stored, b"!")
    for asked in (wanted, between, between[:0], stored[:1]):
        np.testing.assert_array_equal(parts.ids.positions(asked), positions_in(asked, stored))


def table_of(folder: Path, file: str = PART) -> Any:
    """Return a part file as a table."""
    return pq.read_table(folder / file)


def written(table: Any, **options: Any) -> bytes:
    """Return a table as a parquet file like a writer's, except for the given options."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **{"row_group_size": 7, "use_dictionary": False, "write_statistics": True} | options)
    return buffer.getvalue()


def with_column(table: Any, name: str, values: Any) -> Any:
    return table.set_column(table.schema.get_field_index(name), name, values)


def vectors_as(change: Any) -> Any:
    """Return a function that changes the eighth vector."""

    def changed(table: Any) -> Any:
        values = table["vector"].to_pylist()
        values[7] = change(values[7])
        return with_column(table, "vector", pa.array(values, pa.list_(pa.float32())))

    return changed


def swapped(table: Any) -> Any:
    order = np.arange(len(table))
    order[[8, 9]] = 9, 8
    return table.take(pa.array(order))


def repeated(table: Any) -> Any:
    order = np.arange(len(table))
    order[9] = 8
    return table.take(pa.array(order))


def without_values(table: Any, name: str) -> Any:
    values = table[name].to_pylist()
    values[7] = None
    return with_column(table, name, pa.array(values, table[name].type))


def other_ids(table: Any) -> Any:
    other = pa.binary() if pa.types.is_string(table["id"].type) else pa.int32()
    return with_column(table, "id", table["id"].cast(other))


#: Contents that no writer writes: a change of the table, options of the writer, and the message.
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "unsorted": (swapped, {}, "ids of row group 1 that do not ascend"),
    "an id twice": (repeated, {}, "ids of row group 1 that do not ascend"),
    "a null vector": (vectors_as(lambda _: None), {}, "values of vector, 1 of them null, in row group 1"),
    "a ragged vector": (vectors_as(lambda old: [*old, 0.5]), {}, "a vector of 5 values in row group 1; expected 4"),
    "a null in a vector": (vectors_as(lambda old: [None, *old[1:]]), {}, "a vector with a null in row group 1"),
    "an empty vector": (vectors_as(lambda _: []), {}, "a vector of 0 values in row group 1; expected 4"),
    "a null id": (lambda table: without_values(table, "id"), {}, "values of id, 1 of them null|do not ascend"),
    "a null number": (lambda table: without_values(table, "last_seen"), {}, "values of last_seen, 1 of them null"),
    "wide vectors": (
        lambda table: with_column(table, "vector", table["vector"].cast(pa.list_(pa.float64()))), {},
        "vector of type list<element: double>; expected list<float>",
    ),
    "ids of another type": (other_ids, {}, "id of type (int32|binary); expected (int64|string)"),
    "numbers of another type": (
        lambda table: with_column(table, "last_seen", table["last_seen"].cast(pa.int32())), {},
        "last_seen of type int32; expected int64",
    ),
    "no vectors": (lambda table: table.drop_columns(["vector"]), {}, "0 columns vector; expected one"),
    "two columns of ids": (lambda table: table.append_column("id", table["id"]), {}, "not a footer"),
    "fewer rows": (lambda table: table.slice(1), {}, "rows; expected 2[0-9], as the manifest says"),
    "a first id that is not the manifest's": (
        lambda table: pa.concat_tables([table.slice(1), table.slice(len(table) - 1)]), {},
        "ids from .* to .*; expected .* to .*, as the manifest says",
    ),
    "row groups in another order": (
        lambda table: pa.concat_tables([table.slice(0, 7), table.slice(10, 4), table.slice(7, 3), table.slice(14)]),
        {"row_group_size": 7}, "ids of row group 1 that do not ascend",
    ),
    "no statistics": (lambda table: table, {"write_statistics": False}, "no statistics of id in row group 0"),
}  # fmt: skip


@pytest.mark.parametrize("how", WRONG)
def test_malformed_part_files_are_damage(folder: Path, how: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Even if the hash is that of the manifest, such rows are never returned; the command exits with 5 and one line."""
    change, options, message = WRONG[how]
    replaced(folder, written(change(table_of(folder)), **options))
    with embsync.open(folder.parent.parent) as reader:
        users = reader.current.users
        assert users is not None
        with pytest.raises(StoreDamaged, match=rf"part-00001\.parquet: damaged part file; found .*({message})"):
            for _ in users.stored_blocks():
                pass
        assert len(users.vectors[:5]) == 5  # from another file
    before = snapshot_of(folder.parent.parent)
    bound = Store(folder.parent.parent).manifest(2).parts.users[1].last
    code = run(["lookup", "users", str(bound), "--store", str(folder.parent.parent), "--json"])
    printed = capfd.readouterr()
    assert (code, printed.err.count("\n")) in {(5, 1), (0, 0)}  # from an intact row group
    assert snapshot_of(folder.parent.parent) == before


def test_additional_columns_are_ignored(folder: Path, sides: tuple[Any, Any]) -> None:
    """Additional columns, large lists and strings, and another compression do not matter."""
    table = table_of(folder)
    table = table.append_column("sums", pa.array([None] * len(table), pa.binary()))
    text = pa.types.is_string(table["id"].type)
    table = with_column(table, "id", table["id"].cast(pa.large_string() if text else pa.int64()))
    table = with_column(table, "vector", table["vector"].cast(pa.list_(pa.float32(), 4)))
    replaced(folder, written(table, compression="zstd", use_dictionary=True))
    with embsync.open(folder.parent.parent) as reader:
        assert reader.current.users is not None
        np.testing.assert_array_equal(reader.current.users.vectors[:], sides[0].vectors)
        assert reader.current.users.names(np.arange(60)).tolist() == sides[0].names(np.arange(60)).tolist()


def test_a_row_group_is_read_only_if_it_is_small_enough(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the footer says, memory is bounded by eight times the size that the writer produces."""
    monkeypatch.setattr("embsync.store.row_groups.LARGEST_GROUP", 7 * 4 * 4 - 1)
    with (
        embsync.open(folder.parent.parent) as reader,
        pytest.raises(StoreDamaged, match=r"of 7 rows, .*; expected at most 6 rows"),
    ):
        reader.current.users.vectors[0]


BROKEN = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 9),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"PAR1"),
    "empty": lambda path: os.truncate(path, 0),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_is_not_the_published_one_is_damage(folder: Path, how: str) -> None:
    """Sizes are checked when the version is opened, files when they are read; the error names the next command."""
    with embsync.open(folder.parent.parent) as reader:
        users = reader.current.users
        assert users is not None
        assert len(users.vectors[:1]) == 1
        BROKEN[how](folder / PART)
        with pytest.raises(StoreDamaged, match=r"part-00001\.parquet: damaged part file;.*embsync rollback"):
            users.vectors[30]
    with pytest.raises(StoreDamaged, match=r"part-00001\.parquet: .*embsync rollback"):
        embsync.open(folder.parent.parent)
    (damaged,) = Store(folder.parent.parent).damaged_files(2)
    assert damaged.startswith(f"{PART}: ")


def test_a_changed_byte_is_found_by_verify_and_never_ends_the_process(root: Path, folder: Path) -> None:
    """A changed byte of footer or pages causes an error or rows, but no crash."""
    data = (folder / PART).read_bytes()
    script = """
        import sys, embsync
        from pathlib import Path
        from embsync.errors import StoreDamaged
        root, file = Path(sys.argv[1]), Path(sys.argv[2])
        data = file.read_bytes()
        damaged = 0
        footer = len(data) - int.from_bytes(data[-8:-4], "little") - 8
        for place in [*range(0, footer, 37), *range(footer, len(data), 7)]:
            file.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1:])
            try:
                with embsync.open(root) as reader:
                    for _ in reader.current.users.stored_blocks():
                        pass
            except StoreDamaged:
                damaged += 1
        file.write_bytes(data)
        print(damaged, len(data) - footer)
    """
    with running(textwrap.dedent(script), root, folder / PART) as child:
        output, _ = child.communicate(timeout=500)
    assert child.returncode == 0
    damaged, footer = map(int, output.split())
    assert damaged > footer / 7 / 4
    (folder / PART).write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    assert Store(root).damaged_files(2)[0].startswith(f"{PART}: sha256")
    assert run(["verify", "--store", str(root)]) == 5


def test_without_pyarrow_one_line_says_what_to_install(root: Path) -> None:
    """Items, search and the manifest are read without it, users are not."""
    script = """
        import sys
        sys.modules["pyarrow"] = None
        import embsync
        from embsync.cli.main import run
        with embsync.open(sys.argv[1]) as reader:
            version = reader.current
            version.search(version.items.vectors[:2], 3)
            try:
                version.users
            except embsync.EmbsyncError as error:
                print(type(error).__name__, error)
        print(run(["show", "--store", sys.argv[1]]))
    """
    with running(textwrap.dedent(script), root) as child:
        output, _ = child.communicate(timeout=PATIENCE)
    assert "UsageError" in output
    assert "the users of this version are in parquet files, which need pyarrow" in output
    assert "pip install 'embsync[parquet]'" in output


def test_reading_format_1_loads_no_pyarrow(published: Path) -> None:
    """Loading it takes a quarter of a second and 40 MB, which only part files need."""
    code = "import sys, embsync; embsync.open(sys.argv[1]).current.users.vectors[0]; print('pyarrow' in sys.modules)"
    for store, loaded in (("S", "False"), ("parts", "True")):
        with running(code, published / store) as child:
            assert next_line(child) == loaded
            assert child.wait(PATIENCE) == 0


@pytest.fixture(scope="module")
def four_files() -> Iterator[tuple[Path, Any, Any, Any]]:
    """100,000 rows in 4 files of 25 row groups each, without a version."""
    rng = np.random.default_rng(3)
    ids = np.cumsum(rng.integers(1, 9, 100_000))
    vectors = rng.standard_normal((100_000, 16)).astype(np.float32)
    with quick_directory() as directory:
        quarter = [slice(start, start + 25_000) for start in range(0, 100_000, 25_000)]
        parts, entries = write_parts(directory, ((ids[one], vectors[one], ids[one]) for one in quarter), 1000)
        yield directory, SimpleNamespace(dimension=16, files=entries, parts=parts), ids, vectors


@pytest.fixture
def large(four_files: tuple[Path, Any, Any, Any]) -> tuple[PartTable, Any, Any]:
    """A table that has read nothing yet, its ids and its vectors."""
    path, manifest, ids, vectors = four_files
    return PartTable(path, manifest), ids, vectors


def test_rows_in_any_order_are_verified_in_few_passes(
    large: tuple[PartTable, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several threads read blocks; row groups are read once per 25,000 rows, not once per block."""
    table, ids, vectors = large
    monkeypatch.setattr("embsync.pipeline.verify._READ_AT_ONCE", 25_000 * 64)
    table._columns["vector"] = _LruCache(4 * 1000 * 64)
    rows = np.random.default_rng(1).permutation(len(ids))
    rows[77_000] = -1
    read, plain = [], RowGroups.read
    monkeypatch.setattr(RowGroups, "read", lambda *arguments: (read.append(1), plain(*arguments))[1])
    written = _WrittenRows(PartColumn(table, "vector"), rows)
    parts = [slice(start, min(start + 900, len(ids))) for start in range(0, len(ids), 900)]
    with ThreadPoolExecutor(3) as pool:
        found = np.concatenate(list(pool.map(written.__getitem__, parts)))
    assert np.isnan(found[77_000]).all()
    found[77_000] = vectors[-1]
    np.testing.assert_array_equal(found, vectors[rows])
    assert len(read) <= 600  # 400 unless a thread is overtaken by two others


def descriptors() -> int:
    """Return the number of open files, except those of unreferenced objects."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def bytes_read() -> int:
    """Return the bytes that this process has read by system calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(lines[0].removeprefix("rchar: "))


def test_a_lookup_reads_the_row_groups_that_it_needs(
    large: tuple[PartTable, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lookup in three of a hundred row groups reads ids and vectors of these, and nothing of the others."""
    table, ids, vectors = large
    size = sum(path.stat().st_size for path in table.first_path.parent.iterdir())
    table.positions(ids[::25_000])  # reads the footers
    chosen = np.sort(np.concatenate([ids[2000:3000:2], ids[40_000:41_000], ids[99_000:]]))
    read: list[tuple[int, str]] = []
    plain = pq.ParquetFile.read_row_group

    def counted(self: Any, group: int, columns: Any, **options: Any) -> Any:
        read.append((group, columns[0]))
        return plain(self, group, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    before = bytes_read()
    rows = table.positions(chosen)
    found = table.take("vector", rows)
    used = bytes_read() - before
    np.testing.assert_array_equal(found, vectors[np.searchsorted(ids, chosen)])
    assert sorted(read) == [(2, "id"), (2, "vector"), (15, "id"), (15, "vector"), (24, "id"), (24, "vector")]
    assert used < 0.05 * size
    assert table.positions(chosen + 0).tolist() == rows.tolist()
    assert len(read) == 6  # served from the cache


def test_no_file_stays_open_and_threads_agree(large: tuple[PartTable, Any, Any]) -> None:
    """Eight threads look up different ids; the number of open descriptors is the same afterwards."""
    table, ids, vectors = large
    before = descriptors()
    wrong: list[int] = []

    def look(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(2):
            rows = rng.integers(0, len(ids), 200)
            if not np.array_equal(table.take("vector", table.positions(ids[rows])), vectors[rows]):
                wrong.append(seed)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert descriptors() == before


def test_the_cache_is_bounded(large: tuple[PartTable, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """For each column, the cache keeps the row groups used last, up to its limit in bytes."""
    table = large[0]
    recent: _LruCache[Any] = _LruCache(200_000)  # of row groups of 64,000
    monkeypatch.setitem(table._columns, "vector", recent)
    table.take("vector", np.arange(0, 100_000, 500))
    assert list(recent._values) == [(3, 22), (3, 23), (3, 24)]
    assert sum(size for _, size in recent._values.values()) == recent._total == 3 * 64_000


def test_too_many_open_files_are_no_damage(large: tuple[PartTable, Any, Any]) -> None:
    """The error says that the store cannot be read; the next call works."""
    table = large[0]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        with pytest.raises(StoreError, match="cannot be read") as refused:
            list(table.blocks(("id",)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not isinstance(refused.value, StoreDamaged)
    assert sum(len(ids) for (ids,) in table.blocks(("id",))) == 100_000


def test_a_pinned_version_is_not_pruned_and_a_deleted_one_is_not_damage(root: Path) -> None:
    """As with arrays, the lease lasts until the version is closed, and rows that were read remain valid."""
    version = Version(root / "versions/000002")
    users = version.users
    assert users is not None
    vectors = users.vectors[:3]
    version.close()
    shutil.rmtree(root / "versions/000002")
    with pytest.raises(StoreError, match="deleted while it was in use") as refused:
        users.vectors[-1]
    assert not isinstance(refused.value, StoreDamaged)
    assert vectors.shape == (3, 4)


@pytest.mark.torture
def test_memory_does_not_grow_with_the_side(tmp_path: Path) -> None:
    """With 256 MB of vectors, 10,000 lookups and a pass over all rows take at most 100 MB."""
    ids = np.arange(2_000_000, dtype=np.int64) * 3
    rng = np.random.default_rng(1)

    def files() -> Iterator[tuple[Any, Any, Any]]:
        for start in range(0, len(ids), 250_000):
            mine = ids[start : start + 250_000]
            yield mine, rng.standard_normal((len(mine), 32), np.float32), mine

    parts, entries = write_parts(tmp_path, files())
    sizes = {entry.path: entry.bytes for entry in entries}
    described = msgspec.json.encode([parts, sizes]).decode()
    script = """
        import sys, types, msgspec, numpy as np
        from pathlib import Path
        from embsync.file_hashes import FileEntry
        from embsync.manifest import Parts
        from embsync.store.part_files import PartTable, _LruCache
        parts, sizes = msgspec.json.decode(sys.argv[2], type=tuple[Parts, dict[str, int]])
        files = [FileEntry(path, size, "") for path, size in sizes.items()]
        table = PartTable(Path(sys.argv[1]), types.SimpleNamespace(dimension=32, parts=parts, files=files))
        def peak():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        table.take("vector", np.array([5]))
        before = peak()
        wanted = np.random.default_rng(2).choice(2_000_000, 10_000, replace=False)
        rows = table.positions(wanted * 3)
        assert (rows == wanted).all() and (table.positions(wanted * 3 + 1) == -1).all()
        assert table.take("vector", rows).shape == (10_000, 32)
        assert sum(len(ids) for ids, _ in table.blocks(("id", "vector"))) == 2_000_000
        print(peak() - before)
    """
    with running(textwrap.dedent(script), tmp_path, described) as child:
        output, _ = child.communicate(timeout=500)
    assert child.returncode == 0
    assert int(output) < 100_000
