"""Tests ignore the machine's configuration, and those that need a module that is not installed are skipped."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings
from support import forkserver
from support.quick import use_memory
from support.rewriting import rewrite_share
from support.spark import spark, spark_config  # noqa: F401  (fixtures)

# One thread per process, also in those that tests start: pytest has a worker for each core already. The libraries of
# NumPy, SciPy and FAISS read this when they are loaded, so nothing of embsync is imported before.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
# Bytecode is also written if PYTHONDONTWRITEBYTECODE is set: otherwise, without compiled files of the libraries, every
# process would compile them again (6 % of the samples of a run).
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell sets it for background jobs
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as nohup sets it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
forkserver.install()
use_memory()
# The same examples in every run, without a deadline; tests that search for new examples override this.
settings.register_profile(
    "embsync", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("embsync")


@pytest.fixture(autouse=True, scope="session")
def _no_configuration_of_the_machine() -> Iterator[None]:
    """Tests, and the processes they start, read no configuration file of the machine and no variable of the caller."""
    from embsync.environment import ENVIRONMENT_PREFIX, FILE_VARIABLE

    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(ENVIRONMENT_PREFIX)}
    os.environ[FILE_VARIABLE] = ""
    yield
    del os.environ[FILE_VARIABLE]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _no_invocation() -> Iterator[None]:
    """Commands are printed as for a library until a test runs a command line."""
    yield
    from embsync.invocation import Invocation, set_invocation

    set_invocation(Invocation())


def _installed(name: str) -> bool:
    """Return whether a module is installed; for a submodule, its parent packages may be missing as well."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the long tests first; a worker without tests left takes over some of another worker's last ones.

    The first tests therefore stay on one worker: those that share a Spark session, each of which starts a Java process.

    Tests of the torture runs have a time limit of an hour: on a busy machine, fifty kills take many minutes.
    """
    for item in items:
        if item.get_closest_marker("torture") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(3600))
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("first", "long")])


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Exempt modules and tests from garbage collection: they are never freed, and traversal takes half a second."""
    gc.disable()
    rewrite_share(session.config)
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test if a module of the extra ``test-services`` that it needs is not installed."""
    for marker in item.iter_markers("services"):
        missing = [name for name in marker.args if not _installed(name)]
        if missing:
            pytest.skip(f"{', '.join(missing)} not installed (extra 'test-services')")
