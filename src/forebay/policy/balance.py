"""Choosing one of several equals. Who may be chosen is decided elsewhere (:mod:`forebay.policy.targets`)."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol, TypeVar

from forebay.policy.hashing import ConsistentHash
from forebay.policy.maglev import Maglev

__all__ = [
    "BALANCERS",
    "Balancer",
    "LeastConnections",
    "Member",
    "PowerOfTwoChoices",
    "Random",
    "RoundRobin",
    "WeightedRoundRobin",
    "make_balancer",
]


class Member:
    """One of those to choose from, with what the choices need to know of it.

    :param name: says which one it is; its URL.
    :param weight: its share of the work as configured, at least 1.
    :ivar share: its share of the work for now, above 0: the weight, less while it starts slowly or does badly.

    The owner keeps ``in_flight`` and ``share`` up to date, and calls :meth:`observe` after each answer where the
    balancer ``wants_latency``. A member is chosen from by one balancer at a time.
    """

    __slots__ = ("credit", "in_flight", "latency", "latency_at", "name", "share", "weight")

    def __init__(self, name: str, weight: int = 1) -> None:
        if weight < 1:
            raise ValueError(f"weight {weight} of {name}: must be at least 1")
        self.name = name
        self.weight = weight
        self.share = float(weight)
        self.credit = 0.0  # of those that take turns
        self.in_flight = 0
        self.latency = 0.0  # seconds, peak EWMA; 0 when nothing is known yet
        self.latency_at = 0.0

    def observe(self, seconds: float, now: float) -> None:
        """Remember how long an answer took: a peak at once, an improvement gradually (time constant ``DECAY``)."""
        if seconds > self.latency:
            self.latency = seconds
        else:
            keep = math.exp((self.latency_at - now) / DECAY)
            self.latency = self.latency * keep + seconds * (1.0 - keep)
        self.latency_at = now


M = TypeVar("M", bound=Member)

DECAY = 10.0
"""Seconds after which a past latency counts for 1/e."""

FRESH = 1.0
"""Seconds for which the last latency is taken as it is. Later it fades, also while nothing is asked of the member: else
one that was slow once would never be asked again. Not at once: whoever was asked last would look like the slower
one."""

UNKNOWN_LATENCY = 1.0
"""Seconds assumed for a member that has work, but has answered nothing yet."""


class Balancer(Protocol):
    """Chooses. ``wants_latency``: members must be told how long answers took."""

    wants_latency: bool

    def pick(self, members: Sequence[M], now: float, key: str = "") -> M:
        """One of ``members``, of which there is at least one.

        :param members: not changed in place, and another sequence whenever the ``share`` of one has changed: what a
            balancer works out from it is kept for as long as it is given the same one.
        :param key: what is asked for, or for whom. Those that hash send equal keys to the same member.
        """


class RoundRobin:
    """One after the other, whatever their weight. One whose share is less than its weight lets turns pass."""

    __slots__ = ("_next",)
    wants_latency = False

    def __init__(self) -> None:
        self._next = 0

    def pick(self, members: Sequence[M], now: float, key: str = "") -> M:
        """The one after the last."""
        index = self._next
        if index >= len(members):
            index = 0
        self._next = index + 1
        member = members[index]
        if member.share < member.weight:
            return self._in_part(members, index)
        return member

    def _in_part(self, members: Sequence[M], first: int) -> M:
        """From ``first`` on, the first one of which enough turns have been left out."""
        count = len(members)
        for index in range(first, first + count):
            member = members[index % count]
            member.credit += min(member.share / member.weight, 1.0)
            if member.credit >= 1.0:
                member.credit = min(member.credit - 1.0, 1.0)
                self._next = index % count + 1
                return member
        # all do little: as many turns more are left out by all as it takes until one is due
        rounds = [(1.0 - other.credit) * other.weight / other.share for other in members]
        least = min(rounds)
        for other in members:
            other.credit += least * other.share / other.weight
        member = members[rounds.index(least)]
        member.credit -= 1.0
        return member


class WeightedRoundRobin:
    """Smooth weighted round robin: in proportion to share, and evenly spread (5/1/1 gives a a b a c a a).

    Each choice gives every member its share as credit, takes the one with the most, and takes the sum of all shares
    from it. The credit stays with the member, so choosing from a part of the members, as a retry does, is fair too.
    """

    __slots__ = ()
    wants_latency = False

    def pick(self, members: Sequence[M], now: float, key: str = "") -> M:
        """The one that is due."""
        best = members[0]
        most = -math.inf
        total = 0.0
        for member in members:
            share = member.share
            total += share
            member.credit = credit = member.credit + share
            if credit > most:
                most = credit
                best = member
        best.credit = most - total
        return best


class LeastConnections:
    """The one with the fewest requests in flight for its share; among equals, in turn and in proportion to share.

    Where shares differ, each member keeps the virtual time at which its next turn is due (start-time fair queueing,
    Goyal et al. 1996): a turn moves it on by one over the share. One that had no turn for long is due now, not many
    times over.
    """

    __slots__ = ("_costs", "_even", "_next", "_seen", "_time")
    wants_latency = False

    def __init__(self) -> None:
        self._seen: Sequence[Member] = ()
        self._even = True  # all shares are equal
        self._costs: list[float] = []  # one over each share
        self._next = 0  # while even: whose turn it is
        self._time = 0.0  # virtual: at which the last one was due

    def pick(self, members: Sequence[M], now: float, key: str = "") -> M:
        """The least busy one."""
        if members is not self._seen:
            self._look(members)
        if self._even:
            return self._by_turns(members)
        index = at = 0
        least = due = math.inf
        for member in members:
            load = member.in_flight * self._costs[at]
            if load < least or (load == least and member.credit < due):
                least = load
                due = member.credit
                index = at
            at += 1  # noqa: SIM113 - counting by hand is faster than enumerate here
        best = members[index]
        if due < self._time:
            due = self._time
        else:
            self._time = due
        best.credit = due + self._costs[index]
        return best

    def _by_turns(self, members: Sequence[M]) -> M:
        count = len(members)
        index = self._next
        if index >= count:
            index = 0
        best = members[index]
        least = best.in_flight
        if least:
            for member in (*members[index + 1 :], *members[:index]):
                busy = member.in_flight
                if busy < least:
                    best = member
                    least = busy
                    if not busy:
                        break
            index = members.index(best)
        self._next = index + 1
        return best

    def _look(self, members: Sequence[Member]) -> None:
        self._seen = members
        self._even = len({member.share for member in members}) == 1
        self._costs = [1.0 / member.share for member in members]


class Random:
    """By chance, in proportion to share."""

    __slots__ = ("_random", "_seen", "_shares", "_total")
    wants_latency = False

    def __init__(self, source: random.Random | None = None) -> None:
        self._random = (source or random.Random()).random  # noqa: S311 - load is spread with it, nothing is secret
        self._seen: Sequence[Member] = ()
        self._shares: list[float] = []  # summed up, without the last one
        self._total = 0.0

    def pick(self, members: Sequence[M], now: float, key: str = "") -> M:
        """Any."""
        if members is not self._seen:
            self._look(members)
        return members[bisect_right(self._shares, self._random() * self._total)]

    def _look(self, members: Sequence[Member]) -> None:
        self._seen = members
        self._shares = list(accumulate(member.share for member in members))
        self._total = self._shares.pop()  # whatever is rounded, no index is past the last one


class PowerOfTwoChoices:
    """The cheaper one of two taken by chance: by peak EWMA of latency, times work in flight for its share.

    Two choices avoid both the herd that always taking the best one makes and the blindness of taking any
    (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).

    Each of the two is any member with the probability of its share, so that equals get work in proportion to their
    shares, whichever of two wins. They are two points on a line on which each member is as long as its share: the
    second is a random way behind the first, no shorter than the longest member, so that they hit two different ones.
    Only a member with more than half of all shares is compared with itself at times.
    """

    __slots__ = ("_farther", "_nearest", "_random", "_seen", "_shares", "_total", "_unit")
    wants_latency = True

    def __init__(self, source: random.Random | None = None) -> None:
        self._random = (source or random.Random()).random  # noqa: S311 - load is spread with it, nothing is secret
        self._seen: Sequence[Member] = ()
        self._shares: list[float] = []  # summed up, without the last one
        self._total = 0.0
        self._unit = 0.0  # the mean share
        self._nearest = 0.0  # the least way from the first point to the second
        self._farther = 0.0  # how much longer it can be

    def pick(self, members: Sequence[M], now: float, key: str = "") -> M:
        """The cheaper of two."""
        if members is not self._seen:
            self._look(members)
        chance, shares, total = self._random, self._shares, self._total
        at = chance() * total
        one = members[bisect_right(shares, at)]
        at += self._nearest + chance() * self._farther
        other = members[bisect_right(shares, at if at < total else at - total)]
        if one is other:
            return one
        # the same for both: latency, faded by age, times one and the work in flight there
        latency, at, busy = one.latency, one.latency_at, one.in_flight
        if not at:
            first = UNKNOWN_LATENCY * busy * self._unit / one.share
        else:
            if now - at > FRESH:
                latency *= math.exp((at + FRESH - now) / DECAY)
            first = latency * (1.0 + busy * self._unit / one.share)
        latency, at, busy = other.latency, other.latency_at, other.in_flight
        if not at:
            second = UNKNOWN_LATENCY * busy * self._unit / other.share
        else:
            if now - at > FRESH:
                latency *= math.exp((at + FRESH - now) / DECAY)
            second = latency * (1.0 + busy * self._unit / other.share)
        return one if first <= second else other

    def _look(self, members: Sequence[Member]) -> None:
        self._seen = members
        self._shares = list(accumulate(member.share for member in members))
        self._total = total = self._shares.pop()  # as in Random
        self._unit = total / len(members)
        self._nearest = min(max(member.share for member in members), total / 2)
        self._farther = total - 2 * self._nearest


BALANCERS: dict[str, Callable[[], Balancer]] = {
    "round-robin": RoundRobin,
    "weighted-round-robin": WeightedRoundRobin,
    "least-connections": LeastConnections,
    "random": Random,
    "p2c-ewma": PowerOfTwoChoices,
    "consistent-hash": ConsistentHash,
    "maglev": Maglev,
}
"""By the name that configuration uses."""


def make_balancer(name: str) -> Balancer:
    """A new balancer by its name in configuration; ``ValueError`` lists the names there are."""
    try:
        return BALANCERS[name]()
    except KeyError:
        raise ValueError(f"no balancer {name!r}: there are {', '.join(BALANCERS)}") from None
