"""The last report of a store's delivery service about its sinks, read from its file as any consumer may do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from embsync.errors import StoreError
from embsync.reporting.markup import Markup, element, isolated, joined
from embsync.reporting.numerals import DASH, figure, local
from embsync.reporting.tables import table
from embsync.store.locks import is_held
from embsync.store.records import MALFORMED, read_record

_FILE, _LOCK = "delivery.json", "delivery.lock"
#: Bytes; more than the names and errors of many sinks take.
_LONGEST = 16 * 1024**2


class SinkFigures(msgspec.Struct, frozen=True):
    """The fields that a page shows."""

    kind: str
    state: str
    current: int | None = None
    behind: int = 0
    behind_since: str | None = None
    error: str | None = None
    delivered: str | None = None
    recall: float | None = None
    notes: list[str] = []


class _DeliveryFile(msgspec.Struct, frozen=True):
    updated: str
    sinks: dict[str, SinkFigures] = {}
    problem: str | None = None


@dataclass(frozen=True)
class Deliveries:
    """The sinks of a store.

    Attributes
    ----------
    running : bool
        Whether the service runs.
    updated : str
    sinks : dict
        By name.
    problem : str or None
        Why the service's configuration could not be reloaded, or why its file cannot be read.
    """

    running: bool
    updated: str
    sinks: dict[str, SinkFigures]
    problem: str | None = None


def deliveries(root: Path) -> Deliveries | None:
    """Return the last report of a store's delivery service; None if there was never one."""
    try:
        data = read_record(root / _FILE, _LONGEST)
        if data is None:
            return None
        found = msgspec.json.decode(data, type=_DeliveryFile)
        return Deliveries(is_held(root / _LOCK), found.updated, found.sinks, found.problem)
    except (StoreError, *MALFORMED):
        return Deliveries(False, "", {}, f"{_FILE} cannot be read")


def delivery_table(found: Deliveries) -> Markup:
    """Return the sinks, each with its current version, and why it is behind."""
    if found.running:
        state = f"Reported at {local(found.updated)}."
    elif found.updated:
        state = f"No delivery is running; the last one reported at {local(found.updated)}."
    else:
        state = "The delivery status is unknown."
    problem = "" if found.problem is None else f" {found.problem}."
    rows = [
        [
            isolated(name),
            sink.kind.replace("_", " "),
            DASH if sink.current is None else sink.current,
            sink.behind or DASH,
            DASH if sink.recall is None else figure(sink.recall, 3),
            sink.state if sink.behind_since is None else f"{sink.state}, behind since {local(sink.behind_since)}",
            isolated("; ".join(filter(None, [sink.error, *sink.notes]))),
        ]
        for name, sink in found.sinks.items()
    ]
    header = ["sink", "kind", "version", "behind", "recall", "state", "what"]
    shown = table("Sinks, with the version that their readers see", header, rows, {0, 1, 5, 6}) if rows else None
    return joined(element("p", state, problem, class_="note"), shown)
