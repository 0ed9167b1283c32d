"""Output of ``status``, ``history`` and ``show`` on a terminal: verdict first, no broken words, explained checks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.nights import configured, night, write_npy
from support.quick import quick_directory
from support.stores import sync

from embsync.cli.main import run
from embsync.cli.progress import rate
from embsync.errors import RefusedError
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.verify import verify
from embsync.progress import Stage
from embsync.reader import open_version
from embsync.reporting.verdict import meaning
from embsync.store import Store

SIZES = {"items": 160, "users": 120, "width": 6}


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A store with three nights and a refused fourth one."""
    with quick_directory() as directory:
        store = directory / "S"
        for number in range(3):
            sync(store, night(number, **SIZES), f"day={number + 1}")
        made = night(3, **SIZES)
        shuffled = replace(made, item_ids=np.random.default_rng(5).permutation(made.item_ids))
        with pytest.raises(RefusedError):
            publish_snapshot(Store(store), Request(write_npy(directory / "day=4", shuffled)), configured())
        yield store


def on_a_terminal(columns: int, *arguments: str, **variables: str) -> list[str]:
    """Return the lines that a command prints on a terminal with this number of columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-m", "embsync", *arguments],
        stdout=theirs,
        env={**environment, "PYTHONIOENCODING": "utf-8", **variables},
    ) as process:
        os.close(theirs)
        parts = []
        with contextlib.suppress(OSError):  # reading fails with EIO once the process has exited
            while part := os.read(ours, 65536):
                parts.append(part)
        os.close(ours)
    assert process.returncode == 0
    return b"".join(parts).decode().replace("\r\n", "\n").splitlines()


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("command", ["status", "history", "show"])
def test_lines_fit_the_terminal_and_no_word_is_broken(root: Path, command: str, columns: int) -> None:
    """Only a word that is longer than a line, such as a path, exceeds the width."""
    lines = on_a_terminal(columns, command, "--store", str(root))
    assert [line for line in lines if len(line) > columns and str(root.parent) not in line] == []
    assert lines[0].startswith(("✓ ", "! "))


def test_the_verdict_comes_first(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal, the verdict is one line that includes later refusals; drift is a sparkline."""
    assert run(["status", "--store", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    count = len(Store(root).manifest(3).checks)
    assert lines[0].startswith("! Version 3 is healthy, but snapshot day=4 has since been refused: most likely")
    assert "refused by" not in lines[0]
    assert run(["show", "--store", str(root)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == lines[0]
    assert shown[1].startswith(f"  Of version 3, which remains in use: all {count} checks passed and no score changed;")
    drift = next(line for line in lines if line.startswith("drift     cosine of items"))
    assert set(drift) & set("▁▂▃▄▅▆▇█")
    assert any(line.startswith("refused   day=4 at ") and "): most likely" in line for line in lines)


def test_a_hold_is_part_of_the_verdict(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The verdict mentions it until ``resume``, whether or not a daemon runs."""
    store = ["--store", str(root)]
    sentences = []
    for command in ("hold", "resume"):
        assert run([command, *store]) == 0
        capsys.readouterr()
        assert run(["status", *store]) == 0
        sentences.append(capsys.readouterr().out.splitlines()[0])
    assert sentences[0] == f"{sentences[1]} Also: publishing is on hold."


def test_checks_are_explained(root: Path) -> None:
    """Each check is explained beside its value if it fits, else below."""
    checks = Store(root).manifest(3).checks
    for columns in (80, 140):
        text = " ".join(" ".join(on_a_terminal(columns, "show", "--store", str(root))).split())
        for check in checks:
            assert check.name in text
            assert meaning(check.name) in text


def test_times_are_local_with_their_age(root: Path) -> None:
    """Times are in the time zone of the user."""
    created = Store(root).manifest(3).created
    hour = (int(created[11:13]) + 5) % 24
    lines = on_a_terminal(140, "status", "--store", str(root), TZ="XYZ-5")
    current = next(line for line in lines if line.startswith("current "))
    assert f" {hour:02}:{created[14:16]} XYZ (" in current
    assert current.count("ago)") + current.count("(just now)") == 1


def test_a_terminal_without_unicode_gets_ascii(root: Path) -> None:
    """If the encoding is ASCII, all output is ASCII."""
    text = "\n".join(on_a_terminal(80, "status", "--store", str(root), PYTHONIOENCODING="ascii"))
    assert text.isascii()
    assert "\\u" not in text


def test_a_bar_has_a_rate_and_the_time_left() -> None:
    """Each stage has its own rate, in its unit; the bar is drawn on standard error if that is a terminal."""
    script = (
        "import time\nfrom embsync.cli.progress import progress_bar\nfrom embsync.progress import Stage\n"
        "with progress_bar('day=1', wanted=True) as proceed:\n"
        "    for stage in (Stage('reading', 9_000_000, 'rows'), Stage('hashing', 3e8, 'bytes'), 'indexing'):\n"
        "        for share in (0.0, 0.2, 0.4, 0.6):\n"
        "            proceed(stage, share)\n            time.sleep(0.1)\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    with subprocess.Popen([sys.executable, "-c", script], stderr=theirs) as process:
        os.close(theirs)
        drawn = b""
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65536):
                drawn += part
        os.close(ours)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", drawn.decode())
    for stage, share in (("reading", r"\d[.\d]*[kM] rows/s +00:\d\d left"), ("hashing", r"\d+ MB/s +00:\d\d left")):
        assert re.search(rf"{stage} .*\d\d % +{share}", text), stage
    assert re.search(r"indexing [^/]*\d\d % +00:\d\d left", text)


@pytest.mark.parametrize(
    ("per_second", "unit", "shown"),
    [
        (1_236_000, "rows", "1.24M rows/s"),
        (45_600, "rows", "45.6k rows/s"),
        (812, "rows", "812 rows/s"),
        (1.6, "nights", "1.60 nights/s"),
        (812e6, "bytes", "812 MB/s"),
        (2_345e6, "bytes", "2345 MB/s"),
    ],
)
def test_a_rate_has_three_digits(per_second: float, unit: str, shown: str) -> None:
    """The rate includes the unit of the stage."""
    assert rate(per_second, unit) == shown


def test_verify_reports_its_progress(root: Path) -> None:
    """Bytes hashed are reported first, then the snapshot's rows; the share never decreases within a stage."""
    output: list[tuple[str, float]] = []
    with open_version(root) as version:
        found = verify(Store(root), version, configured(), lambda stage, share: output.append((stage, share)))
        files, rows = (
            sum(entry.bytes for entry in version.record.files),
            sum(int(side.live.sum()) for side in version.sides),
        )
    assert found.sound
    assert found.score_error is not None
    assert list(dict.fromkeys(stage for stage, _ in output)) == ["hashing", "recomputing"]
    amounts = {str(stage): (stage.amount, stage.unit) for stage, _ in output if isinstance(stage, Stage)}
    assert amounts == {"hashing": (files, "bytes"), "recomputing": (rows, "rows")}
    hashing = [share for stage, share in output if stage == "hashing"]
    assert hashing == sorted(hashing)
    assert hashing[-1] < 1
