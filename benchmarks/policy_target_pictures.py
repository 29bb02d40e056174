"""The pictures of ``docs/resilience.md`` that are about whom to ask: balancers, keys, slow start, outliers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from zlib import crc32

from benchmarks.plot import LIGHT, Curve, Graph, Note, Span, draw_graphs, page, write
from forebay.policy.balance import BALANCERS, Member, make_balancer
from forebay.policy.hashing import ConsistentHash
from forebay.policy.maglev import Maglev
from forebay.policy.outliers import Outliers
from forebay.policy.slow_start import SlowStart
from forebay.policy.target import Target
from forebay.policy.target_rules import TargetRules
from forebay.policy.targets import Targets

__all__ = ["CELLS", "TARGET_PICTURES"]


def _cells(left: float, top: float, row: str, width: float) -> list[str]:
    """A row of letters, each on its colour."""
    parts = []
    for number, letter in enumerate(row):
        x = left + number * width
        look = ord(letter) - ord("a")
        parts.append(f'<rect class="f{look}" x="{x:g}" y="{top:g}" width="{width - 2:g}" height="20" rx="3"/>')
        parts.append(write(x + width / 2 - 1, top + 14.5, letter, "middle"))
    return parts


CELLS = (
    "".join(f"  .f{number} {{ fill: {colour}; fill-opacity: 0.3 }}\n" for number, colour in enumerate(LIGHT)),
    "",
)


def balancers() -> str:
    """The order in which balancers choose of three targets with the weights 5, 1 and 1, and what each gets."""
    parts, top = [], 70.0
    parts.append(write(700, 56, "share of 100,000", "start"))
    for name in ("round-robin", "weighted-round-robin", "least-connections", "random", "p2c-ewma"):
        shares: Counter[str] = Counter()
        order = ""
        balancer = make_balancer(name)
        if name in ("random", "p2c-ewma"):
            balancer = type(balancer)(random.Random(3))  # type: ignore[call-arg]  # these two take a source
        members = [Member("a", 5), Member("b", 1), Member("c", 1)]
        for number in range(100_000):
            member = balancer.pick(members, number * 0.001)
            if balancer.wants_latency:
                member.observe(0.01, number * 0.001)
            shares[member.name] += 1
            if number < 28:
                order += member.name
        parts.append(write(30, top + 14.5, name, "start"))
        parts += _cells(180, top, order, 18)
        parts.append(write(700, top + 14.5, "  ".join(f"{shares[m.name] / 1000:.1f}%" for m in members), "start"))
        top += 32
    return page("The first 28 choices of three targets with the weights 5, 1, 1", 860, top + 8, parts, 30, CELLS)


def p2c() -> str:
    """One of five targets becomes ten times slower: what it still gets, and how long calls take."""
    seconds, rate, slow = 60, 200, (15, 45)
    share, latency = [], []
    for name in ("round-robin", "least-connections", "p2c-ewma"):
        chance = random.Random(4)
        balancer = make_balancer(name) if name != "p2c-ewma" else BALANCERS[name](random.Random(5))  # type: ignore[call-arg]  # it takes a source
        members = [Member(letter) for letter in "abcde"]
        ends: list[tuple[float, int, float]] = []
        picked, late, times = [0] * seconds, [0] * seconds, [[0.0] for _ in range(seconds)]
        number, now = 0, 0.0
        while now < seconds:
            now += chance.expovariate(rate)
            while ends and ends[0][0] <= now:
                ended, who, began = heappop(ends)
                members[who].in_flight -= 1
                members[who].observe(ended - began, ended)
            member = balancer.pick(members, now)
            who = members.index(member)
            member.in_flight += 1
            took = chance.expovariate(1 / 0.02) * (10 if who == 0 and slow[0] <= now < slow[1] else 1)
            heappush(ends, (now + took, who, now))
            number += 1
            if now < seconds:
                picked[int(now)] += who == 0
                late[int(now)] += 1
                times[int(now)].append(took)
        share.append(
            Curve(
                name, [(at, 100 * one / all_) for at, (one, all_) in enumerate(zip(picked, late, strict=True))], "steps"
            )
        )
        p95 = [sorted(each)[int(0.95 * len(each))] * 1000 for each in times]
        latency.append(Curve(name, [(at, value) for at, value in enumerate(p95)], "steps"))
    spans = [Span(*slow, "one of five is ten times slower")]
    graphs = [
        Graph("calls that go to the slow one, %", share, spans, x_label=""),
        Graph("p95 of all calls, milliseconds", latency, [Span(*slow)]),
    ]
    return draw_graphs("A slow target", "seconds", 0, seconds, graphs, size=(760, 140))


def hashing() -> str:
    """Where keys go before and after one of five targets leaves."""
    keys = [f"user-{number}" for number in range(100_000)]
    members = [Member(letter) for letter in "abcde"]
    fewer = [member for member in members if member.name != "c"]

    def modulo(of: list[Member], key: str) -> str:
        return of[crc32(key.encode()) % len(of)].name

    ring, maglev = ConsistentHash(), Maglev()
    rows: tuple[tuple[str, Callable[[list[Member], str], str]], ...] = (
        ("hash modulo n", modulo),
        ("consistent-hash", lambda of, key: ring.pick(of, 0.0, key).name),
        ("maglev", lambda of, key: maglev.pick(of, 0.0, key).name),
    )
    parts, top = [], 66.0
    for name, owner in rows:
        before = [owner(members, key) for key in keys]
        if name != "hash modulo n":
            {"consistent-hash": ring, "maglev": maglev}[name].update(fewer)  # c has left for good
        after = [owner(fewer, key) for key in keys]
        moved = sum(one != other for one, other in zip(before, after, strict=True)) / len(keys)
        parts += [write(30, top + 14.5, name, "start", "title"), write(160, top + 14.5, "five", "start")]
        parts += [*_cells(240, top, "".join(before[:24]), 18), write(160, top + 38.5, "c has left", "start")]
        parts += _cells(240, top + 24, "".join(after[:24]), 18)
        for number in range(24):
            if before[number] != after[number]:
                x = 240 + 18 * number
                parts.append(f'<line class="line c5" x1="{x}" y1="{top + 47:g}" x2="{x + 16}" y2="{top + 47:g}"/>')
        parts.append(write(690, top + 26, f"{moved:.1%} of the keys move", "start"))
        top += 66
    parts.append(write(240, top + 4, "underlined: a key that moves; the least is one key of five", "start"))
    return page("Where 24 of 100,000 keys go", 880, top + 22, parts, 30, CELLS)


def bounded_load() -> str:
    """Popular keys: the most that one of ten targets has in flight, over the mean, with a bound and without."""
    curves, seconds, rate = [], 20, 500
    for name, bound in (("a ring without a bound", 1e9), ("bound=1.25, the default", 1.25)):
        chance, ring = random.Random(6), ConsistentHash(bound)
        members = [Member(f"target-{number}") for number in range(10)]
        ends: list[tuple[float, int]] = []
        now, points, sample = 0.0, [], 1.0
        while now < seconds:
            now += chance.expovariate(rate)
            while ends and ends[0][0] <= now:
                members[heappop(ends)[1]].in_flight -= 1
            key = f"key-{int(chance.paretovariate(0.7))}"  # few keys are asked for often
            member = ring.pick(members, now, key)
            member.in_flight += 1
            heappush(ends, (now + 0.2, members.index(member)))
            if now >= sample:
                loads = [each.in_flight for each in members]
                points.append((sample, max(loads) * len(loads) / sum(loads)))
                sample += 0.1
        curves.append(Curve(name, points))
    ticks = [(float(at), str(at)) for at in range(8)]
    graph = Graph("requests in flight at the busiest of ten targets, over the mean", curves, ticks=ticks)
    return draw_graphs("Popular keys on a ring", "seconds", 0, seconds, [graph], size=(760, 140))


def slow_start() -> str:
    """The share of its weight that a target has since it came back, and what it is given among four."""
    ramps = []
    for aggression in (1.0, 2.0, 0.5):
        rules = SlowStart(aggression=aggression)
        words = f"aggression={aggression:g}" + (", the default" if aggression == 1 else "")
        ramps.append(Curve(words, [(at / 4, 100 * rules.share(0.0, at / 4)) for at in range(241)], "steps"))
    targets = Targets(TargetRules(), [Target(letter) for letter in "abcd"])
    target, picks = targets.members[0], [0] * 60
    for step in range(60 * 100):
        now = step / 100
        chosen = targets.pick(now)
        if chosen is target:
            picks[int(now)] += 1
        targets.leave(chosen)
        if chosen is target and 5.0 <= now < 5.1:
            targets.failed(target, "connect-failed", now)
        else:
            targets.answered(chosen, 0.01, now)
    given = [Curve(ramps[0].name, [(at, value) for at, value in enumerate(picks)], "steps")]
    note = [Note(5.7, 20, "it failed, and is left alone for 10 s")]
    graphs = [
        Graph("% of its weight", ramps, x_label="seconds since it came back"),
        Graph("requests per second to one of four that failed once", given, notes=note),
    ]
    return draw_graphs("Slow start", "seconds", 0, 60, graphs, size=(760, 120))


def outliers() -> str:
    """One of four targets gets slow: it loses weight, leaves, and comes back by slow start."""
    chance, found = random.Random(7), Outliers()
    targets = Targets(TargetRules(), [Target(letter) for letter in "abcd"], outliers=found)
    seconds, rate, slow = 180, 100, (20, 75)
    target = targets.members[0]
    picks, p99 = [0] * (seconds // 2), []
    for step in range(seconds * rate):
        now = step / rate
        chosen = targets.pick(now)
        took = chance.lognormvariate(-3.0, 0.4)
        if chosen is target:
            picks[int(now / 2)] += 1
            if slow[0] <= now < slow[1] and chance.random() < 0.05:
                took = chance.uniform(2.5, 4)
        targets.answered(chosen, took, now)
        targets.leave(chosen)
        if step % rate == 0:
            p99.append((now, found.statistics()["each"]["a"]["latency"]))
    notes = []
    for change in found.history("a"):
        if change.what != "heavier":
            words = {"lighter": f"x {change.factor:g}", "ejected": "ejected", "returned": "slow start"}[change.what]
            notes.append(Note(change.at + 1, 27, words))
    given = [Curve("", [(2.0 * at, value / 2) for at, value in enumerate(picks)], "steps")]
    spans = [Span(*slow, "one answer of 20 takes about 3 s")]
    ticks = [(0.0, "0"), (2.0, "2"), (4.0, "4"), (6.0, "6")]
    graphs = [
        Graph(
            "p99 as it is seen, seconds (0: too few calls to say)",
            [Curve("", p99, "steps")],
            spans,
            ticks=ticks,
            x_label="",
            size=(0, 90),
        ),
        Graph("requests per second to it, of 100", given, [Span(*slow)], notes),
    ]
    return draw_graphs("A target that is slow", "seconds", 0, seconds, graphs, size=(760, 150))


TARGET_PICTURES: dict[str, Callable[[], str]] = {
    "resilience-balancers.svg": balancers,
    "resilience-p2c.svg": p2c,
    "resilience-hashing.svg": hashing,
    "resilience-bounded-load.svg": bounded_load,
    "resilience-slow-start.svg": slow_start,
    "resilience-outliers.svg": outliers,
}
"""By the name of the file."""
