"""What HTTP adds to a search, and the latency of requests during a switch of versions.

1. The same single queries in turn: in this process, over HTTP as JSON, over HTTP as npy; loopback, one connection that
   is kept, medians.
2. ``wrk`` asks eight connections' worth of single queries at a steady rate that leaves the server idle half of the
   time, for as long without a switch as across the switches to versions never served before. Every version is
   published beforehand, so that no publisher takes the cores; the switch is the rename that ``current`` gets at a
   publish, and each is followed, hashed, opened and served. Shares are taken over the whole time, not only while a
   switch is under way.

3. With ``--peers``, instead: ``wrk`` asks one worker as fast as it answers, on one and on eight connections, and in
   turn a server of twenty lines, starlette with FAISS (``bare_server.py``), with either parser of uvicorn. Best of the
   rounds. Without ``wrk``, a client in Python asks on one connection.

    apt-get install wrk
    python benchmarks/serving.py [--switches 100] [--rows 20000] [--workers 2] [--json FILE]
    python benchmarks/serving.py --peers [--rounds 4] [--seconds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from workload import Size, write_nights

import embsync
from embsync.config_loader import load
from embsync.pipeline import Request, publish_snapshot
from embsync.store import Store

WIDTH, K = 64, 10
JSON, NPY = "application/json", "application/x-npy"
SCRIPT = """
local bodies = {%s}
local turn = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
%s
function request()
  turn = turn %% #bodies + 1
  return wrk.format(nil, "/v1/search", nil, bodies[turn])
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("FIGURES %%d %%d %%d %%d %%d %%d\\n", summary.requests,
    e.connect + e.read + e.write + e.timeout, e.status, latency:percentile(50), latency:percentile(99),
    latency:percentile(99.9)))
end
"""


@dataclass(frozen=True)
class Load:
    """Results of ``wrk``; times in milliseconds."""

    requests: int
    broken: int
    not_200: int
    p50: float
    p99: float
    p999: float


@dataclass(frozen=True)
class Speed:
    """Results of a client without pauses: milliseconds, and microseconds of the server's processor time per request."""

    p50: float
    per_second: float
    processor_us: float


def publish(root: Path, nights: tuple[Path, Path], count: int) -> None:
    """Publish ``count`` versions."""
    config = load(environment={}, options={"store": {"keep_versions": count + 1}})
    for number in range(count):
        publish_snapshot(Store(root), Request(nights[number % 2]), config)


@contextlib.contextmanager
def serving(root: Path, workers: int) -> Iterator[tuple[tuple[str, int], int]]:
    """Run a server until the context is left; yield its address and process id."""
    command = [
        sys.executable,
        "-m",
        "embsync",
        "serve",
        "--store",
        str(root),
        "--listen",
        "127.0.0.1:0",
        "--json",
        "--workers",
        str(workers),
        "--interval",
        "0.05",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (
        (root.parent / "serve.log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as server,
    ):
        assert server.stdout is not None
        where = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")["listening"].removeprefix("http://")
        host, _, port = where.rpartition(":")
        try:
            while ask(http.client.HTTPConnection(host, int(port)), "/readyz")[0] != 200:
                time.sleep(0.05)
            yield (host, int(port)), server.pid
        finally:
            server.terminate()
            server.wait(20)


def ask(
    connection: http.client.HTTPConnection,
    path: str,
    body: bytes | None = None,
    kind: str = JSON,
) -> tuple[int, bytes, str]:
    """Return status, body and version of an answer."""
    connection.request("GET" if body is None else "POST", path, body, {"Content-Type": kind, "Accept": kind})
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers["X-Embsync-Version"]


def overhead(root: Path, where: tuple[str, int], repeats: int) -> dict[str, float]:
    """Return median milliseconds of a search in process and over HTTP, asked in turn."""
    with embsync.open(root) as reader:
        version = reader.current
        assert version.users is not None
        queries = np.asarray(version.users.vectors[version.users.live][:repeats])
        connection = http.client.HTTPConnection(*where)

        def in_json(query: np.ndarray) -> Any:
            return json.loads(ask(connection, "/v1/search", json.dumps({"vectors": [query.tolist()]}).encode())[1])

        def in_npy(query: np.ndarray) -> Any:
            buffer = io.BytesIO()
            np.save(buffer, query[None])
            return np.load(io.BytesIO(ask(connection, f"/v1/search?k={K}", buffer.getvalue(), NPY)[1]))

        def here(query: np.ndarray) -> Any:
            return version.search(query, K)

        ways: dict[str, Callable[[np.ndarray], Any]] = {"in process": here, "JSON": in_json, "npy": in_npy}
        assert in_json(queries[0])["ids"] == here(queries[0])[0].tolist() == in_npy(queries[0])["id"].tolist()
        took: dict[str, list[float]] = {name: [] for name in ways}
        for query in queries:
            for name, way in ways.items():
                began = time.perf_counter()
                way(query)
                took[name].append(time.perf_counter() - began)
        connection.close()
    return {name: 1e3 * statistics.median(times) for name, times in took.items()}


def under_load(
    script: Path, where: tuple[str, int], seconds: float, meanwhile: Callable[[], None], connections: int = 8
) -> Load:
    """Send requests for ``seconds`` while something else is done."""
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:.0f}s",
        "--timeout",
        "5s",
        "-s",
        str(script),
        f"http://{where[0]}:{where[1]}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        time.sleep(1)
        meanwhile()
        said, _ = wrk.communicate()
    figures = list(map(int, said.split("FIGURES ")[1].split()))
    return Load(*figures[:3], *(figure / 1e3 for figure in figures[3:]))


@contextlib.contextmanager
def bare(root: Path, parser: str) -> Iterator[tuple[tuple[str, int], int]]:
    """Run ``bare_server.py``; yield its address and process id."""
    version = root / "versions" / f"{max(Store(root).numbers()):06d}"
    command = [sys.executable, str(Path(__file__).with_name("bare_server.py")), str(version), parser]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        try:
            yield ("127.0.0.1", int(server.stdout.readline())), server.pid
        finally:
            server.terminate()


def beside_peers(
    root: Path, script: Path, bodies: list[str], rounds: int, seconds: int
) -> dict[tuple[str, int], list[Speed]]:
    """Return the results of each server in each round, by its name and the number of connections."""
    speeds: dict[tuple[str, int], list[Speed]] = {}
    with contextlib.ExitStack() as stack:
        where, process = stack.enter_context(serving(root, 1))
        servers = {"embsync": (where, process)}
        for parser in ("h11", "httptools"):
            servers[f"starlette and FAISS, {parser}"] = stack.enter_context(bare(root, parser))
        for _ in range(rounds):
            for connections in (1, 8) if shutil.which("wrk") else (1,):
                for name, (address, number) in servers.items():
                    speed = unpaused(script, bodies, address, number, connections, seconds)
                    speeds.setdefault((name, connections), []).append(speed)
    return speeds


def unpaused(
    script: Path, bodies: list[str], where: tuple[str, int], process: int, connections: int, seconds: int
) -> Speed:
    """Send requests as fast as the server answers."""
    before = processor_seconds(process)
    if shutil.which("wrk"):
        load_ = under_load(script, where, seconds, lambda: None, connections)
        assert load_.broken == load_.not_200 == 0, load_
        count, p50 = load_.requests, load_.p50
    else:
        took: list[float] = []
        connection, end = http.client.HTTPConnection(*where), time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            connection.request("POST", "/v1/search", bodies[len(took) % len(bodies)], {"Content-Type": JSON})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            took.append(1e3 * (time.perf_counter() - began))
        count, p50 = len(took), statistics.median(took)
    return Speed(p50, count / seconds, 1e6 * (processor_seconds(process) - before) / count)


def processor_seconds(process: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show_peers(speeds: dict[tuple[str, int], list[Speed]]) -> None:
    """Print the best of the rounds."""
    print("| | connections | p50, ms | per second | processor time a request, us |\n| --- | --- | --- | --- | --- |")
    for (name, connections), rounds in sorted(speeds.items(), key=lambda one: one[0][1]):
        best = Speed(
            min(one.p50 for one in rounds),
            max(one.per_second for one in rounds),
            min(one.processor_us for one in rounds),
        )
        print(f"| {name} | {connections} | {best.p50:.3f} | {best.per_second:,.0f} | {best.processor_us:.0f} |")


def switching(root: Path, where: tuple[str, int], pause: float) -> Callable[[], None]:
    """Return a function that switches through all versions and returns whether each was served."""

    def switch() -> None:
        connection = http.client.HTTPConnection(*where)
        served = set()
        for number in Store(root).numbers()[1:]:
            began = time.monotonic()
            Store(root).rollback(number)
            while time.monotonic() < began + pause:
                served.add(int(ask(connection, "/readyz")[2]))
                time.sleep(pause / 4)
        print(f"served while switching: {len(served)} versions", flush=True)

    return switch


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--switches", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.4, help="seconds from one switch to the next")
    parser.add_argument("--rows", type=int, default=20_000, help="items, and users")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--delay", type=int, default=40, help="a connection asks again after 0 to so many milliseconds")
    parser.add_argument("--peers", action="store_true", help="compare with starlette and FAISS")
    parser.add_argument("--rounds", type=int, default=4, help="with --peers")
    parser.add_argument("--seconds", type=int, default=3, help="with --peers: of each measurement")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="work here, and use the store that is here")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root = place / "S"
        if not root.exists():
            versions = 2 if given.peers else given.switches + 1
            publish(root, write_nights(place, Size(given.rows, given.rows, WIDTH)), versions)
        with embsync.open(root) as reader:
            version = reader.current
            bytes_ = sum(entry.bytes for entry in version.record.files)
            assert version.users is not None
            bodies = [json.dumps({"vectors": [row.tolist()], "k": K}) for row in version.users.vectors[:200]]
        script = place / "ask.lua"
        delay = "" if given.peers else f"function delay() return math.random(0, {given.delay}) end"
        script.write_text(SCRIPT % (",".join(f"'{body}'" for body in bodies), delay))
        if given.peers:
            show_peers(beside_peers(root, script, bodies, given.rounds, given.seconds))
            return
        seconds = given.switches * given.pause + 2
        with serving(root, given.workers) as (where, _):
            medians = overhead(root, where, 2000)
            Store(root).rollback(1)
            time.sleep(2)
            calm = under_load(script, where, seconds, lambda: None)
            switched = under_load(script, where, seconds, switching(root, where, given.pause))
    print(
        f"\n{given.rows} items and users x {WIDTH}, version of {bytes_ / 1e6:.0f} MB, {given.workers} workers, "
        f"{len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}\n"
    )
    print("| one query, k = 10 | median ms | above in process |\n| --- | --- | --- |")
    for name, median in medians.items():
        print(f"| {name} | {median:.3f} | {median - medians['in process']:.3f} |")
    print("\n| load | requests/s | failed | p50 ms | p99 ms | p99.9 ms |\n| --- | --- | --- | --- | --- | --- |")
    for name, load_ in (("no switch", calm), (f"{given.switches} switches", switched)):
        print(
            f"| {name} | {load_.requests / seconds:.0f} | {load_.broken + load_.not_200} | {load_.p50:.2f} "
            f"| {load_.p99:.2f} | {load_.p999:.2f} |"
        )
    print(f"\np99 with switches / without: {switched.p99 / calm.p99:.2f}")
    if given.json:
        given.json.write_text(
            json.dumps(
                {
                    "medians_ms": medians,
                    "calm": vars(calm),
                    "switched": vars(switched),
                    "bytes": bytes_,
                    "arguments": vars(given),
                },
                default=str,
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
