"""A server past its knee, with adaptive concurrency and shedding and without: ``python -m benchmarks.overload``.

A simulation in virtual time, of discrete events, seeded: the policies are Forebay's own, the server and its clients
are a model. The server serves ``knee`` calls at once at full speed. With more, each takes (calls at once / knee) to the
power of ``thrash`` times as long, so that with a power above 1 the throughput falls below what it was. Clients come at
random, whatever becomes of others. Each waits for ``timeout`` seconds; an answer after that is worth nothing, and is
made all the same. *Goodput*: answers in time, as a share of the server's capacity.

``--held-out 60`` runs that many servers drawn at random in place of the one: for what the policies were not tuned on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from math import exp, inf, log, pi, sin
from pathlib import Path
from random import Random
from typing import Literal, TypeAlias

import click

from benchmarks.plot import Line, Panel, draw
from forebay.policy.adaptive import Adaptive
from forebay.policy.bulkhead import Bulkhead, Compartment, Verdicts, Waiting
from forebay.policy.priority import Priority
from forebay.policy.shedding import Shedding
from forebay.policy.verdict import Refused

__all__ = ["KEPT", "LOADS", "PROTECTED", "Level", "Server", "drawn", "kept", "simulate"]

LOADS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
HELD_OUT_LOADS = (0.75, 1.0, 1.5, 3.0)
SHARES = {Priority.HIGH: 0.2, Priority.NORMAL: 0.5, Priority.LOW: 0.3}
"""Of the requests."""

PROTECTED = Bulkhead(Adaptive(), max_waiting=100, max_wait=1.0, shed=Shedding())
Times: TypeAlias = Literal["exponential", "lognormal", "bimodal"]
TIMES: tuple[Times, ...] = ("exponential", "lognormal", "bimodal")
SIGMA = 0.8  # of a lognormal time: its mean is 1.4 times its median
KEPT = 0.85  # of the peak goodput, at the highest load, at least


@dataclass(frozen=True, slots=True)
class Server:
    """A server with a knee, and how long its clients wait."""

    knee: int = 32
    service: float = 0.05  # seconds, the mean
    thrash: float = 1.3  # 1: the throughput stays what it is at the knee, however many there are
    timeout: float = 0.5
    times: Times = "exponential"  # bimodal: one in ten takes ten times as long as the others
    drift: float = 1.0  # the service time rises to so many times its mean and falls to as small a share of it
    period: float = 20.0  # seconds: how long that takes

    @property
    def capacity(self) -> float:
        """Calls per second at the knee, where nothing drifts."""
        return self.knee / self.service

    def seconds(self, now: float, busy: int, random: Random) -> float:
        """How long a call takes that begins at ``now`` as one of ``busy``."""
        mean: float = self.service * max(1.0, busy / self.knee) ** self.thrash
        if self.drift != 1:
            mean *= self.drift ** sin(2 * pi * now / self.period)
        if self.times == "exponential":
            return random.expovariate(1 / mean)
        if self.times == "lognormal":
            return random.lognormvariate(log(mean) - SIGMA**2 / 2, SIGMA)
        return mean / 1.9 * (10 if random.random() < 0.1 else 1)


def drawn(seed: int) -> tuple[Server, float]:
    """A server drawn at random, and seconds for each load: 2,000 calls of its capacity at least, for a noise of 2%."""
    random = Random(seed)

    def between(low: float, high: float) -> float:
        return exp(random.uniform(log(low), log(high)))

    knee, service = round(between(4, 256)), between(0.005, 0.5)
    service = max(service, knee / 8000)  # 8,000 calls per second: more only takes longer to simulate
    thrash, timeout = random.choice([1.0, 1.3, 1.6, 2.0]), service * between(3, 20)
    times = random.choice(TIMES)
    drift = random.choice([1.0, 1.0, random.uniform(1.1, 1.4)])
    capacity = knee / service
    seconds = max(4.0, 20 * service, 2000 / capacity, min(20.0, 8000 / capacity))
    return Server(knee, service, thrash, timeout, times, drift, period=seconds), seconds


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
        self.random = Random(seed)
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
        seconds = self.server.seconds(self.now, self.busy, self.random)
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


def kept(levels: Sequence[Level]) -> float:
    """The goodput at the last of ``levels``, as a share of the best of all."""
    return levels[-1].goodput / max(level.goodput for level in levels)


def held_out(servers: int, first: int) -> list[float]:
    """Run ``servers`` servers drawn at random, print what each kept, and return that."""
    found, of_best = [], []
    click.echo(" seed  kept  of best  high   server")
    for seed in range(first, first + servers):
        server, seconds = drawn(seed)
        levels = simulate(server, PROTECTED, loads=HELD_OUT_LOADS, seconds=seconds, seed=seed)
        (best,) = simulate(server, replace(PROTECTED, limit=server.knee), loads=[3.0], seconds=seconds, seed=seed)
        found.append(kept(levels))
        of_best.append(levels[-1].goodput / best.goodput)
        click.echo(
            f"{seed:5} {found[-1]:5.1%} {of_best[-1]:8.1%} {levels[-1].served(Priority.HIGH):5.1%}  "
            f"knee {server.knee}, {server.service * 1e3:.0f} ms {server.times}, thrash {server.thrash}, timeout "
            f"{server.timeout / server.service:.1f} times that, drift {server.drift:.2f}, {seconds:.0f} s"
        )
    for name, shares in (
        ("of its own peak", found),
        ("of what a limit at the knee gives", of_best),
    ):
        ranked = sorted(shares)
        low, middle = ranked[len(ranked) // 20], ranked[len(ranked) // 2]
        click.echo(f"at 3 times the capacity, {name}: least {ranked[0]:.1%}, p5 {low:.1%}, median {middle:.1%}")
    return found


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
@click.option("--held-out", "servers", default=0, help="Run so many servers drawn at random, from the seed on.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for overload.svg and overload-limit.svg."
)
def main(knee: int, seconds: float, seed: int, servers: int, out: Path | None) -> None:
    """Raise the load on a server from half of its capacity to three times as much. Fails below 85% of the peak goodput
    at the highest load."""
    if servers:
        if min(held_out(servers, seed)) < KEPT:
            sys.exit("overload: the goodput of one server falls too far")
        return
    server = Server(knee=knee)
    levels = simulate(server, PROTECTED, seconds=seconds, seed=seed)
    unprotected = simulate(server, None, seconds=seconds, seed=seed)
    click.echo("load   goodput  without   high  normal    low   limit")
    for level, bare in zip(levels, unprotected, strict=True):
        shares = "".join(f"{level.served(priority):8.1%}" for priority in Priority)
        mean = sum(limit for _, limit in level.limits) / len(level.limits)
        click.echo(f"{level.load:4.2f} {level.goodput:9.1%} {bare.goodput:8.1%}{shares} {mean:7.1f}")
    peak = max(level.goodput for level in (*levels, *unprotected))
    share, bare_share = levels[-1].goodput / peak, unprotected[-1].goodput / peak
    click.echo(
        f"peak {peak:.1%} of capacity; at {levels[-1].load:g} times the capacity {share:.1%} of that, "
        f"without {bare_share:.1%}; the goal is {KEPT:.0%}"
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "overload.svg").write_text(loads_picture(levels, unprotected))
        times = (0.5, 1, 2, 3, 5, 8, 13, 20, 30, 40)
        (out / "overload-limit.svg").write_text(limit_picture((8, 32, 128), times, seed))
    if share < KEPT:
        sys.exit("overload: the goodput falls too far")


if __name__ == "__main__":
    main()
