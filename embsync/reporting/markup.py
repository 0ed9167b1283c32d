"""Elements of HTML and SVG: everything that is not an element is escaped."""

from __future__ import annotations

import html

from embsync.errors import one_line


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


_EMPTY = Markup("")
#: HTML elements that have no end tag.
_VOID = frozenset({"meta", "br", "hr"})

Child = "Markup | str | int | float | None"


def escaped(text: object) -> Markup:
    """Return text that is safe between tags and in quoted attributes; control and direction characters are escaped."""
    return Markup(html.escape(one_line(str(text)), quote=True))


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element; attributes of None are left out, and their names are written with ``_`` for ``-``."""
    rendered = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{rendered}>")
    return Markup(f"<{name}{rendered}>{joined(*children)}</{name}>")


def joined(*children: object) -> Markup:
    """Return children one after another; None is left out, and lists are flattened."""
    parts = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, list | tuple):
            parts.append(joined(*child))
        elif child is not None:
            parts.append(escaped(child))
    return Markup("".join(parts)) if parts else _EMPTY


def isolated(text: object) -> Markup:
    """Return text of unknown direction, such as an id, so that it cannot reorder the text around it."""
    return element("bdi", text)
