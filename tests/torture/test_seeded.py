"""Every seeded mistake can be made as it is written down, and is noticed by the tests that are named for it."""

from __future__ import annotations

from collections import Counter

import pytest
from torture.seeded import REPOSITORY, Mistake, make, mistakes, table

ROWS = mistakes()


def test_every_mistake_can_still_be_made() -> None:
    """The text that is replaced occurs once, what comes of it is Python, and the tests named are there.

    Code that is written anew takes its mistakes along: the row in tests/torture/mistakes is brought up to it.
    """
    complaints = {row.name: complaint for row in ROWS if (complaint := row.complaint()) is not None}
    assert complaints == {}
    assert [name for name, times in Counter(row.name for row in ROWS).items() if times > 1] == []


@pytest.mark.parametrize(
    ("test", "named"),
    [
        ("TestDirectory::test_a_rollback_is_a_commit", True),  # of the contract that it inherits
        ("TestDirectory::test_a_rollback_is_nothing", False),
        ("TestNowhere::test_a_rollback_is_a_commit", False),
        ("test_a_rollback_is_a_commit", False),
    ],
)
def test_an_inherited_test_can_be_named(test: str, named: bool) -> None:
    """By the class that inherits it, in a module that imports the other one."""
    mistake = Mistake("", "delivery/remote.py", "FORMAT = 1", "FORMAT = 2", (f"delivery/test_object_store.py::{test}",))
    assert (mistake.complaint() is None) == named


def test_the_page_of_the_documentation_is_the_table() -> None:
    """Made anew by ``python tests/torture/seeded.py --table > docs/seeded.md``."""
    assert (REPOSITORY / "docs" / "seeded.md").read_text() == table(ROWS)


@pytest.mark.torture
@pytest.mark.parametrize("mistake", ROWS, ids=[row.name.replace(" ", "-") for row in ROWS])
def test_a_mistake_is_noticed(mistake: Mistake) -> None:
    """By each of the tests that are named for it."""
    verdict = make(mistake)
    assert verdict.caught, f"{verdict.outcome}: {verdict.told}"
