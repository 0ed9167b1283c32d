"""A byte-mutation fuzzer for the store's own files: ``python fuzz.py KIND,… FILES SEED FOLDER`` prints JSON.

Files of a small valid store are damaged at random and read as readers, commands and the daemon read them. A result
or one of the project's own errors must follow within 10 seconds and 1 GiB; anything else is kept in FOLDER and counted.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import numpy as np
from snapshots.fuzz import MEMORY, SECONDS, TooLong, _too_long, damaged, own_peak
from support.damage import build, config_of, copy
from support.stores import VERSION_FILES

from embsync.cli.main import run
from embsync.daemon import status
from embsync.daemon.attempts import ATTEMPT, Attempts
from embsync.errors import EmbsyncError
from embsync.pipeline.on_publish import HOOK_RECORD, pending_version
from embsync.reader import open_version
from embsync.store import Store, layout
from embsync.store.durable import replace_file
from embsync.store.hold import HOLD, held
from embsync.watching.backlog import survey

RECORDS = {
    layout.STATUS: b'{"format":1,"pid":7,"state":"idle","since":"2026-11-25T02:00:00Z",'
    b'"started":"2026-11-25T02:00:00Z","updated":"2026-11-25T02:00:00Z","doing":"watching","current":null,"queue":["day=4"],"waiting":{},'
    b'"work":null,"retry":null,"held":null,"last_refusal":null,"last_error":null,"on_publish":null,'
    b'"watch":{"path":"w","health":"events","reason":"","armed":1,"last_scan":null,"next_scan":null}}',
    HOLD: b'{"time":"2026-11-25T02:00:00Z","reason":"looked at"}',
    ATTEMPT: b'{"name":"day=4","stamp":"00ff","crashes":1,"lost":2,"unreadable":0,"errors":3}',
    HOOK_RECORD: b'{"version":3,"time":"2026-11-25T02:00:00Z","failed":null}',
    layout.ORDER: b'{"order":"auto","series":["day=#"]}',
}
ARRAYS = sorted(VERSION_FILES - {layout.INDEX})


class Fuzz:
    """A valid store, and a copy of it whose files are damaged and read."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.directory = folder
        self.good = build(folder)
        for name, data in RECORDS.items():
            replace_file(self.good / name, data)
        self.root = copy(self.good, folder / "copy")
        self.damaged = self.root

    def damage(self, name: str) -> None:
        """Replace a file with a mutant."""
        self.damaged = self.root / name
        mutant = damaged((self.good / name).read_bytes(), self.chance)
        self.damaged.unlink(missing_ok=True)
        self.damaged.write_bytes(mutant)

    def restore(self) -> None:
        """Restore the valid file."""
        self.damaged.unlink(missing_ok=True)
        shutil.copy2(self.good / self.damaged.relative_to(self.root), self.damaged)

    def manifest(self) -> None:
        """Read a version whose manifest or hash is damaged, most of the time without a hash, as in earlier releases."""
        folder = self.root / "versions/000003"
        name = self.chance.choice([layout.MANIFEST, layout.MANIFEST, layout.MANIFEST_HASH])
        self.damage(f"versions/000003/{name}")
        hashed = folder / layout.MANIFEST_HASH
        if name == layout.MANIFEST and self.chance.random() < 0.7:
            hashed.unlink()
        try:
            with contextlib.suppress(EmbsyncError):
                Store(self.root).damage()
            with open_version(self.root) as version:
                version.open_files()
                version.manifest  # noqa: B018  (parses)
                version.search(version.items.vectors[:1], k=2)
        finally:
            if not hashed.exists():
                shutil.copy2(self.good / "versions/000003" / layout.MANIFEST_HASH, hashed)

    def journal(self) -> None:
        """Read the journal, and use it to decide what is new in the watched directory."""
        self.damage(layout.JOURNAL)
        store = Store(self.root)
        damage = store.damage()
        new = {entry.child.name for entry in survey(store, config_of(self.directory)).queue if not entry.fingerprint}
        if store.next_number() < 4 or new - {"day=4"}:
            raise AssertionError("a published snapshot is new")
        if damage:
            raise damage[0]

    def npy(self) -> None:
        """Map an array that was damaged after the sizes were checked, and look up rows in it."""
        name = self.chance.choice(ARRAYS)
        with open_version(self.root) as version, np.errstate(all="ignore"):
            self.damage(f"versions/000003/{name}")
            for side in filter(None, (version.items, version.users)):
                side.age(side.names(np.arange(3)))
                if (side.age(side.names(np.arange(len(side.ids))), unit="seconds") < -1).any():
                    raise AssertionError("a negative age")
                side.lookup(side.names(np.arange(3)), missing="nan", max_age="1d")
                side.lookup(side.names(np.arange(len(side.ids))), missing="mean", max_age=2)
            for folder in ("anchors", "start"):
                version.reference(folder, "users")
            version.anchor_ages("users")
            version.transform.users(np.ones((2, version.record.snapshot.width), np.float32))
            version.search(version.items.vectors[:2], k=3)
        Store(self.root).events()

    def index(self) -> None:
        """Search with the command, which hashes the index before it maps it."""
        self.damage("versions/000003/index.faiss")
        if (code := run(["search", "--item", "2000", "--store", str(self.root)])) == 5:
            raise EmbsyncError("refused")
        if code not in (0, 6):
            raise AssertionError(f"exit code {code}")

    def status(self) -> None:
        """Read the small records of the daemon."""
        name = self.chance.choice(sorted(RECORDS))
        self.damage(name)
        store = Store(self.root)
        held(self.root)
        pending_version(store)
        survey(store, config_of(self.directory))
        if run(["status", "--store", str(self.root)]) != 0:
            raise AssertionError("status ended otherwise")
        Attempts(self.root).load()
        status.read(store)


KINDS = ("manifest", "journal", "npy", "index", "status")


def fuzz(kind: str, files: int, seed: int, folder: Path) -> dict[str, object]:
    """Read damaged files and return how each attempt ended."""
    warnings.simplefilter("ignore")
    made = Fuzz(folder, seed)
    work: Callable[[], None] = getattr(made, kind)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    signal.signal(signal.SIGALRM, _too_long)
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    slowest = 0.0
    for number in range(files):
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        started = time.monotonic()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                work()
            outcomes["read"] += 1
        except EmbsyncError as error:
            outcomes["refused" if "\n" not in str(error) else "failed"] += 1
        except (Exception, TooLong) as error:
            outcomes["failed"] += 1
            kept = folder / f"failure-{seed}-{number}-{made.damaged.name}"
            shutil.copy(made.damaged, kept)
            failures.append(f"{kept}: {error!r}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            made.restore()
        slowest = max(slowest, time.monotonic() - started)
    return {
        "kind": kind,
        "files": files,
        **outcomes,
        "slowest_seconds": round(slowest, 2),
        "peak_mib": own_peak() // 1024,
        "failures": failures[:5],
    }


if __name__ == "__main__":
    for one in sys.argv[1].split(","):
        place = Path(sys.argv[4]) / one
        place.mkdir()
        print(json.dumps(fuzz(one, int(sys.argv[2]), int(sys.argv[3]), place)))
