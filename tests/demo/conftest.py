"""One demo as a user gets it, and a smaller world for everything that needs several."""

from __future__ import annotations

import pytest
from support.shared import made_once

from embsync.demo.story import Story, run
from embsync.demo.taste import World

#: Big enough for healthy checks, small enough to be told in about a second.
SMALL = World(items=700, users=800)


@pytest.fixture(scope="session")
def played(request: pytest.FixtureRequest) -> Story:
    """The demo at its defaults."""
    return made_once(request, "demo", run)


@pytest.fixture(scope="session")
def small() -> World:
    """A small world."""
    return SMALL
