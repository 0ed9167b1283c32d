"""A progress bar for long commands."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from embsync.pipeline.progress import Progress, silent


@contextlib.contextmanager
def progress_bar(label: str, wanted: bool) -> Iterator[Progress]:
    """Provide a progress callback that draws on standard error if that is a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console  # noqa: PLC0415  (only needed on a terminal)
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    columns = (
        TextColumn("{task.fields[label]}"),
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=1.0, label=label)
        yield lambda stage, share: bars.update(task, description=stage, completed=share)
