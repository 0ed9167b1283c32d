"""Sinks of kind ``object_store``: the contract on every sort of endpoint, and what only these have."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from contract import Served, ServedSide, SinkContract
from servers import BUCKET, S3Server

import embsync
from embsync.config import ObjectStoreConfig
from embsync.delivery.endpoints import open_objects
from embsync.delivery.object_store import ObjectStoreSink
from embsync.delivery.objects import Objects

_PREFIXES = itertools.count()


class ObjectStoreContract(SinkContract):
    """The contract for a prefix; ``configured`` says which."""

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
    """Return what a reader sees that reads the pointer once, and after it only that version's objects."""
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
        self.configured(f"file://{tmp_path}/mirror")


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
