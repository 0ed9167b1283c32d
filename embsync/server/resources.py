"""Read-only resources: the manifest, health, metrics, the OpenAPI document, the web page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from embsync.reader import Version
from embsync.server import page
from embsync.server.context import JSON
from embsync.server.errors import FailureStatus, Refused
from embsync.server.metrics import Metrics
from embsync.server.responses import json_response, version_header
from embsync.server.served_version import ServedVersion


@dataclass(frozen=True)
class WorkerState:
    """A worker's state: its served version, metrics and OpenAPI document."""

    served: ServedVersion
    metrics: Metrics
    document: dict[str, Any]

    def version(self) -> Version:
        """Return the served version.

        Raises
        ------
        Refused
            503, there is no version yet.
        """
        if self.served.current is None:
            raise Refused(
                FailureStatus.SERVICE_UNAVAILABLE,
                "no version yet",
                where=self.served.root,
                hint="publish a first snapshot on the host of the store",
            )
        return self.served.current


def manifest(worker: WorkerState) -> Response:
    """Return the manifest, byte for byte."""
    version = worker.version()
    return Response(version.manifest_bytes, media_type=JSON, headers=version_header(version))


def health(worker: WorkerState) -> Response:
    """Return the state; 503 if the store is no longer followed."""
    state = worker.served.state()
    return json_response(state, 200 if state["following"] else FailureStatus.SERVICE_UNAVAILABLE)


def readiness(worker: WorkerState) -> Response:
    """Return the state; 503 before there is a version."""
    state = worker.served.state()
    return json_response(state, 200 if state["ready"] else FailureStatus.SERVICE_UNAVAILABLE)


def metrics(worker: WorkerState) -> Response:
    """Return the metrics in Prometheus's text format."""
    worker.served.state()  # updates the metric of the newest version
    return Response(worker.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def openapi(worker: WorkerState) -> Response:
    """Return the OpenAPI document."""
    return json_response(worker.document)


def home(_: WorkerState) -> Response:
    """Return the web page."""
    return Response(page.HTML, media_type="text/html; charset=utf-8", headers=page.HEADERS)
