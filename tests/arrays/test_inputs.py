"""Arrays and ids of every supported type give the same result in ``embsync.stabilize``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.nights import night

import embsync
from embsync.errors import SnapshotError

FIRST, SECOND = (night(number, items=400, churn=0.0).one_sided() for number in range(2))
NAMES = [f"müsli-{number}" for number in FIRST.item_ids.tolist()]
START = embsync.stabilize(FIRST.items, item_ids=np.array(NAMES))
WANTED = embsync.stabilize(FIRST.items, item_ids=np.array(NAMES), anchors=START.anchors).items


def strings(kind: str) -> Any:
    """Return the ids as strings of a type."""
    if kind == "list":
        return NAMES
    if kind == "object":
        return np.array(NAMES, object)
    if kind == "bytes":
        return [name.encode() for name in NAMES]
    if kind == "StringDType":
        return np.array(NAMES, np.dtypes.StringDType())
    if kind.startswith("arrow"):
        pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        plain = pa.array(NAMES)
        return {
            "arrow": plain,
            "arrow large": plain.cast(pa.large_string()),
            "arrow view": plain.cast(pa.string_view()),
            "arrow dictionary": plain.dictionary_encode(),
            "arrow chunks": pa.chunked_array([plain[:7], plain[7:]]),
        }[kind]
    if kind == "polars":
        return pytest.importorskip("polars", reason="polars is not installed").Series(NAMES)
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    return {
        "pandas object": lambda: pd.Series(NAMES, dtype=object),
        "pandas string": lambda: pd.Series(NAMES, dtype="string"),
        "pandas pyarrow": lambda: pd.Series(NAMES, dtype="string[pyarrow]"),
        "pandas categorical": lambda: pd.Categorical(NAMES),
        "pandas index": lambda: pd.Index(NAMES),
        "pandas arrow type": lambda: pd.array(NAMES, dtype="string[pyarrow]"),
    }[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        "list",
        "object",
        "bytes",
        "StringDType",
        "arrow",
        "arrow large",
        "arrow view",
        "arrow dictionary",
        "arrow chunks",
        "polars",
        "pandas object",
        "pandas string",
        "pandas pyarrow",
        "pandas categorical",
        "pandas index",
        "pandas arrow type",
    ],
)
def test_string_ids_of_any_kind_are_the_same_ids(kind: str) -> None:
    """String ids of any type, aligned to the same anchors, give the same rows bit for bit."""
    found = embsync.stabilize(FIRST.items, item_ids=strings(kind), anchors=START.anchors)
    np.testing.assert_array_equal(found.items, WANTED)


@pytest.mark.parametrize(
    "kind", ["int8", "int64", "uint64", "list", "range", "object", "pandas Int64", "pandas", "arrow", "polars"]
)
def test_integer_ids_of_any_kind_are_the_same_ids(kind: str) -> None:
    """Integer ids of any type give the same rows, including nullable integers without missing values."""
    few = np.arange(120)
    start = embsync.stabilize(FIRST.items[:120], item_ids=few).anchors
    if kind in {"int8", "int64", "uint64"}:
        ids: Any = few.astype(kind)
    elif kind == "object":
        ids = few.astype(object)
    elif kind == "arrow":
        ids = pytest.importorskip("pyarrow", reason="pyarrow is not installed").array(few)
    elif kind == "polars":
        ids = pytest.importorskip("polars", reason="polars is not installed").Series(few)
    elif kind.startswith("pandas"):
        pd = pytest.importorskip("pandas", reason="pandas is not installed")
        ids = pd.Series(few, dtype="Int64" if kind == "pandas Int64" else None)
    else:
        ids = {"list": few.tolist(), "range": range(120)}[kind]
    found = embsync.stabilize(FIRST.items[:120], item_ids=ids, anchors=start)
    assert found.fit_items.cosine == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["a", 1, *range(398)], "not ids of one type"),
        ([None, *NAMES[1:]], "not ids of one type; found NoneType, str, such as None in row 0"),
        ([1.5, *range(399)], "not ids of one type"),
        ([True, *range(399)], "not ids of one type"),
        (["", *NAMES[1:]], "an empty id"),
        (["a\0", *NAMES[1:]], "an id with a NUL"),
        (["\ud800", *NAMES[1:]], "not text"),
        ([2**64, *range(399)], "beyond 64"),
        ([-1, 2**63, *range(398)], "beyond 64"),
        (np.array(NAMES).reshape(20, 20), "item_ids: not one value per row"),
        (np.array(NAMES, object).reshape(400, 1), "item_ids: not one value per row"),
        (dict.fromkeys(NAMES), "item_ids: not one value per row"),
        ("abc", "item_ids: not one value per row"),
        (np.full(400, np.nan), "item_ids: ids of an unusable type; found float64"),
        (np.array(["2026-11-25"] * 400, "M8[D]"), "item_ids: ids of an unusable type"),
    ],
)
def test_invalid_ids_are_refused_in_one_line(ids: Any, says: str) -> None:
    """The message is one line, and not an error of NumPy."""
    with pytest.raises(SnapshotError, match=says) as caught:
        embsync.stabilize(FIRST.items, item_ids=ids)
    assert "\n" not in str(caught.value)


def test_missing_ids_of_pandas_and_arrow_are_refused() -> None:
    """Missing values of any kind are refused as ids."""
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    for holed in (
        pd.Series([None, *NAMES[1:]], dtype="string"),
        pd.Series([None, *range(399)], dtype="Int64"),
        pa.array([None, *NAMES[1:]]),
        pa.array([None, *range(399)]),
    ):
        with pytest.raises(SnapshotError, match=r"ids of an unusable type|not ids of one type"):
            embsync.stabilize(FIRST.items, item_ids=holed)


def test_the_index_of_a_data_frame_is_used_as_ids() -> None:
    """An index of names, or of numbers other than a row count, is used as ids; a default index is not."""
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pd.DataFrame(SECOND.items, index=[f"müsli-{number}" for number in SECOND.item_ids.tolist()])
    wanted = embsync.stabilize(SECOND.items, item_ids=list(frame.index), anchors=START.anchors).items
    for items in (frame, pd.Series(list(SECOND.items), index=frame.index), frame.iloc[::-1]):
        found = embsync.stabilize(items, anchors=START.anchors)
        ordered = found.items[::-1] if items is not frame and isinstance(items, pd.DataFrame) else found.items
        np.testing.assert_allclose(ordered, wanted, atol=1e-6)
    with pytest.raises(SnapshotError, match="vectors without ids"):
        embsync.stabilize(frame.reset_index(drop=True), anchors=START.anchors)
    with pytest.raises(SnapshotError, match="is not a matrix"):
        embsync.stabilize(frame.assign(title="x"), anchors=START.anchors)


def test_arrow_lists_and_array_protocols_are_accepted_as_vectors() -> None:
    """The same inputs are accepted as by ``write_snapshot``."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    wanted = embsync.stabilize(FIRST.items).items
    for items in (pa.array(list(FIRST.items)), FIRST.items.tolist(), np.asfortranarray(FIRST.items)):
        np.testing.assert_allclose(embsync.stabilize(items).items, wanted, atol=1e-6)
