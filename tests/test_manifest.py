"""A manifest that an earlier release wrote can be read, and is encoded again to the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from embsync.file_hashes import FileEntry, Stopped, mismatch
from embsync.manifest import FORMAT_OF_PARTS, Manifest, PartFile, Parts, encode

WRITTEN = sorted((Path(__file__).parent / "manifests").glob("*.json"))


def without_additions(now: Any, before: Any) -> Any:
    """Return what is there now without the keys added since, which must be null or empty."""
    if isinstance(now, dict):
        added = {key: value for key, value in now.items() if key not in before}
        assert not any(added.values()), added
        return {key: without_additions(value, before[key]) for key, value in now.items() if key in before}
    if isinstance(now, list):
        return [without_additions(one, other) for one, other in zip(now, before, strict=True)]
    return now


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_a_manifest_of_an_earlier_release_round_trips(path: Path) -> None:
    """Fields that later releases added are null or empty; all others give the same bytes in the same order."""
    data = path.read_bytes()
    again = encode(msgspec.json.decode(data, type=Manifest))
    plain = without_additions(msgspec.json.decode(again), msgspec.json.decode(data))
    assert msgspec.json.format(msgspec.json.encode(plain), indent=1) + b"\n" == data
    assert encode(msgspec.json.decode(again, type=Manifest)) == again


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_part_files_are_a_field_of_format_2_alone(path: Path) -> None:
    """A manifest without part files has no such key; one with part files has exactly one key more, as the last."""
    plain = msgspec.json.decode(path.read_bytes(), type=Manifest)
    assert plain.format == 1
    assert b'"parts"' not in encode(plain)
    parts = [
        PartFile(file="users/part-00000.parquet", rows=2, first=-(2**63), last=3),
        PartFile(file="users/part-00001.parquet", rows=1, first=2**63 - 1, last=2**63 - 1),
    ]
    divided = msgspec.structs.replace(plain, format=FORMAT_OF_PARTS, parts=Parts(users=parts))
    said = msgspec.json.decode(encode(divided))
    assert list(said)[-1] == "parts"
    assert said.pop("parts")["users"][1] == {
        "file": "users/part-00001.parquet", "rows": 1, "first": 2**63 - 1, "last": 2**63 - 1
    }  # fmt: skip
    assert said == msgspec.json.decode(encode(plain)) | {"format": 2}
    assert msgspec.json.decode(encode(divided), type=Manifest) == divided


def test_manifests_of_every_kind_are_kept() -> None:
    """They cover first, aligned, one-sided and widened versions, overridden refusals and both kinds of indexes."""
    kept = [msgspec.json.decode(path.read_bytes(), type=Manifest) for path in WRITTEN]
    assert {manifest.users is None for manifest in kept} == {True, False}
    assert {manifest.drift is None for manifest in kept} == {True, False}
    assert {manifest.parent is None for manifest in kept} == {True, False}
    assert {manifest.index.factory for manifest in kept} == {"Flat", "HNSW32"}
    assert {manifest.alignment.policy for manifest in kept} == {"two_time_scales", "moving_average"}
    assert any(check.accepted for manifest in kept for check in manifest.checks)
    assert any(manifest.dimension > manifest.snapshot.width for manifest in kept)


def test_a_file_is_compared_with_its_entry(tmp_path: Path) -> None:
    """A missing file, another size and other contents are reported; without hashing, only the last one passes."""
    path = tmp_path / "ids.npy"
    entry = FileEntry("ids.npy", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    missing = mismatch(tmp_path, entry)
    assert missing is not None
    assert missing.expected is None
    path.write_bytes(b"abc")
    assert mismatch(tmp_path, entry) is None
    path.write_bytes(b"abd")
    other = mismatch(tmp_path, entry)
    assert other is not None
    assert other.expected == "ba7816bf8f01…"
    assert mismatch(tmp_path, entry, hashed=False) is None
    path.write_bytes(b"abcd")
    assert str(mismatch(tmp_path, entry, hashed=False)) == str(mismatch(tmp_path, entry))
    with pytest.raises(Stopped):
        mismatch(tmp_path, entry, lambda: True)
