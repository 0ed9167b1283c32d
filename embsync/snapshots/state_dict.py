"""Layout state_dict: one safetensors file with a model's tensors, including those of both sides.

``save_file(model.state_dict(), "model.safetensors")`` writes ``item_embedding.weight`` and ``user_embedding.weight``.
The tensors are found by name, or configured by ``snapshot.vector_column``. Ids are tensors of the same file, or in a
file beside it for each side: ``item_ids.npy``, or a vocabulary such as ``item_vocab.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.numpy_header import ArrayHeader
from embsync.snapshots import names
from embsync.snapshots.accounting import Claim
from embsync.snapshots.arrays import BFLOAT16, StoredColumn, StoredMatrix
from embsync.snapshots.files import FileBytes, Place, file_size
from embsync.snapshots.named_arrays import configured_name, reject_ids
from embsync.snapshots.npy import NpyFile
from embsync.snapshots.safetensors import SUFFIX, Tensor, as_ids, is_of_sides, read_headers
from embsync.snapshots.sides import ITEMS, USERS, Column, IdentifiedSide
from embsync.snapshots.vocabulary import SUFFIXES, Vocabulary

EXPECTS = "one .safetensors file with tensors such as item_embedding.weight, and item_vocab.json or item_ids.txt beside"
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_VECTOR_WORDS = frozenset(
    {"embedding", "embeddings", "embed", "emb", "vectors", "vector", "factors", "factor", "latent", "tower", "table"}
)
_NEVER = frozenset({"bias", "biases", "norm", "count", "counts"})


def recognise(place: Place) -> bool:
    """Return whether there is one such file at ``place``, without the tensor names of layout safetensors."""
    file = _file(place)
    return file is not None and not is_of_sides(file)


def claim(place: Place, config: SnapshotConfig) -> Claim:
    """Return which entries at ``place`` this layout reads."""
    file = _file(place)
    assert file is not None
    headers = _headers(file)
    vectors = {side: name for side in (ITEMS, USERS) if (name := _vectors(side, headers, config, file)) is not None}
    beside = {side: _beside(place, side, vectors) for side in vectors}
    identified = {
        side
        for side in vectors
        if beside[side] or config.row_number_ids or _ids_inside(side, headers, config) is not None
    }
    entries = {path.name for files in beside.values() for path in files}
    if place.kind() == "directory":
        entries.add(file.name)
    return Claim(frozenset(identified), frozenset(entries))


def open_sides(place: Place, config: SnapshotConfig) -> tuple[IdentifiedSide, IdentifiedSide | None]:
    """Return the sides at ``place``, checked by the header of the file and by their ids."""
    file = _file(place)
    assert file is not None
    headers = _headers(file)
    vectors = {side: name for side in (ITEMS, USERS) if (name := _vectors(side, headers, config, file)) is not None}
    if ITEMS not in vectors:
        shown = ", ".join(name for name, header in headers.items() if len(header.shape) == 2)
        raise SnapshotError(
            "no tensor of items",
            where=str(file),
            found=shown[:200] or "no matrix",
            expected="vectors, or a name such as item_embedding.weight",
            hint="name the tensor of each side in snapshot.vector_column",
        )
    items, users = (
        _open_side(side, vectors, place, headers, config) if side in vectors else None for side in (ITEMS, USERS)
    )
    assert items is not None
    return items, users


def _file(place: Place) -> Place | None:
    if place.kind() == "file":
        return place if place.name.endswith(SUFFIX) else None
    found = [name for name in place.entries() if name.endswith(SUFFIX) and not name.startswith((".", "_"))]
    named = {f"{side}{SUFFIX}" for side in (ITEMS, USERS)}
    return place.child(found[0]) if len(found) == 1 and found[0] not in named else None


def _headers(file: Place) -> dict[str, ArrayHeader]:
    with file.open() as opened:
        return read_headers(FileBytes(opened, str(file)), file_size(opened))


def _vectors(side: str, headers: Mapping[str, ArrayHeader], config: SnapshotConfig, file: Place) -> str | None:
    configured = configured_name(config.vector_column, side)
    if configured is not None:
        if configured not in headers:
            raise SnapshotError("no such tensor", where=str(file), found=", ".join(headers)[:200], expected=configured)
        return configured
    likely = [name for name, header in headers.items() if _may_be_vectors(name, header, side)]
    likely = [name for name in likely if not _VECTOR_WORDS.isdisjoint(_words(name))] or likely
    if len(likely) > 1:
        raise SnapshotError(
            f"more than one tensor may be the vectors of {side}",
            where=str(file),
            found=", ".join(f"{name} {headers[name].shape}" for name in likely)[:300],
            expected="one",
            hint=f"name the one in snapshot.vector_column, such as {{{side}: {likely[0]}}}",
        )
    return likely[0] if likely else None


def _may_be_vectors(name: str, header: ArrayHeader, side: str) -> bool:
    is_float = header.dtype.kind == "f" or header.dtype == BFLOAT16
    matrix = is_float and len(header.shape) == 2 and header.shape[1] > 1
    return matrix and names.side_of(name) == side and _NEVER.isdisjoint(_words(name))


def _ids_inside(side: str, headers: Mapping[str, ArrayHeader], config: SnapshotConfig) -> str | None:
    configured = configured_name(config.id_column, side)
    if configured is not None:
        return configured
    likely = [
        name
        for name, header in headers.items()
        if names.side_of(name) == side and names.parse(name).role == "ids" and header.dtype.kind in "iu"
    ]
    return likely[0] if len(likely) == 1 else None


def _beside(place: Place, side: str, vectors: Mapping[str, str]) -> list[Place]:
    """Return the files with ids of a side; a file whose name has no side is of the items, if there are no users."""
    if place.kind() == "file":
        return []
    found = []
    for name, kind in place.entries().items():
        parsed = names.parse(name)
        mine = parsed.side == side or (parsed.side is None and USERS not in vectors)
        if kind == "file" and parsed.finished and parsed.role == "ids" and mine and name.endswith((*SUFFIXES, ".npy")):
            found.append(place.child(name))
    return found


def _open_side(
    side: str,
    vectors: Mapping[str, str],
    place: Place,
    headers: Mapping[str, ArrayHeader],
    config: SnapshotConfig,
) -> IdentifiedSide:
    file = _file(place)
    assert file is not None
    matrix = StoredMatrix(Tensor(file, vectors[side]), headers[vectors[side]])
    inside, beside = _ids_inside(side, headers, config), _beside(place, side, vectors)
    sources = [*([inside] if inside else []), *(path.name for path in beside)]
    if config.row_number_ids:
        reject_ids(sources, str(place))
    elif len(sources) != 1:
        of_side = side[:-1]
        raise SnapshotError(
            "vectors without ids" if not sources else f"more than one may be the ids of {side}",
            where=f"{file}({vectors[side]})",
            found=", ".join(sources) or None,
            expected=f"one of {of_side}_vocab.json, {of_side}_ids.txt and {of_side}_ids.npy beside the file",
            hint=None if sources else "set snapshot.row_number_ids: true if row numbers are the ids",
        )
    ids = None if not sources else _column(file, inside, headers) if inside else _beside_column(beside[0])
    return IdentifiedSide(side, f"{file}({vectors[side]})", matrix, ids, None, stored_bytes=matrix.header.data_bytes)


def _column(file: Place, name: str, headers: Mapping[str, ArrayHeader]) -> Column:
    if name not in headers:
        raise SnapshotError("no such tensor", where=str(file), found=", ".join(headers)[:200], expected=name)
    tensor = Tensor(file, name, is_ids=True)
    return StoredColumn(tensor, as_ids(headers[name], str(tensor)))


def _beside_column(place: Place) -> Column:
    if place.name.endswith(SUFFIXES):
        return Vocabulary.at(place)
    stored = NpyFile(place)
    with stored.open() as (header, _):
        return StoredColumn(stored, header)


def _words(name: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(name)}
