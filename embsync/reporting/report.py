"""``embsync.report``: a version and its history as one page, and the page's figures as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from embsync.reporting import collect, page
from embsync.reporting.figures import ReportFigures
from embsync.reporting.verdict import Verdict

if TYPE_CHECKING:
    from embsync.reader import Version


@dataclass(frozen=True)
class Report:
    """A report, which a notebook displays.

    Attributes
    ----------
    figures : ReportFigures
        What it shows, as plain arrays.
    """

    figures: ReportFigures

    @property
    def verdict(self) -> Verdict:
        """The verdict on the version, in one sentence."""
        return page.verdict_of(self.figures)

    @cached_property
    def html(self) -> str:
        """The page: a complete document without scripts that loads nothing."""
        return page.document(self.figures)

    def save(self, path: str | Path) -> None:
        """Write the page to a file.

        Parameters
        ----------
        path : str or Path
            A previous file is replaced.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        Path(path).write_text(self.html, encoding="utf-8")

    def _repr_html_(self) -> str:
        return page.fragment(self.figures)

    def __repr__(self) -> str:
        return f"<Report: {self.verdict.sentence}>"


def report(version: Version) -> Report:
    """Return the report of a version: what changed, what moved, and a verdict.

    A sample of the vectors of the version and of its parent is read, and the manifests of all kept versions.

    Parameters
    ----------
    version : Version
        The version to report on.

    Returns
    -------
    Report
        Shown by notebooks; ``html`` is the page, ``figures`` has the arrays that it shows.

    Raises
    ------
    StoreError
        A file of the version is damaged.
    """
    return Report(collect.of_version(version))
