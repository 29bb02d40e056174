"""Choosing one of several equals. Who may be chosen is decided elsewhere (:mod:`forebay.policy.health`)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

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
    :param weight: its share of the work, at least 1.

    The owner keeps ``in_flight`` up to date, and calls :meth:`observe` after each answer where the balancer
    ``wants_latency``. A member is chosen from by one balancer at a time.
    """

    __slots__ = ("credit", "in_flight", "latency", "latency_at", "name", "weight")

    def __init__(self, name: str, weight: int = 1) -> None:
        if weight < 1:
            raise ValueError(f"weight {weight} of {name}: must be at least 1")
        self.name = name
        self.weight = weight
        self.credit = 0  # of smooth weighted round robin
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

UNKNOWN_LATENCY = 1.0
"""Seconds assumed for a member that has work, but has answered nothing yet."""


class Balancer(Protocol):
    """Chooses. ``wants_latency``: members must be told how long answers took."""

    wants_latency: bool

    def pick(self, members: Sequence[M], now: float) -> M:
        """One of ``members``, of which there is at least one."""


class RoundRobin:
    """One after the other, whatever their weight."""

    __slots__ = ("_next",)
    wants_latency = False

    def __init__(self) -> None:
        self._next = 0

    def pick(self, members: Sequence[M], now: float) -> M:
        """The one after the last."""
        index = self._next
        if index >= len(members):
            index = 0
        self._next = index + 1
        return members[index]


class WeightedRoundRobin:
    """Smooth weighted round robin: in proportion to weight, and evenly spread (5/1/1 gives a a b a c a a).

    Each choice gives every member its weight as credit, takes the one with the most, and takes the sum of all weights
    from it. The credit stays with the member, so choosing from a part of the members, as a retry does, is fair too.
    """

    __slots__ = ()
    wants_latency = False

    def pick(self, members: Sequence[M], now: float) -> M:
        """The one that is due."""
        best = members[0]
        total = 0
        for member in members:
            weight = member.weight
            total += weight
            member.credit += weight
            if member.credit > best.credit:
                best = member
        best.credit -= total
        return best


class LeastConnections:
    """The one with the fewest requests in flight for its weight; among equals, smooth weighted round robin."""

    __slots__ = ("_ties",)
    wants_latency = False

    def __init__(self) -> None:
        self._ties = WeightedRoundRobin()

    def pick(self, members: Sequence[M], now: float) -> M:
        """The least busy one."""
        least = min(member.in_flight / member.weight for member in members)
        return self._ties.pick([member for member in members if member.in_flight / member.weight == least], now)


class Random:
    """By chance, in proportion to weight."""

    __slots__ = ("_random",)
    wants_latency = False

    def __init__(self, source: random.Random | None = None) -> None:
        self._random = source or random.Random()  # noqa: S311 - load is spread with it, nothing is secret

    def pick(self, members: Sequence[M], now: float) -> M:
        """Any."""
        return self._random.choices(members, [member.weight for member in members])[0]


class PowerOfTwoChoices:
    """The cheaper one of two taken at random, by peak EWMA of latency times work in flight, for its weight.

    Two choices avoid both the herd that always taking the best one makes and the blindness of taking any
    (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
    """

    __slots__ = ("_random",)
    wants_latency = True

    def __init__(self, source: random.Random | None = None) -> None:
        self._random = source or random.Random()  # noqa: S311 - load is spread with it, nothing is secret

    def pick(self, members: Sequence[M], now: float) -> M:
        """The cheaper of two."""
        count = len(members)
        if count == 1:
            return members[0]
        first = int(self._random.random() * count)
        second = int(self._random.random() * (count - 1))
        if second >= first:
            second += 1
        one, other = members[first], members[second]
        return one if self._cost(one, now) <= self._cost(other, now) else other

    def _cost(self, member: Member, now: float) -> float:
        if not member.latency_at:
            return UNKNOWN_LATENCY * member.in_flight / member.weight
        # an old peak fades also while nothing is asked of the member: else it would never be asked again
        latency = member.latency * math.exp((member.latency_at - now) / DECAY)
        return latency * (member.in_flight + 1) / member.weight


BALANCERS: dict[str, Callable[[], Balancer]] = {
    "round-robin": RoundRobin,
    "weighted-round-robin": WeightedRoundRobin,
    "least-connections": LeastConnections,
    "random": Random,
    "p2c-ewma": PowerOfTwoChoices,
}
"""By the name that configuration uses."""


def make_balancer(name: str) -> Balancer:
    """A new balancer by its name in configuration; ``ValueError`` lists the names there are."""
    try:
        return BALANCERS[name]()
    except KeyError:
        raise ValueError(f"no balancer {name!r}: there are {', '.join(BALANCERS)}") from None
