"""FAISS as an untyped module: its type stubs lack half of what its wrapper defines (1.15.1)."""

from __future__ import annotations

from typing import Any

import faiss as _faiss

faiss: Any = _faiss
