"""A server past its knee, with adaptive concurrency and shedding and without: ``python -m benchmarks.overload``.

A simulation in virtual time, of discrete events, seeded: the policies are Forebay's own, the server and its clients
are a model. The server serves ``knee`` calls at once at full speed. With more, each takes (calls at once / knee) to the
power of ``thrash`` times as long, so that with a power above 1 the throughput falls below what it was. Clients come at
random, whatever becomes of others. Each waits for ``timeout`` seconds; an answer after that is worth nothing, and is
made all the same. *Goodput*: answers in time, as a share of the server's capacity.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from pathlib import Path

import click

from benchmarks.plot import Line, Panel, draw
from forebay.policy.adaptive import Adaptive
from forebay.policy.bulkhead import Bulkhead, Compartment, Verdicts, Waiting
from forebay.policy.priority import Priority
from forebay.policy.shedding import Shedding
from forebay.policy.verdict import Refused

__all__ = ["LOADS", "PROTECTED", "Level", "Server", "simulate"]

LOADS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
SHARES = {Priority.HIGH: 0.2, Priority.NORMAL: 0.5, Priority.LOW: 0.3}
"""Of the requests."""

PROTECTED = Bulkhead(Adaptive(), max_waiting=100, max_wait=1.0, shed=Shedding())
KEPT = 0.85  # of the peak goodput, at the highest load, at least


@dataclass(frozen=True, slots=True)
class Server:
    """A server with a knee, and how long its clients wait."""

    knee: int = 32
    service: float = 0.05  # seconds, the mean of an exponential time
    thrash: float = 1.3  # 1: the throughput stays what it is at the knee, however many there are
    timeout: float = 0.5

    @property
    def capacity(self) -> float:
        """Calls per second at the knee."""
        return self.knee / self.service


@dataclass(slots=True)
class Level:
    """What one level of load came to."""

    load: float  # of the capacity
    seconds: float
    offered: dict[Priority, int] = field(default_factory=lambda: dict.fromkeys(Priority, 0))
    answered: dict[Priority, int] = field(default_factory=lambda: dict.fromkeys(Priority, 0))
    capacity: float = 0.0
    limits: list[tuple[float, int]] = field(default_factory=list)  # seconds since the start, and the limit then

    @property
    def goodput(self) -> float:
        """Answers in time, as a share of the capacity."""
        return sum(self.answered.values()) / (self.capacity * self.seconds)

    def served(self, priority: Priority) -> float:
        """The share of the requests of ``priority`` that were answered in time."""
        return self.answered[priority] / max(1, self.offered[priority])


class _Simulation:
    """One server, its clients, and the compartment in front of it, or none."""

    def __init__(self, server: Server, rules: Bulkhead | None, seed: int) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.compartment: Compartment[int] | None = Compartment(rules) if rules is not None else None
        self.now = 0.0
        self.busy = 0  # calls that are in the server
        self.ends: list[tuple[float, int, float]] = []  # when, which, when it began
        self.expiries: list[tuple[float, int]] = []
        self.requests: dict[int, tuple[Priority, float, Level]] = {}  # priority, deadline, the level it belongs to
        self.numbers = count()

    def run(self, load: float, seconds: float) -> Level:
        level = Level(load, seconds, capacity=self.server.capacity)
        end = self.now + seconds
        rate = load * self.server.capacity
        sample_at = self.now
        arrives_at = self.now + self.random.expovariate(rate)
        while True:
            ends_at = self.ends[0][0] if self.ends else inf
            expires_at = self.expiries[0][0] if self.expiries else inf
            at = min(arrives_at, ends_at, expires_at)
            while sample_at <= min(at, end):
                if self.compartment is not None:
                    level.limits.append((sample_at, self.compartment.limit))
                sample_at += 0.25
            if at >= end:
                self.now = end
                return level
            self.now = at
            if at == ends_at:
                self.end()
            elif at == expires_at:
                number = heappop(self.expiries)[1]
                if self.compartment is not None and self.compartment.expire(number, at) is not None:
                    del self.requests[number]
            else:
                self.arrive(level)
                arrives_at = at + self.random.expovariate(rate)

    def arrive(self, level: Level) -> None:
        priority = self.random.choices(list(SHARES), list(SHARES.values()))[0]
        number, deadline = next(self.numbers), self.now + self.server.timeout
        level.offered[priority] += 1
        self.requests[number] = priority, deadline, level
        verdict = None
        if self.compartment is not None:
            verdict = self.compartment.enter(number, self.now, priority, deadline)
        if verdict is None:
            self.begin(number)
        elif isinstance(verdict, Refused):
            del self.requests[number]
        elif isinstance(verdict, Waiting):
            heappush(self.expiries, (verdict.expires_at, number))
            if verdict.victim is not None:
                del self.requests[verdict.victim[0]]

    def begin(self, number: int) -> None:
        self.busy += 1
        slower = max(1.0, self.busy / self.server.knee) ** self.server.thrash
        seconds = self.random.expovariate(1 / self.server.service) * slower
        heappush(self.ends, (self.now + seconds, number, self.now))

    def end(self) -> None:
        _, number, began = heappop(self.ends)
        self.busy -= 1
        priority, deadline, level = self.requests.pop(number)
        in_time = self.now <= deadline
        level.answered[priority] += in_time
        if self.compartment is not None:
            self.follow(self.compartment.leave(self.now, self.now - began, dropped=not in_time))

    def follow(self, verdicts: Verdicts[int]) -> None:
        for number, refused in verdicts:
            if refused is None:
                self.begin(number)
            else:
                del self.requests[number]


def simulate(
    server: Server, rules: Bulkhead | None, *, loads: Sequence[float] = LOADS, seconds: float = 20.0, seed: int = 1
) -> list[Level]:
    """The levels of a load that rises, ``seconds`` each, behind ``rules``; ``None``: behind nothing."""
    simulation = _Simulation(server, rules, seed)
    return [simulation.run(load, seconds) for load in loads]


def loads_picture(levels: list[Level], unprotected: list[Level]) -> str:
    """Goodput, what was served of each priority, and the limit, over the load; as SVG."""
    served = [Line(f"{priority} priority", [100 * level.served(priority) for level in levels]) for priority in Priority]
    limits = [sum(limit for _, limit in level.limits) / len(level.limits) for level in levels]
    on, off = "adaptive concurrency and shedding", "without"
    panels = [
        Panel(
            "Goodput, % of capacity",
            [
                Line(on, [100 * level.goodput for level in levels]),
                Line(off, [100 * level.goodput for level in unprotected]),
            ],
        ),
        Panel("Answered in time, % of each priority", served),
        Panel("Limit, mean", [Line(on, limits)]),
    ]
    return draw("A server under overload", "offered load / capacity", [level.load for level in levels], panels)


def limit_picture(knees: Sequence[int], seconds: Sequence[float], seed: int) -> str:
    """How fast the limit finds the knee of a server under twice its capacity; as SVG."""
    lines = []
    for knee in knees:
        (level,) = simulate(Server(knee=knee), PROTECTED, loads=[2.0], seconds=max(seconds) + 1, seed=seed)
        found = [next(limit for at, limit in level.limits if at >= second) / knee for second in seconds]
        lines.append(Line(f"a knee at {knee} calls", found))
    return draw(
        "How fast the limit finds the knee", "seconds at twice the capacity", seconds, [Panel("Limit / knee", lines)]
    )


@click.command()
@click.option("--knee", default=32, show_default=True, help="Calls that the server serves at full speed.")
@click.option("--seconds", default=20.0, show_default=True, help="Virtual seconds at each level of load.")
@click.option("--seed", default=1, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for overload.svg and overload-limit.svg."
)
def main(knee: int, seconds: float, seed: int, out: Path | None) -> None:
    """Raise the load on a server from half of its capacity to three times as much. Fails below 85% of the peak goodput
    at the highest load."""
    server = Server(knee=knee)
    levels = simulate(server, PROTECTED, seconds=seconds, seed=seed)
    unprotected = simulate(server, None, seconds=seconds, seed=seed)
    click.echo("load   goodput  without   high  normal    low   limit")
    for level, bare in zip(levels, unprotected, strict=True):
        shares = "".join(f"{level.served(priority):8.1%}" for priority in Priority)
        mean = sum(limit for _, limit in level.limits) / len(level.limits)
        click.echo(f"{level.load:4.2f} {level.goodput:9.1%} {bare.goodput:8.1%}{shares} {mean:7.1f}")
    peak = max(level.goodput for level in (*levels, *unprotected))
    kept, bare_kept = levels[-1].goodput / peak, unprotected[-1].goodput / peak
    click.echo(
        f"peak {peak:.1%} of capacity; at {levels[-1].load:g} times the capacity {kept:.1%} of that, "
        f"without {bare_kept:.1%}; the goal is {KEPT:.0%}"
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "overload.svg").write_text(loads_picture(levels, unprotected))
        times = (0.5, 1, 2, 3, 5, 8, 13, 20, 30, 40)
        (out / "overload-limit.svg").write_text(limit_picture((8, 32, 128), times, seed))
    if kept < KEPT:
        sys.exit("overload: the goodput falls too far")


if __name__ == "__main__":
    main()
