"""Commands that query a version, as a consumer does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from embsync.cli import npy
from embsync.cli.options import context, same_command, shared
from embsync.cli.output import print_json, say, table
from embsync.dtypes import Array, Float32
from embsync.errors import NotFoundError, UsageError
from embsync.reader import Version, open_version
from embsync.reader.fold_in import Method
from embsync.reader.given_ids import Missing
from embsync.reader.labels import column_of, records_of
from embsync.reader.lineage import age_limit, last_seen_of
from embsync.reader.side import Side
from embsync.reader.verification import verify
from embsync.reader.version import SpaceName
from embsync.sides import SideName

_SHOWN_NUMBERS = 6
_SIDE = click.Choice(["items", "users"])
_FILE = click.Path(path_type=Path)


def reading(command: Callable[..., None]) -> Callable[..., None]:
    """Add the shared options, ``--version`` and ``--output``; the command receives the version, pinned."""

    @click.option("-o", "--output", type=_FILE, help="Write the result to an .npy file.")
    @click.option("--version", "number", type=click.IntRange(min=1), help="A kept version; default: current.")
    @shared
    @functools.wraps(command)
    def opened(number: int | None, config_file: Path | None, store: Path | None, as_json: bool, **given: Any) -> None:
        with open_version(context(config_file, store, as_json).store.root, number) as version:
            try:
                command(version, as_json=as_json, **given)
            except NotFoundError as error:
                if "missing=" not in (error.hint or ""):
                    raise
                hint = f"to go on without an error: {same_command('--missing', 'nan')}"
                raise NotFoundError(error.what, where=error.where, found=error.found, hint=hint) from None

    return opened


def _ids_file(command: Any) -> Any:
    return click.option("-f", "--ids", "file", type=_FILE, help="Read the ids from an .npy file.")(command)


def _missing(what: str) -> Callable[[Any], Any]:
    return click.option(
        "-m", "--missing", type=click.Choice(["raise", "nan", "mean"]), default="raise", show_default=True, help=what
    )


def _max_age(what: str) -> Callable[[Any], Any]:
    return click.option("--max-age", metavar="AGE", help=f"{what}: versions, or a duration such as 36h or 7d.")


def _ids(given: tuple[str, ...], file: Path | None, *dimensions: int) -> Any:
    """Return the ids given as arguments or in a file."""
    if bool(given) == (file is not None):
        raise UsageError(
            "ids must be given exactly once", found="both" if given else "none", expected="IDS or --ids FILE"
        )
    return list(given) if file is None else npy.read_ids(file, dimensions)


@click.command()
@click.option("-u", "--user", "users", multiple=True, help="Search with the stable vector of this user.")
@click.option("-i", "--item", "items", multiple=True, help="Search for the neighbours of this item, excluding itself.")
@click.option("-v", "--vector", type=_FILE, help="Search with the vectors of an .npy file.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(min=1), help="Neighbours per query.")
@click.option(
    "--space",
    type=click.Choice(["stable", "snapshot"]),
    default="stable",
    show_default=True,
    help="Space of --vector: stable, or that of the version's snapshot.",
)
@click.option("--allow", multiple=True, help="Return only these items.")
@click.option("--block", multiple=True, help="Exclude these items.")
@click.option(
    "--allow-file",
    type=_FILE,
    help="Return only the items in an .npy or .json file; one list for all queries, or one per query.",
)
@click.option("--block-file", type=_FILE, help="Exclude the items in an .npy or .json file.")
@click.option(
    "--where",
    multiple=True,
    metavar="LABEL=VALUE",
    help="Return only items with this label; repeat it for alternatives; ranges of numbers: price=5..20.",
)
@click.option("-l", "--label", "labels", multiple=True, metavar="LABEL", help="Show this label of the results.")
@_missing("For an unknown user or item: an error, no results, or the results of the mean vector.")
@_max_age("Treat users or items with older vectors as unknown")
@click.option("-p", "--parameter", multiple=True, metavar="NAME=NUMBER", help="Search effort, such as efSearch=100.")
@reading
def search(
    version: Version,
    users: tuple[str, ...],
    items: tuple[str, ...],
    vector: Path | None,
    k: int,
    space: SpaceName,
    allow: tuple[str, ...],
    block: tuple[str, ...],
    allow_file: Path | None,
    block_file: Path | None,
    where: tuple[str, ...],
    labels: tuple[str, ...],
    missing: Missing,
    max_age: str | None,
    parameter: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """Find the live items with the highest scores for users, items or vectors."""
    if sum(map(bool, (users, items, vector))) != 1:
        raise UsageError("search needs one query", expected="one of --user ID, --item ID, --vector FILE")
    _require_applicable(missing, max_age, space, vector)
    filters: dict[str, Any] = {
        "allowed": _filter(allow, allow_file, "--allow"),
        "blocked": _filter(block, block_file, "--block"),
        "where": _conditions(version, where),
        "parameters": _parameters(parameter),
    }
    of_ids: dict[str, Any] = {
        "missing": missing,
        "max_age": None if max_age is None else age_limit(max_age, "--max-age"),
    }
    verify(version, below="index")  # following a damaged link of a graph would crash the process
    if vector is not None:
        ids, scores = version.search(npy.read_vectors(vector), k, space=space, **filters)
    elif users:
        ids, scores = version.search_by_user(list(users), k, **of_ids, **filters)
    else:
        ids, scores = version.search_by_item(list(items), k, **of_ids, **filters)
    if output is not None:
        hits = np.empty(ids.shape, [("id", ids.dtype), ("score", np.float32)])
        hits["id"], hits["score"] = ids, scores
        _written(version, output, hits, as_json)
    else:
        _print_hits(version, ids, scores, labels, as_json)


def _require_applicable(missing: Missing, max_age: str | None, space: SpaceName, vector: Path | None) -> None:
    """Reject options of ids with vectors, and options of vectors with ids."""
    if missing != "raise" and vector is not None:
        raise UsageError("--missing applies to ids only", found=f"--missing {missing}", expected="--user or --item")
    if max_age is not None and vector is not None:
        raise UsageError("--max-age applies to ids only", found=f"--max-age {max_age}", expected="--user or --item")
    if space != "stable" and vector is None:
        raise UsageError(
            "--space applies to vectors only", found=f"--space {space} without vectors", expected="--vector FILE"
        )


def _filter(given: tuple[str, ...], file: Path | None, option: str) -> Any:
    if given and file is not None:
        raise UsageError("a filter is given twice", found="both", expected=f"{option} or {option}-file")
    return (list(given) or None) if file is None else npy.read_filter(file)


def _conditions(version: Version, given: tuple[str, ...]) -> dict[str, Any] | None:
    """Return conditions on labels, each value read as the label's kind."""
    conditions: dict[str, Any] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError("not a condition", found=pair, expected="LABEL=VALUE, such as genre=history, price=5..20")
        kind = column_of(version, name).kind
        low, dots, high = text.partition("..")
        if dots and kind in ("integer", "float"):
            ends = {"min": low, "max": high}
            conditions[name] = {end: _value(kind, number) for end, number in ends.items() if number}
        else:
            conditions.setdefault(name, []).append(_value(kind, text))
    return conditions or None


def _value(kind: str, text: str) -> object:
    if kind == "boolean" and text in ("true", "false"):
        return text == "true"
    try:
        return {"integer": int, "float": float}.get(kind, str)(text) if kind != "boolean" else text
    except ValueError:
        return text  # rejected later, with the type of the label


def _print_hits(version: Version, ids: Array, scores: Float32, labels: tuple[str, ...], as_json: bool) -> None:
    shown = version.labels_of(ids.ravel(), labels)
    rows = list(zip(*shown.values(), strict=True)) or [()] * ids.size
    results = [
        [
            {"id": name, "score": score, **({"labels": dict(zip(labels, row, strict=True))} if labels else {})}
            for name, score, row in zip(found, values, rows[start : start + len(found)], strict=True)
            if score != -np.inf
        ]
        for start, found, values in zip(
            range(0, ids.size or len(ids), ids.shape[1] or 1), ids.tolist(), scores.tolist(), strict=True
        )
    ]
    if as_json:
        print_json({"version": version.number, "results": results})
        return
    say(f"version {version.number}" if results else f"version {version.number}: no queries")
    for place, hits in enumerate(results):
        if len(results) > 1:
            say(f"query {place}")
        if not hits:
            say("no items found")
            continue
        table(
            ("item", "score", *labels),
            [(hit["id"], f"{hit['score']:.4f}", *hit.get("labels", {}).values()) for hit in hits],
        )


def _parameters(pairs: tuple[str, ...]) -> dict[str, int] | None:
    chosen = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not (value.isascii() and value.isdigit() and int(value) > 0):
            raise UsageError("not a search parameter", found=pair, expected="NAME=NUMBER, such as efSearch=100")
        chosen[name] = int(value)
    return chosen or None


@click.command()
@click.argument("side", type=_SIDE)
@click.argument("ids", nargs=-1)
@_ids_file
@_missing("The result for an unknown id.")
@_max_age("Treat older vectors as unknown")
@click.option("-l", "--label", "labels", multiple=True, metavar="LABEL", help="Show this label of the items.")
@reading
def lookup(
    version: Version,
    side: SideName,
    ids: tuple[str, ...],
    file: Path | None,
    missing: Missing,
    max_age: str | None,
    labels: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """Print the stable vectors of IDS, live or carried, with versions and time since each was last in a snapshot."""
    wanted, part = _ids(ids, file, 1), version.side(side)
    if labels and (side != "items" or output is not None):
        raise UsageError(
            "--label shows labels of items", found="--output" if side == "items" else side, expected="items, printed"
        )
    limit = None if max_age is None else age_limit(max_age, "--max-age")
    vectors = part.lookup(wanted, missing, max_age=limit)
    if output is not None:
        _written(version, output, vectors, as_json)
        return
    results = _results(version, part, wanted, vectors, labels)
    if as_json:
        print_json({"version": version.number, "side": side, "results": results})
        return
    table(
        ("id", "age", "last seen", *labels, "vector"),
        [
            (
                one["id"],
                "unknown" if one["age"] is None else one["age"],
                one["last_seen_at"] or "unknown",
                *one.get("labels", {}).values(),
                _short(one["vector"]),
            )
            for one in results
        ],
    )


def _results(
    version: Version, part: Side, wanted: Any, vectors: Float32, labels: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return the fields of each id: its age, the version of its vector and so on, null for unknown ids."""
    rows = part.rows(wanted)
    names, seen = part.names(rows), last_seen_of(part, wanted)
    shown = [{"labels": one} for one in records_of(version, rows, labels)] if labels else [{}] * len(rows)
    as_text = names.dtype.kind == "U"
    return [
        {
            "id": name if row >= 0 else _spelled(asked, as_text),
            "age": seen.ages[place],
            "from_version": seen.versions[place],
            "last_seen_at": seen.times[place],
            "age_seconds": seen.seconds[place],
            "vector": vectors[place],
            **shown[place],
        }
        for place, (asked, name, row) in enumerate(
            zip(np.asarray(wanted).tolist(), names.tolist(), rows.tolist(), strict=True)
        )
    ]


def _spelled(asked: Any, as_text: bool) -> int | str:
    """Return an unknown id in the type of the store's ids."""
    if not as_text:
        return int(asked)
    return asked.decode("utf-8", "replace") if isinstance(asked, bytes) else str(asked)


@click.command()
@click.argument("side", type=_SIDE)
@click.argument("vectors", type=_FILE)
@click.option("--inverse", is_flag=True, help="Map from the stable space back to the snapshot's.")
@reading
def transform(
    version: Version, side: SideName, vectors: Path, inverse: bool, output: Path | None, as_json: bool
) -> None:
    """Map the raw VECTORS (.npy) of a version's snapshot into the space, or back."""
    version.side(side)
    maps = version.transform
    chosen = {
        ("items", False): maps.items,
        ("users", False): maps.users,
        ("items", True): maps.items_inverse,
        ("users", True): maps.users_inverse,
    }
    _print_vectors(version, chosen[side, inverse](npy.read_vectors(vectors)), output, as_json)


@click.command("fold-in")
@click.argument("ids", nargs=-1)
@_ids_file
@click.option("--side", type=_SIDE, default=None, help="Side of the new vector; default: users, if there are any.")
@click.option(
    "-w", "--weight", "weights", multiple=True, type=float, help="One per id, in order; negative for a dislike."
)
@click.option(
    "--method",
    type=click.Choice(["ridge", "mean", "nearest"]),
    default="ridge",
    show_default=True,
    help="Ridge regression, the mean of unit vectors, or the mean of the trained rows nearest to ridge.",
)
@click.option("--regularization", type=float, help="Multiple of the mean row energy; default 1.")
@_missing("Unknown ids: an error, or left out.")
@reading
def fold_in(
    version: Version,
    ids: tuple[str, ...],
    file: Path | None,
    side: SideName | None,
    weights: tuple[float, ...],
    method: Method,
    regularization: float | None,
    missing: Missing,
    output: Path | None,
    as_json: bool,
) -> None:
    """Print a vector for an untrained user from the IDS of items it interacted with, or for an untrained item.

    A matrix of ids in a file has one user per row.
    """
    part = version.side(side or version.sides.queries.name)
    vectors = part.fold_in(
        _ids(ids, file, 1, 2), list(weights) or None, method=method, regularization=regularization, missing=missing
    )
    _print_vectors(version, np.atleast_2d(vectors), output, as_json)


def _print_vectors(version: Version, vectors: Float32, output: Path | None, as_json: bool) -> None:
    if output is not None:
        _written(version, output, vectors, as_json)
    elif as_json:
        print_json({"version": version.number, "rows": len(vectors), "vectors": vectors})
    else:
        table(("row", "vector"), [(place, _short(vector)) for place, vector in enumerate(vectors)])


def _written(version: Version, output: Path, answer: Array, as_json: bool) -> None:
    npy.write(output, answer)
    if as_json:
        print_json({"version": version.number, "rows": len(answer), "output": output})
    else:
        say(f"{output}: {len(answer)} rows of {answer.shape[1]}, version {version.number}")


def _short(vector: Float32) -> str:
    shown = " ".join(f"{value:+.3f}" for value in vector[:_SHOWN_NUMBERS])
    return f"{shown} … ({len(vector)})" if len(vector) > _SHOWN_NUMBERS else shown
