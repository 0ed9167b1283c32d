"""The output of the demo as text and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from embsync.demo import render
from embsync.demo.story import Story


def printed(played: Story, encoding: str = "utf-8", width: int = 80) -> str:
    """Return what a terminal of this width would show."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    render.show(played, Console(file=file, width=width, highlight=False))
    file.flush()
    return raw.getvalue().decode(encoding)


def test_the_figures_are_printed(played: Story) -> None:
    """Stale searches, classifier and certificate appear with the story's own figures."""
    text = printed(played)
    last = played.nights[-1]
    for figure in (last.auc_raw, last.auc_stable, last.auc_retrained):
        assert f" {figure:.2f}" in text
    for stale in played.stale:
        assert f"{stale.overlap_raw:.0%}" in text
        assert f"{stale.overlap_stable:.0%}" in text
    assert f"user {played.example.user}" in text
    assert "-0.00" not in text


def test_the_commands_to_try_next_can_be_copied(played: Story) -> None:
    """Three complete commands are printed without line breaks, however long the path is."""
    lines = [line.strip() for line in printed(played, width=60).splitlines()]
    commands = [line for line in lines if line.startswith("embsync ")]
    assert commands == [
        f"embsync status --store {played.store}",
        f"embsync search --user {played.example.user} --store {played.store}",
        f"embsync history --store {played.store}",
    ]


def test_paths_are_relative_where_that_is_shorter(played: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the working directory, the demo's path is printed relative to it."""
    monkeypatch.chdir(played.directory.parent)
    assert f"embsync status --store {played.directory.name}/store\n" in printed(played)


def test_a_terminal_without_unicode_gets_plain_bars(played: Story) -> None:
    """Only ASCII characters are printed to an ASCII terminal."""
    text = printed(played, "ascii")
    assert "####" in text


def test_json_has_every_figure(played: Story) -> None:
    """After a round trip through JSON the dictionary is equal, except that tuples are lists."""
    plain = render.as_dict(played)
    again = json.loads(json.dumps(plain))
    assert again["store"] == str(played.store)
    assert Path(again["snapshots"]).is_dir()
    assert len(again["nights"]) == 6
    assert again["nights"][-1]["auc_stable"] == played.nights[-1].auc_stable
    assert again["stale"][0]["overlap_stable"] == played.stale[0].overlap_stable
    assert again["example"]["stable"][0]["id"] == played.example.stable[0].id
