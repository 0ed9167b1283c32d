"""The metrics: what the daemon, deliveries and the server export, read from an export of each."""

import re
import tempfile
from pathlib import Path

import msgspec
from tables import code, table

from embsync.daemon.metrics import Figures, render
from embsync.daemon.status import Status, Watch
from embsync.delivery.state import METRICS, DeliveryReport, SinkReport, write_report
from embsync.manifest import Manifest
from embsync.server.metrics import Metrics

#: A version with both sides and a parent, so that no metric is left out.
VERSION = Path(__file__).parents[2] / "tests/manifests/two_sided_aligned.json"
#: A time, which the page does not show.
AT = "2026-01-01T00:00:00Z"


def _table(exposition: str) -> str:
    """Return the metrics of an export: name, labels, type and help."""
    lines = []
    for name, text, kind in re.findall(r"^# HELP (\S+) (.*)\n# TYPE \S+ (\w+)$", exposition, re.MULTILINE):
        samples = re.findall(rf"^{name}(?:_bucket|_count|_sum)?{{(.*)}} ", exposition, re.MULTILINE)
        labels = dict.fromkeys(label for sample in samples for label in re.findall(r"(\w+)=", sample) if label != "le")
        lines.append(
            (code(name), ", ".join(map(code, labels)) or "none", kind, text if text.endswith(".") else f"{text}.")
        )
    return table("metric | labels | type | meaning", lines)


def daemon_metrics() -> str:
    """Return the metrics of metrics.prom."""
    status = Status(
        **dict.fromkeys(("since", "started", "updated", "doing"), ""),
        **dict.fromkeys(("current", "work", "retry", "held", "last_refusal", "last_error", "on_publish")),
        **{"state": "idle", "queue": [], "waiting": {}, "watch": Watch("", "events", "", 1, None, None)},
    )
    manifest = msgspec.json.decode(VERSION.read_bytes(), type=Manifest)
    return _table(render(Figures(status, manifest, {}, {}, {}, now=1.0, scanned=1.0, started=1.0)))


def delivery_metrics() -> str:
    """Return the metrics of delivery.prom."""
    with tempfile.TemporaryDirectory() as folder:
        sink = SinkReport(kind="object_store", current=1, behind=1, behind_since=AT, recall=1.0)
        write_report(Path(folder), DeliveryReport(updated=AT, started=AT, pid=1, sinks={"mirror": sink}))
        return _table((Path(folder) / METRICS).read_text(encoding="utf-8"))


def server_metrics() -> str:
    """Return the metrics of /metrics."""
    metrics = Metrics()
    metrics.count("search", 200, 0.01)
    metrics.closed.labels("head").inc()
    lines = [line for line in metrics.text().decode().splitlines() if "_created" not in line]
    return _table("\n".join(lines))
