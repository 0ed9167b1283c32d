"""The five real retrainings, if their data are present."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.nights import Night

GOODBOOKS = Path(__file__).resolve().parents[3] / "shared" / "data" / "goodbooks"
DAYS = (1, 2, 3, 4, 5)

#: Skips a test if the data are missing, and says so.
needs_goodbooks = pytest.mark.skipif(
    not (GOODBOOKS / "day=1" / "items.npy").is_file(), reason=f"no real retrainings at {GOODBOOKS}"
)


def day(number: int) -> Path:
    """Return the directory of a day."""
    return GOODBOOKS / f"day={number}"


def read_day(number: int) -> Night:
    """Return a day's retraining in memory."""
    return Night(*(np.load(day(number) / f"{name}.npy") for name in ("items", "item_ids", "users", "user_ids")))
