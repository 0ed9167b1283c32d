"""The documentation as a site: built without warnings, complete, and without external resources."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.accessibility import findings, require_axe
from support.browser import browsing
from support.documents import ROOT
from support.quick import quick_directory

from embsync.cli.main import COMMANDS

pytestmark = [pytest.mark.long, pytest.mark.services("mkdocs", "material", "mkdocstrings")]


class _Resources(HTMLParser):
    """The resources that a browser loads with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") not in {"canonical", "prev", "next"}:
            self.addresses.append(given.get("href") or "")
        elif tag not in {"a", "link"}:
            self.addresses += [given.get(name) or "" for name in ("src", "srcset", "data", "poster") if name in given]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors: broken links and anchors, pages outside the navigation."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site: Path) -> None:
    """No page or style loads fonts, scripts, styles or pictures from other hosts."""
    pages = sorted(site.rglob("*.html"))
    expected = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in ROOT.glob("docs/**/*.md")}
    assert expected <= {page.relative_to(site) for page in pages}
    for page in pages:
        parser = _Resources()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.addresses
        assert [address for address in parser.addresses if re.match(r"[a-z]+:(?!image/)|//", address)] == [], page
    for style in site.rglob("*.css"):
        addresses = re.findall(
            r"(?:url\(|@import )['\"]?([a-z]+:[^)'\"]*|//[^)'\"]*)", style.read_text(encoding="utf-8")
        )
        assert [address for address in addresses if not address.startswith("data:")] == [], style


def test_every_marked_place_is_filled(site: Path) -> None:
    """Commands, keys, metrics, operations and names appear on the pages that are generated from the code."""
    for page in site.rglob("*.html"):
        assert "<!-- generated" not in page.read_text(encoding="utf-8")
    for name, wanted in {
        "command-line": [f'id="{command}"' for command in COMMANDS],
        "configuration": ["space.anchors.slow_weight", "serve.limits.idle_seconds", "halfvec", "threads"],
        "http": ["/v1/fold_in", "string_ids", "last_seen_at"],
        "manifest": ["cosine_since_start", "fingerprint"],
        "metrics": ["embsync_watch_events", "embsync_delivery_recall", "embsync_http_memory_bytes"],
        "python": ["search_by_user", "SnapshotIncomplete", "write_snapshot"],
    }.items():
        text = (site / "reference" / f"{name}.html").read_text(encoding="utf-8")
        assert [part for part in wanted if part not in text] == []


def test_axe_finds_nothing_where_the_theme_falls_short(site: Path) -> None:
    """Search, contrast, links, code buttons and scrolling code have no finding, light and wide or dark and narrow."""
    require_axe()
    with quick_directory() as directory, browsing(directory / "profile") as page:
        page.open((site / "training.html").as_uri(), 1200)
        assert page.value("document.querySelector('.md-search[role=dialog]').ariaLabel") == "Search"
        assert findings(page, "color-contrast", "landmark-unique", "link-in-text-block") == []
        page.open((site / "how-to" / "milvus.html").as_uri(), 390)  # code that scrolls, and a link that is code
        page.value("document.head.insertAdjacentHTML('beforeend', '<style>* { transition: none !important }</style>')")
        page.value("document.body.dataset.mdColorScheme = 'slate'")
        assert findings(page, "color-contrast", "scrollable-region-focusable") == []
        assert page.value("document.documentElement.scrollWidth") <= 390
