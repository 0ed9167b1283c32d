"""The sections of a report: what each shows, and its text if a figure is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from embsync.dtypes import Float64
from embsync.reporting import charts
from embsync.reporting.charts import Line
from embsync.reporting.figures import CosineFigures, ReportFigures, VersionHistory
from embsync.reporting.markup import Markup, element, isolated, joined
from embsync.reporting.numerals import DASH, count, figure, local, percent, plural
from embsync.reporting.plot import Plot, swatch
from embsync.reporting.tables import numbers, table

_STAGES = ("read", "align", "write", "index", "recall", "publish")
_SHAPES = {"rebuilt": "square", "rotated": "circle", "reused": "diamond"}


def panel(title: str, chart: Markup | None, *more: object, text: str = "") -> Markup:
    """Return a chart with its title, what it shows, its legend and its numbers."""
    note = element("p", text, class_="note") if text else None
    return element("figure", element("figcaption", element("h3", title), note), chart, *more)


def absent(text: str) -> Markup:
    """Return the sentence shown in place of a figure that is not stored."""
    return element("p", text, class_="absent")


def before_and_after(figures: ReportFigures) -> Iterator[Markup]:
    """Yield the distributions of cosines with the parent, of items and of users."""
    if figures.cosines is None:
        yield absent(figures.missing.get("parent", "This version stored no drift."))
        return
    for name, side in figures.cosines.named():
        yield _cosines(name, side, figures.parent)


def _cosines(name: str, side: CosineFigures, parent: int | None) -> Markup:
    if len(side.stable) == 0:
        return panel(name.capitalize(), None, absent(f"No {name} are live in both versions."))
    raw = None if side.raw is None or len(side.raw) == 0 else side.raw
    text = f"Mean {figure(float(side.stable.mean()), 2)} stable"
    text += (
        ", raw not known: raw vectors cannot be recovered" if raw is None else f", {figure(float(raw.mean()), 2)} raw"
    )
    kinds = [("stable", "stable vectors")] + ([] if raw is None else [("raw", "raw vectors")])
    if side.mismatched is not None:
        text += f", {figure(side.mismatched, 2)} with another id's vector"
        kinds.append(("mismatched", "mean of other ids"))
    plot = Plot(f"Cosine of {name} with version {parent}, before and after stabilization", text + ".", height=210)
    legend = [element("li", swatch(None, class_), " ", label) for class_, label in kinds]
    compared = f"{count(side.common)} {name} live in both versions"
    if side.sampled:
        compared += f", {count(len(side.stable))} of them read"
    return panel(
        name.capitalize(),
        charts.histogram(plot, side.stable, raw, side.mismatched),
        element("ul", legend, class_="legend"),
        _quantiles(name, side, raw),
        text=f"{compared}. {text}.",
    )


def _quantiles(name: str, side: CosineFigures, raw: Float64 | None) -> Markup:
    quantiles = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    rows = [
        [label, figure(float(values.mean()), 4), *(figure(float(at), 3) for at in np.quantile(values, quantiles))]
        for label, values in (("stable", side.stable), ("raw", raw))
        if values is not None
    ]
    if side.mismatched is not None:
        rows.append(["other ids (anchors)", figure(side.mismatched, 4), *([DASH] * len(quantiles))])
    header = ["vectors", "mean", *(f"{100 * at:g} %" for at in quantiles)]
    return numbers(f"Quantiles of the cosine of {name}", header, rows)


def boundaries(history: VersionHistory) -> list[int]:
    """Return the positions of the versions that begin a new space, without the first."""
    spaces = [manifest.space_id for manifest in history.manifests]
    return [place for place in range(1, len(spaces)) if spaces[place] != spaces[place - 1]]


def drift(figures: ReportFigures) -> Iterator[Markup]:
    """Yield drift over versions, against the previous version and against the start of the space."""
    history = figures.history
    assert history is not None
    sides = list(history.sides.named())
    previous = [Line(f"{name}, stable", side.cosine, *_style(name, "")) for name, side in sides] + [
        Line(f"{name}, raw", side.cosine_raw, *_style(name, "raw")) for name, side in sides
    ]
    start = [Line(name, side.since_start, *_style(name, "")) for name, side in sides]
    yield _over_versions("Against the previous version", "Mean cosine with the parent version", previous, history)
    yield _over_versions("Against the start of the space", "Mean cosine of the start sample", start, history)


def _style(name: str, kind: str) -> tuple[str, str]:
    """Return class and marker of a series of a side."""
    if kind == "raw":
        return ("raw", "cross") if name == "items" else ("raw second", "triangle")
    return ("stable", "circle") if name == "items" else ("users", "square")


def _over_versions(
    title: str,
    text: str,
    lines: Sequence[Line],
    history: VersionHistory,
    floor: float | None = 0.0,
    more: object = None,
) -> Markup:
    known = [line for line in lines if line.known]
    if not known:
        return panel(title, None, absent("None of the kept versions stored this: each begins a space or widens one."))
    values = "; ".join(f"{line.name} {figure(_last(line.values), 3)}" for line in known)
    plot = Plot(title, f"{text}. Last values: {values}.")
    chart = charts.lines(plot, known, history.versions, boundaries(history), floor)
    rows = [
        [version, *(figure(float(line.values[place]), 3) for line in known)]
        for place, version in enumerate(history.versions)
    ]
    return panel(
        title,
        chart,
        charts.legend(known),
        more,
        numbers(title, ["version", *(line.name for line in known)], rows),
        text=text + ".",
    )


def _last(values: Float64) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else float("nan")


def consistency(figures: ReportFigures) -> Iterator[Markup]:
    """Yield top-10 consistency against its ceiling, and the spectrum."""
    history = figures.history
    assert history is not None
    lines = [
        Line("kept by the model itself", history.overlap, "ceiling", "triangle"),
        Line("stale user vector, stable", history.stale_overlap, "stable", "circle"),
        Line("stale user vector, raw", history.stale_overlap_raw, "raw", "cross"),
    ]
    yield _over_versions(
        "Top-10 consistency",
        "Share of a version's top 10 that the user vectors of the previous version find, beside the share of the "
        "previous top 10 that the model itself kept: about the most to be expected",
        lines,
        history,
    )
    yield _spectrum(figures)


def _spectrum(figures: ReportFigures) -> Markup:
    values = figures.singular_values
    if values is None or len(values) == 0 or figures.manifest is None:
        return panel("Singular values", None, absent("This version stored no singular values."))
    rank, before = figures.manifest.alignment.rank, figures.singular_values_before
    return spectrum(values, before, rank, f"version {figures.manifest.version}", f"version {figures.parent}")


def spectrum(values: Float64, before: Float64 | None, rank: int, name: str, name_before: str) -> Markup:
    """Return singular values as bars, those of the parent as a line, and how many carry half of the energy."""
    energy = np.cumsum(values**2) / max(float((values**2).sum()), np.finfo(float).tiny)
    half = int(np.searchsorted(energy, 0.5)) + 1
    carry = "1 carries" if half == 1 else f"{half} carry"
    text = f"Largest {values[0]:.4g}, smallest {values[-1]:.4g}; of {plural(len(values), 'direction')}, {carry} half"
    text += " of the energy of all scores."
    plot = Plot("Singular values", text)
    chart = charts.spectrum(plot, values, before, rank)
    legend = [element("li", swatch(None, "stable"), " ", name)]
    if before is not None:
        legend.append(element("li", swatch(None, "previous"), " ", name_before))
    shown = sorted({*range(min(10, len(values))), *range(0, len(values), max(1, len(values) // 16)), len(values) - 1})
    rows = [[place + 1, f"{values[place]:.4g}", percent(float(energy[place]))] for place in shown]
    return panel(
        "Singular values",
        chart,
        element("ul", legend, class_="legend"),
        numbers("Singular values", ["direction", "value", "energy up to it"], rows),
        text=text,
    )


def index_and_time(figures: ReportFigures) -> Iterator[Markup]:
    """Yield recall with the index's decisions, and the times of the stages."""
    history = figures.history
    assert history is not None
    manifest = figures.manifest
    assert manifest is not None
    yield _recall(history)
    names = [name for name in _STAGES if name in history.seconds]
    seconds = [getattr(manifest.seconds, name) for name in names]
    text = f"{manifest.seconds.total:.2f} s in all, wall clock"
    plot = Plot("Seconds by stage", f"{text}.", left=58)
    rows = [
        [one.version, *(f"{getattr(one.seconds, name):.2f}" for name in (*names, "total"))] for one in history.manifests
    ]
    yield panel(
        "Time",
        charts.stages(plot, names, seconds),
        numbers("Seconds by stage", ["version", *(f"{name} (s)" for name in (*names, "total"))], rows),
        text=f"Version {manifest.version} took {text}.",
    )


def _recall(history: VersionHistory) -> Markup:
    if not np.isfinite(history.recall).any():
        return panel("Index", None, absent("No recall was measured: there were no queries."))
    actions = list(dict.fromkeys(one.index.action for one in history.manifests))
    legend = [element("li", swatch(_SHAPES.get(action, "cross"), "stable"), " ", action) for action in actions]
    legend.append(element("li", swatch(None, "ceiling"), " ", "target"))
    rows = [
        [
            one.version,
            one.index.action,
            one.index.reason,
            one.index.factory,
            figure(one.index.recall_at_10),
            count(one.index.dead),
        ]
        for one in history.manifests
    ]
    header = ["version", "action", "reason", "index", "recall", "dead labels"]
    last = history.manifests[-1].index
    return panel(
        "Index",
        _recall_chart(history),
        element("ul", legend, class_="legend"),
        numbers("Decisions about the index", header, rows, text_columns=4),
        text=f"{last.factory}: {last.action}, {last.reason}.",
    )


def _recall_chart(history: VersionHistory) -> Markup:
    """Return recall by version beside its target, each version marked with the shape of its action."""
    lines = [Line("target", history.target, "ceiling", None), Line("recall", history.recall, "stable", None)]
    known = [line for line in lines if line.known]
    plot = Plot("Recall of the index", f"Recall by version: {', '.join(map(figure, history.recall.tolist()))}.")
    low = min(float(np.nanmin(history.recall)), float(np.nanmin(history.target)))
    floor = max(0.0, low - max(0.01, (1 - low) * 0.5))
    scale = plot.y(floor, 1.0)
    places = charts.slots(plot, history.versions)
    charts.lines(plot, known, history.versions, boundaries(history), floor)
    for place, value, one in zip(places, history.recall, history.manifests, strict=True):
        if np.isfinite(value):
            text = f"version {one.version}, {one.index.action}: {one.index.reason}"
            shape = _SHAPES.get(one.index.action, "cross")
            plot.mark(float(place), scale.at(float(value)), shape, "stable", text, size=4.2)
    return plot.svg()


def churn(figures: ReportFigures) -> Iterator[Markup]:
    """Yield the numbers of new and gone ids, by side."""
    history = figures.history
    assert history is not None
    for name, side in history.sides.named():
        first = np.array([one.parent is None for one in history.manifests])  # all ids are new there
        new, gone = np.where(first, np.nan, side.new), np.where(first, np.nan, side.gone)
        text = f"{count(_last(side.live))} live, {count(_last(side.carried))} carried"
        plot = Plot(f"Churn of {name}", f"{text}. Ids new and gone, by version.", left=44)
        rows = [
            [version, *(count(float(values[place])) for values in (side.live, new, side.returned, gone, side.carried))]
            for place, version in enumerate(history.versions)
        ]
        table_ = numbers(f"Churn of {name}", ["version", "live", "new", "returned", "gone", "carried"], rows)
        if np.isfinite(new).any():
            yield panel(
                name.capitalize(),
                charts.churn(plot, new, gone, history.versions, boundaries(history)),
                table_,
                text=text + ".",
            )
        else:
            yield panel(name.capitalize(), None, absent(f"{text}. The first version of a space has no churn."), table_)


def events(figures: ReportFigures) -> Markup:
    """Return the last events of the journal."""
    if not figures.events:
        return absent(figures.missing.get("events", "The journal has no events."))
    rows = [
        [
            element("span", local(event.time), class_="whole"),
            event.event.replace("_", " "),
            DASH if event.version is None else event.version,
            isolated((event.snapshot or {}).get("name") or DASH),
            isolated(event.reason or event.action or ""),
        ]
        for event in reversed(figures.events)
    ]
    return table("Events, newest first", ["time", "event", "version", "snapshot", "what"], rows, text_columns=5)


def grid(parts: Iterator[Markup]) -> Markup:
    """Return charts side by side where there is room."""
    return element("div", joined(*parts), class_="grid")
