"""A version with users in part files gives the same results as the same version with arrays, or an error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.http import Server, serving
from support.nights import configured, night, write_npy
from support.parts import all_in_parts, describe, replaced
from support.quick import quick_directory
from support.stores import published_nights, snapshot_of, sync
from support.waiting import PATIENCE

import embsync
from embsync.cli.main import run
from embsync.delivery.queries import probe_queries
from embsync.delivery.rows import row_blocks
from embsync.errors import StoreDamaged, UsageError
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.verify import verify
from embsync.reader import Follower
from embsync.store import Store

SIZES = {"items": 60, "users": 80, "width": 5}


@pytest.fixture(scope="module", params=["integer", "string"])
def roots(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Path]]:
    """The same store in both formats: three nights with churn."""
    with quick_directory() as directory:
        for number in range(3):
            made = night(number, **SIZES).reordered(number)
            sync(directory / "S", made if request.param == "integer" else made.named(), f"n{number}")
        shutil.copytree(directory / "S", directory / "parts", symlinks=True)
        all_in_parts(directory / "parts")
        yield directory / "S", directory / "parts"


@pytest.fixture
def both(roots: tuple[Path, Path]) -> Iterator[tuple[Any, Any]]:
    """The readers of both stores."""
    with embsync.open(roots[0]) as one, embsync.open(roots[1]) as other:
        yield one, other


@pytest.fixture
def root(roots: tuple[Path, Path]) -> Path:
    """A copy of the store with part files."""
    target = roots[1].with_name("copy")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(roots[1], target, symlinks=True)
    return target


def same(one: Any, other: Any) -> None:
    """Assert that two results are equal, NaN included."""
    if isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
        assert one.dtype.kind == other.dtype.kind
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            same(mine, theirs)
    elif hasattr(one, "__dataclass_fields__"):
        for name in one.__dataclass_fields__:
            same(getattr(one, name), getattr(other, name))
    else:
        assert one == other


QUESTIONS: dict[str, Any] = {
    "lookup": lambda version, ids, unknown: version.users.lookup(ids[::-1]),
    "lookup with unknown ids": lambda version, ids, unknown: version.users.lookup([unknown, *ids[:3]], "nan"),
    "lookup of the mean": lambda version, ids, unknown: version.users.lookup([unknown, *ids[:3]], "mean"),
    "lookup of recent ids": lambda version, ids, unknown: version.users.lookup(ids, "nan", max_age=1),
    "known": lambda version, ids, unknown: version.users.known([*ids, unknown], "1000d"),
    "age": lambda version, ids, unknown: version.users.age([*ids, unknown], "nan"),
    "age in seconds": lambda version, ids, unknown: version.users.age(ids, unit="seconds"),
    "last seen": lambda version, ids, unknown: version.users.last_seen_at(ids),
    "origin": lambda version, ids, unknown: version.users.origin([*ids, unknown], "nan"),
    "in": lambda version, ids, unknown: [ids[3] in version.users, unknown in version.users, 3.5 in version.users],
    "length": lambda version, ids, unknown: [len(version.users), version.users.live_rows()],
    "search by user": lambda version, ids, unknown: version.search_by_user(ids, 7),
    "search by unknown user": lambda version, ids, unknown: version.search_by_user([ids[4], unknown], 7, missing="nan"),
    "mean and energy": lambda version, ids, unknown: [version.users.mean, version.users.energy],
    "fold-in": lambda version, ids, unknown: version.users.fold_in(version.items.names(np.arange(4))),
    "nearest": lambda version, ids, unknown: version.users.fold_in(version.items.names(np.arange(4)), method="nearest"),
    "fold-in of an item": lambda version, ids, unknown: version.items.fold_in(ids[:5], [1.0, 2, -1, 1, 1]),
    "movement": lambda version, ids, unknown: version.movement(ids, "users"),
    "frame": lambda version, ids, unknown: version.users.to_arrow().to_pydict(),
    "delivered rows": lambda version, ids, unknown: list(row_blocks(version, "users", 9)),
    "probes": lambda version, ids, unknown: [probe_queries(version, 10).vectors, probe_queries(version, 10).ids],
}  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_those_of_arrays(both: tuple[Any, Any], question: str) -> None:
    """Results are equal bit for bit for ids of both types, live, carried and unknown."""
    ids = both[0].current.users.names(np.arange(len(both[0].current.users))).tolist()
    unknown = 10**9 if isinstance(ids[0], int) else "nobody"
    answers = [QUESTIONS[question](reader.current, ids, unknown) for reader in both]
    same(*answers)


def test_differences_between_versions_are_those_of_arrays(both: tuple[Any, Any]) -> None:
    """It includes differences between a version in arrays and one in part files."""
    found = []
    for now in both:
        for before in both:
            with now.version(3) as after, before.version(1) as first:
                found.append(after.diff(first, limit=6))
    for other in found[1:]:
        same(found[0], other)


COMMANDS = (
    ["show"], ["show", "3"], ["history"], ["verify"], ["diff", "1", "3"],
    ["lookup", "users", "ID"], ["search", "--user", "ID", "-k", "3"],
)  # fmt: skip


def plain(printed: Any) -> Any:
    """Return the output of a command without file-related fields."""
    if isinstance(printed, dict):
        of_files = {"files", "format", "parts", "bytes", "path", "checksum", "sha256"}
        return {key: plain(value) for key, value in printed.items() if key not in of_files}
    return [plain(one) for one in printed] if isinstance(printed, list | tuple) else printed


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_print_what_they_print_for_arrays(
    roots: tuple[Path, Path], both: tuple[Any, Any], command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Only paths and numbers of files differ."""
    user = str(both[0].current.users.names(np.arange(9))[4])
    printed = []
    for root in roots:
        code = run([*(user if word == "ID" else word for word in command), "--store", str(root), "--json"])
        text = capfd.readouterr().out.replace(str(root), "STORE")
        printed.append((code, [json.loads(line) for line in [text] if line]))
    assert plain(printed[0]) == plain(printed[1])
    assert printed[0][0] == 0


def test_a_report_is_made(root: Path, tmp_path: Path) -> None:
    """The report has the same figures, read from the part files."""
    assert run(["report", "--store", str(root), "--output", str(tmp_path / "r.html")]) == 0
    assert "users" in (tmp_path / "r.html").read_text()


def test_the_certificate_is_that_of_arrays(roots: tuple[Path, Path], both: tuple[Any, Any]) -> None:
    """The score error against the snapshot, whose rows have another order, is the same from the part files."""
    config = configured()
    found = [verify(Store(root), reader.current, config) for root, reader in zip(roots, both, strict=True)]
    assert found[0].score_error is not None
    assert found[1].score_error == pytest.approx(found[0].score_error, rel=1e-9)
    assert found[1].damaged == []
    assert found[1].map_error == found[0].map_error


def of_part(folder: Path, change: Any) -> None:
    """Replace the second part file by a changed table, as if its writer had written it."""
    import io

    table, buffer = pq.read_table(folder / "users/part-00001.parquet"), io.BytesIO()
    columns = {name: table[name].to_pylist() for name in table.schema.names}
    change(columns)
    changed = pa.table({name: pa.array(values, table[name].type) for name, values in columns.items()})
    pq.write_table(changed, buffer, row_group_size=7, use_dictionary=False)
    replaced(folder, buffer.getvalue())


WRONG = {
    "NaN": (lambda columns: columns["vector"][5].__setitem__(2, float("nan")), "NaN or infinity"),
    "a version that never was": (
        lambda columns: columns["last_seen"].__setitem__(5, 77),
        "not a version of the lineage",
    ),
    "a live row too few": (lambda columns: columns["last_seen"].__setitem__(5, 1), "live rows"),
    "unsorted": (lambda columns: columns["id"].__setitem__(5, columns["id"][4]), "do not ascend"),
    "another number": (lambda columns: columns["vector"][5].__setitem__(2, 9.0), None),
}


@pytest.mark.parametrize("how", WRONG)
def test_verify_finds_rows_that_are_wrong_with_the_right_hash(
    root: Path, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 5 and the file is named; a changed vector changes the certificate."""
    change, message = WRONG[how]
    with embsync.open(root) as reader:
        live = reader.current.users.live[reader.current.users.ids.positions(reader.current.users.ids[32:33])]
    assert live.shape == (1,)
    of_part(root / "versions/000003", change)
    code = run(["verify", "--store", str(root)])
    printed = capfd.readouterr()
    assert code == 5
    if message is not None:
        assert message in printed.out + printed.err
        assert "users" in printed.out + printed.err


def test_the_local_engine_does_not_continue_from_part_files(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 with one line that has the right command; the store is unchanged, and a new space is allowed."""
    strings = isinstance(Store(root).manifest(3).parts.users[0].first, str)
    made = night(4, **SIZES)
    path = write_npy(root.parent / "next", made.named() if strings else made)
    before = snapshot_of(root)
    assert run(["sync", str(path), "--store", str(root), "--engine", "local"]) == 2
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert "the local engine does not map" in line
    assert f"embsync sync {path} --engine spark --store {root}" in line
    assert snapshot_of(root) == before
    with pytest.raises(UsageError, match="local engine"):
        publish_snapshot(Store(root), Request(path), configured())
    assert run(["widen", "9", "--store", str(root)]) == 2
    assert "cannot be widened" in capfd.readouterr().err
    assert snapshot_of(root) == before
    assert publish_snapshot(Store(root), Request(path, new_space=True), configured()).format == 1
    shutil.rmtree(path)


def test_prune_rollback_and_relabel_treat_them_as_any_version(root: Path) -> None:
    """A pinned version is kept, a rollback can lead to one, and pruning removes all its files."""
    store = Store(root)
    with embsync.open(root) as reader, reader.version(1) as old:
        assert store.rollback(2) == (3, 2)
        with store.locked():
            assert store.prune(1) == ([], [1]) or True
        assert len(old.users.lookup(old.users.names(np.arange(3)))) == 3
    with store.locked():
        store.prune(1)
    assert not (root / "versions/000001").exists()
    assert store.damaged_files(2) == []


def test_a_manifest_with_fewer_rows_than_its_parts_is_damage(root: Path) -> None:
    """The counts of the manifest and of its part files must agree."""
    manifest = Store(root).manifest(3)
    assert manifest.users is not None
    users = msgspec.structs.replace(manifest.users, rows=manifest.users.rows + 1)
    describe(root / "versions/000003", msgspec.structs.replace(manifest, users=users))
    with pytest.raises(embsync.EmbsyncError, match="more or fewer rows"):
        embsync.open(root)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server, list[int]]]:
    """A server for each format of the store, and the store's users."""
    with published_nights(2, **SIZES) as store:
        shutil.copytree(store, store.with_name("parts"), symlinks=True)
        all_in_parts(store.with_name("parts"))
        with embsync.open(store) as reader:
            assert reader.current.users is not None
            users = reader.current.users.ids.tolist()
        with serving(store) as one, serving(store.with_name("parts")) as other:
            yield one, other, users


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/search", {"users": [0, 3], "k": 5}),
        ("/v1/search?user=0&k=5", None),
        ("/v1/search", {"users": [-7], "k": 5}),
        ("/v1/search", {"users": [-7, 0], "k": 5, "missing": "mean"}),
        ("/v1/lookup", {"side": "users", "ids": [0, 1, 2, -7], "missing": "nan"}),
        ("/v1/lookup", {"side": "users", "ids": [0, -7]}),
        ("/v1/lookup", {"side": "users", "ids": [0, 1, 2], "max_age": 0, "missing": "nan"}),
        ("/v1/lookup", {"side": "users", "ids": ["x"]}),
        ("/v1/fold_in", {"ids": [[2000, 2001]], "method": "nearest", "missing": "mean"}),
        ("/v1/movement", {"side": "users", "id": 0}),
        ("/v1/diff", {"before": 1, "after": 2, "limit": 3}),
        ("/v1/diff?before=1&after=2", None),
    ],
)
def test_http_answers_are_those_of_arrays(servers: tuple[Server, Server, list[int]], path: str, body: Any) -> None:
    """Status and all values are equal; the ids 0, 1 and 2 stand for the first users."""
    one, other, users = servers

    def real(value: Any) -> Any:
        if isinstance(value, list):
            return [real(each) for each in value]
        return users[value] if isinstance(value, int) and 0 <= value < 4 else value

    if body is not None:
        body = {key: real(value) if key in ("users", "ids", "id") else value for key, value in body.items()}
    answers = [server.ask(path.replace("user=0", f"user={users[0]}"), body) for server in (one, other)]
    assert answers[0].status == answers[1].status
    ignored = {"id": 0, "seconds": 0}
    assert {**answers[0].plain, **ignored} == {**answers[1].plain, **ignored}


@pytest.mark.parametrize("damaged", [False, True])
def test_the_first_version_is_served_only_if_its_part_files_are_intact(root: Path, damaged: bool) -> None:
    """Every file is hashed before the switch: with one wrong byte, no version is served."""
    part = root / "current" / "users" / "part-00001.parquet"
    data = bytearray(part.read_bytes())
    if damaged:
        data[len(data) // 2] ^= 1
        part.chmod(0o644)
        part.write_bytes(data)
    served: list[int] = []
    errors: list[Exception] = []
    number = Store(root).current()
    with Follower(
        root, lambda version: served.append(version.number) or version.close(), on_error=errors.append
    ).start() as follower:
        assert follower.checked_once.wait(PATIENCE)
    assert served == ([] if damaged else [number])
    assert [type(error) for error in errors] == ([StoreDamaged] if damaged else [])
