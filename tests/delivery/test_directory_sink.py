"""The contract, tested with the smallest sink."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from contract import Served, SinkContract
from directory_sink import DirectorySink, DirectorySinkConfig, served

import embsync


class TestDirectorySink(SinkContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.root = tmp_path / "sink"

    def sink(self) -> DirectorySink:
        return DirectorySink(DirectorySinkConfig(name="test", path=str(self.root)))

    def served(self) -> Served | None:
        return served(self.root)

    def break_off(self, version: embsync.Version) -> None:
        self.sink().stage(version)
        (self.root / str(version.number) / "complete.json").unlink()

    def leave_foreign(self) -> Callable[[], object]:
        (self.root / "1000").mkdir(parents=True)
        (self.root / "embsync-directory").touch()
        (self.root / "1000" / "complete.json").write_text("theirs")
        return (self.root / "1000" / "complete.json").read_text

    def occupy(self) -> None:
        self.root.mkdir()
        (self.root / "current").write_text("theirs")
