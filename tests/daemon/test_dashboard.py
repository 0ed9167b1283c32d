"""The Grafana dashboard: its queries use existing series and labels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from daemons import Place, eventually

from embsync.delivery.state import SinkReport, new_report, write_report
from embsync.server.metrics import Metrics

BOARD: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "systemd" / "grafana.json").read_text(encoding="utf-8")
)
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [target for panel in PANELS for target in panel["targets"]] + [
    {"expr": one["expr"], "legendFormat": ""} for one in BOARD["annotations"]["list"]
]
#: A series, as opposed to a label or a function.
_SERIES = re.compile(r"\bembsync_\w+")


@pytest.fixture
def series(place: Place, tmp_path: Path) -> dict[str, set[str]]:
    """All series of the daemon, the server and the deliveries, with their labels."""
    for number in (1, 2):  # drift needs a second version
        place.drop(number)
    with place.daemon():
        place.wait_for(2)
        eventually(lambda: place.status()["current"] and place.status()["current"]["version"] == 2)
    metrics = Metrics()
    metrics.requests.labels("/", 200).inc()
    metrics.seconds.labels("/").observe(1.0)
    metrics.closed.labels("refused").inc()
    write_report(tmp_path, new_report(1.0, 3, {"one": SinkReport(kind="object_store", current=1, behind=2)}))
    text = "\n".join(
        [
            (place.store.root / "metrics.prom").read_text(),
            metrics.text().decode(),
            (tmp_path / "delivery.prom").read_text(),
        ]
    )
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(embsync_\w+)(?:\{([^}]*)\})? ", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    found.setdefault("embsync_delivery_recall", {"sink"})  # written once a sink has measured it
    return found


def test_every_query_uses_existing_series_and_labels(series: dict[str, set[str]]) -> None:
    """The labels in expressions, in ``by`` clauses and in legends exist."""
    for query in QUERIES:
        names = _SERIES.findall(query["expr"])
        assert names
        assert set(names) <= set(series), query["expr"]
        labels = set(re.findall(r"\{\{(\w+)\}\}", query["legendFormat"]))
        labels |= set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!=|=|!~)", query["expr"]))
        for grouped in re.findall(r"by \(([^)]*)\)", query["expr"]):
            labels |= set(re.split(r",\s*", grouped))
        assert labels <= set.union(*(series[name] for name in names)), query


def test_every_panel_shows_data(series: dict[str, set[str]]) -> None:
    """Every gauge and counter is in a panel, except for times and for counts that only alerts need."""
    shown = {name.removesuffix("_bucket") for query in QUERIES for name in _SERIES.findall(query["expr"])}
    there = {name for name in series if not name.endswith(("_created", "_sum", "_count", "_bucket", "_seconds"))}
    unseen = there - shown
    assert unseen <= {
        "embsync_scans_total",
        "embsync_unpruned_versions",
        "embsync_watch_events",
        "embsync_retry_attempts",
        "embsync_version_errors_total",
        "embsync_delivery_current_version",
        "embsync_delivery_state",
    }


def test_panels_do_not_overlap() -> None:
    """Panels have unique ids, and each has a title and a description."""
    taken = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert all(panel["title"] and panel["description"] for panel in PANELS)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    """``promtool`` accepts the queries as recording rules."""
    rules = [{"record": f"panel:{place}", "expr": query["expr"]} for place, query in enumerate(QUERIES)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
