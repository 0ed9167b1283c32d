"""The page in a real browser, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.http import Server, serving
from support.nights import night
from support.quick import quick_directory
from support.stores import sync

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


@pytest.fixture
def server() -> Iterator[Server]:
    """Two nights, string ids that try to be HTML."""
    with quick_directory() as directory:
        for number in range(2):
            made = night(number, items=60, users=50, width=6).named()
            made.item_ids[made.item_ids == made.item_ids[3]] = "<i>x</i>"
            sync(directory / "S", made, f"n{number}")
        with serving(directory / "S") as running:
            yield running


def seen(server: Server, fragment: str, place: Path) -> str:
    """Return the page as the browser has it once its scripts have run."""
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={place}",
         "--virtual-time-budget=8000", "--dump-dom", f"{server.where}/{fragment}"],
        capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_a_browser_shows_version_neighbours_and_movement(server: Server, tmp_path: Path) -> None:
    """By a link to one id: its neighbours, how it moved, the checks; an id is text, whatever it looks like."""
    dom = seen(server, "#items/%3Ci%3Ex%3C%2Fi%3E", tmp_path)
    assert "version 2" in dom
    assert "Neighbours of item &lt;i&gt;x&lt;/i&gt;, version 2" in dom
    assert dom.count("<meter") == 2
    assert "<i>x" not in dom
    assert '<td class="pass">pass</td>' in dom
    assert "book-" in dom


def test_an_unknown_id_is_said_on_the_page(server: Server, tmp_path: Path) -> None:
    """Instead of neighbours."""
    assert "unknown users ids; found nobody" in seen(server, "#users/nobody", tmp_path)
