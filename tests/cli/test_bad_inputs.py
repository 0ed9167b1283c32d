"""``embsync sync`` on invalid inputs of each format: one line, exit code 3, the store as before."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
sys.path.insert(0, str(Path(__file__).parent))
import bad_inputs
import bad_tables
from bad_inputs import IDS, ROWS
from support.stores import snapshot_of

from embsync.cli.main import run

CASES = {
    name: (leave, says)
    for name, leave, says in chain(
        bad_inputs.npy_cases(),
        bad_inputs.parts_cases(),
        bad_inputs.npz_cases(),
        bad_inputs.safetensors_cases(),
        bad_inputs.state_dict_cases(),
        bad_inputs.word2vec_cases(),
        bad_inputs.binary_cases(),
        bad_tables.column_file_cases(),
        bad_tables.csv_cases(),
        bad_tables.projector_cases(),
        bad_tables.pipeline_cases(),
    )
}
BOMBS = [name for name in CASES if "bomb" in name or "gigantic" in name or "deep" in name or "never ends" in name]
#: Bytes of resident memory: the libraries, a chunk of a file, a block of vectors, ids.
MOST_MEMORY = 400 * 1024**2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one version, with string ids and the width of the inputs."""
    folder = tmp_path_factory.mktemp("bad")
    np.savez(folder / "day=0.npz", items=ROWS, item_ids=np.array(IDS))
    assert run(["sync", str(folder / "day=0.npz"), "--store", str(folder / "store")]) == 0
    return folder / "store"


def refused(code: int, error: str, says: str) -> None:
    """Assert that an input was refused in one line that names its fault."""
    assert code == 3, error
    assert error.count("\n") == 1, error
    assert re.search(says, error), error
    assert len(error) < 1000


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gives_one_line_and_exit_code_3(
    tmp_path: Path, store: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """The message names the place and the fault; an existing store is unchanged, and none is created."""
    leave, says = CASES[name]
    if name.startswith(("safetensors", "spark_pipeline")):  # integer ids, or two-sided
        store = tmp_path / "store"
    before = snapshot_of(store)
    path = leave(tmp_path)
    capfd.readouterr()
    code = run(["sync", str(path), "--store", str(store)])
    refused(code, capfd.readouterr().err, says)
    assert snapshot_of(store) == before


@pytest.mark.parametrize("name", BOMBS)
def test_a_decompression_bomb_uses_little_memory(tmp_path: Path, name: str) -> None:
    """A separate process uses little memory beyond its libraries."""
    leave, says = CASES[name]
    arguments = ["sync", str(leave(tmp_path)), "--store", str(tmp_path / "store")]
    errors = tmp_path / "errors"
    with errors.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "embsync", *arguments], stderr=file)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    refused(process.returncode, errors.read_text(), says)
    assert used.ru_maxrss * 1024 < MOST_MEMORY
    assert not (tmp_path / "store").exists()
