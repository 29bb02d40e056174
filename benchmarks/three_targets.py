"""Three servers behind one client; one gets slow, later another one fails: ``python -m benchmarks.three_targets``.

The servers are Forebay's, on three ports of this machine; they answer after ``QUICK`` seconds. After a quarter of the
time the first one takes ``SLOW``, 50 times as long, and goes on so; after three quarters the second one answers 60% of
what it is asked with 500. Requests come at random moments, whatever becomes of others, and each has a second. It is
done twice: with the client's policies, and with a client that asks the three in turns.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import click
import structlog

from benchmarks.plot import Curve, Graph, Span, draw_graphs
from forebay import App
from forebay.engine import run
from forebay.engine.loop import now
from forebay.errors import ForebayError
from forebay.http import HTTPServer, Response
from forebay.http.client.balancing import Balancing
from forebay.http.client.client import Client
from forebay.http.client.settings import Timeouts
from forebay.policy.backoff import Backoff
from forebay.policy.hedge import Hedge
from forebay.policy.outlier_rules import OutlierRules
from forebay.policy.retry import Retry
from forebay.policy.target_rules import TargetRules

__all__ = ["GOAL", "NOTHING", "POLICIES", "Outcome", "Scene", "measure", "most_attempts", "picture"]

QUICK, SLOW = 0.002, 0.1  # seconds
FAILING = 0.6
GOAL = 0.999  # of the requests are answered with 200, with policies
SHARE, MIN_PER_SECOND, WINDOW = 0.2, 0.2, 10.0  # of the retry budget, by default

FAILED = frozenset({500, 502, 503, 504})
"""These servers answer with 500 when they are broken, and not when a request is: so it is said that it is a failure."""

POLICIES: dict[str, Any] = {
    "retry": Retry(backoff=Backoff(initial=0.01), statuses=FAILED | {429}),
    "hedge": Hedge(),
    "balance": Balancing(TargetRules("p2c-ewma"), OutlierRules(), failed_statuses=FAILED),
}
NOTHING: dict[str, Any] = {"balance": Balancing(TargetRules("round-robin"), None)}


def most_attempts(requests: int, seconds: float) -> float:
    """That the budget lets through: those of the requests, a share, and a few that there always are."""
    return requests * (1 + SHARE) + MIN_PER_SECOND * (seconds + WINDOW)


@dataclass(frozen=True, slots=True)
class Scene:
    """How long, and how much is asked."""

    seconds: float = 20.0
    rate: float = 150.0  # requests per second
    seed: int = 1

    @property
    def slow_at(self) -> float:
        """When the first server gets slow."""
        return self.seconds / 4

    @property
    def fails_at(self) -> float:
        """When the second one begins to fail."""
        return self.seconds * 3 / 4


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of one request."""

    at: float  # seconds since the beginning
    seconds: float
    good: bool


@dataclass(slots=True)
class Outcome:
    """What became of all of them."""

    scene: Scene
    asked: list[Asked] = field(default_factory=list)
    tries: list[list[float]] = field(default_factory=lambda: [[], [], []])  # when each server was asked
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def success(self) -> float:
        """The share that was answered with 200 in time."""
        return sum(one.good for one in self.asked) / len(self.asked)

    @property
    def attempts(self) -> int:
        """How often a server was asked."""
        return sum(map(len, self.tries))

    def quantile(self, quantile: float, begin: float = 0.0, end: float = 1e9) -> float:
        """Of the seconds that requests took which were made between these moments; 0.0: there are none."""
        ranked = sorted(one.seconds for one in self.asked if begin <= one.at < end)
        return ranked[min(len(ranked) - 1, int(len(ranked) * quantile))] if ranked else 0.0

    def share(self, server: int, begin: float, end: float) -> float:
        """The share of what was asked between these moments that this server was asked."""
        counts = [sum(begin <= at < end for at in times) for times in self.tries]
        return counts[server] / max(1, sum(counts))


class _Server:
    """One of the three."""

    def __init__(self, seed: int, clock: list[float], times: list[float]) -> None:
        self.seconds = QUICK
        self.failing = 0.0
        random = Random(seed)
        app = App("target")

        @app.get("/work")
        async def work() -> Response:
            times.append(now() - clock[0])
            await asyncio.sleep(self.seconds)
            return Response(b"", status=500 if random.random() < self.failing else 200)

        self.server = HTTPServer(app, bind="http://127.0.0.1:0")


async def measure(scene: Scene, policies: dict[str, Any] | None = None) -> Outcome:
    """Do it once, with :data:`POLICIES` or others."""
    outcome = Outcome(scene)
    clock = [0.0]
    servers = [_Server(scene.seed + number, clock, times) for number, times in enumerate(outcome.tries)]
    async with AsyncExitStack() as stack:
        for server in servers:
            await server.server.start()
            stack.push_async_callback(server.server.stop)
        bases = [f"http://127.0.0.1:{server.server.addresses[0].port}" for server in servers]
        options = POLICIES if policies is None else policies
        client = await stack.enter_async_context(Client(bases, timeouts=Timeouts(total=1.0), proxy="", **options))
        async with asyncio.TaskGroup() as group:
            clock[0] = began = now()
            group.create_task(_break(servers, scene))
            random = Random(scene.seed)
            at = random.expovariate(scene.rate)
            while at < scene.seconds:
                await asyncio.sleep(max(0.0, began + at - now()))
                group.create_task(_ask(client, outcome, began))
                at += random.expovariate(scene.rate)
        outcome.statistics = client.statistics()
    return outcome


async def _break(servers: Sequence[_Server], scene: Scene) -> None:
    await asyncio.sleep(scene.slow_at)
    servers[0].seconds = SLOW
    await asyncio.sleep(scene.fails_at - scene.slow_at)
    servers[1].failing = FAILING


async def _ask(client: Client, outcome: Outcome, began: float) -> None:
    start = now()
    try:
        async with client.get("/work") as response:
            await response.read()
            good = response.status == 200
    except ForebayError:
        good = False
    outcome.asked.append(Asked(start - began, now() - start, good))


def picture(on: Outcome, off: Outcome) -> str:
    """Both, over time; as SVG."""
    scene = on.scene
    step = scene.seconds / 40
    moments = [number * step for number in range(40)]
    names = {"with policies": on, "in turns": off}

    def good(outcome: Outcome) -> list[tuple[float, float]]:
        points = []
        for at in moments:
            asked = [one.good for one in outcome.asked if at <= one.at < at + step]
            points.append((at + step / 2, 100 * sum(asked) / max(1, len(asked))))
        return points

    def p99(outcome: Outcome) -> list[tuple[float, float]]:
        return [(at + step / 2, 1000 * outcome.quantile(0.99, at, at + step)) for at in moments]

    def shares(outcome: Outcome) -> list[Curve]:
        said = ("the first", "the second", "the third")
        return [
            Curve(name, [(at + step / 2, 100 * outcome.share(number, at, at + step)) for at in moments])
            for number, name in enumerate(said)
        ]

    spans = [
        Span(scene.slow_at, scene.fails_at - scene.seconds / 200, "the first is slow"),  # a line between them
        Span(scene.fails_at, scene.seconds, "and the second fails"),
    ]
    graphs = [
        Graph("Answered with 200 in time, %", [Curve(name, good(of)) for name, of in names.items()], spans, x_label=""),
        Graph("p99, ms", [Curve(name, p99(of)) for name, of in names.items()], spans, x_label=""),
        Graph("Who was asked with policies, %", shares(on), spans, x_label=""),
        Graph("Who was asked in turns, %", shares(off), spans),
    ]
    return draw_graphs("Three servers, of which two break", "seconds", 0, scene.seconds, graphs, size=(760, 130))


def _say(name: str, outcome: Outcome) -> None:
    scene = outcome.scene
    parts = [(0.0, scene.slow_at), (scene.slow_at, scene.fails_at), (scene.fails_at, scene.seconds)]
    shares = "  ".join("/".join(f"{outcome.share(number, *part):.0%}" for number in range(3)) for part in parts)
    each = outcome.attempts / len(outcome.asked)
    p50, p99 = outcome.quantile(0.5) * 1e3, outcome.quantile(0.99) * 1e3
    click.echo(f"{name:14}{outcome.success:9.3%}{p50:8.1f}{p99:8.1f}{each:10.3f}  {shares}")


@click.command()
@click.option("--seconds", default=20.0, show_default=True)
@click.option("--rate", default=150.0, show_default=True, help="Requests per second.")
@click.option("--seed", default=1, show_default=True)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="A file for the picture.")
def main(seconds: float, rate: float, seed: int, plot: Path | None) -> None:
    """Ask three servers, of which two break one after the other, with policies and without. Fails when less than 99.9%
    is answered well with them, or more is asked than the budget allows."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # the table says it all
    scene = Scene(seconds, rate, seed)
    off = run(measure(scene, NOTHING))
    on = run(measure(scene))
    click.echo(f"{len(on.asked)} requests in {seconds:g} s. Shares are of the first/second/third server, while all are")
    click.echo("well, while the first is slow, and while the second fails as well")
    click.echo(f"{'':14}{'success':>9}{'p50 ms':>8}{'p99 ms':>8}{'attempts':>10}  shares")
    _say("in turns", off)
    _say("with policies", on)
    for name, target in on.statistics["policies"]["targets"]["targets"]["each"].items():
        click.echo(f"  {name}: {target['state']}: {target['cause'] or 'nothing happened'}")
    if plot is not None:
        plot.write_text(picture(on, off))
    if on.success < GOAL:
        sys.exit(f"three_targets: {on.success:.3%} were answered, the goal is {GOAL:.1%}")
    if on.attempts > most_attempts(len(on.asked), seconds):
        sys.exit(f"three_targets: {on.attempts} attempts for {len(on.asked)} requests are more than the budget has")


if __name__ == "__main__":
    main()
