"""Versions of any width with few rows: the pipeline refuses fewer rows than columns, and would take minutes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import faiss
import numpy as np

from embsync.store.version_manifest import hash_line


def widen(root: Path, width: int) -> Path:
    """Give the current version of a store, whose index is flat, vectors of another width; return the store."""
    version, random = (root / "current").resolve(), np.random.default_rng(width)
    changed = {}
    for side in ("items", "users"):
        path = version / side / "vectors.npy"
        rows = len(np.load(path, mmap_mode="r"))
        changed[path] = random.standard_normal((rows, width)).astype(np.float32) / np.float32(np.sqrt(width))
        path.chmod(0o644)
        np.save(path, changed[path])
        moments = version / side / "moments.npy"
        moments.chmod(0o644)
        np.save(moments, np.resize(np.load(moments), width + 1))
    index = faiss.IndexFlatIP(width)
    index.add(changed[version / "items" / "vectors.npy"][np.load(version / "index_rows.npy")])
    (version / "index.faiss").chmod(0o644)
    faiss.write_index(index, str(version / "index.faiss"))
    record = json.loads((version / "manifest.json").read_text())
    record["dimension"] = width
    for entry in record["files"]:
        data = (version / entry["path"]).read_bytes()
        entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    for name in ("manifest.json", "manifest.sha256"):
        (version / name).chmod(0o644)
    (version / "manifest.json").write_text(json.dumps(record))
    (version / "manifest.sha256").write_bytes(hash_line((version / "manifest.json").read_bytes()))
    return root
