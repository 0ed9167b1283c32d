"""The table of checks is complete and in order, and the documentation shows it."""

from __future__ import annotations

import ast
import re
import runpy
from dataclasses import fields
from pathlib import Path

from embsync.alignment.cross_validation import Fit
from embsync.alignment.drift import RowChange
from embsync.alignment.procrustes import Axes
from embsync.alignment.values import Values
from embsync.checks import CHECKS
from embsync.limits import Relative
from embsync.measurements import SideFitRecord
from embsync.pipeline import diagnosis

DOCS = Path(__file__).parents[1] / "docs"


def test_the_documentation_contains_the_table() -> None:
    """The documentation's table is generated from the code."""
    assert runpy.run_path(str(DOCS / "checks_table.py"))["table"]() in (DOCS / "checks.md").read_text(encoding="utf-8")


def sentences() -> list[str]:
    """Return a pattern for every text in the source of the diagnosis, with a wildcard for each placeholder."""
    tree = ast.parse(Path(diagnosis.__file__).read_text(encoding="utf-8"))
    texts = [node.values for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) and len(node.values) > 2]
    texts += [[node] for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [
        "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in parts)
        for parts in texts
    ] + [re.escape(check.means.rstrip(".")) for check in CHECKS.values()]


def test_every_documented_cause_exists() -> None:
    """Every documented cause matches a text of the diagnosis, except for numbers and names of sides."""
    section = (DOCS / "checks.md").read_text(encoding="utf-8").split("\n## The first sentence of a refusal\n")[1]
    quoted = re.findall(r"^\| [^|]+ \| ([^|]+) \|$", section.split("\n## ")[0], re.MULTILINE)[1:]
    quoted = [line for line in quoted if line != "---"]
    assert len(quoted) > 15
    known = sentences()
    assert [line for line in quoted if not any(re.fullmatch(one, line, re.IGNORECASE) for one in known)] == []


def test_every_row_says_what_to_do() -> None:
    """Every check has limits of its kind, the meaning of a refusal, and a remedy."""
    for name, check in CHECKS.items():
        assert check.name == name
        assert check.measures, name
        assert check.means, name
        assert check.remedy, name
        for limit in (check.warn, check.refuse):
            fixed = limit is not None and not isinstance(limit, Relative)
            assert not fixed or isinstance(limit, tuple) == (check.kind == "range"), name
        assert not check.acceptable or (check.warn, check.refuse) != (None, None), name


def test_every_checked_figure_of_a_side_is_recorded() -> None:
    """Every figure that a check judges has a field in the manifest; otherwise the first publish would fail."""
    judged = {check.figure for check in CHECKS.values() if check.needs is not None}
    recorded = {name for name in dir(SideFitRecord) if not name.startswith("_")}
    assert judged - recorded == set()
    measured = {field.name for kind in (Fit, Axes, RowChange, Values) for field in fields(kind)}
    assert measured - {"scale_raw"} - recorded == set()


def test_a_relative_limit_scales_with_a_figure() -> None:
    """A relative limit is printed as the formula it is computed by."""
    limit = Relative("e", 4.0, 1.0)
    assert limit.at({"e": 16.0}) == 65.0
    assert (str(limit), str(Relative("k")), str(Relative("e", -0.2, -0.1))) == ("1 + 4 e", "k", "-0.1 - 0.2 e")
    assert Relative("loss", more=0.5, absent=0.0).at({}) == 0.5
