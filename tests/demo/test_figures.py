"""The demo's figures in docs/method.md and in the picture of the README are those that the demo computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embsync.demo.story import Story

ROOT = Path(__file__).resolve().parents[2]
#: Rounding in the table, and the effect of another BLAS on ten iterations of ALS.
TOLERANCE = 0.03


def table() -> list[list[str]]:
    """Return the cells of the table of figures, without its header."""
    text = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    rows = text[text.index("<!-- figures") :].split("\n\n")[0].splitlines()[3:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_table_has_the_figures_of_the_demo(played: Story) -> None:
    """Every row of the table has the demo's figures, raw and stable."""
    cosine, overlap, classifier, retrained, error = table()
    last, near = played.nights[-1], played.stale[0]
    expected = (
        (cosine, last.item_cosine_raw, last.item_cosine),
        (classifier, last.auc_raw, last.auc_stable),
        (retrained, last.auc_retrained, last.auc_retrained),
    )
    for row, raw, stable in expected:
        assert [float(cell) for cell in row[1:3]] == pytest.approx([raw, stable], abs=TOLERANCE)
    shares = [float(cell.removesuffix(" %")) / 100 for cell in overlap[1:3]]
    assert shares == pytest.approx([near.overlap_raw, near.overlap_stable], abs=TOLERANCE)
    assert float(error[2]) == pytest.approx(max(night.score_error for night in played.nights), rel=0.5)


def test_the_picture_has_the_figures_of_the_demo(played: Story) -> None:
    """The captions of docs/demo.svg are the classifier's AUC on nights 1, 2 and 6, raw above stable."""
    picture = (ROOT / "docs" / "demo.svg").read_text(encoding="utf-8")
    nights = [played.nights[0], played.nights[1], played.nights[-1]]
    shown = [float(figure) for figure in re.findall(r"AUC ([\d.]+)", picture)]
    assert shown == pytest.approx(
        [night.auc_raw for night in nights] + [night.auc_stable for night in nights], abs=TOLERANCE
    )
