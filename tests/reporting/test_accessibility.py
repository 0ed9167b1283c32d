"""The pages checked by axe-core in a real browser: light and dark, wide and as narrow as a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.accessibility import findings, require_axe
from support.browser import Page, browsing
from support.nights import night
from support.quick import quick_directory
from support.stores import sync

from embsync.reporting.collect import of_store
from embsync.reporting.page import document

SIZES = {"items": 160, "users": 120, "width": 6}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """One browser for all tests; each test opens its own tab."""
    require_axe()
    with quick_directory() as directory, browsing(directory / "profile") as running:
        yield running


@pytest.mark.parametrize("nights", [1, 3])
def test_axe_finds_nothing_in_a_report(page: Page, tmp_path: Path, nights: int) -> None:
    """With every table open, nothing is wider than the window, no other resource is loaded, and no error is logged."""
    root = tmp_path / "S"
    for number in range(nights):
        made = night(number, **SIZES)
        sync(root, made if nights > 1 else made.one_sided(), f"n{number}")
    place = tmp_path / "page.html"
    place.write_text(document(of_store(root)), encoding="utf-8")
    page.open(place.as_uri())
    page.value("document.querySelectorAll('details').forEach(it => { it.open = true })")
    for width, scheme, rules in ((1200, "light", []), (360, "dark", ["color-contrast", "target-size"])):
        page.look(width, scheme=scheme)
        assert findings(page, *rules) == [], (width, scheme)
        assert page.value("document.documentElement.scrollWidth") <= width
    assert page.asked == [place.as_uri()]
    assert page.complaints == []


def test_the_keyboard_reaches_the_report_first(page: Page, tmp_path: Path) -> None:
    """The first Tab focuses the link that skips the navigation; scrolling tables can be focused too."""
    root = tmp_path / "S"
    sync(root, night(0, **SIZES), "n0")
    place = tmp_path / "page.html"
    place.write_text(document(of_store(root)), encoding="utf-8")
    page.open(place.as_uri())
    page.press("Tab")
    assert page.value("document.activeElement.textContent") == "Skip to the report"
    assert page.value("document.activeElement.getBoundingClientRect().left") >= 0
    page.press("Enter")
    page.until("location.hash === '#report'")
    assert page.value("document.querySelectorAll('.scroll:not([tabindex=\"0\"])').length") == 0
