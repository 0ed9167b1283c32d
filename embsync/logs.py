"""Log lines of the daemon and the server: one per event, as text on a terminal and as JSON elsewhere.

Field names are in docs/reference/log-events.md.
"""

from __future__ import annotations

import datetime as dt
import logging
import sys
from typing import Any

import msgspec

from embsync.config import LogConfig
from embsync.errors import one_line

_LOGGER = logging.getLogger("embsync")
_FIELDS = "embsync_fields"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, _FIELDS, {})
        line = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage(), **fields}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, _FIELDS, {})
        pairs = "  ".join(f"{name}={one_line(str(value))}" for name, value in fields.items() if value is not None)
        line = f"{_time(record)}  {record.levelname.lower():<7}  {record.getMessage():<12}  {pairs}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def configure(config: LogConfig) -> None:
    """Write log lines, and warnings of libraries, to standard error in the configured format."""
    as_text = config.format == "text" or (config.format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(_Text() if as_text else _Json())
    logging.captureWarnings(True)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    _LOGGER.setLevel(config.level.upper())


def log(level: int, event: str, **fields: Any) -> None:
    """Write one event with its fields."""
    _LOGGER.log(level, event, extra={_FIELDS: fields})


def log_exception(event: str, **fields: Any) -> None:
    """Write one event with its fields and the traceback of the exception being handled."""
    _LOGGER.exception(event, extra={_FIELDS: fields})
