"""A room of 1,000 WebSockets: ``python -m benchmarks.broadcast``, or ``make soak ARGS=broadcast``.

One member sends 50 messages a second, and the server gives each of them to all. What a delivered message costs the
server in CPU time beside ``websockets.broadcast``, with and without permessage-deflate; how long it is under way;
whether any is lost; and what becomes of a member that does not read, and of the others beside it. The server has one
core, the client the other: much of the time under way is the client's, which takes the messages one after the other.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.orders import client
from benchmarks.peers import Peer, Place, forebay_websocket, websocket_server
from benchmarks.processes import BenchError, choose_cores, cpu_seconds, free_port, started
from benchmarks.scenarios import FOREBAY
from benchmarks.verdicts import Verdict, finish
from benchmarks.websocket_client import DEFLATE

PLAIN_RATIO = 0.9  # CPU time for each delivered message, to that of websockets.broadcast, at most
DEFLATE_RATIO = 0.3
NOTICE_MS = 5.0  # by which the 99th percentile may be longer beside a member that does not read

ROOM = Peer(FOREBAY, forebay_websocket("room"))
PEER = Peer("websockets.broadcast", websocket_server("websockets_server", "room"))

Advance = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Talk:
    """How many members there are, and what is said."""

    members: int
    rate: float  # messages per second
    size: int  # bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came of one talk."""

    name: str
    cpu_us: float  # of the server's process tree, for each delivered message
    busy: float  # of its core
    messages: int
    delivered: int
    lost: int  # not delivered, wrong, or to members that were dropped
    seconds: float  # until the last one was delivered
    p50_ms: float
    p99_ms: float
    worst_ms: float
    stalled_cut: bool
    stalled_seconds: float = 0.0  # until it was cut, where that could be seen at once


def run(peer: Peer, talk: Talk, advance: Advance, *, deflate: bool = False, stalled: bool = False) -> list[Delivered]:
    """Have the room talk; where ``stalled``, once more, beside a member that does not read."""
    cores = choose_cores()
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as name:
        folder, port = Path(name), free_port()
        command = peer.command(Place(port, folder))
        arguments = [port, talk.rate, talk.size, *([DEFLATE] if deflate else [])]
        with (
            started(command, core=cores.server, port=port, log=folder / "server.log") as pid,
            client("benchmarks.broadcast_load", arguments, core=cores.load) as room,
        ):
            room.order("join", talk.members)
            room.order("talk", 1)  # the warm-up
            made = []
            for number in range(2 if stalled else 1):
                if number:
                    room.order("stall", 0)
                cpu = cpu_seconds(pid)
                outcome = room.order("talk", talk.seconds, advance)
                made.append(_delivered(peer.name, outcome, cpu_seconds(pid) - cpu))
            return made


def _delivered(name: str, outcome: dict[str, Any], cpu: float) -> Delivered:
    return Delivered(
        name=name,
        cpu_us=cpu / max(outcome["delivered"], 1) * 1e6,
        busy=cpu / outcome["seconds"],
        messages=outcome["messages"],
        delivered=outcome["delivered"],
        lost=outcome["lost"] + outcome["wrong"],
        seconds=outcome["seconds"],
        p50_ms=outcome["p50_ms"],
        p99_ms=outcome["p99_ms"],
        worst_ms=outcome["worst_ms"],
        stalled_cut=outcome["stalled_cut"],
        stalled_seconds=outcome["stalled_seconds"],
    )


@dataclass(frozen=True, slots=True)
class Results:
    """All talks: without compression, with it, and beside a member that does not read."""

    plain: Delivered
    plain_peer: Delivered
    deflate: Delivered
    deflate_peer: Delivered
    beside: Delivered


def verdicts(results: Results) -> list[Verdict]:
    """What the numbers come to."""
    lost = results.plain.lost + results.deflate.lost + results.beside.lost
    made = [Verdict("messages lost", f"{lost:,}", "0", lost == 0)]
    for what, ours, theirs, most in (
        ("compression off", results.plain, results.plain_peer, PLAIN_RATIO),
        ("compression on", results.deflate, results.deflate_peer, DEFLATE_RATIO),
    ):
        ratio = ours.cpu_us / theirs.cpu_us if theirs.cpu_us > 0 else float("inf")
        name = f"CPU time for each delivered message, {what}, to that of {theirs.name}"
        made.append(Verdict(name, f"{ratio:.2f} x", f"at most {most} x", ratio <= most))
    cut = results.beside.stalled_cut
    measured = f"cut after {results.beside.stalled_seconds:.1f} s" if cut else "kept"
    made.append(Verdict("a member that does not read", measured, "cut by its policy", cut))
    more = results.beside.p99_ms - results.plain.p99_ms
    name = "99th percentile of delivery beside it, to that without it"
    made.append(Verdict(name, f"{more:+.1f} ms", f"at most {NOTICE_MS:+g} ms", more <= NOTICE_MS))
    return made


@click.command()
@click.option("--members", default=1000, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--rate", default=50.0, show_default=True, type=click.FloatRange(1), help="Messages a second.")
@click.option("--size", default=256, show_default=True, type=click.IntRange(64), help="Bytes of a message.")
@click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(0.1), help="Of each talk.")
def main(members: int, rate: float, size: int, seconds: float) -> None:
    """A message to very many, again and again.

    Example: python -m benchmarks.broadcast --members 100 --seconds 5
    """
    talk = Talk(members, rate, size, seconds)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("", total=4)

            def part(number: int, what: str) -> Advance:
                bar.update(task, description=what, completed=number)
                return lambda done: bar.update(task, completed=number + done)

            plain, beside = run(ROOM, talk, part(0, FOREBAY), stalled=True)
            (plain_peer,) = run(PEER, talk, part(1, PEER.name))
            (deflate,) = run(ROOM, talk, part(2, f"{FOREBAY}, compressing"), deflate=True)
            (deflate_peer,) = run(PEER, talk, part(3, f"{PEER.name}, compressing"), deflate=True)
            bar.update(task, description="done", completed=4)
    except BenchError as error:
        sys.exit(f"broadcast: {error}")
    results = Results(plain, plain_peer, deflate, deflate_peer, beside)
    show(console, talk, results)
    sys.exit(finish(console, verdicts(results)))


def show(console: Console, talk: Talk, results: Results) -> None:
    """Print the numbers."""
    console.print(
        f"{talk.members:,} members, {talk.rate:g} messages/s of {talk.size} bytes for {talk.seconds:g} s; CPU time is "
        "that of the server's process tree for each delivered message."
    )
    for what, one in (
        ("compression off", results.plain),
        ("compression off", results.plain_peer),
        ("compression on", results.deflate),
        ("compression on", results.deflate_peer),
        ("compression off, beside one that does not read", results.beside),
    ):
        console.print(
            f"  {one.name}, {what}: {one.cpu_us:.2f} us, {one.busy:.0%} of a core; {one.delivered:,} delivered in "
            f"{one.seconds:.1f} s, {one.lost:,} lost; under way p50 {one.p50_ms:.1f} ms, p99 {one.p99_ms:.1f} ms, "
            f"at most {one.worst_ms:.1f} ms"
        )


if __name__ == "__main__":
    main()
