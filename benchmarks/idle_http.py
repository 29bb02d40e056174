"""What idle HTTP and WebSocket connections cost in memory: ``python -m benchmarks.idle_http``, or ``make soak
ARGS=idle-http``.

10,000 connections, each of which has had one request or message answered and is kept, beside as many of the engine's
own over TCP, and beside uvicorn's. Memory is the slope of what the server's whole process tree has resident, from a
tenth of the connections to all. Afterwards each is used once more, to see that none was lost.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.orders import client
from benchmarks.peers import ASGI_APP, Peer, Place, forebay_run, forebay_websocket, uvicorn
from benchmarks.processes import (
    BenchError,
    choose_cores,
    free_port,
    memory_bytes,
    raise_descriptor_limit,
    started,
)
from benchmarks.scenarios import FOREBAY, UVICORN
from benchmarks.verdicts import Verdict, finish

ENGINE_RATIO = 1.5  # to the engine's bare connection, at most
UVICORN_RATIO = 0.5  # to uvicorn's, below
SETTLE = 1.0  # seconds for what a connection needs only for a moment to be given back

# uvicorn closes connections that are idle for 5 s, unless told otherwise.
_UVICORN = uvicorn(ASGI_APP, "--timeout-keep-alive", "3600")
_WEBSOCKET = forebay_websocket("echo")

Advance = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of connection to one server."""

    peer: Peer
    kind: str  # of benchmarks.idle_http_load


TCP = Case(Peer(f"{FOREBAY}, TCP", forebay_run("echo", "tcp")), "tcp")
HTTP = Case(Peer(f"{FOREBAY}, HTTP keep-alive", forebay_run("idle_http", "http")), "http")
HTTP_UVICORN = Case(Peer(f"{UVICORN}, HTTP keep-alive", _UVICORN), "http")
WEBSOCKET = Case(Peer(f"{FOREBAY}, WebSocket", _WEBSOCKET), "websocket")
WEBSOCKET_UVICORN = Case(Peer(f"{UVICORN}, WebSocket", _UVICORN), "websocket")
DEFLATE = Case(Peer(f"{FOREBAY}, WebSocket with permessage-deflate", _WEBSOCKET), "deflate")
DEFLATE_UVICORN = Case(Peer(f"{UVICORN}, WebSocket with permessage-deflate", _UVICORN), "deflate")
CASES = (TCP, HTTP, HTTP_UVICORN, WEBSOCKET, WEBSOCKET_UVICORN, DEFLATE, DEFLATE_UVICORN)


@dataclass(frozen=True, slots=True)
class Held:
    """What came of one case."""

    name: str
    bytes_each: float  # of memory for one more idle connection
    lost: int


def hold(case: Case, connections: int, advance: Advance, settle: float = SETTLE) -> Held:
    """Open a tenth of the connections, then all; use them once more."""
    cores = choose_cores()
    few = max(1, connections // 10)
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as name:
        folder, port = Path(name), free_port()
        command = case.peer.command(Place(port, folder))
        with (
            started(command, core=cores.server, port=port, log=folder / "server.log") as pid,
            client("benchmarks.idle_http_load", [port, case.kind], core=cores.load) as crowd,
        ):
            sizes = []
            for count in (few, connections):
                crowd.order("open", count, advance)
                time.sleep(settle)
                sizes.append(memory_bytes(pid))
            lost = crowd.order("again", 0)["lost"]
    return Held(case.peer.name, (sizes[1] - sizes[0]) / (connections - few), lost)


def verdicts(held: dict[str, Held]) -> list[Verdict]:
    """What the numbers come to."""
    lost = sum(each.lost for each in held.values())
    made = [Verdict("connections lost", f"{lost}", "0", lost == 0)]
    for what, ours, theirs in (("HTTP", HTTP, HTTP_UVICORN), ("WebSocket", WEBSOCKET, WEBSOCKET_UVICORN)):
        each = held[ours.peer.name].bytes_each
        memory = f"memory of an idle {what} connection, {each:,.0f} bytes"
        ratio = _ratio(each, held[TCP.peer.name].bytes_each)
        name = f"{memory}, to that of a bare one of the engine"
        made.append(Verdict(name, f"{ratio:.2f} x", f"at most {ENGINE_RATIO} x", ratio <= ENGINE_RATIO))
        ratio = _ratio(each, held[theirs.peer.name].bytes_each)
        name = f"{memory}, to that of {UVICORN}'s"
        made.append(Verdict(name, f"{ratio:.2f} x", f"below {UVICORN_RATIO} x", ratio < UVICORN_RATIO))
    return made


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs > 0 else float("inf")


@click.command()
@click.option("--connections", default=10_000, show_default=True, type=click.IntRange(10), help="How many.")
def main(connections: int) -> None:
    """What very many idle HTTP and WebSocket connections cost.

    Example: python -m benchmarks.idle_http --connections 2000
    """
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    raise_descriptor_limit()  # for servers that do not do so themselves
    held = {}
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("", total=len(CASES))

            def part(number: int, case: Case) -> Advance:
                bar.update(task, description=case.peer.name, completed=number)
                return lambda done: bar.update(task, completed=number + done)

            for number, case in enumerate(CASES):
                held[case.peer.name] = hold(case, connections, part(number, case))
            bar.update(task, description="done", completed=len(CASES))
    except BenchError as error:
        sys.exit(f"idle_http: {error}")
    console.print(
        f"{connections:,} connections, each idle after one request or message. Memory is the slope from "
        f"{max(1, connections // 10):,} connections on."
    )
    for each in held.values():
        console.print(f"  {each.name}: {each.bytes_each:,.0f} bytes each, {each.lost} lost")
    sys.exit(finish(console, verdicts(held)))


if __name__ == "__main__":
    main()
