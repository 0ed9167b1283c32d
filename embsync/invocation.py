"""How embsync was called, and commands printed so that they can be pasted into the same shell."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

#: Commands that change the store.
_CHANGING = frozenset(
    {"accept", "deliver", "hold", "prune", "pull", "relabel", "resume", "rollback", "run", "sync", "widen"}
)


@dataclass(frozen=True)
class Invocation:
    """The program and options with which a printed command refers to the same store and configuration.

    Attributes
    ----------
    program : tuple of str
        How embsync is called here.
    options : tuple of str
        ``--config`` and ``--store`` as given or found; empty if embsync is used as a library.
    environment : tuple of str
        ``NAME=VALUE`` of every variable that sets a key, for commands run by another user.
    as_owner : bool
        Whether root acts as the store's owner, which the next command that changes the store must repeat.
    """

    program: tuple[str, ...] = ("embsync",)
    options: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    as_owner: bool = False

    @classmethod
    def of_process(cls) -> Invocation:
        """Return how this process was called, without options."""
        return cls(_program())

    def absolute(self) -> Invocation:
        """Return it with absolute paths, for logs, the journal and status, which are read from other directories."""
        paths = [word if word.startswith("--") else os.path.abspath(word) for word in self.options]  # noqa: PTH100
        return replace(self, options=tuple(paths))

    def as_user(self, user: str, arguments: tuple[str, ...]) -> str:
        """Return a command line that runs as another user, without this PATH and these variables."""
        first = shutil.which(self.program[0]) or self.program[0]
        variables = ["env", *self.environment] if self.environment else []
        return joined(["sudo", "-u", user, *variables, first, *self.program[1:], *arguments])


@dataclass(frozen=True)
class Command:
    """A command of embsync to suggest, as data.

    As text, it has the options of the current invocation, or if embsync is used as a library, its store.

    Attributes
    ----------
    arguments : tuple of str
        The command's name, its arguments and its own options.
    purpose : str
        Its purpose, such as "to return to an intact version"; may be empty.
    store : str or None
        The store to which it applies, if known.
    """

    arguments: tuple[str, ...]
    purpose: str = ""
    store: str | None = None

    @property
    def line(self) -> str:
        """The command alone, quoted for a shell."""
        present = invocation()
        name, *own = self.arguments
        options = list(present.options)
        if not options and self.store is not None:
            options = ["--store", self.store]
        if present.as_owner and name in _CHANGING:
            options.append("--as-owner")
        # an argument that begins with a dash would be read as an option, except after "--"
        at = own.index("--") if "--" in own else len(own)
        return joined([*present.program, name, *own[:at], *options, *own[at:]])

    def __str__(self) -> str:
        return f"{self.purpose}: {self.line}" if self.purpose else self.line


@dataclass
class _Present:
    invocation: Invocation = field(default_factory=Invocation)


_PRESENT = _Present()


def invocation() -> Invocation:
    """Return how this process was called, without options if there was no command line."""
    return _PRESENT.invocation


def set_invocation(present: Invocation) -> None:
    """Set how this process was called; used by the command line and by processes that it starts."""
    _PRESENT.invocation = present


def command(name: str, *arguments: object, purpose: str = "", store: str | Path | None = None) -> Command:
    """Return a command of embsync; a positional argument that begins with a dash is placed after ``--``.

    Parameters
    ----------
    name : str
        Such as ``"accept"``.
    *arguments : object
        Its arguments, then its options, as typed.
    purpose : str
        Its purpose.
    store : path, optional
        The store to which it applies.
    """
    words = [str(argument) for argument in arguments]
    if words and words[0].startswith("-") and not words[0].startswith("--"):
        words = [*words[1:], "--", words[0]]
    return Command((name, *words), purpose, None if store is None else str(store))


def store_of(path: str | Path) -> Path | None:
    """Return the store that contains a path or is at that path, for printed commands; None if unknown."""
    place = Path(path)
    return next((folder for folder in (place, *place.parents) if (folder / "versions").is_dir()), None)


def quoted(word: str) -> str:
    """Return a word quoted for a shell, on one line; unprintable and non-UTF-8 characters are escaped in ``$'…'``.

    Bash, zsh and ksh support this quoting, and POSIX since 2024.
    """
    if word.isprintable():
        return shlex.quote(word)
    shown = (
        sign if sign.isprintable() and sign not in "\\'" else "".join(f"\\{byte:03o}" for byte in os.fsencode(sign))
        for sign in word
    )
    return f"$'{''.join(shown)}'"


def joined(words: Iterable[str]) -> str:
    """Return a command line of words, each :func:`quoted`."""
    return " ".join(map(quoted, words))


def _program() -> tuple[str, ...]:
    called = Path(sys.argv[0])
    if called.name == "__main__.py" and called.parent.name == "embsync":
        return sys.executable, "-m", "embsync"
    if called.name != "embsync":
        return ("embsync",)
    found = shutil.which("embsync")
    return ("embsync",) if found is not None and called.exists() and called.samefile(found) else (str(called),)
