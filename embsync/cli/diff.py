"""``embsync diff``: what changed between two versions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from embsync.cli.options import context, shared
from embsync.cli.output import number, print_json, say, table
from embsync.errors import UsageError
from embsync.labels import Value
from embsync.reader import Version, open_version
from embsync.reader.diff import Diff, LabelDiff, SideDiff
from embsync.reader.verification import verify

#: Characters of a label in a table.
_SHOWN = 40


@click.command()
@click.argument("before", type=click.IntRange(min=1), required=False)
@click.argument("after", type=click.IntRange(min=1), required=False)
@click.option(
    "-n", "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Most ids to list of each kind."
)
@click.option(
    "-l", "--label", "labels", multiple=True, metavar="LABEL", help="Compare and show this label; default: all."
)
@shared
def diff(
    before: int | None,
    after: int | None,
    limit: int,
    labels: tuple[str, ...],
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Show what changed from version BEFORE to AFTER: ids, rows, neighbours, scores and labels.

    AFTER is the current version by default, and BEFORE the version it was aligned to.
    """
    with _both(context(config_file, store, as_json).store.root, before, after) as (first, second):
        found = second.diff(first, limit=limit, labels=labels or None)
        if as_json:
            print_json(msgspec.to_builtins(found))
        else:
            _print(found, first, second)


@contextlib.contextmanager
def _both(root: Path, before: int | None, after: int | None) -> Iterator[tuple[Version, Version]]:
    with open_version(root, after) as second:
        earlier = second.record.parent if before is None else before
        if earlier is None:
            raise UsageError(
                "nothing to compare with",
                found=f"version {second.number}, the first of its space",
                expected="BEFORE, the number of an existing version",
            )
        with open_version(root, earlier) as first:
            for version in (first, second):
                verify(version, below="index")  # following a damaged link would crash the process
            yield first, second


def _print(found: Diff, first: Version, second: Version) -> None:
    say(f"version {found.before} of {first.record.created} to {found.after} of {second.record.created}")
    if not found.same_space:
        say("different spaces: vectors cannot be compared; ids, neighbours and scores can")
    sides = [(name, side) for name, side in (("items", found.items), ("users", found.users)) if side is not None]
    click.echo()
    table(
        ("", "before", "after", "new", "gone", "cosine", "5th percentile"),
        [
            (name, *map("{:,}".format, (side.live_before, side.live_after, side.new, side.gone)), *_cosines(side))
            for name, side in sides
        ],
    )
    near = found.neighbours
    click.echo()
    say(
        f"top 10     {number(near.overlap_at_10, '.1%')} still found by {near.sampled:,} {near.side}; "
        f"their scores changed by {number(near.score_change, '.1%')}"
    )
    for name, side in sides:
        _print_ids(name, side)
    for name, side in sides:
        _print_moved(name, side)
    for label in found.labels:
        _print_label(label)


def _print_ids(name: str, side: SideDiff) -> None:
    for what, ids, its_labels in (
        ("new", side.new_ids, side.new_labels),
        ("gone", side.gone_ids, side.gone_labels),
    ):
        if ids:
            more = getattr(side, what) - len(ids)
            say(f"{what:<5}{name}  {', '.join(_named(ids, its_labels))}{f' and {more:,} more' if more else ''}")


def _print_moved(name: str, side: SideDiff) -> None:
    if side.moved_most:
        click.echo()
        shown = list(side.moved_most[0].labels)
        table(
            (f"{name} moved most", "cosine", "length", *shown),
            [
                (row.id, f"{row.cosine:.3f}", f"x {row.norm_ratio:.2f}", *map(_short, row.labels.values()))
                for row in side.moved_most
            ],
        )


def _print_label(label: LabelDiff) -> None:
    kinds = label.kind_before, label.kind_after
    if kinds[0] != kinds[1]:
        say(f"label {label.name}: {kinds[0] or 'absent'} before, {kinds[1] or 'absent'} after")
    if label.changed:
        click.echo()
        table(
            (f"{label.name} of {label.changed:,} items", "before", "after"),
            [(one.id, _short(one.before), _short(one.after)) for one in label.examples],
        )


def _named(ids: list[int | str], labels: list[dict[str, Value]]) -> list[str]:
    """Return ids, each with its labels."""
    shown = [f" ({', '.join(map(_short, one.values()))})" for one in labels] or [""] * len(ids)
    return [f"{name}{text}" for name, text in zip(ids, shown, strict=True)]


def _short(value: Value) -> str:
    text = "-" if value is None else ", ".join(value) if isinstance(value, list) else str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _cosines(side: SideDiff) -> tuple[str, str]:
    return number(side.cosine), number(side.cosine_p05)
