"""The names of `embsync.__all__`, and the types that they return, as directives of mkdocstrings."""

import inspect

import embsync
from embsync.alignment.transform import Transform
from embsync.reader.follower import Follower
from embsync.reader.side import Side

#: Types that the public names give, in the order of the page.
GIVEN = [Side, Transform, Follower]


def python_interface() -> str:
    """Return a section each for functions, classes and errors."""
    names = [getattr(embsync, name) for name in embsync.__all__ if not name.startswith("_")]
    errors = [one for one in names if inspect.isclass(one) and issubclass(one, Exception)]
    classes = [one for one in names if inspect.isclass(one) and one not in errors]
    functions = [one for one in names if not inspect.isclass(one)]
    sections = {"Functions": functions, "Classes": classes, "Types that they return": GIVEN, "Errors": errors}
    return "\n\n".join(f"## {title}\n\n{_directives(members)}" for title, members in sections.items())


def _directives(members: list[object]) -> str:
    return "\n\n".join(f"::: {one.__module__}.{one.__qualname__}" for one in members)
