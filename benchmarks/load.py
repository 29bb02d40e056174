"""Putting load on a server, and what came out of it: requests, latencies, the server's CPU time for each request."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from benchmarks.processes import ROOT, BenchError, cpu_seconds, pinned

CONNECTIONS = 64
MESSAGE_BYTES = 64
ORDER = Path(__file__).with_name("order.json")
"""A kilobyte of JSON to send."""

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
# What a page of another origin sends, and what comes with a JSON body (wrk adds Content-Length): eight again.
ORIGIN_HEADERS = (*(each for each in HEADERS if not each.startswith("Cache-")), "Origin: https://shop.example")
BODY_HEADERS = (
    *(each for each in HEADERS if not each.startswith(("Cache-", "Accept-Language"))),
    "Content-Type: application/json",
)


class Outcome(msgspec.Struct, frozen=True):
    """What the load generator saw. ``errors``: responses other than 2xx and 3xx, failed connections, and timeouts.

    ``load_busy`` is its own CPU time over the time; from 0.95 or so it is the load that bounds the throughput.
    """

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: int
    load_busy: float | None = None  # not told by wrk


class Measure(msgspec.Struct, frozen=True):
    """One server under load, once. ``cpu_us`` is user and system time of its process tree for each request.

    ``server_busy`` and ``load_busy`` are CPU time over time: 1.0 is a whole core.
    """

    cpu_us: float
    per_second: float
    p50_us: float
    p99_us: float
    errors: int
    server_busy: float = 0.0
    load_busy: float | None = None  # None: unknown


def median(rounds: Sequence[Measure]) -> Measure:
    """The median of each number; errors are added up."""
    busy = [each.load_busy for each in rounds if each.load_busy is not None]
    return Measure(
        cpu_us=statistics.median(each.cpu_us for each in rounds),
        per_second=statistics.median(each.per_second for each in rounds),
        p50_us=statistics.median(each.p50_us for each in rounds),
        p99_us=statistics.median(each.p99_us for each in rounds),
        errors=sum(each.errors for each in rounds),
        server_busy=statistics.median(each.server_busy for each in rounds),
        load_busy=statistics.median(busy) if busy else None,
    )


def http_load(
    port: int,
    path: str,
    seconds: int,
    *,
    varied: bool = False,
    headers: Sequence[str] = HEADERS,
    body: Path | None = None,
) -> list[str]:
    """The command that keeps :data:`CONNECTIONS` connections busy with GETs.

    :param varied: no two of them are alike. Forebay remembers heads that repeat, which the same request again and again
        shows from its best side.
    :param body: POSTs of what is in this file instead.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise BenchError("wrk is needed; `make bench` fetches it")
    script = "wrk-varied.lua" if varied else "wrk.lua" if body is None else "wrk-post.lua"
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(Path(__file__).with_name(script))]
    for header in headers:
        command += ["-H", header]
    command.append(f"http://127.0.0.1:{port}{path}")
    return command if body is None else [*command, "--", str(body)]


def tcp_load(port: int, seconds: int, *, connections: int = CONNECTIONS, size: int = MESSAGE_BYTES) -> list[str]:
    """The command that keeps one message of ``size`` bytes in flight on each connection."""
    numbers = map(str, (port, connections, size, seconds))
    return [sys.executable, "-m", "benchmarks.echo_load", *numbers]


def websocket_load(
    port: int, seconds: int, *, connections: int = CONNECTIONS, size: int = MESSAGE_BYTES, kind: str = "binary"
) -> list[str]:
    """The command that keeps one WebSocket message of ``size`` bytes in flight on each connection."""
    numbers = map(str, (port, connections, size, seconds))
    return [sys.executable, "-m", "benchmarks.websocket_load", *numbers, kind]


def measure(command: list[str], *, server: int, core: int | None = None) -> Measure:
    """Run the load, and add up what the process tree of ``server`` used meanwhile.

    :param core: where the load runs; ``None``: wherever the kernel puts it.
    """
    before = cpu_seconds(server)
    used = 0.0
    outcome: Outcome | None = None
    said: list[str] = []
    waits = False  # our own loads do, for us to look at the server; wrk does not
    with subprocess.Popen(
        [*pinned(core), *command],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        for line in load.stdout:
            if line == "begin\n":  # its connections stand
                before = cpu_seconds(server)
                waits = True
                _answer(load.stdin)
            elif line.startswith("result "):
                used = cpu_seconds(server) - before
                outcome = msgspec.json.decode(line.removeprefix("result "), type=Outcome)
                if waits:
                    _answer(load.stdin)
            else:
                said.append(line)
    if load.returncode or outcome is None:
        raise BenchError(f"the load failed: {''.join(said).strip() or f'exit code {load.returncode}'}")
    if not outcome.requests:
        raise BenchError("no request was answered")
    if outcome.errors * 2 > outcome.requests:  # a server that refuses is quick at it
        raise BenchError(f"{outcome.errors:,} of {outcome.requests:,} requests were refused or failed")
    return Measure(
        cpu_us=used / outcome.requests * 1e6,
        per_second=outcome.requests / outcome.seconds,
        p50_us=outcome.p50_us,
        p99_us=outcome.p99_us,
        errors=outcome.errors,
        server_busy=used / outcome.seconds,
        load_busy=outcome.load_busy,
    )


def _answer(stdin: IO[str]) -> None:
    stdin.write("\n")
    stdin.flush()
