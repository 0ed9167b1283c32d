"""The table of layouts in docs/snapshots.md: every line that writes a snapshot is run with its library."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from snapshots.made import vectors
from support.documents import Document

from embsync.config import SnapshotConfig
from embsync.snapshots import open_snapshot
from embsync.snapshots.layouts import LAYOUTS

ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in Document("docs/snapshots.md").text.split("## Layouts")[1].split("\n#")[0].splitlines()
    if line.startswith("| `")
]
LINES = [(layout.strip("`"), writer, line) for layout, writer, *_, last in ROWS for line in re.findall("`(.+?)`", last)]
RNG = np.random.default_rng(2)
COUNT, WIDTH = 12, 4
ITEMS, USERS = (RNG.normal(size=(rows, WIDTH)).astype("f4") for rows in (COUNT, 9))
IDS = np.arange(COUNT) + 500


def module(name: str) -> Any:
    """Return a module, or skip the test and name the module."""
    return pytest.importorskip(name, reason=f"{name} is not installed")


def columns() -> dict[str, Any]:
    """Return the columns of a table of items."""
    return {"id": IDS, "embedding": list(ITEMS)}


def frame(line: str, _: str) -> Any:
    """Return a data frame of the library whose method the line calls."""
    if ".write_" in line:
        polars = module("polars")
        return polars.DataFrame(
            {"id": IDS, "embedding": polars.Series(ITEMS.tolist(), dtype=polars.List(polars.Float32))}
        )
    return module("pandas").DataFrame(columns())


def model(_: str, writer: str) -> Any:
    """Return a small model of the library that writes the layout."""
    if "PyTorch" in writer:
        return SimpleNamespace(state_dict=lambda: {"item_embedding.weight": ITEMS})
    if "implicit" in writer:
        trained = module("implicit.als").AlternatingLeastSquares(factors=WIDTH, iterations=1, num_threads=1)
        trained.fit(module("scipy.sparse").random(9, COUNT, 0.3, "csr", random_state=2), show_progress=False)
        return trained
    words = [str(number) for number in IDS]
    return module("gensim.models").Word2Vec([words] * 5, vector_size=WIDTH, min_count=1, workers=1)


#: Objects that the lines use, made on first use.
GIVEN: dict[str, Callable[[str, str], Any]] = {
    "np": lambda *_: np,
    "pa": lambda *_: module("pyarrow"),
    "pq": lambda *_: module("pyarrow.parquet"),
    "feather": lambda *_: module("pyarrow.feather"),
    "table": lambda *_: module("pyarrow").table(columns()),
    "items": lambda line, _: {str(id_): row for row, id_ in enumerate(IDS)} if "vocab" in line else ITEMS,
    "parts": lambda *_: np.array_split(ITEMS, 2),
    "vectors": lambda *_: ITEMS,
    "users": lambda *_: USERS,
    "ids": lambda *_: IDS,
    "user_ids": lambda *_: np.arange(9),
    "frame": frame,
    "model": model,
    "save_file": lambda *_: module("safetensors.numpy").save_file,
    "write_deltalake": lambda *_: module("deltalake").write_deltalake,
    "gzip": lambda *_: importlib.import_module("gzip"),
    "json": lambda *_: importlib.import_module("json"),
    "Path": lambda *_: Path,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:OpenBLAS is configured")
@pytest.mark.parametrize(("layout", "writer", "line"), LINES, ids=[line[:50] for *_, line in LINES])
def test_each_documented_line_makes_a_snapshot_of_its_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, writer: str, line: str
) -> None:
    """The snapshot has that layout and the written items; Spark's lines are run by test_spark.py."""
    if writer.startswith(("Spark ", "Spark's")) or line.startswith("spark"):
        pytest.skip("run by test_spark.py, as it needs Java")
    names = [node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Name)]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    named = {node.id for node in names} - made - set(dir(builtins))
    given = {name: GIVEN[name](line, writer) for name in named}
    monkeypatch.chdir(tmp_path)
    if '"day=1/' in line:
        (tmp_path / "day=1").mkdir()
    exec(line, given)
    (path,) = tmp_path.iterdir()
    opened = open_snapshot(path, SnapshotConfig())
    assert opened.layout == layout
    assert opened.unread == ()
    assert (opened.items.count, opened.items.width) == (COUNT, WIDTH)
    ids = [int(value) for value in opened.items.ids().tolist()]
    assert sorted(ids) == IDS.tolist()
    if "model" not in named or "PyTorch" in writer:
        np.testing.assert_array_equal(vectors(opened.items)[np.argsort(ids)], ITEMS)


def test_every_layout_has_its_row() -> None:
    """All rows are in one table, which a blank line would end."""
    assert {layout.name for layout in LAYOUTS} == {layout for layout, *_ in LINES}
    table = Document("docs/snapshots.md").text.split("## Layouts")[1].split("| layout |")[1].split("\n\n")[0]
    assert table.count("\n| `") == len(ROWS)
