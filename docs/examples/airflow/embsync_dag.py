"""Airflow: publish a snapshot after training, and deliver it; exit codes decide what is tried again."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from typing import Any

from airflow.decorators import dag, task
from airflow.exceptions import AirflowFailException

CONFIG = "/etc/embsync/embsync.yaml"
#: The store is locked or full; a sink is unreachable, busy or full: a later attempt may succeed.
TRANSIENT = (5, 7)


def embsync(*arguments: str) -> Any:
    """Run embsync; return its JSON, or fail at once where a retry cannot help."""
    done = subprocess.run(["embsync", *arguments, "--config", CONFIG, "--json"], capture_output=True, text=True)
    if done.returncode in TRANSIENT:
        raise RuntimeError(done.stderr)  # Airflow tries again
    if done.returncode:
        raise AirflowFailException(done.stderr)  # 3: ill-formed, 4: refused by a check, 8: refused by a sink
    return json.loads(done.stdout)


@dag(schedule=None, start_date=dt.datetime(2026, 1, 1), catchup=False)
def embeddings() -> None:
    """Runs after the training DAG, which passes the snapshot's path."""

    @task(retries=5, retry_delay=dt.timedelta(minutes=2), retry_exponential_backoff=True)
    def publish(snapshot: str) -> Any:
        return embsync("sync", snapshot)

    @task(retries=10, retry_delay=dt.timedelta(minutes=2), retry_exponential_backoff=True)
    def deliver(_published: Any) -> Any:
        return embsync("deliver", "--once")

    deliver(publish("{{ dag_run.conf['snapshot'] }}"))


embeddings()
