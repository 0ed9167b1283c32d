"""How embsync was called, and commands that are printed so that they work where that call was made."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

#: Commands that change the store.
_CHANGING = frozenset({"accept", "hold", "prune", "relabel", "resume", "rollback", "run", "sync", "widen"})


@dataclass(frozen=True)
class Invocation:
    """What a command needs so that it means the same store, by the same configuration, as the present one.

    Attributes
    ----------
    program : tuple of str
        What embsync is called by here.
    options : tuple of str
        ``--config`` and ``--store`` as they were given or found; empty where embsync is used as a library.
    environment : tuple of str
        ``NAME=VALUE`` of every variable that configures, for commands that are run by another user.
    as_owner : bool
        Root acts as the store's owner, and has to again in the next command that changes the store.
    """

    program: tuple[str, ...] = ("embsync",)
    options: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    as_owner: bool = False

    @classmethod
    def of_process(cls) -> Invocation:
        """Return how this process was started, without options."""
        return cls(_program())

    def absolute(self) -> Invocation:
        """Return the same for readers who are in another directory: of logs, of the journal, of the daemon's status."""
        paths = [word if word.startswith("--") else os.path.abspath(word) for word in self.options]  # noqa: PTH100
        return replace(self, options=tuple(paths))

    def as_user(self, user: str, arguments: tuple[str, ...]) -> str:
        """Return a command line that runs as another user, who has neither this PATH nor these variables."""
        first = shutil.which(self.program[0]) or self.program[0]
        variables = ["env", *self.environment] if self.environment else []
        return joined(["sudo", "-u", user, *variables, first, *self.program[1:], *arguments])


@dataclass(frozen=True)
class Command:
    """A command of embsync that helps, as data.

    Written out, it has the options of the present invocation; in a library's process, that of its store.

    Attributes
    ----------
    arguments : tuple of str
        The command's name, its arguments and its own options.
    purpose : str
        What it is for, such as "to return to an intact version"; may be empty.
    store : str or None
        The store it is meant for, where it is known.
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
        # An argument that begins with a dash must not be read as an option; what follows "--" never is.
        at = own.index("--") if "--" in own else len(own)
        return joined([*present.program, name, *own[:at], *options, *own[at:]])

    def __str__(self) -> str:
        return f"{self.purpose}: {self.line}" if self.purpose else self.line


@dataclass
class _Present:
    invocation: Invocation = field(default_factory=Invocation)


_PRESENT = _Present()


def invocation() -> Invocation:
    """Return how this process was called; without options where no command line was."""
    return _PRESENT.invocation


def set_invocation(present: Invocation) -> None:
    """Say how this process was called: the command line does, and whoever starts a process in its name."""
    _PRESENT.invocation = present


def command(name: str, *arguments: object, purpose: str = "", store: str | Path | None = None) -> Command:
    """Return a command of embsync; positional arguments that begin with a dash are protected.

    Parameters
    ----------
    name : str
        Such as ``"accept"``.
    *arguments : object
        Its arguments, then its options, as one would type them.
    purpose : str
        What it is for.
    store : path, optional
        The store it is meant for.
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
    """Return a word as a shell reads it, on one line: what is not printed or not UTF-8 stands as escapes, in ``$'…'``.

    Bash, zsh and ksh know this quoting, and POSIX since 2024.
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
