"""What the reader does, from the shell: search, lookup, transform and fold-in, with JSON and .npy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nights import night
from support.quick import quick_directory
from support.stores import sync

import embsync
from embsync.cli.main import run
from embsync.reader import Version

SIZES = {"items": 100, "users": 80, "width": 6}


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with quick_directory() as directory:
        for number in range(3):
            sync(directory / "S", night(number, **SIZES), f"n{number}")
        yield directory / "S"


@pytest.fixture(scope="module")
def version(root: Path) -> Iterator[Version]:
    with embsync.open(root) as reader:
        yield reader.current


@pytest.fixture
def told(root: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def tell(*arguments: object) -> Any:
        assert run([*map(str, arguments), "--store", str(root), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return tell


def test_search_by_several_ids_with_filters(told: Any, version: Version, tmp_path: Path) -> None:
    """Items without themselves, blocked ones never, allowed ones alone; ids to .npy; raw vectors by their own space."""
    items = version.items.ids[version.items.live][:2].tolist()
    answer = told("search", "--item", items[0], "--item", items[1], "-k", 3, "--block", items[1],
                  "-o", tmp_path / "i.npy")
    expected, _ = version.search_by_item(items, 3, blocked=[items[1]])
    assert [[hit["id"] for hit in hits] for hits in answer["results"]] == expected.tolist()
    np.testing.assert_array_equal(np.load(tmp_path / "i.npy"), expected)
    only = told("search", "--item", items[0], "--allow", items[1])
    assert [hit["id"] for hit in only["results"][0]] == [items[1]]
    raw = night(2, **SIZES).both[1]
    np.save(tmp_path / "raw.npy", raw)
    answer = told("search", "-v", tmp_path / "raw.npy", "--space", "snapshot", "-k", 2)
    assert [[hit["id"] for hit in hits] for hits in answer["results"]] == version.search(
        raw, 2, space="snapshot")[0].tolist()


def test_lookup_tells_where_a_vector_is_from(told: Any, version: Version, tmp_path: Path) -> None:
    """Age and version; too old counts as unknown; vectors to .npy."""
    gone = version.items.ids[version.items.age(version.items.ids) == 2][:1].tolist()
    row = told("lookup", "items", *gone, "-o", tmp_path / "v.npy")["results"][0]
    assert (row["age"], row["from_version"]) == (2, 1)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), version.items.lookup(gone))
    assert run(["lookup", "items", str(gone[0]), "--max-age", "1", "--store", str(version.path.parents[1])]) == 6


def test_transform_goes_both_ways(told: Any, tmp_path: Path) -> None:
    """From .npy to .npy, and back to what it was."""
    raw = night(2, **SIZES).both[1]
    np.save(tmp_path / "raw.npy", raw)
    assert told("transform", "users", tmp_path / "raw.npy", "-o", tmp_path / "stable.npy")["rows"] == len(raw)
    back = told("transform", "users", tmp_path / "stable.npy", "--inverse")["vectors"]
    np.testing.assert_allclose(back, raw, atol=1e-5)


def test_fold_in_is_the_readers(told: Any, version: Version, capsys: pytest.CaptureFixture[str]) -> None:
    """With weights, by either method; unknown ids are exit code 6."""
    ids = version.items.ids[:3].tolist()
    assert version.users is not None
    answer = told("fold-in", *ids, "-w", 1, "-w", 2, "-w", 3)
    np.testing.assert_allclose(answer["vectors"][0], version.users.fold_in(ids, [1, 2, 3]), rtol=1e-6)
    answer = told("fold-in", *ids, "--method", "mean")
    np.testing.assert_allclose(answer["vectors"][0], version.users.fold_in(ids, method="mean"), rtol=1e-6)
    assert run(["fold-in", "9999999", "--store", str(version.path.parents[1])]) == 6
    assert "unknown items ids" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["search"], ["search", "-u", "1", "-i", "2"], ["search", "-u", "2000", "-p", "efSearch"],
     ["search", "-u", "2000", "-p", "efSearch=5"], ["fold-in", "1000", "-w", "1", "-w", "2"],
     ["lookup", "items", "1000", "-o", "/nonexistent/x.npy", "-m", "nan"]],
)
def test_what_makes_no_sense_is_a_usage_error(root: Path, arguments: list[str], capsys: Any) -> None:
    """Exit code 2 (6 for an unknown id) and one line."""
    assert run([*arguments, "--store", str(root)]) in {2, 6}
    assert len(capsys.readouterr().err.splitlines()) == 1
