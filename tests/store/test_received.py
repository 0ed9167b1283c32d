"""Files from another host: the file on the disk matches the manifest, or the error names the fault."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from embsync.errors import StoreDamaged, StoreError
from embsync.file_hashes import FileEntry
from embsync.store import received
from embsync.store.received import OpenPieces, ReceivedVersion

CONTENT = bytes(range(256)) * 1000
ENTRY = FileEntry("items/vectors.npy", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Sender:
    """Sends one content per request, from the offset that the receiver asks for."""

    def __init__(self, *contents: bytes) -> None:
        self.starts: list[int] = []
        self._contents = iter(contents)

    def pieces(self) -> OpenPieces:
        @contextmanager
        def opened(start: int) -> Iterator[list[bytes]]:
            self.starts.append(start)
            content = next(self._contents)[start:]
            yield [content[at : at + 1000] for at in range(0, len(content), 1000)]

        return opened


@pytest.fixture
def version(tmp_path: Path) -> Iterator[ReceivedVersion]:
    """An empty version that is being received."""
    with ReceivedVersion(tmp_path, "7-abc") as version:
        yield version


def changed(content: bytes) -> bytes:
    """Return bytes of the same length, one of which differs."""
    return content[:500] + bytes([content[500] ^ 1]) + content[501:]


def test_a_file_arrives_in_one_transfer(version: ReceivedVersion) -> None:
    """It gets its name after it was read back."""
    sender = Sender(CONTENT)
    version.receive(ENTRY, sender.pieces())
    assert (version.path / ENTRY.path).read_bytes() == CONTENT
    assert sender.starts == [0]


@pytest.mark.parametrize("wrong", [changed(CONTENT), CONTENT[:-1], CONTENT + b"x", b""])
def test_what_arrives_wrong_once_is_received_again(version: ReceivedVersion, wrong: bytes) -> None:
    """The second transfer begins at offset 0."""
    sender = Sender(wrong, CONTENT)
    version.receive(ENTRY, sender.pieces())
    assert (version.path / ENTRY.path).read_bytes() == CONTENT
    assert sender.starts == [0, 0]


@pytest.mark.parametrize("wrong", [changed(CONTENT), CONTENT[:-1], CONTENT + b"x", b""])
def test_what_arrives_wrong_twice_is_refused_and_leaves_nothing(version: ReceivedVersion, wrong: bytes) -> None:
    """The sender's file differs from the manifest."""
    with pytest.raises(StoreDamaged, match="a received file does not match its manifest"):
        version.receive(ENTRY, Sender(wrong, wrong).pieces())
    assert list((version.path / "items").iterdir()) == []


def test_a_file_is_continued_and_checked_from_its_start(version: ReceivedVersion) -> None:
    """The part that an earlier process received is used if it is correct."""
    (version.path / "items").mkdir()
    partial = version.path / "items" / "vectors.npy.partial"
    wrong = changed(CONTENT[:3000])
    for left, starts in ((CONTENT[:3000], [3000]), (wrong, [3000, 0]), (CONTENT, [0]), (CONTENT + wrong, [0])):
        partial.write_bytes(left)
        sender = Sender(CONTENT, CONTENT)
        version.receive(ENTRY, sender.pieces())
        assert (version.path / ENTRY.path).read_bytes() == CONTENT
        assert sender.starts == starts


def test_a_disk_that_gives_other_bytes_back_is_at_fault(
    version: ReceivedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the disk, and not the sender's object as damaged."""

    def pread(*arguments: Any) -> bytes:
        return changed(os.pread(*arguments))

    monkeypatch.setattr(received, "os", _Os(pread))
    with pytest.raises(StoreError, match="does not read back") as raised:
        version.receive(ENTRY, Sender(CONTENT, CONTENT).pieces())
    assert not isinstance(raised.value, StoreDamaged)
    assert list((version.path / "items").iterdir()) == []


class _Os:
    """The module ``os`` with another ``pread``."""

    def __init__(self, pread: Any) -> None:
        self.pread = pread

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)
