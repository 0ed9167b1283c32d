"""Seeded mistakes: one safeguard at a time is removed from a copy of the package, and the tests must notice.

The mistakes are data, in ``mistakes/*.toml``: what goes wrong, the file, the exact text, its replacement, and
the tests that fail then. Run as a program::

    python tests/torture/seeded.py [--only NAME]... [--jobs N] [--json FILE]
    python tests/torture/seeded.py --table > docs/seeded.md
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_TABLES = Path(__file__).parent / "mistakes"
_LEFT_OUT = shutil.ignore_patterns(".git", ".hypothesis", ".mypy_cache", ".ruff_cache", ".pytest_cache", "benchmarks")

_HEAD = """\
# Seeded mistakes

Each line is a mistake that was made on purpose, one at a time, in a copy of the package, and the tests that fail when
it is made. `python tests/torture/seeded.py` makes them all again and says of each whether it was noticed; `pytest -m
torture tests/torture/test_seeded.py` does the same. A mistake marked *torture* is noticed by `make torture` alone, all
others by the default run. The list is kept in `tests/torture/mistakes`; this page is made by
`python tests/torture/seeded.py --table`.
"""


@dataclass(frozen=True)
class Mistake:
    """One removed safeguard.

    Attributes
    ----------
    name : str
        What goes wrong.
    file : str
        Below ``embsync/``.
    old, new : str
        The text, which occurs once, and its replacement.
    tests : tuple of str
        Node ids below ``tests/``, each of which fails with the mistake.
    torture : bool
        Whether only ``-m torture`` selects them.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    torture: bool = False

    @property
    def path(self) -> str:
        """The file, from the root of the project."""
        return f"embsync/{self.file}"

    def complaint(self, root: Path = REPOSITORY) -> str | None:
        """Return why the mistake cannot be made as described, None if it can."""
        try:
            text = (root / self.path).read_text()
        except OSError as error:
            return f"{self.path}: {error.strerror}"
        if (count := text.count(self.old)) != 1:
            return f"{self.path}: the old text occurs {count} times instead of once: {self.old!r}"
        if self.old == self.new:
            return "old and new text are the same"
        try:
            ast.parse(text.replace(self.old, self.new))
        except SyntaxError as error:
            return f"{self.path}: no Python any more: {error}"
        return next(
            (f"no such test: {test}" for test in self.tests if not _there(root, test)),
            None if self.tests else "no test is named",
        )


def _there(root: Path, test: str) -> bool:
    """Return whether a test is defined in its file, or in a module beside it from which a class there inherits."""
    file, _, name = test.partition("::")
    path = root / "tests" / file
    if not path.is_file() or not name:  # a whole file may be named
        return path.is_file()
    group, _, function = name.partition("[")[0].rpartition("::")
    if not group:
        return _defines(path, rf"def {function}")
    return _defines(path, rf"class {group}") and any(
        _defines(module, rf"def {function}") for module in (path, *_imported(path))
    )


def _imported(path: Path) -> Iterator[Path]:
    """Yield modules beside a file from which it imports, since its classes may inherit their tests."""
    for module in re.findall(r"^from (\w+) import", path.read_text(), re.MULTILINE):
        beside = path.with_name(f"{module}.py")
        if beside.is_file():
            yield beside


def _defines(path: Path, start: str) -> bool:
    return bool(re.search(rf"^\s*{start}[(:]", path.read_text(), re.MULTILINE))


def mistakes() -> list[Mistake]:
    """Return the mistakes of all tables."""
    rows = [
        {**row, "tests": tuple(row["tests"])}
        for table in sorted(_TABLES.glob("*.toml"))
        for row in tomllib.loads(table.read_text())["mistake"]
    ]
    return [Mistake(**row) for row in rows]


@dataclass(frozen=True)
class Verdict:
    """Whether a mistake was ``caught`` or ``NOT caught``, or what prevented the test."""

    name: str
    outcome: str
    seconds: float
    output: str

    @property
    def caught(self) -> bool:
        """Whether the tests failed."""
        return self.outcome == "caught"


@contextmanager
def copied() -> Iterator[Path]:
    """Yield a copy of the project, whose package is the one imported there."""
    with tempfile.TemporaryDirectory(prefix="embsync-seeded-") as directory:
        root = Path(directory) / "project"
        shutil.copytree(REPOSITORY, root, ignore=_LEFT_OUT, symlinks=True)
        yield root


def _environment(root: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONSAFEPATH": "1",
    }


@cache
def require_copy_first() -> None:
    """Raise unless the copy's package is imported instead of an installed one, in any working directory."""
    with copied() as root:
        for place in (root, Path("/")):
            found = subprocess.run(
                [sys.executable, "-c", "import embsync; print(embsync.__file__)"],
                cwd=place,
                text=True,
                env=_environment(root),
                capture_output=True,
                check=True,
            ).stdout.strip()
            if Path(found) != root / "embsync" / "__init__.py":
                raise SystemExit(f"{found} is imported instead of the copy in {root}")


def run_tests(root: Path, tests: Iterable[str], *, torture: bool = False, limit: float = 400.0) -> tuple[int, str]:
    """Run tests against a copy, by default or as in ``make torture``; return exit code and last lines of output."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n0",
        "--no-header",
        "--tb=line",
        *(f"-pno:{plugin}" for plugin in ("cacheprovider", "schemathesis", "anyio")),  # halves the time
        *(["-m", "torture"] if torture else []),
        *dict.fromkeys(f"tests/{test}" for test in tests),
    ]
    try:
        done = subprocess.run(
            command, cwd=root, env=_environment(root), capture_output=True, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return 1, f"no end within {limit:g} s"
    return done.returncode, "\n".join((done.stdout + done.stderr).strip().splitlines()[-6:])


def make(mistake: Mistake) -> Verdict:
    """Make a mistake in a copy, and run the tests that must fail."""
    begin = time.monotonic()
    if (complaint := mistake.complaint()) is not None:
        return Verdict(mistake.name, "stale", 0.0, complaint)
    require_copy_first()
    with copied() as root:
        file = root / mistake.path
        file.write_text(file.read_text().replace(mistake.old, mistake.new))
        for test in mistake.tests:  # each in its own run, since ``-x`` ends a run at the first failure
            code, output = run_tests(root, [test], torture=mistake.torture)
            ended = code < 0 and code != -signal.SIGKILL  # by a signal; SIGKILL may have other causes
            outcome = "caught" if code == 1 or ended else "NOT caught" if code == 0 else f"error {code}"
            if code == 0 and " passed" not in output:
                outcome = "skipped"
            if outcome != "caught":
                break
    return Verdict(mistake.name, outcome, round(time.monotonic() - begin, 1), f"{test}\n{output}")


def sound(chosen: Iterable[Mistake]) -> str | None:
    """Return the output of the tests without any mistake, None if all pass."""
    require_copy_first()
    rows = list(chosen)
    for torture in (False, True):
        tests = [test for mistake in rows if mistake.torture == torture for test in mistake.tests]
        with copied() as root:
            code, output = run_tests(root, tests, torture=torture, limit=7200.0) if tests else (0, "")
        if code != 0:
            return output
    return None


def table(rows: Iterable[Mistake]) -> str:
    """Return the page of the documentation."""
    lines = [
        f"| {row.name} | `{row.file}` | {', '.join(f'`{test}`' for test in row.tests)}"
        f"{' *(torture)*' if row.torture else ''} |"
        for row in rows
    ]
    head = [f"{len(lines)} mistakes.", "", "| what goes wrong | in | noticed by |", "| --- | --- | --- |"]
    return "\n".join([_HEAD, *head, *lines, ""])


def main() -> int:
    """Make the chosen mistakes; return 0 if each was caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help="a name, with * for any text; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mistakes made at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there")
    parser.add_argument("--table", action="store_true", help="print the page of the documentation and do nothing else")
    parser.add_argument("--no-baseline", action="store_true", help="do not first see all tests pass without a mistake")
    options = parser.parse_args()
    chosen = [row for row in mistakes() if not options.only or any(fnmatch(row.name, name) for name in options.only)]
    if options.table:
        print(table(chosen), end="")
        return 0
    if not options.no_baseline and (output := sound(chosen)) is not None:
        print(f"the tests fail without any mistake:\n{output}", file=sys.stderr)
        return 2
    verdicts = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for verdict in pool.map(make, chosen):
            verdicts.append(verdict)
            print(f"{verdict.outcome:>10}  {verdict.seconds:6.1f} s  {verdict.name}", flush=True)
            if not verdict.caught:
                print(verdict.output, flush=True)
    missed = [verdict.name for verdict in verdicts if not verdict.caught]
    print(f"{len(verdicts) - len(missed)} of {len(verdicts)} caught")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1) + "\n")
    return 1 if missed or not verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
