"""What axe-core finds on a page that a browser shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.browser import BROWSER, Page

_AXE = Path(__file__).parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"
#: Rules of the guidelines up to level AA, and the best practices of axe-core.
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def require_axe() -> None:
    """Skip the test if there is no browser or no axe-core, and say what is missing."""
    if BROWSER is None:
        pytest.skip("no Chromium")
    if not _AXE.is_file():
        pytest.skip("no axe-core: npm install --prefix tests/support/axe")


def findings(page: Page, *rules: str) -> list[tuple[str, str, Any]]:
    """Return the violations of the page as shown: the rule, its description, and the first element concerned.

    Parameters
    ----------
    page : Page
    rules : str
        Only these; default: all, which takes a second for a large page, mostly for the contrast of colours.
    """
    if not page.value("typeof axe === 'object'"):
        page.value(f"(() => {{ {_AXE.read_text(encoding='utf-8')} }})()")
    asked = f"{{type: 'rule', values: {list(rules)}}}" if rules else str(_RULES)
    found = page.value(
        f"axe.run(document, {{runOnly: {asked}}}).then(result => ({{passed: result.passes.length, wrong: "
        "result.violations.map(one => [one.id, one.help, one.nodes[0].html.slice(0, 300) + ' ' + "
        "one.nodes[0].failureSummary])}))"
    )
    assert found["passed"] >= (len(rules) or 10)
    return [tuple(one) for one in found["wrong"]]
