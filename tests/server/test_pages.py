"""``/report`` and ``/overview``: pages of the served version, within the limits of every request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.http import Server, serving
from support.nights import configured, night, write_npy
from support.stores import published_nights, sync
from support.waiting import eventually

import embsync
from embsync.errors import RefusedError
from embsync.pipeline import Request, publish_snapshot
from embsync.reporting.numerals import figure
from embsync.store import Store

SIZES = {"items": 60, "users": 50, "width": 6}
#: The Accept header of a browser.
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with published_nights(3, **SIZES) as store:
        yield store


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with serving(root) as running:
        yield running


def test_the_report_is_of_the_served_version(server: Server, root: Path) -> None:
    """The version is in a header, and the other headers allow no script and no external resource."""
    answer = server.ask("/report")
    with embsync.open(root) as store:
        expected = embsync.report(store.current)
    assert (answer.status, answer.version) == (200, 3)
    text = answer.body.decode()
    assert text.startswith("<!doctype html>")
    assert expected.verdict.sentence in text
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for check in Store(root).manifest(3).checks:
        assert f">{figure(check.value, 4)}<" in text


def test_the_overview_has_all_parts(server: Server) -> None:
    """The page has the verdict, what moved most with links, and the state of the daemon."""
    text = server.ask("/overview").body.decode()
    for part in ("top", "more", "daemon"):
        assert text.count(f'data-part="{part}"') == 1
    assert 'href="#items/' in text
    assert "No daemon has ever run here" in text
    assert "<script" not in text


def test_limits_apply_to_pages(root: Path) -> None:
    """Memory, host name and method are limited as for other requests."""
    with serving(root, "--max-memory", "32 MiB") as small:
        refused = small.ask("/report")
        assert refused.status == 422
        assert "a report" in refused.body.decode()
        assert small.ask("/overview").status == 200
        assert small.ask("/report", Host="evil.example").status == 421
        assert small.ask("/report", {}).status == 405


def test_a_version_of_a_store_without_parent_has_pages(tmp_path: Path) -> None:
    """The first version, with items only, has pages; a damaged status file of the daemon is reported."""
    sync(tmp_path / "S", night(0, **SIZES).one_sided(), "n0")
    (tmp_path / "S" / "status.json").write_text("{")
    with serving(tmp_path / "S") as server:
        assert server.ask("/report").status == 200
        text = server.ask("/overview").body.decode()
    assert "first of its space" in text
    assert "The state of the daemon cannot be read." in text


def refused_snapshot(root: Path) -> None:
    """Make a store without a version whose journal has a refused snapshot."""
    bad = night(0, **SIZES)
    path = write_npy(root.parent / "<i>n0", replace(bad, items=bad.items[:4], item_ids=bad.item_ids[:4]))
    with pytest.raises(RefusedError):
        publish_snapshot(Store(root), Request(path), configured())


@pytest.mark.parametrize("kind", ["nothing", "refused"])
def test_without_a_version_a_person_gets_a_page_and_a_program_the_error(tmp_path: Path, kind: str) -> None:
    """The status is the same; the page says what is missing and how to publish, or what was refused and why."""
    root = tmp_path / "S"
    if kind == "refused":
        refused_snapshot(root)
    with serving(root, ready=False) as server:
        for path in ("/report", "/overview"):
            plain = server.ask(path, Accept="*/*")
            assert (plain.status, plain.plain["what"]) == (503, "no version yet")
            page = server.ask(path, Accept=BROWSER)
            assert (page.status, page.headers["X-Embsync-Version"], page.headers["Retry-After"]) == (503, "none", "1")
            assert page.headers["Content-Type"] == "text/html; charset=utf-8"
            assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
            text = page.body.decode()
            assert f"embsync sync --store {root} <var>SNAPSHOT</var></code>" in text
            expected = "no store at" if kind == "nothing" else "snapshot &lt;i&gt;n0 could not be published"
            assert expected in text
            assert ("rows_items" in text) == (kind == "refused")


def test_a_version_that_cannot_be_served_is_not_reported_as_missing(tmp_path: Path) -> None:
    """The damage is named, and the page does not ask for a first version."""
    root = tmp_path / "S"
    sync(root, night(0, **SIZES), "n0")
    rows = root / "versions/000001/index_rows.npy"
    rows.write_bytes(rows.read_bytes()[:-1] + b"\1")
    with serving(root, ready=False) as server:
        eventually(lambda: server.ask("/healthz").plain["error"])
        text = server.ask("/report", Accept=BROWSER).body.decode()
    assert "No version is served: the current one cannot be used." in text
    assert "damaged version" in text
    assert "embsync sync" not in text


def test_the_page_before_a_version_needs_the_token(tmp_path: Path) -> None:
    """It contains the name of the store and what was refused."""
    (tmp_path / "token").write_text("sesame\n")
    with serving(tmp_path / "S", "--token-file", str(tmp_path / "token"), ready=False) as server:
        for path in ("/report", "/overview"):
            assert server.ask(path, Accept=BROWSER, Authorization="Bearer wrong").status == 401
            assert server.ask(path, Accept=BROWSER, Authorization="Bearer sesame").status == 503
