"""Nights under common naming schemes, with the real daemon and no configuration of the order."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import RESCAN, Place, eventually
from support.nights import night, write_npy

#: The name of a night, by its number.
NAMES: dict[str, Callable[[int], str]] = {
    "blue and green": lambda number: ("blue", "green")[number % 2],
    "latest": lambda _: "latest",
    "dates": lambda number: f"dt=2026-11-{number:02}",
    "run ids": lambda number: f"{(number * 0x9E3779B1) % 2**32:08x}",
}


def leave(place: Place, name: str, number: int) -> Path:
    """Overwrite a snapshot as training jobs do: the marker is removed first and written last."""
    folder = place.watch / name
    (folder / "_SUCCESS").unlink(missing_ok=True)
    write_npy(folder, night(number))
    time.sleep(0.02)  # a tick of the file system's clock
    (folder / "_SUCCESS").touch()
    return folder


def published_nights(place: Place, names: Callable[[int], str], nights: int) -> list[str]:
    """Write night after night, each once the previous one is published; return what was published."""
    with place.daemon():
        for number in range(1, nights + 1):
            leave(place, names(number), number)
            eventually(lambda wanted=number: len(place.published()) >= wanted)
    return place.published()


@pytest.mark.parametrize("names", ["blue and green"])
def test_three_nights_are_published(root: Path, names: str) -> None:
    """Two directories that are overwritten in turn, which names alone would order wrongly, are published each time."""
    place = Place(root, backlog="newest")
    assert published_nights(place, NAMES[names], 3) == [NAMES[names](number) for number in (1, 2, 3)]


@pytest.mark.torture
@pytest.mark.parametrize("names", NAMES)
def test_ten_nights_are_published(root: Path, names: str) -> None:
    """Each night is published once, in order."""
    place = Place(root, backlog="newest")
    assert published_nights(place, NAMES[names], 10) == [NAMES[names](number) for number in range(1, 11)]


def test_a_replaced_link_within_the_directory_is_followed(root: Path) -> None:
    """The link's targets are hidden; each is published under its own name once the link points to it."""
    place = Place(root, backlog="newest")
    with place.daemon():
        for number in (1, 2):
            leave(place, f".releases/run-{number}", number)
            link = place.watch / ".new"
            link.symlink_to(f".releases/run-{number}")
            link.rename(place.watch / "current")
            eventually(lambda wanted=number: len(place.published()) >= wanted)
    assert place.published() == ["run-1", "run-2"]


def test_after_a_rollback_only_new_snapshots_are_published(root: Path) -> None:
    """The night that was rolled back, an old one that changes, and what a deletion leaves are not published."""
    place = Place(root, backlog="newest")
    for number in (1, 2, 3):
        place.drop(number)
    with place.daemon():
        place.wait_for(3)
        place.drop(4)
        place.wait_for(4)
        assert place.run("rollback").returncode == 0
        leave(place, "day=1", 11)
        shutil.rmtree(place.watch / "day=4")
        time.sleep(4 * RESCAN)
        place.drop(5)
        place.wait_for(5)
    assert place.published() == ["day=3", "day=4", "day=5"]
