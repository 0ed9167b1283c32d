"""Invalid inputs of each format: how each is written, and what the refusal names."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

#: A valid one-sided model, so that each input has a single fault.
ROWS = np.random.default_rng(3).standard_normal((40, 4)).astype("f4")
IDS = [f"i{number}" for number in range(40)]
LINES = [f"{name} {' '.join(map(str, row))}" for name, row in zip(IDS, ROWS.tolist(), strict=True)]

Leave = Callable[[Path], Path]


def file(name: str, data: bytes | str | Callable[[Path], Any]) -> Leave:
    """Return a function that leaves one file, with these contents or written by this function."""

    def leave(folder: Path) -> Path:
        path = folder / name
        if callable(data):
            data(path)
        else:
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return leave


def packed(head: bytes, repeated: bytes, times: int) -> Callable[[Path], Any]:
    """Return a function that writes gzip data; compression is slow, and is therefore not done during collection."""
    return lambda path: path.write_bytes(gzip.compress(head + repeated * times))


def files(**contents: Any) -> Leave:
    """Return a function that leaves a directory; ``items__npy`` is a name, arrays are saved, and ``_S_`` is a slash."""

    def leave(folder: Path) -> Path:
        for key, content in contents.items():
            path = folder / "day" / key.replace("_S_", "/").replace("__", ".").replace("_D_", "-")
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, np.ndarray):
                with path.open("wb") as opened:
                    np.save(opened, content, allow_pickle=True)
            elif isinstance(content, bytes | str):
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
            else:
                content(path)
        return folder / "day"

    return leave


def lines(*changed: tuple[int, str], header: str | None = "40 4", rows: list[str] = LINES) -> str:
    """Return word2vec text with some rows replaced."""
    made = list(rows)
    for row, line in changed:
        made[row] = line
    return "\n".join([*([] if header is None else [header]), *made]) + "\n"


def header_of(shape: str, descr: str = "<f4") -> bytes:
    """Return the header of an array of this shape."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def npy_cases() -> Iterator[tuple[str, Leave, str]]:
    """Yield invalid arrays."""
    ids = np.array(IDS)
    for what, vectors, names, says in (
        ("one dimension", ROWS[:, 0].copy(), ids, "shape"),
        ("three dimensions", ROWS.reshape(40, 2, 2), ids, "shape"),
        ("no rows", ROWS[:0], ids[:0], "no rows|shape"),
        ("no columns", ROWS[:, :0], ids, "shape|width"),
        ("complex numbers", ROWS.astype("c8"), ids, "c8"),
        ("integers", ROWS.astype("i4"), ids, "float"),
        ("objects", ROWS.astype(object), ids, "objects"),
        ("a missing number", np.where(ROWS[7, 1] == ROWS, np.nan, ROWS), ids, "row 7"),
        ("fewer ids", ROWS, ids[:39], "39"),
        ("ids twice", ROWS, np.array([*IDS[:39], "i3"]), "repeat.*i3"),
        ("float ids", ROWS, np.arange(40.0), "float64"),
        ("ids of two dimensions", ROWS, ids.reshape(40, 1), "shape|dimension"),
        ("empty ids", ROWS, np.array(["", *IDS[1:]]), "empty"),
        ("ids beyond 64 bits", ROWS, np.arange(40, dtype="u8") + np.uint64(2**63), "beyond 64-bit"),
        ("truth values as ids", ROWS, np.ones(40, bool), "b1"),
        ("dates as ids", ROWS, np.arange(40).astype("M8[D]"), "M8"),
    ):
        yield f"npy: {what}", files(items__npy=vectors, item_ids__npy=names), says
    for what, data, says in (
        ("a gigantic shape", header_of("(4611686018427387904, 4)"), "1099511627776|size"),
        ("a large shape", header_of("(100000000000, 4)"), "size does not match"),
        ("a negative shape", header_of("(-1, 4)"), "ill-formed"),
        ("a header that never ends", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{", "header"),
        ("code in the header", header_of("(__import__('os').getpid(), 4)"), "ill-formed"),
        ("another version", b"\x93NUMPY\x09\x00v\x00{" + bytes(80), "version"),
        ("a cut", header_of("(40, 4)") + ROWS.tobytes()[:-3], "size does not match"),
        ("more behind it", header_of("(40, 4)") + ROWS.tobytes() + b"\0", "size does not match"),
        ("records", header_of("(40,)", "[('a', '<f4')]"), "ill-formed|numbers or strings"),
        ("nothing", b"", "not a .npy"),
    ):
        yield f"npy: {what}", files(items__npy=data, item_ids__npy=ids), says


def parts_cases() -> Iterator[tuple[str, Leave, str]]:
    """Yield invalid numbered arrays."""
    a, b, ids = ROWS[:20], ROWS[20:], np.array(IDS)
    for what, made, says in (
        ("a gap", {"items_D_0__npy": a, "items_D_2__npy": b, "item_ids__npy": ids}, "number 1"),
        ("other widths", {"items_D_0__npy": a, "items_D_1__npy": b[:, :3], "item_ids__npy": ids}, "differ"),
        ("other types", {"items_D_0__npy": a, "items_D_1__npy": b.astype("f8"), "item_ids__npy": ids}, "differ"),
        ("fewer ids", {"items_D_0__npy": a, "items_D_1__npy": b, "item_ids__npy": ids[:30]}, "30 ids"),
        (
            "ids twice across parts",
            {"items_D_0__npy": a, "items_D_1__npy": b, "item_ids_D_0__npy": ids[:20], "item_ids_D_1__npy": ids[19:39]},
            "repeat.*i19",
        ),
        (
            "parts of ids of two types",
            {
                "items_D_0__npy": a,
                "items_D_1__npy": b,
                "item_ids_D_0__npy": ids[:20],
                "item_ids_D_1__npy": np.arange(20),
            },
            "differ",
        ),
        ("a part that is missing", {"items_D_0_D_of_D_3__npy": a, "items_D_1_D_of_D_3__npy": b}, "missing|ids"),
        ("a cut part", {"items_D_0__npy": a, "items_D_1__npy": header_of("(20, 4)"), "item_ids__npy": ids}, "size"),
        (
            "a gigantic part",
            {"items_D_0__npy": a, "items_D_1__npy": header_of("(99999999999, 4)"), "item_ids__npy": ids},
            "size",
        ),
        (
            "Fortran order",
            {"items_D_0__npy": np.asfortranarray(a), "items_D_1__npy": b, "item_ids__npy": ids},
            "Fortran",
        ),
        (
            "two arrays",
            {"a_D_0__npy": a, "a_D_1__npy": b, "b_D_0__npy": a, "b_D_1__npy": b, "item_ids__npy": ids},
            "more than one",
        ),
    ):
        yield f"npy_parts: {what}", files(**made), says


def archive(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as made:
        for name, content in members:
            made.writestr(name, content)
    return data.getvalue()


def saved(array: np.ndarray) -> bytes:
    """Return an ``.npy`` file."""
    data = io.BytesIO()
    np.save(data, array, allow_pickle=True)
    return data.getvalue()


def npz_cases() -> Iterator[tuple[str, Leave, str]]:
    """Yield invalid archives."""
    good = [("items.npy", saved(ROWS)), ("item_ids.npy", saved(np.array(IDS)))]
    whole = archive(good)
    lied = bytearray(archive(good))
    at = lied.rfind(b"PK\x01\x02")
    at = lied.find(b"PK\x01\x02")
    lied[at + 24 : at + 28] = (2**31 - 1).to_bytes(4, "little")
    wrong = bytearray(whole)
    wrong[whole.index(b"items.npy") + 300] ^= 1
    for what, data, says in (
        ("bzip2", archive(good, zipfile.ZIP_BZIP2), "unknown compression"),
        ("lzma", archive(good, zipfile.ZIP_LZMA), "unknown compression"),
        ("no ids", archive(good[:1]), "without ids"),
        ("no vectors", archive(good[1:]), "no array|half|items"),
        ("an array of objects", archive([("items.npy", saved(ROWS.astype(object))), good[1]]), "objects"),
        ("a size that is a lie", bytes(lied), "impossible size|ill-formed"),
        ("a wrong checksum", bytes(wrong), "ill-formed archive|CRC"),
        ("a cut", whole[:-30], "ill-formed archive"),
        ("ids twice", archive([good[0], ("item_ids.npy", saved(np.array([*IDS[:39], "i0"])))]), "repeat.*i0"),
        (
            "a gigantic array",
            archive([("items.npy", header_of("(99999999999, 4)")), good[1]], zipfile.ZIP_DEFLATED),
            "size",
        ),
    ):
        yield f"npz: {what}", file("day.npz", data), says


def tensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor_head(**changed: Any) -> dict[str, Any]:
    """Return the header of a good file, with some of it replaced."""
    head = {
        "vectors": {"dtype": "F32", "shape": [40, 4], "data_offsets": [0, 640]},
        "ids": {"dtype": "I64", "shape": [40], "data_offsets": [640, 960]},
    }
    for name, value in changed.items():
        head[name] = {**head.get(name, {}), **value}
    return head


def safetensors_cases() -> Iterator[tuple[str, Leave, str]]:
    """Yield invalid safetensors files."""
    data = ROWS.tobytes() + np.arange(40).tobytes()
    twice = ROWS.tobytes() + np.array([*range(39), 3]).tobytes()
    for what, content, says in (
        ("a gigantic header", tensors({}, length=2**60), "header"),
        ("a header that is no JSON", tensors(b"{'vectors': 1}", data), "header|JSON"),
        ("a header in one another", tensors(b'{"a":' + b"[" * 100_000, data), "header|JSON"),
        (
            "a gap",
            tensors(tensor_head(ids={"data_offsets": [648, 968]}), data + bytes(8)),
            "without gaps|does not match",
        ),
        (
            "an overlap",
            tensors(tensor_head(ids={"data_offsets": [632, 952]}), data[:-8]),
            "without gaps|does not match",
        ),
        ("a gigantic shape", tensors(tensor_head(vectors={"shape": [2**62, 4]}), data), "shape|bytes"),
        ("a negative shape", tensors(tensor_head(vectors={"shape": [-40, -4]}), data), "shape|ill-formed"),
        ("an unknown type", tensors(tensor_head(vectors={"dtype": "F8_E4M3"}), data), "F8_E4M3|type"),
        ("ids twice", tensors(tensor_head(), twice), "repeat.*3"),
        ("a cut", tensors(tensor_head(), data[:-1]), "does not match"),
        ("a name twice", tensors(b'{"vectors":{},"vectors":{}}', data), "repeat|twice"),
        ("ids of floats", tensors(tensor_head(ids={"dtype": "F64"}), data), "F64|ids"),
        ("infinity", tensors(tensor_head(), np.full((40, 4), np.inf, "f4").tobytes() + data[640:]), "row 0"),
    ):
        yield f"safetensors: {what}", file("items.safetensors", content), says


def state_dict_cases() -> Iterator[tuple[str, Leave, str]]:
    """Yield invalid models and vocabularies."""
    head = {"item_embedding.weight": {"dtype": "F32", "shape": [40, 4], "data_offsets": [0, 640]}}
    model = tensors(head, ROWS.tobytes())
    other = {"other_item_embedding": {"dtype": "F32", "shape": [40, 4], "data_offsets": [640, 1280]}}
    for what, vocabulary, says in (
        ("too few names", json.dumps(IDS[:39]), "39"),
        ("a name twice", json.dumps([*IDS[:39], "i0"]), "repeat.*i0"),
        ("no JSON", "[1, 2", "ill-formed vocabulary"),
        ("lists in lists", json.dumps([[name] for name in IDS]), "text|ids"),
        ("numbers and text", json.dumps([1, *IDS[1:]]), "two types"),
        ("truth values", json.dumps([True] * 40), "text|ids"),
        ("fractions", json.dumps([number + 0.5 for number in range(40)]), "text|ids|integer"),
        ("a row twice", json.dumps(dict.fromkeys(IDS, 0)), "row"),
        ("a row that is not there", json.dumps({name: row + 1 for row, name in enumerate(IDS)}), "row"),
        ("negative rows", json.dumps({name: row - 1 for row, name in enumerate(IDS)}), "row"),
        ("empty names", json.dumps(["", *IDS[1:]]), "length"),
        ("deep JSON", "[" * 100_000, "ill-formed vocabulary"),
        ("half of a character", '["\\ud800"' + ', "a"' * 39 + "]", "id"),
        ("integers beyond 64 bits", json.dumps([2**64 + row for row in range(40)]), "id"),
    ):
        yield f"state_dict: {what}", files(model__safetensors=model, item_vocab__json=vocabulary), says
    for what, made, says in (
        ("no ids", {"model__safetensors": model}, "without ids|ids"),
        (
            "two matrices",
            {"model__safetensors": tensors(head | other, ROWS.tobytes() * 2), "item_ids__txt": "\n".join(IDS)},
            "more than one",
        ),
        ("too many lines", {"model__safetensors": model, "item_ids__txt": "\n".join([*IDS, "more"])}, "41"),
        ("an empty line", {"model__safetensors": model, "item_ids__txt": "\n".join(["", *IDS[1:]])}, "length|empty"),
        ("text that is no UTF-8", {"model__safetensors": model, "item_ids__txt": b"\xff\n" * 40}, "UTF-8|repeat"),
        ("a pickle for ids", {"model__safetensors": model, "item_ids__npy": np.array(IDS, object)}, "objects"),
    ):
        yield f"state_dict: {what}", files(**made), says


def word2vec_cases() -> Iterator[tuple[str, Leave, str]]:
    """Yield invalid word2vec text."""
    for what, text, says in (
        ("a short row", lines((7, "i7 1 2 3")), "row 7"),
        ("a long row", lines((7, "i7 1 2 3 4 5")), "row 7"),
        ("no numbers", lines((7, "i7")), "row 7"),
        ("text for a number", lines((7, "i7 1 2 x 4")), "row 7"),
        ("a number cut off", lines((7, "i7 1 2 3e 4")), "row 7"),
        ("a hexadecimal number", lines((7, "i7 1 2 0x10 4")), "row 7"),
        ("an underscore", lines((7, "i7 1 2 1_0 4")), "row 7"),
        ("a decimal comma", lines((7, "i7 1 2 1,5 4")), "row 7"),
        ("nothing between two spaces", lines((7, "i7 1  3 4")), "row 7"),
        ("tabs", lines((7, "i7\t1\t2\t3\t4")), "row 7"),
        ("an empty line", lines((7, "")), "row 7"),
        ("NaN", lines((7, "i7 1 nan 3 4")), "row 7"),
        ("infinity", lines((7, "i7 1 1e999 3 4")), "row 7"),
        ("an id twice", lines((7, "i6 1 2 3 4")), "repeat.*i6"),
        ("no id", lines((7, " 1 2 3 4")), "row 7"),
        ("an id that is too long", lines((7, "i" * 1025 + " 1 2 3 4")), "too long"),
        ("an id with a NUL", lines((7, "i\x007 1 2 3 4")), "NUL"),
        ("too few rows", lines(header="41 4"), "40.*41"),
        ("too many rows", lines(header="39 4"), "39 rows"),
        ("another width", lines(header="40 5"), "width 4"),
        ("a gigantic count", lines(header="999999999999999999 4"), "size|rows"),
        ("a gigantic width", lines(header="40 99999999"), "width 4"),
        ("no rows", "40 4\n", "width|first line"),
        ("nothing", "", "not a text file"),
        ("a mark before it", "\ufeff" + lines(), "byte order mark"),
        ("prose", "It is what it is\nand is no table\n", "not a text file"),
        ("a line without end", "a " + "1" * 9_000_000, "too long"),
    ):
        yield f"word2vec: {what}", file("day.vec", text), says
    yield "word2vec: an id that is no UTF-8", file("day.vec", lines().encode().replace(b"i7 ", b"\xff7 ")), "UTF-8"
    yield "word2vec: UTF-16", file("day.vec", lines().encode("utf-16")), "not a text file|mark"
    yield "word2vec: a short row without header", file("day.vec", lines((7, "i7 1 2 3"), header=None)), "row 7"
    good = gzip.compress(lines().encode())
    for what, data, says in (
        ("a cut", good[:-9], "compressed"),
        ("text that is not packed", lines().encode(), "compressed"),
        ("a wrong checksum", good[:-8] + b"\0\0\0\0" + good[-4:], "compressed"),
        ("junk behind it", good + b"junk", "compressed"),
        ("a bomb of one line", packed(b"a 1 2\n", b"1", 50_000_000), "too long"),
        ("a bomb of rows", packed(b"", b"a 1 2\n", 10_000_000), "more than|unpack"),
        ("a short row", gzip.compress(lines((7, "i7 1 2 3")).encode()), "row 7"),
        ("bzip2", bz2.compress(lines().encode()), "compressed|bunzip2"),
        ("nothing", b"", "compressed|text file"),
    ):
        yield f"word2vec in gzip: {what}", file("day.vec.gz", data), says


def binary_cases() -> Iterator[tuple[str, Leave, str]]:
    """Yield invalid files in word2vec's binary format."""
    rows = [name.encode() + b" " + row.tobytes() for name, row in zip(IDS, ROWS, strict=True)]
    whole = b"40 4\n" + b"".join(rows)
    nan = [*rows[:7], b"i7 " + np.array([1, np.nan, 3, 4], "<f4").tobytes(), *rows[8:]]
    for what, data, says in (
        ("a cut", whole[:-1], "row 39"),
        ("more behind it", whole + b"junk", "more rows"),
        ("too few rows", b"41 4\n" + b"".join(rows), "size|row 40"),
        ("a gigantic count", b"999999999999999999 4\n" + b"".join(rows), "size"),
        ("a gigantic width", b"40 99999\n" + b"".join(rows), "size|width"),
        ("NaN", b"40 4\n" + b"".join(nan), "row 7"),
        ("an id twice", b"40 4\n" + b"".join([*rows[:39], rows[0]]), "repeat.*i0"),
        ("text", lines().encode(), "text in a file"),
        ("a word that is too long", b"40 4\n" + b"i" * 2000 + whole, "row 0"),
        ("no UTF-8", whole.replace(b"i7 ", b"\xff7 "), "UTF-8"),
    ):
        yield f"word2vec_binary: {what}", file("day.bin", data), says
