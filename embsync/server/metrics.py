"""Prometheus metrics, of one process or summed over all workers."""

from __future__ import annotations

import os
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

#: Environment variable of workers: the directory in which they share their metrics.
SHARED = "PROMETHEUS_MULTIPROC_DIR"
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


def forget(worker: int, directory: str) -> None:
    """Remove the gauges of a dead worker from the sum; its counters remain."""
    mark_process_dead(worker, directory)  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of a server."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        counter, gauge = partial(Counter, registry=own), partial(Gauge, registry=own)
        self.requests = counter("embsync_http_requests", "Requests handled", ["endpoint", "status"])
        self.seconds = Histogram(
            "embsync_http_request_seconds",
            "Time from a request to its response",
            ["endpoint"],
            buckets=_BUCKETS,
            registry=own,
        )
        self.version = gauge(
            "embsync_serving_version",
            "Served version; with several workers, the lowest",
            multiprocess_mode="livemin",
        )
        self.newest = gauge(
            "embsync_newest_version", "Current version of the store", multiprocess_mode="livemostrecent"
        )
        self.refusals = counter(
            "embsync_version_errors", "Refused new versions and other errors while following the store"
        )
        self.connections = gauge("embsync_http_connections", "Open connections", multiprocess_mode="livesum")
        self.closed = counter(
            "embsync_http_connections_closed", "Connections closed because of their client, by reason", ["reason"]
        )
        self.memory = gauge(
            "embsync_http_memory_bytes", "Estimated memory of open requests", multiprocess_mode="livesum"
        )
        self._counted: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def count(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request; metrics are cached by label, since finding one takes longer than adding to it."""
        figures = self._counted.get((endpoint, status))
        if figures is None:
            figures = self.requests.labels(endpoint, status), self.seconds.labels(endpoint)
            self._counted[endpoint, status] = figures
        figures[0].inc()
        figures[1].observe(seconds)

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        if SHARED not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
