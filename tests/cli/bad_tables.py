"""Invalid tables, in the form of :mod:`bad_inputs`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
from bad_inputs import IDS, ROWS, Leave, files, packed

Write = Callable[[Any], Callable[[Path], None]]


def parquet(table: Any, **options: Any) -> Callable[[Path], None]:
    """Return a function that writes a table as parquet."""
    return lambda path: pq.write_table(table, path, **options)


def feather(table: Any) -> Callable[[Path], None]:
    """Return a function that writes a table as Arrow IPC."""
    return lambda path: pyarrow.feather.write_feather(table, str(path), compression="uncompressed")


def table(vectors: Any = None, ids: Any = None, **more: Any) -> Any:
    """Return a valid table with some of it replaced."""
    rows = pa.array(list(ROWS)) if vectors is None else vectors
    return pa.table({"id": IDS if ids is None else ids, "embedding": rows, **more})


def ragged(row: int, numbers: Any) -> Any:
    """Return vectors, one of which is replaced."""
    rows: list[Any] = ROWS.tolist()
    rows[row] = numbers
    return pa.array(rows, pa.list_(pa.float32()))


def dimensions(**changed: Any) -> Any:
    """Return a table with one column per dimension."""
    columns: dict[str, Any] = {f"d{number}": ROWS[:, number] for number in range(4)} | changed
    return pa.table({"id": IDS} | {name: column for name, column in columns.items() if column is not None})


def column_cases(write: Write, end: str) -> Iterator[tuple[str, Leave, str]]:
    """Yield faults of columns that any file format may have."""
    half = pa.table({"id": IDS[:20], "embedding": list(ROWS[:20])})
    for what, made, says in (
        ("a short vector", table(ragged(7, [1, 2, 3])), "3 numbers in row 7"),
        ("an empty vector", table(ragged(7, [])), "0 numbers in row 7"),
        ("a missing vector", table(ragged(7, None)), "null in row 7"),
        ("a missing number", table(ragged(7, [1, None, 3, 4])), "null in row 7"),
        ("NaN", table(ragged(7, [1, float("nan"), 3, 4])), "row 7"),
        ("integers", table(pa.array([[1, 2, 3, 4]] * 40)), "unusable type|list"),
        ("lists of lists", table(pa.array([[[1.0]]] * 40)), "unusable type|list"),
        ("a missing id", table(ids=[*IDS[:7], None, *IDS[8:]]), "null in row 7"),
        ("an empty id", table(ids=[*IDS[:7], "", *IDS[8:]]), "0 bytes in row 7"),
        ("an id that is too long", table(ids=[*IDS[:7], "x" * 1025, *IDS[8:]]), "1025 bytes in row 7"),
        ("an id twice", table(ids=[*IDS[:7], "i0", *IDS[8:]]), "repeat.*i0"),
        ("float ids", table(ids=np.arange(40.0)), "double"),
        ("decimal ids", table(ids=pa.array(range(40)).cast(pa.decimal128(30, 2))), "decimal"),
        ("binary ids", table(ids=[name.encode() for name in IDS]), "binary"),
        ("ids of bytes with a NUL", table(ids=["a\0b", *IDS[1:]]), "NUL"),
        ("ids beyond 64 bits", table(ids=pa.array(np.arange(40, dtype="u8") + np.uint64(2**63))), "64|range|large"),
        ("no ids", pa.table({"embedding": list(ROWS)}), "no id column"),
        ("no vectors", pa.table({"id": IDS}), "no vector column"),
        ("two columns of vectors", table(vector=list(ROWS)), "more than one"),
        ("no rows", table().slice(0, 0), "no rows"),
        ("a gap among dimensions", dimensions(d2=None), "consecutively"),
        ("dimensions of two types", dimensions(d2=ROWS[:, 2].astype("f8")), "differ in type"),
        (
            "a missing number in a dimension",
            dimensions(d2=pa.array([None, *ROWS[1:, 2].tolist()], pa.float32())),
            "null in row 0",
        ),
    ):
        yield f"{what}", files(**{f"items__{end}": write(made)}), says
    for what, second, says in (
        ("an id twice across parts", pa.table({"id": ["i0", *IDS[21:]], "embedding": list(ROWS[20:])}), "repeat.*i0"),
        ("parts of two widths", pa.table({"id": IDS[20:], "embedding": list(ROWS[20:, :3])}), "widths"),
        (
            "parts of two types",
            pa.table({"id": IDS[20:], "embedding": list(ROWS[20:].astype("f8"))}),
            "differs among part files",
        ),
        (
            "parts with ids of two types",
            pa.table({"id": range(20), "embedding": list(ROWS[20:])}),
            "differs among part files",
        ),
        ("a part without vectors", pa.table({"id": IDS[20:]}), "no such column"),
    ):
        yield what, files(**{f"items_S_a__{end}": write(half), f"items_S_b__{end}": write(second)}), says


def cut(write: Callable[[Path], None], change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Return a function that writes a file and damages it."""

    def leave(path: Path) -> None:
        write(path)
        path.write_bytes(change(path.read_bytes()))

    return leave


def column_file_cases() -> Iterator[tuple[str, Leave, str]]:
    """Yield faults of tables as parquet and as Arrow, and of those files themselves."""
    for end, write in (("parquet", parquet), ("feather", feather)):
        for what, leave, says in column_cases(write, end):
            yield f"{end}: {what}", leave, says
    good = table()
    for what, made, says in (
        ("a cut", cut(parquet(good), lambda data: data[:-20]), "ill-formed parquet"),
        (
            "a gigantic footer",
            cut(parquet(good), lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1"),
            "ill-formed parquet",
        ),
        ("nothing", lambda path: path.write_bytes(b""), "ill-formed parquet"),
        ("the magic alone", lambda path: path.write_bytes(b"PAR1PAR1"), "ill-formed parquet"),
        ("an encrypted footer", cut(parquet(good), lambda data: b"PARE" + data[4:-4] + b"PARE"), "ill-formed parquet"),
        ("text", lambda path: path.write_text("id,embedding\n"), "ill-formed parquet"),
    ):
        yield f"parquet: {what}", files(items__parquet=made), says
    for what, made, says in (
        ("a cut", cut(feather(good), lambda data: data[:-20]), "ill-formed Arrow"),
        ("a cut stream", cut(feather(good), lambda data: data[8:200]), "ill-formed Arrow"),
        ("version 1", lambda path: path.write_bytes(b"FEA1" + bytes(40) + b"FEA1"), "version 1"),
        ("nothing", lambda path: path.write_bytes(b""), "ill-formed Arrow|no rows"),
        (
            "a gigantic message",
            lambda path: path.write_bytes(b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(64)),
            "Arrow|memory",
        ),
    ):
        yield f"feather: {what}", files(items__feather=made), says


def csv_text(*changed: tuple[int, str], header: str | None = "id,d0,d1,d2,d3") -> str:
    """Return CSV with some rows replaced."""
    rows = [",".join([name, *map(str, row)]) for name, row in zip(IDS, ROWS.tolist(), strict=True)]
    for row, line in changed:
        rows[row] = line
    return "\n".join([*([] if header is None else [header]), *rows]) + "\n"


def csv_lists(*changed: tuple[int, str]) -> str:
    """Return CSV with quoted lists, some rows replaced."""
    rows = [f'{name},"{json.dumps(row)}"' for name, row in zip(IDS, ROWS.tolist(), strict=True)]
    for row, line in changed:
        rows[row] = line
    return "\n".join(["id,embedding", *rows]) + "\n"


def csv_cases() -> Iterator[tuple[str, Leave, str]]:
    """Yield invalid delimited text."""
    for what, text, says in (
        ("a short row", csv_text((7, "i7,1,2,3")), "ill-formed text table.*(9|Expected 5)"),
        ("a long row", csv_text((7, "i7,1,2,3,4,5")), "ill-formed text table"),
        ("text for a number", csv_text((7, "i7,1,2,x,4")), "x"),
        ("a missing number", csv_text((7, "i7,1,,3,4")), "d1.*'' in row 7"),
        ("a hexadecimal number", csv_text((7, "i7,1,2,0x1F,4")), "d2.*0x1F.*row 7"),
        ("a decimal comma in quotes", csv_text((7, 'i7,1,2,"1,5",4')), "1,5.*row 7"),
        ("NaN", csv_text((7, "i7,1,nan,3,4")), "d1.*nan.*row 7"),
        ("infinity", csv_text((7, "i7,1,1e999,3,4")), "row 7"),
        ("an id twice", csv_text((7, "i0,1,2,3,4")), "repeat.*i0"),
        ("an empty id", csv_text((7, ",1,2,3,4")), "row 7"),
        ("a quote that never ends", csv_text((7, '"i7,1,2,3,4')), "ill-formed text table"),
        ("a header alone", "id,d0,d1,d2,d3\n", "no rows|no known layout"),
        ("a header that is repeated", csv_text((7, "id,d0,d1,d2,d3")), "d0"),
        ("a name twice", csv_text(header="id,d0,d1,d1,d3"), "repeat"),
        ("a gap among dimensions", csv_text(header="id,d0,d1,d3,d4"), "consecutively"),
        ("lists of two widths", csv_lists((7, 'i7,"[1, 2, 3]"')), "3 numbers in row 7"),
        ("a list that is cut off", csv_lists((7, 'i7,"[1, 2, 3"')), "truncated"),
        ("a list with a hole", csv_lists((7, 'i7,"[1, , 3, 4]"')), "not a number"),
        ("a list with text", csv_lists((7, 'i7,"[1, null, 3, 4]"')), "null"),
        ("a list of lists", csv_lists((7, 'i7,"[[1], 2, 3, 4]"')), "not a number"),
        ("a list without quotes", csv_lists((7, "i7,[1, 2, 3, 4]")), "ill-formed text table"),
        ("an empty list", csv_lists((7, 'i7,"[]"')), "row 7|not a number"),
        ("ids with fractions", csv_text().replace("\ni", "\n").replace("\n7,", "\n7.0,"), "7.0|fraction|id"),
        ("a NUL", csv_text((7, "i\x007,1,2,3,4")), "NUL|row 7"),
        ("a row without end", csv_text((7, "i7,1,2,3," + "4" * 5_000_000)), "row 7"),
    ):
        yield f"csv: {what}", files(items__csv=text), says
    yield "csv: no UTF-8", files(items__csv=csv_text().encode().replace(b"i7,", b"\xff7,")), "UTF-?8"
    yield "csv: UTF-16", files(items__csv=csv_text().encode("utf-16")), "no known layout|UTF"
    yield "csv: nothing", files(items__csv=""), "no known layout|no rows"
    twice = csv_text(header="id,d0,d1,d2,d3")
    yield "csv: an id twice across parts", files(items_S_a__csv=twice, items_S_b__csv=csv_text()), "repeat.*i0"
    yield (
        "csv: parts of two widths",
        files(items_S_a__csv=twice, items_S_b__csv="id,d0,d1\nx,1.5,2.5\n"),
        "d2|no such column",
    )
    good = gzip.compress(csv_text().encode())
    for what, data, says in (
        ("a cut", good[:-9], "ill-formed|compressed|Truncated"),
        ("text that is not packed", csv_text().encode(), "compressed"),
        ("a bomb of rows", packed(b"id,d0,d1\n", b"a,1.5,2.5\n", 8_000_000), "more than text can expand to"),
        ("a bomb of one line", packed(b"id,d0,d1\na,1.5,", b"1", 50_000_000), "no known layout"),
        ("a bomb of empty lines", packed(b"id,d0,d1\na,1.5,2.5", b"\n", 80_000_000), "more than text can expand to"),
        ("nothing", b"", "compressed|no known layout|no rows"),
    ):
        yield f"csv in gzip: {what}", files(items__csv__gz=data), says


def projector_cases() -> Iterator[tuple[str, Leave, str]]:
    """Yield invalid pairs of files of the projector."""
    rows = ["\t".join(map(str, row)) for row in ROWS.tolist()]
    for what, numbers, names, says in (
        ("fewer names", rows, IDS[:39], "39 ids"),
        ("a name twice", rows, [*IDS[:39], "i0"], "repeat.*i0"),
        ("a header over the numbers", ["a\tb\tc\td", *rows], IDS, "not a number"),
        ("a short row", [*rows[:7], "1\t2\t3", *rows[8:]], IDS, "ill-formed text table"),
        ("text for a number", [*rows[:7], "1\t2\tx\t4", *rows[8:]], IDS, "x|not a number"),
        ("a missing number", [*rows[:7], "1\t\t3\t4", *rows[8:]], IDS, "null in row 7|not a number"),
        ("no numbers", [], IDS, "no rows"),
        ("no names", rows, [], "no rows"),
        ("an empty name", rows, [*IDS[:7], "", *IDS[8:]], "row 7"),
    ):
        text = {
            "tensors__tsv": "".join(row + "\n" for row in numbers),
            "metadata__tsv": "".join(f"{name}\n" for name in names),
        }
        yield f"projector: {what}", files(**text), says


def pipeline_cases() -> Iterator[tuple[str, Leave, str]]:
    """Yield invalid Spark pipelines."""
    items, users = parquet(table()), parquet(pa.table({"id": IDS, "features": list(ROWS)}))
    stage = "stages_S_1_ALS_S_"
    good = {f"{stage}itemFactors_S_part__parquet": items, f"{stage}userFactors_S_part__parquet": users}
    for what, made, says in (
        ("no users", {f"{stage}itemFactors_S_part__parquet": items}, "incomplete ALS model"),
        (
            "two models",
            good | {name.replace("1_ALS", "2_ALS"): write for name, write in good.items()},
            "more than one ALS",
        ),
        ("metadata that is no JSON", good | {"stages_S_0_X_S_metadata_S_part_D_00000": "{"}, "metadata of a stage"),
        (
            "other widths",
            good
            | {f"{stage}userFactors_S_part__parquet": parquet(pa.table({"id": IDS, "features": list(ROWS[:, :3])}))},
            "differ in width",
        ),
        (
            "an id twice",
            good | {f"{stage}itemFactors_S_part__parquet": parquet(table(ids=["i1", *IDS[1:]]))},
            "repeat.*i1",
        ),
    ):
        yield f"spark_pipeline: {what}", files(**made), says
