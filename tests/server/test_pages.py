"""``/report`` and ``/overview``: pages of the version served, within the limits of every request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.http import Server, serving
from support.nights import night
from support.stores import published_nights, sync

import embsync
from embsync.reporting.numerals import figure
from embsync.store import Store

SIZES = {"items": 60, "users": 50, "width": 6}


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with published_nights(3, **SIZES) as store:
        yield store


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with serving(root) as running:
        yield running


def test_the_report_is_that_of_the_version_served(server: Server, root: Path) -> None:
    """With the version in a header, and headers under which nothing of it can run or load."""
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


def test_the_overview_has_its_parts(server: Server) -> None:
    """The verdict, what moved most with links, and what the daemon does."""
    text = server.ask("/overview").body.decode()
    for part in ("top", "more", "daemon"):
        assert text.count(f'data-part="{part}"') == 1
    assert 'href="#items/' in text
    assert "No daemon has ever run here" in text
    assert "<script" not in text


def test_limits_hold_for_pages(root: Path) -> None:
    """Memory, the name of the server, methods."""
    with serving(root, "--max-memory", "32 MiB") as small:
        refused = small.ask("/report")
        assert refused.status == 422
        assert "a report" in refused.body.decode()
        assert small.ask("/overview").status == 200
        assert small.ask("/report", Host="evil.example").status == 421
        assert small.ask("/report", {}).status == 405


def test_a_version_of_a_store_without_parent_has_pages(tmp_path: Path) -> None:
    """The first version, of items alone; the file of a daemon that is damaged is said."""
    sync(tmp_path / "S", night(0, **SIZES).one_sided(), "n0")
    (tmp_path / "S" / "status.json").write_text("{")
    with serving(tmp_path / "S") as server:
        assert server.ask("/report").status == 200
        text = server.ask("/overview").body.decode()
    assert "first of its space" in text
    assert "What the daemon is doing cannot be read." in text
