"""The kinds of sinks; the library of a kind is loaded when such a sink is opened."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from embsync.config import SinkConfig
from embsync.delivery.sink import Sink
from embsync.errors import UsageError


@dataclass(frozen=True)
class SinkKind:
    """The module and name of a kind's class, and the extra that installs its library."""

    module: str
    name: str
    extra: str


#: By ``kind`` in the configuration.
KINDS = {
    "milvus": SinkKind("embsync.delivery.milvus.sink", "MilvusSink", "milvus"),
    "object_store": SinkKind("embsync.delivery.object_store", "ObjectStoreSink", "mirror"),
    "postgresql": SinkKind("embsync.delivery.postgresql.sink", "PostgresqlSink", "pgvector"),
}


def sink_kind(config: SinkConfig) -> str:
    """Return the kind of a sink, as in the configuration."""
    return str(config.__struct_config__.tag)


def open_sink(config: SinkConfig) -> Sink:
    """Return the sink that a configuration describes, without connecting.

    Raises
    ------
    UsageError
        The library of this kind is not installed.
    """
    kind = KINDS[sink_kind(config)]
    try:
        module = importlib.import_module(kind.module)
    except ModuleNotFoundError as error:
        if (error.name or "embsync").startswith("embsync"):
            raise
        raise UsageError(
            f"sinks of kind {sink_kind(config)} need additional packages",
            where=f"delivery.sinks: {config.name}",
            found=f"no {error.name}",
            hint=f"pip install 'embsync[{kind.extra}]'",
        ) from None
    sink: Sink = getattr(module, kind.name)(config)
    return sink
