"""Drift from the parent version's rows."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from embsync.alignment.drift import DriftMeter


class _Slow(np.ndarray):
    """An array that lets other threads run before it is written to."""

    def __setitem__(self, key: Any, value: Any) -> None:
        time.sleep(0.001)
        super().__setitem__(key, value)


def test_blocks_may_be_observed_by_several_threads_in_any_order() -> None:
    """Medians of norms, the longest row, outliers and cosines are those of all rows."""
    rng = np.random.default_rng(0)
    old = rng.standard_normal((20_000, 8)).astype(np.float32)
    new = (old * rng.lognormal(0, 0.6, (len(old), 1)) + 0.1 * rng.standard_normal(old.shape)).astype(np.float32)
    new[::100], old[7::100] = 0, 0
    meter = DriftMeter(np.arange(len(old), dtype=np.int32), old, None)
    meter._norms = meter._norms.view(_Slow)
    starts = rng.permutation(np.arange(0, len(old), 200))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda start: meter.observe(start, new[start : start + 200], new[start : start + 200]), starts))
    drift, change = meter.result()
    now, before = (np.linalg.norm(rows.astype(np.float64), axis=1) for rows in (new, old))
    kept = (now > 0) & (before > 0)
    now, before = now[kept], before[kept]
    ratio = np.median(now) / np.median(before)
    changes = now / before / np.median(now / before)
    cosines = np.einsum("ij,ij->i", new[kept], old[kept]) / now / before
    assert change.norm_ratio == pytest.approx(ratio, rel=1e-6)
    assert change.longest == pytest.approx(now.max() / before.max() / ratio, rel=1e-6)
    assert change.norm_outliers == pytest.approx(np.mean((changes > 3) | (changes < 1 / 3)), abs=1e-4)
    assert drift.cosine == pytest.approx(cosines.mean(), rel=1e-6)
    assert drift.cosine_p05 == pytest.approx(np.percentile(cosines, 5), rel=1e-6)
    assert [one.id for one in drift.moved_most] == np.flatnonzero(kept)[np.argsort(cosines)[:10]].tolist()
