"""What the environment says of the configuration, which file is found, and who is to be blamed for a key."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ENVIRONMENT_PREFIX = "EMBSYNC_"
#: Names a configuration file; empty: none is looked for.
FILE_VARIABLE = "EMBSYNC_CONFIG"
#: Names a store, as ``--store`` does.
STORE_VARIABLE = "EMBSYNC_STORE"
#: Taken where neither option nor variable names a file.
SYSTEM_FILE = Path("/etc/embsync/embsync.yaml")
#: Set by embsync itself for ``store.on_publish``.
HOOK_VARIABLES = frozenset({"EMBSYNC_VERSION", "EMBSYNC_PATH"})
#: No keys.
RESERVED_VARIABLES = HOOK_VARIABLES | {FILE_VARIABLE, STORE_VARIABLE}


@dataclass(frozen=True)
class ConfigurationFile:
    """The configuration file in force.

    Attributes
    ----------
    file : Path or None
    why : str
        How it came to be: ``--config``, the variable's name, ``found`` or ``none``.
    store : str or None
        The store that an option or a variable names.
    """

    file: Path | None
    why: str
    store: str | None

    def __str__(self) -> str:
        return "none" if self.file is None else f"{self.file} ({self.why})"


def find(config: Path | None, store: Path | None, environment: Mapping[str, str] | None = None) -> ConfigurationFile:
    """Return the file by option, variable, or where the system keeps it; with ``--store`` only by option."""
    variables = os.environ if environment is None else environment
    named = str(store) if store is not None else variables.get(STORE_VARIABLE) or None
    if config is not None:
        return ConfigurationFile(config, "--config", named)
    if store is not None:
        return ConfigurationFile(None, "none", named)
    if FILE_VARIABLE in variables:
        chosen = variables[FILE_VARIABLE]
        return ConfigurationFile(Path(chosen) if chosen else None, FILE_VARIABLE, named)
    try:
        there = SYSTEM_FILE.exists()
    except OSError:  # a directory that we may not enter: that it cannot be read is said by who reads it
        there = True
    return ConfigurationFile(SYSTEM_FILE, "found", named) if there else ConfigurationFile(None, "none", named)


def variables_of_keys(variables: Mapping[str, str]) -> Iterator[tuple[str, list[str], str]]:
    """Yield name, key and text of every variable that sets a key, in order of their names."""
    for name in sorted(variables):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in RESERVED_VARIABLES:
            yield name, name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"), variables[name]


def nearest_variable(name: str, keys: Iterable[str]) -> tuple[str, str] | None:
    """Return the variable that is nearest to a name, and what it sets: of those that set keys and the reserved ones."""
    known = {"CONFIG": "the configuration file", "STORE": "the store"}
    known |= {key.upper().replace(".", "__"): key for key in keys}
    near = difflib.get_close_matches(name.removeprefix(ENVIRONMENT_PREFIX), known, n=1, cutoff=0.6)
    return (ENVIRONMENT_PREFIX + near[0], known[near[0]]) if near else None


@dataclass
class Sources:
    """Where each key comes from.

    Attributes
    ----------
    file : str
        The file's path, or what stands for it in messages.
    variables : dict of str
        Dotted key to the variable that set it.
    options : set of str
        Dotted keys that were set by an option.
    in_file : set of str
        Dotted keys that the file sets.
    """

    file: str
    variables: dict[str, str] = field(default_factory=dict)
    options: set[str] = field(default_factory=set)
    in_file: set[str] = field(default_factory=set)

    def variable(self, dotted: str) -> str | None:
        """Return the variable that set a key, a section around it or a key below it; None where none did."""
        parts = dotted.partition("[")[0].split(".")
        for length in range(len(parts), 0, -1):
            key = ".".join(parts[:length])
            if key in self.options:
                return None
            if key in self.variables:
                return self.variables[key]
        return next((name for known, name in self.variables.items() if known.startswith(f"{dotted}.")), None)

    def place(self, dotted: str) -> str:
        """Return who is to be blamed for a key: the variable by its name, else the file with the key."""
        key = dotted.partition("[")[0]
        variable = self.variable(key)
        exact = variable is not None and (key in self.variables or not self._in_file(key))
        return variable if variable is not None and exact else f"{self.file}: {dotted}"

    def of(self, dotted: str) -> str:
        """Return what decided a key: ``option``, the variable's name, ``file`` or ``default``."""
        if dotted in self.options:
            return "option"
        variable = self.variable(dotted)
        return variable if variable is not None else "file" if self._in_file(dotted) else "default"

    def _in_file(self, key: str) -> bool:
        return any(f"{known}.".startswith(f"{key}.") for known in self.in_file)
