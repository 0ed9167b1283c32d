"""Errors of Spark as one line each: what is wrong, and whether the snapshot, the set-up or the cluster is the cause."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from embsync.engines.partition_error import parts_in
from embsync.errors import EmbsyncError, EngineError, SnapshotChanged, SnapshotError, StoreError, UsageError

#: Class and hint of each :class:`~embsync.engines.partition_error.PartitionError`, by its code.
_OF_PARTITIONS: dict[str, tuple[type[EmbsyncError], str]] = {
    "repeated_id": (SnapshotChanged, "have the training job rename the finished directory into place"),
    "not_as_written": (StoreError, "the disk or its driver is faulty"),
}
#: (pattern in Spark's message, class, what, hint); the first that matches decides.
_KNOWN: tuple[tuple[str, type[EmbsyncError], str, str | None], ...] = (
    (
        r"PARQUET_TYPE_ILLEGAL|Illegal Parquet type[^\n]*|FIXED_LEN_BYTE_ARRAY \(FLOAT16\)",
        SnapshotError,
        "a parquet type that Spark cannot read",
        "write the vectors as float32 instead of float16, or set engine.kind: local",
    ),
    (
        r"CAST_OVERFLOW[^\n]*BIGINT",
        SnapshotError,
        "an id beyond 64-bit signed integers",
        f"write ids of at most {2**63 - 1}, or as text",
    ),
    (
        r"PACKAGE_NOT_INSTALLED\] (grpc|googleapis|zstandard)[\w.-]*",
        UsageError,
        "Spark Connect needs packages that are not installed here",
        "run: pip install 'pyspark[connect]'",
    ),
    (
        r"No module named '(numpy|pyarrow)[\w.]*'|PYTHON_VERSION_MISMATCH|PACKAGE_NOT_INSTALLED"
        r"|Cannot run program [^\n]*error=(2|13),",
        UsageError,
        "the executors' Python is unsuitable",
        "give them the driver's Python version with NumPy and pyarrow (PYSPARK_PYTHON, or spark.archives)",
    ),
    (
        r"(PATH_NOT_FOUND|FileNotFoundException|FileNotFoundError|FAILED_READ_FILE\.FILE_NOT_EXIST)",
        UsageError,
        "a path that Spark does not see",
        "the snapshot and the store must be under the same path on the driver and on every executor",
    ),
    (
        r"PermissionError|Permission denied",
        StoreError,
        "the executors may not write to the store",
        "run them as the store's owner, or share the store's group with them",
    ),
    (r"No space left on device|Disk quota exceeded", StoreError, "no space left on an executor or in the store", None),
    (
        r"bigger than spark\.driver\.maxResultSize",
        UsageError,
        "a result beyond spark.driver.maxResultSize",
        "raise it in engine.conf",
    ),
    (
        r"SPARK_JOB_CANCELLED|OPERATION_CANCELED",
        EngineError,
        "a Spark job was cancelled",
        "embsync cancels its jobs if no task ends for engine.stall_seconds, as an executor may hang: see Spark's log",
    ),
    (
        r"JAVA_GATEWAY_EXITED",
        UsageError,
        "Java ended before Spark started",
        "its own message is above; check engine.conf, above all spark.driver.memory and spark.driver.extraJavaOptions",
    ),
    (
        r"Cannot parse the master URL|Could not parse Master URL|INVALID_CONNECT_URL",
        UsageError,
        "engine.master is not a master of Spark",
        "use local[*], spark://host:7077, yarn, k8s://… or sc://host:15002",
    ),
)
_LONGEST = 300


@contextlib.contextmanager
def spark_errors(where: str) -> Iterator[None]:
    """Raise errors of Spark, and of the connection to it, as errors of embsync."""
    try:
        yield
    except EmbsyncError:
        raise
    except Exception as error:
        if not _of_spark(error):
            raise
        raise as_error(error, where) from error


def as_error(error: Exception, where: str) -> EmbsyncError:
    """Return an error of Spark as one of embsync."""
    text = _text(error)
    parts = parts_in(text)
    if known := _OF_PARTITIONS.get(parts.get("embsync") or ""):
        of_partition, advice = known
        return of_partition(
            parts["what"] or "", where=where, found=parts["found"], expected=parts["expected"], hint=advice
        )
    for pattern, kind, what, hint in _KNOWN:
        if found := re.search(pattern, text):
            return kind(what, where=where, found=_around(text, found), hint=hint)
    return EngineError(
        "Spark failed", where=where, found=_first_line(text), hint="see Spark's log; the store is as it was"
    )


def _of_spark(error: Exception) -> bool:
    modules = [kind.__module__.partition(".")[0] for kind in type(error).__mro__]
    return bool({"pyspark", "py4j", "grpc"} & set(modules)) or isinstance(error, ConnectionError | EOFError)


def _text(error: Exception) -> str:
    java = getattr(error, "java_exception", None)
    with contextlib.suppress(Exception):  # the JVM may be gone
        return f"{error}\n{java.toString() if java is not None else ''}"
    return f"{type(error).__name__}: {error.args[0] if error.args else ''}"


def _around(text: str, found: re.Match[str]) -> str:
    start = text.rfind("\n", 0, found.start()) + 1
    end = text.find("\n", found.end())
    return text[start : len(text) if end < 0 else end].strip()[:_LONGEST]


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("at ")]
    named = [line for line in lines if re.search(r"(Error|Exception)\b.*: ", line)]
    return (named or lines or ["no message"])[-1 if named else 0][:_LONGEST]
