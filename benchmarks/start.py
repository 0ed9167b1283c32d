"""Startup time of a process: importing, help, and opening a store for its first search.

The package of another commit and this one in turn, each as a new process with the same Python and libraries, after one
run of each that leaves compiled files; the least processor milliseconds. The store is published by the other commit.

    python benchmarks/start.py COMMIT [--repeats 10] [--rows 20000]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from commits import package
from workload import Size, write_nights

WIDTH = 64

STABILIZE = """
import numpy as np, embsync
embsync.stabilize(*np.random.default_rng(0).standard_normal((2, 100, 4)).astype(np.float32))
"""
SEARCH = """
import embsync, numpy as np
embsync.open({store!r}).current.search(np.ones({width}, np.float32))
"""


def commands(store: Path) -> dict[str, list[str]]:
    """Return the command lines, without the interpreter."""
    return {
        "python alone": ["-c", ""],
        "import embsync": ["-c", "import embsync"],
        "embsync --help": ["-m", "embsync", "--help"],
        "embsync sync --help": ["-m", "embsync", "sync", "--help"],
        "import embsync; embsync.open": ["-c", "import embsync; embsync.open"],
        "embsync.stabilize of 100 x 4": ["-c", STABILIZE],
        "import numpy, faiss": ["-c", "import numpy, faiss"],
        "open a store and search once": ["-c", SEARCH.format(store=str(store), width=WIDTH)],
    }


def environment(code: Path) -> dict[str, str]:
    """Return an environment in which ``embsync`` is the package of ``code``, and compiled files are kept."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(code)}


def processor(command: list[str], code: Path) -> float:
    """Return the processor milliseconds of a process."""
    process = subprocess.Popen([sys.executable, *command], env=environment(code), stdout=subprocess.DEVNULL, cwd="/")
    _, status, spent = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return 1e3 * (spent.ru_utime + spent.ru_stime)


def imports(code: Path) -> tuple[float, int]:
    """Return the wall milliseconds of ``import embsync`` by ``-X importtime``, and the number of modules it loads."""
    run = [
        sys.executable,
        "-X",
        "importtime",
        "-c",
        "import sys; before = len(sys.modules); import embsync; print(len(sys.modules) - before)",
    ]
    done = subprocess.run(run, env=environment(code), capture_output=True, text=True, check=True, cwd="/")
    (line,) = (line for line in done.stderr.splitlines() if line.split("|")[-1].strip() == "embsync")
    return int(line.split("|")[1]) / 1e3, int(done.stdout)


def compared(codes: list[Path], store: Path, repeats: int) -> None:
    """Print the table."""
    for name, command in commands(store).items():
        taken = [[processor(command, code) for code in codes] for _ in range(repeats + 1)][1:]
        print(f"| `{name}` | {' | '.join(f'{min(each):.0f}' for each in zip(*taken, strict=True))} |", flush=True)
    taken = [[imports(code) for code in codes] for _ in range(repeats)]
    least = [min(each) for each in zip(*taken, strict=True)]
    print(
        f"| `import embsync` by `-X importtime`, wall milliseconds | {' | '.join(f'{one:.0f}' for one, _ in least)} |"
    )
    print(f"| modules that it loads | {' | '.join(str(count) for _, count in least)} |")


def main() -> None:
    """Compare both packages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the other package: a commit of this repository")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rows", type=int, default=20_000, help="items of the store, and users")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        codes = [package(commit, Path(work) / name) for name, commit in (("other", options.commit), ("this", "HEAD"))]
        night, _ = write_nights(Path(work), Size(options.rows, options.rows, WIDTH))
        sync = [sys.executable, "-m", "embsync", "sync", str(night), "--store", str(Path(work) / "S")]
        subprocess.run(sync, env=environment(codes[0]), stdout=subprocess.DEVNULL, check=True)
        print(f"| processor milliseconds | {options.commit} | now |\n| --- | --- | --- |")
        compared(codes, Path(work) / "S", options.repeats)


if __name__ == "__main__":
    main()
