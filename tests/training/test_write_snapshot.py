"""A training job's snapshot is complete or does not exist, for any inputs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from snapshots.made import vectors
from support.disk import mounted

import embsync
from embsync.cli.main import run
from embsync.config import DEFAULT_LIMITS, SnapshotConfig, WatchConfig
from embsync.errors import NotFoundError, OutOfSpace, SnapshotError, StoreError, UsageError
from embsync.snapshots import open_snapshot
from embsync.store import durable, staging
from embsync.watching.discovery import discover
from embsync.watching.source_manifest import verify_listed_files

RNG = np.random.default_rng(7)
ITEMS, USERS = RNG.normal(size=(40, 4)).astype("f4"), RNG.normal(size=(30, 4)).astype("f4")
BOTH: dict[str, Any] = {
    "items": ITEMS,
    "item_ids": np.arange(40),
    "users": USERS,
    "user_ids": [f"u{k}" for k in range(30)],
}


def entries(folder: Path) -> list[str]:
    """Return the names in a directory."""
    return sorted(path.name for path in folder.iterdir())


def read_back(path: Path) -> tuple[Any, Any]:
    """Return items and users of a snapshot whose hashes agree."""
    verify_listed_files(path, lambda _: None)
    opened = open_snapshot(path, SnapshotConfig())
    return opened.items, opened.users


def test_a_written_snapshot_is_complete_and_reads_back(tmp_path: Path) -> None:
    """Integer items and string users are written and listed with their hashes; no other file is left."""
    path = embsync.write_snapshot(tmp_path / "day=1", **BOTH, item_weights=np.ones(40))
    items, users = read_back(path)
    np.testing.assert_array_equal(vectors(items), ITEMS)
    np.testing.assert_array_equal(vectors(users), USERS)
    assert items.ids().tolist() == list(range(40))
    assert users.ids().tolist() == [f"u{k}".encode() for k in range(30)]
    assert items.weights().tolist() == [1.0] * 40
    assert entries(tmp_path) == ["day=1"]
    (child,) = discover(tmp_path, WatchConfig(), SnapshotConfig(), now=0.0, memory={}).children
    assert (child.state, child.reason) == ("ready", "manifest")


@pytest.mark.services("ml_dtypes", "pandas")
def test_arrays_of_every_kind_are_accepted(tmp_path: Path) -> None:
    """NumPy in any byte and memory order, ``__array__``, DLPack, pandas by index, Arrow and bfloat16 are accepted."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")

    class Tensor:
        def __dlpack__(self, **options: Any) -> Any:
            return ITEMS.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return ITEMS.__dlpack_device__()

    class HasArray:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return ITEMS

    names = [f"i{k}" for k in range(40)]
    frame = pd.DataFrame(ITEMS, index=names)
    series = pd.Series(list(ITEMS), index=pd.Index(names, dtype="string"))
    kinds = {
        "big": (ITEMS.astype(">f4"), names),
        "fortran": (np.asfortranarray(ITEMS), np.array(names, object)),
        "dlpack": (Tensor(), np.array(names, np.dtypes.StringDType())),
        "array": (HasArray(), pd.Series(names, dtype="string")),
        "list": (ITEMS.astype(float).tolist(), pd.Categorical(names)),
        "frame": (frame, None),
        "series": (series, None),
        "arrow": (pa.array(list(ITEMS)), pa.array(names)),
        "fixed": (pa.FixedSizeListArray.from_arrays(pa.array(ITEMS.ravel()), 4), pa.chunked_array([names])),
        "bfloat16": (ITEMS.astype(ml_dtypes.bfloat16), names),
    }
    for kind, (items, ids) in kinds.items():
        side, _ = read_back(embsync.write_snapshot(tmp_path / kind, items=items, item_ids=ids))
        wanted = ITEMS.astype(ml_dtypes.bfloat16).astype("f4") if kind == "bfloat16" else ITEMS
        np.testing.assert_array_equal(vectors(side), wanted, err_msg=kind)
        assert [value.decode() for value in side.ids().tolist()] == names, kind


@pytest.mark.filterwarnings("ignore")
def test_arrays_of_jax_are_accepted(tmp_path: Path) -> None:
    """float32, bfloat16 and ids on a device are accepted."""
    jax = pytest.importorskip("jax.numpy", reason="jax is not installed")
    for dtype in ("float32", "bfloat16"):
        items = jax.asarray(ITEMS, dtype)
        path = embsync.write_snapshot(tmp_path / dtype, items=items, item_ids=jax.arange(40), item_weights=jax.ones(40))
        side, _ = read_back(path)
        np.testing.assert_array_equal(vectors(side), np.asarray(items).astype("f4"))
        assert side.ids().tolist() == list(range(40))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"item_ids": np.zeros(40, int)}, "repeated ids"),
        ({"item_ids": np.arange(39)}, "ids and vectors differ in number"),
        ({"item_ids": ["a", None, *range(38)]}, "are not ids of one type"),
        ({"item_ids": np.linspace(0, 1, 40)}, "ids of an unusable type"),
        ({"item_ids": None}, "vectors without ids"),
        ({"items": np.where(np.eye(40, 4) > 0, np.nan, ITEMS)}, "NaN or infinity"),
        ({"items": np.zeros((40, 4))}, "no scores"),
        ({"items": np.ones((40, 4), int)}, "vectors are not floats"),
        ({"items": np.ones(40)}, "vectors are not a matrix"),
        ({"items": np.ones((40, 5))}, "items and users differ in width"),
        ({"item_weights": -np.ones(40)}, "invalid weight"),
        ({"users": None}, "incomplete snapshot"),
        ({"items": ITEMS.astype(np.longdouble)}, "vectors are not floats"),
        ({"items": ITEMS.astype(complex)}, "vectors are not floats"),
        ({"items": np.ma.masked_less(ITEMS, 0)}, "items: masked values"),
        ({"item_ids": np.ma.masked_equal(np.arange(40), 3)}, "item_ids: masked values"),
        ({"items": csr_matrix(ITEMS)}, r"items is a sparse matrix; .*hint: items.toarray\(\)"),
        ({"items": {"a": 1}}, "is not a matrix of vectors"),
        ({"items": None}, "is not a matrix of vectors"),
        ({"items": [[1.0, 2.0], [1.0]]}, "items is not an array"),
        ({"item_weights": np.ones(39)}, "weights and vectors differ in number"),
        ({"item_weights": ["a"] * 40}, "weights that are not numbers"),
        ({"item_weights": np.ones((40, 1))}, "not one value per row"),
        ({"item_weights": np.ma.masked_equal(np.arange(40.0), 3)}, "item_weights: masked values"),
        ({"user_ids": [f"u{k}" * 600 for k in range(30)]}, "ids of an unusable length"),
    ],
)
def test_a_snapshot_that_sync_would_refuse_is_not_written(tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    """The messages are those of ``sync``, before anything is written."""
    with pytest.raises(SnapshotError, match=says):
        embsync.write_snapshot(tmp_path / "day=1", **{**BOTH, **wrong})
    assert entries(tmp_path) == []


def test_an_existing_directory_is_overwritten_only_on_request(tmp_path: Path) -> None:
    """Any other file in the directory is removed too."""
    path = embsync.write_snapshot(tmp_path / "day=1", **BOTH)
    (path / "stray.txt").touch()
    with pytest.raises(UsageError, match="the directory exists"):
        embsync.write_snapshot(path, **BOTH)
    assert (path / "stray.txt").exists()
    embsync.write_snapshot(path, **{**BOTH, "items": ITEMS * 2}, overwrite=True)
    np.testing.assert_array_equal(vectors(read_back(path)[0]), ITEMS * 2)
    assert entries(tmp_path) == ["day=1"]
    assert not (path / "stray.txt").exists()


def test_without_an_exchange_the_manifest_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step there are files that do not match the manifest, until all of them are there."""
    path = embsync.write_snapshot(tmp_path / "day=1", **BOTH)
    (path / "old").mkdir()
    monkeypatch.setattr(durable, "_renameat2", lambda *_: False)
    states = []
    sync = durable.sync_directory

    def look(folder: Path) -> None:
        if folder == path:
            (child,) = discover(tmp_path, WatchConfig(), SnapshotConfig(), now=0.0, memory={}).children[-1:]
            states.append(child.state)
        sync(folder)

    monkeypatch.setattr(staging, "sync_directory", look)
    wider = {"items": np.hstack([ITEMS, ITEMS]), "users": np.hstack([USERS, USERS])}
    embsync.write_snapshot(path, **{**BOTH, **wider}, overwrite=True)
    assert states[:2] == ["waiting", "waiting"]
    assert states[-1] == "ready"
    np.testing.assert_array_equal(vectors(read_back(path)[0]), wider["items"])
    embsync.write_snapshot(tmp_path / "day=2", **BOTH)
    (tmp_path / "day=3").mkdir()
    with pytest.raises(FileExistsError):
        durable.rename_to_free(path, tmp_path / "day=3")


@pytest.mark.parametrize("name", [".hidden", "_hidden", "day.tmp", "day\udcff", "day\0=1", "\0", ".."])
def test_names_that_are_not_scanned_are_refused(tmp_path: Path, name: str) -> None:
    """Such a snapshot would never be published."""
    with pytest.raises(UsageError, match="not a valid name of a snapshot"):
        embsync.write_snapshot(tmp_path / name, **BOTH, overwrite=True)
    assert entries(tmp_path) == []


def test_paths_that_the_system_refuses_are_errors_of_embsync(tmp_path: Path) -> None:
    """Too long a name, the root directory and a directory without permission are reported."""
    with pytest.raises(StoreError, match="a snapshot cannot be written; found File name too long"):
        embsync.write_snapshot(tmp_path / ("d" * 300), **BOTH)
    with pytest.raises(UsageError, match="not a valid name of a snapshot"):
        embsync.write_snapshot("/", **BOTH, overwrite=True)


def test_only_a_snapshot_or_an_empty_directory_is_overwritten(tmp_path: Path) -> None:
    """With an empty name, the watched directory itself would be replaced."""
    watched = tmp_path / "watched"
    watched.mkdir()
    embsync.write_snapshot(watched / "day=1", **BOTH)
    with pytest.raises(UsageError, match="the directory exists and is not a snapshot; found day=1"):
        embsync.write_snapshot(f"{watched}/", **BOTH, overwrite=True)
    assert entries(watched) == ["day=1"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy/items.npy", ITEMS)
    for name in ("empty", "npy"):
        read_back(embsync.write_snapshot(tmp_path / name, **BOTH, overwrite=True))


def test_a_full_disk_leaves_the_existing_snapshot(tmp_path: Path) -> None:
    """Saving raises an error, and no partial file is left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "256k"):
        path = embsync.write_snapshot(disk / "day=1", **BOTH)
        more = np.random.default_rng(1).normal(size=(20_000, 4))
        for name, overwrite in (("day=1", True), ("day=2", False)):
            with pytest.raises(OutOfSpace, match="no space left for a snapshot"):
                embsync.write_snapshot(disk / name, items=more, item_ids=range(20_000), overwrite=overwrite)
        np.testing.assert_array_equal(vectors(read_back(path)[0]), ITEMS)
        assert entries(disk) == ["day=1"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any moment of the interrupt, neither a snapshot nor a temporary file is left."""
    for call in ("stream", "seal", "array", "move"):
        with monkeypatch.context() as patched:
            patched.setattr(staging.Staging, call, interrupted)
            with pytest.raises(KeyboardInterrupt):
                embsync.write_snapshot(tmp_path / "day=1", **BOTH)
        assert entries(tmp_path) == []


def interrupted(*_: Any, **__: Any) -> Any:
    """Raise what Ctrl-C raises."""
    raise KeyboardInterrupt


def test_concurrent_writers_of_one_name_leave_one_complete_snapshot(tmp_path: Path) -> None:
    """Without ``overwrite``, one writer succeeds and the others raise; with it, the last one's snapshot is kept."""
    path = tmp_path / "day=1"

    def write(night: int, **options: Any) -> str:
        try:
            embsync.write_snapshot(path, **{**BOTH, "items": ITEMS * night, "users": USERS * night}, **options)
        except UsageError as error:
            return error.what
        return "written"

    with ThreadPoolExecutor(4) as pool:
        outcomes = sorted(pool.map(write, range(1, 9)))
    assert outcomes == ["the directory exists"] * 7 + ["written"]
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda night: write(night, overwrite=True), range(1, 9))) == {"written"}
    items, users = read_back(path)
    np.testing.assert_allclose(vectors(items)[0, 0] / ITEMS[0, 0], vectors(users)[0, 0] / USERS[0, 0], rtol=1e-5)
    assert entries(tmp_path) == ["day=1"]


def test_links_files_and_missing_directories_are_refused(tmp_path: Path) -> None:
    """They are not replaced, even with ``overwrite``."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(UsageError, match="the path exists"):
            embsync.write_snapshot(tmp_path / name, **BOTH, overwrite=True)
    with pytest.raises(NotFoundError, match=r"no directory to write to.*hint: mkdir -p "):
        embsync.write_snapshot(tmp_path / "no" / "day=1", **BOTH)


JOB = """
import sys, numpy as np, embsync
rng = np.random.default_rng(int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for night in range(10_000):
    items, users = rng.normal(size=(400, 32)), rng.normal(size=(300, 32))
    items[0, 0] = users[0, 0]  # shows which items and users belong together
    embsync.write_snapshot(sys.argv[1], items=items, item_ids=np.arange(400),
        users=users, user_ids=[f"u{k}" for k in range(300)], overwrite=True)
"""


def kill_in_the_middle(path: Path, seed: int, after: float) -> None:
    """Have a job overwrite a snapshot repeatedly, and kill it after a delay."""
    job = subprocess.Popen(
        [sys.executable, "-m", "support.script", JOB, str(path), str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert job.stdin is not None
    assert job.stdout is not None
    with job:
        job.stdout.readline()
        job.stdin.write("\n")
        job.stdin.flush()
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(after)
        job.send_signal(signal.SIGKILL)


def test_a_killed_job_leaves_a_complete_snapshot_or_none(tmp_path: Path) -> None:
    """The directory matches its manifest; the next call removes what the killed job was writing."""
    chance = np.random.default_rng(5)
    for seed in range(3):
        kill_in_the_middle(tmp_path / "day=1", seed, chance.uniform(0, 0.3))
        if (tmp_path / "day=1").exists():
            read_back(tmp_path / "day=1")
    embsync.write_snapshot(tmp_path / "day=2", **BOTH)
    assert [name for name in entries(tmp_path) if name.startswith(".")] == []


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_two_hundred_killed_jobs_beside_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each snapshot and each version the daemon publishes has both sides of one night; the counts are printed."""
    watched, store = tmp_path / "watched", tmp_path / "st"
    watched.mkdir()
    config = tmp_path / "embsync.yaml"
    config.write_text(
        f"watch: {{path: {watched}, settle_seconds: 0.2, rescan_seconds: 0.2}}\n"
        f"store: {{path: {store}, keep_versions: 1000}}\nindex: {{factory: Flat}}\n"
        f"checks: {{{', '.join(f'{name}: {{refuse: null}}' for name in DEFAULT_LIMITS)}}}\n"
    )
    daemon = subprocess.Popen(
        [sys.executable, "-m", "embsync", "run", "--config", str(config)], stderr=subprocess.PIPE, text=True
    )
    chance = np.random.default_rng(5)
    counts = dict.fromkeys(("killed", "in the making", "whole", "nothing yet"), 0)
    try:
        for seed in range(200):
            kill_in_the_middle(watched / "day=1", seed, chance.uniform(0, 0.5))
            counts["killed"] += 1
            counts["in the making"] += any(name.startswith(".embsync-writing-") for name in entries(watched))
            if (watched / "day=1").exists():
                items, users = read_back(watched / "day=1")
                assert vectors(items)[0, 0] == vectors(users)[0, 0]
                counts["whole"] += 1
            else:
                counts["nothing yet"] += 1
    finally:
        daemon.terminate()
        said = daemon.communicate(timeout=500)[1]
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    events = Counter(line.get("event") for line in lines)
    assert "failed" not in events, [line for line in lines if line.get("event") == "failed"]
    with embsync.open(store) as reader:
        numbers = [int(path.name) for path in (store / "versions").iterdir() if path.name.isdigit()]
        for number in numbers:
            with reader.version(number) as version:
                item = version.transform.items_inverse(version.items.lookup([0]))[0, 0]
                user = version.transform.users_inverse(version.users.lookup(["u0"]))[0, 0]
                assert item == pytest.approx(user, abs=1e-4)
    assert numbers
    with capsys.disabled():
        print(f"\n{json.dumps({**counts, 'versions': len(numbers), 'events': events})}")


def test_files_are_written_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``embsync write`` accepts ``.npy`` files and other layouts."""
    np.save(tmp_path / "i.npy", ITEMS)
    np.save(tmp_path / "i_ids.npy", np.arange(40))
    lines = [f"u{row} {' '.join(map(str, numbers))}" for row, numbers in enumerate(USERS)]
    (tmp_path / "u.vec").write_text("30 4\n" + "\n".join(lines) + "\n")
    target = tmp_path / "day=1"
    arguments = ["write", str(target), "--items", str(tmp_path / "i.npy"), "--users", str(tmp_path / "u.vec")]
    assert run([*arguments]) == 3
    assert "--item-ids" in capsys.readouterr().err
    assert not target.exists()
    assert run([*arguments, "--item-ids", str(tmp_path / "i_ids.npy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(target), "items": 40, "users": 30}
    items, users = read_back(target)
    np.testing.assert_array_equal(vectors(items), ITEMS)
    np.testing.assert_array_equal(vectors(users), USERS)
    assert run([*arguments, "--item-ids", str(tmp_path / "i_ids.npy")]) == 2
    printed = capsys.readouterr().err.partition("to replace it: embsync ")[2].split()
    assert run(printed) == 0


def test_arrays_and_snapshots_are_published_from_a_program(tmp_path: Path) -> None:
    """``embsync.publish`` gives the same as ``embsync sync``; the sides may have different types of ids."""
    rng = np.random.default_rng(3)
    nights = [{**BOTH, "items": rng.normal(size=(40, 4)), "users": rng.normal(size=(30, 4))} for _ in range(2)]
    options = {"index.factory": "Flat", "checks": {}}
    first = embsync.publish(tmp_path / "st", **nights[0], name="night-1", config=options)
    assert (first.version, first.snapshot.name, first.index.factory) == (1, "night-1", "Flat")
    again = embsync.publish(tmp_path / "st", embsync.write_snapshot(tmp_path / "day=1", **nights[0]), config=options)
    assert (again.version, again.parent) == (2, 1)
    with embsync.open(tmp_path / "st") as reader:
        version = reader.current
        ids, _ = version.search_by_user(["u3"], k=3)
        assert ids.dtype.kind == "i"
    with pytest.raises(UsageError, match="either a snapshot or arrays"):
        embsync.publish(tmp_path / "st")
    for name in ("../elsewhere", str(tmp_path / "elsewhere"), "a/b"):
        with pytest.raises(UsageError, match="not a valid name of arrays"):
            embsync.publish(tmp_path / "st", **nights[1], name=name, config=options)
    with pytest.raises(SnapshotError, match="ids of a different type"):
        embsync.publish(tmp_path / "st", **{**nights[1], "user_ids": np.arange(30)}, config=options)
