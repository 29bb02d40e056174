"""A retry storm in virtual time: many clients, and a server that fails most of what it is asked for a while.

The clients' decisions are made by the policies themselves (``Retry``, ``Backoff``, ``RetryBudget``, one budget for each
client); beside them go clients that try again at once. The server answers in no time, and what it fails is chance, not
load: so the storm is what the clients make of it, and not what a real server would make of the storm in turn.

    python -m benchmarks.retry_storm --plot storm.svg
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from pathlib import Path

import click

from benchmarks.plot import Curve, Graph, Span, draw_graphs
from forebay.policy.budget import RetryBudget
from forebay.policy.retry import Retry

__all__ = ["Naive", "Outcome", "Scene", "WithPolicies", "picture", "run"]

STATUS = 503


@dataclass(frozen=True, slots=True)
class Scene:
    """What happens: from second ``bad_from`` to ``bad_until`` the server fails ``failing`` of all it is asked."""

    clients: int = 1_000
    rate: float = 10.0  # new requests per second of each client, at random moments
    seconds: int = 60
    bad_from: int = 15
    bad_until: int = 45
    failing: float = 0.6
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    """What came of it. Attempts are those of new requests and those made again."""

    name: str
    requests: int = 0
    attempts: int = 0
    answered: int = 0
    requests_in: list[int] = field(default_factory=list)  # each second
    attempts_in: list[int] = field(default_factory=list)  # each second

    @property
    def per_request(self) -> float:
        """Attempts for each request, over everything."""
        return self.attempts / self.requests

    def between(self, start: int, end: int) -> float:
        """Attempts for each request, from second ``start`` to ``end``."""
        return sum(self.attempts_in[start:end]) / sum(self.requests_in[start:end])


Again = Callable[[int, int, float, float, float], float]
"""Of a client, attempt, beginning, now, the wait before: seconds until it tries again, below 0 when it does not."""


class Naive:
    """Clients that try again at once, ``attempts`` times in all."""

    def __init__(self, attempts: int) -> None:
        self.name = f"{attempts} attempts at once"
        self._attempts = attempts

    def began(self, client: int, now: float) -> None:
        """A new request."""

    def again(self, client: int, attempt: int, began: float, now: float, previous: float) -> float:
        """See :data:`Again`."""
        return 0.0 if attempt < self._attempts else -1.0


class WithPolicies:
    """Clients that try again by ``rules``, each with a budget of its own."""

    def __init__(self, scene: Scene, rules: Retry, budget: Callable[[], RetryBudget | None]) -> None:
        self.name = f"{rules.attempts} attempts with backoff and budget"
        self.rules = rules
        self.budgets = [budget() for _ in range(scene.clients)]
        self._source = random.Random(scene.seed)

    def began(self, client: int, now: float) -> None:
        """A new request."""
        budget = self.budgets[client]
        if budget is not None:
            budget.deposit(now)

    def again(self, client: int, attempt: int, began: float, now: float, previous: float) -> float:
        """See :data:`Again`."""
        verdict = self.rules.decide(
            error=None,
            status=STATUS,
            method="GET",
            attempt=attempt,
            began=began,
            now=now,
            previous=previous,
            budget=self.budgets[client],
            source=self._source,
        )
        return verdict.delay if verdict.again else -1.0

    def bound(self, outcome: Outcome, seconds: float) -> float:
        """The most attempts for each request that the budgets allow: 1, the share, and the minimum rate's part of it.

        The minimum is counted as it is given: to each client, for each second there is and for one window more, which
        every budget has saved at its beginning.
        """
        given = [budget for budget in self.budgets if budget is not None]
        minimum = sum(budget.min_per_second * (seconds + budget.window) for budget in given)
        return 1.0 + given[0].share + minimum / outcome.requests


def run(scene: Scene, clients: Naive | WithPolicies) -> Outcome:
    """Let it happen. The same scene has the same requests, whoever makes them."""
    arrivals, luck = random.Random(scene.seed), random.Random(scene.seed + 1)
    outcome = Outcome(clients.name, requests_in=[0] * scene.seconds, attempts_in=[0] * scene.seconds)
    # when, which client, attempt, when the request began, the wait before; a client has one new request in here
    events: list[tuple[float, int, int, float, float]] = []
    for client in range(scene.clients):
        at = arrivals.expovariate(scene.rate)
        events.append((at, client, 1, at, 0.0))
    heapify(events)
    while events:
        now, client, attempt, began, previous = heappop(events)
        if now >= scene.seconds:
            continue
        second = int(now)
        if attempt == 1:
            outcome.requests += 1
            outcome.requests_in[second] += 1
            clients.began(client, now)
            at = now + arrivals.expovariate(scene.rate)
            heappush(events, (at, client, 1, at, 0.0))
        outcome.attempts += 1
        outcome.attempts_in[second] += 1
        if scene.bad_from <= now < scene.bad_until and luck.random() < scene.failing:
            delay = clients.again(client, attempt, began, now, previous)
            if delay >= 0:
                heappush(events, (now + delay, client, attempt + 1, began, delay))
        else:
            outcome.answered += 1
    return outcome


def picture(scene: Scene, outcomes: Sequence[Outcome], share: float) -> str:
    """Attempts per second over time, with what the share of the budget allows, as SVG."""
    lines = [(outcome.name, outcome.attempts_in) for outcome in outcomes]
    lines.append(("new requests", outcomes[0].requests_in))
    curves = [Curve(name, [(at + 0.5, value) for at, value in enumerate(values)]) for name, values in lines]
    limit = sum(outcomes[0].requests_in) / scene.seconds * (1 + share)
    curves.append(Curve(f"new requests and {share:.0%}", [(0, limit)], "level"))
    bad = Span(scene.bad_from, scene.bad_until, f"the server fails {scene.failing:.0%}")
    title = f"{scene.clients:,} clients; a server that fails {scene.failing:.0%} of what it is asked for a while"
    graph = Graph("attempts per second", curves, [bad])
    return draw_graphs(title, "seconds", 0, scene.seconds, [graph], size=(760, 300))


@click.command(help=__doc__)
@click.option("--plot", type=click.Path(path_type=Path), help="Where the picture goes; none without.")
@click.option("--clients", default=1_000, show_default=True)
@click.option("--rate", default=10.0, show_default=True, help="New requests per second of each client.")
def main(plot: Path | None, clients: int, rate: float) -> None:
    """Run it, say what came out, and draw it."""
    scene = Scene(clients=clients, rate=rate)
    rules = Retry()
    policies = WithPolicies(scene, rules, rules.new_budget)
    outcomes = [run(scene, each) for each in (Naive(5), Naive(3), policies)]
    bad = scene.bad_from, scene.bad_until
    click.echo(f"{outcomes[0].requests:,} requests; {scene.failing:.0%} of what is asked fails in seconds {bad}")
    click.echo(f"{'attempts per request':36}  {'all':>6}  {'bad':>6}  answered")
    for outcome in outcomes:
        answered = outcome.answered / outcome.requests
        click.echo(f"{outcome.name:36}  {outcome.per_request:6.3f}  {outcome.between(*bad):6.3f}  {answered:8.1%}")
    share = rules.budget_share or 0.0
    bound = policies.bound(outcomes[-1], scene.seconds)
    click.echo(f"the budgets allow {bound:.3f} over all: 1 + {share:g} + {bound - 1 - share:.3f} of the minimum rate")
    whole = Scene(clients=clients, rate=rate, seconds=30, bad_from=0, bad_until=30)
    policies = WithPolicies(whole, rules, rules.new_budget)
    outcome = run(whole, policies)
    click.echo(f"when it is bad all the time, for {whole.seconds} s: {outcome.per_request:.3f}", nl=False)
    click.echo(f" of {policies.bound(outcome, whole.seconds):.3f} allowed")
    if plot is not None:
        plot.write_text(picture(scene, outcomes, share))
        click.echo(f"drawn: {plot}")


if __name__ == "__main__":
    main()
