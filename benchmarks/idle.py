"""10,000 connections that do very little: ``python -m benchmarks.idle``, or ``make soak ARGS=idle``.

What a connection costs in memory, beside a bare uvloop Protocol; whether all of them stay for a minute of heartbeats
and messages; and what watching over heartbeats costs in CPU time. The server has one core, the client the other. Memory
and CPU time are those of the server's whole process tree, Forebay's supervisor included.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.idle_load import BEAT_EVERY, MESSAGE_EVERY
from benchmarks.orders import Client, client
from benchmarks.peers import Peer, Place, forebay_run, python_echo
from benchmarks.processes import BenchError, choose_cores, cpu_seconds, free_port, memory_bytes, started
from benchmarks.scenarios import BARE, FOREBAY
from benchmarks.verdicts import Verdict, finish

MEMORY_RATIO = 1.3  # to the bare Protocol, at most
CPU_PERCENT = 2.0  # of one core for the heartbeat machinery alone, below

WATCHED = Peer(f"{FOREBAY}, heartbeat 30 s", forebay_run("alive", "tcp"))
UNWATCHED = Peer(f"{FOREBAY}, no heartbeat", forebay_run("echo", "tcp"))
PLAIN = Peer(BARE, python_echo("protocol"))

QUIET = Peer("no heartbeat", forebay_run("quiet", "tcp"))
QUIET_WATCHED = Peer("heartbeat 30 s, listening only", forebay_run("quiet_heartbeat", "tcp"))
QUIET_PINGED = Peer("heartbeat 30 s, with the server's pings", forebay_run("quiet_pings", "tcp"))

Advance = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A server that all connections heartbeat and talk to."""

    name: str
    bytes_each: float  # of memory for one more idle connection
    grown: int  # bytes of memory, from before the load to after it
    cpu_percent: float  # of one core
    messages: int
    beats: int
    lost: int  # connections dropped, echoes that were wrong or did not come
    worst_ms: float


@dataclass(frozen=True, slots=True)
class Rested:
    """A server with connections on which nothing is sent, but the server's pings and their answers."""

    name: str
    cpu_percent: float  # of one core
    pings: int
    lost: int


@contextmanager
def serving(peer: Peer) -> Iterator[tuple[int, Client]]:
    """The peer's process id, and a client for it."""
    cores = choose_cores()
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as name:
        folder, port = Path(name), free_port()
        command = peer.command(Place(port, folder))
        with (
            started(command, core=cores.server, port=port, log=folder / "server.log") as pid,
            client("benchmarks.idle_load", [port], core=cores.load) as crowd,
        ):
            yield pid, crowd


def load(peer: Peer, connections: int, seconds: float, advance: Advance) -> Loaded:
    """Open a tenth of the connections, then all; have them talk for ``seconds``."""
    few = max(1, connections // 10)
    with serving(peer) as (pid, crowd):
        crowd.order("open", few)
        before = memory_bytes(pid)
        crowd.order("open", connections)
        after = memory_bytes(pid)
        cpu, begun = cpu_seconds(pid), monotonic()
        outcome = crowd.order("load", seconds, advance)
        percent = (cpu_seconds(pid) - cpu) / (monotonic() - begun) * 100
        return Loaded(
            name=peer.name,
            bytes_each=(after - before) / (connections - few),
            grown=memory_bytes(pid) - after,
            cpu_percent=percent,
            messages=outcome["messages"],
            beats=outcome["beats"],
            lost=outcome["dropped"] + outcome["wrong"] + outcome["unanswered"],
            worst_ms=outcome["worst_ms"],
        )


def rest(peer: Peer, connections: int, seconds: float, advance: Advance) -> Rested:
    """Open all connections, and leave them alone for ``seconds``."""
    with serving(peer) as (pid, crowd):
        crowd.order("open", connections)
        cpu, begun = cpu_seconds(pid), monotonic()
        outcome = crowd.order("rest", seconds, advance)
        percent = (cpu_seconds(pid) - cpu) / (monotonic() - begun) * 100
        return Rested(peer.name, percent, outcome["pings"], outcome["dropped"] + outcome["wrong"])


def verdicts(watched: Loaded, plain: Loaded, quiet: Rested, quiet_watched: Rested) -> list[Verdict]:
    """What the numbers come to."""
    ratio = watched.bytes_each / plain.bytes_each if plain.bytes_each > 0 else float("inf")
    machinery = quiet_watched.cpu_percent - quiet.cpu_percent
    lost = watched.lost + quiet_watched.lost
    memory = f"memory of an idle connection, {watched.bytes_each:,.0f} bytes, to that of a {BARE}"
    return [
        Verdict("connections dropped, echoes wrong or missing", f"{lost}", "0", lost == 0),
        Verdict(memory, f"{ratio:.2f} x", f"at most {MEMORY_RATIO} x", ratio <= MEMORY_RATIO),
        Verdict("heartbeats alone", f"{machinery:.2f}% of a core", f"below {CPU_PERCENT:g}%", machinery < CPU_PERCENT),
    ]


@click.command()
@click.option("--connections", default=10_000, show_default=True, type=click.IntRange(10), help="How many.")
@click.option(
    "--seconds", default=60.0, show_default=True, type=click.FloatRange(0.1), help="Of heartbeats and messages."
)
@click.option(
    "--quiet-seconds",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.1, 80),
    help="Without any. Below 30, not every connection's heartbeat comes due.",
)
def main(connections: int, seconds: float, quiet_seconds: float) -> None:
    """What very many idle connections cost.

    Example: python -m benchmarks.idle --connections 2000 --seconds 10 --quiet-seconds 10
    """
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("", total=6)

            def part(number: int, what: str) -> Advance:
                bar.update(task, description=what, completed=number)
                return lambda done: bar.update(task, completed=number + done)

            loaded = [
                load(peer, connections, seconds, part(number, f"talking: {peer.name}"))
                for number, peer in enumerate((WATCHED, PLAIN, UNWATCHED))
            ]
            rested = [
                rest(peer, connections, quiet_seconds, part(number, f"silent: {peer.name}"))
                for number, peer in enumerate((QUIET, QUIET_WATCHED, QUIET_PINGED), 3)
            ]
            bar.update(task, description="done", completed=6)
    except BenchError as error:
        sys.exit(f"idle: {error}")
    show(console, connections, seconds, quiet_seconds, loaded, rested)
    sys.exit(finish(console, verdicts(loaded[0], loaded[1], rested[0], rested[1])))


def show(
    console: Console, connections: int, seconds: float, quiet_seconds: float, loaded: list[Loaded], rested: list[Rested]
) -> None:
    """Print the numbers."""
    console.print(
        f"{connections:,} connections for {seconds:g} s, each with a message of 64 bytes every {MESSAGE_EVERY:g} s and "
        f"a heartbeat every {BEAT_EVERY:g} s, all echoed. Memory is the slope from {max(1, connections // 10):,} "
        "connections on, before the load."
    )
    for one in loaded:
        console.print(
            f"  {one.name}: {one.bytes_each:,.0f} bytes each, {one.grown / 1024:+,.0f} KiB in all under load; "
            f"{one.cpu_percent:.1f}% of a core; {one.messages:,} messages and {one.beats:,} heartbeats, {one.lost} "
            f"lost, slowest {one.worst_ms:.0f} ms"
        )
    console.print(f"{connections:,} connections silent for {quiet_seconds:g} s:")
    for each in rested:
        console.print(f"  {each.name}: {each.cpu_percent:.2f}% of a core, {each.pings:,} pings, {each.lost} lost")
    difference = loaded[0].cpu_percent - loaded[2].cpu_percent
    console.print(f"heartbeat under load (a difference of two larger numbers): {difference:+.2f}% of a core")
    pings = rested[2].cpu_percent - rested[0].cpu_percent
    console.print(f"heartbeat with the server's pings: {pings:.2f}% of a core")


if __name__ == "__main__":
    main()
