"""A search backend of its own: NumPy and FAISS on the files of a store, without embsync.

    python faiss_backend.py STORE

Reads user ids, one a line, and answers each from the newest version: its number and the ten best items. Metric
inner_product; indexes HNSW, IVF and Flat, which need no further parameters than the manifest's.
"""

import fcntl
import json
import os
import sys

import faiss
import numpy as np

KINDS = {faiss.IndexHNSWFlat: faiss.SearchParametersHNSW, faiss.IndexIVFFlat: faiss.SearchParametersIVF}


class Version:
    """One version, pinned: everything is read through one descriptor of its directory."""

    def __init__(self, path):
        self.path, self.folder = path, os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self.folder, fcntl.LOCK_SH)  # while it is held, the version is not deleted
            if os.stat(path).st_ino != os.fstat(self.folder).st_ino:
                raise FileNotFoundError(path)
            self._map(f"/proc/self/fd/{self.folder}")
        except BaseException:
            self.close()
            raise

    def _map(self, here):
        with open(f"{here}/manifest.json", encoding="utf-8") as file:
            self.manifest = json.load(file)
        self.items, self.users, self.vectors = (
            np.load(f"{here}/{name}.npy", mmap_mode="r") for name in ("items/ids", "users/ids", "users/vectors")
        )
        self.rows = np.load(f"{here}/index_rows.npy", mmap_mode="r")
        self.index = faiss.read_index(f"{here}/index.faiss", faiss.IO_FLAG_MMAP_IFC)
        self.living = faiss.IDSelectorBitmap(np.packbits(self.rows >= 0, bitorder="little"))  # not the dead labels
        kind = KINDS.get(type(self.index), faiss.SearchParameters)
        self.parameters = kind(sel=self.living, **self.manifest["index"]["search"])

    def search(self, user, k=10):
        row = np.searchsorted(self.users, user)  # ids ascend
        if row == len(self.users) or self.users[row] != user:
            raise LookupError(f"no user {user}")
        scores, labels = self.index.search(self.vectors[row : row + 1], k, params=self.parameters)
        found = labels[0] >= 0
        return self.items[self.rows[labels[0][found]]], scores[0][found]

    def close(self):
        os.close(self.folder)  # what is mapped stays readable; the disk is free once it is dropped


def newest(store, held=None):
    """Return the current version: the one held, as long as the link leads to it."""
    gone = None
    while True:
        path = os.path.join(store, os.readlink(os.path.join(store, "current")))  # read once
        if held is not None and held.path == path:
            return held
        try:
            version = Version(path)
        except FileNotFoundError:  # pruned in between, so that a newer one is current
            if path == gone:
                raise
            gone = path
            continue
        if held is not None:
            held.close()
        return version


if __name__ == "__main__":
    version = None
    for line in sys.stdin:
        version = newest(sys.argv[1], version)
        user = line.strip().encode() if version.users.dtype.kind == "S" else int(line)
        try:
            ids, scores = version.search(user)
        except LookupError as error:
            print(error, flush=True)
            continue
        names = [one.decode() if isinstance(one, bytes) else one for one in ids.tolist()]
        print(json.dumps({"version": version.manifest["version"], "ids": names, "scores": scores.tolist()}), flush=True)
