"""Log lines: one an event, for eyes on a terminal and as JSON elsewhere. Field names are in docs/operations.md."""

from __future__ import annotations

import datetime as dt
import logging
import sys
from typing import Any

import msgspec

from embsync.config import LogConfig

_LOGGER = logging.getLogger("embsync.service")
_FIELDS = "embsync_fields"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, _FIELDS, {})
        line = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage(), **fields}
        return msgspec.json.encode(line, enc_hook=str).decode()


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, _FIELDS, {})
        told = "  ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
        return f"{_time(record)}  {record.levelname.lower():<7}  {record.getMessage():<12}  {told}".rstrip()


def _time(record: logging.LogRecord) -> str:
    return dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def configure(config: LogConfig) -> None:
    """Send the service's lines to standard error, in the configured form."""
    as_text = config.format == "text" or (config.format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(_Text() if as_text else _Json())
    _LOGGER.handlers[:] = [handler]
    _LOGGER.setLevel(config.level.upper())
    _LOGGER.propagate = False


def log(level: int, event: str, **fields: Any) -> None:
    """Write one event with its fields."""
    _LOGGER.log(level, event, extra={_FIELDS: fields})
