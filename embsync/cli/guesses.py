"""Commands and options of other programs, and the corresponding line of embsync."""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Sequence

import click

_DIRECTORIES = ("--dir", "--directory", "--path", "--root", "--store-dir", "--store-path", "-d")
_OUTPUTS = ("--out", "--output", "--output-file", "--outfile", "-o")
_INPUTS = (*_DIRECTORIES, "--snapshot", "--input", "--file", "-i", "-f")
_VERSIONS = ("--version", "--to", "-v")
_ADDRESSES = ("--port", "--bind", "--address", "--addr", "-p", "-b")
#: Commands of other programs, by the command that is meant.
_COMMANDS = {
    "check-config": ("config", "configuration", "validate"),
    "history": ("list", "log", "ls", "versions"),
    "hold": ("pause", "stop"),
    "lookup": ("get", "vector", "vectors"),
    "prune": ("clean", "cleanup", "delete", "gc", "rm"),
    "pull": ("clone", "download", "fetch"),
    "push": ("export", "upload"),
    "resume": ("continue", "unhold", "unpause"),
    "rollback": ("revert", "undo"),
    "run": ("daemon", "start", "watch"),
    "search": ("neighbors", "neighbours", "query"),
    "show": ("describe", "manifest"),
    "status": ("info", "state"),
    "sync": ("add", "align", "import", "ingest", "load", "publish", "stabilize"),
    "verify": ("audit", "check", "fsck"),
}
#: Options of other programs, and the embsync options that may be meant: the first that the command has.
_OPTIONS = (
    (_ADDRESSES, ("--listen",)),
    (_DIRECTORIES, ("--store",)),
    (_OUTPUTS, ("--output",)),
    (("--conf", "--cfg", "--config-file", "--settings"), ("--config",)),
    (("--dry-run", "--dryrun", "--simulate"), ("--dry-run",)),
    (("--top", "--topk", "--top-k", "--count", "--limit", "-n", "-k"), ("-k", "--limit", "--last", "--keep")),
    (("--keep", "--keep-last"), ("--keep-versions",)),
    (("--format", "--output-format"), ("--json",)),
    (("--force", "-f", "--yes", "-y"), ("--overwrite",)),
    (("--verbose", "-v"), ("--debug",)),
)
#: Options of other programs for what is an argument in embsync, by command.
_ARGUMENTS = {
    "accept": _INPUTS,
    "demo": (*_DIRECTORIES, *_OUTPUTS, "--store", "-s"),
    "pull": ("--url", "--from", "--source"),
    "push": ("--url", "--to", "--destination", *_OUTPUTS),
    "relabel": (*_INPUTS, "--labels"),
    "rollback": _VERSIONS,
    "show": _VERSIONS,
    "sync": _INPUTS,
    "verify": _VERSIONS,
    "widen": ("--dimension", "--width", "--to", "-k"),
    "write": (*_DIRECTORIES, *_OUTPUTS),
}
_QUIET = ("--quiet", "-q", "--silent")
#: Commands whose output is a log.
_LOGGING = frozenset({"deliver", "run", "serve"})


def words_meant(group: click.Group, words: Sequence[str]) -> list[str] | None:
    """Return the words with the first replaced by the command that is meant, or its ``--help`` if the rest do not fit.

    None if it is not known what is meant.
    """
    names = group.list_commands(click.Context(group))
    given = words[0].lower()
    if given == "help":
        return [*(word for word in words[1:2] if word in names), "--help"]
    same = (name for name, others in _COMMANDS.items() if given in others)
    name = next(same, None) or next(iter(difflib.get_close_matches(given, names, n=1, cutoff=0.5)), None)
    command = None if name is None else group.get_command(click.Context(group), name)
    if name is None or command is None:
        return None
    if not {"-h", "--help"}.intersection(words):
        with contextlib.suppress(click.UsageError), command.make_context(name, list(words[1:]), obj={}):
            return [name, *words[1:]]
    return [name, "--help"]


def hint_for(command: click.Command, given: str, program: Sequence[str], arguments: Sequence[str]) -> str | None:
    """Return a hint for an option that the command does not have; None if it is not known what is meant.

    Parameters
    ----------
    command : click.Command
    given : str
        The unknown option.
    program : sequence of str
        The words with which embsync was called.
    arguments : sequence of str
        The words after it.
    """
    if isinstance(command, click.Group):
        return _after_the_command(command, given, program, arguments)
    if given[1:2].isdigit():
        if not any(isinstance(one, click.Argument) and one.type is click.STRING for one in command.params):
            return None  # useless: the command takes no ids
        return shlex.join([*program, arguments[0], *_ids_last(command, arguments[1:])])
    words, quiet, unknown = list(arguments), False, given
    for _ in arguments:
        if unknown in _QUIET:
            words, quiet = [word for word in words if word != unknown], True
        elif isinstance(replaced := _replaced(command, unknown, words), list):
            words = replaced
        else:
            return replaced if unknown == given else None
        still = _unknown(command, words[1:])
        if still is None:
            break
        unknown = still
    line = shlex.join([*program, *words])
    if not quiet:
        return f"to return to the previous version: {line}" if _to_previous(command, words) else line
    return f"EMBSYNC_LOG__LEVEL=warning {line}" if command.name in _LOGGING else f"{line} > /dev/null"


def _to_previous(command: click.Command, words: list[str]) -> bool:
    """Return whether a line is a rollback that names no version."""
    if command.name != "rollback":
        return False
    given, _, _ = command.make_parser(click.Context(command)).parse_args(words[1:])
    return not isinstance(given.get("version"), str)


def _after_the_command(group: click.Group, given: str, program: Sequence[str], arguments: Sequence[str]) -> str | None:
    """Return the line with the options moved from before the command to after it; None if there is no command."""
    context = click.Context(group)
    name = next((word for word in arguments if word in group.list_commands(context)), None)
    command = None if name is None else group.get_command(context, name)
    if name is None or command is None:
        return None
    at = list(arguments).index(name)
    words = [name, *arguments[:at], *arguments[at + 1 :]]
    unknown = _unknown(command, words[1:])
    return shlex.join([*program, *words]) if unknown is None else hint_for(command, unknown, program, words)


def _unknown(command: click.Command, words: list[str]) -> str | None:
    """Return the first option of the words that the command does not have."""
    try:
        command.make_parser(click.Context(command)).parse_args(list(words))
    except click.NoSuchOption as error:
        return error.option_name
    except click.UsageError:
        return None
    return None


def _replaced(command: click.Command, given: str, arguments: Sequence[str]) -> list[str] | str | None:
    """Return the words with an option replaced by the one that is meant, or a message if its value is missing."""
    place = next((at for at, word in enumerate(arguments) if word.partition("=")[0] == given), None)
    if place is None:
        return None
    before, value, after = _split(arguments, place)
    if given in _ARGUMENTS.get(command.name or "", ()):
        words = [value] if value is not None else []
    else:
        option = _option(command, given)
        if option is None:
            return None
        name = option.opts[-1]
        if option.is_flag:
            words = [name] if value is None or name == "--json" else [name, value]
        elif value is None:
            return f"the option is {name}"
        else:
            words = [name, _address(given, value, before, after)]
    return [*before, *words, *after]


def _split(arguments: Sequence[str], place: int) -> tuple[list[str], str | None, list[str]]:
    """Return the words before an option, its value if there is one, and the words after both."""
    before, after = list(arguments[:place]), list(arguments[place + 1 :])
    _, assigned, value = arguments[place].partition("=")
    if assigned:
        return before, value, after
    if after and not after[0].startswith("-"):
        return before, after[0], after[1:]
    return before, None, after


def _option(command: click.Command, given: str) -> click.Option | None:
    options = {name: one for one in command.params if isinstance(one, click.Option) for name in one.opts}
    wanted = [name for names, meaning in _OPTIONS if given in names for name in meaning if name in options]
    near = difflib.get_close_matches(given, [name for name in options if name.startswith("--")], n=1, cutoff=0.75)
    return next((options[name] for name in (*wanted, *near)), None)


def _ids_last(command: click.Command, words: Sequence[str]) -> list[str]:
    """Return the words with everything that is not an option after ``--``: ids may begin with a dash."""
    flags = {name for one in command.params if isinstance(one, click.Option) and one.is_flag for name in one.opts}
    options, others, rest = [], [], iter(word for word in words if word != "--")
    for word in rest:
        if not word.startswith("-") or word[1:2].isdigit():
            others.append(word)
        elif word in flags or "=" in word or (word[1] != "-" and len(word) > 2):
            options.append(word)
        else:
            options += [word, *([value] if (value := next(rest, None)) is not None else [])]
    first = next(one for one in command.params if isinstance(one, click.Argument))
    if isinstance(first.type, click.Choice) and others[:1] and others[0] not in first.type.choices:
        near = difflib.get_close_matches(others[0], first.type.choices, n=1, cutoff=0.75)
        others = [*near, *others[1:]] if near else [first.type.choices[0], *others]
    return [*options, "--", *others]


def _address(given: str, value: str, before: list[str], after: list[str]) -> str:
    """Return a port or a host as an address; a host given by ``--host`` in the other words is joined to a port."""
    if given not in _ADDRESSES:
        return value
    if not value.isdigit():
        complete = value.startswith("unix:") or value.count(":") == 1 or "]:" in value
        return value if complete else f"{_host(value)}:{_default_address()[1]}"
    for words in (before, after):
        for at, word in enumerate(words):
            name, assigned, host = word.partition("=")
            if name == "--host" and (assigned or words[at + 1 :]):
                host = host if assigned else words.pop(at + 1)
                del words[at]
                return f"{_host(host)}:{value}"
    return f"{_default_address()[0]}:{value}"


def _default_address() -> tuple[str, str]:
    """Return host and port where ``serve`` listens by default."""
    from embsync.config import ServeConfig  # noqa: PLC0415  (needed for this hint only)

    host, _, port = ServeConfig().listen.rpartition(":")
    return host, port


def _host(given: str) -> str:
    return f"[{given}]" if ":" in given and not given.startswith("[") else given
