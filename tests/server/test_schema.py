"""Responses compared with the OpenAPI document: schemathesis sends valid and invalid requests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.http import Server, serving
from support.nights import Night, night
from support.quick import quick_directory
from support.stores import sync

import embsync

pytestmark = [pytest.mark.long, pytest.mark.services("schemathesis")]

SIZES = {"items": 60, "users": 50, "width": 4}
#: Widths and ids that only the store knows cannot be described: a request that fits the schema may be refused.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method,ignored_auth"
)


def _integers(number: int) -> Night:
    return night(number, **SIZES)


def _strings(number: int) -> Night:
    return night(number, **SIZES).named()


@pytest.fixture(
    scope="module",
    params=[pytest.param(_integers, id="integers"), pytest.param(_strings, id="strings", marks=pytest.mark.fuzz)],
)
def root(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Three nights with churn, with integer or string ids."""
    with quick_directory() as directory:
        for number in range(3):
            sync(directory / "S", request.param(number), f"n{number}")
        yield directory / "S"


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    """A server with low limits, but with enough room for the concurrent requests of schemathesis."""
    with serving(root, "--max-body", "100000", "--max-k", "50", "--max-batch", "100") as running:
        yield running


def narrowed(document: dict[str, Any], root: Path) -> dict[str, Any]:
    """Return the document with ids, versions and widths of this store, so that most requests find something."""
    with embsync.open(root) as reader:
        version = reader.current
        items, users = (version.side(name).names(np.arange(6)).tolist() for name in ("items", "users"))
        kept, space = {"enum": reader.numbers()}, {"enum": [version.space_id]}
    either = _list({"enum": [*items, *users]})
    known = {
        "users": _list({"enum": users}),
        "items": _list({"enum": items}),
        "allowed": either,
        "blocked": either,
        "vectors": _list(
            {"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "number", "minimum": -9, "maximum": 9}}
        ),
        "space_id": space,
        "version": kept,
        "snapshot_version": kept,
        "before": kept,
        "after": kept,
    }
    schemas = document["components"]["schemas"]
    for name, ids in (("LookupRequest", either), ("FoldInRequest", _list(either))):
        schemas[name]["properties"]["ids"] = ids
    schemas["MovementRequest"]["properties"]["id"] = either["items"]
    for name in [name for name in schemas if name.endswith("Request")]:
        fields = schemas[name]["properties"]
        fields |= {field: known[field] for field in fields if field in known}
    del schemas["SearchRequest"]["properties"]["parameters"]
    ways = ("vectors", "users", "items")
    schemas["SearchRequest"] = {"oneOf": [_with_one(schemas["SearchRequest"], way, ways) for way in ways]}
    for path in document["paths"].values():
        path.get("post", {}).pop("parameters", None)  # which are given beside arrays
    return document


def _list(one: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "maxItems": 9, "items": one}


def _with_one(schema: dict[str, Any], way: str, ways: tuple[str, ...]) -> dict[str, Any]:
    fields = {name: field for name, field in schema["properties"].items() if name == way or name not in ways}
    return {**schema, "properties": fields, "required": [way]}


def tried(server: Server, document: Path, examples: int, *more: str) -> str:
    """Run schemathesis; return its output."""
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        str(document),
        "--url",
        server.where,
        "--max-examples",
        str(examples),
        "--seed",
        "1",
        "--phases",
        "coverage,fuzzing",
        "--warnings",
        "off",
        "--no-color",
        *more,
    ]
    done = subprocess.run(command, cwd=document.parent, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    return done.stdout


@pytest.mark.parametrize("examples", [5, pytest.param(500, marks=pytest.mark.fuzz)])
def test_responses_match_the_openapi_document(server: Server, tmp_path: Path, examples: int) -> None:
    """No response is a 500, each status, type, header and field is documented, and invalid data are refused."""
    described = server.ask("/openapi.json")
    file = tmp_path / "openapi.json"
    file.write_bytes(described.body)
    count = sum(map(len, described.plain["paths"].values()))
    assert f"{count} selected / {count} total" in tried(server, file, examples, "--checks", CHECKS)
    assert server.ask("/readyz").status == 200
    assert 'status="500"' not in server.ask("/metrics").body.decode()


@pytest.mark.parametrize("examples", [5, pytest.param(500, marks=pytest.mark.fuzz)])
def test_every_operation_succeeds_with_existing_ids(server: Server, root: Path, tmp_path: Path, examples: int) -> None:
    """With existing ids, versions and widths, the responses of every endpoint match the document."""
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(narrowed(server.ask("/openapi.json").plain, root)))
    tried(server, file, examples, "--checks", CHECKS, "--mode", "positive")
    figures = server.ask("/metrics").body.decode()
    for name in ("search", "lookup", "transform", "fold_in", "movement", "diff"):
        assert f'endpoint="/v1/{name}",status="200"' in figures
    assert 'status="500"' not in figures
