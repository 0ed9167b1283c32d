"""Prometheus's text format, for files that the node exporter's textfile collector reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

#: Values of one metric by their labels; None is left out.
Samples = list[tuple[dict[str, str], float | None]]
#: Name, type, help and values of a metric.
Family = tuple[str, str, str, Samples]


def exposition(families: Iterable[Family]) -> str:
    """Return metrics in Prometheus's text format."""
    lines: list[str] = []
    for name, kind, text, samples in families:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{_labels(labels)} {value:.10g}" for labels, value in samples if value is not None]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""
