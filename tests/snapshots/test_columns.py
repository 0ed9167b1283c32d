"""Columns of ids and vectors are never guessed: names precede types, and two candidates are an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.safetensors import save_file

from embsync.config import SideColumns, SnapshotConfig
from embsync.config_loader import load
from embsync.errors import SnapshotError
from embsync.snapshots import open_snapshot
from embsync.snapshots.columns import Columns, choose

CONFIG = SnapshotConfig()
FLOATS = ("list float32", "list<element: float>")
INT = ("integer", "int64")
TEXT = ("string", "string")
FLOAT = ("float64", "double")
DECIMAL = ("other", "decimal128(20, 0)")
UUID = ("other", "fixed_size_binary[16]")


def chosen(config: SnapshotConfig = CONFIG, side: str = "items", **columns: tuple[str, str]) -> tuple[str, str | None]:
    """Return vectors and ids chosen from columns of (kind, type)."""
    table = Columns(
        "t.parquet",
        {name: kind for name, (kind, _) in columns.items()},
        {name: full for name, (_, full) in columns.items()},
    )
    found = choose(side, table, config)
    assert len(found.vectors) == 1
    return found.vectors[0], found.ids


@pytest.mark.parametrize(
    "name",
    [
        "id",
        "item_id",
        "itemId",
        "ITEM_ID",
        "itemid",
        "item",
        "asin",
        "sku",
        "product_id",
        "movieId",
        "track_uuid",
        "isbn",
        "key",
        "token",
        "word",
        "uri",
        "url",
        "node_id",
    ],
)
@pytest.mark.parametrize(
    "kind",
    [
        FLOAT,
        DECIMAL,
        UUID,
        ("other", "struct<id: int64>"),
        ("float64", "dictionary<values=double, indices=int32"),
        ("other", "timestamp[us]"),
        ("other", "binary"),
        ("list other", "list<element: int64>"),
        ("other", "bool"),
    ],
)
def test_a_named_id_of_an_unusable_type_is_refused(name: str, kind: tuple[str, str]) -> None:
    """The message names the column and how to cast it; an integer column beside it is not used."""
    for other in ("popularity_rank", "__index_level_0__", "count", "timestamp", "stock", "shelf"):
        with pytest.raises(SnapshotError, match=f"no id column: {name} is of an unusable type") as refusal:
            chosen(**{name: kind, other: INT, "embedding": FLOATS})
        assert name in (refusal.value.hint or "")
        assert chosen(**{name: INT, other: INT, "embedding": FLOATS}) == ("embedding", name)


@pytest.mark.parametrize(
    "names", [("id", "item_id"), ("item_id", "product_id"), ("sku", "asin"), ("movieId", "id"), ("colour", "shape")]
)
@pytest.mark.parametrize("second", [INT, TEXT, FLOAT])
def test_two_candidate_id_columns_are_an_error(names: tuple[str, str], second: tuple[str, str]) -> None:
    """The message names both and the configuration key, which then selects one."""
    columns = {names[0]: INT, names[1]: second, "embedding": FLOATS}
    if names == ("colour", "shape") and second == FLOAT:  # a column of numbers without a known name is not a candidate
        assert chosen(**columns)[1] == "colour"
        return
    with pytest.raises(SnapshotError, match=f"{names[0]}.*{names[1]}.*snapshot.id_column"):
        chosen(**columns)
    assert chosen(SnapshotConfig(id_column=names[0]), **columns)[1] == names[0]


@pytest.mark.parametrize(
    ("columns", "ids"),
    [
        ({"item_id": INT, "user_id": INT}, "item_id"),
        ({"item_id": INT, "url": TEXT, "title": TEXT, "price": FLOAT}, "item_id"),
        ({"movie": INT, "rank": INT}, "movie"),
        ({"shelfmark": TEXT}, "shelfmark"),
        (
            {
                "item_id": INT,
                "event_timestamp": ("other", "timestamp[s]"),
                "created": ("other", "timestamp[s]"),
                "stock": INT,
            },
            "item_id",
        ),
        ({"track_id": TEXT, "category_id": INT, "session_id": INT}, "track_id"),
        ({"word": TEXT, "count": INT}, "word"),
        ({"shelfmark": INT, "bias": FLOAT}, "shelfmark"),
    ],
)
def test_columns_are_chosen_by_name(columns: dict[str, Any], ids: str) -> None:
    """Names of ids take precedence; columns beside ids are ignored; a single other column is used as ids."""
    assert chosen(embedding=FLOATS, **columns)[1] == ids


@pytest.mark.parametrize(
    "columns",
    [
        {"popularity_rank": INT},
        {"__index_level_0__": INT},
        {"count": INT, "title": TEXT},
        {"user_id": INT},
        {"timestamp": INT},
        {"category_id": INT},
        {"userId": INT, "rank": INT},
        {},
    ],
)
def test_a_table_without_an_id_column_is_refused(columns: dict[str, Any]) -> None:
    """The table is refused even if one integer column remains, or if its ids are those of the other side."""
    with pytest.raises(SnapshotError, match=r"no id column|ids of the other side"):
        chosen(embedding=FLOATS, **columns)


def test_an_id_column_of_the_other_side_is_reported() -> None:
    """The files of both sides may be exchanged, or a join kept the wrong key."""
    with pytest.raises(SnapshotError, match="ids of the other side among users; found item_id"):
        chosen(side="users", item_id=INT, embedding=FLOATS)


@pytest.mark.parametrize(
    "columns",
    [
        {"embedding": FLOATS, "features": FLOATS},
        {"embedding": FLOATS, "image_embedding": FLOATS},
        {"a": FLOATS, "b": FLOATS},
        {"item_embedding": FLOATS, "vector": ("list other", "list<element: int8>")},
        {"content_vec": FLOATS, "text_vec": FLOATS},
        {"embedding": TEXT, "item_factors": FLOATS},
    ],
)
def test_two_candidate_vector_columns_are_an_error(columns: dict[str, Any]) -> None:
    """The message names both, and the configuration key."""
    with pytest.raises(SnapshotError, match=r"more than one column may be the vector.*snapshot\.vector_column"):
        chosen(item_id=INT, **columns)


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        (("list other", "list<element: int8>"), "FLOAT"),
        (("other", "struct<type: int8>"), "vector_to_array"),
        (("other", "binary"), "frombuffer"),
        (("list other", "list<element: decimal128(1"), "CAST"),
        (FLOAT, "float32"),
    ],
)
def test_named_vectors_of_an_unusable_type_are_refused(kind: tuple[str, str], hint: str) -> None:
    """No other list column is used, and the message has the cast."""
    for beside in ({}, {"history": FLOATS}):
        with pytest.raises(SnapshotError, match="no vector column: embedding") as refusal:
            chosen(item_id=INT, embedding=kind, **beside)
        assert hint in (refusal.value.hint or "")


def test_row_numbers_do_not_replace_ids() -> None:
    """``row_number_ids`` with a column named as ids is an error; a rank beside the vectors is not an id."""
    numbers = SnapshotConfig(row_number_ids=True)
    with pytest.raises(SnapshotError, match=r"row numbers .*item_id"):
        chosen(numbers, item_id=DECIMAL, embedding=FLOATS)
    assert chosen(numbers, popularity_rank=INT, embedding=FLOATS) == ("embedding", None)


def test_each_side_may_have_its_own_columns() -> None:
    """The names can be set for each side, in a file or the environment."""
    config = load(environment={"EMBSYNC_SNAPSHOT__ID_COLUMN": "{items: sku, users: email}"}).snapshot
    assert config.id_column == SideColumns(items="sku", users="email")
    columns = {"sku": INT, "asin": TEXT, "email": TEXT, "embedding": FLOATS}
    assert (chosen(config, **columns)[1], chosen(config, "users", **columns)[1]) == ("sku", "email")


@pytest.mark.parametrize("kind", ["float64", "decimal", "uuid", "dictionary", "struct", "timestamp"])
def test_additional_columns_in_real_files_are_ignored(tmp_path: Path, kind: str) -> None:
    """It holds with the types that the decoder reports for real files."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    numbers = np.arange(20)
    ids = {
        "float64": lambda: pa.array(numbers.astype("f8")),
        "decimal": lambda: pa.array(numbers).cast(pa.decimal128(20, 0)),
        "uuid": lambda: pa.array([bytes(range(16))] * 20, pa.binary(16)),
        "dictionary": lambda: pa.array(numbers.astype("f8")).dictionary_encode(),
        "struct": lambda: pa.array([{"v": int(number)} for number in numbers]),
        "timestamp": lambda: pa.array(numbers.astype("datetime64[s]")),
    }[kind]()
    vectors = list(np.ones((20, 4), np.float32))
    pq.write_table(pa.table({"item_id": ids, "popularity_rank": numbers, "embedding": vectors}), tmp_path / "t.parquet")
    with pytest.raises(SnapshotError, match=r"no id column: item_id.*hint:.*item_id"):
        open_snapshot(tmp_path / "t.parquet", CONFIG)


def arrays(path: Path, **named: Any) -> Path:
    """Write arrays as layout npy."""
    path.mkdir(exist_ok=True)
    for name, array in named.items():
        np.save(path / f"{name}.npy", array)
    return path


ITEMS, USERS = np.ones((30, 4), np.float32), np.ones((40, 4), np.float32)


@pytest.mark.parametrize("beside", ["item_ids", "ids", "itemids", "item_id", "item2id", "items_ids"])
def test_row_numbers_do_not_replace_id_files(tmp_path: Path, beside: str) -> None:
    """It holds for any name of the file; without ``row_number_ids``, the message has the expected name."""
    path = arrays(tmp_path / "s", items=ITEMS, **{beside: np.arange(30)})
    with pytest.raises(SnapshotError, match=f"row numbers are configured as ids.*{beside}"):
        open_snapshot(path, SnapshotConfig(row_number_ids=True))
    if beside != "item_ids":
        with pytest.raises(SnapshotError, match=f"vectors without ids.*{beside}.*save the ids as item_ids"):
            open_snapshot(path, CONFIG)


@pytest.mark.parametrize("beside", ["item_ids.json", "item_mapping.pkl", "vocab.txt", "item_ids.csv"])
def test_row_numbers_do_not_replace_ids_of_another_format(tmp_path: Path, beside: str) -> None:
    """A pickle of encoders counts as ids, too."""
    path = arrays(tmp_path / "s", items=ITEMS)
    (path / beside).write_text("x")
    with pytest.raises(SnapshotError, match="row numbers are configured as ids"):
        open_snapshot(path, SnapshotConfig(row_number_ids=True))


def test_ids_of_one_side_only_do_not_make_the_other_row_numbers(tmp_path: Path) -> None:
    """Users without ids beside items with ids are refused with and without the key."""
    path = arrays(tmp_path / "s", items=ITEMS, item_ids=np.arange(30), users=USERS)
    for numbers in (False, True):
        with pytest.raises(SnapshotError, match=r"user_ids|item_ids"):
            open_snapshot(path, SnapshotConfig(row_number_ids=numbers))


def test_exchanged_id_files_are_reported(tmp_path: Path) -> None:
    """The sizes of item_ids.npy and user_ids.npy are exchanged."""
    path = arrays(tmp_path / "s", items=ITEMS, item_ids=np.arange(40), users=USERS, user_ids=np.arange(30))
    with pytest.raises(SnapshotError, match="ids of the two sides are swapped; found 40 item_ids and 30 user_ids"):
        open_snapshot(path, CONFIG)


@pytest.mark.parametrize("inside", ["items", "item_factors"])
def test_ids_beside_an_archive_are_read(tmp_path: Path, inside: str) -> None:
    """Implicit saves only factors; wrong lengths, repeated ids and row numbers are refused."""
    path = tmp_path / "s"
    path.mkdir()
    np.savez(path / "model.npz", **{inside: ITEMS, inside.replace("item", "user"): USERS, "factors": 4})
    with pytest.raises(SnapshotError, match="without ids"):
        open_snapshot(path, CONFIG)
    arrays(path, item_ids=np.arange(30) + 5000, user_ids=np.arange(40) + 9000)
    opened = open_snapshot(path, CONFIG)
    assert opened.users is not None
    assert (opened.items.ids()[0], opened.users.ids()[0], opened.unread) == (5000, 9000, ())
    for config in (SnapshotConfig(row_number_ids=True),):
        with pytest.raises(SnapshotError, match=r"row numbers .*item_ids\.npy"):
            open_snapshot(path, config)
        with pytest.raises(SnapshotError, match=r"row numbers .*item_ids\.npy"):
            open_snapshot(path / "model.npz", config)
    np.save(path / "user_ids.npy", np.arange(39))
    with pytest.raises(SnapshotError, match=r"39 ids; expected 40"):
        open_snapshot(path, CONFIG)


def test_ids_both_inside_and_beside_an_archive_are_an_error(tmp_path: Path) -> None:
    """Neither of them is used."""
    path = arrays(tmp_path / "s", item_ids=np.arange(30))
    np.savez(path / "m.npz", items=ITEMS, item_ids=np.arange(30) + 1)
    with pytest.raises(SnapshotError, match=r"more than one item_ids; .*m\.npz\(item_ids\.npy\) and .*item_ids\.npy"):
        open_snapshot(path, CONFIG)


@pytest.mark.parametrize(
    ("ids", "hint"),
    [
        (np.arange(30).astype("f8"), "astype"),
        (np.array([f"i{k}" for k in range(30)], object), r"ids\.astype\(str\)"),
        (np.arange(30).astype("datetime64[s]"), "astype"),
        (np.zeros(30, "V16"), "uuid"),
        (np.zeros(30, bool), "integers"),
    ],
)
def test_id_arrays_of_an_unusable_type_get_a_conversion_hint(tmp_path: Path, ids: Any, hint: str) -> None:
    """Each message is one line."""
    path = arrays(tmp_path / "s", items=ITEMS, item_ids=ids)
    with pytest.raises(SnapshotError, match=f"item_ids.*hint: .*{hint}"):
        open_snapshot(path, CONFIG)


def test_row_numbers_do_not_replace_ids_of_safetensors_and_text(tmp_path: Path) -> None:
    """It holds for files with the expected name and with a similar one."""
    save_file({"vectors": ITEMS, "ids": np.arange(30)}, tmp_path / "items.safetensors")
    save_file({"vectors": ITEMS, "item_ids": np.arange(30)}, tmp_path / "other.safetensors")
    (tmp_path / "words.vec").write_text("2 2\na 1 2\nb 3 4\n")
    for name in ("items.safetensors", "other.safetensors", "words.vec"):
        with pytest.raises(SnapshotError, match="row numbers are configured as ids"):
            open_snapshot(tmp_path / name, SnapshotConfig(row_number_ids=True))
    with pytest.raises(SnapshotError, match=r"vectors without ids.*item_ids"):
        open_snapshot(tmp_path / "other.safetensors", CONFIG)
    save_file({"vectors": ITEMS, "ids": np.arange(30.0)}, tmp_path / "floats.safetensors")
    with pytest.raises(SnapshotError, match=r"ids of an unusable type; found float64.*astype"):
        open_snapshot(tmp_path / "floats.safetensors", CONFIG)
