"""Serve requests about one table at a time.

The address space and the processor time of every step are limited before a file is read; if a parser requests too much
memory, loops or crashes, only this process ends, and the parent reports a refusal. No file is opened by name: files
arrive as handles.

Messages are JSON. A request comes with the handles of a file and, for ``read`` and ``stream``, of a pipe to write the
rows to, which is closed at their end. Each has ``form``, which says how to read the file, and columns by position::

    {"describe": {}}
        -> {"columns": [["id", "integer", "int64"], ["v", "list float32", "list<element: float>"]]} …, {"rows": 7}
    {"count": {"columns": [0]}}  -> {"rows": 7, "kind": "integer"}
    {"width": {"columns": [1]}}  -> {"width": 64}
    {"read": {"columns": [0], "as": "integers", "batch": 8192, "most_bytes": 65536}}
        -> {"rows": 7, "name": "id", "kind": "integer"}, {"end": 7}
    {"stream": {"columns": [1], "width": 64, "batch": 4096}}
        -> {"rows": 7, "name": "v", "kind": "list float32"}, {"end": 7}

``read`` writes batches, each after its number of rows (4 bytes, little-endian) and of bytes (8 bytes); ``stream``
writes only the numbers of all rows. A refusal is ``{"refused": …, "found": …, "expected": …, "hint": …}``.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import sys

import pyarrow as pa

from embsync.decoder import limits, tables, values
from embsync.decoder.limits import Message, Unusable
from embsync.decoder.tables import Table

#: More columns than the widest embeddings stored as one column per dimension have.
_MOST_COLUMNS = 8192
#: Columns in one message.
_COLUMNS_AT_ONCE = 200
_LONGEST_NAME = 80
_LONGEST_TYPE = 40
#: The header of a batch: its numbers of rows and bytes.
_BATCH = struct.Struct("<IQ")
_NAMES = {"parquet": "parquet", "arrow": "Arrow file", "text": "text table"}
_ENCODINGS = {
    "integers": values.integers,
    "strings": values.strings,
    "weights": values.weights,
    "labels": values.labels,
}


class _WithoutPandas:
    """Hides pandas from pyarrow, which would load it to check whether an array is a pandas object."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("not loaded in a decoder", name=name)


def start(channel: socket.socket) -> None:
    """Set the limits, report readiness, and serve requests until the parent closes the channel."""
    sys.meta_path.insert(0, _WithoutPandas)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    limits.limit_memory()
    channel.send(b"{}")
    TableService(channel).serve()


class TableService:
    """Serves requests about one table at a time."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def serve(self) -> None:
        """Serve requests until the parent closes the channel."""
        while True:
            data, handles, _, _ = socket.recv_fds(self._channel, 2**17, 2)
            if not data:
                return
            form: Message = {}
            try:
                ((verb, arguments),) = json.loads(data).items()
                form = arguments["form"]
                self._answer(verb, form, arguments, handles)
            except Unusable as refusal:
                self._send(refusal.message)
            except BrokenPipeError:  # the parent has stopped reading
                return
            except Exception as error:  # any other exception is caused by the file
                self._send(_refusal(error, form).message)
            finally:
                for handle in handles:
                    os.close(handle)

    def _answer(self, verb: str, form: Message, arguments: Message, handles: list[int]) -> None:
        limits.limit_step()
        columns = arguments.get("columns", [])
        with tables.opened(form, handles[0], len(columns)) as table:
            if verb == "describe":
                self._describe(table)
            elif verb == "count":
                self._send(table.count(columns))
            elif verb == "width":
                first = next(table.batches(columns, 1, "vectors"), None)
                if first is None:
                    raise Unusable("fewer rows than its footer says", 0)
                self._send({"width": values.width_of(first)})
            elif verb == "read":
                self._read(table, arguments, handles[1])
            else:
                self._stream(table, arguments, handles[1])

    def _describe(self, table: Table) -> None:
        columns = table.columns()
        if len(columns) > _MOST_COLUMNS:
            raise Unusable("too many columns", len(columns), f"at most {_MOST_COLUMNS}")
        for first in range(0, len(columns), _COLUMNS_AT_ONCE):
            some = columns[first : first + _COLUMNS_AT_ONCE]
            self._send({"columns": [(name[:_LONGEST_NAME], kind, _shown(full)) for name, kind, full in some]})
        self._send({"rows": table.rows})

    def _read(self, table: Table, wanted: Message, pipe: int) -> None:
        encode = _ENCODINGS[wanted["as"]]
        self._send_head(table, wanted)
        done = 0
        use = "weights" if wanted["as"] == "weights" else "ids"
        for (batch,) in table.batches(wanted["columns"], wanted["batch"], use):
            parts = [memoryview(part).cast("B") for part in encode(batch, wanted, done) if len(part)]
            size = sum(map(len, parts))
            if size > wanted["most_bytes"]:
                raise Unusable("too large a batch", size, wanted["most_bytes"])
            if len(batch):
                for part in (memoryview(_BATCH.pack(len(batch), size)), *parts):
                    _write(pipe, part)
            done += len(batch)
        self._send({"end": done})

    def _stream(self, table: Table, wanted: Message, pipe: int) -> None:
        self._send_head(table, wanted)
        done = 0
        for arrays in table.batches(wanted["columns"], wanted["batch"], "vectors"):
            _write(pipe, values.vectors(arrays, wanted["width"], done))
            done += len(arrays[0])
        self._send({"end": done})

    def _send_head(self, table: Table, wanted: Message) -> None:
        columns = table.some(wanted["columns"])
        kinds = {kind for _, kind, _ in columns}
        if len(kinds) != 1 and wanted.get("form", {}).get("kind") != "text":
            raise Unusable("columns of different types", ", ".join(sorted(kinds)), "one type")
        name, kind, _ = columns[0]
        self._send({"rows": table.rows, "name": name[:_LONGEST_NAME], "kind": kind})

    def _send(self, message: Message) -> None:
        self._channel.send(json.dumps(message, ensure_ascii=False).encode())


def _write(pipe: int, data: memoryview) -> None:
    while data:
        data = data[os.write(pipe, data) :]


def _refusal(error: Exception, form: Message) -> Unusable:
    if isinstance(error, MemoryError) or os.strerror(errno.ENOMEM) in str(error):  # pyarrow's mmap error has no errno
        return Unusable("needs more memory than reading it may take", expected=f"{limits.MEMORY} bytes")
    called = _NAMES.get(form.get("kind", ""), "file")
    hint = "check that it was copied completely, or write it again"
    return Unusable(f"ill-formed {called}", found=str(error) or type(error).__name__, hint=hint)


def _shown(kind: str) -> str:
    """Return an Arrow type for messages, shortened and printable, since its names come from the file."""
    plain = kind[:_LONGEST_TYPE].encode("ascii", "replace").decode()
    return "".join(character if character.isprintable() else "?" for character in plain)
