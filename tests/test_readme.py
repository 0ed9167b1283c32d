"""The README: whatever it shows is run as it stands, and whatever it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from support.documents import Document

import embsync
from embsync.cli import main as command_line
from embsync.config_loader import load
from embsync.demo.directory import DemoDirectory
from embsync.errors import EmbsyncError
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store

README = Document("README.md")
TEXT = README.text

ITEMS, USERS, WIDTH = 300, 200, 8


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A working directory with three snapshots, the first two of them published; user 42 is missing from day 2."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(11)
    items, users = random.standard_normal((ITEMS, WIDTH)), random.standard_normal((USERS, WIDTH))
    place, store = DemoDirectory(tmp_path), Store(tmp_path / "embsync-store")
    for day in (1, 2, 3):
        turn = np.linalg.qr(random.standard_normal((WIDTH, WIDTH)))[0]
        noise = 0.05 * random.standard_normal((ITEMS, WIDTH))
        present = np.setdiff1d(np.arange(USERS), [42] if day == 2 else [])
        path = place.write_snapshot(
            day,
            np.arange(ITEMS),
            ((items + noise) @ turn).astype(np.float32),
            present,
            (users[present] @ turn).astype(np.float32),
        )
        if day < 3:
            publish_snapshot(store, Request(path), load(environment={}))
    return store


def test_every_python_block_runs_as_it_stands(store: Store) -> None:
    """In order, each in a fresh namespace, and with the results that the text promises."""
    first, reading, _ = README.run_python()
    assert first["ids"].shape == first["scores"].shape == (1, 10)
    assert reading["version"].number == store.current() == 2
    assert reading["ids"].shape == (2, 10)
    assert reading["raw"].shape == reading["stable"].shape == (USERS - 1, WIDTH)
    np.testing.assert_allclose(reading["raw_again"], reading["raw"], atol=1e-5)
    np.testing.assert_allclose(
        reading["stable"], reading["version"].users.vectors[reading["version"].users.live], atol=1e-5
    )
    with embsync.open(store.root) as opened:
        assert opened.current.side("users").age([17, 42]).tolist() == [0, 1]


def test_every_command_of_the_quick_start_runs_as_it_stands(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    """The block's lines one after another, all with exit code 0; the same snapshots again are new versions."""
    lines = [line for source in README.blocks("sh") for line in source.splitlines() if line.startswith("embsync ")]
    assert len(lines) > 5
    for line in lines:
        assert command_line.run(line.split()[1:]) == 0, (line, capfd.readouterr())
    assert store.current() == 4
    assert "rolled back from version 5 to version 4" in capfd.readouterr().out


def test_the_two_commands_for_a_fresh_machine_are_there() -> None:
    """Whole lines, to be copied."""
    lines = [line for source in README.blocks("sh") for line in source.splitlines()]
    assert "pip install . && embsync demo" in lines
    assert "pip install '.[test]' && pytest" in lines


def test_exactly_the_commands_there_are_appear_in_the_table() -> None:
    """No command is promised that is not there, and none is kept quiet about."""
    table = TEXT[TEXT.index("| command | purpose |") : TEXT.index("All commands take `--json`")]
    named = {
        name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`([a-z-]+)", cell)
    }
    assert named == set(command_line.COMMANDS)


def test_exactly_the_exit_codes_there_are_appear_in_the_table() -> None:
    """Done, unexpected, and one for each kind of error."""
    codes = {int(code) for code in re.findall(r"^\| (\d) \|", TEXT, re.MULTILINE)}

    def kinds(root: type[EmbsyncError]) -> set[int]:
        return {root.exit_code}.union(*(kinds(kind) for kind in root.__subclasses__()))

    assert codes == {0} | kinds(EmbsyncError)


def test_every_link_leads_somewhere() -> None:
    """Links into the repository name files that exist."""
    assert README.dead_links() == []
