"""The demo's report on a terminal, for readers who are new to embsync."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from embsync.demo.stale import Hit
from embsync.demo.story import Story

#: Characters of a bar for 1.0, so that label, bar and figure fit 80 columns.
_BAR = 36
_COLOURS = {"raw": "red", "stable": "green", "plain": "cyan"}


def as_dict(story: Story) -> dict[str, Any]:
    """Return all figures as plain values; paths become strings."""
    figures = dataclasses.asdict(story)
    return {key: str(value) if isinstance(value, Path) else value for key, value in figures.items()}


def show(story: Story, console: Console | None = None) -> None:
    """Print the story, by default on standard output."""
    out = console or Console(highlight=False)
    _nights(out, story)
    _search(out, story)
    _example(out, story)
    _classifier(out, story)
    _certificate(out, story)
    _next(out, story)


def _nights(out: Console, story: Story) -> None:
    out.rule(f"A small recommender, trained from scratch on {len(story.nights)} nights")
    out.print(
        "Every training starts from different random numbers, so the axes of its vectors change each night. embsync "
        "maps every night into one stable space. How similar is an item's vector to that of the previous night "
        "(cosine: 1 identical, 0 unrelated)?\n"
    )
    table = Table("night", "items", "users", "new items", "new users", "raw", "stable", box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for night in story.nights:
        cosines = (night.item_cosine_raw, night.item_cosine)
        cells = [
            Text("-" if value is None else f"{value:z.2f}", style=_COLOURS[kind])
            for value, kind in zip(cosines, ("raw", "stable"), strict=True)
        ]
        new = ("-", "-") if night.item_cosine is None else (f"{night.new_items:,}", f"{night.new_users:,}")
        table.add_row(str(night.night), f"{night.items:,}", f"{night.users:,}", *new, *cells)
    out.print(table)


def _search(out: Console, story: Story) -> None:
    last = story.nights[-1].night
    out.print()
    out.rule("A search with an old vector")
    out.print(
        f"Some users were absent on night {last}: the newest model has no vector for them, only an older model does. "
        f"Of the 10 items of night {last} that a fresh vector finds, how many does the old one find?\n"
    )
    for stale in story.stale:
        out.print(f"vectors of night {stale.night} ({stale.users} users)")
        _bar(out, "raw", stale.overlap_raw, "raw", f"{stale.overlap_raw:.0%}")
        _bar(out, "stable", stale.overlap_stable, "stable", f"{stale.overlap_stable:.0%}")
    near = story.stale[0]
    out.print(
        f"\nOf the items these users liked next, the top 10 contained {near.recall_raw:.1%} with the raw vector of "
        f"night {near.night}, {near.recall_stable:.1%} with the stable one, {near.recall_fresh:.1%} with a fresh one, "
        f"and {near.recall_popular:.1%} if all users were shown the most popular items."
    )


def _example(out: Console, story: Story) -> None:
    shown = story.example
    tastes = ", ".join(f"{genre} ({count})" for genre, count in shown.genres.items())
    out.print(f"\nA typical user among them, {shown.user}, most often liked {tastes}. Top 5 by")
    table = Table(box=None, pad_edge=False)
    for name, kind in (("the old raw vector", "raw"), ("the old stable vector", "stable"), ("a fresh vector", "plain")):
        table.add_column(name, header_style=f"bold {_COLOURS[kind]}", ratio=1)
    for row in zip(shown.raw, shown.stable, shown.fresh, strict=True):
        table.add_row(*map(_hit, row))
    out.print(table)
    out.print("* also in the top 10 of the fresh vector", style="dim")


def _hit(hit: Hit) -> Text:
    return Text.assemble(("* " if hit.fresh else "  ") + hit.title, (f" ({hit.genre})", "dim"))


def _classifier(out: Console, story: Story) -> None:
    last = story.nights[-1]
    out.print()
    out.rule("A downstream model")
    out.print(
        f"A classifier was trained on night 1 to predict an item's genre from its vector. How good is it on night "
        f"{last.night}, on items it has not seen (AUC: 1 always right, 0.5 no better than chance)?\n"
    )
    _bar(out, "raw vectors", last.auc_raw, "raw")
    _bar(out, "stable vectors", last.auc_stable, "stable")
    _bar(out, "retrained", last.auc_retrained, "plain")


def _certificate(out: Console, story: Story) -> None:
    error = max(night.score_error for night in story.nights)
    agreements = [night.top_k_agreement for night in story.nights if night.top_k_agreement is not None]
    out.print()
    out.rule("No score changed")
    out.print(
        "Over all user-item pairs of every night, the scores of stable and raw vectors differ by at most "
        f"{error:.0e} of their norm, the effect of rounding. The top 10 is the same for "
        f"{min(agreements, default=1):.0%} of the sampled users. Each version's manifest.json has this certificate."
    )


def _next(out: Console, story: Story) -> None:
    store = shlex.quote(_shown(story.store))
    out.print()
    out.rule("See for yourself")
    out.print(
        f"snapshots  {_shown(story.snapshots)}\nstore      {_shown(story.store)}\n"
        f"titles     {_shown(story.directory / 'items.csv')}, for the ids in search results\n\n"
        f"This took {story.seconds:.0f} s. Try next:\n",
        markup=False,
        soft_wrap=True,
    )
    for command in (
        f"status --store {store}",
        f"search --user {story.example.user} --store {store}",
        f"history --store {store}",
    ):
        out.print(f"  embsync {command}", markup=False, soft_wrap=True, style="bold")


def _bar(out: Console, label: str, share: float, kind: str, figure: str | None = None) -> None:
    full, empty = ("#", ".") if out.options.ascii_only else ("█", "░")
    length = round(max(0.0, min(share, 1.0)) * _BAR)
    out.print(
        Text.assemble(
            f"  {label:<15}",
            (full * length, _COLOURS[kind]),
            (empty * (_BAR - length), "dim"),
            f" {figure or f'{share:.2f}'}",
        )
    )


def _shown(path: Path) -> str:
    """Return a path relative to the working directory, if it is inside it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
