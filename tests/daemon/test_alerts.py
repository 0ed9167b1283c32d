"""The alert rules: they name series of metrics.prom, and fire when they should, as evaluated by Prometheus."""

from __future__ import annotations

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

RULES = Path(__file__).resolve().parents[2] / "systemd" / "alerts.yml"
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    group["name"]: {rule["alert"]: rule for rule in group["rules"]}
    for group in yaml.safe_load(RULES.read_text())["groups"]
}
ALERTS = {name: rule for rules in GROUPS.values() for name, rule in rules.items()}

A_DAY = 24 * 60

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")

#: Series that make an alert fire, one value a minute, and the minute at which it fires; first without the problem.
#: For alerts that take days, a value stands for several minutes, to save evaluation time.
TROUBLE = {
    "EmbsyncDaemonGone": ({"embsync_updated_timestamp_seconds": "0x30"}, 30),
    "EmbsyncBlind": ({"embsync_watch_root_present": "1x10 0x50"}, 60),
    "EmbsyncVersionOld": ({"embsync_current_version_timestamp_seconds": "0x550"}, 2200),
    "EmbsyncRefused": ({'embsync_snapshots_total{outcome="refused"}': "0x30 1x30"}, 60),
    "EmbsyncPassedOver": ({"embsync_passed_over_snapshots": "0x10 1x50"}, 60),
    "EmbsyncNotPermitted": ({'embsync_watched_snapshots{state="not_permitted"}': "0x10 1x50"}, 60),
    "EmbsyncWaiting": ({'embsync_watched_snapshots{state="waiting"}': "0x10 2x790"}, 790),
    "EmbsyncSetAside": ({"embsync_set_aside_total": "0x30 1x30"}, 60),
    "EmbsyncNotPruned": ({"embsync_unpruned_versions": "0x10 1x730"}, 2950),
    "EmbsyncRetrying": ({'embsync_daemon_state{state="retrying"}': "0x10 1x50"}, 60),
    "EmbsyncStoreDamaged": ({"embsync_store_damaged": "0x10 1x20"}, 25),
    "EmbsyncHeld": ({"embsync_held": "0x10 1x1090"}, 4400),
    "EmbsyncWorkerCrashed": ({"embsync_worker_crashes_total": "0x30 1x30"}, 60),
    "EmbsyncOnPublishFailed": ({"embsync_on_publish_failures_total": "0x30 1x30"}, 60),
    "EmbsyncRecallLow": ({"embsync_index_recall": "0.97x10 0.5x80"}, 90),
    "EmbsyncConnectionsCrowded": ({'embsync_http_connections_closed_total{reason="evicted"}': "0x10 0+120x30"}, 40),
    "EmbsyncDeliveryBehind": ({'embsync_delivery_versions_behind{sink="one"}': "0x10 2x90"}, 90),
    "EmbsyncDeliveryGone": ({"embsync_delivery_updated_timestamp_seconds": "0x30"}, 30),
}


def test_alert_rules_use_existing_series(place: Place) -> None:
    """All names, labels and label values in the rules exist in the metrics."""
    place.drop(1)
    with place.daemon():
        place.wait_for(1)
        eventually(lambda: place.status()["current"])
    _require_named(GROUPS["embsync"], (place.store.root / "metrics.prom").read_text())


def test_alert_rules_of_the_server_use_existing_series() -> None:
    """All names, labels and label values in the rules exist in the metrics."""
    metrics = Metrics()
    for reason in ("refused", "evicted"):
        metrics.closed.labels(reason).inc()
    _require_named(GROUPS["embsync-serve"], metrics.text().decode())


def test_alert_rules_of_deliveries_use_existing_series(tmp_path: Path) -> None:
    """All names, labels and label values exist, and promtool accepts the file."""
    write_report(tmp_path, new_report(1.0, 3, {"one": SinkReport(kind="object_store", current=1, behind=2)}))
    text = (tmp_path / "delivery.prom").read_text()
    _require_named(GROUPS["embsync-deliver"], text)
    if shutil.which("promtool"):
        output = promtool("check", "metrics", given=text)
        assert (output.returncode, output.stdout + output.stderr) == (0, "")


def _require_named(rules: dict[str, dict[str, Any]], found: str) -> None:
    for alert, rule in rules.items():
        selectors = re.findall(r"(embsync_\w+)(?:\{(\w+)=~?\"([^\"]+)\"\})?", rule["expr"])
        assert selectors, alert
        for name, label, values in selectors:
            for value in values.split("|"):
                sample = re.escape(f'{name}{{{label}="{value}"}} ') if label else f"{name}[ {{]"
                assert re.search(f"\n{sample}", found), alert


@needs_promtool
def test_prometheus_accepts_rules_and_metrics(place: Place) -> None:
    """``promtool`` accepts the rules and the metrics."""
    place.drop(1)
    with place.daemon():
        place.wait_for(1)
        eventually(lambda: place.status()["current"])
    assert promtool("check", "rules", str(RULES)).returncode == 0
    output = promtool("check", "metrics", given=(place.store.root / "metrics.prom").read_text())
    assert (output.returncode, output.stdout + output.stderr) == (0, "")


@needs_promtool
@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_fires(tmp_path: Path, alert: str) -> None:
    """The alert does not fire at the start, and fires after the problem has lasted long enough.

    Each rule is evaluated alone, since promtool would spend most of its time on the rules that take days.
    """
    series, minutes = TROUBLE[alert]
    labels = "".join("," + label for label in re.findall(r'{(\w+="\w+")}', " ".join(series)))
    severity = ALERTS[alert]["labels"]["severity"]
    asked = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    firing = f'ALERTS{{alertname="{alert}",alertstate="firing",severity="{severity}"{labels}}}'
    rules = tmp_path / "rule.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [ALERTS[alert]]}]}))
    test: dict[str, Any] = {
        "rule_files": [str(rules)],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {"expr": asked, "eval_time": "0m"},
                    {"expr": asked, "eval_time": f"{minutes}m", "exp_samples": [{"labels": firing, "value": 1}]},
                ],
            }
        ],
    }
    if minutes > A_DAY:
        test["evaluation_interval"] = test["tests"][0]["interval"] = "4m"
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(test))
    output = promtool("test", "rules", str(file))
    assert output.returncode == 0, output.stdout + output.stderr


def promtool(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, check=False)
