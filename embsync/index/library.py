"""FAISS as an untyped name: the stubs it ships lack half of what its wrapper really has (1.15.1)."""

from __future__ import annotations

from typing import Any

import faiss as _faiss

faiss: Any = _faiss
