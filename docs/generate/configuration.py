"""The configuration: keys, types and defaults from the types of the code, descriptions from config.example.yaml."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import inspect
from tables import code, table

from embsync.config import SINK_KINDS, CheckLimits, Config
from embsync.server.openapi import attributes

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤"}
NAMES = {
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.StrType: "text",
    inspect.BoolType: "true or false",
    inspect.NoneType: "null",
}


def descriptions() -> dict[str, str]:
    """Return the comment of every key of the example, by its dotted path."""
    found: dict[str, str] = {}
    path: list[str] = []
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if key := re.match(r"( *)(\w+):(?: [^#]*)?(?:# (.*))?$", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            found[".".join(path)] = key[3] or ""
        elif path and (more := re.match(r" +# (.*)$", line)):
            found[".".join(path)] += f" {more[1]}"
    return found


def words(kind: inspect.Type) -> str:
    """Return a type in words."""
    if isinstance(kind, inspect.Metadata):
        return words(kind.type)
    if isinstance(kind, inspect.LiteralType):
        return " or ".join(code(value) for value in kind.values)
    if isinstance(kind, inspect.UnionType):
        return " or ".join(words(one) for one in kind.types if not isinstance(one, inspect.CustomType))
    if isinstance(kind, inspect.VarTupleType | inspect.ListType):
        return f"list of {words(kind.item_type)}"
    if isinstance(kind, inspect.TupleType):
        return f"[{', '.join(words(one) for one in kind.item_types)}]"
    if isinstance(kind, inspect.DictType):
        return f"mapping of names to {words(kind.value_type)}"
    if isinstance(kind, inspect.StructType):
        return "{" + ", ".join(field.encode_name for field in kind.fields) + "}"
    limits = [
        f"{sign} {getattr(kind, bound)}" for bound, sign in BOUNDS.items() if getattr(kind, bound, None) is not None
    ]
    return " ".join([NAMES[type(kind)], " and ".join(limits)]).strip()


def default(field: inspect.Field) -> str:
    """Return a default as YAML has it."""
    if field.required:
        return "required"
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return code(json.dumps(msgspec.to_builtins(value)))


def rows(kind: type, path: str, described: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, default and description of every key of a section, with those of its sections."""
    for field in inspect.type_info(kind).fields:
        name = f"{path}{field.name}"
        if isinstance(field.type, inspect.StructType):
            yield from rows(field.type.cls, f"{name}.", described)
        else:
            yield code(name), words(field.type), default(field), described.get(name, "")


def configuration() -> str:
    """Return one table for each section."""
    described, parts = descriptions(), []
    top = []
    for field in inspect.type_info(Config).fields:
        if isinstance(field.type, inspect.StructType):
            kind = field.type.cls
            about = kind.__doc__.partition("\n")[0]
            parts.append(f"## {field.name}\n\n{about}\n\n{_table(rows(kind, f'{field.name}.', described))}")
        elif field.name == "checks":
            parts.append(
                "## checks\n\nLimits of the [checks](../checks.md), by name: `checks: {cosine_items: {warn: 0.7, refuse: 0.5}}`.\n\n"
                + _table(
                    (
                        code(f"checks.NAME.{key.name}"),
                        words(key.type),
                        "the check's own",
                        "a range is [low, high]; null disables it",
                    )
                    for key in inspect.type_info(CheckLimits).fields
                )
            )
        else:
            top.append((code(field.name), words(field.type), default(field), described[field.name]))
    for name, kind in SINK_KINDS.items():
        texts = {
            **attributes(kind.__mro__[1].__doc__),
            **attributes(kind.__doc__),
            "name": "in file names, metrics and messages",
        }
        about = kind.__doc__.partition("\n")[0]
        parts.append(f"## Sinks of kind {name}\n\n{about}\n\n{_table(rows(kind, '', texts))}")
    return "\n\n".join([*parts, f"## Other keys\n\n{_table(top)}"])


def _table(lines) -> str:
    return table("key | type | default | meaning", lines)
