"""Options that commands share, and the context that they describe."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from embsync import config_loader, invocation
from embsync.config import Config
from embsync.environment import ENVIRONMENT_PREFIX, IGNORED_VARIABLES, ConfigurationFile, Sources, find
from embsync.invocation import Invocation
from embsync.store import Store
from embsync.store.owner import act_as, name_of, reject_other_user, required_owner

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Context:
    """The configuration and settings given by the shared options.

    Attributes
    ----------
    config : Config
    as_json : bool
    wait : float
        Seconds to wait for the store's lock.
    found : ConfigurationFile
        The configuration file in force.
    sources : Sources
        Where each key comes from.
    """

    config: Config
    as_json: bool
    wait: float = 60.0
    found: ConfigurationFile = field(default_factory=lambda: ConfigurationFile(None, "none", None))
    sources: Sources = field(default_factory=lambda: Sources("configuration"))

    @property
    def store(self) -> Store:
        """The configured store."""
        return Store(self.config.store.path, self.wait)


def shared(command: Command) -> Command:
    """Add ``--config``, ``--store``, ``--json`` and ``--debug`` to a command."""
    for option in (
        click.option(
            "--debug",
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_remember_debug,
            help="Show a traceback on errors.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("-s", "--store", type=click.Path(path_type=Path), help="The store's directory."),
        click.option("-c", "--config", "config_file", type=click.Path(path_type=Path), help="Configuration file."),
    ):
        command = option(command)
    return command


def changing(command: Command) -> Command:
    """Add ``--as-owner`` to a command that changes the store, and restrict the command to the store's owner."""
    return click.option(
        "--as-owner",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_remember_owner,
        help="As root: drop privileges and act as the store's owner.",
    )(command)


def locking(command: Command) -> Command:
    """Like :func:`changing`, and add ``--wait``."""
    return click.option(
        "--wait",
        type=click.FloatRange(min=0),
        default=60.0,
        show_default=True,
        help="Seconds to wait for the store's lock.",
    )(changing(command))


def context(
    config_file: Path | None, store: Path | None, as_json: bool, wait: float = 60.0, **options: object
) -> Context:
    """Load the configuration; ``options`` override its keys, with ``__`` in place of dots."""
    found = find(config_file, store)
    invocation.set_invocation(_invocation_of(found))
    chosen = {name.replace("__", "."): value for name, value in options.items() if value is not None}
    if found.store is not None:
        chosen["store.path"] = found.store
    parsed, sources = config_loader.load_with_sources(found.file, options=chosen)
    given = Context(parsed, as_json, wait, found, sources)
    state = click.get_current_context().ensure_object(dict)
    if "as_owner" in state and not state.get("reads"):
        act_as_owner(given)
    return given


def same_command(*words: str) -> str:
    """Return the present command line with more options."""
    given: list[str] = click.get_current_context().ensure_object(dict).get("arguments", [])
    at = given.index("--") if "--" in given else len(given)
    return invocation.joined([*invocation.invocation().program, *given[:at], *words, *given[at:]])


def act_as_owner(given: Context) -> None:
    """Refuse a user who may not change the store, or become its owner if ``--as-owner`` was given."""
    state = click.get_current_context().ensure_object(dict)
    _as_owner(given.store.root, state["as_owner"], state.get("arguments", []))


def reads_only() -> None:
    """Mark this call as read-only, so that any user who can read the store may make it."""
    click.get_current_context().ensure_object(dict)["reads"] = True


def _as_owner(root: Path, wanted: bool, arguments: list[str]) -> None:
    owner = required_owner(root)
    if owner is None:
        return
    if wanted:
        act_as(root, owner)
        invocation.set_invocation(replace(invocation.invocation(), as_owner=True))
        return
    present = invocation.invocation()
    if os.geteuid() == 0 and shutil.which("sudo") is None:
        words = [*present.program, *arguments[:1], "--as-owner", *arguments[1:]]
        reject_other_user(root, owner, invocation.joined(words))
    reject_other_user(root, owner, present.as_user(name_of(owner), tuple(arguments)))


def _remember_owner(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.ensure_object(dict)["as_owner"] = value


def _invocation_of(found: ConfigurationFile) -> Invocation:
    """Return how embsync was called, so that printed commands refer to the same store and configuration file."""
    options: list[str] = []
    if found.file is not None:
        options += ["--config", str(found.file)]
    if found.store is not None:
        options += ["--store", found.store]
    variables = tuple(
        f"{name}={text}"
        for name, text in sorted(os.environ.items())
        if name.startswith(ENVIRONMENT_PREFIX) and name not in IGNORED_VARIABLES
    )
    return Invocation(Invocation.of_process().program, tuple(options), variables)


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.ensure_object(dict)["debug"] = value
