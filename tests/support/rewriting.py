"""Assertion rewriting of the test modules, each by one worker.

Rewriting all of them takes two to three seconds. All workers collect at once and in the same order, so in a
fresh clone, or where ``PYTHONDONTWRITEBYTECODE`` is set, each of them would rewrite every module.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from _pytest.assertion import rewrite


def rewrite_share(config: pytest.Config) -> None:
    """Rewrite this worker's share of the test modules, and write it to pytest's cache."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if count == 1 or config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    own = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    for folder in config.getini("testpaths"):
        for path in sorted((config.rootpath / folder).rglob("test_*.py"))[own % count :: count]:
            # These functions are internal to pytest: if a release changes them, each worker rewrites every module.
            with contextlib.suppress(AttributeError, KeyError, TypeError):
                _rewrite(path, config)


def _rewrite(path: Path, config: pytest.Config) -> None:
    cache = rewrite.get_cache_dir(path)
    cached = cache / (path.stem + rewrite.PYC_TAIL)
    if rewrite._read_pyc(path, cached) is None and rewrite.try_makedirs(cache):
        source, code = rewrite._rewrite_test(path, config)
        rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, source, cached)
