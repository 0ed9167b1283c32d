"""Configuration: frozen, parsed once, from defaults, a YAML file, the environment and options, in this order."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import yaml

from embsync.checks import CHECKS, Limit, Relative
from embsync.environment import Sources, nearest_variable, variables_of_keys
from embsync.errors import UsageError

_SIZE_UNITS = {
    "": 1,
    "B": 1,
    **{f"{p}iB": 1024**n for n, p in enumerate("KMGTP", 1)},
    **{f"{p}B": 1000**n for n, p in enumerate("KMGTP", 1)},
}

#: What parsing raises: constructors of numbers and dates raise ValueError.
#: Sections in one another: space.anchors.policy has two.
_DEEPEST = 4
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)

#: What msgspec calls things, in the words of this file.
_WORDS = {"object": "a section", "str": "text", "bool": "true or false", "float": "a number"}

#: Keys whose value may be written with a unit, and keys that are paths.
_SIZES = (("snapshot", "max_bytes"), ("serve", "limits", "body"), ("serve", "limits", "memory"))
PATHS = (("watch", "path", ""), ("store", "path", ""), ("serve", "token_file", ""), ("serve", "listen", "unix:"))

Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the configuration."""


class WatchConfig(_Section, frozen=True):
    """Where training runs leave snapshots, and when one is complete."""

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


class SnapshotConfig(_Section, frozen=True):
    """How snapshots are read."""

    layout: Literal["auto", "npy", "npz", "parquet", "arrow", "delta", "safetensors", "word2vec", "word2vec_binary"] = (
        "auto"
    )
    sides: Literal["auto", "both", "items"] = "auto"
    id_column: str | SideColumns = "auto"
    vector_column: str | SideColumns = "auto"
    weight_column: str | None = None
    row_number_ids: bool = False
    max_bytes: int = 256 * 1024**3


class StoreConfig(_Section, frozen=True):
    """The directory that holds the versions."""

    path: str = "embsync-store"
    keep_versions: Positive = 5
    carry_forward_versions: Count = 30
    on_publish: str | None = None


class AnchorsConfig(_Section, frozen=True):
    """The reference rows the next snapshot is aligned to."""

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
    """The two limits of one check; an absent key keeps the default, null switches the limit off."""

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
        """Numbers of neighbours at which recall is measured, ascending; the first decides."""
        return (self.recall_at,) if isinstance(self.recall_at, int) else self.recall_at


class LimitsConfig(_Section, frozen=True):
    """What one HTTP request, and all of them together, may ask for.

    Attributes
    ----------
    body : int
        Bytes of a request's body; beyond: 413.
    neighbours, batch : int
        Largest k, and most ids, vectors or lists of a request; beyond: 422.
    hits : int
        Most neighbours of all queries of a request together; beyond: 422.
    memory : int
        Estimated bytes of all requests under way in a worker; beyond: 503, and 422 for one that would never fit.
    concurrency : int
        Requests worked on at once by a worker; beyond: 429.
    seconds : float
        Time for a head, for a body (beyond: 408), and for an answer (beyond: 503).
    connections : int
        Connections of a worker; a new one beyond it takes the place of the one that has waited longest.
    idle_seconds : float
        Time a connection may wait between two requests.
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
    """The HTTP reader."""

    listen: str = "127.0.0.1:8980"
    token_file: str | None = None
    hosts: tuple[str, ...] = ()
    space_id: str | None = None
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    rescan_seconds: Annotated[float, msgspec.Meta(gt=0)] = 0.5
    limits: LimitsConfig = LimitsConfig()


class LogConfig(_Section, frozen=True):
    """Log lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class Config(_Section, frozen=True):
    """The whole configuration."""

    watch: WatchConfig = WatchConfig()
    snapshot: SnapshotConfig = SnapshotConfig()
    store: StoreConfig = StoreConfig()
    space: SpaceConfig = SpaceConfig()
    checks: dict[str, CheckLimits] = {}
    index: IndexConfig = IndexConfig()
    serve: ServeConfig = ServeConfig()
    log: LogConfig = LogConfig()
    threads: Count = 0


_NO_LIMIT = (None, msgspec.UNSET)


def _fixed(limit: Limit | Relative) -> Limit:
    return None if isinstance(limit, Relative) else limit


#: Default limits of the checks that may be configured: name -> (warn, refuse). None: none, or one that depends on the
#: run (``embsync/checks.py``).
DEFAULT_LIMITS: Mapping[str, tuple[Limit, Limit]] = {
    check.name: (_fixed(check.warn), _fixed(check.refuse)) for check in CHECKS.values() if check.acceptable
}


def load(
    file: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
) -> Config:
    """Return the configuration of a YAML file, overridden by the environment, then by options.

    Parameters
    ----------
    file : path, optional
        YAML file; relative paths in it are taken relative to its directory.
    environment : mapping, optional
        Variables such as ``EMBSYNC_SPACE__ANCHORS__POLICY``; default ``os.environ``.
    options : mapping, optional
        Dotted keys (``"store.path"``) to values, as given on the command line.

    Raises
    ------
    UsageError
        The file cannot be read, an unknown key, a value of the wrong type or range, or keys that contradict
        each other.
    """
    return load_with_sources(file, environment, options)[0]


def load_with_sources(
    file: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
) -> tuple[Config, Sources]:
    """Return the same as :func:`load`, and where each key comes from."""
    tree: dict[str, Any] = {} if file is None else _read_file(Path(file))
    sources = Sources("configuration" if file is None else str(file), in_file=set(_dotted(tree)))
    for name, key, text in variables_of_keys(os.environ if environment is None else environment):
        sources.variables[".".join(key)] = name
        _put(tree, key, _yaml_scalar(name, key, text), f"environment sets a key below a value: {name}")
    for dotted, value in (options or {}).items():
        sources.options.add(dotted)
        _put(tree, dotted.split("."), value, "option sets a key below a value")
    return _convert(tree, sources), sources


def _dotted(tree: Mapping[Any, Any], above: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value and above.count(".") < _DEEPEST:  # an alias of YAML may lead in a circle
            yield from _dotted(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def _read_file(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        raise UsageError("configuration file not found", where=path) from None
    except OSError as error:
        raise UsageError("configuration cannot be read", where=path, found=error.strerror) from error
    except _NOT_YAML as error:
        raise UsageError("not valid YAML", where=path, found=str(error)) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError("not a mapping", where=path, found=type(tree).__name__, expected="sections such as 'store:'")
    for section, key, scheme in PATHS:
        part = tree.get(section)
        value = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict) and isinstance(value, str) and value.startswith(scheme):
            part[key] = f"{scheme}{path.parent / _home(path, value.removeprefix(scheme))}"
    return tree


def _home(file: Path, text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError("no such home directory", where=file, found=text) from error


def _yaml_scalar(variable: str, key: list[str], text: str) -> object:
    try:
        return yaml.safe_load(text)
    except _NOT_YAML:
        raise UsageError(f"{'.'.join(key)}: not a valid value", where=variable, found=repr(text)[:80]) from None


def _put(tree: dict[str, Any], key: list[str], value: object, problem: str) -> None:
    node = tree
    for depth, part in enumerate(key[:-1]):
        child = node.setdefault(part, {})
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise UsageError(problem, where=".".join(key), found=".".join(key[: depth + 1]), expected="a section")
        node = child
    node[key[-1]] = value


def _convert(tree: dict[str, Any], where: Sources) -> Config:
    _reject_unknown_keys(Config, tree, (), where)
    _parse_sizes(tree, where)
    try:
        config = msgspec.convert(tree, Config, strict=True)
    except msgspec.ValidationError as error:
        raise _wrong(str(error), tree, where) from None
    _reject_contradictions(config, where)
    return config


def _wrong(message: str, tree: dict[str, Any], where: Sources) -> UsageError:
    """Return what msgspec says ("Expected `int` >= 0 - at `$.threads`") as an error with value and key."""
    what, _, path = message.removesuffix("`").partition(" - at `$")
    expected, _, found = what.removeprefix("Expected ").replace("`", "").partition(", got ")
    node: Any = tree
    kind: Any = Config
    for part in path.strip(".").split("."):
        node = node.get(part) if isinstance(node, dict) else None
        types = {field.name: field.type for field in msgspec.structs.fields(kind)} if _is_section(kind) else {}
        kind = types.get(part)
    if get_origin(kind) is Literal:
        expected = ", ".join(get_args(kind))
    word, _, rest = expected.partition(" ")
    return UsageError(
        "wrong value",
        where=where.place(path.strip(".")),
        found=found if node is None else repr(node),
        expected=f"{_WORDS.get(word, word)} {rest}".rstrip(),
    )


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _parse_sizes(tree: dict[str, Any], where: Sources) -> None:
    for *sections, key in _SIZES:
        part: Any = tree
        for section in sections:
            part = part.get(section) if isinstance(part, dict) else None
        value = part.get(key) if isinstance(part, dict) else None
        if isinstance(value, str):
            part[key] = _bytes(value, where.place(".".join((*sections, key))))


def _bytes(text: str, where: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGTP]?i?B?)\s*", text)
    if match is None or match[2] not in _SIZE_UNITS:
        raise UsageError("not a size", where=where, found=repr(text), expected="a number of bytes or such as '256 GiB'")
    return int(float(match[1]) * _SIZE_UNITS[match[2]])


def _reject_unknown_keys(struct: type[Any], tree: Mapping[Any, Any], path: tuple[str, ...], where: Sources) -> None:
    known = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in tree.items():
        dotted = ".".join((*path, str(key)))
        if key not in known:
            raise _unknown(dotted, str(key), path, known, where)
        if value is None and _is_section(known[key]):
            raise UsageError(
                "empty section", where=where.place(dotted), found="nothing", hint="remove the line or give it keys"
            )
        if dotted == "checks" and isinstance(value, dict):
            for name, limits in value.items():
                if name not in DEFAULT_LIMITS:
                    raise _unknown(f"checks.{name}", str(name), ("checks",), DEFAULT_LIMITS, where)
                if isinstance(limits, dict):
                    _reject_unknown_keys(CheckLimits, limits, ("checks", str(name)), where)
        elif isinstance(value, dict) and _is_section(known[key]):
            _reject_unknown_keys(known[key], value, (*path, str(key)), where)


def _unknown(dotted: str, key: str, path: tuple[str, ...], known: Mapping[str, object], where: Sources) -> UsageError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    variable = where.variable(dotted)
    meant = f"'{'.'.join((*path, near[0]))}'" if near else None
    if variable is not None:
        nearest = nearest_variable(variable, known_keys())
        meant = None if nearest is None else f"{nearest[0]} ({nearest[1]})"
    hint = f"did you mean {meant}?" if meant else f"known keys: {', '.join(known)}"
    return UsageError("unknown configuration key", where=variable or where.file, found=f"'{dotted}'", hint=hint)


def known_keys(struct: type[Any] = Config, above: str = "") -> Iterator[str]:
    """Yield every key that can be set, dotted."""
    for field in msgspec.structs.fields(struct):
        if _is_section(field.type):
            yield from known_keys(field.type, f"{above}{field.name}.")
        elif field.name == "checks":
            yield from (f"checks.{name}.{limit}" for name in DEFAULT_LIMITS for limit in ("warn", "refuse"))
        else:
            yield f"{above}{field.name}"


def _reject_contradictions(config: Config, where: Sources) -> None:
    if config.index.metric != "inner_product" and config.space.standardize:
        raise UsageError(
            f"index.metric: {config.index.metric} contradicts space.standardize: true",
            where=where.file,
            found="standardizing on, which changes item norms and so cosine and l2 neighbours",
            expected="space.standardize: false with this metric",
            hint="set space.standardize: false, or index.metric: inner_product",
        )
    depths = config.index.depths
    if sorted(set(depths)) != list(depths):
        raise UsageError(
            "wrong value", where=where.place("index.recall_at"), found=list(depths), expected="ascending numbers"
        )
    for name, limits in config.checks.items():
        for limit in (limits.warn, limits.refuse):
            ranged = CHECKS[name].kind == "range"
            if isinstance(limit, int | float) == ranged and limit not in _NO_LIMIT:
                wanted = "a range [low, high]" if ranged else "a number"
                raise UsageError(
                    "a limit of the wrong form",
                    where=where.place(f"checks.{name}"),
                    found=limit,
                    expected=f"{wanted} or null",
                )
    if config.watch.path is not None:
        watched, store = (Path(os.path.abspath(path)) for path in (config.watch.path, config.store.path))  # noqa: PTH100
        if watched.is_relative_to(store) or store.is_relative_to(watched):
            raise UsageError(
                "watch.path and store.path contain one another",
                where=where.file,
                found=f"{watched} and {store}",
                expected="two directories side by side",
                hint="what is written to the store would be looked at as snapshots",
            )
    if "/" in config.watch.marker or not config.watch.marker:
        raise UsageError("watch.marker is not a file name", where=where.file, found=repr(config.watch.marker))
