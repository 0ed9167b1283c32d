"""Tasks that fail, hang or are killed, a driver with little memory or killed: at most one exact version."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from engines import nights
from support.goodbooks import DAYS, needs_goodbooks, read_day
from support.ports import free_port
from support.spark import bare_python

from embsync.config import Config, EngineConfig, IndexConfig
from embsync.engines.spark import session
from embsync.file_hashes import hash_file
from embsync.manifest import Manifest
from embsync.store import Store

pytestmark = [
    pytest.mark.torture,
    pytest.mark.services("pyspark"),
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore"),  # pyspark's own warnings
]

ROWS = 4000
CONF = {
    "spark.sql.shuffle.partitions": 3,
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.files.openCostInBytes": 128 * 2**20,  # one file per partition
}


def snapshot(directory: Path, *, width: int = 8, files: int = 6) -> Path:
    """Write a night of random vectors."""
    random = np.random.default_rng(3)
    items, users = random.normal(size=(600, width)), random.normal(size=(ROWS, width))
    rows = items.astype(np.float32), np.arange(600), users.astype(np.float32), np.arange(ROWS) * 3
    return nights.save(directory / "day=1", *rows, files=files)


def configured(directory: Path, engine: dict[str, Any]) -> list[str]:
    """Return the command that publishes with this engine."""
    plain = {"index": {"factory": "Flat"}, "engine": {"kind": "spark", **engine}}
    (directory / "config.yaml").write_bytes(msgspec.yaml.encode(plain))
    return [sys.executable, "-m", "embsync", "sync", "--config", str(directory / "config.yaml")]


def environment(directory: Path, fault: str = "") -> dict[str, str]:
    """Return an environment whose executors fail once with this fault."""
    (directory / "python").mkdir()
    fault_variables = {"FAULT": fault, "FAULT_MARKER": str(directory / "fault")}
    return {**os.environ, **fault_variables, "PYSPARK_PYTHON": str(bare_python(directory / "python"))}


def sync(directory: Path, path: Path, engine: dict[str, Any], fault: str = "", seconds: float = 600) -> None:
    """Publish a snapshot in another process, and require that it succeeds."""
    command = [*configured(directory, engine), "--store", str(directory / "spark"), str(path)]
    done = subprocess.run(
        command, env=environment(directory, fault), timeout=seconds, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def require_one_exact_version(directory: Path, path: Path) -> Manifest:
    """Assert that the version is the local engine's, and its files are those of the manifest, without others."""
    local = nights.publish(directory / "local", path, Config(index=IndexConfig(factory="Flat")))
    spark = Store(directory / "spark").manifest(1)
    assert nights.differences(local, spark) == []
    nights.require_same_users(directory / "local", directory / "spark", 1)
    root = directory / "spark/versions/000001"
    there = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    assert there - {"manifest.json", "manifest.sha256"} == {entry.path for entry in spark.files}
    assert all(hash_file(root / entry.path) == (entry.bytes, entry.sha256) for entry in spark.files)
    assert [one.name for one in root.parent.iterdir() if one.name.startswith(".")] == []
    return spark


@pytest.mark.parametrize("fault", ["raise", "exit", "kill"])
def test_a_task_that_fails_after_it_has_written_counts_once(tmp_path: Path, fault: str) -> None:
    """The version contains the part file of the second attempt, but not that of the failed one."""
    path = snapshot(tmp_path)
    sync(tmp_path, path, {"master": "local[2,4]", "conf": CONF, "partitions": 5}, fault)
    assert (tmp_path / "fault").exists()
    require_one_exact_version(tmp_path, path)


def test_executors_that_do_not_see_the_store_are_named(tmp_path: Path) -> None:
    """The message is one line that names what to share, with exit code 2; no version or staging directory is left."""
    path = snapshot(tmp_path)
    command = [
        *configured(tmp_path, {"master": "local[2]", "conf": CONF}),
        "--store",
        str(tmp_path / "spark"),
        str(path),
    ]
    done = subprocess.run(
        command, env=environment(tmp_path, "unseen"), timeout=600, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr[-3000:]
    last = done.stderr.strip().splitlines()[-1]
    assert "a path that Spark does not see" in last
    assert "same path on the driver and on every executor" in last
    assert list((tmp_path / "spark/versions").iterdir()) == []


def test_a_job_that_stalls_is_cancelled(tmp_path: Path) -> None:
    """If a task hangs, the run ends after engine.stall_seconds with one line and exit code 7, without a version."""
    path = snapshot(tmp_path)
    engine = {"master": "local[2]", "conf": CONF, "partitions": 2, "stall_seconds": 30}
    command = [*configured(tmp_path, engine), "--store", str(tmp_path / "spark"), str(path)]
    done = subprocess.run(
        command, env=environment(tmp_path, "hang"), timeout=600, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr[-3000:]
    assert (tmp_path / "fault").exists()
    last = done.stderr.strip().splitlines()[-1]
    assert "a Spark job was cancelled" in last
    assert "engine.stall_seconds" in last
    assert list((tmp_path / "spark/versions").iterdir()) == []


def test_two_attempts_of_a_task_count_once(tmp_path: Path) -> None:
    """With speculation, both the hanging attempt and the one that overtakes it write; one of them counts."""
    path = snapshot(tmp_path)
    conf = CONF | {
        "spark.speculation": True,
        "spark.speculation.interval": "200ms",
        "spark.speculation.minTaskRuntime": "1s",
        "spark.speculation.multiplier": 1.5,
        "spark.speculation.quantile": 0.5,
        "spark.executor.memory": "512m",
    }
    sync(tmp_path, path, {"master": "local-cluster[2,2,1024]", "conf": conf, "partitions": 6}, "sleep")
    assert (tmp_path / "fault").exists()
    require_one_exact_version(tmp_path, path)


def test_hundreds_of_partitions_meet_no_limit_of_the_driver(tmp_path: Path) -> None:
    """400 partitions with sums of half a mebibyte each, 200 MiB, succeed with spark.driver.maxResultSize at 64 MiB."""
    path = snapshot(tmp_path, width=256, files=400)
    conf = CONF | {"spark.driver.maxResultSize": "64m"}
    sync(tmp_path, path, {"master": "local[2]", "conf": conf, "partitions": 400}, seconds=1500)
    spark = require_one_exact_version(tmp_path, path)
    assert len(spark.parts.users) > 300


def test_a_driver_that_dies_leaves_no_version_and_is_swept(tmp_path: Path) -> None:
    """A driver killed while executors write leaves no version; the next run removes its files and publishes one."""
    path = snapshot(tmp_path)
    engine = {"master": "local[2,4]", "conf": CONF, "partitions": 5}
    command = [*configured(tmp_path, engine), "--store", str(tmp_path / "spark"), str(path)]
    process = subprocess.Popen(command, env=environment(tmp_path, "hang"), start_new_session=True)
    while not (tmp_path / "fault").exists():
        assert process.poll() is None
        time.sleep(0.05)
    versions = tmp_path / "spark/versions"
    assert [part.name for one in versions.iterdir() for part in one.iterdir() if part.suffix == ".parquet"] != []
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert Store(tmp_path / "spark").numbers() == []
    while list(_processes_of(process.pid)):
        time.sleep(0.1)  # Java and its workers exit at the end of its input
    rest = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert rest.returncode == 0, rest.stderr[-3000:]
    require_one_exact_version(tmp_path, path)


def _processes_of(session: int) -> list[int]:
    """Return the processes of a session of the operating system."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_spark_connect_publishes_the_same(tmp_path: Path) -> None:
    """Over gRPC, without a SparkContext in this process, the same version is published."""
    pytest.importorskip("grpc_status", reason="needs pyspark[connect]")
    pyspark = pytest.importorskip("pyspark")
    path, environ = snapshot(tmp_path), environment(tmp_path)
    port = free_port()
    server = [str(Path(pyspark.__file__).parent / "bin/spark-submit"), "--master", "local[2]"]
    server += ["--conf", f"spark.connect.grpc.binding.port={port}"]
    server += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
    process = subprocess.Popen(server, env=environ, start_new_session=True)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.2)
        command = configured(tmp_path, {"master": f"sc://127.0.0.1:{port}", "partitions": 3})
        command += ["--store", str(tmp_path / "spark"), str(path)]
        done = subprocess.run(command, env=environ, timeout=600, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    require_one_exact_version(tmp_path, path)


def test_a_stop_of_the_daemon_ends_spark(tmp_path: Path) -> None:
    """While a task hangs, the daemon exits in time; Java and its workers end, and no version or part file is left."""
    path = snapshot(tmp_path)
    configured(tmp_path, {"master": "local[2,4]", "conf": CONF, "partitions": 5})
    plain = msgspec.yaml.decode((tmp_path / "config.yaml").read_bytes())
    (tmp_path / "watched").mkdir()
    (path / "_SUCCESS").touch()
    path.rename(tmp_path / "watched/day=1")
    plain |= {
        "watch": {"path": str(tmp_path / "watched"), "complete": "marker"},
        "store": {"path": str(tmp_path / "spark")},
    }
    (tmp_path / "config.yaml").write_bytes(msgspec.yaml.encode(plain))
    command = [sys.executable, "-m", "embsync", "run", "--config", str(tmp_path / "config.yaml")]
    process = subprocess.Popen(command, env=environment(tmp_path, "hang"), start_new_session=True)
    while not (tmp_path / "fault").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    for _ in range(600):
        if not _processes_of(process.pid):
            break
        time.sleep(0.1)
    assert _processes_of(process.pid) == []
    assert Store(tmp_path / "spark").numbers() == []


@needs_goodbooks
def test_five_nights_of_goodbooks_are_the_same_by_both_engines(tmp_path: Path) -> None:
    """All figures agree to 1e-6, users within a float32 rounding, and anchors, samples and fingerprints are equal."""
    local, spark = (tmp_path / name for name in ("local", "spark"))
    engine = EngineConfig(kind="spark", master="local[2]", conf=CONF, partitions=3)
    try:
        for number in DAYS:
            found = read_day(number)
            rows = found.items, found.item_ids, found.users, found.user_ids
            path = nights.save(tmp_path / f"day={number}", *rows)
            one, other = nights.publish(local, path, Config()), nights.publish(spark, path, Config(engine=engine))
            assert nights.differences(one, other) == []
            nights.require_same_users(local, spark, number)
            nights.require_same_arrays(local, spark, number)
    finally:
        session.stop(engine)
