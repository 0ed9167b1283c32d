"""The configuration file in force, the environment variables that set keys, and the source of each key."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ENVIRONMENT_PREFIX = "EMBSYNC_"
#: The configuration file; if empty, no file is read.
FILE_VARIABLE = "EMBSYNC_CONFIG"
#: The store, like ``--store``.
STORE_VARIABLE = "EMBSYNC_STORE"
#: The default configuration file.
SYSTEM_FILE = Path("/etc/embsync/embsync.yaml")
#: Set by embsync itself for ``store.on_publish``, and for embsync-pull@.service, whose command line has the URL.
IGNORED_VARIABLES = frozenset({"EMBSYNC_VERSION", "EMBSYNC_PATH", "EMBSYNC_URL"})
#: Variables that do not set keys.
RESERVED_VARIABLES = IGNORED_VARIABLES | {FILE_VARIABLE, STORE_VARIABLE}


@dataclass(frozen=True)
class ConfigurationFile:
    """The configuration file in force.

    Attributes
    ----------
    file : Path or None
    why : str
        How it was chosen: ``--config``, the variable's name, ``found`` or ``none``.
    store : str or None
        The store given by an option or a variable.
    """

    file: Path | None
    why: str
    store: str | None

    def __str__(self) -> str:
        return "none" if self.file is None else f"{self.file} ({self.why})"


def find(config: Path | None, store: Path | None, environment: Mapping[str, str] | None = None) -> ConfigurationFile:
    """Return the file of the option, of the variable, or the default; with ``--store``, only that of the option."""
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
    except OSError:  # the directory may not be entered, which is reported when the file is read
        there = True
    return ConfigurationFile(SYSTEM_FILE, "found", named) if there else ConfigurationFile(None, "none", named)


def variables_of_keys(variables: Mapping[str, str]) -> Iterator[tuple[str, list[str], str]]:
    """Yield name, key and text of every variable that sets a key, in order of their names."""
    for name in sorted(variables):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in RESERVED_VARIABLES:
            yield name, name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"), variables[name]


def nearest_variable(name: str, keys: Iterable[str]) -> tuple[str, str] | None:
    """Return the known variable most similar to a name, and what it sets."""
    known = {"CONFIG": "the configuration file", "STORE": "the store"}
    known |= {key.upper().replace(".", "__"): key for key in keys}
    near = difflib.get_close_matches(name.removeprefix(ENVIRONMENT_PREFIX), known, n=1, cutoff=0.6)
    return (ENVIRONMENT_PREFIX + near[0], known[near[0]]) if near else None


@dataclass
class Sources:
    """The source of each key.

    Attributes
    ----------
    file : str
        The file's path, or a placeholder for messages.
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
        """Return the variable that set a key, a section that contains it or a key below it, or None."""
        parts = dotted.partition("[")[0].split(".")
        for length in range(len(parts), 0, -1):
            key = ".".join(parts[:length])
            if key in self.options:
                return None
            if key in self.variables:
                return self.variables[key]
        return next((name for known, name in self.variables.items() if known.startswith(f"{dotted}.")), None)

    def place(self, dotted: str) -> str:
        """Return the place of a key for messages: the variable that set it, else the file and the key."""
        key = dotted.partition("[")[0]
        variable = self.variable(key)
        exact = variable is not None and (key in self.variables or not self._in_file(key))
        return variable if variable is not None and exact else f"{self.file}: {dotted}"

    def of(self, dotted: str) -> str:
        """Return the source of a key: ``option``, the variable's name, ``file`` or ``default``."""
        if dotted in self.options:
            return "option"
        variable = self.variable(dotted)
        return variable if variable is not None else "file" if self._in_file(dotted) else "default"

    def _in_file(self, key: str) -> bool:
        return any(f"{known}.".startswith(f"{key}.") for known in self.in_file)
