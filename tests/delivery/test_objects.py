"""Objects by key: in a directory and on both kinds of endpoints, a stale publisher's swap changes nothing."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import pytest
from servers import BUCKET, S3Server

from embsync.config import ObjectStoreConfig
from embsync.delivery import local_objects
from embsync.delivery.endpoints import open_objects
from embsync.delivery.local_objects import LocalObjects
from embsync.delivery.objects import Objects
from embsync.errors import SinkUnavailable
from embsync.store.locks import exclusive

_PREFIXES = itertools.count()


class Swapping:
    """Tests of ``swap`` for each kind of place."""

    objects: Objects
    other: Objects

    def test_a_stale_swap_changes_nothing(self) -> None:
        """The expected content may be an older one, none, or a prefix of the current one."""
        assert self.objects.swap("pointer", b"1", None)
        assert self.objects.swap("pointer", b"2 and more", b"1")
        for expected in (b"1", None, b"", b"2"):
            assert self.other.swap("pointer", b"3", expected) is False
            assert self.objects.read("pointer") == b"2 and more"
        assert self.other.swap("absent", b"3", b"1") is False
        assert self.objects.read("absent") is None

    def test_of_publishers_at_once_one_succeeds(self) -> None:
        """Of concurrent swaps that expect the same content, one succeeds, and its content is stored."""
        self.objects.swap("pointer", b"before", None)
        won: list[bytes] = []
        start = threading.Barrier(4)

        def swap(data: bytes, objects: Objects) -> None:
            start.wait()
            if objects.swap("pointer", data, b"before"):
                won.append(data)

        threads = [
            threading.Thread(target=swap, args=(str(turn).encode(), (self.objects, self.other)[turn % 2]))
            for turn in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [self.objects.read("pointer")] == won


class TestDirectory(Swapping):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.root = tmp_path
        self.objects, self.other = (LocalObjects(f"file://{tmp_path}", tmp_path) for _ in range(2))

    def test_a_swap_waits_for_the_publisher_that_holds_the_lock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The wait is bounded, and an error follows it; the lock is not listed as an object."""
        monkeypatch.setattr(local_objects, "_LOCK_SECONDS", 0.2)
        self.objects.write("pointer", b"1")
        with exclusive(self.root / ".publisher.lock", 1.0, "test"):
            with pytest.raises(SinkUnavailable, match="another publisher holds the lock") as caught:
                self.objects.swap("pointer", b"2", b"1")
            assert str(os.getpid()) in str(caught.value.found)
            assert self.objects.read("pointer") == b"1"
        assert self.objects.swap("pointer", b"2", b"1")
        assert [entry.key for entry in self.objects.list()] == ["pointer"]

    def test_a_directory_that_is_not_mounted_is_not_made(self) -> None:
        """It would fill the disk below the mount point."""
        gone = LocalObjects("file:///gone", self.root / "gone")
        with pytest.raises(SinkUnavailable, match="no such directory"):
            gone.write("versions/1", b"")
        assert not (self.root / "gone").exists()


@pytest.mark.services("moto", "obstore")
class TestConditional(Swapping):
    @pytest.fixture(autouse=True)
    def _place(self, moto_server: S3Server) -> None:
        config = ObjectStoreConfig(
            name="test", url=f"s3://{BUCKET}/objects-{next(_PREFIXES)}", endpoint=moto_server.url
        )
        self.objects, self.other = open_objects(config), open_objects(config)

    def test_the_service_evaluates_the_condition(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The service refuses a write after another publisher's, so that no lock is needed."""
        from embsync.delivery.cloud_objects import CloudObjects

        self.objects.write("pointer", b"1")
        put = CloudObjects._put_if

        def late(objects: Objects, key: str, data: bytes, mode: object) -> bool:
            self.other.write(key, b"of another one")
            return put(objects, key, data, mode)

        monkeypatch.setattr(CloudObjects, "_put_if", late)
        assert self.objects.swap("pointer", b"2", b"1") is False
        assert self.objects.read("pointer") == b"of another one"
        assert self.objects.notes() == ()


@pytest.mark.services("obstore")
class TestUnconditional(Swapping):
    @pytest.fixture(autouse=True)
    def _place(self, rclone_server: S3Server) -> None:
        url = f"s3://{BUCKET}/objects-{next(_PREFIXES)}"
        config = ObjectStoreConfig(name="test", url=url, endpoint=rclone_server.url, lock_seconds=5.0)
        self.objects, self.other = open_objects(config), open_objects(config)

    def test_missing_conditional_writes_are_noted(self) -> None:
        """An endpoint that accepts conditions and ignores them is noted; the probe leaves no object."""
        (note,) = self.objects.notes()
        assert "no conditional writes" in note
        assert list(self.objects.list()) == []
