"""The table of layouts, and the choice of one. A new format needs one module and one line in the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError, printable
from embsync.snapshots import (
    arrow,
    delimited,
    delta,
    labels,
    npy,
    npy_parts,
    npz,
    parquet,
    projector,
    safetensors,
    spark_pipeline,
    state_dict,
    word2vec,
    word2vec_binary,
)
from embsync.snapshots.accounting import Claim, Missing, missing_of, unread
from embsync.snapshots.conversions import describe_unrecognised, misnamed
from embsync.snapshots.files import Place
from embsync.snapshots.sides import IdentifiedSide, require_agreement
from embsync.snapshots.snapshot import Snapshot
from embsync.snapshots.tables import reject_tables

#: What messages give as expected if nothing shows which layout was intended.
_EXPECTED = "items.npy with item_ids.npy, one .npz, items.parquet, items.safetensors (likewise for users), or one .vec"

Sides = tuple[IdentifiedSide, IdentifiedSide | None]


@dataclass(frozen=True)
class Layout:
    """A layout of snapshots.

    Parameters
    ----------
    name : str
        The value of ``snapshot.layout``.
    expects : str
        A description, for messages.
    recognise : function of a Place
        Inspects names and first bytes only.
    claim : function of a Place and the configuration
        Returns which entries the layout reads, by their names.
    open_sides : function of a Place and the configuration
        Reads headers, no rows.
    is_foreign : function of a Place
        Returns whether what was recognised cannot be a side; reads a few headers.
    """

    name: str
    expects: str
    recognise: Callable[[Place], bool]
    claim: Callable[[Place, SnapshotConfig], Claim]
    open_sides: Callable[[Place, SnapshotConfig], Sides]
    is_foreign: Callable[[Place], bool] = lambda _: False


LAYOUTS = (
    Layout("npy", npy.EXPECTS, npy.recognise, npy.claim, npy.open_sides),
    Layout(
        "npy_parts", npy_parts.EXPECTS, npy_parts.recognise, npy_parts.claim, npy_parts.open_sides, npy_parts.is_foreign
    ),
    Layout("npz", npz.EXPECTS, npz.recognise, npz.claim, npz.open_sides, npz.is_foreign),
    Layout("parquet", parquet.EXPECTS, parquet.recognise, parquet.FORMAT.claim, parquet.FORMAT.open_sides),
    Layout(
        "spark_pipeline",
        spark_pipeline.EXPECTS,
        spark_pipeline.recognise,
        spark_pipeline.claim,
        spark_pipeline.open_sides,
    ),
    Layout("arrow", arrow.EXPECTS, arrow.FORMAT.recognise, arrow.FORMAT.claim, arrow.FORMAT.open_sides),
    Layout("csv", delimited.EXPECTS, delimited.recognise, delimited.FORMAT.claim, delimited.FORMAT.open_sides),
    Layout("projector", projector.EXPECTS, projector.recognise, projector.claim, projector.open_sides),
    Layout("delta", delta.EXPECTS, delta.recognise, delta.claim, delta.open_sides),
    Layout("safetensors", safetensors.EXPECTS, safetensors.recognise, safetensors.claim, safetensors.open_sides),
    Layout("state_dict", state_dict.EXPECTS, state_dict.recognise, state_dict.claim, state_dict.open_sides),
    Layout("word2vec", word2vec.EXPECTS, word2vec.recognise, word2vec.claim, word2vec.open_sides),
    Layout(
        "word2vec_binary",
        word2vec_binary.EXPECTS,
        word2vec_binary.recognise,
        word2vec_binary.claim,
        word2vec_binary.open_sides,
    ),
)


def open_snapshot(
    path: str | Path, config: SnapshotConfig, *, follow_link: bool = True, marker: str = "_SUCCESS"
) -> Snapshot:
    """Open a snapshot.

    Parameters
    ----------
    path : str or Path
        A directory or file. A link is followed once, and its own name is the snapshot's; links inside are followed if
        they stay in the directory, or in the cache that it belongs to.
    config : SnapshotConfig
        ``layout: auto`` selects the one layout that recognises ``path``.
    follow_link : bool
        False refuses a ``path`` that is a link, and links inside, as in a watched directory.
    marker : str
        Name of the file that marks a finished snapshot; it is never read as data.

    Returns
    -------
    Snapshot
        Well-formed as far as headers show: the sides have the same width, and as many ids as rows.

    Raises
    ------
    NotFoundError
        There is nothing at ``path``.
    SnapshotError
        No layout or several fit, or a file is ill-formed; the message names it, what was found and expected.
    SnapshotChanged
        Something was added or removed meanwhile; a later attempt may succeed.
    UsageError
        The layout needs a package that is not installed.
    """
    place = Place.at(path, follow_link=follow_link, inner_links=follow_link)
    if place.given is not None and not recognised_by(place, config):
        place = replace(place, given=None)  # a link without a suffix to a file with one
    if printable(place.name) != place.name:
        raise SnapshotError("a name that is not UTF-8 cannot be recorded", where=str(place), hint="rename it")
    reject_tables(place)
    layout = _choose(place, config)
    try:
        claim = _claim(layout, place, config)
        missing = missing_of(place, claim, config, marker)
        if missing is not None:
            raise missing.refusal(place)
        items, users = layout.open_sides(place, config)
    except SnapshotError as error:
        raise (_misnamed(error, place) or error) from None
    left = unread(place, claim, marker)
    if config.sides == "items" and users is not None:
        left, users = (*left, users.source), None
    require_agreement(items, users, config.max_bytes)
    shown, found = Path(path).absolute(), labels.find(place, items, config)
    return Snapshot(shown.name or place.name, shown, layout.name, items, users, left, found)


def _misnamed(error: SnapshotError, place: Place) -> SnapshotError | None:
    """Return the refusal of the file that an error names, if its first bytes contradict its name."""
    where, root = str(error.where), str(place)
    for path in (where, where.rpartition("(")[0]):  # a column or member is appended in brackets
        if error.transient or not (path == root or path.startswith(f"{root}/")):
            continue
        file = place
        for name in filter(None, path.removeprefix(root).split("/")):
            file = file.child(name)
        advice = misnamed(file)
        if advice is not None:
            return SnapshotError(
                "contents do not match the name", where=path, found=advice[0], expected=error.expected, hint=advice[1]
            )
    return None


def missing_at(place: Place, config: SnapshotConfig, marker: str) -> Missing | None:
    """Return why the snapshot at ``place`` is incomplete, if exactly one layout recognises it."""
    place = place.listed_once()
    fitting = recognised_by(place, config)
    return missing_of(place, _claim(fitting[0], place, config), config, marker) if len(fitting) == 1 else None


def _claim(layout: Layout, place: Place, config: SnapshotConfig) -> Claim:
    """Return what a layout reads, including the table of labels beside it."""
    claim = layout.claim(place, config)
    return replace(claim, entries=claim.entries | {*labels.tables_beside(place)}) if config.labels else claim


def recognised_by(place: Place, config: SnapshotConfig) -> list[Layout]:
    """Return the layouts that recognise ``place``, among those that the configuration allows."""
    place = place.listed_once()
    return [layout for layout in _allowed(config) if layout.recognise(place)]


def is_foreign(place: Place, config: SnapshotConfig) -> bool:
    """Return whether ``place`` is recognised but known not to be a snapshot; False unless the layout is auto."""
    fitting = recognised_by(place, config) if config.layout == "auto" else []
    return bool(fitting) and all(layout.is_foreign(place) for layout in fitting)


def _allowed(config: SnapshotConfig) -> list[Layout]:
    return [layout for layout in LAYOUTS if config.layout in {"auto", layout.name}]


def _choose(place: Place, config: SnapshotConfig) -> Layout:
    fitting = recognised_by(place, config)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise SnapshotError(
            "more than one layout fits",
            where=str(place),
            found=", ".join(layout.name for layout in fitting),
            expected="one",
            hint="set snapshot.layout",
        )
    found, hint = describe_unrecognised(place)
    expected = None if hint else _EXPECTED
    if config.layout != "auto":
        expected = " | ".join(f"{one.name}: {one.expects}" for one in _allowed(config))
        others = [one.name for one in LAYOUTS if one.recognise(place)]
        hint = f"set snapshot.layout: {' or '.join(others)}" if others else hint
    raise SnapshotError("no known layout", where=str(place), found=found, expected=expected, hint=hint)
