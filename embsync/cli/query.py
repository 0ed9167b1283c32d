"""Commands that ask a version what a consumer would ask it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from embsync.alignment.blocks import Array, Float32
from embsync.alignment.transform import SideName
from embsync.cli.options import context, shared
from embsync.cli.output import print_json, table
from embsync.errors import NotFoundError, UsageError
from embsync.reader import Version, open_version
from embsync.reader.side import Missing

_SHOWN_NUMBERS = 6


def at_version(command: Any) -> Any:
    """Add ``--version`` to a command that reads one."""
    return click.option("--version", "number", type=click.IntRange(min=1), help="A kept version; default: current.")(
        command)


@click.command()
@click.option("-u", "--user", help="Search with the stable vector of this user.")
@click.option("-i", "--item", help="Search with the stable vector of this item.")
@click.option("-v", "--vector", type=click.Path(path_type=Path), help="Search with the vectors of an .npy file.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(min=1), help="Neighbours a query.")
@at_version
@shared
def search(
    user: str | None,
    item: str | None,
    vector: Path | None,
    k: int,
    number: int | None,
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Find the live items that score highest for a user, an item or given vectors."""
    given = context(config_file, store, as_json)
    if sum(option is not None for option in (user, item, vector)) != 1:
        raise UsageError("search needs one query", expected="one of --user ID, --item ID, --vector FILE")
    with open_version(given.store.root, number) as version:
        queries = _queries(version, user, item, vector)
        ids, scores = version.search(queries, k)
        results = [
            [{"id": name, "score": score} for name, score in zip(found, values, strict=True) if np.isfinite(score)]
            for found, values in zip(ids.tolist(), scores.tolist(), strict=True)
        ]
        if as_json:
            print_json({"version": version.number, "results": results})
            return
        click.echo(f"version {version.number}")
        for place, found in enumerate(results):
            if len(results) > 1:
                click.echo(f"query {place}")
            table(("item", "score"), [(hit["id"], f"{hit['score']:.4f}") for hit in found])


def _queries(version: Version, user: str | None, item: str | None, vector: Path | None) -> Float32:
    if vector is not None:
        return np.asarray(_load(vector), np.float32)
    if user is not None:
        return version.side("users").lookup([user])
    assert item is not None
    return version.items.lookup([item])


def _load(path: Path) -> Array:
    try:
        array: Array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise NotFoundError("no such file", where=path) from None
    except (OSError, ValueError, EOFError) as error:
        raise UsageError("not an .npy file of vectors", where=path, found=str(error)) from None
    if array.dtype.kind not in "fiu":
        raise UsageError("not an .npy file of vectors", where=path, found=str(array.dtype), expected="numbers")
    return array


@click.command()
@click.argument("side", type=click.Choice(["items", "users"]))
@click.argument("ids", nargs=-1, required=True)
@click.option("-m", "--missing", type=click.Choice(["raise", "nan", "mean"]), default="raise", show_default=True,
              help="What an unknown id gives.")
@at_version
@shared
def lookup(
    side: SideName,
    ids: tuple[str, ...],
    missing: Missing,
    number: int | None,
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Print the stable vectors of IDS, live or carried, with the versions since each was last in a snapshot."""
    given = context(config_file, store, as_json)
    with open_version(given.store.root, number) as version:
        part = version.side(side)
        vectors = part.lookup(list(ids), missing)
        known = part.rows(list(ids)) >= 0
        ages = [int(part.age([name])[0]) if there else None for name, there in zip(ids, known, strict=True)]
        names = part.names(part.rows(list(ids))).tolist()
        if as_json:
            rows = [
                {"id": name if there else asked, "age": age, "vector": vector.tolist()}
                for asked, name, there, age, vector in zip(ids, names, known, ages, vectors, strict=True)
            ]
            print_json({"version": version.number, "side": side, "results": rows})
            return
        table(("id", "age", "vector"), [(name, "unknown" if age is None else age, _short(vector))
                                        for name, age, vector in zip(ids, ages, vectors, strict=True)])


def _short(vector: Float32) -> str:
    shown = " ".join(f"{value:+.3f}" for value in vector[:_SHOWN_NUMBERS])
    return f"{shown} … ({len(vector)})" if len(vector) > _SHOWN_NUMBERS else shown


COMMANDS = (search, lookup)
