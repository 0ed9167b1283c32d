"""Publish from a program: like ``embsync sync``, for a path or for arrays."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from embsync.config import Config
from embsync.config_loader import load
from embsync.errors import EmbsyncError, UsageError
from embsync.invocation import Command
from embsync.manifest import Manifest
from embsync.pipeline import Request, publish_snapshot
from embsync.pipeline.checks import reject_unknown
from embsync.pipeline.on_publish import run_on_publish
from embsync.store import Store
from embsync.training.write import write_snapshot

_WAIT_SECONDS = 60.0


def publish(
    store: str | Path,
    snapshot: str | Path | None = None,
    *,
    config: Config | str | Path | Mapping[str, object] | None = None,
    name: str | None = None,
    accept: tuple[str, ...] = (),
    new_space: bool = False,
    **arrays: Any,
) -> Manifest:
    """Publish a snapshot, or arrays, as the next version of a store.

    Parameters
    ----------
    store : str or Path
        The store's directory; it is created if missing.
    snapshot : str or Path, optional
        The output of a training run, in any layout.
    config : Config, path of a YAML file, or mapping of dotted keys (``{"index.factory": "Flat"}``), optional
        Its store path is ignored.
    name : str, optional
        Name of the arrays in the history; default ``arrays``.
    accept : tuple of str
        Checks whose refusal is overridden.
    new_space : bool
        Begin a new space instead of aligning to the current one.
    **arrays
        ``items``, ``item_ids``, ``users``, ``user_ids``, ``item_weights`` and ``user_weights`` of
        :func:`embsync.write_snapshot`, instead of ``snapshot``. They are written to ``TMPDIR`` temporarily.

    Returns
    -------
    Manifest
        The manifest of the published version.

    Raises
    ------
    UsageError
        Neither or both of a snapshot and arrays are given, or unknown arrays or checks, or an invalid name.
    SnapshotError, RefusedError, StoreError
        ``embsync sync`` would fail with the same error.

    Warns
    -----
    UserWarning
        ``store.on_publish`` failed; the version is published.
    """
    if (snapshot is None) == (not arrays):
        raise UsageError("either a snapshot or arrays", found="both" if arrays else "neither", expected="one of them")
    unknown = sorted(set(arrays) - {"items", "item_ids", "users", "user_ids", "item_weights", "user_weights"})
    if unknown or (arrays and "items" not in arrays):
        raise UsageError(
            "unknown arrays" if unknown else "arrays without items",
            found=", ".join(sorted(arrays)),
            expected="items, item_ids, users, user_ids, item_weights, user_weights",
        )
    if name is not None and (snapshot is not None or Path(name).name != name):
        raise UsageError(
            "not a valid name of arrays", found=repr(name), expected="a name without /, together with arrays"
        )
    reject_unknown(accept)
    chosen = _configuration(config, store)
    if snapshot is not None:
        return _publish(Path(snapshot), chosen, accept, new_space)
    with tempfile.TemporaryDirectory(prefix="embsync-") as folder:
        path = write_snapshot(Path(folder) / (name or "arrays"), **arrays)
        try:
            return _publish(path, chosen, accept, new_space)
        except EmbsyncError as error:
            error.advice = tuple(_without_file(advice, path) for advice in error.advice)
            raise


def _without_file(advice: str | Command, path: Path) -> str | Command:
    """Return advice about arrays: a command that names their temporary file is replaced by an argument."""
    if isinstance(advice, str) or str(path) not in advice.arguments:
        return advice
    checks = [name for option, name in pairwise(advice.arguments) if option == "--check"]
    argument = f"accept={tuple(checks)}" if checks else "new_space=True"
    return f"{advice.purpose}: publish the same with {argument}"


def _configuration(given: Config | str | Path | Mapping[str, object] | None, store: str | Path) -> Config:
    place = str(Path(store).absolute())
    if isinstance(given, Config):
        return msgspec.structs.replace(given, store=msgspec.structs.replace(given.store, path=place))
    if isinstance(given, Mapping):
        return load(options={**given, "store.path": place})
    return load(given, options={"store.path": place})


def _publish(path: Path, config: Config, accept: tuple[str, ...], new_space: bool) -> Manifest:
    store = Store(config.store.path, _WAIT_SECONDS)
    manifest = publish_snapshot(store, Request(path, accept, new_space), config)
    command = config.store.on_publish
    failed = None if command is None else run_on_publish(store, command, manifest.version)
    if failed is not None:
        warnings.warn(f"version {manifest.version} is published, but {failed}", UserWarning, stacklevel=3)
    return manifest
