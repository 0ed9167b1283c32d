"""Files that arrive from another host: what the disk has is what the manifest says, or the fault is named."""

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
from embsync.store.received import Pieces, ReceivedVersion

CONTENT = bytes(range(256)) * 1000
ENTRY = FileEntry("items/vectors.npy", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Sender:
    """Sends contents, one each time it is asked, from where the receiver is."""

    def __init__(self, *contents: bytes) -> None:
        self.starts: list[int] = []
        self._contents = iter(contents)

    def pieces(self) -> Pieces:
        @contextmanager
        def opened(start: int) -> Iterator[list[bytes]]:
            self.starts.append(start)
            content = next(self._contents)[start:]
            yield [content[at : at + 1000] for at in range(0, len(content), 1000)]

        return opened


@pytest.fixture
def version(tmp_path: Path) -> Iterator[ReceivedVersion]:
    """Yield an empty version in the making."""
    with ReceivedVersion(tmp_path, "7-abc") as version:
        yield version


def changed(content: bytes) -> bytes:
    """Return bytes of the same length of which one differs."""
    return content[:500] + bytes([content[500] ^ 1]) + content[501:]


def test_a_file_arrives_in_one_transfer(version: ReceivedVersion) -> None:
    """It has its name once it was read back."""
    sender = Sender(CONTENT)
    version.receive(ENTRY, sender.pieces())
    assert (version.path / ENTRY.path).read_bytes() == CONTENT
    assert sender.starts == [0]


@pytest.mark.parametrize("wrong", [changed(CONTENT), CONTENT[:-1], CONTENT + b"x", b""])
def test_what_arrives_wrong_once_is_received_again(version: ReceivedVersion, wrong: bytes) -> None:
    """From its start."""
    sender = Sender(wrong, CONTENT)
    version.receive(ENTRY, sender.pieces())
    assert (version.path / ENTRY.path).read_bytes() == CONTENT
    assert sender.starts == [0, 0]


@pytest.mark.parametrize("wrong", [changed(CONTENT), CONTENT[:-1], CONTENT + b"x", b""])
def test_what_arrives_wrong_twice_is_refused_and_leaves_nothing(version: ReceivedVersion, wrong: bytes) -> None:
    """The sender has something else."""
    with pytest.raises(StoreDamaged, match="did not arrive as its manifest says"):
        version.receive(ENTRY, Sender(wrong, wrong).pieces())
    assert list((version.path / "items").iterdir()) == []


def test_a_file_is_continued_and_checked_from_its_start(version: ReceivedVersion) -> None:
    """What an earlier process left counts, if it is right."""
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
    """Not the sender, whose object would be called damaged."""

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
