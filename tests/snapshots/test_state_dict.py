"""Layout state_dict: both sides in one safetensors file with a model's names, and ids in a vocabulary beside it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from snapshots.made import ROW_NUMBERS, model, read, vectors
from support.safetensors import save_file

from embsync.config import SideColumns, SnapshotConfig, WatchConfig
from embsync.errors import SnapshotError
from embsync.snapshots import open_snapshot
from embsync.watching.discovery import discover

CONFIG = SnapshotConfig()
MADE = model(items=30, users=20, width=4)
ITEM_NAMES = [f"i{row}" for row in range(30)]
USER_NAMES = [f"u{row}" for row in range(20)]
TENSORS = {
    "item_embedding.weight": MADE.items,
    "user_embedding.weight": MADE.users,
    "item_bias.weight": np.zeros((30, 1), "f4"),
    "mlp.0.weight": np.zeros((8, 8), "f4"),
}


def write(path: Path, tensors: dict[str, Any] | None = None, **beside: object) -> Path:
    """Write a model and vocabularies; ``item_vocab__json`` is a file name, bytes are written unchanged."""
    path.mkdir(exist_ok=True)
    save_file(TENSORS if tensors is None else tensors, path / "model.safetensors")
    for name, value in beside.items():
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        (path / name.replace("__", ".")).write_bytes(data)
    return path


BOTH: dict[str, Any] = {"item_vocab__json": ITEM_NAMES, "user_vocab__json": USER_NAMES}


@pytest.mark.parametrize(
    "beside",
    [
        BOTH,
        {
            "item_ids__json": {name: row for row, name in enumerate(ITEM_NAMES)},
            "user2id__json": {name: row for row, name in enumerate(USER_NAMES)},
        },
        {"item_mapping__json": dict(enumerate(ITEM_NAMES)), "user_vocab__json": USER_NAMES},
        {
            "item_ids__txt": "\n".join(ITEM_NAMES).encode(),
            "user_vocab__txt": ("\r\n".join(USER_NAMES) + "\r\n").encode(),
        },
    ],
)
def test_both_sides_and_their_vocabularies_are_found_by_name(tmp_path: Path, beside: dict[str, Any]) -> None:
    """A vocabulary is a list, a mapping to or from rows, or one line per row; biases and other layers are ignored."""
    opened = open_snapshot(write(tmp_path / "s", **beside), CONFIG)
    assert (opened.layout, opened.unread) == ("state_dict", ())
    assert opened.users is not None
    for side, rows, ids in ((opened.items, MADE.items, ITEM_NAMES), (opened.users, MADE.users, USER_NAMES)):
        np.testing.assert_array_equal(vectors(side), rows)
        assert [value.decode() for value in side.ids().tolist()] == ids


VOCABULARIES: dict[str, tuple[str, bytes, list[object]]] = {
    "numbers": ("json", b"[7, -8, 9]", [7, -8, 9]),
    "text that is numbers": ("json", b'["7", "8", "9"]', [b"7", b"8", b"9"]),
    "a mapping of numbers": ("json", b'{"700": 0, "900": 2, "800": 1}', [700, 800, 900]),
    "a mapping of rows to numbers": ("json", b'{"0": 700, "2": 900, "1": 800}', [700, 800, 900]),
    "every row is its own id": ("json", b'{"0": 0, "1": 1, "2": 2}', [0, 1, 2]),
    "zeros in front": ("json", b'{"007": 0, "900": 2, "800": 1}', [b"007", b"800", b"900"]),
    "lines of numbers": ("txt", b"7\n8\n9\n", [7, 8, 9]),
    "lines with a zero in front": ("txt", b"07\n8\n9\n", [b"07", b"8", b"9"]),
    "lines beyond 64 bits": ("txt", b"7\n8\n9223372036854775808", [b"7", b"8", b"9223372036854775808"]),
}


@pytest.mark.parametrize("case", VOCABULARIES)
def test_every_form_of_vocabulary_is_read(tmp_path: Path, case: str) -> None:
    """JSON values keep their types; keys and lines are integers if all are written as integers."""
    end, data, expected = VOCABULARIES[case]
    tensors = {"item_embedding.weight": MADE.items[:3]}
    opened = open_snapshot(write(tmp_path / "s", tensors, **{f"vocab__{end}": data}), CONFIG)
    assert opened.items.ids().tolist() == expected


BAD: dict[str, tuple[dict[str, Any] | None, dict[str, Any], str]] = {
    "too few": (None, BOTH | {"item_vocab__json": ITEM_NAMES[1:]}, "differ in number.*29 ids"),
    "rows left out": (
        None,
        BOTH | {"item_vocab__json": {name: row + 1 for row, name in enumerate(ITEM_NAMES)}},
        "without a row for each id.*rows 1 to 30",
    ),
    "a row twice": (None, BOTH | {"item_vocab__json": dict.fromkeys(ITEM_NAMES, 0)}, "without a row for each id"),
    "either way round": (
        {"item_embedding.weight": MADE.items[:2]},
        {"item_vocab__json": {"0": 1, "1": 0}},
        "an ambiguous mapping",
    ),
    "an id twice": (None, BOTH | {"item_vocab__json": ["a"] * 30}, "repeated ids"),
    "an empty id": (None, BOTH | {"item_vocab__json": ["", *ITEM_NAMES[1:]]}, "unusable length"),
    "an empty line": (None, {"item_ids__txt": b"a\n\nb\n", "user_vocab__json": USER_NAMES}, "0 bytes in line 2"),
    "a line without end": (
        None,
        {"item_ids__txt": b"a" * 5000, "user_vocab__json": USER_NAMES},
        "5000 bytes in line 1",
    ),
    "not UTF-8": (
        None,
        {"item_ids__txt": b"\xff\n" + "\n".join(ITEM_NAMES[1:]).encode(), "user_vocab__json": USER_NAMES},
        "not UTF-8",
    ),
    "two types": (None, BOTH | {"item_vocab__json": [1, *ITEM_NAMES[1:]]}, "ids of two types"),
    "fractions": (None, BOTH | {"item_vocab__json": [1.5] * 30}, "ill-formed vocabulary"),
    "lists in one another": (None, BOTH | {"item_vocab__json": b"[" * 100_000}, "ill-formed vocabulary"),
    "a number beyond 64 bits": (
        None,
        BOTH | {"item_vocab__json": [2**63, *range(29)]},
        "an unusable id|ill-formed vocabulary",
    ),
    "cut off": (None, BOTH | {"item_vocab__json": b'["a", "b'}, "ill-formed vocabulary"),
    "two vocabularies": (
        None,
        BOTH | {"item_ids__txt": b"a\n"},
        "more than one may be the ids of items.*item_ids.txt, item_vocab.json",
    ),
    "no tensor of items": ({"layers.0.weight": MADE.items}, {}, "no tensor of items.*vector_column"),
    "two tensors": (
        TENSORS | {"item_factors": MADE.items},
        BOTH,
        r"more than one tensor may be the vectors of items.*item_embedding\.weight \(30, 4\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_vocabulary_that_does_not_match_is_refused(tmp_path: Path, case: str) -> None:
    """The message is one line, with exit code 3."""
    tensors, beside, says = BAD[case]
    with pytest.raises(SnapshotError, match=says) as refused:
        read(write(tmp_path / "s", tensors, **beside), CONFIG)
    assert (refused.value.exit_code, refused.value.transient) == (3, False)
    assert "\n" not in str(refused.value)


def test_names_may_be_configured(tmp_path: Path) -> None:
    """The names of vectors and of id tensors can be set for each side; bfloat16 is exact."""
    tensors = {"a": MADE.items, "b": MADE.users, "c": MADE.item_ids, "d": MADE.user_ids}
    config = SnapshotConfig(vector_column=SideColumns("a", "b"), id_column=SideColumns("c", "d"))
    for path in (write(tmp_path / "s", tensors), tmp_path / "s" / "model.safetensors"):
        opened = open_snapshot(path, config)
        assert opened.users is not None
        np.testing.assert_array_equal(vectors(opened.users), MADE.users)
        np.testing.assert_array_equal(opened.items.ids(), MADE.item_ids)
    with pytest.raises(SnapshotError, match=r"no such tensor.*expected x"):
        open_snapshot(tmp_path / "s", SnapshotConfig(vector_column=SideColumns("x", "b")))


def test_names_of_arrays_in_an_archive_may_be_configured(tmp_path: Path) -> None:
    """The same keys apply to the arrays of layout npz."""
    np.savez(tmp_path / "m.npz", V=MADE.items, U=MADE.users, vi=MADE.item_ids, ui=MADE.user_ids)
    config = SnapshotConfig(vector_column=SideColumns("V", "U"), id_column=SideColumns("vi", "ui"))
    opened = open_snapshot(tmp_path / "m.npz", config)
    assert opened.users is not None
    np.testing.assert_array_equal(vectors(opened.items), MADE.items)
    np.testing.assert_array_equal(opened.users.ids(), MADE.user_ids)
    with pytest.raises(SnapshotError, match=r"no such array.*expected W"):
        open_snapshot(tmp_path / "m.npz", SnapshotConfig(vector_column=SideColumns("V", "W")))


def test_a_model_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    """A file's vocabularies are beside it, not inside; row numbers are ids only on request."""
    path = write(tmp_path / "s") / "model.safetensors"
    with pytest.raises(SnapshotError, match=r"vectors without ids.*item_vocab.json"):
        open_snapshot(path, CONFIG)
    assert open_snapshot(path, ROW_NUMBERS).items.ids().tolist() == list(range(30))
    with pytest.raises(SnapshotError, match="there are ids"):
        open_snapshot(write(tmp_path / "s", **BOTH), ROW_NUMBERS)


def test_users_without_their_vocabulary_are_waited_for(tmp_path: Path) -> None:
    """Without its vocabulary, a side is incomplete."""
    night = write(tmp_path / "day=1", **BOTH)

    def state() -> str:
        (child,) = discover(tmp_path, WatchConfig(settle_seconds=0), CONFIG, now=time.time() + 1).children
        return child.state

    assert state() == "ready"
    (night / "user_vocab.json").rename(night / ".user_vocab.json.aB3xY9")
    assert state() == "waiting"
