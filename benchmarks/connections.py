"""TCP echo of 64 bytes at 1 to 10,000 connections: throughput and CPU time for each message, as a table and a plot."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.golang import GNET, GO
from benchmarks.load import Measure, measure, median, tcp_load
from benchmarks.peers import Peer, Place, forebay_run, gnet, go, python_echo
from benchmarks.plot import Line, Panel, draw
from benchmarks.processes import Cores, free_port, started
from benchmarks.scenarios import BARE, FOREBAY

__all__ = ["COUNTS", "NAME", "PEERS", "Sweep", "picture", "rows", "run"]

NAME = "connections"
TITLE = "TCP echo, 64 bytes, one message in flight on each connection"
COUNTS = (1, 100, 1_000, 10_000)
BUSY = 0.95
"""Of a core: who uses more of its own is what bounds the throughput."""

PEERS = (
    Peer(FOREBAY, forebay_run("echo", "tcp")),
    Peer(f"{FOREBAY}, coroutine style", forebay_run("echo_coroutine", "tcp")),
    Peer(BARE, python_echo("protocol")),
    Peer("asyncio streams on uvloop", python_echo("streams")),
    Peer("Go net", go("echo"), needs=GO),
    Peer("gnet", gnet, needs=GNET),
)


class Sweep(msgspec.Struct, frozen=True):
    """What came out: for each server the medians over the rounds, in the order of ``counts``."""

    counts: list[int]
    servers: dict[str, list[Measure]]


def run(
    rounds: int,
    seconds: int,
    programs: Mapping[str, Path],
    cores: Cores,
    advance: Callable[[str], None],
    counts: Sequence[int] = COUNTS,
    peers: Sequence[Peer] = PEERS,
) -> Sweep:
    """Measure every server with every number of connections, each time with a fresh server."""
    found: dict[str, list[list[Measure]]] = {peer.name: [[] for _ in counts] for peer in peers}
    for number in range(rounds):
        for peer in peers if number % 2 == 0 else reversed(peers):
            for index, count in enumerate(counts):
                advance(f"{NAME}: {count:,}, {peer.name}")
                found[peer.name][index].append(_measure(peer, count, seconds, programs, cores))
    return Sweep(list(counts), {name: [median(each) for each in measures] for name, measures in found.items()})


def _measure(peer: Peer, count: int, seconds: int, programs: Mapping[str, Path], cores: Cores) -> Measure:
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as name:
        folder, port = Path(name), free_port()
        command = peer.command(Place(port, folder, programs=programs))
        with started(command, core=cores.server, port=port, log=folder / "server.log") as pid:
            measure(tcp_load(port, 1), core=cores.load, server=pid)  # the warm-up
            return measure(tcp_load(port, seconds, connections=count), core=cores.load, server=pid)


def picture(sweep: Sweep) -> str:
    """The plot, as SVG."""
    throughput = [Line(name, [m.per_second / 1e3 for m in each]) for name, each in sweep.servers.items()]
    cpu = [Line(name, [m.cpu_us for m in each]) for name, each in sweep.servers.items()]
    panels = Panel("thousand messages/s", throughput), Panel("server's CPU time for each message, us", cpu)
    return draw(TITLE, "connections", sweep.counts, panels)


def bound(measured: Measure) -> str:
    """What kept the server from more: its own core, the load's, or neither (the way between them, other programs)."""
    if measured.server_busy >= BUSY:
        return "server"
    if measured.load_busy is not None and measured.load_busy >= BUSY:
        return "load"
    return "neither"


HEAD = ("", "connections", "CPU us", "messages/s", "p50 ms", "p99 ms", "errors", "server", "load", "bound by")


def rows(sweep: Sweep) -> list[tuple[str, ...]]:
    """A row for each server and number of connections, under :data:`HEAD`."""
    made: list[tuple[str, ...]] = []
    for index, count in enumerate(sweep.counts):
        for name, measures in sweep.servers.items():
            m = measures[index]
            numbers = f"{m.cpu_us:.1f}", f"{m.per_second:,.0f}", f"{m.p50_us / 1e3:.2f}", f"{m.p99_us / 1e3:.2f}"
            busy = f"{m.server_busy:.0%}", "" if m.load_busy is None else f"{m.load_busy:.0%}"
            made.append((name, f"{count:,}", *numbers, str(m.errors), *busy, bound(m)))
    return made
