"""The configuration: its keys, their types and defaults, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from embsync.checks import CHECKS
from embsync.limits import Limit, Relative

Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the configuration."""


class WatchConfig(_Section, frozen=True):
    """Where training jobs write snapshots, and when a snapshot is complete."""

    path: str | None = None
    complete: Literal["auto", "marker", "manifest", "settled"] = "auto"
    marker: str = "_SUCCESS"
    settle_seconds: Seconds = 30.0
    rescan_seconds: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 15.0
    missing_side_seconds: Seconds = 3_600.0
    order: Literal["auto", "name", "mtime"] = "auto"
    backlog: Literal["newest", "every"] = "newest"


class SideColumns(_Section, frozen=True):
    """The name of a column on each side."""

    items: str = "auto"
    users: str = "auto"


#: The same pattern as :data:`embsync.labels.NAME`.
LabelName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class SnapshotConfig(_Section, frozen=True):
    """How snapshots are read."""

    layout: Literal[
        "auto",
        "npy",
        "npy_parts",
        "npz",
        "parquet",
        "spark_pipeline",
        "arrow",
        "csv",
        "projector",
        "delta",
        "safetensors",
        "state_dict",
        "word2vec",
        "word2vec_binary",
    ] = "auto"
    sides: Literal["auto", "both", "items"] = "auto"
    id_column: str | SideColumns = "auto"
    vector_column: str | SideColumns = "auto"
    weight_column: str | None = None
    labels: tuple[LabelName, ...] | None = None
    row_number_ids: bool = False
    max_bytes: int = 256 * 1024**3


class StoreConfig(_Section, frozen=True):
    """The directory that holds the versions."""

    path: str = "embsync-store"
    keep_versions: Positive = 5
    carry_forward_versions: Count = 30
    on_publish: str | None = None


class AnchorsConfig(_Section, frozen=True):
    """The reference rows to which the next snapshot is aligned."""

    policy: Literal["two_time_scales", "moving_average", "previous", "first"] | None = None
    weight: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.3
    parent_share: Share = 0.45
    slow_weight: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.001
    rows: Positive = 100_000


class SpaceConfig(_Section, frozen=True):
    """The stable space."""

    dimension: Positive | None = None
    standardize: bool = True
    max_truncation_loss: Share = 0.0
    anchors: AnchorsConfig = AnchorsConfig()


class CheckLimits(_Section, frozen=True):
    """The two limits of one check; an absent key keeps the default, null disables the limit."""

    warn: Limit | msgspec.UnsetType = msgspec.UNSET
    refuse: Limit | msgspec.UnsetType = msgspec.UNSET


class IndexConfig(_Section, frozen=True):
    """The FAISS index and its recall gate."""

    factory: str = "auto"
    metric: Literal["inner_product", "cosine", "l2"] = "inner_product"
    refresh: Literal["auto", "rotate", "rebuild"] = "auto"
    recall_at: Positive | Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)] = (10, 100)
    target_recall: Share = 0.95
    sample_queries: Positive = 1000
    max_search_cost_growth: Annotated[float, msgspec.Meta(ge=1)] = 4.0
    compact_dead_fraction: Share = 0.2
    on_missed_recall: Literal["warn", "refuse"] = "warn"

    @property
    def depths(self) -> tuple[int, ...]:
        """Values of k at which recall is measured, ascending; the gate decides by the first."""
        return (self.recall_at,) if isinstance(self.recall_at, int) else self.recall_at


class LimitsConfig(_Section, frozen=True):
    """Limits of one HTTP request, and of all requests together.

    Attributes
    ----------
    body : int
        Largest request body in bytes; beyond it: 413.
    neighbours, batch : int
        Largest k, and most ids, vectors or lists per request; beyond it: 422.
    hits : int
        Most neighbours of all queries of a request together; beyond it: 422.
    memory : int
        Estimated bytes of all open requests of a worker; beyond it: 503, or 422 for a request that could never fit.
    concurrency : int
        Most requests handled at once by a worker; beyond it: 429.
    seconds : float
        Time limit for a head, for a body (beyond it: 408), and for a response (beyond it: 503).
    connections : int
        Most open connections of a worker; a new one beyond it replaces the one that has been idle longest.
    idle_seconds : float
        How long a connection may be idle between two requests.
    """

    body: Positive = 16 * 1024**2
    neighbours: Positive = 1_000
    batch: Positive = 10_000
    hits: Positive = 1_000_000
    memory: Positive = 512 * 1024**2
    concurrency: Positive = 64
    seconds: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    connections: Positive = 1_000
    idle_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0


class ServeConfig(_Section, frozen=True):
    """The HTTP server."""

    listen: str = "127.0.0.1:8980"
    token_file: str | None = None
    hosts: tuple[str, ...] = ()
    space_id: str | None = None
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    rescan_seconds: Annotated[float, msgspec.Meta(gt=0)] = 0.5
    limits: LimitsConfig = LimitsConfig()


#: Names of sinks appear in file names, metrics and prefixes.
SinkName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]


class SinkConfig(_Section, frozen=True, tag_field="kind"):
    """What all sinks have in common; one subclass per kind, with its name as ``tag``.

    Attributes
    ----------
    name : str
    keep_versions : int
        Versions kept in the sink: the highest numbers, and always the current one.
    """

    name: SinkName
    keep_versions: Positive = 3


class ObjectStoreConfig(SinkConfig, frozen=True, kw_only=True, tag="object_store"):
    """A prefix in S3, Google Cloud Storage or Azure, or a directory.

    Attributes
    ----------
    url : str
        Such as ``s3://bucket/prefix``, ``gs://…``, ``az://…`` or ``file:///path``.
    endpoint, region : str or None
        Of an S3 service other than Amazon's.
    credentials_file : str or None
        File with lines such as ``AWS_SECRET_ACCESS_KEY=…``; null: the environment's variables alone.
    grace_seconds : float
        How long a version is kept after another one replaced it, for pulls that are copying it.
    lock_seconds : float
        How long a publisher that died blocks others, if the endpoint has no conditional writes.
    """

    url: str
    endpoint: str | None = None
    region: str | None = None
    credentials_file: str | None = None
    grace_seconds: Seconds = 3_600.0
    lock_seconds: Annotated[float, msgspec.Meta(ge=1)] = 60.0


class PostgresqlConfig(SinkConfig, frozen=True, kw_only=True, tag="postgresql"):
    """A schema in a PostgreSQL database with pgvector.

    Attributes
    ----------
    url : str
        Such as ``postgresql://user@host:5432/database``, without a password.
    password_file : str or None
        File with the password on its first line; null: ``PGPASSWORD``, ``~/.pgpass``, or none.
    schema : str
        Created if it does not exist.
    index : str
        Kind of the index on the live items.
    halfvec : bool
        Whether the index holds 16-bit numbers: it finds candidates, which are scored again with the stored vectors.
        Always so above a width of 2,000.
    drop_seconds : float
        How long to wait for readers of an old version before its removal is postponed.
    """

    url: str
    password_file: str | None = None
    schema: Annotated[str, msgspec.Meta(pattern=r"^[a-z_][a-z0-9_]{0,39}$")] = "embsync"
    index: Literal["hnsw", "ivfflat"] = "hnsw"
    halfvec: bool = False
    drop_seconds: Annotated[float, msgspec.Meta(gt=0)] = 5.0


class MilvusConfig(SinkConfig, frozen=True, kw_only=True, tag="milvus"):
    """Collections in a database of a Milvus server.

    Attributes
    ----------
    url : str
        Such as ``http://host:19530``.
    token_file : str or None
        File with ``user:password``, or an API key, on its first line; null: no authentication.
    database : str
        Database of the server.
    alias : str
        Alias of the current version's collection; the collections are called ``ALIAS_1``, ``ALIAS_2``, ….
    """

    url: str
    token_file: str | None = None
    database: str = "default"
    alias: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$")] = "embsync"


#: The configuration of each kind of sink, by its name.
SINK_KINDS: Mapping[str, type[SinkConfig]] = {
    "milvus": MilvusConfig,
    "object_store": ObjectStoreConfig,
    "postgresql": PostgresqlConfig,
}


class DeliveryConfig(_Section, frozen=True):
    """Where versions are delivered to, by ``embsync deliver``.

    Attributes
    ----------
    sinks : tuple
        Each with a name of its own and its kind.
    rescan_seconds : float
        Seconds between checks of the store.
    recheck_seconds : float
        Seconds between checks of a sink that has the current version.
    retry_seconds : float
        Pause after a first failure; doubled after each further one, up to ten minutes.
    directory : str or None
        Where ``delivery.json`` and ``delivery.prom`` are written; null: in the store's directory.
    """

    sinks: tuple[MilvusConfig | ObjectStoreConfig | PostgresqlConfig, ...] = ()
    rescan_seconds: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    recheck_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    retry_seconds: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    directory: str | None = None


class EngineConfig(_Section, frozen=True):
    """Where the users' rows are read, mapped and written.

    Attributes
    ----------
    kind : str
        ``local``: in the process; ``spark``: in a Spark application.
    master : str
        Such as ``local[*]``, ``spark://host:7077``, ``yarn``, ``k8s://…``, or ``sc://host:15002`` (Spark Connect).
    conf : dict
        Spark's own settings.
    partitions : int
        Part files to write; 0: as many as have about 128 MiB of vectors.
    stall_seconds : float
        Seconds without a completed task after which the jobs of the run are cancelled.
    """

    kind: Literal["local", "spark"] = "local"
    master: str = "local[*]"
    conf: dict[str, str | int | float | bool] = {}
    partitions: Count = 0
    stall_seconds: Annotated[float, msgspec.Meta(gt=0)] = 3_600.0


class LogConfig(_Section, frozen=True):
    """Log lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class Config(_Section, frozen=True):
    """The configuration."""

    watch: WatchConfig = WatchConfig()
    snapshot: SnapshotConfig = SnapshotConfig()
    store: StoreConfig = StoreConfig()
    space: SpaceConfig = SpaceConfig()
    checks: dict[str, CheckLimits] = {}
    index: IndexConfig = IndexConfig()
    serve: ServeConfig = ServeConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    engine: EngineConfig = EngineConfig()
    log: LogConfig = LogConfig()
    threads: Count = 0


def _fixed(limit: Limit | Relative) -> Limit:
    return None if isinstance(limit, Relative) else limit


#: Default limits of the configurable checks: name -> (warn, refuse). None: no limit, or one that depends on the run
#: (``embsync/checks.py``).
DEFAULT_LIMITS: Mapping[str, tuple[Limit, Limit]] = {
    check.name: (_fixed(check.warn), _fixed(check.refuse)) for check in CHECKS.values() if check.acceptable
}
