"""The table of inputs in docs/snapshots.md: each is made by its generator and passed to the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.documents import Document

import embsync
from embsync.cli.main import run

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in Document("docs/snapshots.md").text.split("## Inputs from other tools")[1].split("\n## ")[0].splitlines()
    if re.match(r"\| \d\d \|", line)
]
pytestmark = pytest.mark.skipif(not (CASES / "README.md").is_file(), reason=f"no generators of inputs at {CASES}")


def generator(case: str) -> Path:
    """Return the program that makes an input."""
    (found,) = CASES.glob(f"{case}-*.py")
    return found


def shown(version: embsync.Version) -> str:
    """Return what was published in the words of the table."""
    users = "" if version.users is None else f", {len(version.users.ids)} users"
    return f"`{version.manifest['snapshot']['layout']}`: {len(version.items.ids)} items{users}"


@pytest.mark.services("pyarrow")
@pytest.mark.parametrize("case", sorted({case for case, *_ in ROWS}))
def test_each_input_has_the_outcome_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    """Each input is published in its layout with all rows, or refused in one line with exit code 3 and no version."""
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, str(generator(case))], check=True, capture_output=True)
    for number, (_, _, path, outcome, code) in enumerate(row for row in ROWS if row[0] == case):
        store = tmp_path / f"store-{number}"
        capfd.readouterr()
        assert run(["sync", path.strip("`"), "--store", str(store)]) == int(code), path
        if code == "0":
            with embsync.open(store).current as version:
                assert shown(version) == outcome
            continue
        (line,) = capfd.readouterr().err.splitlines()
        assert outcome.strip("`") in line
        assert not list(store.glob("versions/*"))


def test_every_case_of_other_formats_has_a_row() -> None:
    """Every case of another format in the table of the cases has a row in the documentation."""
    table = re.findall(r"^\| (\d\d) \|.*\| ([A-Z][^|]*) \|$", (CASES / "README.md").read_text(), re.MULTILINE)
    assert {case for case, kind in table if re.match(r"G\b", kind)} <= {case for case, *_ in ROWS}
