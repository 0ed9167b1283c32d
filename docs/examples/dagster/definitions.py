"""Dagster: the published version as an asset, and its delivery; exit codes decide what is tried again."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from dagster import Backoff, Definitions, Failure, RetryPolicy, RetryRequested, asset

CONFIG = "/etc/embsync/embsync.yaml"
#: The store is locked or full; a sink is unreachable, busy or full: a later attempt may succeed.
TRANSIENT = (5, 7)


def embsync(*arguments: str) -> Any:
    """Run embsync; return its JSON, or fail at once where a retry cannot help."""
    done = subprocess.run(["embsync", *arguments, "--config", CONFIG, "--json"], capture_output=True, text=True)
    if done.returncode in TRANSIENT:
        raise RetryRequested(max_retries=10, seconds_to_wait=120)
    if done.returncode:
        raise Failure(done.stderr, allow_retries=False)
    return json.loads(done.stdout)


@asset
def version() -> Any:
    """The backlog of the watched directory, published."""
    return embsync("sync")


@asset(deps=[version], retry_policy=RetryPolicy(max_retries=3, delay=60, backoff=Backoff.EXPONENTIAL))
def delivered() -> Any:
    """Every sink at the current version."""
    return embsync("deliver", "--once")


defs = Definitions(assets=[version, delivered])
