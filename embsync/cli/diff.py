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
from embsync.reader import Version, open_version
from embsync.reader.diff import Diff, SideDiff
from embsync.reader.verification import verify


@click.command()
@click.argument("before", type=click.IntRange(min=1), required=False)
@click.argument("after", type=click.IntRange(min=1), required=False)
@click.option(
    "-n", "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Ids to name of each kind."
)
@shared
def diff(
    before: int | None, after: int | None, limit: int, config_file: Path | None, store: Path | None, as_json: bool
) -> None:
    """Show what changed from version BEFORE to AFTER: ids, rows, neighbours and scores.

    AFTER is the current version by default, and BEFORE the version it was aligned to.
    """
    with _both(context(config_file, store, as_json).store.root, before, after) as (first, second):
        found = second.diff(first, limit=limit)
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
                expected="BEFORE, the number of a kept version",
            )
        with open_version(root, earlier) as first:
            for version in (first, second):
                verify(version, below="index")  # a graph with a wrong link ends whoever follows it
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
        for what, ids in (("new", side.new_ids), ("gone", side.gone_ids)):
            if ids:
                more = getattr(side, what) - len(ids)
                say(f"{what:<5}{name}  {', '.join(map(str, ids))}{f' and {more:,} more' if more else ''}")
    for name, side in sides:
        if side.moved_most:
            click.echo()
            table(
                (f"{name} moved most", "cosine", "length"),
                [(row.id, f"{row.cosine:.3f}", f"x {row.norm_ratio:.2f}") for row in side.moved_most],
            )


def _cosines(side: SideDiff) -> tuple[str, str]:
    return number(side.cosine), number(side.cosine_p05)
