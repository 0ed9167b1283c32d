"""The summary of stabilized arrays has the same verdict, spectrum and checks as a report, without a store."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.nights import night
from support.pages import ParsedPage as Page

import embsync
from embsync.reporting.numerals import figure

SIZES = {"items": 160, "users": 120, "width": 6}


def stabilized(number: int, anchors: embsync.Anchors | None = None, *, one_sided: bool = False) -> embsync.Stabilized:
    """Return the result of a night."""
    made = night(number, **SIZES)
    users = {} if one_sided else {"users": made.users, "user_ids": made.user_ids}
    return embsync.stabilize(made.items, item_ids=made.item_ids, anchors=anchors, **users)


@pytest.mark.parametrize("one_sided", [False, True])
def test_a_result_has_a_page_that_notebooks_show(tmp_path: Path, one_sided: bool) -> None:
    """The page has the figures of the result, in a new space and with anchors."""
    first = stabilized(0, one_sided=one_sided)
    second = stabilized(1, first.anchors, one_sided=one_sided)
    assert "A new space begins" in first.report().verdict.sentence
    assert second.report().verdict.sentence.startswith(f"All {len(second.checks)} checks of the fit")
    second.report().save(tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert figure(second.preservation.score_error) in page.said
    for check in second.checks:
        assert figure(check.value, 4) in page.said, check.name
    assert f"{second.transform.singular_values[0]:.4g}" in page.said
    assert ("Users" in page.text) == (not one_sided)
    shown = second._repr_html_()
    assert shown.startswith('<div class="embsync-report notebook"><style>')
    assert "<html" not in shown


def test_checks_that_did_not_pass_are_printed() -> None:
    """Failed checks are printed if the result was requested anyway."""
    first, made = stabilized(0), night(1, **SIZES).shuffled_item_ids()
    result = embsync.stabilize(
        made.items, made.users, item_ids=made.item_ids, user_ids=made.user_ids, anchors=first.anchors, check=False
    )
    verdict = result.report().verdict
    assert verdict.outcome == "refuse"
    assert "did not pass" in verdict.sentence
    assert "Not passed" in Page(result.report().html).text
