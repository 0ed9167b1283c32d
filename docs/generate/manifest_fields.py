"""The fields of manifest.json, from its types."""

import inspect as inspection
import re
from collections.abc import Iterator

from configuration import words
from msgspec import inspect
from tables import code, table

from embsync.manifest import Manifest
from embsync.server.openapi import attributes

JSON = {"None": "`null`", "True": "`true`", "False": "`false`"}
STRUCTURES = (inspect.StructType, inspect.DataclassType)


def _described(kind: type) -> str:
    """Return the prose of a docstring, without its sections."""
    text = inspection.getdoc(kind) or ""
    return _meaning(text.split("\nAttributes\n")[0].split("\nParameters\n")[0].strip())


def _structures(kind: inspect.Type) -> Iterator[type]:
    """Yield the objects within a type."""
    if isinstance(kind, STRUCTURES):
        yield kind.cls
    for inner in (*getattr(kind, "types", ()), getattr(kind, "item_type", None)):
        if isinstance(inner, inspect.Type):
            yield from _structures(inner)


def _words(kind: inspect.Type) -> str:
    """Return a type in words; an object is a link to its section."""
    if isinstance(kind, STRUCTURES):
        return f"[object](#{kind.cls.__name__.lower()})"
    if isinstance(kind, inspect.UnionType):
        return " or ".join(map(_words, kind.types))
    if isinstance(kind, inspect.ListType | inspect.VarTupleType):
        return f"list of {_words(kind.item_type)}"
    return words(kind)


def _meaning(text: str) -> str:
    """Return a description in the words of JSON, and code as Markdown has it."""
    return re.sub(r"\b(None|True|False)\b", lambda found: JSON[found[1]], text).replace("``", "`")


def manifest_fields() -> str:
    """Return one section for each object of the manifest."""
    queue, parts, seen = [Manifest], [], set()
    while queue:
        kind = queue.pop(0)
        if kind in seen:
            continue
        seen.add(kind)
        fields = inspect.type_info(kind).fields
        queue += [inner for field in fields for inner in _structures(field.type)]
        texts = attributes(kind.__doc__ or "")
        lines = [(code(field.name), _words(field.type), _meaning(texts.get(field.name, ""))) for field in fields]
        parts.append(f"## {kind.__name__}\n\n{_described(kind)}\n\n{table('field | type | meaning', lines)}")
    return "\n\n".join(parts)
