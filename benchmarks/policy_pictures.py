"""The pictures of ``docs/resilience.md``: each policy at work, on made-up scenes that are the same each time.

The policies are Forebay's own, and the time is a number that the scenes count up; only what is around them (servers,
callers, chance with a seed) is a model.

    python -m benchmarks.policy_pictures
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

import click

from benchmarks.overload import LOADS, PROTECTED, Level, Server, limit_picture, simulate
from benchmarks.plot import Curve, Graph, Note, Span, draw_graphs, page, write
from benchmarks.policy_diagrams import DIAGRAMS
from benchmarks.policy_target_pictures import CELLS, TARGET_PICTURES
from benchmarks.retry_storm import Naive, Scene, WithPolicies
from benchmarks.retry_storm import picture as storm_picture
from benchmarks.retry_storm import run as storm
from forebay.engine.loop import now as loop_now
from forebay.engine.loop import sleep
from forebay.engine.read_write_lock import ReadWriteLock
from forebay.engine.tasks import gather
from forebay.policy.backoff import Backoff, Jitter
from forebay.policy.breaker import Breaker, Circuit, CircuitState
from forebay.policy.budget import RetryBudget
from forebay.policy.bulkhead import Bulkhead
from forebay.policy.hedge import Hedge, Hedger
from forebay.policy.limiters import Limiter, SlidingWindow, TokenBucket, WarmUp
from forebay.policy.pool import PoolPlan
from forebay.policy.pool_actions import Action, Close, Dial, Give, Place, Refuse
from forebay.policy.pool_settings import PoolSettings
from forebay.policy.priority import Priority
from forebay.policy.retry import Retry
from forebay.policy.shedding import Shedding
from forebay.testing.virtual_clock import VirtualClock

__all__ = ["PICTURES", "SLOW"]

PER_SECOND = 20  # steps, in scenes that go in steps


# Trying again


def backoff() -> str:
    """A thousand clients that fail in the same moment, and go on failing: when they come again."""
    clients, tries, width = 1_000, 7, 0.1
    graphs = []
    jitters: tuple[Jitter, ...] = ("none", "full", "equal", "decorrelated")
    for jitter in jitters:
        rules, chance = Backoff(jitter=jitter), random.Random(1)
        bins: Counter[int] = Counter()
        for _ in range(clients):
            at = wait = 0.0
            for attempt in range(tries):
                wait = rules.draw(attempt, wait, chance)
                at += wait
                bins[int(at / width)] += 1
        points = [((number + 0.5) * width, bins[number]) for number in sorted(bins) if number * width < 10]
        words = f'jitter="{jitter}"' + (", the default" if jitter == "full" else "")
        ticks = [(0.0, "0"), (500.0, "500"), (1000.0, "1,000")]
        x_ticks = [(float(at), str(at)) for at in range(0, 11, 2)]
        graphs.append(Graph(words, [Curve("", points, "bars")], ticks=ticks, x_ticks=x_ticks, bar=width))
    title = "1,000 clients that failed in the same moment: tries in each tenth of a second"
    return draw_graphs(title, "seconds since then", 0, 10, graphs, columns=2, size=(370, 120))


def retry_storm() -> str:
    """Attempts in a bad time: naive clients, and those with a budget."""
    scene, rules = Scene(), Retry()
    policies = WithPolicies(scene, rules, rules.new_budget)
    outcomes = [storm(scene, each) for each in (Naive(5), Naive(3), policies)]
    return storm_picture(scene, outcomes, rules.budget_share or 0.0)


def budget() -> str:
    """One client's budget: saved in good times, spent at the beginning of bad ones, the share of the traffic then."""
    spent, chance = RetryBudget(), random.Random(1)
    seconds, rate = 60, 100
    fails, again, saved = [0] * seconds, [0] * seconds, []
    for second in range(seconds):
        for number in range(rate):
            now = second + number / rate
            spent.deposit(now)
            if chance.random() < (0.8 if 20 <= second < 45 else 0.02):
                fails[second] += 1
                again[second] += spent.spend(now)
        saved.append(spent.statistics()["saved"])
    bad = Span(20, 45, "80% of the requests fail")
    per_second = [
        Curve("requests that failed", [(at, value) for at, value in enumerate(fails)], "steps"),
        Curve("second tries", [(at, value) for at, value in enumerate(again)], "steps"),
        Curve("a fifth of the requests", [(0, 0.2 * rate)], "level"),
    ]
    left = [Curve("second tries that are saved up", [(at + 1, value) for at, value in enumerate(saved)], "steps")]
    graphs = [Graph("per second", per_second, [bad], x_label=""), Graph("saved", left, [Span(20, 45)], size=(0, 90))]
    return draw_graphs("A retry budget at 100 requests a second", "seconds", 0, seconds, graphs, size=(760, 150))


def hedging() -> str:
    """How long calls take, with a second try past the p95 and without."""
    chance, hedger = random.Random(1), Hedger(Hedge(), RetryBudget())
    alone, hedged = [], []

    def call() -> float:
        return chance.lognormvariate(-3.9, 0.35) * (12 if chance.random() < 0.02 else 1)

    for number in range(40_000):
        now = number * 0.01
        assert hedger.budget is not None
        hedger.budget.deposit(now)
        first = call()
        delay = hedger.delay(now, idempotent=True)
        took, winner = first, 0
        if first > delay and hedger.hedge(now + delay) is None and (second := delay + call()) < first:
            took, winner = second, 1
        hedger.answered(took, now + took, winner=winner)
        if number >= 2_000:
            alone.append(first)
            hedged.append(took)
    nines = [at / 20 for at in range(1, 61)]  # 1: one call in ten is slower, 2: one in a hundred

    def curve(name: str, times: list[float]) -> Curve:
        times.sort()
        return Curve(name, [(at, 1000 * times[int(len(times) * (1 - 10**-at))]) for at in nines])

    more = hedger.sent / hedger.calls
    curves = [curve("one try", alone), curve(f"with hedging: {more:.1%} more calls", hedged)]
    x_ticks = [(0.301, "p50"), (1.0, "p90"), (1.301, "p95"), (2.0, "p99"), (3.0, "p99.9")]
    graph = Graph("milliseconds", curves, x_ticks=x_ticks)
    title = "One call of fifty takes twelve times as long: latencies with hedging, and without"
    return draw_graphs(title, "", 0, 3.0, [graph], size=(760, 200))


# Not trying at all


def breaker() -> str:
    """A target that fails for a while: what becomes of calls, and what state its circuit is in."""
    chance, circuit = random.Random(2), Circuit(Breaker(), "orders")
    seconds, rate = 240, 20
    bad = (30, 150)
    good, failed, refused = ([0] * (seconds // 2) for _ in range(3))
    heights = {CircuitState.CLOSED: 0.0, CircuitState.HALF_OPEN: 1.0, CircuitState.OPEN: 2.0}
    states = []
    for step in range(seconds * rate):
        now = step / rate
        at = int(now / 2)
        if circuit.admit(now) is not None:
            refused[at] += 1
        elif bad[0] <= now < bad[1] and chance.random() < 0.7:
            circuit.failure(0.0, now)
            failed[at] += 1
        else:
            circuit.success(0.0, now)
            good[at] += 1
        states.append((now, heights[circuit.state]))
    calls = [
        Curve(name, [(2.0 * at, value / 2) for at, value in enumerate(values)], "steps")
        for name, values in (("succeeded", good), ("failed", failed), ("refused at once", refused))
    ]
    ticks = [(0.0, "closed"), (1.0, "half-open"), (2.0, "open")]
    state = Graph("state", [Curve("", states, "steps")], [Span(*bad)], ticks=ticks, size=(0, 70))
    graphs = [
        Graph("calls per second", calls, [Span(*bad)], [Note(80, 13, "70% of what is asked fails")], x_label=""),
        state,
    ]
    return draw_graphs("A breaker with its default rules", "seconds", 0, seconds, graphs, size=(760, 150))


# How many, how fast


def limiters() -> str:
    """Twice as much is wanted as is let through, after a pause too: what each limiter lets through, and when."""
    each: tuple[tuple[str, Limiter], ...] = (
        ("TokenBucket(10, burst=20)", TokenBucket(10, 20)),
        ("SlidingWindow(100, 10 s)", SlidingWindow(100, 10.0)),
        ("WarmUp(10, burst=5, 10 s)", WarmUp(10, 5, 10.0)),
    )
    seconds, pause = 60, (25, 45)
    total, rates = [], []
    for name, limiter in each:
        passed, sums, per_second = 0, [(0.0, 0.0)], [0] * seconds
        for step in range(seconds * PER_SECOND):
            now = step / PER_SECOND
            if not pause[0] <= now < pause[1] and not limiter.take(now):
                passed += 1
                per_second[int(now)] += 1
            if step % 5 == 4:
                sums.append(((step + 1) / PER_SECOND, passed))
        total.append(Curve(name, sums))
        rates.append(Curve(name, [(at, value) for at, value in enumerate(per_second)], "steps"))
    graphs = [
        Graph("let through, per second", rates, [Span(*pause, "nothing is asked for")], x_label=""),
        Graph("let through, in all", total, [Span(*pause)]),
    ]
    title = "20 a second are asked for, and 10 a second are let through"
    return draw_graphs(title, "seconds", 0, seconds, graphs, size=(760, 150))


def overload() -> str:
    """Goodput over load, with adaptive concurrency and shedding, and without."""
    levels, bare = simulate(Server(), PROTECTED), simulate(Server(), None)

    def curve(name: str, of: Callable[[Level], float], which: list[Level]) -> Curve:
        return Curve(name, [(level.load, 100 * of(level)) for level in which])

    goodput = [
        curve("adaptive concurrency and shedding", lambda level: level.goodput, levels),
        curve("without", lambda level: level.goodput, bare),
    ]
    served = [curve(f"{each} priority", lambda level, each=each: level.served(each), levels) for each in Priority]  # type: ignore[misc]  # the default binds it
    ticks = [(float(at), f"{at}%") for at in range(0, 101, 25)]
    x_ticks = [(at / 2, f"{at / 2:g}") for at in range(1, 7)]
    graphs = [
        Graph("goodput, of the capacity", goodput, ticks=ticks, x_ticks=x_ticks),
        Graph("answered in time, with both", served, ticks=ticks, x_ticks=x_ticks),
    ]
    label = "offered load / capacity"
    return draw_graphs("A server under overload", label, LOADS[0], LOADS[-1], graphs, columns=2, size=(370, 200))


def overload_limit() -> str:
    """How fast the adaptive limit finds the knee."""
    return limit_picture((8, 32, 128), (0.5, 1, 2, 3, 5, 8, 13, 20, 30, 40), 1)


def shedding() -> str:
    """Overload that comes and goes at a bulkhead of a fixed size: what is answered in time of each priority."""
    seconds, over = 40, (10, 30)
    loads = [2.0 if over[0] <= at < over[1] else 0.7 for at in range(seconds + 1)]  # the last one has no end
    graphs = []
    for name, shed in (('when_full="reject", without shedding', None), ("with shedding by priority", Shedding())):
        rules = Bulkhead(Server().knee, when_full="reject" if shed is None else "drop-lowest", shed=shed)
        levels = simulate(Server(), rules, loads=loads, seconds=1.0, seed=1)
        curves = [
            Curve(
                f"{priority} priority",
                [(at, 100 * level.served(priority)) for at, level in enumerate(levels[:-1])],
                "steps",
            )
            for priority in Priority
        ]
        ticks = [(0.0, "0%"), (50.0, "50%"), (100.0, "100%")]
        words = "twice the capacity is asked for"
        graphs.append(Graph(f"answered in time, {name}", curves, [Span(*over, words)], ticks=ticks))
    graphs[0] = Graph(graphs[0].title, graphs[0].curves, graphs[0].spans, ticks=graphs[0].ticks, x_label="")
    return draw_graphs("A bulkhead of 32 places under overload", "seconds", 0, seconds, graphs, size=(760, 110))


# What is shared


def pool() -> str:
    """A pool of 20: a burst that needs more, and idle ones that are closed after it."""
    chance, settings = random.Random(8), PoolSettings(max_total=20, max_per_key=20, idle_timeout=15.0, wait_timeout=1.0)
    plan = PoolPlan(settings, source=random.Random(9))
    seconds, number = 55, count()
    events: list[tuple[float, int, str, object]] = []

    def at(when: float, what: str, subject: object = None) -> None:
        heappush(events, (when, next(number), what, subject))

    def follow(actions: object, now: float) -> None:
        for action in actions:  # type: ignore[attr-defined]  # a sequence of actions
            if isinstance(action, Give):
                at(now + chance.expovariate(1 / 0.15), "release", action.place)
            elif isinstance(action, Dial):
                at(now + 0.05, "dialled", action.place)
            assert isinstance(action, Give | Dial | Close | Refuse), action

    at(0.0, "arrive")
    for second in range(seconds * 4):
        at(second / 4, "tick")
    in_use, total, waiting = [0.0] * seconds, [0.0] * seconds, [0.0] * seconds
    while events and events[0][0] < seconds:
        now, _, what, subject = heappop(events)
        actions: tuple[Action, ...] = ()
        if what == "arrive":
            at(now + chance.expovariate(160 if 15 <= now < 22 else 50), "arrive")
            place = plan.take("db", now)
            if place is not None:
                at(now + chance.expovariate(1 / 0.15), "release", place)
            else:
                waiter = next(number)
                at(now + 1.0, "expire", waiter)
                actions = tuple(plan.want("db", waiter, now))
        elif what == "expire":
            actions = tuple(plan.expire(subject, now))
        elif isinstance(subject, Place):
            actions = tuple(plan.release(subject, now) if what == "release" else plan.dialled(subject, object(), now))
        else:
            actions = tuple(plan.tick(now))
            figures = plan.statistics()
            in_use[int(now)] += figures["in_use"] / 4
            total[int(now)] += figures["total"] / 4
            waiting[int(now)] += figures["waiting"] / 4
        follow(actions, now)
    named = (("open", total), ("in use", in_use))
    curves = [Curve(name, list(enumerate(values)), "steps") for name, values in named]
    curves.append(Curve("max_total", [(0, 20)], "level"))
    waits = [Curve("callers that wait", list(enumerate(waiting)), "steps")]
    note = [Note(25, 120, "15 to 22 s: three times the load")]
    graphs = [
        Graph("connections, mean of each second", curves, [Span(15, 22)], x_label=""),
        Graph("callers that wait", waits, [Span(15, 22)], note, size=(0, 80)),
    ]
    title = "A pool: a burst, and idle connections that are closed 15 s after their last use"
    return draw_graphs(title, "seconds", 0, seconds, graphs, size=(760, 150))


def read_write_lock() -> str:
    """Readers and writers of one lock: who waits, and who holds it."""
    tasks = [
        ("reader 1", 0, 5), ("reader 2", 1, 6), ("writer 1", 2, 3), ("reader 3", 3, 4), ("reader 4", 4, 6),
        ("writer 2", 5, 3), ("reader 5", 12, 3),
    ]  # fmt: skip
    lock, rows = ReadWriteLock(), []

    async def one(name: str, begin: float, hold: float) -> None:
        start = loop_now()
        await sleep(begin)
        async with lock.writing() if name.startswith("writer") else lock.reading():
            rows.append((name, begin, loop_now() - start, hold))
            await sleep(hold)

    with VirtualClock(packages=(__name__,)) as clock:

        async def main() -> None:
            await gather(*(one(*task) for task in tasks))

        clock.run(main())
    scale, left, top, parts = 30.0, 130.0, 56.0, []
    found = {name: (begin, got, hold) for name, begin, got, hold in rows}
    end = max(got + hold for _, got, hold in found.values())
    for second in range(0, int(end) + 2, 2):
        x = left + second * scale
        bottom = top + 28 * len(tasks)
        parts.append(f'<line class="grid" x1="{x:g}" y1="{top:g}" x2="{x:g}" y2="{bottom:g}"/>')
        parts.append(write(x, bottom + 16, f"{second}", "middle"))
    for number, (name, _, _) in enumerate(tasks):
        begin, got, hold = found[name]
        y, look = top + 28 * number + 4, 1 if name.startswith("writer") else 0
        parts.append(write(left - 12, y + 14.5, name, "end"))
        if got > begin:
            parts.append(
                f'<rect class="line c{look} d{look}" x="{left + begin * scale:g}" y="{y:g}"'
                f' width="{(got - begin) * scale:g}" height="20" rx="3"/>'
            )
            if got - begin >= 2:
                parts.append(write(left + begin * scale + 8, y + 14.5, "waits", "start"))
        parts.append(
            f'<rect class="f{look}" x="{left + got * scale:g}" y="{y:g}" width="{hold * scale:g}" height="20" rx="3"/>'
        )
        words = "writes" if look else "reads"
        parts.append(write(left + got * scale + 8, y + 14.5, words, "start"))
    width = left + (int(end) + 2) * scale + 10
    return page("A reader-writer lock, in seconds", width, top + 28 * len(tasks) + 30, parts, 30, CELLS)


PICTURES: dict[str, Callable[[], str]] = (
    DIAGRAMS
    | TARGET_PICTURES
    | {
        f"resilience-{name}.svg": draw
        for name, draw in {
            "backoff": backoff,
            "retry-storm": retry_storm,
            "budget": budget,
            "hedging": hedging,
            "breaker": breaker,
            "limiters": limiters,
            "overload": overload,
            "overload-limit": overload_limit,
            "shedding": shedding,
            "pool": pool,
            "read-write-lock": read_write_lock,
        }.items()
    }
)
"""By the name of the file."""

SLOW = frozenset({"resilience-retry-storm.svg", "resilience-overload.svg", "resilience-overload-limit.svg"})
"""Those that take seconds."""


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("docs"), show_default=True)
@click.option("--only", multiple=True, help="Part of a name; all of them without.")
def main(out: Path, only: tuple[str, ...]) -> None:
    """Draw them."""
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        if not only or any(part in name for part in only):
            text = draw()
            (out / name).write_text(text)
            click.echo(f"{out / name}: {len(text) / 1000:.1f} kB")


if __name__ == "__main__":
    main()
