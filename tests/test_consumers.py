"""The code blocks of the pages for consumers, run unchanged in a directory with the demo, and the linked examples."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.documents import ROOT, Document, shell
from support.nights import night
from support.ports import free_port
from support.quick import quick_directory
from support.stores import sync
from support.waiting import PATIENCE

import embsync
from embsync.cli.main import run
from embsync.demo.story import run as demo
from embsync.demo.taste import World
from embsync.store import Store

DOCUMENT = Document("docs/consumers.md")
COLD_START, SHELL, HTTP, FILES, NOTEBOOK = (
    Document(f"docs/how-to/{name}.md") for name in ("cold-start", "shell", "http", "files", "notebook")
)
PAGES = (DOCUMENT, COLD_START, SHELL, HTTP, FILES, NOTEBOOK)
#: One word of every shell block that a test runs.
RUN = "embsync lookup|embsync relabel|embsync diff|embsync serve|ReadVectors.java|faiss_backend.py"
BACKEND = ROOT / "docs/examples/faiss_backend.py"
READER = ROOT / "docs/examples/ReadVectors.java"
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no Java here")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory with a small demo."""
    with quick_directory() as directory:
        demo(directory / "embsync-demo", 3, world=World(items=700, users=800))
        yield directory


def only(language: str, part: str) -> str:
    """Return the only block that contains ``part``."""
    (block,) = (block for page in PAGES for block in page.blocks(language) if part in block)
    return block


def ranks_above(scores: Any, wanted: Any) -> float:
    """Return the share of pairs in which a wanted row scores above another one (AUC)."""
    return float((scores[wanted][:, None] > scores[~wanted][None, :]).mean())


def test_the_python_blocks_do_what_the_text_says(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks run in order, each in a fresh namespace, and give what the text states."""
    monkeypatch.chdir(place)
    essentials, following, search, per_query, labels, many, features, moved = DOCUMENT.run_python()
    (cold,), (plain,) = COLD_START.run_python(), FILES.run_python()
    with embsync.open(place / "embsync-demo/store") as store:
        version = store.current
        users = version.side("users")
        assert essentials["version"].number == version.number
        np.testing.assert_allclose(essentials["raw_again"], essentials["raw"], atol=1e-5)
        trained = np.load(place / "embsync-demo/snapshots/day=3/user_ids.npy")
        np.testing.assert_allclose(essentials["stable"], users.lookup(trained), atol=1e-5)
        assert following["SPACE"] == version.space_id
        assert following["version"].number == 3
        assert following["ids"].shape == (1, 10)
        np.testing.assert_array_equal(search["ids"], version.search_by_user([100002, 100003])[0])
        assert per_query["ids"].shape == (3, 10)
        assert not set(per_query["ids"][0].tolist()) & {17, 23}
        assert per_query["ages"][1] == -1
        assert per_query["known"] == [100002, 100003]
        assert per_query["rows"] == per_query["table"].num_rows == len(users)
        assert set(labels["shown"]["genre"]) <= {"history", "crime"}
        assert len(labels["shown"]["title"]) == 10
        assert many["ids"].shape == (1, 500)
        assert (many["ids"] > 0).all()
        assert [point.k for point in many["points"]] == [10, 100]
        assert ranks_above(features["likely"], features["wanted"]) > 0.85
        np.testing.assert_array_equal(cold["trained"], users.lookup([100002])[0])
        np.testing.assert_array_equal(cold["new"], users.fold_in([17, 23]))
        np.testing.assert_array_equal(cold["stranger"], users.mean)
        assert len(cold["carried"]) == len(cold["recent"]) > 0
        assert (cold["seconds"] >= 0).all()
        assert cold["seen"].dtype == np.dtype("datetime64[s]")
        assert not np.isnan(users.lookup(cold["recent"], "nan", max_age="36h")).any()
        assert moved["moved"].cosines.shape == (2, 3)
        with store.version(1) as first:
            assert moved["changed"] == version.diff(first, limit=5)
        np.testing.assert_array_equal(plain["vectors"][plain["row"]], version.items.lookup([17])[0])


@pytest.mark.services("pandas", "polars")
def test_the_blocks_for_notebooks_do_what_the_text_says(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results of the notebook blocks remain usable after the store is closed."""
    monkeypatch.chdir(place)
    frames, report, changes = NOTEBOOK.run_python()
    with embsync.open(place / "embsync-demo/store") as store:
        items = store.current.items
        np.testing.assert_array_equal(frames["frame"].drop(columns=["last_seen", "last_seen_at"]), items.vectors)
        np.testing.assert_array_equal(frames["table"]["vector"].to_numpy(), items.vectors)
        assert frames["live"].index.tolist() == items.ids[items.live].tolist()
        assert frames["titles"] == store.current.labels_of(items.ids[items.live][:5])["title"]
    assert "<svg" in report["report"]._repr_html_()
    assert report["drift"].versions == [1, 2, 3]
    assert {"id", "cosine", "title", "genre"} == set(changes["frame"].columns)
    assert changes["frame"]["cosine"].is_monotonic_increasing


def test_the_documented_store_is_made_by_the_demo() -> None:
    """The blocks use the demo's store at the path where ``embsync demo`` creates it."""
    for page in PAGES:
        first, *others = page.blocks("sh")
        assert first == "embsync demo\n"
        assert "embsync-demo/" in page.text
        assert [block for block in others if not re.search(RUN, block)] == []


def test_the_command_line_equals_the_reader(place: Path) -> None:
    """Lookup and transform from the shell give the reader's arrays, and the text's statements about them hold."""
    done = shell(only("sh", "embsync lookup"), place)
    assert (done.returncode, done.stderr) == (0, "")
    with embsync.open(place / "embsync-demo/store") as store, store.version(1) as first:
        np.testing.assert_array_equal(np.load(place / "two.npy"), store.current.side("users").lookup([100002, 100003]))
        ids = np.load(place / "embsync-demo/snapshots/day=1/user_ids.npy")
        np.testing.assert_allclose(np.load(place / "stable.npy"), first.side("users").lookup(ids), atol=1e-6)


def test_the_command_line_changes_labels(place: Path, tmp_path: Path) -> None:
    """Relabelling two items of a copied store changes nothing else."""
    shutil.copytree(place / "embsync-demo/store", tmp_path / "embsync-demo/store", symlinks=True)
    done = shell(only("sh", "embsync relabel"), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with embsync.open(tmp_path / "embsync-demo/store") as store, store.version(store.current.number - 1) as before:
        assert store.current.labels_of([17, 23])["genre"] == ["poetry", None]
        found = store.current.diff(before).labels
        assert {label.name: label.changed for label in found} == {"title": 0, "genre": 2}


def test_the_command_line_compares_versions(place: Path) -> None:
    done = shell(only("sh", "embsync diff"), place)
    assert (done.returncode, done.stderr) == (0, "")
    assert "version 2 of" in done.stdout
    assert "version 1 of" in done.stdout


@needs_curl
def test_the_server_answers_the_documented_requests(place: Path) -> None:
    """Every command runs unchanged except for the port: JSON, vectors as .npy, and those vectors as a query."""
    port = free_port()
    script = only("sh", "embsync serve").replace("localhost:8980", f"localhost:{port}")
    done = shell(f"export EMBSYNC_SERVE__LISTEN=localhost:{port}\n{script}wait", place)
    assert done.returncode == 0, done
    answers = (json.loads(line) for line in done.stdout.replace("}{", "}\n{").splitlines()[-4:])
    by_user, by_url, by_label, by_vector = answers
    with embsync.open(place / "embsync-demo/store") as store:
        assert by_label["ids"] == store.current.search_by_user([100002], 3, where={"genre": "history"})[0].tolist()
        assert [hit["title"] for hit in by_label["labels"][0]] == store.current.labels_of(by_label["ids"][0])["title"]
        assert by_user["ids"] == store.current.search_by_user([100002], 3)[0].tolist()
        assert by_url["ids"] == [[str(one) for one in line] for line in by_vector["ids"]]
        assert by_vector["ids"] == store.current.search_by_user([100002, 100003], 3)[0].tolist()
        np.testing.assert_array_equal(np.load(place / "two.npy"), store.current.side("users").lookup([100002, 100003]))


@needs_java
def test_java_reads_the_files_directly(place: Path) -> None:
    """Java reads exactly the same float32 values for integer ids of items and string ids, and reports unknown ids."""
    sync(place / "named" / "S", night(0, items=60, users=50, width=6).named(), "n0")
    for root, side, missing in ((place / "embsync-demo/store", "items", "0"), (place / "named" / "S", "items", "bo")):
        with embsync.open(root) as store:
            part = store.current.side(side)
            ids = [str(name) for name in part.names(np.array([0, 7, len(part.ids) - 1]))]
            expected = part.lookup(ids)
        lines = (
            subprocess.run(
                [
                    "java",
                    "-Dfile.encoding=UTF-8",
                    "-Dsun.jnu.encoding=UTF-8",
                    str(READER),
                    str(root),
                    side,
                    *ids,
                    missing,
                ],
                capture_output=True,
                check=True,
            )
            .stdout.decode()
            .splitlines()
        )
        assert lines[0] == f"version {store.current.number:06}"
        assert lines[-1] == f"{missing}: unknown"
        for line, name, vector in zip(lines[1:-1], ids, expected, strict=True):
            assert line.startswith(f"{name}: ")
            np.testing.assert_array_equal(np.array(line.partition(": ")[2].split(), np.float32), vector)


def test_a_backend_without_embsync_follows_and_pins(place: Path) -> None:
    """Each answer is from the newest version and without dead labels; the version in use is not pruned."""
    root = place / "backend" / "S"
    for number in range(2):
        sync(root, night(number, items=120, users=60, width=6), f"n{number}")
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(BACKEND), str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as backend:
        assert isinstance(backend.stdin, io.TextIOBase)
        assert isinstance(backend.stdout, io.TextIOBase)

        def ask(user: int) -> str:
            print(user, file=backend.stdin, flush=True)
            return str(backend.stdout.readline())

        for expected in (2, 3):
            answer = json.loads(ask(2070))
            with embsync.open(root) as store:
                ids, scores = store.current.search_by_user([2070], 10)
            assert answer["version"] == expected
            assert answer["ids"] == ids[0].tolist()
            np.testing.assert_allclose(answer["scores"], scores[0], rtol=1e-6)
            sync(root, night(3, items=120, users=60, width=6), "n3")
        assert Store(root).prune(1) == ([1, 2], [3])
        assert ask(7) == "no user 7\n"
        backend.stdin.close()
        assert backend.wait(PATIENCE) == 0


@pytest.mark.parametrize("name", [BACKEND.name, pytest.param(READER.name, marks=needs_java)])
def test_the_examples_run_by_the_documented_commands(place: Path, name: str) -> None:
    """The commands run in the directory that contains docs and the demo."""
    (place / "docs").unlink(missing_ok=True)
    (place / "docs").symlink_to(ROOT / "docs")
    done = shell(only("sh", name), place)
    assert (done.returncode, done.stderr) == (0, "")
    assert "version" in done.stdout


def test_every_example_is_linked() -> None:
    """Every example is linked from a page of the documentation."""
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("**/*.md"))
    examples = [path for path in BACKEND.parent.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    assert [path for path in examples if f"({path.relative_to(ROOT / 'docs')})" not in pages.replace("(../", "(")] == []


def test_every_documented_option_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """Every documented option of ``embsync serve`` and every documented key exists."""
    assert run(["serve", "--help"]) == 0
    output = capsys.readouterr().out
    for option in ("--token-file", "--max-k", "--workers", "--store"):
        assert option in HTTP.text
        assert option in output
