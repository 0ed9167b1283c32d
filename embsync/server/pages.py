"""The report, and the overview on the start page, of the served version or of a store without one."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence

from starlette.responses import Response

from embsync.errors import EmbsyncError, NotFoundError
from embsync.reporting import verdict
from embsync.reporting.collect import KeptVersions, of_version
from embsync.reporting.figures import ReportFigures
from embsync.reporting.first_version import HEADING, first_version
from embsync.reporting.markup import element
from embsync.reporting.overview import overview as overview_of
from embsync.reporting.overview import overview_without_version
from embsync.reporting.page import document, document_without_version
from embsync.reporting.sampling import NUMBERS
from embsync.reporting.verdict import Verdict
from embsync.server import page
from embsync.server.context import Answer, RequestContext
from embsync.server.errors import FailureStatus
from embsync.server.responses import RETRY
from embsync.server.served_version import ServedVersion
from embsync.store.contents import StoreContents
from embsync.store.journal import Event

HTML = "text/html"
#: Bytes of the vectors that a report has in memory at once, with the figures computed from them.
_MEMORY = 12 * 8 * NUMBERS


def report(context: RequestContext, _: None) -> Answer:
    """Return the report of the served version."""
    context.memory.reserve(_MEMORY, "a report")
    return _answer(document(_figures(context, vectors=True)))


def overview(context: RequestContext, _: None) -> Answer:
    """Return the verdict on the served version, its comparison with earlier ones, and what moved most."""
    figures = _figures(context, vectors=False)
    return _answer(overview_of(figures, context.version.path.parent.parent))


def without_version(served: ServedVersion, path: str) -> Response:
    """Return the page of a path for browsers while no version is served; other clients get the error as JSON."""
    contents = StoreContents(served.root)
    events: list[Event] = []
    with contextlib.suppress(EmbsyncError):  # the page shows the error that the server reports
        events = list(contents.journal.events())
    error, newest = served.state()["error"], served.state()["newest"]
    advice = None
    if error is None and newest is None:
        advice = element("section", element("h2", HEADING), first_version(served.root))
    found = _verdict(contents, events, error, newest)
    text = (
        document_without_version(found, advice)
        if path == "/report"
        else overview_without_version(found, advice, served.root, events)
    )
    return Response(text, FailureStatus.SERVICE_UNAVAILABLE, {**page.HEADERS, **RETRY}, HTML)


def _verdict(contents: StoreContents, events: Sequence[Event], error: str | None, newest: int | None) -> Verdict:
    """Return why no version is served."""
    if error is not None:
        return Verdict("refuse", "No version is served: the current one cannot be used.", (error,))
    if newest is not None:
        return Verdict("warn", f"Version {newest} is being verified, and is served as soon as that is done.")
    try:
        contents.require()
    except NotFoundError:
        return Verdict("warn", f"There is no store at {contents.root} yet. Publishing a first snapshot creates it.")
    return verdict.of_events(events)


def _figures(context: RequestContext, *, vectors: bool) -> ReportFigures:
    def proceed(_: str, __: float) -> None:
        context.memory.raise_if_cancelled()

    contents = StoreContents(context.version.path.parent.parent)
    kept = KeptVersions(contents, context.kept_versions, context.open_kept)
    return of_version(context.version, proceed, kept, vectors=vectors)


def _answer(text: str) -> Answer:
    return Answer(deque([text.encode()]), HTML, page.HEADERS)
