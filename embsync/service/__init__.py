"""The daemon: watches where training runs leave snapshots and publishes each by the pipeline, for months."""

from embsync.service.daemon import Daemon

__all__ = ["Daemon"]
