"""Rows through a decoder's pipe: output of a faulty decoder is refused in one line, without leaks."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embsync.errors import SnapshotChanged, SnapshotError
from embsync.processes import ChildProcess
from embsync.snapshots import decoder_process
from embsync.snapshots.column_files import FileColumn, FileRows, Part
from embsync.snapshots.decoder_process import DecoderProcess, Decoders
from embsync.snapshots.files import Place
from embsync.snapshots.labels import FileLabels

#: A decoder that answers one request as its argument specifies.
_SCRIPT = """
import json, os, signal, socket, struct, sys, time
channel = socket.socket(fileno=0)
_, (file, pipe), _, _ = socket.recv_fds(channel, 2**17, 2)
write = lambda data: os.write(pipe, data)
batch = lambda rows, data: write(struct.pack("<IQ", rows, len(data)) + data)
say = lambda message: channel.send(json.dumps(message).encode())
head = lambda rows=3: say({"rows": rows, "name": "v", "kind": "KIND"})
exec(sys.argv[1])
os.close(pipe)
channel.recv(1)
"""
#: Three rows of two float32, and three ids.
_VECTORS, _IDS = "write(bytes(24))", "batch(3, bytes(24))"


def _answering(kind: str, code: str) -> tuple[Decoders, ChildProcess]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(30)
    with theirs:
        arguments = [sys.executable, "-I", "-S", "-c", _SCRIPT.replace("KIND", kind), code]
        process = ChildProcess(arguments, own_group=False, stdin=theirs.fileno())
    decoders = Decoders()
    decoders._idle.append(DecoderProcess(process, ours))
    return decoders, process


def _vectors(path: Path, code: str) -> tuple[Callable[[], object], ChildProcess]:
    path.touch()
    decoders, process = _answering("list float32", code)
    part = Part(Place.at(path), {"kind": "parquet"}, 3, {"v": "list float32"}, {"v": "list<float>"})
    rows = FileRows(str(path), (part,), ("v",), np.dtype("f4"), 2, decoders)
    return lambda: [block.tolist() for _, block in rows.blocks()], process


def _column(kind: str) -> Callable[[Path, str], tuple[Callable[[], object], ChildProcess]]:
    def column(path: Path, code: str) -> tuple[Callable[[], object], ChildProcess]:
        path.touch()
        decoders, process = _answering(kind, code)
        part = Part(Place.at(path), {"kind": "parquet"}, 3, {"v": kind}, {"v": kind})
        return lambda: FileColumn(str(path), (part,), "v", kind, decoders).read().tolist(), process

    return column


_integers, _strings = _column("integer"), _column("string")


def _labels(path: Path, code: str) -> tuple[Callable[[], object], ChildProcess]:
    path.touch()
    decoders, process = _answering("integer", code)
    part = Part(Place.at(path), {"kind": "parquet"}, 3, {"v": "integer"}, {"v": "int64"})
    labels = FileLabels(str(path), (part,), decoders)
    return lambda: list(labels.column("v", None).values), process


def _descriptors() -> set[str]:
    gc.collect()  # descriptors of earlier tests might be closed at any moment
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [
        (_vectors, f"head(); {_VECTORS}; say({{'end': 3}})", [[[0.0, 0.0]] * 3]),
        (
            _vectors,
            "head(); [write(bytes(1)) for _ in range(24)]; say({'end': 3})",
            [[[0.0, 0.0]] * 3],
        ),
        (_integers, f"head(); {_IDS}; say({{'end': 3}})", [0, 0, 0]),
        (_strings, "head(); batch(3, struct.pack('<3i', 1, 2, 1) + b'abbc'); say({'end': 3})", [b"a", b"bb", b"c"]),
        (_labels, "head(); batch(3, b'[\"integer\", [1, 2, -3]]'); say({'end': 3})", [1, 2, -3]),
    ],
)
def test_rows_arrive_however_they_are_written(
    tmp_path: Path, kind: Callable[..., object], code: str, expected: object
) -> None:
    """Rows may arrive in one piece or byte by byte; the decoder is kept, and only its channel stays open."""
    before = _descriptors()
    read, process = kind(tmp_path / "items.parquet", code)
    assert read() == expected
    assert process.poll() is None
    del read
    assert process.poll() is not None
    assert _descriptors() == before


@pytest.mark.parametrize(
    ("kind", "code", "found", "error"),
    [
        (_vectors, "head(); write(bytes(20)); say({'end': 3})", "2 rows", SnapshotError),
        (_vectors, "head(); say({'end': 3})", "0 rows", SnapshotError),
        (_vectors, "head(); write(bytes(25)); say({'end': 3})", "more rows", SnapshotError),
        (_vectors, f"head(); {_VECTORS}; say({{'end': 4}})", "4 rows", SnapshotError),
        (_vectors, f"head(); {_VECTORS}; say({{}})", "None rows", SnapshotError),
        (_vectors, f"head(); {_VECTORS}; say(3)", "not a valid message", SnapshotError),
        (_vectors, f"head(); {_VECTORS}; channel.send(b'{{')", "not a valid message", SnapshotError),
        (_vectors, f"head(); {_VECTORS}; sys.exit(3)", "the decoder ended with 3", SnapshotError),
        (_vectors, "head(); write(bytes(9)); os.kill(os.getpid(), 11)", "killed by SIGSEGV", SnapshotError),
        (_vectors, "head(); write(bytes(9)); os.kill(os.getpid(), 9)", "decoder was killed", SnapshotChanged),
        (_vectors, "head(); write(bytes(9)); os.kill(os.getpid(), 7)", "became shorter", SnapshotChanged),
        (_vectors, "head(); write(bytes(9)); say({'refused': 'null', 'found': 'row 1'})", "null.*row 1", SnapshotError),
        (_vectors, "head(4)", "changed while it was read", SnapshotChanged),
        (_integers, "head(); write(b'\\xff' * 12 + bytes(24)); say({'end': 3})", "rows", SnapshotError),
        (_integers, "head(); write(bytes(5)); say({'end': 3})", "0 rows", SnapshotError),
        (_integers, "head(); batch(0, b''); say({'end': 3})", "0 rows", SnapshotError),
        (_integers, "head(); batch(4, bytes(32)); say({'end': 4})", "4 rows", SnapshotError),
        (_integers, "head(); write(struct.pack('<IQ', 3, 2**40)); say({'end': 3})", "3 rows", SnapshotError),
        (_integers, "head(); write(struct.pack('<IQ', 3, 24) + bytes(23)); say({'end': 3})", "0 rows", SnapshotError),
        (_integers, "head(); batch(2, bytes(16)); say({'end': 2})", "2 rows", SnapshotError),
        (_integers, "head(); batch(3, bytes(16)); say({'end': 3})", "16 bytes", SnapshotError),
        (_integers, f"head(); {_IDS}; write(b'x'); say({{'end': 3}})", "3 rows", SnapshotError),
        (_integers, f"head(); {_IDS}; batch(1, bytes(8)); say({{'end': 3}})", "4 rows", SnapshotError),
        (_strings, "head(); batch(3, struct.pack('<2i', 1, 1)); say({'end': 3})", "8 bytes", SnapshotError),
        (_strings, "head(); batch(3, struct.pack('<3i', 1, 1, 1) + b'ab'); say({'end': 3})", "14 bytes", SnapshotError),
        (_vectors, f"head(); {_VECTORS}; channel.send(b'[' * 2**16)", "not a valid message", SnapshotError),
        (_labels, "head(); batch(3, b'{'); say({'end': 3})", "3 labels", SnapshotError),
        (_labels, "head(); batch(3, b'[' * 2**16); say({'end': 3})", "3 labels", SnapshotError),
        (_labels, "head(); batch(3, b'[\"integer\", [1, 2]]'); say({'end': 3})", "3 labels", SnapshotError),
        (_labels, "head(); batch(3, b'[\"integer\", [1, 2, \"x\"]]'); say({'end': 3})", "3 labels", SnapshotError),
        (_labels, "head(); batch(3, b'[\"float\", [1.0, 2.0, {}]]'); say({'end': 3})", "3 labels", SnapshotError),
        (_labels, "head(); batch(3, b'[\"strings\", [[], null, [1]]]'); say({'end': 3})", "3 labels", SnapshotError),
        (_labels, "head(); batch(3, b'[[], [1, 2, 3]]'); say({'end': 3})", "3 labels", SnapshotError),
        (_strings, "head(); batch(3, struct.pack('<3i', 3, -1, 1) + b'abc'); say({'end': 3})", "length", SnapshotError),
    ],
)
def test_a_decoder_gone_wrong_is_refused_in_one_line(
    tmp_path: Path, kind: Callable[..., object], code: str, found: str, error: type[SnapshotError]
) -> None:
    """The decoder is ended and reaped, and no descriptor stays open."""
    before = _descriptors()
    read, process = kind(tmp_path / "items.parquet", code)
    with pytest.raises(SnapshotError, match=found) as refused:
        read()
    assert type(refused.value) is error
    assert "\n" not in str(refused.value)
    assert process.poll() is not None
    del read, refused
    assert _descriptors() == before


def test_a_stalled_pipe_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe without data is treated like a decoder that does not answer: the disk or network share may hang."""
    monkeypatch.setattr(decoder_process, "_TIMEOUT_SECONDS", 0.2)
    read, process = _vectors(tmp_path / "items.parquet", "head(); write(bytes(9)); time.sleep(4); sys.exit()")
    with pytest.raises(SnapshotChanged, match="reading does not progress"):
        read()
    assert process.poll() is not None
