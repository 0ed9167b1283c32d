"""The page of a report: one HTML document without scripts that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

from embsync.reporting import moved_section, sections, verdict
from embsync.reporting.check_section import checks
from embsync.reporting.deliveries import delivery_table
from embsync.reporting.figures import ReportFigures
from embsync.reporting.first_version import HEADING, first_version
from embsync.reporting.markup import Markup, element, isolated, joined
from embsync.reporting.numerals import DASH, MINUS, age, count, figure, local, percent, plural, seconds_since
from embsync.reporting.verdict import Verdict

STYLE = files("embsync.reporting").joinpath("style.css").read_text(encoding="utf-8")

_MARKS = {"pass": "✓", "warn": "!", "refuse": "✕"}
_OUTCOMES = {"pass": "Good", "warn": "Attention", "refuse": "Problem"}
Section = tuple[str, str, str, Markup]


def document(figures: ReportFigures) -> str:
    """Return the whole page."""
    title = "embsync report" if figures.manifest is None else f"embsync report, version {figures.manifest.version}"
    shown = list(_sections(figures))
    links = [element("li", element("a", heading, href=f"#{name}")) for name, heading, _, _ in shown]
    content = element(
        "div",
        _header(figures),
        element("nav", element("ul", links), aria_label="Sections"),
        element("main", summary(figures), *[_section(*one) for one in shown], id="report", tabindex="-1"),
        element("footer", _footer()),
        class_="embsync-report",
    )
    return document_of(title, joined(element("a", "Skip to the report", href="#report", class_="skip"), content))


def document_without_version(found: Verdict, advice: Markup | None) -> str:
    """Return the page that a server shows in place of a report while it serves no version."""
    links = joined(
        element("a", "Try again", href=""), " · ", element("a", "Start page", href="/"), ", which updates by itself"
    )
    content = element(
        "div",
        element("header", element("h1", "embsync report")),
        element("main", banner(found), advice, element("p", links)),
        class_="embsync-report",
    )
    return document_of("embsync report: no version", content)


def document_of(title: str, content: Markup) -> str:
    """Return a complete document."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        style(),
    )
    return f"<!doctype html>\n{element('html', head, element('body', content), lang='en')}\n"


def style() -> Markup:
    """Return the style of reports."""
    return element("style", Markup(STYLE))


def fragment(figures: ReportFigures) -> str:
    """Return the page for a notebook; its style affects nothing outside it."""
    return element(
        "div",
        style(),
        summary(figures),
        *[_section(None, heading, text, content) for _, heading, text, content in _sections(figures)],
        class_="embsync-report notebook",
    )


def verdict_of(figures: ReportFigures) -> Verdict:
    """Return the verdict on what a report shows."""
    if figures.manifest is None:
        return verdict.of_events(figures.events)
    return verdict.of_version(figures.manifest, figures.events, figures.current)


def summary(figures: ReportFigures) -> Markup:
    """Return the verdict and the most important figures."""
    return joined(banner(verdict_of(figures)), element("dl", list(_tiles(figures)), class_="tiles"))


def banner(found: Verdict) -> Markup:
    """Return a verdict with its sign and its notes."""
    said = element(
        "div",
        element("p", element("span", f"{_OUTCOMES[found.outcome]}: ", class_="visually-hidden"), found.sentence),
        [element("p", note, class_="also") for note in found.notes],
    )
    sign = element("span", _MARKS[found.outcome], class_="sign", aria_hidden="true")
    return element("div", sign, said, class_=f"verdict {found.outcome}")


def tile(name: str, value: str, note: str) -> Markup:
    """Return a figure with its name and a note."""
    return element("div", element("dt", name), element("dd", element("b", value), element("span", note)))


def _tiles(figures: ReportFigures) -> Iterator[Markup]:
    manifest = figures.manifest
    if manifest is None:
        return

    kept = manifest.preservation
    yield tile(
        "Scores", figure(kept.score_error), f"relative error of all; top 10 kept for {percent(kept.top_k_agreement)}"
    )
    drift = manifest.drift
    if drift is not None:
        raw = "raw not known" if drift.items.cosine_raw is None else f"raw {figure(drift.items.cosine_raw, 2)}"
        yield tile("Item cosine", figure(drift.items.cosine, 2), f"mean with version {drift.parent}; {raw}")
        if drift.stale_overlap_at_10 is not None:
            yield tile(
                "Stale top 10",
                percent(drift.stale_overlap_at_10),
                f"the model itself kept {percent(drift.overlap_at_10)}; raw {percent(drift.stale_overlap_at_10_raw)}",
            )
    index = manifest.index
    yield tile("Index", figure(index.recall_at_10), f"recall; {index.factory}, {index.action}")
    for name, rows in manifest.sides.named():
        change = "" if manifest.parent is None else f"+{count(rows.new)} {MINUS}{count(rows.gone)}, "
        yield tile(name.capitalize(), count(rows.live), f"{change}{count(rows.carried)} carried")


def facts(figures: ReportFigures) -> Markup:
    """Return where a version comes from, in one line."""
    manifest = figures.manifest
    if manifest is None:
        return joined()
    seconds = seconds_since(manifest.created)
    when = local(manifest.created) + ("" if seconds is None else f", {age(seconds)}")
    return joined(
        "snapshot ",
        isolated(manifest.snapshot.name),
        f" · {when} · space {manifest.space_id[:8]} · {manifest.dimension} dimensions",
        f" · parent {manifest.parent or DASH}",
    )


def _header(figures: ReportFigures) -> Markup:
    number = None if figures.manifest is None else element("span", f"version {figures.manifest.version}")
    return element("header", element("h1", "embsync report ", number), element("p", facts(figures)))


def _footer() -> Markup:
    return element("p", "Made by embsync report. Figures are those of the manifests and the files of the store.")


def _section(name: str | None, heading: str, text: str, content: Markup) -> Markup:
    note = element("p", text, class_="lead") if text else None
    return element("section", element("h2", heading), note, content, id=name)


def _sections(figures: ReportFigures) -> Iterator[Section]:
    history = figures.history
    if figures.manifest is not None and history is not None:
        yield (
            "cosines",
            "Before and after",
            "How far each id's vector lies from its vector in the previous version. What still moves in the stable "
            "space is the model's own change.",
            sections.grid(sections.before_and_after(figures)),
        )
        yield "drift", "Drift", _kept(figures), sections.grid(sections.drift(figures))
        yield "top10", "Top 10 and spectrum", "", sections.grid(sections.consistency(figures))
        yield "map", "Map of the space", "", joined(*moved_section.space_map(figures))
        yield "moved", "What moved most", "", joined(*moved_section.moved(figures))
        yield (
            "checks",
            "Checks",
            "The diamond is the value, the lines are its limits. The bar is thick where values pass, thinner where "
            "they warn, and thin where they are refused.",
            joined(*checks(figures.checks)),
        )
        yield "index", "Index and time", "", sections.grid(sections.index_and_time(figures))
        yield "churn", "Churn", "Ids new and gone in each version.", sections.grid(sections.churn(figures))
    if figures.manifest is None:
        yield "publish", HEADING, "", first_version()
    if figures.deliveries is not None:
        yield "deliveries", "Deliveries", "", delivery_table(figures.deliveries)
    yield "events", "Events", "", sections.events(figures)


def _kept(figures: ReportFigures) -> str:
    history = figures.history
    assert history is not None
    text = f"{plural(len(history.manifests), 'version')} kept."
    if history.pruned:
        text += f" {plural(history.pruned, 'earlier version')} pruned: their figures are no longer available."
    if history.unreadable:
        text += f" Not readable: {', '.join(map(str, history.unreadable))}."
    return text
