"""A progress bar for long commands."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from embsync.progress import Progress, silent

if TYPE_CHECKING:
    from rich.progress import Task
    from rich.text import Text


@contextlib.contextmanager
def progress_bar(label: str, wanted: bool) -> Iterator[Progress]:
    """Provide a progress callback that draws on standard error if that is a terminal.

    Each stage has its own share, rate and time left.
    """
    if not wanted or not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console  # noqa: PLC0415  (only needed on a terminal)
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    class Rate(ProgressColumn):
        """The share of a stage that is done in a second."""

        def render(self, task: Task) -> Text:
            """Return it in percent, nothing before it is known."""
            from rich.text import Text  # noqa: PLC0415

            return Text("" if task.speed is None else f"{100 * task.speed:.3g} %/s".rjust(9))

    columns = (
        TextColumn("{task.fields[label]}"),
        TextColumn("{task.description:<11}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=1.0, label=label)

        def proceed(stage: str, share: float) -> None:
            if bars.tasks[0].description != stage:
                bars.reset(task, description=stage)  # another stage has another speed
            bars.update(task, completed=share)

        yield proceed
