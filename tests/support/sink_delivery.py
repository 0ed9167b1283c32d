"""A process that delivers versions to a database, for tests that kill it.

``python -m support.sink_delivery KIND STORE PLACE…`` prints ``ready`` when it has loaded its modules, delivers each
version whose number it reads, and prints when it is done. The number may be followed by ``MODULE:FUNCTION`` or
``MODULE:FUNCTION=ARGUMENT``: the process kills itself with SIGKILL when that call has returned.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from embsync.config import MilvusConfig, PostgresqlConfig
from embsync.delivery.kinds import open_sink
from embsync.delivery.sink import Sink
from embsync.reader import open_version

KEPT = 2


def sink_of(kind: str, place: list[str]) -> Sink:
    """Return a sink of a kind: ``place`` is its URL and, for PostgreSQL, a password file."""
    if kind == "milvus":
        return open_sink(MilvusConfig(name="test", url=place[0]))
    return open_sink(PostgresqlConfig(name="test", url=place[0], password_file=place[1]))


def deliver(sink: Sink, root: Path, number: int) -> None:
    """Take all steps of delivering one version, and remove versions below the highest ones, incomplete ones first."""
    with open_version(root, number) as version:
        sink.check(version)
        expected = sink.current()
        sink.stage(version)
        sink.probe(version)
        if expected != number:
            sink.commit(number, expected)
    there = sink.generations()
    kept = {found.number for found in [found for found in there if found.complete][-KEPT:]} | {number}
    for found in there:
        if found.number not in kept:
            sink.drop(found.number)


def die_after(point: str) -> None:
    """Make this process kill itself when a call has returned."""
    module, _, path = point.partition(":")
    path, _, argument = path.partition("=")
    *owners, name = path.split(".")
    owner = importlib.import_module(module)
    for one in owners:
        owner = getattr(owner, one)
    original = getattr(owner, name)

    def dying(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        if not argument or argument in arguments:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


def main(kind: str, root: str, *place: str) -> None:
    """Deliver each version whose number is on a line of standard input."""
    sink = sink_of(kind, list(place))
    print("ready", flush=True)
    for line in sys.stdin:
        number, *points = line.split()
        for point in points:
            die_after(point)
        deliver(sink, Path(root), int(number))
        print("done", flush=True)
    sink.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
