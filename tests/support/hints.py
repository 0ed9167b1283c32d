"""Hints, run as printed."""

from __future__ import annotations

import re
import shlex
import subprocess

from embsync.cli.main import run

_COMMAND = re.compile(r"(?:^|.*: )((?:embsync|rm|mv|cp|mkdir|chmod) .*)$")
#: Placeholders in usage lines, which a shell cannot be given.
PLACEHOLDER = re.compile(
    r"(?<![\w./'-])(?:N|K|DIR|FILE|HOST|IDS?|NAME|NUMBER|PATH|SNAPSHOT|STORE|TOKEN|VERSION)(?![\w./'=-])|<\w+>|(?<!\w)\.\.\."
)


def printed_command(output: str) -> str | None:
    """Return the last command in a hint, None if there is none."""
    match = _COMMAND.search(output.strip().partition("hint: ")[2])
    return match[1] if match else None


def run_as_printed(line: str) -> int:
    """Run a command line as a shell would, embsync within this process; return the exit code."""
    for step in line.split(" && "):
        words = shlex.split(step)
        code = run(words[1:]) if words[0] == "embsync" else subprocess.run(["sh", "-c", step], check=False).returncode
        if code != 0:
            return code
    return 0
