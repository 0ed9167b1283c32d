"""One snapshot to one version, or a refusal. No threads of its own, no loop, no signals."""

from embsync.pipeline.checks import CheckRefusedError
from embsync.pipeline.run import Request, UnchangedError, dry_run, process

__all__ = ["CheckRefusedError", "Request", "UnchangedError", "dry_run", "process"]
