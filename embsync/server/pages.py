"""Pages made from the served version: the report, and the overview that the start page shows."""

from __future__ import annotations

from collections import deque

from embsync.reporting.collect import KeptVersions, of_version
from embsync.reporting.figures import ReportFigures
from embsync.reporting.overview import overview as overview_of
from embsync.reporting.page import document
from embsync.reporting.sampling import NUMBERS
from embsync.server import page
from embsync.server.context import Answer, RequestContext
from embsync.store.contents import StoreContents

HTML = "text/html; charset=utf-8"
#: Vectors in memory at once for a report, with figures computed from them.
_MEMORY = 12 * 8 * NUMBERS


def report(context: RequestContext, _: None) -> Answer:
    """Return the report of the served version."""
    context.memory.reserve(_MEMORY, "a report")
    return _answer(document(_figures(context, vectors=True)))


def overview(context: RequestContext, _: None) -> Answer:
    """Return the verdict on the served version, its comparison with earlier ones, and what moved most."""
    figures = _figures(context, vectors=False)
    return _answer(overview_of(figures, context.version.path.parent.parent))


def _figures(context: RequestContext, *, vectors: bool) -> ReportFigures:
    def proceed(_: str, __: float) -> None:
        context.memory.raise_if_cancelled()

    contents = StoreContents(context.version.path.parent.parent)
    kept = KeptVersions(contents, context.kept_versions, context.open_kept)
    return of_version(context.version, proceed, kept, vectors=vectors)


def _answer(text: str) -> Answer:
    return Answer(deque([text.encode()]), HTML, page.HEADERS)
