"""The summary of a snapshot that was stabilized from arrays, without a store: the same verdict, spectrum and checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embsync.dtypes import Float64
from embsync.manifest import CheckRecord
from embsync.measurements import Preservation
from embsync.reporting import page, sections
from embsync.reporting.check_section import checks
from embsync.reporting.markup import Markup, element, joined
from embsync.reporting.numerals import count, figure, percent, plural
from embsync.reporting.verdict import Outcome, Verdict, explained, not_passed


@dataclass(frozen=True)
class Summary:
    """The summary of one call of ``embsync.stabilize``; notebooks display it.

    Attributes
    ----------
    rows : mapping of str to int
        Number of rows by side.
    dimension, rank : int
    preservation : Preservation
    singular_values : (e,) float64
    cosines : mapping of str to tuple of float or None
        By side, the mean cosine with the anchors out of sample, and that of mismatched rows; empty in a new space.
    checks : sequence of CheckRecord
    """

    rows: Mapping[str, int]
    dimension: int
    rank: int
    preservation: Preservation
    singular_values: Float64
    cosines: Mapping[str, tuple[float | None, float | None]]
    checks: Sequence[CheckRecord]

    @property
    def verdict(self) -> Verdict:
        """Whether the result is healthy, in one sentence."""
        odd = not_passed(self.checks)
        error = f"scores differ by {figure(self.preservation.score_error)} of their norm"
        if not self.checks:
            return Verdict("pass", f"A new space begins: there is nothing to compare with, and {error}.")
        if not odd:
            return Verdict(
                "pass", f"All {plural(len(self.checks), 'check')} of the fit to the anchors passed; {error}."
            )
        outcome: Outcome = "refuse" if odd[0].outcome == "refuse" else "warn"
        listed = "; ".join(map(explained, odd[:3])) + (f" and {len(odd) - 3} more" if len(odd) > 3 else "")
        return Verdict(outcome, f"{plural(len(odd), 'check')} of the fit to the anchors did not pass: {listed}.")

    @property
    def html(self) -> str:
        """The summary as a complete document without scripts that loads nothing."""
        return page.document_of("embsync summary", element("div", *self._parts(), class_="embsync-report"))

    def save(self, path: str | Path) -> None:
        """Write the document to a file."""
        Path(path).write_text(self.html, encoding="utf-8")

    def _repr_html_(self) -> str:
        return element("div", page.style(), *self._parts(), class_="embsync-report notebook")

    def _parts(self) -> Iterator[Markup]:
        yield element("h1", "embsync ", element("span", "stabilized arrays"))
        yield page.banner(self.verdict)
        yield element("dl", *self._tiles(), class_="tiles")
        spectrum = sections.spectrum(self.singular_values, None, self.rank, "this snapshot", "")
        yield element("section", element("h2", "Spectrum"), element("div", spectrum, class_="grid"))
        if self.checks:
            yield element("section", element("h2", "Checks"), joined(*checks(self.checks)))

    def _tiles(self) -> Iterator[Markup]:
        kept = self.preservation
        yield page.tile(
            "Scores",
            figure(kept.score_error),
            f"relative error; top 10 kept for {percent(kept.top_k_agreement)}",
        )
        for name, number in self.rows.items():
            cosine, mismatched = self.cosines.get(name, (None, None))
            note = "no anchors" if cosine is None else f"cosine with anchors {figure(cosine, 2)}"
            if mismatched is not None:
                note += f", with others {figure(mismatched, 2)}"
            yield page.tile(name.capitalize(), count(number), note)
        yield page.tile("Dimensions", str(self.dimension), f"rank {self.rank}")
