"""``embsync write``: write a snapshot from array files."""

from __future__ import annotations

from pathlib import Path

import click

from embsync.cli.options import context, same_command, shared
from embsync.cli.output import print_json, say
from embsync.errors import UsageError
from embsync.snapshots.sides import ITEMS, USERS
from embsync.training.files import side_of_files
from embsync.training.write import write_sides

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("path", type=_FILE)
@click.option("--items", type=_FILE, required=True, help="Item vectors: .npy, or any layout of one side.")
@click.option("--item-ids", type=_FILE, help="Item ids, if --items is a .npy file.")
@click.option("--item-weights", type=_FILE, help="Item weights, if --items is a .npy file.")
@click.option("--users", type=_FILE, help="User vectors, like --items.")
@click.option("--user-ids", type=_FILE, help="User ids, if --users is a .npy file.")
@click.option("--user-weights", type=_FILE, help="User weights, if --users is a .npy file.")
@click.option("--overwrite", is_flag=True, help="Replace an existing directory.")
@shared
def write(
    path: Path,
    items: Path,
    item_ids: Path | None,
    item_weights: Path | None,
    users: Path | None,
    user_ids: Path | None,
    user_weights: Path | None,
    overwrite: bool,
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Write a snapshot to PATH atomically: readers see either all of it or nothing."""
    given = context(config_file, store, as_json)
    sides = [side_of_files(ITEMS, items, item_ids, item_weights, given.config.snapshot)]
    if users is not None:
        sides.append(side_of_files(USERS, users, user_ids, user_weights, given.config.snapshot))
    elif user_ids is not None or user_weights is not None:
        raise UsageError("incomplete snapshot", found="--user-ids or --user-weights without --users")
    try:
        written = write_sides(path, sides, overwrite=overwrite)
    except UsageError as error:
        if "overwrite=" not in (error.hint or ""):
            raise
        hint = f"to replace it: {same_command('--overwrite')}"
        raise UsageError(error.what, where=error.where, expected=error.expected, hint=hint) from None
    if as_json:
        print_json({"path": str(written), "items": sides[0].count, "users": sides[1].count if users else None})
    else:
        counts = " and ".join(f"{side.count:,} {side.name}" for side in sides)
        say(f"wrote {path}: {counts}, width {sides[0].width}")
