"""S3 endpoints on loopback: one with conditional writes (moto), and one without (rclone); each is started once."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.waiting import eventually

KEY, SECRET = "tester", "a-secret-that-nobody-may-see"
BUCKET = "bucket"


@dataclass(frozen=True)
class S3Server:
    """An endpoint that runs, with one bucket, and where its log is."""

    url: str
    log: Path


def program(name: str) -> str:
    """Return the path of a program that a Python package installs, or of one on the machine."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[S3Server]:
    """Run moto's server."""
    port = free_port()
    with _running([program("moto_server"), "-H", "127.0.0.1", "-p", str(port)], folder / "moto.log") as log:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: _answers(f"{url}/{BUCKET}", "PUT"))
        yield S3Server(url, log)


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[S3Server]:
    """Run rclone's server over a directory."""
    port = free_port()
    (folder / "served" / BUCKET).mkdir(parents=True)
    arguments = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", str(folder / "served")]
    with _running([program("rclone"), "--config", "", *arguments], folder / "rclone.log") as log:
        eventually(lambda: _listens(port))
        yield S3Server(f"http://127.0.0.1:{port}", log)


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[Path]:
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            yield log
        finally:
            process.kill()


def _answers(url: str, method: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
        return bool(answer.status == 200)
    return False


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
