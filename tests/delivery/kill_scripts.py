"""The processes that are killed; each prints a line when it begins."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from embsync.config import DeliveryConfig, ObjectStoreConfig
from embsync.config_loader import load
from embsync.delivery.endpoints import open_objects
from embsync.delivery.object_store import ObjectStoreSink
from embsync.delivery.pull import Pull
from embsync.delivery.service import DeliveryService
from embsync.delivery.steps import deliver
from embsync.store import Store


def die(*_: object, **__: object) -> Any:
    """End the process as by ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)


def push(root: Path, config: ObjectStoreConfig) -> None:
    """Push the current version."""
    deliver(ObjectStoreSink(config), root, 3)


def pull(root: Path, config: ObjectStoreConfig) -> None:
    """Pull the current version."""
    Pull(Store(root), open_objects(config), 5).once()


def service(root: Path, config: ObjectStoreConfig) -> None:
    """Deliver as the service does."""
    settings = DeliveryConfig(sinks=(config,), rescan_seconds=0.02, recheck_seconds=0.05)
    chosen = load(environment={}, options={"store.path": str(root)})
    DeliveryService(lambda: msgspec.structs.replace(chosen, delivery=settings)).run()


WORK: dict[str, Callable[[Path, ObjectStoreConfig], None]] = {"push": push, "pull": pull, "service": service}


def main(work: str, root: str, config: str, before_the_pointer: str) -> None:
    """Do the named work; with ``before_the_pointer``, die after the last object and before the pointer."""
    if before_the_pointer == "yes":
        ObjectStoreSink._swap = die
        Store._point_to = die
    chosen = msgspec.convert(json.loads(config), ObjectStoreConfig)
    sys.stdout.write("begins\n")
    sys.stdout.flush()
    WORK[work](Path(root), chosen)
