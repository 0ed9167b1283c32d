"""What ``embsync check-config`` finds before a snapshot is processed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from support.nights import night
from support.quick import quick_directory
from support.stores import sync

from embsync.cli.main import run


@pytest.mark.parametrize("known", ["configured", "in the store"])
def test_the_index_factory_is_tried_where_the_width_is_known(
    known: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An invalid factory is refused in one line with exit code 2; a valid one is printed."""
    made = night(0)
    if known == "configured":
        monkeypatch.setenv("EMBSYNC_SPACE__DIMENSION", str(made.items.shape[1]))
    else:
        sync(tmp_path / "S", made, "n0")
    command = ["check-config", "--store", str(tmp_path / "S")]
    monkeypatch.setenv("EMBSYNC_INDEX__FACTORY", "HNWS32")
    assert run(command) == 2
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert f"'HNWS32' at width {made.items.shape[1]} (could not parse index string HNWS32)" in output.err
    monkeypatch.setenv("EMBSYNC_INDEX__FACTORY", "HNSW32")
    assert run(command) == 0
    assert yaml.safe_load(capfd.readouterr().out)["index"]["factory"] == "HNSW32"


def test_without_a_width_a_factory_cannot_be_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A factory that is valid for some width is accepted, and no store is made.

    One that is valid for no width is refused.
    """
    monkeypatch.setenv("EMBSYNC_INDEX__FACTORY", "IVF16,PQ25")
    assert run(["check-config", "--store", str(tmp_path / "S")]) == 0
    assert yaml.safe_load(capfd.readouterr().out)["index"]["factory"] == "IVF16,PQ25"
    assert not (tmp_path / "S").exists()
    for factory in ("HNWS32", "IVF16,Flt", "PCA8,Nonsense", "", "IVF0,Flat", "NSG0"):
        monkeypatch.setenv("EMBSYNC_INDEX__FACTORY", factory)
        assert run(["check-config", "--store", str(tmp_path / "S")]) == 2, factory
        output = capfd.readouterr()
        assert (output.out, output.err.count("\n")) == ("", 1)


def test_an_unreadable_store_is_not_reported_as_a_configuration_error(capfd: pytest.CaptureFixture[str]) -> None:
    """A store that another user cannot read is treated like a missing store."""
    with quick_directory() as directory:
        sync(directory / "S", night(0), "n0")
        command = ["check-config", "--store", str(directory / "S")]
        assert run(command) == 0
        directory.chmod(0o755)
        (directory / "S" / "versions").chmod(0o600)
        try:
            with another_user():
                assert run(command) == 0
        finally:
            (directory / "S" / "versions").chmod(0o700)
    assert capfd.readouterr().out.count("\n  factory: auto\n") == 2


@contextmanager
def another_user() -> Iterator[None]:
    """Act as the user nobody, since root can read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)
