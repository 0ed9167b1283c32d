"""A version at a glance: what the start page of the server shows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from embsync.reporting import moved_section, sections
from embsync.reporting.daemon_state import daemon_sentence
from embsync.reporting.deliveries import delivery_table
from embsync.reporting.figures import ReportFigures
from embsync.reporting.markup import Markup, element, isolated, joined
from embsync.reporting.numerals import local
from embsync.reporting.page import banner, facts, summary
from embsync.reporting.verdict import Verdict
from embsync.store.journal import Event

_EVENTS = 4


def overview(figures: ReportFigures, root: Path) -> str:
    """Return parts of a page, each marked by ``data-part``; items link to ``#items/ID``.

    ``top`` has the verdict and figures, ``more`` small charts and what moved most, ``daemon`` its state and the last
    events.
    """
    charts = [next(sections.drift(figures)), next(sections.consistency(figures))]
    return joined(
        element("div", element("p", facts(figures), class_="note"), summary(figures), data_part="top"),
        element(
            "div",
            element("section", element("h2", "Last versions"), sections.grid(iter(charts))),
            element("section", element("h2", "What moved most"), joined(*moved_section.moved(figures, linked=True))),
            data_part="more",
        ),
        element("div", _daemon(root, figures.events), _deliveries(figures), data_part="daemon"),
    )


def overview_without_version(found: Verdict, advice: Markup | None, root: Path, events: Sequence[Event]) -> str:
    """Return the same parts while no version is served: why, and what to do about it."""
    return joined(
        element("div", banner(found), advice, data_part="top"),
        element("div", data_part="more"),
        element("div", _daemon(root, events), data_part="daemon"),
    )


def _deliveries(figures: ReportFigures) -> Markup | None:
    if figures.deliveries is None:
        return None
    return element("section", element("h2", "Deliveries"), delivery_table(figures.deliveries))


def _daemon(root: Path, events: Sequence[Event]) -> Markup:
    """Return the state of the daemon, and the last events."""
    shown = [
        element(
            "li",
            f"{local(event.time)}: {event.event.replace('_', ' ')} ",
            isolated((event.snapshot or {}).get("name") or ""),
            "" if event.version is None else f" as version {event.version}",
            f", {event.reason}" if event.event in ("refused", "failed") and event.reason else "",
        )
        for event in itertools.islice(reversed(events), _EVENTS)
    ]
    return element(
        "section",
        element("h2", "Daemon"),
        element("p", daemon_sentence(root)),
        element("ul", shown, class_="events") if shown else None,
    )
