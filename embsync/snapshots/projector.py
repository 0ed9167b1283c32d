"""Layout projector: ``tensors.tsv`` or ``vectors.tsv`` of numbers, and ``metadata.tsv`` with one id per row.

TensorBoard's embedding projector reads it, and gensim's ``word2vec2tensor`` writes it. Metadata has a header if and
only if it has several columns.
"""

from __future__ import annotations

import numpy as np

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.snapshots.accounting import Claim
from embsync.snapshots.column_files import FileColumn, Part, count_rows, rows_of
from embsync.snapshots.columns import Chosen, choose_ids
from embsync.snapshots.decoder_process import Decoders, Message
from embsync.snapshots.files import FileBytes, Place
from embsync.snapshots.named_arrays import reject_ids
from embsync.snapshots.sides import ITEMS, IdentifiedSide

EXPECTS = "tensors.tsv (or vectors.tsv) and metadata.tsv"
_TENSORS = ("tensors.tsv", "vectors.tsv")
_METADATA = "metadata.tsv"
_FIRST = 4096


def recognise(place: Place) -> bool:
    """Return whether the names at ``place`` match this layout."""
    return place.kind() == "directory" and _METADATA in place.entries() and bool(_tensors(place))


def claim(place: Place, _: SnapshotConfig) -> Claim:
    """Return which entries at ``place`` this layout reads."""
    tensors = frozenset(_tensors(place))
    return Claim(frozenset({ITEMS}), tensors | {_METADATA}, tensors)


def open_sides(place: Place, config: SnapshotConfig) -> tuple[IdentifiedSide, None]:
    """Return the one side at ``place``; both files are read once to count their lines."""
    if len(names := _tensors(place)) != 1:
        raise SnapshotError("more than one file of vectors", where=str(place), found=", ".join(names), expected="one")
    if config.row_number_ids:
        reject_ids([_METADATA], str(place))
    decoders, tensors, metadata = Decoders(), place.child(names[0]), place.child(_METADATA)
    numbers = Part.at(tensors, _form(header=False, ids=False), decoders)
    labels = Part.at(metadata, _form(header=_has_tab(metadata), ids=True), decoders)
    for part in (numbers, labels):
        if not part.kinds:
            raise SnapshotError("no rows", where=str(part.place), found="no lines", expected="at least one row")
    wrong = [name for name, kind in numbers.kinds.items() if kind not in {"number", "integer"}]
    if wrong:
        raise SnapshotError(
            "not a number",
            where=str(tensors),
            found=f"{numbers.kinds[wrong[0]]} in column {wrong[0]}",
            expected="numbers and tabs, without a header",
        )
    chosen = Chosen(tuple(numbers.kinds), np.dtype("f4"), choose_ids(ITEMS, labels.columns, config), None)
    counted, _ = count_rows([numbers], None, "", decoders)
    named, kind = count_rows([labels], chosen.ids, "", decoders)
    assert chosen.ids is not None
    rows = rows_of(tensors, counted, chosen, decoders)
    ids = FileColumn(str(metadata), named, chosen.ids, kind, decoders)
    stored_bytes = rows.count * (rows.width * 4 + 8)
    return IdentifiedSide(ITEMS, str(tensors), rows, ids, None, stored_bytes=stored_bytes), None


def _tensors(place: Place) -> list[str]:
    entries = place.entries()
    return [name for name in _TENSORS if name in entries]


def _has_tab(place: Place) -> bool:
    with place.open() as file:
        return b"\t" in FileBytes(file, str(place)).read(_FIRST, 0).partition(b"\n")[0]


def _form(*, header: bool, ids: bool) -> Message:
    return {"kind": "text", "delimiter": "\t", "header": header, "quoted": False, "packed": None, "ids": ids}
