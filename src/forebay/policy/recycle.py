"""When a worker that does its work is replaced all the same: it has served long enough, or has grown too big."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from forebay.policy.backoff import Backoff

__all__ = ["Recycle", "Wear", "Worn"]

_REST = Backoff(60.0, 2.0, 3600.0)
_RETRY = Backoff(1.0, 2.0, 300.0)


@dataclass(frozen=True, slots=True)
class Recycle:
    """How long a worker serves; then a new one takes its place and it drains. ``None``: as long as it lives.

    :param connections: how many it accepts, at most.
    :param seconds: since it was ready, at most.
    :param jitter: by up to this part less, at random for each worker, so that not all go at once.
    """

    connections: int | None = None
    seconds: float | None = None
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if self.connections is not None and self.connections < 1:
            raise ValueError(f"connections {self.connections}: must be at least 1")
        if self.seconds is not None and self.seconds <= 0:
            raise ValueError(f"seconds {self.seconds}: must be above 0")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter {self.jitter}: must be at least 0 and below 1")


@dataclass(frozen=True, slots=True)
class Worn:
    """That a worker is to be replaced, and why."""

    cause: Literal["recycle", "memory"]
    reason: str


class Wear:
    """How worn the process in one worker's place is.

    :param rest: the least time between replacements in a row that memory was the reason of. One that is above its limit
        from its start on is so not replaced for ever. A row ends when twice that time goes by without one.
    :param retry: how long to wait after a replacement could not be started.
    """

    __slots__ = (
        "_connections",
        "_failures",
        "_in_a_row",
        "_memory_limit",
        "_not_before",
        "_rest",
        "_rested_at",
        "_retry",
        "_row_ends_at",
        "_seconds",
        "_since",
    )

    def __init__(self, rest: Backoff = _REST, retry: Backoff = _RETRY) -> None:
        self._rest = rest
        self._retry = retry
        self._in_a_row = 0
        self._rested_at = -inf
        self._row_ends_at = -inf
        self._new(inf, inf, inf, 0.0)

    def _new(self, connections: float, seconds: float, memory_limit: float, now: float) -> None:
        self._connections = connections
        self._seconds = seconds
        self._memory_limit = memory_limit
        self._since = now
        self._failures = 0
        self._not_before = -inf

    def renewed(
        self, recycle: Recycle, memory_limit: int | None, *, now: float, random: float, because: str = ""
    ) -> None:
        """A process has taken the place.

        :param memory_limit: bytes of resident memory that are not too much; ``None``: any number.
        :param now: seconds, on any clock that does not go back.
        :param random: from 0 up to 1.
        :param because: the cause of the replacement, if it was one.
        """
        part = 1 - recycle.jitter * random
        self._new(
            inf if recycle.connections is None else max(1, round(recycle.connections * part)),
            inf if recycle.seconds is None else recycle.seconds * part,
            inf if memory_limit is None else memory_limit,
            now,
        )
        if because == "memory":
            if now >= self._row_ends_at:
                self._in_a_row = 0
            rest = self._rest.delay(self._in_a_row)
            self._in_a_row += 1
            self._rested_at = now + rest
            self._row_ends_at = now + 2 * rest

    def failed(self, now: float) -> float:
        """Its replacement could not be started: how many seconds nothing is decided."""
        delay = self._retry.delay(self._failures)
        self._failures += 1
        self._not_before = now + delay
        return delay

    def verdict(self, now: float, *, accepted: int, memory: int) -> Worn | None:
        """Whether to replace the process.

        :param accepted: the connections it has accepted.
        :param memory: bytes of it that are resident.
        """
        if now < self._not_before:
            return None
        if memory > self._memory_limit and now >= self._rested_at:
            return Worn("memory", f"{_mebibytes(memory)} resident, its limit is {_mebibytes(self._memory_limit)}")
        if accepted >= self._connections:
            return Worn("recycle", f"it accepted {accepted} connections")
        if (age := now - self._since) >= self._seconds:
            return Worn("recycle", f"it served for {age:.0f} s")
        return None


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"
