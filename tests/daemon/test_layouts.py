"""Every layout in the watched directory: an incomplete night is waited for, and published once it is complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from daemons import Place, eventually
from snapshots.made import Model, write_npz
from support.nights import Night, night

from embsync.snapshots.layouts import LAYOUTS

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

Write = Callable[[Path, Model], object]


def write_dimensions(path: Path, made: Model) -> None:
    """Write CSV with one column per dimension."""
    path.mkdir()
    for side, ids, rows in (("items", made.item_ids, made.items), ("users", made.user_ids, made.users)):
        head = ",".join(["id", *(f"d{number}" for number in range(rows.shape[1]))])
        lines = [f"{id_},{','.join(map(str, row))}" for id_, row in zip(ids.tolist(), rows.tolist(), strict=True)]
        (path / f"{side}.csv").write_text("\n".join([head, *lines]) + "\n")


def write_state_dict(path: Path, made: Model) -> None:
    """Write a model's tensors with their vocabularies."""
    from snapshots.test_state_dict import write

    tensors = {"item_embedding.weight": made.items, "user_embedding.weight": made.users}
    write(path, tensors, item_vocab__json=made.item_ids.tolist(), user_vocab__json=made.user_ids.tolist())


def write_projector(path: Path, made: Model) -> None:
    """Write the two files of the embedding projector."""
    path.mkdir()
    np.savetxt(path / "tensors.tsv", made.items, delimiter="\t")
    (path / "metadata.tsv").write_text("".join(f"i{id_}\n" for id_ in made.item_ids.tolist()))


def write_words(path: Path, made: Model) -> None:
    """Write word2vec text."""
    from snapshots.test_word2vec import text

    path.mkdir()
    (path / "model.vec").write_bytes(text([f"i{id_}" for id_ in made.item_ids.tolist()], made.items))


def write_binary_words(path: Path, made: Model) -> None:
    """Write word2vec's binary format."""
    from snapshots.test_word2vec_binary import binary

    path.mkdir()
    (path / "model.bin").write_bytes(binary([f"i{id_}" for id_ in made.item_ids.tolist()], made.items, b"\n"))


def two_sided() -> dict[str, Write]:
    """Return the writers of layouts with items and users."""
    from snapshots.test_arrow import write as write_arrow
    from snapshots.test_npy_parts import write as write_parts
    from snapshots.test_parquet import write as write_parquet
    from snapshots.test_safetensors import write as write_safetensors
    from snapshots.test_spark_pipeline import pipeline

    return {
        "arrow": write_arrow,
        "csv": write_dimensions,
        "state_dict": write_state_dict,
        "npy_parts": lambda path, made: write_parts(path, made, many=3),
        "spark_pipeline": pipeline,
        "parquet": write_parquet,
        "safetensors": write_safetensors,
        "npz": lambda path, made: (path.mkdir(), write_npz(path / "model.npz", made)),
    }


ONE_SIDED: dict[str, Write] = {
    "projector": write_projector,
    "word2vec": write_words,
    "word2vec_binary": write_binary_words,
}
#: Layout npy is used by all other tests of the daemon; Delta tables have tests of their own.
ELSEWHERE = {"npy", "delta"}


def model_of(made: Night) -> Model:
    """Return a night as the type that the snapshot writers take."""
    return Model(**made.arrays())


def leave_in_two_halves(place: Place, root: Path, layout: str, write: Write, number: int) -> None:
    """Copy a night into the watched directory, its largest file last and slowly; wait until it is published.

    Spark's markers, which would show the snapshot as complete, are left out.
    """
    name, whole = f"day={number}", root / f"{layout}-{number}"
    write(whole, model_of(night(number)))
    files = sorted((path for path in whole.rglob("*[!S]") if path.is_file()), key=lambda path: path.stat().st_size)
    published = place.published()
    for path in files[:-1]:
        target = place.watch / name / path.relative_to(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    data, target = files[-1].read_bytes(), place.watch / name / files[-1].relative_to(whole)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb", buffering=0) as file:
        file.write(data[: len(data) // 2])
        eventually(lambda: place.status().get("waiting", {}).get(name))
        place.wait_looks()
        assert place.published() == published
        assert name in place.status()["waiting"]
        file.write(data[len(data) // 2 :])
    eventually(lambda: place.published() == [*published, name])
    event = place.events("published")[-1]
    assert place.store.manifest(event.version or 0).snapshot.layout == layout


@pytest.mark.parametrize(
    "layouts",
    [
        ("arrow", "csv"),
        ("projector", "word2vec"),
        pytest.param(("state_dict", "npy_parts", "spark_pipeline"), marks=pytest.mark.torture),
        pytest.param(("parquet", "safetensors", "npz", "arrow"), marks=pytest.mark.torture),
        pytest.param(("word2vec_binary", "projector"), marks=pytest.mark.torture),
    ],
    ids="-".join,
)
def test_an_incomplete_snapshot_is_waited_for(root: Path, layouts: tuple[str, ...]) -> None:
    """Nights in different layouts are published one after the other, without failures."""
    place = Place(root, complete="auto", settle_seconds=0.2)
    writers = two_sided() | ONE_SIDED
    with place.daemon():
        for number, layout in enumerate([*layouts, layouts[0]], 1):
            leave_in_two_halves(place, root, layout, writers[layout], number)
    assert [place.logged(event) for event in ("failed", "error", "set_aside", "crashed")] == [[], [], [], []]
    assert {event.event for event in place.events()} <= {"published", "pruned"}


def test_every_layout_is_covered() -> None:
    """Each layout has a writer in this module or tests elsewhere."""
    assert {*two_sided(), *ONE_SIDED, *ELSEWHERE} == {layout.name for layout in LAYOUTS}
