"""Sinks of kind ``object_store``: the contract on each kind of endpoint, and tests of directories."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from contract import Served, ServedSide, SinkContract, Stores, deliver, pinned
from servers import BUCKET, S3Server

import embsync
from embsync.config import ObjectStoreConfig
from embsync.delivery.endpoints import open_objects
from embsync.delivery.object_store import ObjectStoreSink
from embsync.delivery.objects import Objects
from embsync.errors import SinkError, SinkUnavailable, StoreDamaged

_PREFIXES = itertools.count()


class ObjectStoreContract(SinkContract):
    """The contract for the prefix given to ``configured``."""

    recall = None
    config: ObjectStoreConfig
    objects: Objects

    def configured(self, url: str, endpoint: str | None = None) -> None:
        self.config = ObjectStoreConfig(name="test", url=url, endpoint=endpoint, grace_seconds=0.0, lock_seconds=5.0)
        self.objects = open_objects(self.config)

    def sink(self) -> ObjectStoreSink:
        return ObjectStoreSink(self.config)

    def served(self) -> Served | None:
        return served(self.objects)

    def break_off(self, version: embsync.Version) -> None:
        self.sink().stage(version)
        self.objects.delete([entry.key for entry in self.objects.list() if entry.key.endswith("/manifest.json")])

    def leave_foreign(self) -> Callable[[], object]:
        keys = ["versions/000001/manifest.json", "versions/000001-abc/x", "notes.txt"]
        self.objects.write("embsync.json", b"{}")
        for key in keys:
            self.objects.write(key, b"theirs")
        return lambda: [self.objects.read(key) for key in keys]

    def occupy(self) -> None:
        self.objects.write("current.json", b"{}")


def served(objects: Objects) -> Served | None:
    """Return what a reader sees that reads the pointer once, and then only that version's objects."""
    data = objects.read("current.json")
    if data is None:
        return None
    pointer = json.loads(data)
    folder = pointer["manifest"].removesuffix("/manifest.json")
    manifest = objects.read(pointer["manifest"])
    assert manifest is not None
    assert hashlib.sha256(manifest).hexdigest() == pointer["sha256"]
    described = json.loads(manifest)
    files = {entry["path"]: entry["sha256"] for entry in described["files"]}

    def array(path: str) -> np.ndarray:
        content = objects.read(f"{folder}/{path}")
        assert content is not None
        assert hashlib.sha256(content).hexdigest() == files[path]
        header = 10 + int.from_bytes(content[8:10], "little")
        described = eval(content[10:header].decode())
        return np.frombuffer(content, described["descr"], offset=header).reshape(described["shape"])

    lineage = array("lineage.npy")

    def side(name: str) -> ServedSide:
        ids, seen = array(f"{name}/ids.npy"), array(f"{name}/last_seen.npy")
        plain = ids.tolist() if ids.dtype.kind == "i" else [id_.decode() for id_ in ids.tolist()]
        ages = len(lineage) - 1 - np.searchsorted(lineage, seen)
        return ServedSide(plain, array(f"{name}/vectors.npy"), (ages == 0).tolist(), ages.tolist())

    users = None if described["users"] is None else side("users")
    return Served(described["version"], side("items"), users)


class TestDirectory(ObjectStoreContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        (tmp_path / "mirror").mkdir()
        self.folder = tmp_path / "mirror"
        self.configured(f"file://{tmp_path}/mirror")

    def test_the_grace_period_begins_when_another_version_was_switched_to(self, stores: Stores) -> None:
        """After a rollback and a return, the replaced version stays, although it was pushed long ago."""
        root, expected = stores("plain"), None
        for number in (1, 2, 1, 2):
            with pinned(root, number) as version:
                deliver(self.sink(), version, expected)
            expected = number
        for path in self.folder.rglob("manifest.json"):
            os.utime(path, (1.0, 1.0))
        sink = ObjectStoreSink(msgspec.structs.replace(self.config, grace_seconds=3600.0))
        with pytest.raises(SinkUnavailable, match="kept for pulls that are copying it"):
            sink.drop(1)
        os.utime(self.folder / "current.json", (1.0, 1.0))
        sink.drop(1)
        assert [found.number for found in sink.generations()] == [2]

    def test_a_version_that_is_damaged_in_the_store_is_not_pushed(self, stores: Stores, tmp_path: Path) -> None:
        """Its files are hashed before the first one is uploaded."""
        shutil.copytree(stores("plain"), tmp_path / "store", symlinks=True)
        file = tmp_path / "store" / "current" / "users" / "last_seen.npy"
        file.chmod(0o644)
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        with pinned(tmp_path / "store") as version, pytest.raises(StoreDamaged):
            self.sink().stage(version)
        assert self.sink().generations() == []
        assert not (self.folder / "versions").exists()

    def test_a_version_of_which_an_object_was_deleted_is_not_switched_to(self, stores: Stores) -> None:
        """If the object is missing after staging, the error names it, and nothing is served."""
        with pinned(stores("plain")) as version:
            self.sink().stage(version)
            (lost,) = self.folder.glob("versions/*/users/ids.npy")
            lost.unlink()
            with pytest.raises(SinkError, match=r"incomplete; found users/ids\.npy"):
                self.sink().probe(version)
        assert self.served() is None

    def test_a_file_that_is_there_already_is_not_uploaded_again(self, stores: Stores) -> None:
        """A file that another version already has is linked."""
        for number in (1, 2):
            with pinned(stores("plain"), number) as version:
                self.sink().stage(version)
        for path in self.folder.glob("versions/*/start/items.npy"):
            assert path.stat().st_nlink == 2


@pytest.mark.services("moto", "obstore")
class TestConditional(ObjectStoreContract):
    @pytest.fixture(autouse=True)
    def _place(self, moto_server: S3Server) -> None:
        self.configured(f"s3://{BUCKET}/prefix-{next(_PREFIXES)}", moto_server.url)


@pytest.mark.services("obstore")
class TestUnconditional(ObjectStoreContract):
    @pytest.fixture(autouse=True)
    def _place(self, rclone_server: S3Server) -> None:
        self.configured(f"s3://{BUCKET}/prefix-{next(_PREFIXES)}", rclone_server.url)
