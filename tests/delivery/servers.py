"""S3 endpoints on loopback: one with conditional writes (moto), and one without (rclone)."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.waiting import eventually

KEY, SECRET = "tester", "a-secret-that-nobody-may-see"
BUCKET = "bucket"
#: moto compares a condition and then writes, so no thread switch may happen between the two.
_MOTO = "import sys; sys.setswitchinterval(60); from moto.server import main; main()"


@dataclass(frozen=True)
class S3Server:
    """A running endpoint with one bucket, and its log file."""

    url: str
    log: Path


def program(name: str) -> str:
    """Return the path of a program that a Python package installs, or of one on the ``PATH``."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[S3Server]:
    """Run moto's server."""
    with _running([sys.executable, "-c", _MOTO, "-H", "127.0.0.1", "-p", "0"], folder / "moto.log") as server:
        eventually(lambda: _answers(f"{server.url}/{BUCKET}", "PUT"))
        yield server


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[S3Server]:
    """Run rclone's server over a directory."""
    (folder / "served" / BUCKET).mkdir(parents=True)
    arguments = ["serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", f"{KEY},{SECRET}", str(folder / "served")]
    with _running([program("rclone"), "--config", "", *arguments], folder / "rclone.log") as server:
        yield server


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[S3Server]:
    """Run a server on a port that it chooses and logs once it listens."""
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:

        def listening() -> re.Match[str] | None:
            assert process.poll() is None, log.read_text()
            return re.search(r"(http://127\.0\.0\.1:\d+)[/\n]", log.read_text())

        try:
            yield S3Server(eventually(listening)[1], log)
        finally:
            process.kill()


def _answers(url: str, method: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
        return bool(answer.status == 200)
    return False
