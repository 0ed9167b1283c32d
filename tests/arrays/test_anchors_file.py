"""``Anchors.save`` and ``load``: the same rows are read back, or a one-line error explains why not."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.disk import mounted
from support.nights import night

import embsync
from embsync.arrays.anchors import Anchors
from embsync.errors import NotFoundError, OutOfSpace, SnapshotError, StoreError

NIGHT = night(0, items=400)
KINDS = {
    "numbers": embsync.stabilize(*NIGHT.both, item_ids=NIGHT.item_ids, user_ids=NIGHT.user_ids).anchors,
    "names": embsync.stabilize(*NIGHT.both, item_ids=NIGHT.named().item_ids, user_ids=NIGHT.user_ids).anchors,
    "one side": embsync.stabilize(NIGHT.items, item_ids=NIGHT.item_ids, policy="previous", anchor_rows=50).anchors,
}


def same(one: Anchors, other: Anchors) -> bool:
    """Return whether two anchors are equal bit for bit."""
    return all(
        (left is None and right is None)
        or (
            left.rate == right.rate
            and left.ids.dtype == right.ids.dtype
            and all(
                (a is None and b is None) or (a is not None and b is not None and a.tobytes() == b.tobytes())
                for a, b in (
                    (left.ids, right.ids),
                    (left.vectors, right.vectors),
                    (left.recent, right.recent),
                    (left.ages, right.ages),
                )
            )
        )
        for left, right in ((one.items, other.items), (one.users, other.users))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_saved_anchors_are_loaded_unchanged(tmp_path: Path, kind: str) -> None:
    """Loaded anchors are equal bit for bit and read-only; an existing file is replaced, and no other file is left."""
    path = tmp_path / "anchors"
    KINDS["numbers"].save(path)
    KINDS[kind].save(str(path))
    found = embsync.Anchors.load(path)
    assert same(found, KINDS[kind])
    assert not found.items.vectors.flags.writeable
    assert [entry.name for entry in tmp_path.iterdir()] == ["anchors"]


def test_loaded_anchors_continue_like_those_in_memory(tmp_path: Path) -> None:
    """The next night's result is the same."""
    KINDS["numbers"].save(tmp_path / "anchors")
    after = night(1, items=400)
    runs = [
        embsync.stabilize(*after.both, item_ids=after.item_ids, user_ids=after.user_ids, anchors=anchors).items
        for anchors in (KINDS["numbers"], Anchors.load(tmp_path / "anchors"))
    ]
    np.testing.assert_array_equal(*runs)


def test_other_programs_read_the_file(tmp_path: Path) -> None:
    """The file is a valid safetensors file."""
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    KINDS["names"].save(tmp_path / "anchors")
    tensors = numpy.load_file(tmp_path / "anchors")
    np.testing.assert_array_equal(tensors["items.vectors"], KINDS["names"].items.vectors)
    assert bytes(tensors["items.ids"][0]).rstrip(b"\0") == KINDS["names"].items.ids[0]


def test_every_kind_of_damage_is_detected(tmp_path: Path) -> None:
    """A flipped bit anywhere, truncation and appended bytes are detected."""
    path = tmp_path / "anchors"
    KINDS["one side"].save(path)
    good = path.read_bytes()
    chance = random.Random(3)
    for _ in range(300):
        bad = bytearray(good)
        at = chance.randrange(min(len(bad), chance.choice([600, len(bad)])))
        bad[at] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(SnapshotError) as caught:
            Anchors.load(path)
        assert "\n" not in str(caught.value)
    for bad in (b"", good[:7], good[:300], good[:-1], good + b"\0"):
        path.write_bytes(bad)
        with pytest.raises(SnapshotError):
            Anchors.load(path)


def test_anchors_of_an_earlier_release_have_no_ages(tmp_path: Path) -> None:
    """Such a file is read, and all rows have equal weight, as those of a new space."""
    anchors = KINDS["numbers"]
    assert anchors.users is not None
    older = Anchors(replace(anchors.items, ages=None), replace(anchors.users, ages=None))
    older.save(tmp_path / "anchors")
    found = Anchors.load(tmp_path / "anchors")
    assert found.items.ages is None
    made = night(1, items=400)
    rows = [
        embsync.stabilize(*made.both, item_ids=made.item_ids, user_ids=made.user_ids, anchors=one)
        for one in (found, anchors)
    ]
    np.testing.assert_array_equal(rows[0].items, rows[1].items)
    for side in rows[0].anchors:
        known = np.isin(side.ids, np.concatenate([NIGHT.item_ids, NIGHT.user_ids]))
        live = np.isin(side.ids, np.concatenate([made.item_ids, made.user_ids]))
        assert side.ages is not None
        np.testing.assert_array_equal(side.ages, known & live)


def test_anchors_with_unsorted_ids_are_refused(tmp_path: Path) -> None:
    """Lookup is a binary search: with unsorted ids, some would not be found and would count as new."""
    side = KINDS["numbers"].items
    Anchors(replace(side, ids=side.ids[::-1].copy()), None).save(tmp_path / "anchors")
    with pytest.raises(SnapshotError, match="out of order or not finite"):
        Anchors.load(tmp_path / "anchors")


def forged(good: bytes, change: Any) -> bytes:
    """Return a file with a changed header and the hash that matches it."""
    import hashlib

    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    change(header)
    header.get("__metadata__", {})["sha256"] = "0" * 64
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + good[8 + length :]
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda header: header.pop("__metadata__"), "a safetensors file without anchors"),
        (lambda header: header["__metadata__"].update(embsync_anchors="2"), "format '2'; expected format 1"),
        (lambda header: header["__metadata__"].pop("items.rate"), "wrong shapes or rates"),
        (lambda header: header["__metadata__"].update({"items.rate": "nan"}), "wrong shapes or rates"),
        (lambda header: header["__metadata__"].update({"items.rate": ["x"]}), "wrong shapes or rates"),
        (lambda header: header.update({"other.ids": header.pop("items.ids")}), "expected items, perhaps users"),
        (lambda header: header.update({"users.ids": header.pop("items.ids")}), "not the saved anchors"),
        (lambda header: header["items.ids"].update(dtype="F64"), "an unusable type"),
        (lambda header: header["items.vectors"].update(dtype="I32"), "wrong shapes or rates"),
        (lambda header: header["items.vectors"].update(shape=[25, 16]), "wrong shapes or rates"),
        (lambda header: header["items.ages"].update(dtype="F32"), "expected one int32 of at least 0 for each id"),
        (lambda header: header["items.ages"].update(shape=[25, 2]), "expected one int32 of at least 0 for each id"),
    ],
)
def test_a_forged_header_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    """A forged header is refused even if its hash matches."""
    path = tmp_path / "anchors"
    KINDS["one side"].save(path)
    path.write_bytes(forged(path.read_bytes(), change))
    with pytest.raises(SnapshotError, match=says):
        Anchors.load(path)


def test_paths_that_cannot_be_written_or_read_are_reported(tmp_path: Path) -> None:
    """A missing directory, a directory in place of the file and a missing file are reported."""
    with pytest.raises(NotFoundError, match=r"no directory to write to.*hint: mkdir -p "):
        KINDS["numbers"].save(tmp_path / "no" / "anchors")
    with pytest.raises(StoreError, match="the anchors cannot be written"):
        KINDS["numbers"].save(tmp_path)
    with pytest.raises(NotFoundError, match="no such anchors file"):
        Anchors.load(tmp_path / "none")


def test_a_full_disk_leaves_the_existing_file(tmp_path: Path) -> None:
    """Saving raises an error, the existing file is unchanged, and no other file is left."""
    folder = tmp_path / "disk"
    folder.mkdir()
    path = folder / "anchors"
    with mounted(folder, "256k"):
        KINDS["one side"].save(path)
        big = embsync.stabilize(np.random.default_rng(1).normal(size=(9000, 16))).anchors
        with pytest.raises(OutOfSpace, match="no space left for the anchors"):
            big.save(path)
        assert same(Anchors.load(path), KINDS["one side"])
        assert [entry.name for entry in folder.iterdir()] == ["anchors"]


def test_reprs_are_short() -> None:
    """A repr has counts and widths, but no arrays."""
    result = embsync.stabilize(*NIGHT.both, item_ids=NIGHT.item_ids, user_ids=NIGHT.user_ids)
    assert repr(result.anchors) == "<Anchors: 400 items, 160 users, 8 dimensions>"
    assert repr(result.anchors.items) == "<AnchorSide: 400 ids of int64, 8 dimensions>"
    assert repr(result.transform) == "<Transform: items and users, 8 to 8 dimensions>"
    assert repr(result).startswith("<Stabilized: 400 items, 160 users, 8 dimensions, score error ")
    assert repr(result).endswith(", no fit to anchors>")
    again = embsync.stabilize(*NIGHT.both, item_ids=NIGHT.item_ids, user_ids=NIGHT.user_ids, anchors=result.anchors)
    assert repr(again).endswith("cosine with the anchors: items 1.00, users 1.00>")
