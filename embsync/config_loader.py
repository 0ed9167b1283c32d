"""Loading the configuration from defaults, a YAML file, the environment and options, in this order."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
import yaml

from embsync.checks import CHECKS
from embsync.config import DEFAULT_LIMITS, SINK_KINDS, CheckLimits, Config
from embsync.environment import Sources, nearest_variable, variables_of_keys
from embsync.errors import UsageError
from embsync.validation import Violation

_SIZE_UNITS = {
    "": 1,
    "B": 1,
    **{f"{p}iB": 1024**n for n, p in enumerate("KMGTP", 1)},
    **{f"{p}B": 1000**n for n, p in enumerate("KMGTP", 1)},
}
#: Most levels of nested sections: space.anchors.policy has two.
_DEEPEST = 4
#: Errors that parsing YAML raises; constructors of numbers and dates raise ValueError.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
#: msgspec's names of types, in the terms of a YAML file.
_WORDS = {"object": "a section", "str": "text", "bool": "true or false", "float": "a number"}
#: Keys whose value may be written with a unit, and keys that are paths.
_SIZES = (("snapshot", "max_bytes"), ("serve", "limits", "body"), ("serve", "limits", "memory"))
PATHS = (
    ("watch", "path", ""),
    ("store", "path", ""),
    ("serve", "token_file", ""),
    ("serve", "listen", "unix:"),
    ("delivery", "directory", ""),
)
#: Suffix of the keys of a sink that are paths.
_SINK_PATHS = "_file"
_NO_LIMIT = (None, msgspec.UNSET)


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
        The file cannot be read, a key is unknown, a value has the wrong type or range, or keys contradict each other.
    """
    return load_with_sources(file, environment, options)[0]


def load_with_sources(
    file: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
) -> tuple[Config, Sources]:
    """Return the configuration as :func:`load` does, and the source of each key."""
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
        if isinstance(value, dict) and value and above.count(".") < _DEEPEST:  # YAML aliases may be circular
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
    delivery = tree.get("delivery")
    for sink in sinks_in(delivery) if isinstance(delivery, dict) else ():
        for key in paths_of_sink(sink):
            sink[key] = str(path.parent / _home(path, sink[key]))
    return tree


def sinks_in(delivery: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the listed sinks that are sections."""
    sinks = delivery.get("sinks")
    return [sink for sink in sinks if isinstance(sink, dict)] if isinstance(sinks, list) else []


def paths_of_sink(sink: Mapping[str, Any]) -> list[str]:
    """Return the keys of a sink whose values are paths."""
    return [key for key, value in sink.items() if str(key).endswith(_SINK_PATHS) and isinstance(value, str)]


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
        raise _wrong(Violation.of(error), tree, where) from None
    _reject_contradictions(config, where)
    return config


def _wrong(violation: Violation, tree: dict[str, Any], where: Sources) -> UsageError:
    """Return an error with key, value, and what was expected, in the terms of a YAML file."""
    key, expected = violation.path.strip("$."), violation.expected or violation.what
    kind: Any = Config
    for part in key.split("."):
        types = {field.name: field.type for field in msgspec.structs.fields(kind)} if _is_section(kind) else {}
        kind = types.get(part)
    if get_origin(kind) is Literal:
        expected = ", ".join(get_args(kind))
    word, _, rest = expected.partition(" ")
    try:
        value = violation.value(tree)
    except LookupError:
        value = None
    return UsageError(
        "wrong value",
        where=where.place(key),
        found=violation.found if value is None else repr(value),
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
        elif dotted == "delivery.sinks":
            _reject_unknown_sinks(value, where)
        elif isinstance(value, dict) and _is_section(known[key]):
            _reject_unknown_keys(known[key], value, (*path, str(key)), where)


def _reject_unknown_sinks(sinks: object, where: Sources) -> None:
    """Refuse sinks of unknown kinds, and unknown keys of others; no value is shown, as it may be a secret."""
    if not isinstance(sinks, list):
        return  # refused by its type
    for place, sink in enumerate(sinks):
        key = f"delivery.sinks[{place}]"
        if not isinstance(sink, dict):
            raise UsageError("not a sink", where=where.place(key), expected="a section with name, kind and more")
        kind = sink.get("kind")
        if not isinstance(kind, str) or kind not in SINK_KINDS:
            raise UsageError(
                "unknown kind of sink",
                where=where.place(f"{key}.kind"),
                found="nothing" if kind is None else repr(kind)[:80],
                expected=" or ".join(SINK_KINDS),
            )
        rest = {name: value for name, value in sink.items() if name != "kind"}
        _reject_unknown_keys(SINK_KINDS[kind], rest, ("delivery", f"sinks[{place}]"), where)


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
    """Yield the dotted name of every key."""
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
            found="standardizing, which changes item norms and therefore cosine and l2 neighbours",
            expected="space.standardize: false with this metric",
            hint="set space.standardize: false, or index.metric: inner_product",
        )
    depths = config.index.depths
    if sorted(set(depths)) != list(depths):
        raise UsageError(
            "wrong value", where=where.place("index.recall_at"), found=list(depths), expected="ascending numbers"
        )
    _reject_contradictory_sinks(config, where)
    _reject_limits(config, where)
    _reject_paths(config, where)


def _reject_limits(config: Config, where: Sources) -> None:
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


def _reject_paths(config: Config, where: Sources) -> None:
    if config.watch.path is not None:
        watched, store = (Path(os.path.abspath(path)) for path in (config.watch.path, config.store.path))  # noqa: PTH100
        if watched.is_relative_to(store) or store.is_relative_to(watched):
            raise UsageError(
                "watch.path and store.path contain one another",
                where=where.file,
                found=f"{watched} and {store}",
                expected="two directories side by side",
                hint="otherwise files written to the store would be treated as snapshots",
            )
    if "/" in config.watch.marker or not config.watch.marker:
        raise UsageError("watch.marker is not a file name", where=where.file, found=repr(config.watch.marker))


def _reject_contradictory_sinks(config: Config, where: Sources) -> None:
    names = [sink.name for sink in config.delivery.sinks]
    if len(set(names)) != len(names):
        raise UsageError(
            "two sinks have the same name",
            where=where.place("delivery.sinks"),
            found=", ".join(names),
            expected="different names",
        )
    for place, sink in enumerate(config.delivery.sinks):
        if urlsplit(getattr(sink, "url", "")).password is not None:
            raise UsageError(
                "credentials in a URL",
                where=where.place(f"delivery.sinks[{place}].url"),
                expected="a URL without them",
                hint="put them into environment variables or a file: docs/delivery.md",
            )
