"""The contents of a page about a store without versions: how to publish the first one."""

from __future__ import annotations

from pathlib import Path

from embsync.invocation import command
from embsync.reporting.markup import Markup, element, joined

HEADING = "Publish a first version"


def first_version(root: Path | None = None) -> Markup:
    """Return the commands that publish a first version, for a given store or for that of the current command."""
    return joined(
        element(
            "p",
            "A version is made from a snapshot: the vectors and ids that one training run has written, as a directory "
            "or a file. On a host that can write to the store, publish one by its path:",
        ),
        _shell(command("sync", store=root).line, " ", element("var", "SNAPSHOT")),
        element("p", "Or let the daemon publish every snapshot that appears in ", _code("watch.path"), ":"),
        _shell(command("run", store=root).line),
        element(
            "p",
            "Without a snapshot at hand, ",
            _code("embsync demo"),
            " trains a small recommender for some nights and publishes each of them to a store of its own.",
            class_="note",
        ),
    )


def _shell(*line: str) -> Markup:
    return element("pre", _code(*line))


def _code(*text: str) -> Markup:
    return element("code", *text)
