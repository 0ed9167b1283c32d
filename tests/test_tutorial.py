"""The tutorial, run from its first line to its last in an empty directory."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.documents import Document, shell
from support.ports import free_port

import embsync
from embsync.demo.story import run as demo
from embsync.demo.taste import World

pytestmark = [pytest.mark.long, pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")]

PAGE = Document("docs/tutorial.md")


def test_every_step_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps run in order, with a smaller demo and a server on a free port."""
    monkeypatch.chdir(tmp_path)
    listen = f"localhost:{free_port()}"
    monkeypatch.setenv("EMBSYNC_SERVE__LISTEN", listen)
    printed = []
    for block in PAGE.fences():
        if block.not_run is not None:
            continue
        if block.source == "embsync demo\n":
            demo(tmp_path / "embsync-demo", 3, world=World(items=300, users=200))
        elif block.language == "python":
            exec(compile(block.source, f"tutorial, line {block.line}", "exec"), {})
        else:
            assert block.language == "sh"
            done = shell(block.source.replace("localhost:8980", listen), tmp_path)
            expected = "exit code 4" in done.stdout or " &\n" in block.source
            assert done.returncode == 0, (block, done)
            assert done.stderr == "" or expected, (block, done)
            printed.append(done.stdout)
    text = "\n".join(printed)
    assert "exit code 4" in text
    assert "Version 2 is healthy" in text
    assert re.search(r"rolled back from version 3 to version 2", text)
    lines = text.replace("}{", "}\n{").splitlines()
    found = [json.loads(line) for line in lines if line.startswith('{"')]
    with embsync.open("store") as store:
        assert store.current.number == 2
        assert [reply["ids"] for reply in found if "ids" in reply] == [
            store.current.search_by_user([1002], k=5)[0].tolist()
        ]
        with store.version(1) as first:
            before, now = (one.items.lookup(np.arange(300)) for one in (first, store.current))
    assert np.mean(np.sum(before * now, 1) / np.linalg.norm(before, axis=1) / np.linalg.norm(now, axis=1)) > 0.9
