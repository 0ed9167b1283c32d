"""The served version: follows the store, and verifies each version before the switch to it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from embsync.logs import log
from embsync.reader import Follower, Version, open_version
from embsync.reader.pin import require_space
from embsync.reader.verification import verify
from embsync.server.metrics import SHARED, Metrics
from embsync.server.schema import ServerState
from embsync.server.settings import Settings
from embsync.server.shared_verification import SharedVerification
from embsync.store import layout

#: Seconds for the follower to stop; after that, it ends with the process.
_STOP_SECONDS = 1.0
_MAPS, _INDEX = "transform/", "index"


class ServedVersion:
    """Follows the store and holds the served version; a switch is one assignment."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.root = Path(settings.store).absolute()
        self.current: Version | None = None
        self._space_id = settings.space_id
        self._metrics = metrics
        self._verified: set[tuple[int, object, str]] = set()  # kept versions, each with the part that was hashed
        self._follower = Follower(
            self.root,
            self._switch,
            space_id=settings.space_id,
            on_error=self._failed,
            interval=settings.rescan_seconds,
            verify=SharedVerification(Path(os.environ[SHARED])) if SHARED in os.environ else verify,
        )

    def start(self) -> None:
        """Start to follow the store."""
        self._follower.start()

    def has_checked(self) -> bool:
        """Return whether the store was checked once: a version is served, was refused, or does not exist yet."""
        return self._follower.checked_once.is_set()

    def stop(self) -> None:
        """Stop following, even during a verification; requests still being answered keep their version."""
        self._follower.stop(_STOP_SECONDS)

    def open_kept(self, number: int, *, searched: bool = False) -> Version:
        """Pin a kept version of the served space; its maps, or its index, are hashed the first time."""
        version = open_version(self.root, number)
        part = _INDEX if searched else _MAPS
        try:
            require_space(version, self._space_id)
            if (number, version.identity, part) not in self._verified:
                verify(version, below=part)
                self._verified.add((number, version.identity, part))
        except BaseException:
            version.close()
            raise
        return version

    def kept_versions(self) -> list[int]:
        """Return the kept versions, without a newest one that is still being verified or was refused."""
        health = self._follower.health
        return [
            number
            for number in layout.version_numbers(self.root / layout.VERSIONS)
            if number == health.serving or number != health.newest
        ]

    def state(self) -> ServerState:
        """Return the state of the server."""
        health = self._follower.health
        if health.newest is not None:
            self._metrics.newest.set(health.newest)
        return {
            "ready": self.current is not None,
            "following": health.alive,
            "serving": health.serving,
            "newest": health.newest,
            "error": None if health.error is None else str(health.error),
            "seconds_since_look": round(health.checked, 3),
        }

    def _switch(self, version: Version) -> None:
        version.leave_to_collection()  # the last request that uses it unpins it
        self.current = version
        self._metrics.version.set(version.number)
        log(logging.INFO, "serving", version=version.number)

    def _failed(self, error: Exception) -> None:
        self._metrics.refusals.inc()
        log(logging.ERROR, "not_served", reason=str(error))
