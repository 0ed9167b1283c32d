"""``embsync report``: one page with pictures of a version and its history."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from embsync.cli.options import context, shared
from embsync.cli.output import print_json, say
from embsync.cli.progress import progress_bar
from embsync.errors import UsageError
from embsync.invocation import quoted
from embsync.reporting.collect import of_store
from embsync.reporting.report import Report
from embsync.store.durable import replace_file

_DEFAULT = "embsync-report.html"


@click.command()
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.option("-v", "--version", "number", type=click.IntRange(min=1), help="The same as VERSION.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    default=_DEFAULT,
    show_default=True,
    help="The file to write or replace; - for standard output.",
)
@shared
def report(
    version: int | None,
    number: int | None,
    output: Path,
    config_file: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Write a page with pictures of VERSION, by default the current one, and its history.

    It is one HTML file that loads nothing.
    """
    if None not in (version, number) and version != number:
        raise UsageError("two different versions", found=f"{version} and --version {number}", expected="one of them")
    number = number if version is None else version
    root = context(config_file, store, as_json).store.root
    _require_place(output)
    with progress_bar("report", wanted=not as_json) as progress:
        made = Report(of_store(root, number, progress))
        page = made.html.encode()
    if str(output) == "-":
        sys.stdout.buffer.write(page)
        return
    try:
        replace_file(output, page)
    except OSError as error:
        raise _unwritable(output, error.strerror or str(error)) from None
    if as_json:
        manifest = made.figures.manifest
        print_json(
            {
                "output": str(output),
                "bytes": len(page),
                "version": None if manifest is None else manifest.version,
                "outcome": made.verdict.outcome,
                "verdict": made.verdict.sentence,
                "notes": made.verdict.notes,
            }
        )
    else:
        say(made.verdict.sentence)
        say(f"written to {output}")


def _require_place(output: Path) -> None:
    """Refuse a path that cannot be written, before anything is read."""
    if str(output) == "-":
        return
    if output.is_dir():
        raise UsageError("cannot write the report", where=output, found="a directory", expected="a file")
    if not output.parent.is_dir():
        raise UsageError(
            "cannot write the report",
            where=output,
            found="no such directory",
            hint=f"mkdir -p {quoted(str(output.parent))}",
        )


def _unwritable(output: Path, reason: str) -> UsageError:
    return UsageError("cannot write the report", where=output, found=reason, expected="a writable directory")
