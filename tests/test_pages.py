"""The code of the README and of every page of docs/ is run unchanged, or marked with the reason why not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.documents import ROOT, Document, shell
from support.quick import quick_directory

import embsync
from embsync.cli.main import COMMANDS
from embsync.config_loader import load
from embsync.demo.story import run as demo
from embsync.demo.taste import World

#: Pages whose blocks are run by a test module of their own.
OWN_TESTS = {
    "test_tutorial.py": ["tutorial"],
    "test_consumers.py": [
        "consumers",
        *(f"how-to/{name}" for name in ("cold-start", "files", "http", "notebook", "shell")),
    ],
    "training/test_training_page.py": ["training", *(f"how-to/{name}" for name in ("biases", "gensim", "implicit"))],
}
OWN_TESTS["training/test_training_page.py"] += [
    f"how-to/{name}" for name in ("jax", "pytorch", "recbole", "spark", "tensorflow")
]
ELSEWHERE = {f"docs/{page}.md" for pages in OWN_TESTS.values() for page in pages}
PAGES = [str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/**/*.md"))]]
RUN_HERE = [page for page in PAGES if page not in ELSEWHERE and Document(page).fences()]
#: Modules of the extra ``test-services`` that the blocks of a page import.
IMPORTED = {"docs/how-to/arrays.md": ["safetensors"]}
#: Languages of blocks that are not code.
TEXT = {"", "text"}
#: Every block that no test runs.
NOT_RUN = {
    "CONTRIBUTING.md": 3,
    "README.md": 2,
    "docs/delivery.md": 1,
    "docs/how-to/milvus.md": 1,
    "docs/how-to/postgresql.md": 1,
    "docs/operations.md": 3,
    "docs/scaling.md": 2,
    "docs/tutorial.md": 1,
}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory with a small demo, whose store also has the default name."""
    with quick_directory() as directory:
        demo(directory / "embsync-demo", 3, world=World(items=300, users=200))
        (directory / "embsync-store").symlink_to("embsync-demo/store")
        yield directory


@pytest.mark.parametrize(
    "name", [pytest.param(page, marks=pytest.mark.services(*IMPORTED.get(page, []))) for page in RUN_HERE]
)
def test_every_block_runs_as_it_stands(place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The blocks run in order: Python with the arrays of a training job, YAML as a configuration, JSON as a document.

    Pages write snapshots of the same names, so each starts with an empty directory of models.
    """
    monkeypatch.chdir(place)
    shutil.rmtree("models", ignore_errors=True)
    Path("models").mkdir()
    random = np.random.default_rng(3)
    given = {"items": random.normal(size=(50, 4)), "users": random.normal(size=(40, 4))}
    for block in Document(name).fences():
        if block.not_run is not None or block.language in TEXT:
            continue
        if block.language == "python":
            space = {"embsync": embsync, **given, "item_ids": np.arange(50), "user_ids": np.arange(40)}
            exec(compile(block.source, f"{name}, line {block.line}", "exec"), space)
        elif block.language == "sh":
            done = shell(block.source, place)
            assert (done.returncode, done.stderr) == (0, ""), block
        elif block.language == "yaml":
            (place / "page.yaml").write_text(block.source, encoding="utf-8")
            load(place / "page.yaml", environment={})
        else:
            assert block.language == "json", block
            json.loads(block.source)


def test_the_blocks_that_are_not_run_are_few_and_say_why() -> None:
    """Each has its reason on the line above, and is counted in ``NOT_RUN``."""
    marked = {name: [block for block in Document(name).fences() if block.not_run is not None] for name in PAGES}
    for name, blocks in marked.items():
        for block in blocks:
            print(f"{name}:{block.line}: {block.not_run}")
    assert {name: len(blocks) for name, blocks in marked.items() if blocks} == NOT_RUN
    for name in PAGES:
        text = Document(name).text
        assert text.count("```") == 2 * len(Document(name).fences()), name
        assert text.count("<!-- not run:") == len(marked[name]), name
        for module in re.findall(r"<!-- not run:.*?tests/([\w/]+\.py)", text):
            assert (ROOT / "tests" / module).exists()


def test_a_page_that_is_run_elsewhere_is_named_there() -> None:
    """A test module that runs a page names it by its path below docs/."""
    for module, pages in OWN_TESTS.items():
        text = (ROOT / "tests" / module).read_text(encoding="utf-8")
        for page in pages:
            assert f"docs/{page}.md" in text or f'"{Path(page).name}"' in text, page
        assert all((ROOT / f"docs/{page}.md").exists() for page in pages)


def test_the_two_commands_for_a_fresh_machine_are_there() -> None:
    """The README contains the two commands as complete lines."""
    lines = [line for block in Document("README.md").fences() for line in block.source.splitlines()]
    assert "pip install . && embsync demo" in lines
    assert "pip install '.[test]' && pytest" in lines


def test_the_readme_is_one_screen() -> None:
    """The README has one picture and at most 60 lines, and links to the pages."""
    text = Document("README.md").text
    assert len(text.splitlines()) <= 60
    assert text.count("![") == 1
    assert set(COMMANDS) >= set(re.findall(r"(?:`|&& )embsync ([a-z-]+)", text))
