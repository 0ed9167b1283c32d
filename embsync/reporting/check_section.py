"""The checks of a version, with their limits as bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embsync.manifest import CheckRecord
from embsync.reporting.gauges import gauge, limit_words
from embsync.reporting.markup import Markup, element
from embsync.reporting.numerals import figure
from embsync.reporting.verdict import check_title, meaning, not_passed

#: Groups by the first word or words of a check's name; the last group has all other checks.
_GROUPS = (
    ("Scores and index", ("score_error", "truncation_loss", "rank", "recall")),
    ("Fit to earlier versions", ("cosine", "lost", "share_below_half", "axis", "column", "unexplained", "rotation")),
    ("Scale of the vectors", ("norm", "lone_scale", "magnitude", "saturation", "unchanged")),
    ("Ids and rows", ()),
)
#: Groups that are shown open: the checks by which a version is judged first.
_OPEN = {"Scores and index", "Fit to earlier versions"}
_MARKS = {"pass": "✓", "warn": "!", "refuse": "✕"}


def checks(records: Sequence[CheckRecord]) -> Iterator[Markup]:
    """Yield the checks that did not pass, then all checks by group."""
    odd = not_passed(records)
    if odd:
        yield element("h3", "Not passed")
        yield _list(odd)
    for title, group in _grouped(records):
        passed = sum(record.outcome == "pass" for record in group)
        summary = element("summary", element("h3", title), f" {passed} of {len(group)} passed")
        yield element("details", summary, _list(group), class_="group", open="open" if title in _OPEN else None)


def _grouped(records: Sequence[CheckRecord]) -> Iterator[tuple[str, list[CheckRecord]]]:
    left = list(records)
    for title, beginnings in _GROUPS:
        group = [record for record in left if record.name.startswith(beginnings)] if beginnings else left
        left = [record for record in left if record not in group]
        if group:
            yield title, group


def _list(records: Sequence[CheckRecord]) -> Markup:
    return element("ul", [_row(record) for record in records], class_="checks")


def _row(record: CheckRecord) -> Markup:
    outcome = (
        "accepted"
        if record.accepted
        else {"pass": "passed", "warn": "warned", "refuse": "refused"}.get(record.outcome, record.outcome)
    )
    value = "not measured" if record.value is None else figure(record.value, 4)
    return element(
        "li",
        element("div", element("b", check_title(record.name)), element("span", meaning(record.name)), class_="what"),
        element("div", gauge(record), class_="bar"),
        element("div", element("b", value), element("span", limit_words(record)), class_="value"),
        element(
            "div",
            element("span", _MARKS.get(record.outcome, "?"), aria_hidden="true"),
            " ",
            outcome,
            class_=f"outcome {record.outcome}",
        ),
    )
