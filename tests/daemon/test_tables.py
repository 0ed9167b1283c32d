"""Tables in the watched directory: committed one after the other, published together."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from daemons import Place, eventually
from support.nights import night

pytestmark = pytest.mark.services("deltalake")


def commit(path: Path, number: int, run: str | None = None) -> None:
    """Overwrite one side's table with a night's rows."""
    import deltalake
    import pyarrow as pa

    made = night(number).arrays()
    table = pa.table({"id": made[f"{path.name[:-1]}_ids"], "embedding": list(made[path.name])})
    named = None if run is None else deltalake.CommitProperties(custom_metadata={"userMetadata": run})
    deltalake.write_deltalake(str(path), table, mode="overwrite", commit_properties=named)


def opened(path: Path) -> Any:
    """Open a table with its library."""
    from deltalake import DeltaTable

    return DeltaTable(str(path))


def tended(path: Path) -> None:
    """Do the maintenance of a table that may run between two nights."""
    table = opened(path)
    table.optimize.compact()
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)


@pytest.mark.parametrize(
    ("sides", "runs"), [(("items", "users"), (None, None)), (("users", "items"), ("run 1", "run 2"))]
)
def test_a_table_waits_for_the_commit_of_the_other_side(
    root: Path, sides: tuple[str, str], runs: tuple[str | None, str | None]
) -> None:
    """The reason names both commits; nothing fails or is set aside, and each night is published once."""
    place = Place(root, complete="auto", settle_seconds=0.2)
    first, second = (place.watch / "model" / side for side in sides)
    for side in (first, second):
        commit(side, 1, runs[0])
    with place.daemon():
        eventually(lambda: place.published() == ["model"])
        commit(first, 2, runs[1])
        waits = f"{sides[0]} at commit 1, but {sides[1]} still at commit 0"
        eventually(lambda: waits in place.status().get("waiting", {}).get("model", ""))
        tended(second)
        place.wait_looks(6)
        assert waits in eventually(lambda: place.status()["waiting"].get("model"))
        commit(second, 2, runs[1])
        eventually(lambda: len(place.published()) == 2)
        place.wait_looks()
    assert [place.logged(event) for event in ("failed", "error", "set_aside", "crashed")] == [[], [], [], []]
    assert {event.event for event in place.events()} == {"published"}
    assert len(place.published()) == 2


def test_table_maintenance_publishes_nothing(root: Path) -> None:
    """A changed table is read once, found to be unchanged, and not read again."""
    place = Place(root, complete="auto", settle_seconds=0.2)
    for side in ("items", "users"):
        commit(place.watch / "model" / side, 1)
    with place.daemon():
        eventually(lambda: place.published() == ["model"])
        place.send(signal.SIGSTOP)  # otherwise it may scan between the two sides, and read the second one separately
        for side in ("items", "users"):
            table = opened(place.watch / "model" / side)
            table.optimize.z_order(["id"])
            table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
        place.send(signal.SIGCONT)
        eventually(lambda: place.events("unchanged"))
        eventually(lambda: place.status()["state"] == "idle")
        begun = len(place.logged("begun"))
        place.wait_looks(6)
        assert len(place.logged("begun")) == begun
    assert place.published() == ["model"]
    assert {event.event for event in place.events()} == {"published", "unchanged"}


def test_a_table_without_its_first_commit_is_waited_for(root: Path) -> None:
    """Its data and an empty log exist before the first commit."""
    place = Place(root, complete="auto", settle_seconds=0.2)
    model = place.watch / "model"
    commit(model / "items", 1)
    commit(root / "users", 1)
    log, name = root / "users" / "_delta_log", "00000000000000000000.json"
    (log / name).rename(root / name)
    (root / "users").rename(model / "users")
    with place.daemon():
        eventually(lambda: "without a commit" in place.status().get("waiting", {}).get("model", ""))
        (root / name).rename(model / "users" / "_delta_log" / name)
        eventually(lambda: place.published() == ["model"])
    assert place.store.manifest(1).users is not None
