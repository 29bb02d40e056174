"""Which job is next, which is refused or pushed out, and which came too late."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Generic, Literal, TypeVar, get_args

__all__ = ["Admission", "Priority", "PriorityQueue", "WhenFull"]

T = TypeVar("T")

WhenFull = Literal["reject", "wait", "drop-lowest", "drop-oldest"]
"""What happens to a job for which the queue has no place: see :class:`PriorityQueue`."""


class Priority(StrEnum):
    """How urgent a job is. Declared from the most to the least urgent."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Admission(Generic[T]):
    """What became of a job that was offered: ``queued``, ``waiting`` for a place, or ``refused``.

    :ivar limit: the limit that was reached, ``queue`` or ``queue_high``, ``queue_normal``, ``queue_low``; empty when
        there was a place.
    :ivar victim: the job that was pushed out to make a place.
    """

    outcome: Literal["queued", "waiting", "refused"]
    limit: str = ""
    victim: T | None = None


class _Level(Generic[T]):
    """The jobs of one priority, in the order they came, each with the moment past which it must not be started."""

    __slots__ = ("limit", "name", "passed_over", "queued", "rank", "waiting")

    def __init__(self, rank: int, name: str, limit: float) -> None:
        self.rank = rank
        self.name = name
        self.limit = limit
        self.queued: OrderedDict[T, float] = OrderedDict()
        self.waiting: OrderedDict[T, float] = OrderedDict()  # for a place in the queue; behind all that are queued
        self.passed_over = 0  # starts of more urgent jobs since one of these was started, or since there are any

    def __bool__(self) -> bool:
        return bool(self.queued or self.waiting)


class PriorityQueue(Generic[T]):
    """A bounded queue with three priorities. Within one, first come first served.

    A more urgent job goes first, with one exception, so that the less urgent are not starved: a level (``normal`` or
    ``low``) that had jobs while ``patience`` more urgent ones were started has the next turn. Whatever comes in above
    them, of the jobs started while a ``normal`` one waits at the head of its level at most ``patience + 2`` go before
    it, and at most ``patience + 1`` while it is a ``low`` one; a ``high`` job sees at most two go before it.

    When there is no place for a job:

    * ``reject``: it is refused.
    * ``wait``: it waits for one, outside the queue. How many do is not bounded here: each holds its submitter.
    * ``drop-lowest``: the job queued last of the least urgent level gives its place, when it is less urgent than the
      new one; else the new one is refused.
    * ``drop-oldest``: the oldest job of the least urgent level gives its place, when it is not more urgent than the
      new one; else the new one is refused.

    Where it is a level's own limit that is reached, only jobs of that level can make a place: ``drop-lowest`` refuses.

    :param limit: jobs queued at most, all together; 0: none is, which leaves ``reject`` and ``wait`` as choices.
    :param limits: jobs queued at most per priority; those that are not named have only ``limit``.
    :param patience: at least 1.
    """

    __slots__ = ("_levels", "_queued", "limit", "patience", "when_full")

    def __init__(
        self,
        limit: int,
        *,
        limits: Mapping[Priority, int] | None = None,
        when_full: WhenFull = "reject",
        patience: int = 8,
    ) -> None:
        limits = limits or {}
        if limit < 0 or any(bound < 0 for bound in limits.values()):
            raise ValueError(f"limit {limit}, limits {dict(limits)}: must be at least 0")
        if patience < 1:
            raise ValueError(f"patience {patience}: must be at least 1")
        if when_full not in get_args(WhenFull):
            raise ValueError(f"when_full {when_full!r}: must be one of {', '.join(get_args(WhenFull))}")
        self.limit = limit
        self.when_full = when_full
        self.patience = patience
        self._queued = 0
        self._levels: dict[Priority, _Level[T]] = {
            priority: _Level(rank, f"queue_{priority}", limits.get(priority, inf))
            for rank, priority in enumerate(Priority)
        }

    def __len__(self) -> int:
        """How many jobs are queued; those that wait for a place do not count."""
        return self._queued

    def __bool__(self) -> bool:
        """Whether there is any job to take, queued or waiting for a place."""
        return any(self._levels.values())

    @property
    def waiting(self) -> int:
        """How many jobs wait for a place in the queue."""
        return sum(len(level.waiting) for level in self._levels.values())

    def lengths(self) -> dict[Priority, int]:
        """How many jobs are queued per priority."""
        return {priority: len(level.queued) for priority, level in self._levels.items()}

    def offer(self, job: T, priority: Priority, expires_at: float = inf, *, may_wait: bool = True) -> Admission[T]:
        """Decide about a new job.

        :param expires_at: from this moment on it is not started any more; on the clock of :meth:`take`.
        :param may_wait: whether its submitter can wait for a place; if not, ``wait`` refuses as ``reject`` does.
        """
        level = self._levels[priority]
        limit = self._limit_reached(level)
        victim: T | None = None
        if limit:
            if self.when_full == "wait" and may_wait:
                level.waiting[job] = expires_at
                return Admission("waiting", limit)
            victim = self._victim(level, own=limit == level.name)
            if victim is None:
                return Admission("refused", limit)
            self.discard(victim)
        level.queued[job] = expires_at
        self._queued += 1
        return Admission("queued", limit, victim)

    def take(self, now: float) -> tuple[T | None, list[T]]:
        """Take out the job to start now, if there is one, and with it those found on the way that came too late."""
        expired: list[T] = []
        while (level := self._turn()) is not None:
            if level.queued:
                job, expires_at = level.queued.popitem(last=False)
                self._queued -= 1
            else:
                job, expires_at = level.waiting.popitem(last=False)
            if expires_at <= now:
                expired.append(job)
                if not level:
                    level.passed_over = 0
                continue
            for other in self._levels.values():
                if not other:
                    other.passed_over = 0
                elif other.rank > level.rank:
                    other.passed_over += 1
            level.passed_over = 0
            return job, expired
        return None, expired

    def admit(self) -> list[T]:
        """Give free places to jobs that wait for one, the most urgent first; return those that are queued now."""
        admitted: list[T] = []
        for level in self._levels.values():
            while level.waiting and not self._limit_reached(level):
                job, expires_at = level.waiting.popitem(last=False)
                level.queued[job] = expires_at
                self._queued += 1
                admitted.append(job)
        return admitted

    def discard(self, job: T) -> bool:
        """Take ``job`` out. False: it was not there."""
        for level in self._levels.values():
            if level.queued.pop(job, None) is not None:
                self._queued -= 1
            elif level.waiting.pop(job, None) is None:
                continue
            if not level:
                level.passed_over = 0
            return True
        return False

    def clear(self) -> list[T]:
        """Take everything out, the most urgent first."""
        jobs: list[T] = []
        for level in self._levels.values():
            jobs += (*level.queued, *level.waiting)
            level.queued.clear()
            level.waiting.clear()
            level.passed_over = 0
        self._queued = 0
        return jobs

    def _limit_reached(self, level: _Level[T]) -> str:
        if len(level.queued) >= level.limit:
            return level.name
        return "queue" if self._queued >= self.limit else ""

    def _victim(self, level: _Level[T], *, own: bool) -> T | None:
        if self.when_full == "drop-oldest":
            candidates = [level] if own else [other for other in self._levels.values() if other.rank >= level.rank]
        elif self.when_full == "drop-lowest" and not own:
            candidates = [other for other in self._levels.values() if other.rank > level.rank]
        else:
            return None
        for other in reversed(candidates):
            if other.queued:
                return next(iter(other.queued) if self.when_full == "drop-oldest" else reversed(other.queued))
        return None

    def _turn(self) -> _Level[T] | None:
        """The level whose turn it is; None: there are no jobs."""
        first: _Level[T] | None = None
        overdue: _Level[T] | None = None
        for level in self._levels.values():
            if not level:
                continue
            if first is None:
                first = level
            if level.passed_over >= self.patience and (overdue is None or level.passed_over > overdue.passed_over):
                overdue = level
        return overdue or first
