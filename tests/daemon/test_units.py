"""The systemd units: sandboxed, valid without warnings, and consistent with the daemon."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from daemons import Place, eventually
from support.nights import night, write_npy
from support.units import listening

UNITS = Path(__file__).resolve().parents[2] / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


@needs_analyze
@pytest.mark.parametrize("name", SERVICES)
def test_the_units_are_sandboxed(name: str) -> None:
    """The exposure level of each service is at most 1.5 of 10."""
    output = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / name)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", output)
    assert found is not None
    assert float(found[1]) <= 1.5


@needs_analyze
@pytest.mark.parametrize("name", SERVICES)
def test_the_units_pass_systemd_analyze_verify(tmp_path: Path, name: str) -> None:
    """There is no output, since unknown keys cause only a warning. The program is replaced by an existing one."""
    for unit in SERVICES:
        text = (UNITS / unit).read_text().replace("/opt/embsync/bin/embsync", "/bin/true")
        (tmp_path / unit.replace("@.", "@one.")).write_text(text)
    output = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name.replace("@.", "@one."))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert output.stderr == ""
    assert output.returncode == 0


@needs_analyze
def test_the_drop_in_for_spark_lets_java_run(tmp_path: Path) -> None:
    """With it, the unit is valid, has a network, and may execute memory that it wrote."""
    name = "embsync.service"
    (tmp_path / name).write_text((UNITS / name).read_text().replace("/opt/embsync/bin/embsync", "/bin/true"))
    (tmp_path / f"{name}.d").mkdir()
    shutil.copy(UNITS / f"{name}.d/spark.conf", tmp_path / f"{name}.d")
    output = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    assert (output.returncode, output.stderr) == (0, "")
    dropped_in = (UNITS / f"{name}.d/spark.conf").read_text()
    assert "MemoryDenyWriteExecute=no" in dropped_in
    assert "PrivateNetwork=no" in dropped_in
    (tmp_path / f"{name}.d/wrong.conf").write_text("[Service]\nNoSuchKey=1\n")  # shows that drop-ins are read
    output = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    assert "NoSuchKey" in output.stderr


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="no systemd-sysusers here")
def test_the_user_is_created(tmp_path: Path) -> None:
    """The sysusers file creates the user that the units name."""
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "embsync.sysusers")], check=True, capture_output=True
    )
    assert re.search(r"^embsync:", (tmp_path / "etc" / "passwd").read_text(), re.MULTILINE)


def test_the_service_manager_gets_the_actual_state(place: Place) -> None:
    """It gets READY, STATUS, WATCHDOG while there is progress, and STOPPING."""
    address = place.file.parent / "notify"
    with listening(address) as output:
        place.drop(1)
        with place.daemon(NOTIFY_SOCKET=str(address), WATCHDOG_USEC="2000000"):
            place.wait_for(1)
            eventually(lambda: place.status()["state"] == "idle" and "WATCHDOG=1" in output)
        eventually(lambda: any("STOPPING=1" in message for message in output))
    assert "READY=1" in output
    assert any(line.startswith("STATUS=working on day=1") for line in output)


def test_a_file_name_cannot_forge_a_notification(place: Place) -> None:
    """A line break in a snapshot's name does not end the status line."""
    address = place.file.parent / "notify"
    write_npy(place.watch / "day=1\nSTOPPING=1", night(1)).joinpath("_SUCCESS").touch()
    with listening(address) as output, place.daemon(NOTIFY_SOCKET=str(address)):
        eventually(lambda: place.published() and "STATUS=working on day=1 STOPPING=1" in output)
    assert not any("\nSTOPPING=1" in message for message in output)


def test_the_watchdog_is_not_notified_while_work_is_stalled(place: Place) -> None:
    """A worker that neither reports progress nor uses processor time stops the notifications."""
    address = place.file.parent / "notify"
    place.configure(index={"factory": "HNSW32"})
    place.drop(1, night(1, items=40_000, users=2_000, width=32))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(address))
        channel.setblocking(False)
        with place.daemon(NOTIFY_SOCKET=str(address), WATCHDOG_USEC="1000000"):
            os.kill(place.at_work(), signal.SIGSTOP)
            place.wait_looks(6)  # messages of the time before have arrived: half the watchdog's interval
            drain(channel)
            place.wait_looks(6)  # the loop continues meanwhile
            assert "WATCHDOG=1" not in drain(channel)
            os.kill(int(eventually(place.worker)), signal.SIGCONT)
            eventually(lambda: "WATCHDOG=1" in drain(channel))


def test_the_watchdog_is_notified_while_a_command_runs(place: Place) -> None:
    """The duration of ``store.on_publish`` and the interval of the watchdog do not matter."""
    address = place.file.parent / "notify"
    gate = place.file.parent / "gate"
    place.configure(store={"on_publish": f"until test -e {gate}; do sleep 0.1; done"})
    place.drop(1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(address))
        channel.setblocking(False)
        with place.daemon(NOTIFY_SOCKET=str(address), WATCHDOG_USEC="1000000"):
            eventually(lambda: "store.on_publish" in place.status().get("doing", ""))
            drain(channel)
            for _ in range(3):
                eventually(lambda: "WATCHDOG=1" in drain(channel))
                assert "store.on_publish" in place.status()["doing"]
            gate.touch()


def drain(channel: socket.socket) -> list[str]:
    """Return the messages that have arrived."""
    output = []
    with contextlib.suppress(BlockingIOError):
        while True:
            output.append(channel.recv(4096).decode())
    return output


def test_metrics_follow_the_naming_conventions(place: Place) -> None:
    """Prometheus's parser reads the file; names of counters end in ``_total``; no label is an id."""
    parser = pytest.importorskip("prometheus_client.parser")
    place.drop(1)
    with place.daemon():
        place.wait_for(1)
        eventually(lambda: place.status()["current"])
    text = (place.store.root / "metrics.prom").read_text()
    families = list(parser.text_string_to_metric_families(text))
    samples = [sample for family in families for sample in family.samples]
    assert {label for sample in samples for label in sample.labels} <= {"outcome", "state", "side", "stage"}
    assert all(
        sample.name.endswith("_total") for family in families if family.type == "counter" for sample in family.samples
    )
    assert {sample.value for sample in samples if sample.labels == {"outcome": "published"}} == {1.0}


def test_status_shows_the_daemon(place: Place) -> None:
    """The command shows status.json, even while the watched directory is missing, and whether a daemon runs."""
    with place.daemon() as process:
        place.remove_root()
        place.wait_state("blind")
        output = place.run("status")
        assert output.returncode == 0
        assert f"process {process.pid}" in output.stdout
        assert "missing" in output.stdout
    assert "not running; it was stopped" in place.run("status").stdout
