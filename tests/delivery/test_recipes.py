"""Copies of a store by other programs, with the commands of docs/delivery.md."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from servers import BUCKET, S3Server, program
from support.nights import configured, night
from support.stores import assert_intact, sync

import embsync
from embsync.store import Store

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "delivery.md"
_SECTION = DOCUMENT.read_text().partition("## Copies by other programs")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"`((?:rsync|rclone|ln) [^`]+)`", _SECTION)


def commands(name: str, **places: object) -> list[list[str]]:
    """Return the documented commands of a program, with these paths."""
    found = []
    for text in (text for text in COMMANDS if text.startswith(f"{name} ")):
        for place, path in places.items():
            text = re.sub(rf"\b{place}\b", lambda _, path=path: str(path), text)  # noqa: PLW2901
        found.append([program(name), *text.split()[1:]])
    return found


def run(command: list[str], **where: Path) -> None:
    subprocess.run(command, check=True, capture_output=True, **where)


def publish(root: Path, number: int) -> None:
    sync(root, night(number), f"day={number}", configured(store__keep_versions=2))


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync not installed")
def test_rsync_in_three_steps(tmp_path: Path) -> None:
    """After each step, the copy has a complete current version; in another order, it has not."""
    root, copy, other = tmp_path / "store", tmp_path / "copy", tmp_path / "other"
    copy.mkdir()
    other.mkdir()
    steps = commands("rsync", STORE=root, **{"HOST:DIR": copy})
    assert len(steps) == 3
    for number in range(4):
        publish(root, number)
        for place, step in enumerate(steps):
            run(step)
            if number or place:
                assert assert_intact(copy) == (number + (place > 0))
    assert Store(copy).numbers() == Store(root).numbers() == [3, 4]
    with embsync.open(root) as one, embsync.open(copy) as another:
        assert one.current.manifest_bytes == another.current.manifest_bytes
    run([*steps[1][:-1], f"{other}/"])
    assert not (other / "current").exists()
    assert (other / "current").is_symlink()


@pytest.mark.services("obstore")
def test_rclone_copies_backups(tmp_path: Path, rclone_server: S3Server) -> None:
    """Without ``--links``, the copy lacks ``current``, which a command restores; with it, the link becomes a file."""
    root, restored = tmp_path / "store", tmp_path / "restored"
    for number in range(2):
        publish(root, number)
    remote = f":s3,provider=Other,env_auth=true,endpoint='{rclone_server.url}':{BUCKET}/backup"
    (copy,) = commands("rclone", STORE=root, REMOTE=remote)
    run(copy)
    run([program("rclone"), "copy", remote, str(restored)])
    assert not (restored / "current").is_symlink()
    (link,) = commands("ln", NNNNNN="000002")
    run(link, cwd=restored)
    assert assert_intact(restored) == 2
    run([*copy, "--links"])
    served = rclone_server.log.parent / "served" / BUCKET / "backup"
    assert (served / "current.rclonelink").read_text() == "versions/000002"
