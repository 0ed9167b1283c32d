"""``docs/operations.md`` followed literally in an empty Debian, as far as possible without a running systemd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nights import night, write_npy

REPOSITORY = Path(__file__).resolve().parents[2]
_OPERATIONS = REPOSITORY / "docs/operations.md"
#: The certificates of this host, and their path in Debian, where its certificate package would overwrite the first.
_TRUSTED, _AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt", "/root/authorities.crt"
_VARIABLES = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "PIP_CERT": _AUTHORITIES,
    "REQUESTS_CA_BUNDLE": _AUTHORITIES,
    "SSL_CERT_FILE": _AUTHORITIES,
    "OMP_NUM_THREADS": "1",
}
#: A directory filled by debootstrap; one is made if the variable is not set.
_BASE = os.environ.get("DEBIAN_BASE")

pytestmark = [pytest.mark.torture, pytest.mark.timeout(1800)]


def blocks() -> list[str]:
    """Return the shell blocks of the installation, in order."""
    section = _OPERATIONS.read_text().split("\n## ")[1]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


class Debian:
    """A root directory in which commands are run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run lines of a shell script in the checkout, up to the first that fails."""
        lines = f"mount -t proc proc /proc && cd /root/embsync && set -ex\n{script}"
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "chroot", self.root, "/bin/sh", "-c", lines],
            env=_VARIABLES,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    """An empty Debian with this checkout in /root/embsync, and the certificates that this host trusts."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a chroot needs root and unshare")
    root = tmp_path_factory.mktemp("debian") / "root"
    if _BASE is not None:
        subprocess.run(["cp", "-a", _BASE, root], check=True)
    elif shutil.which("debootstrap") is None:
        pytest.skip("no debootstrap")
    else:
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=systemd", "bookworm", root],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"no Debian to be had: {made.stdout.strip()[-200:]}")
    shutil.copyfile(_TRUSTED, root / _AUTHORITIES[1:])
    for name in ("/etc/resolv.conf", "/etc/hosts", *map(str, Path("/etc/apt/apt.conf.d").glob("99*"))):
        if Path(name).exists():
            (root / name[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, root / name[1:])
    listed = subprocess.run(["git", "-C", REPOSITORY, "ls-files", "-z"], capture_output=True, text=True, check=True)
    with tarfile.open(root / "root/embsync.tar", "w") as tar:
        for name in filter(None, listed.stdout.split("\0")):
            tar.add(REPOSITORY / name, name)
    with tarfile.open(root / "root/embsync.tar") as tar:
        tar.extractall(root / "root/embsync", filter="data")
    yield Debian(root)
    shutil.rmtree(root, ignore_errors=True)


def test_the_documented_installation_works_as_written(debian: Debian) -> None:
    """Every line is run in order, then the unit's command line as the unit's user."""
    install, start = blocks()[:2]
    output = debian.run(install)
    assert output.returncode == 0, output.stderr[-3000:]
    assert "configuration file: /etc/embsync/embsync.yaml (found)" in output.stdout
    for line in start.splitlines():  # no service manager runs here; systemd-analyze checks the units instead
        assert line.startswith(("systemctl ", "sudo -u embsync embsync status")), line
    units = debian.run(
        "systemd-analyze verify /etc/systemd/system/embsync.service "
        "/etc/systemd/system/embsync@books.service /etc/systemd/system/embsync-serve@books.service"
    )
    assert units.returncode == 0, units.stderr
    write_npy(debian.root / "srv/models/recommender/day=1", night(0))
    (debian.root / "srv/models/recommender/day=1/_SUCCESS").touch()
    unit = (REPOSITORY / "systemd/embsync.service").read_text()
    command = next(line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart="))
    daemon = debian.run(f"cd /var/lib/embsync; sudo -u embsync timeout -s TERM 20 {command} || [ $? -eq 124 ]")
    assert daemon.returncode == 0, daemon.stderr
    assert '"event":"published"' in daemon.stderr.replace(" ", ""), daemon.stderr
    for typed, code in (
        ("sudo -u embsync embsync status", 0),
        ("embsync rollback", 2),
        ("embsync sync --check", 0),
        ("embsync hold --as-owner", 0),
        ("sudo -u embsync embsync resume", 0),
        ("sudo -u embsync embsync verify", 0),
    ):
        output = debian.run(typed)
        assert output.returncode == code, output.stderr
    assert debian.run("find /var/lib/embsync -not -user embsync").stdout == ""
