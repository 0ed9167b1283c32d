"""Clients generated from the OpenAPI document work unmodified against a server, with their defaults."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.http import Server, serving
from support.nights import configured, night, write_npy
from support.quick import quick_directory

import embsync
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store

SIZES = {"items": 60, "users": 50, "width": 4}
TYPESCRIPT = Path(__file__).parent / "typescript"


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with quick_directory() as directory:
        for number in range(2):
            made = night(number, **SIZES)
            path = write_npy(directory / f"n{number}", made)
            rows = [f"{name},item {name}" for name in made.item_ids.tolist()]
            (path / "item_labels.csv").write_text("\n".join(["item_id,name", *rows]))
            publish_snapshot(Store(directory / "S"), Request(path), configured(snapshot__labels=["name"]))
        yield directory / "S"


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    """A server whose largest k is below the usual default of a search."""
    with serving(root, "--max-k", "3") as running:
        yield running


@pytest.fixture(scope="module")
def known(root: Path) -> tuple[int, int]:
    """Return a user and an item."""
    with embsync.open(root) as reader:
        users = reader.current.side("users")
        return int(users.ids[users.live][0]), int(reader.current.items.ids[reader.current.items.live][0])


@pytest.fixture(scope="module")
def expected(root: Path, known: tuple[int, int]) -> list[int]:
    """Return the items that a search by the user finds."""
    with embsync.open(root) as reader:
        found: list[int] = reader.current.search_by_user([known[0]], 3)[0][0].tolist()
        return found


@pytest.fixture
def document(server: Server, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_bytes(server.ask("/openapi.json").body)
    return path


@pytest.fixture
def generated(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package that openapi-python-client generates."""
    settings = tmp_path / "settings.json"
    settings.write_text(
        json.dumps({"content_type_overrides": {"application/x-npy": "application/octet-stream"}, "post_hooks": []})
    )
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"]
    command += ["--path", str(document), "--output-path", str(tmp_path / "made_client"), "--config", str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name: importlib.import_module(f"made_client.{name}")


@pytest.mark.services("openapi_python_client")
def test_a_python_client_calls_every_endpoint(
    generated: Any, server: Server, known: tuple[int, int], expected: list[int]
) -> None:
    """Every operation is called with only its required fields, and by URL where that exists."""
    models = generated("models")
    user, item = known

    def asked(name: str, **given: Any) -> Any:
        answer = generated(f"api.{name}").sync_detailed(client=client, **given)
        assert answer.status_code == 200, answer.content
        return answer.parsed

    with generated("client").Client(base_url=server.where) as client:
        assert asked("search.search", body=models.SearchRequest(users=[user])).ids == [expected]
        by_url = asked("search.get_search", users=[str(user)], k=2, where=json.dumps({"name": f"item {expected[1]}"}))
        assert by_url.ids == [[expected[1]]]
        assert asked("search.get_search", users=[str(user)], k=2).ids == [expected[:2]]
        named = models.LookupRequest(side=models.LookupRequestSide.ITEMS, ids=[item], labels=["name"])
        assert asked("vectors.lookup", body=named).labels[0].additional_properties == {"name": f"item {item}"}
        assert asked("vectors.get_diff", before=1).labels[0].changed == 0
        body = models.SearchRequest(
            users=[user, -5], string_ids=True, null_ids=True, missing=models.SearchRequestMissing.NAN
        )
        assert asked("search.search", body=body).ids == [list(map(str, expected)), [None] * 3]
        two = asked(
            "vectors.lookup", body=models.LookupRequest(side=models.LookupRequestSide.USERS, ids=[user])
        ).vectors
        assert asked("vectors.get_lookup", side=models.GetLookupSide.USERS, ids=[str(user)]).vectors == two
        assert asked("search.search", body=models.SearchRequest(vectors=two)).ids == [expected]
        for name in ("transform", "fold_in"):
            request = (
                {"vectors": two, "side": models.TransformRequestSide.USERS}
                if name == "transform"
                else {"ids": [[item]]}
            )
            kind = models.TransformRequest if name == "transform" else models.FoldInRequest
            assert len(asked(f"vectors.{name}", body=kind(**request)).vectors[0]) == SIZES["width"]
        assert (
            len(
                asked(
                    "vectors.movement", body=models.MovementRequest(side=models.MovementRequestSide.ITEMS, id=item)
                ).steps
            )
            == 2
        )
        assert len(asked("vectors.get_movement", side=models.GetMovementSide.ITEMS, id=str(item)).steps) == 2
        assert asked("server.get_version").version == asked("server.get_health").serving == 2
        refused = generated("api.search.search").sync(client=client, body=models.SearchRequest(users=[-5]))
        assert (refused.error, refused.found) == ("NotFoundError", "-5")


@pytest.mark.long
def test_a_typescript_client_calls_every_endpoint(
    document: Path, server: Server, known: tuple[int, int], expected: list[int]
) -> None:
    """The client compiles with strict types, and ids are strings if that is requested."""
    if shutil.which("node") is None:
        pytest.skip("no Node.js")
    if not (TYPESCRIPT / "node_modules/openapi-typescript").is_dir():
        pytest.skip("no openapi-typescript: npm install --prefix tests/server/typescript")
    here = document.parent
    (here / "node_modules").symlink_to(TYPESCRIPT / "node_modules")
    for name in ("client.ts", "package.json"):
        shutil.copy(TYPESCRIPT / name, here / name)
    compile_command = "node_modules/.bin/tsc --strict --target es2022 --module esnext --moduleResolution bundler"
    for command in (
        f"node_modules/.bin/openapi-typescript {document.name} -o schema.d.ts",
        f"{compile_command} --lib es2022,dom client.ts",
    ):
        done = subprocess.run(command.split(), cwd=here, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    user, item = map(str, known)
    done = subprocess.run(
        ["node", "client.js", server.where, user, item], cwd=here, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["statuses"] == [200] * 10
    assert said["ids"] == list(map(str, expected))
    assert said["by_url"] == list(map(str, expected))[:2]
    assert said["by_label"] == [[str(item)], [f"item {item}"]]
    assert (said["by_vector"], said["folded"], said["steps"], said["version"]) == (2, 4, 2, 2)
    assert len(said["vector"]) == SIZES["width"]
    assert said["refused"] == [404, "unknown users ids"]
