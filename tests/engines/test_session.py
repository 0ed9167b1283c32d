"""Unsuitable packages, Java or snapshots are refused before Spark starts, and each error of Spark is one line."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engines import nights
from support.nights import night
from support.ports import free_port

from embsync.config import Config, EngineConfig, SnapshotConfig
from embsync.engines.partition_error import PartitionError
from embsync.engines.spark import session
from embsync.engines.spark.errors import as_error, spark_errors
from embsync.errors import EmbsyncError, EngineError, SnapshotChanged, SnapshotError, StoreError, UsageError
from embsync.pipeline import Request, run
from embsync.pipeline.run import publish_snapshot
from embsync.store import Store

ENGINE = Config(engine=EngineConfig(kind="spark"))


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Pretend that these packages are installed."""
    found = {"pyspark": "4.0.1", "pandas": "2.2.3", "pyarrow": "17.0.0"}
    monkeypatch.setattr(session, "version", found.__getitem__)
    monkeypatch.setattr(importlib.util, "find_spec", found.get)
    return found


@pytest.mark.parametrize(
    ("package", "version", "fits"),
    [
        ("pyspark", None, False),
        ("pyspark", "3.5.6", False),
        ("pyspark", "4.0.0", True),
        ("pandas", None, False),
        ("pandas", "2.1.4", False),
        ("pandas", "3.0.0", False),
        ("pyarrow", "16.1.0", False),
        ("pyarrow", "26.0.1", True),
    ],
)
def test_packages_that_do_not_fit_are_refused(
    there: dict[str, str], package: str, version: str | None, fits: bool
) -> None:
    """The error has the installed version, the required one, and the command that installs it."""
    if version is None:
        del there[package]
    else:
        there[package] = version
    if fits:
        session.require_packages()
        return
    with pytest.raises(UsageError, match=package) as caught:
        session.require_packages()
    assert caught.value.details()["found"] == (version or "not installed")
    assert "embsync[spark]" in str(caught.value.hint)


def java(directory: Path, says: str | None) -> Path:
    """Return the home of a Java that reports this version, or for None one that cannot be executed."""
    (directory / "bin").mkdir(parents=True)
    program = directory / "bin/java"
    program.write_text("#!/of/another/machine\n" if says is None else f"#!/bin/sh\necho '{says}' >&2\n")
    program.chmod(0o755)
    return directory


@pytest.mark.parametrize(
    ("says", "fits"),
    [
        ('openjdk version "1.8.0_412"', False),
        ('openjdk version "11.0.23" 2024-04-16', False),
        ('openjdk version "17.0.15" 2025-04-15', True),
        ('openjdk version "21" 2023-09-19', True),
        ("not Java at all", False),
        (None, False),
    ],
)
def test_a_java_that_is_too_old_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str | None, fits: bool
) -> None:
    """The version is read before Spark's scripts fail on it; a Java that cannot be executed is refused too."""
    monkeypatch.setenv("JAVA_HOME", str(java(tmp_path, says)))
    if fits:
        session.require_java()
        return
    broken = says is None or "version" not in says
    with pytest.raises(UsageError, match="broken" if broken else "too old") as caught:
        session.require_java()
    assert (says or "No such file") in str(caught.value)


def test_without_java_the_store_stays_as_it_was(
    there: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with exit code 2; no store is created."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = night(1)
    path = nights.save(tmp_path / "day=1", found.items, found.item_ids, *(found.users, found.user_ids))
    with pytest.raises(UsageError, match="Java") as caught:
        publish_snapshot(Store(tmp_path / "store"), Request(path), ENGINE)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "store").exists()


class Py4JJavaError(Exception):
    """Represents the error of the same name."""

    __module__ = "py4j.protocol"


@pytest.mark.parametrize(
    ("message", "kind", "hint"),
    [
        ("[PARQUET_TYPE_ILLEGAL] Illegal Parquet type: FIXED_LEN_BYTE_ARRAY (FLOAT16).", SnapshotError, "float32"),
        ("[PATH_NOT_FOUND] Path does not exist: file:/a/users/part-0.parquet.", UsageError, "same path"),
        (
            "PythonException: FileNotFoundError: [Errno 2] No such file or directory: '/store/x'",
            UsageError,
            "same path",
        ),
        ("ModuleNotFoundError: No module named 'pyarrow.parquet'", UsageError, "PYSPARK_PYTHON"),
        (
            "[PACKAGE_NOT_INSTALLED] grpcio-status >= 1.48.1 must be installed; however, it was not found.",
            UsageError,
            "pip install 'pyspark[connect]'",
        ),
        (
            "[PACKAGE_NOT_INSTALLED] googleapis-common-protos >= 1.56.4 must be installed; however, it was not found.",
            UsageError,
            "pip install 'pyspark[connect]'",
        ),
        (
            "[PACKAGE_NOT_INSTALLED] PyArrow >= 15.0.0 must be installed; however, it was not found.",
            UsageError,
            "PYSPARK_PYTHON",
        ),
        ('[CAST_OVERFLOW] The value 1BD of "DECIMAL(20,0)" cannot be cast to "BIGINT"', SnapshotError, "as text"),
        ('java.io.IOException: Cannot run program "/no/python": error=2, No such file', UsageError, "PYSPARK_PYTHON"),
        ('java.io.IOException: Cannot run program "python3": error=12, Cannot allocate memory', EngineError, ""),
        ("OSError: [Errno 28] No space left on device", StoreError, None),
        (
            "Total size of serialized results of 9 tasks is bigger than spark.driver.maxResultSize (1.0 MiB)",
            UsageError,
            "raise",
        ),
        ("[JAVA_GATEWAY_EXITED] Java gateway process exited before sending its port number.", UsageError, "memory"),
        ("Could not parse Master URL: 'sparky'", UsageError, "spark://"),
        ("[SPARK_JOB_CANCELLED] Job 5 cancelled as part of cancellation of all jobs", EngineError, "may hang"),
        ("Job aborted due to stage failure: ExecutorLostFailure (executor 3 exited)", EngineError, "as it was"),
    ],
)
def test_errors_of_spark_are_one_line(message: str, kind: type[Exception], hint: str | None) -> None:
    """The line has the problem, the exit code of its cause, and a hint; the loss of a cluster is transient."""
    found = as_error(RuntimeError(f"An error occurred while calling o1.x.\n{message}\n\tat org.apache.Spark"), "day=1")
    assert type(found) is kind
    assert "\n" not in str(found)
    assert hint is None or hint in str(found.hint)
    assert found.transient == (kind is EngineError)


@pytest.mark.parametrize(
    ("code", "kind", "hint"),
    [("repeated_id", SnapshotChanged, "rename"), ("not_as_written", StoreError, "faulty")],
)
def test_errors_of_partitions_arrive_as_data(code: str, kind: type[EmbsyncError], hint: str) -> None:
    """They are in the text of a worker's traceback, whatever else that text contains, even if it is cut off later."""
    raised = PartitionError(code, "it went wrong", "an id: é \n}", "none")
    text = f"PermissionError: no\nembsync.engines.partition_error.PartitionError: {raised}\n\tat org.apache.Spark"
    found = as_error(Py4JJavaError(text), "day=1")
    assert type(found) is kind
    assert (found.what, found.where, found.found, found.expected) == ("it went wrong", "day=1", "an id: é \n}", "none")
    assert hint in str(found.hint)
    for end in (-2, str(raised).index(', "found')):
        cut = as_error(Py4JJavaError(f"PermissionError: no\n{str(raised)[:end]}"), "day=1")
        assert (type(cut), cut.what, cut.found, cut.expected, cut.hint) == (kind, found.what, None, None, found.hint)
    for other in (str(raised)[:20], str(PartitionError("another", "", "", "")), '{"embsync": "repeated_id"}'):
        assert type(as_error(Py4JJavaError(other), "day=1")) is EngineError


def test_only_errors_of_spark_are_translated() -> None:
    """Errors of embsync and bugs are raised unchanged; a refused connection counts as Spark's."""
    for error, kind in ((ZeroDivisionError(), ZeroDivisionError), (StoreError("full"), StoreError)):
        with pytest.raises(kind), spark_errors("day=1"):
            raise error
    for error in (ConnectionRefusedError("no"), Py4JJavaError("lost")):
        with pytest.raises(EngineError), spark_errors("day=1"):
            raise error


@pytest.mark.parametrize("kind", ["npy", "weights", "float16", "two types of ids"])
def test_users_that_the_engine_does_not_read_are_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Other files, weights and float16 are refused; the message says what is read, and by which engine."""
    monkeypatch.setattr(session, "start", pytest.fail)
    found, config = night(1), ENGINE
    path, users = tmp_path / "day=1", found.both[1]
    if kind == "npy":
        path.mkdir()
        for name, array in found.arrays().items():
            np.save(path / f"{name}.npy", array)
    else:
        nights.save(
            path, found.items, found.item_ids, users.astype("f2") if kind == "float16" else users, found.user_ids
        )
    if kind == "two types of ids":
        file = path / "users/part-1.parquet"
        table = pq.read_table(file)
        pq.write_table(table.set_column(0, "id", table["id"].cast(pa.string())), file)
    if kind == "weights":
        for file in sorted(path.rglob("*.parquet")):
            table = pq.read_table(file)
            pq.write_table(table.append_column("trust", pa.array(np.ones(len(table)))), file)
        config = msgspec.structs.replace(ENGINE, snapshot=SnapshotConfig(weight_column="trust"))
    of_snapshot = kind in ("float16", "two types of ids")
    expected = "differs among part files" if kind == "two types of ids" else r"engine\.kind: local"
    with pytest.raises(SnapshotError if of_snapshot else UsageError, match=expected):
        publish_snapshot(Store(tmp_path / "store"), Request(path), config)
    assert not (tmp_path / "store").exists()


def test_a_server_that_does_not_answer_is_refused_at_once(there: dict[str, str]) -> None:
    """A transient error is raised instead of ten minutes of retries by pyspark."""
    with pytest.raises(EngineError, match="cannot be reached") as caught:
        session.start(EngineConfig(kind="spark", master=f"sc://127.0.0.1:{free_port()}/;user_id=embsync"))
    assert caught.value.transient
    for address in ("sc://127.0.0.1:port", "sc://[::1"):
        with pytest.raises(UsageError, match="expected sc://HOST:PORT"):
            session.require_server(address)


def test_a_wrong_home_of_spark_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is raised before pyspark fails on a missing script."""
    monkeypatch.setenv("SPARK_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="spark-submit"):
        session.require_home()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/spark-submit").touch()
    session.require_home()


def test_a_snapshot_that_disappears_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Executors cannot see its path then, but this is a transient error and not one of the setup."""
    found = night(1)
    path = nights.save(tmp_path / "day=1", found.items, found.item_ids, found.users, found.user_ids)

    def gone(_: EngineConfig) -> Any:
        shutil.rmtree(path)
        raise as_error(Py4JJavaError("[PATH_NOT_FOUND] Path does not exist: file:/day=1/users"), str(path))

    monkeypatch.setattr(run, "open_engine", gone)
    with pytest.raises(SnapshotChanged, match="does not see"):
        publish_snapshot(Store(tmp_path / "store"), Request(path), ENGINE)
    assert not (tmp_path / "store").exists()


def test_settings_are_passed_as_text() -> None:
    """Values are converted to Spark's notation."""
    values: list[Any] = [True, 3, 0.5, "4g"]
    assert [session._text(value) for value in values] == ["true", "3", "0.5", "4g"]
