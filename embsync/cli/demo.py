"""``embsync demo``."""

from __future__ import annotations

from pathlib import Path

import click

from embsync.cli.output import print_json
from embsync.cli.progress import progress_bar


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=Path("embsync-demo"))
@click.option("--nights", type=click.IntRange(min=2, max=30), default=6, show_default=True, help="Nights to retrain.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def demo(directory: Path, nights: int, as_json: bool) -> None:
    """Train a small recommender several nights in a row and show what stabilization does to its embeddings.

    All files stay in DIRECTORY for inspection.
    """
    from embsync.demo import render, story  # noqa: PLC0415  (sparse solvers, needed by nothing else)

    with progress_bar("demo", wanted=not as_json) as progress:
        played = story.run(directory, nights, progress=progress)
    if as_json:
        print_json(render.as_dict(played))
    else:
        render.show(played)
