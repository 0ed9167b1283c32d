"""Cut the power of a real ext4 file system at random moments while commands run one after the other.

Run as a program, as ``points.py`` is. Exits with 77 if such a file system cannot be made.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from support.disk import Disk
from torture.moments import acknowledged, begun, check
from torture.report import Tally
from torture.scenarios import SCENARIOS, Bench

_NOT_HERE = 77


def main(directory: Path, most: int, seed: int, output: Path) -> None:
    """Try moments and write the tally."""
    tally, chance, bench = Tally("power"), random.Random(seed), Bench(directory)
    try:
        disk = Disk(directory)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"a file system in a file cannot be made and mounted here: {error}")
        sys.exit(_NOT_HERE)
    bench.root = disk.place / "S"
    try:
        for turn in range(most):
            if turn % 50 == 0:
                bench.fresh(SCENARIOS["publish"], linked=False)
                os.sync()
            child, reader = begun(bench, seed + turn)
            time.sleep(chance.uniform(0.0, 0.4))
            # After a real cut nothing is reported. Here the process lives on for a moment, and an fsync that the
            # shutdown overtakes may return 0: ext4 finds its transaction over, which jbd2 ended unrecorded.
            cut = time.monotonic()
            disk.cut()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            reported = acknowledged(reader, cut)
            disk.unmount()
            disk.mount()
            check(bench, tally, f"cut in turn {turn}", reported)
    finally:
        disk.unmount()
    output.write_text(json.dumps(dataclasses.asdict(tally)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
