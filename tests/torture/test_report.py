"""The results of long runs are counted, written and added up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torture.report import main, tally


def test_a_run_reports_a_line_and_fails_on_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Harm fails the run after it was written; the runs of one attack are added up in the table."""
    report = tmp_path / "report.jsonl"
    monkeypatch.setattr("torture.report._REPORT", str(report))
    with tally("power cuts") as good:
        good.points = 1000
    with pytest.raises(AssertionError, match="lost: version 3"):
        _report_harm()
    assert [json.loads(line)["lost"] for line in report.read_text().splitlines()] == [0, 1]
    main(str(report))
    assert "| power cuts | 1,500 | 0 | 1 | 0 | 0 | 0 |" in capsys.readouterr().out


def _report_harm() -> None:
    with tally("power cuts") as bad:
        bad.points = 500
        bad.harm("lost", "version 3")


def test_a_run_with_too_few_points_fails() -> None:
    """A run fails if fewer points were tried than intended."""
    with pytest.raises(AssertionError, match="3 points tried, not the 20 that were meant"), tally("kills", 20) as made:
        made.points = 3


def test_a_run_of_pytest_writes_its_report_to_the_given_file(tmp_path: Path) -> None:
    """The variable is read before the tests remove the variables of the caller."""
    report = tmp_path / "report.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-pno:cacheprovider", __file__, "-k", "with_too_few_points"]
    subprocess.run(command, env={**os.environ, "EMBSYNC_TORTURE_REPORT": str(report)}, check=True, capture_output=True)
    assert json.loads(report.read_text())["points"] == 3
