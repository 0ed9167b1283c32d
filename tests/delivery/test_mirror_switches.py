"""Readers of a pulled store while its source publishes and is rolled back."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from servers import BUCKET, S3Server
from support.nights import configured, night
from support.stores import sync

import embsync
from embsync.config import ObjectStoreConfig
from embsync.delivery.endpoints import open_objects
from embsync.delivery.object_store import ObjectStoreSink
from embsync.delivery.pull import Pull
from embsync.delivery.steps import deliver
from embsync.store import Store


def digest(version: embsync.Version) -> str:
    """Return a hash of items, users and number, which differs if they do not belong together."""
    found = hashlib.sha256(str(version.number).encode())
    assert version.users is not None
    for side in (version.items, version.users):
        found.update(side.ids.tobytes())
        found.update(side.vectors.tobytes())
    return found.hexdigest()


def switch_under_readers(folder: Path, config: ObjectStoreConfig, switches: int) -> tuple[int, int, list[str]]:
    """Publish, roll back, push and pull; return the reads of four readers, the mixed ones among them, and errors."""
    root, copy = folder / "store", folder / "copy"
    sink, pulling = ObjectStoreSink(config), Pull(Store(copy), open_objects(config), 3)
    known: dict[int, str] = {}

    def switch(turn: int) -> None:
        if turn % 3 == 2:
            Store(root).rollback(None)
        else:
            sync(root, night(turn), f"day={turn:02}", configured(store__keep_versions=3))
        with embsync.open(root) as reader:
            known[reader.current.number] = digest(reader.current)
            number = reader.current.number
        deliver(sink, root, 3)
        pulled = pulling.follow_once()
        assert pulled is not None
        assert pulled.version == number

    switch(0)
    done, looks, mixed, errors = threading.Event(), [0] * 4, [0] * 4, []

    def read(reader: int) -> None:
        try:
            with embsync.open(copy) as store:
                while not (done.is_set() and looks[reader]):
                    store.refresh()
                    looks[reader] += 1
                    mixed[reader] += digest(store.current) != known[store.current.number]
        except Exception as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=read, args=(reader,)) for reader in range(4)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(1, switches + 1):
            switch(turn)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    return sum(looks), sum(mixed), errors


def test_readers_of_a_copy_never_see_a_mixture(tmp_path: Path) -> None:
    """Items, users and number belong together in every read."""
    (tmp_path / "remote").mkdir()
    config = ObjectStoreConfig(name="test", url=f"file://{tmp_path}/remote", grace_seconds=0.0)
    looks, mixed, errors = switch_under_readers(tmp_path, config, 3)
    assert looks > 0
    assert (mixed, errors) == (0, [])


@pytest.mark.torture
@pytest.mark.services("moto", "obstore")
@pytest.mark.parametrize("where", ["moto", "rclone"])
def test_thirty_switches_under_four_readers(
    where: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """No read is mixed, by an object store with and one without conditional writes."""
    server: S3Server = request.getfixturevalue(f"{where}_server")
    config = ObjectStoreConfig(name="test", url=f"s3://{BUCKET}/switches", endpoint=server.url, grace_seconds=0.0)
    looks, mixed, errors = switch_under_readers(tmp_path, config, 30)
    with capsys.disabled():
        print(f"\n{where}: 30 switches, {looks} looks, {mixed} mixed, {len(errors)} errors")
    assert (mixed, errors) == (0, [])
