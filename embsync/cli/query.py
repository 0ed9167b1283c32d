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
from embsync.reader import open_version
from embsync.reader.cold_start import Method
from embsync.reader.side import Missing
from embsync.reader.version import SpaceName

_SHOWN_NUMBERS = 6


def at_version(command: Any) -> Any:
    """Add ``--version`` to a command that reads one."""
    return click.option("--version", "number", type=click.IntRange(min=1), help="A kept version; default: current.")(
        command)


def written(command: Any) -> Any:
    """Add ``--output`` to a command whose answer is an array."""
    return click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the answer to an .npy file.")(
        command)


@click.command()
@click.option("-u", "--user", "users", multiple=True, help="Search with the stable vector of this user.")
@click.option("-i", "--item", "items", multiple=True, help="Search for what is near this item, without itself.")
@click.option("-v", "--vector", type=click.Path(path_type=Path), help="Search with the vectors of an .npy file.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(min=1), help="Neighbours a query.")
@click.option("--space", type=click.Choice(["stable", "snapshot"]), default="stable", show_default=True,
              help="Where --vector lives: the space, or the raw basis of the version's snapshot.")
@click.option("--allow", multiple=True, help="Find only these items.")
@click.option("--block", multiple=True, help="Never find these items.")
@click.option("-p", "--parameter", multiple=True, metavar="NAME=NUMBER", help="Search effort, such as efSearch=100.")
@written
@at_version
@shared
def search(
    users: tuple[str, ...],
    items: tuple[str, ...],
    vector: Path | None,
    k: int,
    space: SpaceName,
    allow: tuple[str, ...],
    block: tuple[str, ...],
    parameter: tuple[str, ...],
    output: Path | None,
    number: int | None,
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Find the live items that score highest for users, items or given vectors."""
    given = context(config_file, store, as_json)
    if sum(map(bool, (users, items, vector))) != 1:
        raise UsageError("search needs one query", expected="one of --user ID, --item ID, --vector FILE")
    filters: dict[str, Any] = {"allowed": list(allow) or None, "blocked": list(block) or None,
                               "parameters": _parameters(parameter)}
    with open_version(given.store.root, number) as version:
        if vector is not None:
            ids, scores = version.search(_load(vector), k, space=space, **filters)
        elif users:
            ids, scores = version.search_by_user(list(users), k, **filters)
        else:
            ids, scores = version.search_by_item(list(items), k, **filters)
        if output is not None:
            _save(output, ids)
        _print_hits(version.number, ids, scores, as_json)


def _print_hits(number: int, ids: Array, scores: Float32, as_json: bool) -> None:
    results = [
        [{"id": name, "score": score} for name, score in zip(found, values, strict=True) if np.isfinite(score)]
        for found, values in zip(ids.tolist(), scores.tolist(), strict=True)
    ]
    if as_json:
        print_json({"version": number, "results": results})
        return
    click.echo(f"version {number}")
    for place, found in enumerate(results):
        if len(results) > 1:
            click.echo(f"query {place}")
        table(("item", "score"), [(hit["id"], f"{hit['score']:.4f}") for hit in found])


def _parameters(pairs: tuple[str, ...]) -> dict[str, int] | None:
    chosen = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not (value.isascii() and value.isdigit() and int(value) > 0):
            raise UsageError("not a search parameter", found=pair, expected="NAME=NUMBER, such as efSearch=100")
        chosen[name] = int(value)
    return chosen or None


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


def _save(path: Path, array: Array) -> None:
    try:
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    except OSError as error:
        raise UsageError("cannot write", where=path, found=error.strerror) from None


_SIDE = click.Choice(["items", "users"])


@click.command()
@click.argument("side", type=_SIDE)
@click.argument("ids", nargs=-1, required=True)
@click.option("-m", "--missing", type=click.Choice(["raise", "nan", "mean"]), default="raise", show_default=True,
              help="What an unknown id gives.")
@click.option("--max-age", type=click.IntRange(min=0), help="Older vectors, in versions, count as unknown.")
@written
@at_version
@shared
def lookup(
    side: SideName,
    ids: tuple[str, ...],
    missing: Missing,
    max_age: int | None,
    output: Path | None,
    number: int | None,
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Print the stable vectors of IDS, live or carried, with the versions since each was last in a snapshot."""
    given = context(config_file, store, as_json)
    with open_version(given.store.root, number) as version:
        part = version.side(side)
        vectors = part.lookup(list(ids), missing, max_age=max_age)
        if output is not None:
            _save(output, vectors)
        known = part.rows(list(ids)) >= 0
        ages = [int(part.age([name])[0]) if there else None for name, there in zip(ids, known, strict=True)]
        names = part.names(part.rows(list(ids))).tolist()
        if as_json:
            sources = [int(part.origin([name])[0]) if there else None for name, there in zip(ids, known, strict=True)]
            rows = [
                {"id": name if there else asked, "age": age, "from_version": source, "vector": vector.tolist()}
                for asked, name, there, age, source, vector in zip(
                    ids, names, known, ages, sources, vectors, strict=True)
            ]
            print_json({"version": version.number, "side": side, "results": rows})
            return
        table(("id", "age", "vector"), [(name, "unknown" if age is None else age, _short(vector))
                                        for name, age, vector in zip(ids, ages, vectors, strict=True)])


def _short(vector: Float32) -> str:
    shown = " ".join(f"{value:+.3f}" for value in vector[:_SHOWN_NUMBERS])
    return f"{shown} … ({len(vector)})" if len(vector) > _SHOWN_NUMBERS else shown


@click.command()
@click.argument("side", type=_SIDE)
@click.argument("vectors", type=click.Path(path_type=Path))
@click.option("--inverse", is_flag=True, help="From the space back to the raw basis.")
@written
@at_version
@shared
def transform(
    side: SideName,
    vectors: Path,
    inverse: bool,
    output: Path | None,
    number: int | None,
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Map the raw VECTORS (.npy) of a version's snapshot into the space, or back."""
    given = context(config_file, store, as_json)
    with open_version(given.store.root, number) as version:
        version.side(side)
        maps = version.transform
        chosen = {("items", False): maps.items, ("users", False): maps.users,
                  ("items", True): maps.items_inverse, ("users", True): maps.users_inverse}
        _print_vectors(version.number, chosen[side, inverse](np.atleast_2d(_load(vectors))), output, as_json)


@click.command("fold-in")
@click.argument("ids", nargs=-1, required=True)
@click.option("--side", type=_SIDE, default=None, help="Who is folded in; default: users, where there are any.")
@click.option("-w", "--weight", "weights", multiple=True, type=float, help="One for each id, in order.")
@click.option("--method", type=click.Choice(["ridge", "mean"]), default="ridge", show_default=True,
              help="Ridge regression, or the mean of unit vectors.")
@click.option("--regularization", type=float, help="Multiple of the mean row energy; default 1.")
@click.option("-m", "--missing", type=click.Choice(["raise", "nan", "mean"]), default="raise", show_default=True,
              help="Unknown ids: an error, or left out.")
@written
@at_version
@shared
def fold_in(
    ids: tuple[str, ...],
    side: SideName | None,
    weights: tuple[float, ...],
    method: Method,
    regularization: float | None,
    missing: Missing,
    output: Path | None,
    number: int | None,
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Print a vector for a user never trained, from the IDS of items it interacted with (or the other way round)."""
    given = context(config_file, store, as_json)
    with open_version(given.store.root, number) as version:
        part = version.side(side or ("items" if version.users is None else "users"))
        vector = part.fold_in(list(ids), list(weights) or None, method=method, regularization=regularization,
                              missing=missing)
        _print_vectors(version.number, vector[None, :], output, as_json)


def _print_vectors(number: int, vectors: Float32, output: Path | None, as_json: bool) -> None:
    if output is not None:
        _save(output, vectors)
    if as_json:
        print_json({"version": number, "rows": len(vectors)} | ({} if output else {"vectors": vectors.tolist()}))
    elif output is not None:
        click.echo(f"{output}: {len(vectors)} rows of {vectors.shape[1]}, version {number}")
    else:
        table(("row", "vector"), [(place, _short(vector)) for place, vector in enumerate(vectors)])


COMMANDS = (search, lookup, transform, fold_in)
