"""What is configured on the machine has no say in any test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from embsync.environment import ENVIRONMENT_PREFIX, FILE_VARIABLE
from embsync.invocation import Invocation, set_invocation


@pytest.fixture(autouse=True, scope="session")
def _no_configuration_of_the_machine() -> Iterator[None]:
    """No file is looked for, here and in every process that a test starts, and no variable of the caller counts."""
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(ENVIRONMENT_PREFIX)}
    os.environ[FILE_VARIABLE] = ""
    yield
    del os.environ[FILE_VARIABLE]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _no_invocation() -> Iterator[None]:
    """Commands are printed as by a library until a test runs a command line."""
    yield
    set_invocation(Invocation())
