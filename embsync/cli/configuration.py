"""``embsync check-config``: the configuration in force, printed as a configuration file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from embsync.checks import CHECKS
from embsync.cli.factory import try_factory
from embsync.cli.options import Context, context, shared
from embsync.cli.output import print_json, say
from embsync.config import DEFAULT_LIMITS, Config
from embsync.config_loader import PATHS
from embsync.environment import Sources

_COMMENT_COLUMN = 56


@click.command("check-config")
@shared
def check_config(config_file: Path | None, store: Path | None, as_json: bool) -> None:
    """Print the configuration in force as YAML that --config reads, with the limits of all checks.

    A comment names the source of each value that is not a default. The index factory is validated for the width of the
    space if that is configured or known from the store; otherwise it must be valid for some width.
    """
    given = context(config_file, store, as_json)
    try_factory(given)
    if as_json:
        print_json(msgspec.to_builtins(given.config))
        return
    for line in as_yaml(given):
        say(line)


def as_yaml(given: Context) -> Iterator[str]:
    """Yield the lines of a configuration file equivalent to the configuration in force, with absolute paths."""
    yield f"# configuration file: {given.found}"
    plain = msgspec.to_builtins(given.config)
    for section, key, scheme in PATHS:
        value = plain[section][key]
        if value is not None and value.startswith(scheme):
            plain[section][key] = scheme + os.path.abspath(value.removeprefix(scheme))  # noqa: PTH100
    del plain["checks"]
    yield from _lines(plain, given.sources)
    yield "checks:"
    yield from _checks(given.config, given.sources)


def _lines(tree: Mapping[str, Any], sources: Sources, above: tuple[str, ...] = ()) -> Iterator[str]:
    for key, value in tree.items():
        path = (*above, key)
        indent = "  " * len(above)
        if isinstance(value, dict) and value:  # an empty one, in YAML, would be null
            yield f"{indent}{key}:"
            yield from _lines(value, sources, path)
        else:
            yield _with_source(f"{indent}{key}: {_scalar(value)}", sources.of(".".join(path)))


def _checks(config: Config, sources: Sources) -> Iterator[str]:
    for name, defaults in DEFAULT_LIMITS.items():
        lines = []
        own = config.checks.get(name)
        for limit, default in zip(("warn", "refuse"), defaults, strict=True):
            chosen = msgspec.UNSET if own is None else getattr(own, limit)
            table = getattr(CHECKS[name], limit)
            if chosen is not msgspec.UNSET:
                lines.append(_with_source(f"    {limit}: {_scalar(chosen)}", sources.of(f"checks.{name}.{limit}")))
            elif default is None and table is not None:
                lines.append(f"    # {limit}: {table}, from the figures of each run")
            else:
                lines.append(f"    {limit}: {_scalar(default)}")
        # in YAML a section with comments only would be null
        yield f"  {name}:" if any("#" not in line[:5] for line in lines) else f"  {name}: {{}}"
        yield from lines


def _scalar(value: object) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _with_source(line: str, source: str) -> str:
    return line if source == "default" else f"{line:<{_COMMENT_COLUMN}}  # {source}"
