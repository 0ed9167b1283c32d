"""Layout safetensors: valid files are read exactly; inconsistent headers are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from snapshots.made import ROW_NUMBERS, Array, Model, assert_reads, model, read, utf8, vectors
from support.safetensors import save_file

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotChanged, SnapshotError
from embsync.snapshots import open_snapshot

CONFIG = SnapshotConfig()


def padded(ids: Array) -> Array:
    """Return ids as a tensor: integers unchanged, strings as UTF-8 bytes padded with zeros."""
    if ids.dtype.kind != "U":
        return ids
    table = utf8(ids)
    return table.view(np.uint8).reshape(len(ids), -1)


def write(path: Path, made: Model) -> Path:
    """Write the model as the safetensors library does."""
    path.mkdir(exist_ok=True)
    save_file(
        {"vectors": made.items, "ids": padded(made.item_ids)},
        path / "items.safetensors",
        metadata={"made": "by a test"},
    )
    save_file({"vectors": made.users, "ids": padded(made.user_ids)}, path / "users.safetensors")
    return path


@pytest.mark.services("safetensors")
@pytest.mark.parametrize("named", [False, True])
def test_files_of_the_library_are_read_exactly(tmp_path: Path, named: bool) -> None:
    """Such files have the same size as those that the other tests write."""
    import safetensors.numpy

    made = model().named() if named else model()
    for side, rows, ids in (("items", made.items, made.item_ids), ("users", made.users, made.user_ids)):
        tensors = {"vectors": rows, "ids": padded(ids)}
        safetensors.numpy.save_file(tensors, tmp_path / f"{side}.safetensors")
        save_file({name: tensors[name] for name in sorted(tensors)}, tmp_path / "ours")
        ours, theirs = ((tmp_path / name).stat().st_size for name in ("ours", f"{side}.safetensors"))
        assert ours == theirs
    (tmp_path / "ours").unlink()
    assert_reads(open_snapshot(tmp_path, CONFIG), made)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("named", [False, True])
def test_every_float_type_and_kind_of_id_is_read_exactly(tmp_path: Path, dtype: str, named: bool) -> None:
    """Ids are integers, or strings as padded bytes."""
    made = model().typed(dtype)
    made = made.named() if named else made
    assert_reads(open_snapshot(write(tmp_path / "s", made), CONFIG), made)


def test_a_single_file_is_a_side_of_items(tmp_path: Path) -> None:
    """Without ids, row numbers are used on request; other tensors may be in the file."""
    matrix = np.ones((3, 2), np.float32)
    path = tmp_path / "vectors.safetensors"
    save_file({"vectors": matrix, "weights": np.arange(3.0), "other": np.ones(5, bool)}, path)
    with pytest.raises(SnapshotError, match="row_number_ids"):
        open_snapshot(path, CONFIG)
    side = open_snapshot(path, ROW_NUMBERS).items
    np.testing.assert_array_equal(vectors(side), matrix)
    weights = side.weights()
    assert weights is not None
    assert weights.tolist() == [0, 1, 2]


def _file(header: object, data: bytes = bytes(30), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _tensor(kind: str, shape: list[object], first: int, last: int) -> dict[str, object]:
    return {"dtype": kind, "shape": shape, "data_offsets": [first, last]}


IDS = _tensor("U16", [3], 0, 6)
VECTORS = _tensor("F32", [3, 2], 6, 30)
FORGED = {
    "empty": b"",
    "no header": b"\0" * 8,
    "a header of exabytes": b"\xff" * 8 + b"{}",
    "a header longer than the file": _file({"ids": IDS, "vectors": VECTORS}, length=10_000),
    "not JSON": _file(b"{'ids': 1}"),
    "not UTF-8": _file(b'{"\xff": 1}'),
    "nested without end": _file(b"[" * 100_000),
    "a list": _file(b"[]", b""),
    "NaN": _file(b'{"ids": NaN}'),
    "a name twice": _file(json.dumps({"ids": IDS})[:-1].encode() + b', "ids": {}}'),
    "bytes left over": _file({"ids": IDS, "vectors": VECTORS}, bytes(31)),
    "bytes missing": _file({"ids": IDS, "vectors": VECTORS}, bytes(29)),
    "a gap": _file({"ids": IDS, "vectors": _tensor("F32", [2, 2], 14, 30)}),
    "an overlap": _file({"ids": IDS, "vectors": _tensor("F32", [3, 2], 0, 24)}, bytes(24)),
    "a shape beyond its bytes": _file({"ids": IDS, "vectors": _tensor("F32", [2**40, 2], 6, 30)}),
    "a negative shape": _file({"ids": IDS, "vectors": _tensor("F32", [-3, -2], 6, 30)}),
    "a shape of fractions": _file({"ids": IDS, "vectors": _tensor("F32", [3.0, 2], 6, 30)}),
    "a shape of truth": _file({"ids": IDS, "vectors": _tensor("F32", [True, 6], 6, 30)}),
    "backward offsets": _file({"ids": IDS, "vectors": _tensor("F32", [3, 2], 30, 6)}),
    "bfloat16": _file({"ids": IDS, "vectors": _tensor("BF16", [6, 2], 6, 30)}),
    "no vectors": _file({"ids": IDS}, bytes(6)),
    "float ids": _file({"ids": _tensor("F16", [3], 0, 6), "vectors": VECTORS}),
    "ids of three dimensions": _file({"ids": _tensor("U8", [3, 2, 1], 0, 6), "vectors": VECTORS}),
    "wide integer ids": _file({"ids": _tensor("U16", [3, 1], 0, 6), "vectors": VECTORS}),
    "repeated ids": _file({"ids": IDS, "vectors": VECTORS}),
    "empty string ids": _file({"ids": _tensor("U8", [3, 2], 0, 6), "vectors": VECTORS}),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_inconsistent_headers_are_refused(tmp_path: Path, forgery: str) -> None:
    """Each message is one line that names the file."""
    (tmp_path / "items.safetensors").write_bytes(FORGED[forgery])
    with pytest.raises(SnapshotError, match=r"items\.safetensors") as refusal:
        read(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_file_that_changes_between_passes_is_noticed(tmp_path: Path) -> None:
    """Another shape or a missing tensor is detected."""
    path = write(tmp_path / "s", model())
    items = open_snapshot(path, CONFIG).items
    write(path, model(items=20))
    with pytest.raises(SnapshotChanged):
        vectors(items)
    with pytest.raises(SnapshotChanged):
        items.ids()


def test_users_alone_are_an_incomplete_snapshot(tmp_path: Path) -> None:
    """Every snapshot needs items."""
    path = write(tmp_path / "s", model())
    (path / "items.safetensors").unlink()
    with pytest.raises(SnapshotError, match="incomplete snapshot"):
        open_snapshot(path, CONFIG)
