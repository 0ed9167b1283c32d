"""The demo with its defaults, and a smaller world for tests that need several."""

from __future__ import annotations

import pytest
from support.shared import made_once

from embsync.demo.story import Story, run
from embsync.demo.taste import World

#: Large enough to pass the checks, small enough to run in about a second.
SMALL = World(items=700, users=800)


@pytest.fixture(scope="session")
def played(request: pytest.FixtureRequest) -> Story:
    """The demo with its defaults."""
    return made_once(request, "demo", run)


@pytest.fixture(scope="session")
def small() -> World:
    """A small world."""
    return SMALL
