"""The page in a real browser, if one is installed: typing, clicking and reading."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.accessibility import findings, require_axe
from support.browser import BROWSER, Page, browsing
from support.http import Server, serving
from support.nights import configured, night, write_npy
from support.quick import quick_directory
from support.stores import sync

import embsync
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")

SIZES = {"items": 60, "users": 50, "width": 6}
#: JavaScript's numbers are exact up to 2^53, so two of these ids would be equal.
FAR = 2**60
#: Represents null.
DASH = chr(0x2013)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """One browser for all tests; each test opens its own tab."""
    with quick_directory() as directory, browsing(directory / "profile") as running:
        yield running


@pytest.fixture(scope="module")
def named() -> Iterator[Path]:
    """Two nights with string ids, one of which looks like HTML."""
    with quick_directory() as directory:
        for number in range(2):
            made = night(number, **SIZES).named()
            made.item_ids[np.flatnonzero(made.item_ids == "book-1280")] = "<i>x</i>"
            sync(directory / "S", made, f"n{number}")
        yield directory / "S"


@pytest.fixture(scope="module")
def server(named: Path) -> Iterator[Server]:
    with serving(named) as running:
        yield running


@pytest.fixture
def root() -> Iterator[Path]:
    """A path for a store."""
    with quick_directory() as directory:
        yield directory / "S"


def column(page: Page, body: str, place: int) -> list[str]:
    """Return the texts of one column of a table."""
    found: list[str] = page.value(
        f"[...document.querySelectorAll('#{body} tr')].map(it => it.children[{place}].textContent)"
    )
    return found


def point(root: Path, number: int) -> None:
    """Make a version the current one."""
    (root / "next").symlink_to(f"versions/{number:06}")
    (root / "next").replace(root / "current")


def heading(page: Page, text: str) -> None:
    """Wait until the result has this heading."""
    page.until(
        f"document.getElementById('found').textContent.startsWith({text!r})"
        " && !document.getElementById('answer').hidden"
    )


def test_the_page_searches_an_id_and_links_its_neighbours(
    page: Page, server: Server, named: Path, tmp_path: Path
) -> None:
    """The result has neighbours with scores, movement over the kept versions, and a way back; no other host is used."""
    with embsync.open(named) as reader:
        user = str(reader.current.side("users").names(np.array([3]))[0])
        ids, scores = reader.current.search_by_user([user], 10)
    page.open(server.where)
    page.until("document.getElementById('number').textContent === 'version 2'")
    page.click("#id")
    page.type(user)
    page.press("Enter")
    heading(page, f"Neighbours of user {user}, version 2")
    assert column(page, "hits", 0) == ids[0].tolist()
    np.testing.assert_allclose([float(text) for text in column(page, "hits", 1)], scores[0], atol=1e-4)
    assert column(page, "steps", 0) == ["1", "2"]
    assert column(page, "steps", 2)[1] == "1.000"
    page.click("#hits tr:nth-child(2) a")
    heading(page, f"Neighbours of item {ids[0][1]}, version 2")
    assert ids[0][1] not in column(page, "hits", 0)
    assert page.value("[id.value, side.value]") == [ids[0][1], "items"]
    page.picture(tmp_path / "page.png")
    assert struct.unpack(">II", (tmp_path / "page.png").read_bytes()[16:24])[0] == 1000
    page.value("history.back()")
    heading(page, f"Neighbours of user {user}")
    assert page.complaints == []
    assert page.asked
    assert [address for address in page.asked if not address.startswith((server.where, "data:,"))] == []


def test_ids_are_escaped_and_the_side_can_be_chosen(page: Page, server: Server) -> None:
    """With the keyboard only: another side, an id that looks like HTML, and an unknown one."""
    page.open(server.where)
    page.until("document.getElementById('number').textContent === 'version 2'")
    page.value("document.getElementById('side').focus()")
    page.press("i")
    page.press("Tab")
    page.type("<i>x</i>")
    page.press("Tab")
    page.press("Enter")
    heading(page, "Neighbours of item <i>x</i>, version 2")
    assert page.value("document.querySelectorAll('main i:not([style])').length") == 0
    page.value("id.select()")
    page.type("nobody")
    page.press("Enter")
    assert page.until("document.getElementById('error').textContent") == "There is no item nobody in this version."
    assert page.value("document.getElementById('answer').hidden") is True


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_has_a_dark_theme(page: Page, server: Server, scheme: str) -> None:
    """Nothing is cut off at 360 pixels, and the contrast of all text is at least 4.5 to 1."""
    page.open(f"{server.where}/#items/book-1070", 360)
    page.look(360, scheme=scheme)
    heading(page, "Neighbours of item book-1070")
    page.value("document.getElementById('proof').open = true")
    assert page.value("document.documentElement.scrollWidth") == 360
    assert (
        page.value("""(() => {
        const shine = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(part => part / 255)
            .map(part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b + .05; };
        const behind = it => { for (; it; it = it.parentElement) { const own = getComputedStyle(it).backgroundColor;
            if (own !== "rgba(0, 0, 0, 0)") return own; } };
        return Math.min(...[...document.querySelectorAll("h1 span, dt, dd, th, td, label span, a, button, summary")]
            .map(it => [shine(getComputedStyle(it).color), shine(behind(it))])
            .map(([one, two]) => Math.max(one, two) / Math.min(one, two))); })()""")
        > 4.5
    )


def test_a_new_version_appears_without_reloading(page: Page, root: Path) -> None:
    """The requested neighbours are shown for the new version; a refused one is reported, and the old one is served."""
    for number in range(3):
        sync(root, night(number, **SIZES), f"n{number}")
    rows = root / "versions/000003/index_rows.npy"
    rows.write_bytes(rows.read_bytes()[:-1] + b"\1")
    Store(root).rollback(1)
    with serving(root) as server:
        page.open(f"{server.where}/#users/2035")
        heading(page, "Neighbours of user 2035, version 1")
        point(root, 2)
        page.until("look().then(() => document.getElementById('found').textContent.endsWith('version 2'))")
        assert column(page, "steps", 0) == ["1", "2", "3"]
        point(root, 3)
        assert "damaged version" in page.until("look().then(() => document.getElementById('health').textContent)")
        assert page.value("document.getElementById('number').textContent") == "version 2"


@pytest.mark.parametrize(("width", "scheme"), [(1000, "light"), (360, "dark")])
def test_axe_finds_nothing_in_the_page(page: Page, server: Server, width: int, scheme: str) -> None:
    """axe-core has no finding with a result shown and all sections opened."""
    require_axe()
    page.open(f"{server.where}/#items/book-1070", width)
    page.look(width, scheme=scheme)
    heading(page, "Neighbours of item book-1070")
    page.value("document.querySelectorAll('details').forEach(it => { it.open = true })")
    assert findings(page) == []


def test_pages_before_the_first_version_have_no_finding(page: Page, root: Path) -> None:
    """The start page and the one in place of a report have no finding on a phone with the dark theme."""
    require_axe()
    with serving(root, ready=False) as server:
        for address, shown in (
            (server.where, "document.getElementById('top').innerText"),
            (f"{server.where}/report", "1"),
        ):
            page.open(address, 360)
            page.look(360, scheme="dark")
            page.until(shown)
            assert findings(page) == []
            assert page.value("document.documentElement.scrollWidth") == 360


def test_the_page_links_to_the_report(page: Page, server: Server, root: Path, tmp_path: Path) -> None:
    """With a token, which a link cannot carry, the report is fetched; its style is allowed, and nothing else runs."""
    page.open(server.where)
    page.until("!document.getElementById('links').hidden")
    page.click("#report")
    page.until("document.title === 'embsync report, version 2' && document.querySelector('.tiles') !== null")
    assert page.value("getComputedStyle(document.querySelector('.tiles')).display") == "grid"
    (tmp_path / "token").write_text("sesame\n")
    sync(root, night(0, **SIZES), "n0")
    with serving(root, "--token-file", str(tmp_path / "token"), ready=True) as guarded:
        assert guarded.ask("/report").status == guarded.ask("/overview").status == 401
        page.open(guarded.where)
        page.until("!document.getElementById('token').hidden")
        page.click("#secret")
        page.type("sesame")
        page.press("Enter")
        page.until("document.getElementById('top').textContent.includes('Version 1 is healthy')")
        page.until("!document.getElementById('links').hidden")
        page.complaints.clear()
        page.click("#report")
        page.until("document.title === 'embsync report, version 1' && document.querySelector('.tiles') !== null")
        assert page.value("getComputedStyle(document.querySelector('.tiles')).display") == "grid"
        assert page.complaints == []


def test_labels_are_shown_beside_items(page: Page, root: Path) -> None:
    """Labels are shown for neighbours, for what moved most and for the item; text that looks like HTML stays text."""
    for number in range(2):
        made = night(number, **SIZES)
        path = write_npy(root.parent / f"n{number}", made)
        rows = [f"{name},<i>{name}</i>,{name if name % 2 else ''}" for name in made.item_ids.tolist()]
        (path / "item_labels.csv").write_text("\n".join(["item_id,title,price", *rows]))
        publish_snapshot(Store(root), Request(path), configured(snapshot__labels=["title", "price"]))
    item = int(made.item_ids[0])
    with serving(root) as server:
        page.open(server.where)
        page.until("document.querySelectorAll('#more section:last-child tbody th').length > 4")
        for text in page.value(
            "[...document.querySelectorAll('#more section:last-child tbody th')].map(it => it.textContent)"
        ):
            name = text.split()[-1]
            assert text.split(maxsplit=1)[1] == f"<i>{name}</i> {name}"
        page.click("#more section:last-child tbody td a")
        page.until("location.hash.startsWith('#items/') && !document.getElementById('answer').hidden")
        page.open(f"{server.where}/#items/{item}")
        heading(page, f"Neighbours of item {item}, version 2")
        assert page.value("document.getElementById('about').textContent") == (
            f"title: <i>{item}</i> · price: {item if item % 2 else DASH}"
        )
        names = column(page, "hits", 0)
        assert column(page, "hits", 1) == [f"<i>{name}</i>" for name in names]
        assert column(page, "hits", 2) == [name if int(name) % 2 else DASH for name in names]
        headers = page.value("[...document.getElementById('columns').children].map(it => it.textContent)")
        assert headers == ["item", "title", "price", "score"]
        assert page.value("document.querySelectorAll('#hits i').length") == 0
    assert page.complaints == []


def test_the_page_asks_for_a_token_and_keeps_ids_exact(page: Page, root: Path, tmp_path: Path) -> None:
    """A link waits for the token; ids beyond the exact range of JavaScript numbers keep every digit."""
    (tmp_path / "token").write_text("sesame\n")
    made = night(0, **SIZES)
    sync(root, replace(made, item_ids=made.item_ids + FAR), "n0")
    with embsync.open(root) as reader:
        ids = reader.current.search_by_user([2035], 10)[0][0].tolist()
    with serving(root, "--token-file", str(tmp_path / "token"), ready=True) as server:
        page.open(f"{server.where}/#users/2035")
        page.until("!document.getElementById('token').hidden")
        for secret, outcome in (
            ("wrong", "document.getElementById('error').textContent === 'This is not the token.'"),
            ("sesame", "!document.getElementById('answer').hidden"),
        ):
            page.click("#secret")
            page.value("secret, document.getElementById('secret').select()")
            page.type(secret)
            page.press("Enter")
            page.until(outcome)
        assert page.value("document.getElementById('token').hidden") is True
        assert column(page, "hits", 0) == [str(one) for one in ids]
        page.click("#hits a")
        heading(page, f"Neighbours of item {ids[0]}")


def test_the_page_of_an_empty_store_and_of_a_store_of_items(page: Page, root: Path) -> None:
    """A new version appears without reloading; users cannot be selected, and a link to one explains why."""
    with serving(root, ready=False) as server:
        page.open(server.where)
        said = page.until("document.getElementById('top').innerText")
        assert f"There is no store at {root} yet" in said
        assert f"embsync sync --store {root} SNAPSHOT\n" in said
        assert page.value("[ask, links, proof, error].every(it => it.hidden)")
        sync(root, night(0, **SIZES).one_sided(), "n0")
        page.until("look().then(() => document.getElementById('number').textContent === 'version 1')")
        assert page.value("[document.getElementById('error').hidden, ask.hidden]") == [True, False]
        assert "Version 1 is healthy" in page.value("document.getElementById('top').textContent")
        assert page.value("[side.value, side.options[0].disabled]") == ["items", True]
        assert "users" not in page.value("document.getElementById('facts').textContent")
        page.click("#id")
        page.type("1070")
        page.press("Enter")
        heading(page, "Neighbours of item 1070, version 1")
        page.value("location.hash = '#users/1'")
        assert "users" in page.until("document.getElementById('error').textContent")
        page.value("location.hash = '#items/%E0%A4%A'")
        assert page.until("document.getElementById('error').textContent.includes('link')")
