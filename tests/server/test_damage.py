"""The server of a damaged store starts, reports the damage, and serves after the repair."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.damage import copy, files_of
from support.http import serving
from support.stores import published_nights
from support.waiting import eventually

from embsync.server.metrics import Metrics
from embsync.server.served_version import ServedVersion
from embsync.server.settings import Settings
from embsync.store import layout

SIZES = {"items": 40, "users": 30, "width": 4}


@pytest.fixture(scope="module")
def published() -> Iterator[Path]:
    with published_nights(2, **SIZES) as store:
        yield store


@pytest.fixture
def root(published: Path) -> Path:
    return copy(published, published.parent / "copy")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    put(path, bytes(data))


def put(path: Path, data: bytes) -> None:
    """Replace a file atomically; copies that share it stay unchanged."""
    path.with_name(".new").write_bytes(data)
    path.with_name(".new").replace(path)


WAYS: dict[str, Callable[[Path], None]] = {
    "a bit": flipped,
    "empty": lambda path: put(path, b""),
    "half": lambda path: put(path, path.read_bytes()[:-9]),
    "nonsense": lambda path: put(path, b'{"version": 1e999, "\xff'),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_server_starts_despite_damage_and_serves_after_the_repair(
    root: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """The server is not ready and names the damage in log and state; damage that affects no reader is ignored."""
    caplog.set_level(logging.INFO, "embsync")
    damaged = 0
    for path in files_of(root):
        if root / "versions/000001" in path.parents or path.stat().st_size == 0:
            continue
        kept = path.read_bytes()
        WAYS[way](path)
        harmless = path.parent == root or (path.name == layout.MANIFEST_HASH and way == "gone")
        caplog.clear()
        served = ServedVersion(Settings(store=str(root), rescan_seconds=0.01), Metrics())
        served.start()
        try:
            eventually(served.has_checked)
            state = served.state()
            assert state["ready"] is harmless, (path, state)
            reported = [record for record in caplog.records if record.getMessage() == "not_served"]
            if not harmless:
                damaged += 1
                assert str(path.with_suffix("")) in str(state["error"]), path
                assert state["error"] in [vars(record)["embsync_fields"]["reason"] for record in reported]
            put(path, kept)
            assert eventually(lambda served=served: served.state()["ready"], 15)
            assert served.state()["error"] is None
        finally:
            served.stop()
        assert not [record for record in caplog.records if record.exc_info]
    assert damaged > 10


def test_the_server_survives_any_damage_to_current(root: Path) -> None:
    """Damage at the start and a dangling ``current`` are both reported, and repaired versions are served."""
    manifest = root / "versions/000002/manifest.json"
    kept = manifest.read_bytes()
    put(manifest, b"{")
    with serving(root, ready=False) as server:
        assert server.ask("/readyz").status == 503
        assert str(manifest) in eventually(lambda: server.ask("/readyz").plain["error"])
        put(manifest, kept)
        assert eventually(lambda: server.ask("/readyz").plain["serving"]) == 2
        for target in ("versions/000009", "elsewhere", None):
            (root / "current").unlink()
            if target is not None:
                (root / "current").symlink_to(target)
            state = eventually(lambda: (said := server.ask("/readyz").plain)["error"] and said)
            assert str(root / "current") in state["error"]
            assert (state["ready"], state["serving"], server.ask("/v1/version").version) == (True, 2, 2)
            if target is not None:
                (root / "current").unlink()
            (root / "current").symlink_to("versions/000002")
            eventually(lambda: server.ask("/readyz").plain["error"] is None)
        os.replace(root / "versions", root / "aside")  # noqa: PTH105
        eventually(lambda: server.ask("/readyz").plain["error"])
        os.replace(root / "aside", root / "versions")  # noqa: PTH105
        eventually(lambda: server.ask("/readyz").plain["error"] is None)
    reported = [json.loads(line) for line in (root.parent / "serve.log").read_text().splitlines()]
    assert [line["event"] for line in reported if "traceback" not in line] == [
        "not_served",
        "serving",
        *["not_served"] * 4,
    ]
