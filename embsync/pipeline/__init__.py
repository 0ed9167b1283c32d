"""The pipeline: turns one snapshot into one version, or refuses it. No loop, no signal handlers."""

from typing import TYPE_CHECKING

from embsync.lazy import lazily

if TYPE_CHECKING:
    from embsync.pipeline.checks import CheckRefusedError
    from embsync.pipeline.request import Request, UnchangedError
    from embsync.pipeline.run import dry_run, publish_snapshot

__all__ = ["CheckRefusedError", "Request", "UnchangedError", "dry_run", "publish_snapshot"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "CheckRefusedError": "embsync.pipeline.checks",
        **dict.fromkeys(("Request", "UnchangedError"), "embsync.pipeline.request"),
        **dict.fromkeys(("dry_run", "publish_snapshot"), "embsync.pipeline.run"),
    },
)
