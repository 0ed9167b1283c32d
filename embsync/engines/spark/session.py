"""Spark's session for one run: checked, started, and stopped with its jobs and processes."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

from embsync.config import EngineConfig
from embsync.engines.spark.errors import spark_errors
from embsync.errors import EngineError, UsageError
from embsync.processes import ChildProcess

#: Oldest Java that Spark 4 runs on.
_JAVA = 17
#: Seconds in which it must state its version.
_JAVA_SECONDS = 60.0
#: Port of Spark Connect unless the master has another, and seconds in which a connection must be made.
_CONNECT_PORT, _CONNECT_SECONDS = 15002, 20.0
#: (package, oldest version, first unsupported version)
_PACKAGES = (("pyspark", (4, 0), None), ("pandas", (2, 2), (3, 0)), ("pyarrow", (17, 0), None))
_INSTALL = "pip install 'embsync[spark]'"
#: Settings of a session that runs on this machine; those of ``engine.conf`` override them.
_HERE = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
}


#: The sessions that this process started, by their settings; its later runs use them again.
_STARTED: dict[str, Any] = {}


@dataclass(frozen=True)
class Jobs:
    """The jobs that a thread starts in a session between ``mark`` and ``unmark``; the session may have others.

    Attributes
    ----------
    session : SparkSession
    tag : str
        Their tag in Spark.
    """

    session: Any
    tag: str = field(default_factory=lambda: f"embsync-{uuid.uuid4().hex}")

    @property
    def connect(self) -> bool:
        """Whether the session is one of Spark Connect."""
        return not hasattr(self.session, "_jsparkSession")

    def mark(self) -> None:
        """Have Spark tag the jobs that this thread starts."""
        # through the context, because a classic session only finds tags of the calling thread
        mark = self.session.addTag if self.connect else self.session.sparkContext.addJobTag
        mark(self.tag)

    def numbers(self) -> list[int]:
        """Return the numbers of the jobs that a classic session still lists."""
        return list(self.session.sparkContext._jsc.sc().statusTracker().getJobIdsForTag(self.tag))

    def unmark(self) -> None:
        """Stop tagging jobs."""
        with contextlib.suppress(Exception):  # the cluster may be gone
            unmark = self.session.removeTag if self.connect else self.session.sparkContext.removeJobTag
            unmark(self.tag)

    def cancel(self) -> None:
        """Cancel the jobs, from any thread; never raises, since the cluster may be gone."""
        with contextlib.suppress(Exception):
            cancel = self.session.interruptTag if self.connect else self.session.sparkContext.cancelJobsWithTag
            cancel(self.tag)


@contextlib.contextmanager
def running_session(engine: EngineConfig) -> Iterator[Jobs]:
    """Yield the jobs of a session with these settings, started if needed; an error in the block cancels them.

    Raises
    ------
    UsageError
        A package or Java is missing or does not fit, or the master is unknown.
    EngineError
        The cluster cannot be reached.
    """
    jobs = Jobs(start(engine))
    try:
        with spark_errors(f"engine.master {engine.master}"):
            jobs.mark()
        yield jobs
    except BaseException:
        jobs.cancel()
        if not _is_alive(jobs):
            stop(engine)
        raise
    finally:
        jobs.unmark()


def start(engine: EngineConfig) -> Any:
    """Return the session with these settings, started if needed."""
    key = _key(engine)
    if key in _STARTED:
        return _STARTED[key]
    require_packages()
    if _is_remote(engine):
        require_server(engine.master)
    else:
        require_java()
        require_home()
    if engine.master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    with spark_errors(f"engine.master {engine.master}"):
        _STARTED[key] = _start(engine)
    atexit.register(stop, engine)
    return _STARTED[key]


def _key(engine: EngineConfig) -> str:
    return repr((engine.master, engine.conf))


def _is_remote(engine: EngineConfig) -> bool:
    return engine.master.startswith("sc://")


def _is_alive(jobs: Jobs) -> bool:
    """Return whether the session responds. No job is started, since it would wait behind other jobs."""
    with contextlib.suppress(Exception):
        if jobs.connect:
            return bool(jobs.session.version)
        return not jobs.session.sparkContext._jsc.sc().isStopped()
    return False


def _start(engine: EngineConfig) -> Any:
    from pyspark.sql import SparkSession  # noqa: PLC0415  (the extra `spark`)

    remote, here = _is_remote(engine), engine.master.startswith("local")
    builder: Any = SparkSession.builder
    builder = builder.remote(engine.master) if remote else builder.master(engine.master).appName("embsync")
    for name, value in {**(_HERE if here else {}), **engine.conf}.items():
        builder = builder.config(name, _text(value))
    return builder.getOrCreate()


def _text(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def stop(engine: EngineConfig) -> None:
    """End the session with these settings, its jobs and its processes; never raises, since the cluster may be gone."""
    session = _STARTED.pop(_key(engine), None)
    if session is not None:
        with contextlib.suppress(Exception):
            session.stop()
        if not _is_remote(engine):
            _end_java()


def _end_java() -> None:
    """End the Java process that pyspark started and would otherwise leave running until this process ends."""
    from pyspark import SparkContext  # noqa: PLC0415  (the extra `spark`)

    gateway = SparkContext._gateway
    SparkContext._gateway = SparkContext._jvm = None
    if gateway is None:
        return
    with contextlib.suppress(Exception):
        gateway.shutdown()
    process = getattr(gateway, "proc", None)
    if process is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()  # it exits at the end of its input
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        if process.poll() is None:
            process.kill()
            process.wait()


def require_packages() -> None:
    """Refuse missing packages and versions that do not fit."""
    for name, oldest, beyond in _PACKAGES:
        wanted = f"{name}>={'.'.join(map(str, oldest))}" + (f",<{beyond[0]}" if beyond else "")
        if importlib.util.find_spec(name) is None:
            raise UsageError(
                f"the Spark engine needs {name}", found="not installed", expected=wanted, hint=f"run: {_INSTALL}"
            )
        found = version(name)
        numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
        if numbers < oldest or (beyond is not None and numbers >= beyond):
            raise UsageError(
                f"{name} is not supported by the Spark engine", found=found, expected=wanted, hint=f"run: {_INSTALL}"
            )


def require_java() -> None:
    """Refuse a Java that is missing or too old, before Spark's scripts fail on it."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin/java") if home else shutil.which("java")
    hint = f"install Java {_JAVA} or later, or set JAVA_HOME to it"
    if java is None or not os.access(java, os.X_OK):
        raise UsageError("Spark needs Java", found=f"none at {java}" if java else "no java on PATH", hint=hint)
    answer = _version_of(java)
    number = re.search(r'version "(?:1\.)?(\d+)', answer)
    if number is None or int(number[1]) < _JAVA:
        raise UsageError(
            f"this Java is {'broken' if number is None else 'too old for Spark'}",
            where=java,
            found=answer.partition("\n")[0] or "no version",
            expected=f"{_JAVA} or later",
            hint=hint,
        )


def require_home() -> None:
    """Refuse a SPARK_HOME that pyspark cannot start Spark from."""
    home = os.environ.get("SPARK_HOME")
    if home and not (Path(home) / "bin/spark-submit").exists():
        raise UsageError(
            "SPARK_HOME is not an installation of Spark",
            found=f"no bin/spark-submit in {home}",
            hint="unset it, to use the Spark that pyspark contains",
        )


def require_server(master: str) -> None:
    """Refuse a server of Spark Connect that does not answer: pyspark would retry silently for ten minutes."""
    behind_proxy = {"grpc_proxy", "https_proxy", "http_proxy"} & set(os.environ)
    try:
        place = urlsplit(master)
        host, port = place.hostname, place.port or _CONNECT_PORT
    except ValueError as error:
        raise UsageError(
            "not the address of a server of Spark Connect",
            where=f"engine.master {master}",
            found=str(error),
            expected="sc://HOST:PORT",
        ) from None
    if host is None or (behind_proxy and not proxy_bypass(host)):
        return
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError as error:
        raise EngineError(
            "the server of Spark Connect cannot be reached",
            where=f"engine.master {master}",
            found=str(error),
            hint="start the server, or correct engine.master",
        ) from error


def _version_of(java: str) -> str:
    """Return the output of ``java -version``."""
    try:
        child = ChildProcess(
            [java, "-version"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    except OSError as error:  # an executable for another architecture
        return str(error)
    written = child.communicate(b"", _JAVA_SECONDS)
    return "" if written is None else written[1].decode(errors="replace")
