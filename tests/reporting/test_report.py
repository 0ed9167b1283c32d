"""A report has the figures of the store, and the page shows any text of the store without injection."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.documents import Document
from support.nights import Night, configured, night, write_npy
from support.pages import ParsedPage as Page
from support.quick import quick_directory
from support.stores import snapshot_of, sync

import embsync
from embsync.cli.main import run
from embsync.delivery.state import SinkReport, new_report, write_report
from embsync.dtypes import Int64
from embsync.errors import RefusedError
from embsync.pipeline import Request, publish_snapshot
from embsync.reader import Side
from embsync.reporting import charts, collect, map_chart, sampling
from embsync.reporting.figures import MapFigures, MovedItem, NamedItem
from embsync.reporting.numerals import figure
from embsync.reporting.page import document
from embsync.reporting.plot import Plot
from embsync.reporting.report import Report
from embsync.store import Store

SIZES = {"items": 160, "users": 120, "width": 6}


def page_of(root: Path, number: int | None = None) -> Page:
    """Return the page of a version after checking that it is small, without scripts and without external resources."""
    text = document(collect.of_store(root, number))
    assert len(text.encode()) < 2_000_000
    assert "script" not in text.lower()
    assert not re.search(r"https?:|url\(|@import", text)
    return Page(text)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A store of four nights with labels, which tests do not modify."""
    with quick_directory() as directory:
        for number in range(4):
            made = night(number, **SIZES)
            path = write_npy(directory / f"n{number}", made)
            rows = [f"{name},item {name}" for name in made.item_ids.tolist()]
            (path / "item_labels.csv").write_text("\n".join(["item_id,title", *rows]))
            publish_snapshot(Store(directory / "S"), Request(path), configured(snapshot__labels=["title"]))
        yield directory / "S"


def test_the_arrays_agree_with_the_manifest(root: Path) -> None:
    """The figures equal those computed from the vectors, stable and raw, of both sides."""
    with embsync.open(root) as store:
        figures = embsync.report(store.current).figures
        manifest = store.current.record
    assert manifest.drift is not None
    assert figures.cosines is not None
    for side, drift in zip(figures.cosines, (manifest.drift.items, manifest.drift.users), strict=True):
        assert side.raw is not None
        assert drift is not None
        assert side.stable.mean() == pytest.approx(drift.cosine, abs=1e-6)
        assert side.raw.mean() == pytest.approx(drift.cosine_raw, abs=1e-5)
        assert np.quantile(side.stable, 0.05) == pytest.approx(drift.cosine_p05, abs=1e-6)
        assert not side.sampled
    assert [(one.item.id, one.cosine) for one in figures.moved] == [
        (one.id, one.cosine) for one in manifest.drift.items.moved_most[: collect.MOVED]
    ]


def test_the_page_shows_the_figures_of_the_manifests(root: Path) -> None:
    """The page has every check's value, every version's drift, recall and times, and the labels of what moved most."""
    page = page_of(root)
    manifests = [Store(root).manifest(number) for number in (1, 2, 3, 4)]
    for check in manifests[-1].checks:
        assert figure(check.value, 4) in page.said, check.name
    for manifest in manifests[1:]:
        assert manifest.drift is not None
        for value in (
            manifest.drift.items.cosine,
            manifest.drift.items.cosine_raw,
            manifest.drift.items.cosine_since_start,
            manifest.drift.stale_overlap_at_10,
            manifest.drift.overlap_at_10,
        ):
            assert figure(value, 3) in page.said
        assert f"{manifest.seconds.total:.2f}" in page.said
        assert f"{manifest.items.new:,}" in page.said
    assert "read (s)" in page.said
    assert f"item {manifests[-1].drift.items.moved_most[0].id}" in page.said
    assert page.text.startswith("embsync report, version 4 Skip to the report embsync report version 4")


def test_neighbours_equal_those_of_a_search(root: Path) -> None:
    """The neighbours in both versions are those of a search."""
    with embsync.open(root) as store:
        moved = embsync.report(store.current).figures.moved
        ids = np.array([one.item.id for one in moved])
        after, _ = store.current.search_by_item(ids, collect.NEIGHBOURS)
        with store.version(3) as parent:
            before, _ = parent.search_by_item(ids, collect.NEIGHBOURS)
    assert [[item.id for item in one.after] for one in moved] == after.tolist()
    assert [[item.id for item in one.before] for one in moved] == before.tolist()
    assert [one.kept for one in moved] == [
        len({*a} & {*b}) for a, b in zip(after.tolist(), before.tolist(), strict=True)
    ]


def test_maps_of_two_versions_have_the_same_axes(root: Path) -> None:
    """The limits are the same too: an item that did not move is at the same place on both maps."""
    found = [collect.of_store(root, number).map for number in (2, 4)]
    assert found[0] is not None
    assert found[1] is not None
    np.testing.assert_allclose(found[0].axes, found[1].axes, atol=1e-12)
    np.testing.assert_array_equal(found[0].extent, found[1].extent)
    assert found[0].trail_versions.tolist() == [1, 2]
    assert found[1].trail_versions.tolist() == [1, 2, 3, 4]


def test_no_row_is_read_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Except for the search of neighbours, each row is read once; a large side is sampled in blocks."""
    read: dict[tuple[str, int], list[int]] = {}
    of = sampling.ReadRows.of.__func__

    def noted(cls: type[sampling.ReadRows], side: Side, *wanted: Int64) -> sampling.ReadRows:
        rows = of(cls, side, *wanted)
        read.setdefault((side.name, id(side)), []).extend(rows.rows.tolist())
        return rows

    monkeypatch.setattr(sampling.ReadRows, "of", classmethod(noted))
    collect.of_store(root)
    assert len(read) == 4
    assert all(len(rows) == len(set(rows)) for rows in read.values())
    rows = sampling.in_blocks(1_000_000, 128)
    assert 7_000 < len(rows) <= sampling.NUMBERS // 128 + 512
    assert np.count_nonzero(np.diff(rows) > 1) < 20


@pytest.mark.parametrize("kind", ["one version", "one side", "strings", "a wider space"])
def test_a_page_says_what_is_not_stored(tmp_path: Path, kind: str) -> None:
    """The page shows the remaining figures."""
    root = tmp_path / "S"
    count = 1 if kind == "one version" else 2
    for number in range(count):
        made = night(number, **SIZES)
        made = made.one_sided() if kind == "one side" else made.named() if kind == "strings" else made
        sync(root, made, f"n{number}")
    if kind == "a wider space":
        assert run(["widen", "9", "--store", str(root)]) == 0
    page = page_of(root)
    assert ("first of its space" in page.text) == (kind == "one version")
    assert ("only changed the width" in page.text) == (kind == "a wider space")
    assert ("Users" in page.text) == (kind != "one side")
    assert "Map of the space" in page.text
    assert "nan" not in page.text.lower().split()


def test_pruned_and_damaged_versions_are_named(tmp_path: Path) -> None:
    """Without the parent there is no comparison; a damaged manifest leaves a gap instead of an error."""
    root = tmp_path / "S"
    for number in range(4):
        sync(root, night(number, **SIZES), f"n{number}")
    (root / "versions/000002/manifest.json").write_text("{}")
    assert "Not readable: 2" in page_of(root).text
    Store(root).prune(1)
    page = page_of(root)
    assert "Version 3, with which this one was compared, has been pruned." in page.text
    assert "pruned: their figures are no longer available" in page.text


def test_a_new_space_is_marked_in_the_history(tmp_path: Path) -> None:
    """Neither lines nor trails connect the two spaces."""
    root = tmp_path / "S"
    for number in range(2):
        sync(root, night(number, **SIZES), f"n{number}")
    for number in range(2, 4):
        sync(root, night(number, seed=99, **SIZES), f"n{number}", new_space=number == 2)
    page = page_of(root)
    assert "new space" in page.text
    found = collect.of_store(root).map
    assert found is not None
    assert found.trail_versions.tolist() == [3, 4]


def test_a_store_with_only_refused_snapshots_has_a_page(tmp_path: Path) -> None:
    """The page gives the reason, and the command writes it."""
    root = tmp_path / "S"
    bad = night(0, **SIZES)
    path = write_npy(tmp_path / "n0", replace(bad, items=bad.items[:4], item_ids=bad.item_ids[:4]))
    with pytest.raises(RefusedError):
        publish_snapshot(Store(root), Request(path), configured())
    page = page_of(root)
    assert "The store has no version yet: snapshot n0 could not be published." in page.text
    assert "Publish a first version" in page.text
    assert "rows items" in page.text or "rows_items" in page.text
    assert run(["report", "--store", str(root), "--output", str(tmp_path / "page.html")]) == 0
    assert "no version yet" in (tmp_path / "page.html").read_text(encoding="utf-8")


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></svg><b>",
    "&lt;",
    "שלום עולם",
    "a\u202eb",
]


def test_markup_and_right_to_left_text_are_escaped(tmp_path: Path) -> None:
    """Ids, labels and names of snapshots can neither insert an element nor change the direction of a line."""
    root = tmp_path / "S"
    for number in range(2):
        made = night(number, items=40, users=30, width=4)
        names = [f"{HOSTILE[name % len(HOSTILE)]}{name}" for name in made.item_ids.tolist()]
        made = Night(made.items, np.array(names), made.users, made.user_ids)
        path = write_npy(tmp_path / f"<i>n{number}", made)
        with (path / "item_labels.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["item_id", "title"], *([name, f"{name} & <u>"] for name in names)])
        publish_snapshot(Store(root), Request(path), configured(snapshot__labels=["title"]))
    page = page_of_hostile(root)
    assert not {"script", "img", "i", "u"} & set(page.tags)
    assert "\u202e" not in "".join(page.said)
    assert any("שלום" in text for text in page.said)
    assert page.tags.count("bdi") > 10


def page_of_hostile(root: Path) -> Page:
    """Return the page of a store whose text contains "script"."""
    return Page(document(collect.of_store(root)))


def test_the_command_writes_one_file_and_does_not_change_the_store(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints the verdict and the path of the page; an older version is shown as it was then."""
    before = snapshot_of(root)
    place = tmp_path / "page.html"
    assert run(["report", "--store", str(root), "--version", "2", "--output", str(place)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"written to {place}"
    text = Page(place.read_text(encoding="utf-8")).text
    assert "embsync report version 2" in text
    assert "It is not current: version 4 is." in text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert snapshot_of(root) == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version", "9"], 6, "no version 9"),
        (["99"], 6, "no version 99; found versions 1, 2, 3"),
        (["1", "--version", "2"], 2, "two different versions; found 1 and --version 2"),
        (["--output", "."], 2, "found a directory"),
        (["--output", "no/such/page.html"], 2, "mkdir -p no/such"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    """The exit code is that of the error."""
    monkeypatch.chdir(tmp_path)
    assert run(["report", "--store", str(root), *arguments]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_page_goes_to_standard_output(root: Path) -> None:
    """Nothing but the page is printed."""
    done = subprocess.run(
        [sys.executable, "-m", "embsync", "report", "--store", str(root), "--output", "-"],
        capture_output=True,
        check=True,
    )
    assert done.stdout.startswith(b"<!doctype html>")
    Page(done.stdout.decode())


def test_a_notebook_shows_a_part_of_a_page(root: Path) -> None:
    """The fragment has no document element, and its style applies only to itself."""
    with embsync.open(root) as store:
        made = embsync.report(store.current)
    shown = made._repr_html_()
    assert isinstance(made, Report)
    assert shown.startswith('<div class="embsync-report notebook"><style>')
    assert "<html" not in shown
    assert " id=" not in shown
    assert repr(made) == f"<Report: {made.verdict.sentence}>"


def test_the_documented_python_runs_as_printed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The documented code runs in a directory with a store."""
    (tmp_path / "embsync-store").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    Document("docs/report.md").run_python()
    assert capsys.readouterr().out.startswith("Version 4 is healthy")
    assert (tmp_path / "report.html").exists()


def test_deliveries_are_shown_as_the_service_reported_them(root: Path, tmp_path: Path) -> None:
    """Every sink is shown with its version and why it is behind; a damaged file is named and affects nothing else."""
    assert "Deliveries" not in page_of(root).text
    copied = tmp_path / "S"
    shutil.copytree(root, copied, symlinks=True)
    sinks = {
        "<b>one": SinkReport(
            kind="object_store", state="retrying", current=2, behind=2, behind_since="2030-01-02T03:04:05Z",
            error="403 <i>Forbidden</i>", recall=0.9876,
        ),
        "two": SinkReport(kind="milvus", state="current", current=4, notes=["cannot filter"]),
    }  # fmt: skip
    write_report(copied, new_report(1.0, 4, sinks, "an unknown key"))
    page = page_of(copied)
    assert {"<b>one", "two", "object store", "0.988", "403 <i>Forbidden</i>", "cannot filter"} <= set(page.said)
    assert any(text.startswith("retrying, behind since 2030-01-02") for text in page.said)
    assert "No delivery is running" in page.text
    assert "an unknown key." in page.text
    (copied / "delivery.json").write_text("{")
    page = page_of(copied)
    assert "delivery.json cannot be read." in page.text
    assert "Map of the space" in page.text


def test_directions_are_whole_numbers() -> None:
    """Labels on the axis are integers even if there are so few that halves would fit."""
    drawn = charts.spectrum(Plot("Singular values", ""), np.array([4.0, 3.0, 2.0, 1.0]), None, 4)
    labels = re.findall(r">([\d.]+)</text>", drawn)
    assert {"1", "2", "3", "4"} <= set(labels)
    assert not [text for text in labels if not float(text).is_integer()]


def test_numbers_on_the_map_do_not_overlap() -> None:
    """If items overlap, their numbers are placed beside them with a line; a name does not cover them."""
    moved = tuple(MovedItem(NamedItem(number, None), 0.1) for number in range(collect.MOVED))
    drawn = map_chart.space_map(
        MapFigures(
            axes=np.eye(3)[:, :2],
            explained=np.array([0.4, 0.3]),
            extent=np.array([[-1.0, 1.0], [-1.0, 1.0]]),
            points=np.zeros((1, 2)),
            popular=(NamedItem(17, "Popular"),),
            popular_points=np.zeros((1, 2)),
            popular_reason="",
            trail_versions=np.array([1]),
            trails=np.zeros((len(moved), 1, 2)),
        ),
        moved,
    )
    badges = np.array(re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="8"', drawn), np.float64)
    assert len(badges) == len(moved)
    apart = np.abs(badges[:, None] - badges[None]).max(axis=-1)
    assert apart[~np.eye(len(badges), dtype=bool)].min() > 16
    assert drawn.count('class="leader"') == len(moved) - 1
