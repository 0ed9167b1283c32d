"""One Spark session for all tests of a run, whose executors find neither embsync nor SciPy."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from embsync.config import EngineConfig

_REFUSING = """
import builtins
import os
import signal
import sys
import time

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("embsync", "scipy"):
            raise ModuleNotFoundError(f"an executor has no {name}")

sys.meta_path.insert(0, Refusing())
fault, marker = os.environ.get("FAULT"), os.environ.get("FAULT_MARKER")
plain_open = builtins.open


def faulty_open(name, mode="r", *arguments, **options):
    if mode == "xb" and fault == "unseen":
        raise FileNotFoundError(2, "No such file or directory", str(name))
    # once, after a part file was written and before its sums are
    if mode == "xb" and str(name).endswith(".sums"):
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            if fault == "raise":
                raise OSError("a fault")
            if fault == "exit":
                os._exit(1)
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "sleep":
                time.sleep(45)
            if fault == "hang":
                time.sleep(3600)
    return plain_open(name, mode, *arguments, **options)


if fault:
    builtins.open = faulty_open
"""


def bare_python(directory: Path) -> Path:
    """Return a Python that finds neither embsync nor SciPy, and causes the fault of the variable FAULT once."""
    (directory / "sitecustomize.py").write_text(_REFUSING)
    script = directory / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{directory}:$PYTHONPATH" exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return script


@pytest.fixture(scope="session")
def spark_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineConfig]:
    """Yield the configuration of the running session.

    Most of its processor time is Java's for loading classes and for plans that are run once: the settings of Spark
    (code generation, adaptive plans, one core) were measured to change less than 5 %.
    """
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed")
    from embsync.config import EngineConfig
    from embsync.engines.spark.session import start, stop

    conf: dict[str, str | int | float | bool] = {
        "spark.driver.memory": "1g",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto",
        "spark.sql.shuffle.partitions": 2,
        "spark.default.parallelism": 2,
        "spark.local.dir": str(tmp_path_factory.mktemp("spark")),
    }
    python = bare_python(tmp_path_factory.mktemp("python"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", str(python))
        config = EngineConfig(kind="spark", master="local[2]", conf=conf, partitions=2)
        start(config).sparkContext.setLogLevel("OFF")
        yield config
        stop(config)


@pytest.fixture(scope="session")
def spark(spark_config: EngineConfig) -> Any:
    """Return the session."""
    from embsync.engines.spark.session import start

    return start(spark_config)
