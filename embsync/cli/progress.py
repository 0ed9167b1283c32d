"""A progress bar for long commands."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from embsync.progress import Progress, Stage, silent

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import Task
    from rich.text import Text


@contextlib.contextmanager
def progress_bar(label: str, wanted: bool) -> Iterator[Progress]:
    """Provide a progress callback that draws on standard error if that is a terminal.

    A stage whose share begins at 0 again has its own rate and time left.
    """
    if not wanted or not sys.stderr.isatty():
        yield silent
        return
    with _bars() as bars:
        bars.console.show_cursor()  # a signal may end the process before rich would show it again
        task = bars.add_task("", total=1.0, label=label, stage="starting")

        def proceed(stage: str, share: float) -> None:
            if share < bars.tasks[0].completed:
                bars.reset(task)  # stages differ in speed
            bars.update(task, completed=share, stage=stage)

        yield proceed


def _bars() -> Bars:
    """Return a progress bar with embsync's columns, not yet drawn."""
    from rich.console import Console  # noqa: PLC0415  (only needed on a terminal)
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    class Rate(ProgressColumn):
        """Work per second, for stages with an amount."""

        def render(self, task: Task) -> Text:
            """Return the rate as text, empty until it is known."""
            from rich.text import Text  # noqa: PLC0415

            stage = task.fields["stage"]
            known = task.speed is not None and isinstance(stage, Stage)
            return Text((rate(task.speed * stage.amount, stage.unit) if known else "").rjust(14))

    columns = (
        TextColumn("{task.fields[label]}"),
        TextColumn("{task.fields[stage]:<11}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    return Bars(*columns, console=Console(stderr=True), transient=True)


def rate(per_second: float, unit: str) -> str:
    """Return a rate with three digits: ``812 MB/s``, ``1.24M rows/s``."""
    if unit == "bytes":
        return f"{_three_digits(per_second / 1e6)} MB/s"
    factor, letter = (1e6, "M") if per_second >= 1e6 else (1e3, "k") if per_second >= 1e3 else (1.0, "")
    return f"{_three_digits(per_second / factor)}{letter} {unit}/s"


def _three_digits(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"
