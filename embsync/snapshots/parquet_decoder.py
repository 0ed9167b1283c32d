"""The process that parses parquet, so that whatever a file makes the parser do happens to this process alone.

Run as a script by :mod:`embsync.snapshots.parquet_process`, with a socket as its standard input. Its address space
and the processor time of every step are limited before it looks at a file; a parser that asks for absurd memory, spins
or crashes ends here, and the other side turns that into a refusal. It opens no file by name: files arrive as handles.

Messages are JSON. A request comes with the handles of a parquet file and, for ``read``, of shared memory::

    {"describe": {}}
        -> {"rows": 7, "columns": [["id", "integer", "int64"], ["v", "list float32", "list<element: float>"]]}
    {"width": {"column": "v"}}  -> {"width": 64}
    {"read": {"column": "id", "as": "integers", "batch": 8192, "slots": 4, "slot_bytes": 65536}}
        -> {"rows": 7, "type": "integer"}, {"slot": 0, "rows": 7} …, {"end": 7}
    {"stream": {"column": "v", "width": 64, "batch": 4096, "slots": [5, 2], "filled": 0, "slot_bytes": 1048576}}
        -> {"rows": 7, "type": "list float32"}, {"slot": 5, "rows": 4096} …, {"end": 7, "slots": [2], "filled": 7}

``read`` passes each batch on as it comes, and uses its slots in turn; ``stream`` fills one slot after the other with
exactly ``batch`` rows, the first of them from row ``filled`` on. For every slot it was given the other side sends one
that may be written, ``{"free": 3}``. A refusal is ``{"refused": …, "found": …}``.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

#: Address space on top of what the libraries take. Pages are about 1 MiB and a batch 4 MiB; the rest is for writers
#: with large pages. With the interpreter and pyarrow (some 100 MiB resident) this stays below 1 GiB.
MEMORY = 768 * 1024**2
#: Processor seconds for one step: the footer, the first row, one batch. Honest ones take milliseconds.
STEP_SECONDS = 6
_BUFFER = 1024**2
#: Together they fit one message of the socket.
_MOST_COLUMNS = 200
_LONGEST_NAME = 80
_LONGEST_TYPE = 40
#: Fields of pyspark.ml.linalg.VectorUDT.
_ML_VECTOR = {"type", "size", "indices", "values"}
_DENSE, _SPARSE = 1, 0
_BLANKS, _OPENING, _CLOSING = " \t\r\n", "[({", "])}"
_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}

Message = dict[str, Any]


class Refused(Exception):
    """The file is not what it should be."""

    def __init__(self, what: str, found: object = None, expected: object = None) -> None:
        super().__init__(what)
        self.message: Message = {
            "refused": what,
            "found": None if found is None else str(found)[:300],
            "expected": None if expected is None else str(expected)[:300],
        }


def limit_step() -> None:
    """Give the next step its processor time; beyond it the kernel ends this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(usage.ru_utime + usage.ru_stime)
    _lower(resource.RLIMIT_CPU, spent + STEP_SECONDS + 1)


def limit_memory() -> None:
    """Bound the address space; call it once the libraries are loaded."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 -- no more imports than needed
        now = int(file.read().split()[0]) * resource.getpagesize()
    _lower(resource.RLIMIT_AS, now + MEMORY)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(kind: int, limit: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _shown(kind: Any) -> str:
    """Return an Arrow type for people, in a few plain characters, as names in it are the file's."""
    plain = str(kind)[:_LONGEST_TYPE].encode("ascii", "replace").decode()
    return "".join(character if character.isprintable() else "?" for character in plain)


class Decoder:
    """Answers requests about one parquet file at a time."""

    def __init__(self, channel: socket.socket, arrow: Any, parquet: Any, numpy: Any) -> None:
        self._channel = channel
        self._pa = arrow
        self._pq = parquet
        self._np = numpy
        self._pc = importlib.import_module("pyarrow.compute")

    def serve(self) -> None:
        """Answer until the other side hangs up."""
        while True:
            data, handles, _, _ = socket.recv_fds(self._channel, 65536, 2)
            if not data:
                return
            try:
                ((verb, arguments),) = json.loads(data).items()
                self._answer(verb, arguments, handles)
            except Refused as refusal:
                self._send(refusal.message)
            except MemoryError:
                self._send(Refused("asks for more memory than reading it may take", expected=f"{MEMORY} bytes").message)
            except Exception as error:  # whatever a malformed file causes is an answer about that file
                self._send(Refused("ill-formed parquet", found=str(error) or type(error).__name__).message)
            finally:
                for handle in handles:
                    os.close(handle)

    def _answer(self, verb: str, arguments: Message, handles: list[int]) -> None:
        limit_step()
        # a path under /proc/self/fd is the handle again, and lets pyarrow read without Python in between
        with (
            self._pa.OSFile(f"/proc/self/fd/{handles[0]}") as source,
            self._pq.ParquetFile(
                source, pre_buffer=False, buffer_size=_BUFFER, page_checksum_verification=True
            ) as file,
        ):
            if verb == "describe":
                self._send({"rows": file.metadata.num_rows, "columns": self._columns(file)})
            elif verb == "width":
                self._send({"width": self._width(file, arguments["column"])})
            elif verb == "read":
                self._read(file, arguments, handles[1])
            else:
                self._stream(file, arguments, handles[1])

    def _columns(self, file: Any) -> list[tuple[str, str, str]]:
        schema = file.schema_arrow
        if len(schema) > _MOST_COLUMNS:
            raise Refused("too many columns", len(schema), f"at most {_MOST_COLUMNS}")
        return [(field.name[:_LONGEST_NAME], self._kind(field.type), _shown(field.type)) for field in schema]

    def _kind(self, kind: Any) -> str:
        types = self._pa.types
        if isinstance(kind, self._pa.BaseExtensionType):
            kind = kind.storage_type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            element = str(kind.value_type)
            return f"list {_FLOATS.get(element, 'other')}"
        if types.is_struct(kind) and {field.name for field in kind} == _ML_VECTOR:
            return "list vector" if self._holds_floats(kind.field("values").type) else "other"
        if types.is_integer(kind):
            return "integer"
        if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
            return "string"
        return "float" if types.is_floating(kind) else "other"

    def _holds_floats(self, kind: Any) -> bool:
        return self._pa.types.is_list(kind) and str(kind.value_type) in _FLOATS

    def _width(self, file: Any, column: str) -> int:
        kind = self._field(file, column).type
        if self._pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        for batch in self._batches(file, column, 1):
            if not batch[0].is_valid:
                raise Refused("a row without a vector", "null in row 0")
            if self._pa.types.is_struct(kind):
                first = batch[0].as_py()
                if first["type"] == _SPARSE and first["size"] is not None:
                    return int(first["size"])
                if first["type"] == _DENSE and first["values"] is not None:
                    return len(first["values"])
                raise Refused(
                    "a vector that is neither dense nor sparse", "row 0", "type 1 and values, or type 0 and size"
                )
            return len(self._lists(batch)[0])
        raise Refused("fewer rows than its footer says", 0)

    def _field(self, file: Any, column: str) -> Any:
        positions = file.schema_arrow.get_all_field_indices(column)
        if len(positions) != 1:
            raise Refused("not one column of that name", len(positions), column)
        return file.schema_arrow.field(positions[0])

    def _batches(self, file: Any, column: str, rows: int) -> Iterator[Any]:
        self._field(file, column)
        for batch in file.iter_batches(rows, columns=[column], use_threads=False):
            if batch.num_columns != 1:
                raise Refused("not one column of that name", batch.num_columns, column)
            values = batch.column(0)
            yield values.storage if isinstance(values, self._pa.ExtensionArray) else values
            limit_step()

    def _read(self, file: Any, wanted: Message, memory: int) -> None:
        encode = {"integers": self._integers, "strings": self._strings, "weights": self._weights}[wanted["as"]]
        rows = self._send_head(file, wanted)
        free = list(range(wanted["slots"]))
        sent: list[int] = []
        done = 0
        for batch in self._batches(file, wanted["column"], wanted["batch"]) if rows else ():
            if not free:
                self._next_free()
                free.append(sent.pop(0))
            self._write(memory, free[0], wanted["slot_bytes"], encode(batch, wanted, done))
            done += len(batch)
            self._send({"slot": free[0], "rows": len(batch)})
            sent.append(free.pop(0))
        while sent:
            self._next_free()
            sent.pop(0)
        self._send({"end": done})

    def _stream(self, file: Any, wanted: Message, memory: int) -> None:
        rows = self._send_head(file, wanted)
        slots, filled, step = list(wanted["slots"]), wanted["filled"], wanted["batch"]
        done, owed = 0, 0
        for batch in self._batches(file, wanted["column"], step) if rows else ():
            numbers = self._vectors(batch, wanted, done)
            row_bytes, taken = len(numbers) // max(len(batch), 1), 0
            while taken < len(batch):
                if not slots:
                    slots.append(self._next_free())
                    owed -= 1
                some = min(len(batch) - taken, step - filled)
                self._write_at(
                    memory,
                    slots[0] * wanted["slot_bytes"] + filled * row_bytes,
                    numbers[taken * row_bytes : (taken + some) * row_bytes],
                )
                taken, filled = taken + some, filled + some
                if filled == step:
                    self._send({"slot": slots.pop(0), "rows": step})
                    filled, owed = 0, owed + 1
            done += len(batch)
        slots.extend(self._next_free() for _ in range(owed))
        self._send({"end": done, "slots": slots, "filled": filled})

    def _send_head(self, file: Any, wanted: Message) -> int:
        rows = int(file.metadata.num_rows)
        self._send({"rows": rows, "type": self._kind(self._field(file, wanted["column"]).type)})
        return rows

    def _vectors(self, batch: Any, wanted: Message, start: int) -> memoryview:
        width, types = wanted["width"], self._pa.types
        if batch.null_count:
            raise Refused("a row without a vector", f"null in row {start + self._first_null(batch)}")
        if types.is_struct(batch.type):
            return self._ml_vectors(batch, width, start)
        batch = self._lists(batch)
        if types.is_fixed_size_list(batch.type):
            if batch.type.list_size != width:
                raise Refused("vectors of different widths", batch.type.list_size, width)
        else:
            offsets = batch.offsets.to_numpy()
            widths = offsets[1:] - offsets[:-1]
            if (widths != width).any():
                row = int((widths != width).argmax())
                raise Refused("vectors of different widths", f"{widths[row]} numbers in row {start + row}", width)
        values = batch.flatten()
        if values.null_count:
            raise Refused("a vector with holes", f"null in row {start + self._first_null(values) // width}")
        return memoryview(self._numbers(values)).cast("B")

    def _lists(self, batch: Any) -> Any:
        """Return lists; those of a column of text (``[0.1, 0.2]``, ``0.1 0.2``) as float32."""
        types = self._pa.types
        if types.is_dictionary(batch.type) and not types.is_nested(batch.type.value_type):
            batch = batch.cast(batch.type.value_type)
        if not (types.is_string(batch.type) or types.is_large_string(batch.type) or types.is_string_view(batch.type)):
            return batch
        text = self._pc.utf8_trim(batch.cast(self._pa.large_string()), _BLANKS)
        opened, closed = (self._pc.match_substring_regex(text, pattern) for pattern in (r"^[\[({]", r"[\])}]$"))
        if not opened.equals(closed):
            raise Refused("a vector that is cut off", "one bracket of two", "numbers, such as [0.1, 0.2]")
        text = self._pc.utf8_trim(text, _BLANKS + _OPENING + _CLOSING)
        commas = len(text) and "," in text[0].as_py()
        parts = self._pc.split_pattern(text, ",") if commas else self._pc.utf8_split_whitespace(text)
        words = self._pc.utf8_trim_whitespace(parts.flatten())
        try:
            numbers = words.cast(self._pa.float32())
        except self._pa.ArrowInvalid as error:
            raise Refused("something that is no number", error, "numbers, such as [0.1, 0.2]") from None
        return self._pa.LargeListArray.from_arrays(parts.offsets.cast(self._pa.int64()), numbers)

    def _ml_vectors(self, batch: Any, width: int, start: int) -> memoryview:
        """Return Spark's vectors: dense ones as they are, sparse ones with their zeros."""
        np = self._np
        fields = {field.name: array for field, array in zip(batch.type, batch.flatten(), strict=True)}
        kinds = np.asarray(fields["type"].fill_null(-1))
        dense = kinds == _DENSE
        if (~dense & (kinds != _SPARSE)).any():
            raise Refused("a vector that is neither dense nor sparse", f"in rows from {start}", "type 1 or type 0")
        lengths, places = (
            np.asarray(fields[name].value_lengths().fill_null(0)).astype(np.int64) for name in ("values", "indices")
        )
        sizes = np.where(dense, lengths, np.asarray(fields["size"].fill_null(-1)))
        if (sizes != width).any():
            row = int((sizes != width).argmax())
            raise Refused("vectors of different widths", f"{sizes[row]} numbers in row {start + row}", width)
        if (places[~dense] != lengths[~dense]).any() or fields["values"].null_count:
            raise Refused("an ill-formed sparse vector", f"in rows from {start}", "an index for each value")
        values = fields["values"].flatten()
        if values.null_count:
            raise Refused("a vector with holes", f"in rows from {start}")
        rows = np.repeat(np.arange(len(batch)), lengths)
        columns = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        indices = np.asarray(fields["indices"].filter(self._pa.array(~dense)).flatten())
        columns[~dense[rows]] = indices
        if len(columns) and (columns.min() < 0 or columns.max() >= width):
            raise Refused("an index outside its vector", f"in rows from {start}", f"0 to {width - 1}")
        if ((np.diff(columns) <= 0) & (np.diff(rows) == 0)).any():
            raise Refused("an ill-formed sparse vector", f"in rows from {start}", "ascending indices, each once")
        out = np.zeros((len(batch), width))
        out[rows, columns] = np.asarray(values)
        return memoryview(out.reshape(-1)).cast("B")

    def _integers(self, batch: Any, _: Message, start: int) -> list[Any]:
        return [self._numbers(self._cast(batch, self._pa.int64(), start))]

    def _weights(self, batch: Any, _: Message, start: int) -> list[Any]:
        return [self._numbers(self._cast(batch, self._pa.float64(), start))]

    def _strings(self, batch: Any, wanted: Message, start: int) -> list[Any]:
        texts = self._cast(batch, self._pa.large_string(), start)
        offsets = self._np.frombuffer(texts.buffers()[1], "i8", len(texts) + 1, texts.offset * 8)
        lengths = offsets[1:] - offsets[:-1]
        if len(lengths) and (lengths.min() < 1 or lengths.max() > wanted["longest"]):
            row = int(((lengths < 1) | (lengths > wanted["longest"])).argmax())
            raise Refused(
                "an id of an unusable length",
                f"{lengths[row]} bytes in row {start + row}",
                f"1 to {wanted['longest']} bytes",
            )
        return [lengths.astype("<i4"), memoryview(texts.buffers()[2])[int(offsets[0]) : int(offsets[-1])]]

    def _cast(self, batch: Any, kind: Any, start: int) -> Any:
        if batch.null_count:
            raise Refused("a missing id or weight", f"null in row {start + self._first_null(batch)}")
        return batch.cast(kind)

    def _first_null(self, values: Any) -> int:
        return int(values.is_null().to_numpy(zero_copy_only=False).argmax())

    def _numbers(self, values: Any) -> Any:
        return values.to_numpy(zero_copy_only=True)

    def _write(self, memory: int, slot: int, slot_bytes: int, parts: list[Any]) -> None:
        view = [memoryview(part).cast("B") for part in parts if len(part)]
        if sum(map(len, view)) > slot_bytes:
            raise Refused("a batch larger than it may be", sum(map(len, view)), slot_bytes)
        position = slot * slot_bytes
        for part in view:
            self._write_at(memory, position, part)
            position += len(part)

    def _write_at(self, memory: int, position: int, part: memoryview) -> None:
        done = 0
        while done < len(part):
            done += os.pwrite(memory, part[done:], position + done)

    def _next_free(self) -> int:
        data = self._channel.recv(64)
        if not data:
            sys.exit(0)
        return int(json.loads(data)["free"])

    def _send(self, message: Message) -> None:
        self._channel.send(json.dumps(message, ensure_ascii=False).encode())


def main() -> None:
    """Load the libraries of the process that started this one, take on the limits, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side decides, by hanging up
    channel = socket.socket(fileno=0)
    sys.path[:] = json.loads(channel.recv(65536))
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    numpy = importlib.import_module("numpy")
    arrow.set_cpu_count(1)
    arrow.set_io_thread_count(1)
    limit_memory()
    channel.send(b"{}")
    Decoder(channel, arrow, parquet, numpy).serve()


if __name__ == "__main__":
    main()
