"""Documents whose code blocks are run unchanged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.launcher import launching

ROOT = Path(__file__).resolve().parents[2]


#: A fenced block, and the reason on the line above it if it is not run.
_BLOCK = re.compile(r"^(?:<!-- not run: ([^\n]*) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document; ``not_run`` has the reason if no test runs it."""

    language: str
    source: str
    line: int
    not_run: str | None


@dataclass(frozen=True)
class Document:
    """A document of the repository, by its path in it."""

    name: str

    @property
    def path(self) -> Path:
        """The document's path."""
        return ROOT / self.name

    @property
    def text(self) -> str:
        """The document's text."""
        return self.path.read_text(encoding="utf-8")

    def fences(self) -> list[Block]:
        """Return every fenced block, in order."""
        text = self.text
        return [
            Block(found[2], found[3], text.count("\n", 0, found.start()) + 1, found[1])
            for found in _BLOCK.finditer(text)
        ]

    def blocks(self, language: str) -> list[str]:
        """Return the blocks of a language that are to be run, in order."""
        return [block.source for block in self.fences() if block.language == language and block.not_run is None]

    def run_python(self) -> list[dict[str, Any]]:
        """Run every Python block in a fresh namespace; return the namespaces."""
        spaces: list[dict[str, Any]] = []
        for number, source in enumerate(self.blocks("python")):
            spaces.append({})
            exec(compile(source, f"{self.name}, python block {number + 1}", "exec"), spaces[-1])
        return spaces

    def dead_links(self) -> list[str]:
        """Return the links into the repository whose target does not exist."""
        links = re.findall(r"\]\(([^)#]+)\)", self.text)
        return [link for link in links if "://" not in link and not (self.path.parent / link).exists()]


def shell(script: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Run shell lines as a user with embsync installed; the first one that fails ends the run."""
    with launching({"embsync": "-m embsync", "python": ""}) as programs:
        environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        }
        return subprocess.run(
            ["sh", "-e", "-c", script],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
