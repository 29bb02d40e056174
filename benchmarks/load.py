"""Putting load on a server, and what came out of it: requests, latencies, the server's CPU time for each request."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from benchmarks.processes import ROOT, BenchError, cpu_seconds

CONNECTIONS = 64
MESSAGE_BYTES = 64

# Eight with Host, which wrk adds: about what a browser or a service mesh sends.
HEADERS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    "Accept: application/json,text/html;q=0.9,*/*;q=0.8",
    "Accept-Encoding: gzip, deflate, br",
    "Accept-Language: en-GB,en;q=0.7",
    "Cache-Control: no-cache",
    "Cookie: session=4f9d2c7a81e64b0c; theme=dark",
    "X-Request-Id: 7b1c2f0e-5a53-4c7e-9d0f-3f3b8a3f6d11",
)


class Outcome(msgspec.Struct, frozen=True):
    """What the load generator saw. ``errors``: responses other than 2xx and 3xx, failed connections, and timeouts."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: int


class Measure(msgspec.Struct, frozen=True):
    """One server under load, once. ``cpu_us`` is user and system time of its process tree for each request."""

    cpu_us: float
    per_second: float
    p50_us: float
    p99_us: float
    errors: int


def http_load(port: int, path: str, seconds: int, *, varied: bool = False) -> list[str]:
    """The command that keeps :data:`CONNECTIONS` connections busy with GETs.

    :param varied: no two of them are alike. Forebay remembers heads that repeat, which the same request again and again
        shows from its best side.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise BenchError("wrk is needed; `make bench` fetches it")
    script = Path(__file__).with_name("wrk-varied.lua" if varied else "wrk.lua")
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script)]
    for header in HEADERS:
        command += ["-H", header]
    return [*command, f"http://127.0.0.1:{port}{path}"]


def tcp_load(port: int, seconds: int) -> list[str]:
    """The command that keeps one message in flight on each of :data:`CONNECTIONS` connections."""
    numbers = map(str, (port, CONNECTIONS, MESSAGE_BYTES, seconds))
    return [sys.executable, "-m", "benchmarks.echo_load", *numbers]


def measure(command: list[str], *, core: int, server: int) -> Measure:
    """Run the load on ``core``, and add up what the process tree of ``server`` used meanwhile."""
    before = cpu_seconds(server)
    done = subprocess.run(["taskset", "-c", str(core), *command], cwd=ROOT, capture_output=True, text=True, check=False)
    used = cpu_seconds(server) - before
    results = [line for line in done.stdout.splitlines() if line.startswith("result ")]
    if done.returncode or not results:
        raise BenchError(f"the load failed: {done.stderr.strip() or done.stdout.strip()}")
    outcome = msgspec.json.decode(results[0].removeprefix("result "), type=Outcome)
    if not outcome.requests:
        raise BenchError("no request was answered")
    return Measure(
        cpu_us=used / outcome.requests * 1e6,
        per_second=outcome.requests / outcome.seconds,
        p50_us=outcome.p50_us,
        p99_us=outcome.p99_us,
        errors=outcome.errors,
    )
