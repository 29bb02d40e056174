"""Who is let in."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

from forebay.policy.limits import RateLimit

__all__ = ["Doorkeeper", "Refusal"]


_UNBOUNDED = frozenset({"", "unix"})  # who it is is not known yet; somebody on this machine


class Refusal(StrEnum):
    """Why a connection was not let in."""

    FULL = "max-connections"
    PER_PEER = "per-peer"
    RATE = "accept-rate"


class Doorkeeper:
    """Counts who is inside, by host, and lets nobody in past the bounds. The bound per host is not for those whose host
    is empty, which is not known yet, or ``unix``.

    :param maximum: how many may be inside at once.
    :param per_peer: how many of one host; ``None``: no bound.
    :param rate: how many are let in per second; ``None``: no bound.
    :param burst: how many at once after a quiet time; a second's worth when not given.
    """

    __slots__ = ("_hosts", "_rate", "inside", "maximum", "per_peer", "refused")

    def __init__(
        self, maximum: int, *, per_peer: int | None = None, rate: float | None = None, burst: int | None = None
    ) -> None:
        self.maximum = maximum
        self.per_peer = per_peer
        self.inside = 0
        self.refused: Counter[Refusal] = Counter()
        self._rate = RateLimit(rate, burst or max(1, round(rate)), max_keys=1) if rate is not None else None
        self._hosts: dict[str, tuple[str, int]] = {}  # the host again, and how many of it are inside

    def enter(self, host: str, now: float) -> Refusal | None:
        """Let one of ``host`` in, unless a bound says no: which one it was is counted, and returned."""
        refusal = None
        if self.inside >= self.maximum:
            refusal = Refusal.FULL
        elif self._too_many(host):
            refusal = Refusal.PER_PEER
        elif self._rate is not None and self._rate.take("", now):
            refusal = Refusal.RATE
        if refusal is not None:
            self.refused[refusal] += 1
            return refusal
        self._add(host)
        return None

    def move(self, before: str, host: str) -> Refusal | None:
        """One that was let in as of ``before`` turns out to be of ``host``. When that has too many, it has to go."""
        if before == host:
            return None
        self.leave(before)
        if self._too_many(host):
            self.refused[Refusal.PER_PEER] += 1
            return Refusal.PER_PEER
        self._add(host)
        return None

    def leave(self, host: str) -> None:
        """One of ``host`` left."""
        self.inside -= 1
        name, count = self._hosts[host]
        if count == 1:
            del self._hosts[host]
        else:
            self._hosts[host] = name, count - 1

    def count(self, host: str) -> int:
        """How many of ``host`` are inside."""
        return self._hosts[host][1] if host in self._hosts else 0

    def name(self, host: str) -> str:
        """The one string that all connections of ``host`` may share."""
        return self._hosts[host][0]

    def _too_many(self, host: str) -> bool:
        return self.per_peer is not None and host not in _UNBOUNDED and self.count(host) >= self.per_peer

    def _add(self, host: str) -> None:
        self.inside += 1
        name, count = self._hosts.get(host, (host, 0))
        self._hosts[host] = name, count + 1
