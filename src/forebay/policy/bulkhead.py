"""How many calls there are at once, who waits for a place, and who is refused one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Generic, TypeAlias, TypeVar

from forebay.policy.adaptive import Adaptive, AdaptiveLimit
from forebay.policy.priority import Priority, PriorityQueue, WhenFull
from forebay.policy.shedding import Shedder, Shedding
from forebay.policy.verdict import Refused

__all__ = ["Bulkhead", "Compartment", "Verdicts", "Waiting"]

W = TypeVar("W", bound=Hashable)

Verdicts: TypeAlias = Sequence[tuple[W, Refused | None]]
"""What became of some who waited: ``None``: it has a place now."""

OWN_SERVICE = 2  # mean times that a place is held: what a call is expected to need itself, to be answered in time
SERVICE_WEIGHT = 1 / 32  # of one call in the mean time a place is held


@dataclass(frozen=True, slots=True)
class Bulkhead:
    """Rules: how many calls at once, and how many wait for how long. So called after the walls that keep a leak to one
    part of a ship: one slow dependency does not take everything that there is.

    :ivar limit: calls at once, at least 1; or the rules by which the number is found out. There is no default: it
        depends on what is called.
    :ivar max_waiting: calls that wait for a place at most. 100: a burst, not a backlog; 0: none waits.
    :ivar max_wait: seconds that a call waits at most. 1.0: about as long as somebody who waits for an answer would; 0:
        none waits.
    :ivar when_full: what becomes of a call when ``max_waiting`` do: ``reject``, ``drop-lowest`` or ``drop-oldest``, as
        :class:`~forebay.policy.priority.PriorityQueue` has it. ``drop-lowest``: among equals it refuses, as ``reject``
        does, and what is urgent has its place.
    :ivar patience: more urgent calls that go before a waiting one, before it is its turn; at least 1.
    :ivar shed: rules by which calls are shed that would have to wait behind a queue that does not empty; ``None``: none
        are.
    """

    limit: int | Adaptive
    max_waiting: int = 100
    max_wait: float = 1.0
    when_full: WhenFull = "drop-lowest"
    patience: int = 8
    shed: Shedding | None = None

    def __post_init__(self) -> None:
        _check(self.limit)
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting {self.max_waiting}: must be at least 0")
        if not (isfinite(self.max_wait) and self.max_wait >= 0):
            raise ValueError(f"max_wait {self.max_wait}: must be at least 0 seconds, and finite")
        if self.when_full not in ("reject", "drop-lowest", "drop-oldest"):
            raise ValueError(f"when_full {self.when_full!r}: must be reject, drop-lowest or drop-oldest")
        if self.patience < 1:
            raise ValueError(f"patience {self.patience}: must be at least 1")


@dataclass(frozen=True, slots=True)
class Waiting(Generic[W]):
    """There is no place now: the caller waits until it is in what a later call returns.

    :ivar expires_at: when :meth:`Compartment.expire` is to be called for it.
    :ivar victim: one that had waited and gave its place for this one, and what it is told.
    """

    expires_at: float
    victim: tuple[W, Refused] | None = None


class Compartment(Generic[W]):
    """What one bulkhead holds, and who waits for it. Each waiter is any object that can be hashed, once.

    Each call is one :meth:`try_enter` or :meth:`enter`, and, where it got a place (at once, or by being in the verdicts
    of something else), one :meth:`leave`. Places that come free go to those who wait, most urgent first and within a
    priority first come first served; nobody who comes later overtakes them, since there is no free place while anyone
    waits. Whoever has to wait is refused at once when it is plain that its deadline will not be met: when the mean time
    a place is held, once for each round of calls ahead of it and twice for its own, would be longer. (Twice: of
    exponential times one in three is longer than their mean, and one in seven longer than twice that.)

    ============  ==================================================================================
    reason        why it was refused
    ============  ==================================================================================
    full          there is no place, and nobody may wait
    queue-full    as many wait as may, none of which gives its place for this one
    pushed-out    it waited, and gave its place for one that is more urgent, or came later
    max-wait      it waited for ``max_wait`` seconds
    deadline      its deadline is over, or would be before it could have been answered
    shed          a queue stands, and its priority is shed meanwhile
    closed        the compartment was closed
    ============  ==================================================================================

    :ivar limit: calls at once, now. Lowering it throws nobody out.
    :ivar service: seconds a place is held, in the mean over about 32 calls; 0.0: not known.
    :ivar enabled: False: everyone gets a place, and is counted. Those who wait get theirs when the next call ends.
    """

    __slots__ = (
        "_at",
        "_held",
        "_queue",
        "_since",
        "abandoned",
        "adaptive",
        "admitted",
        "closed",
        "enabled",
        "in_flight",
        "limit",
        "name",
        "refused",
        "rules",
        "service",
        "shedder",
        "waiting",
    )

    def __init__(self, rules: Bulkhead, name: str = "bulkhead", *, enabled: bool = True) -> None:
        self.rules = rules
        self.name = name
        self.enabled = enabled
        self.closed = False
        self.in_flight = 0
        self.waiting = 0
        self.admitted = 0
        self.abandoned = 0
        self.refused: Counter[str] = Counter()
        self.service = 0.0
        self.shedder = Shedder(rules.shed) if rules.shed is not None else None
        self.adaptive: AdaptiveLimit | None = None
        self.limit = 0
        self._set_limit(rules.limit)
        self._queue: PriorityQueue[W] = PriorityQueue(
            rules.max_waiting, when_full=rules.when_full, patience=rules.patience
        )
        self._since: dict[W, tuple[float, bool]] = {}  # who waits: since when, and whether its deadline ends that
        self._at = 0.0  # when in_flight last changed
        self._held = 0.0  # seconds that places were held since a call last ended, over all places

    def try_enter(self, now: float) -> bool:
        """Take a place if there is a free one. Where there is not, nothing is counted: :meth:`enter` decides."""
        in_flight = self.in_flight
        if in_flight >= self.limit:
            return False
        if in_flight:
            self._held += in_flight * (now - self._at)
        self._at = now
        self.in_flight = in_flight + 1
        self.admitted += 1
        if self.shedder is not None:
            self.shedder.observe(0.0, now)
        return True

    def enter(
        self, waiter: W, now: float, priority: Priority = Priority.NORMAL, deadline: float = inf
    ) -> Waiting[W] | Refused | None:
        """Take a place (``None``), wait for one, or be refused.

        :param deadline: on the clock of ``now``: when nobody wants an answer any more.
        """
        if self.closed:
            return self._refuse("closed", f"{self.name} is closed")
        if deadline <= now and self.enabled:
            return self._refuse("deadline", f"its deadline was over {now - deadline:.3f} s before it came")
        if self.try_enter(now):
            return None
        if not self.enabled:
            self._admit(now)
            return None
        return self._queue_up(waiter, now, priority, deadline)

    def leave(self, now: float, seconds: float = -1.0, dropped: bool = False) -> Verdicts[W]:
        """Give a place back, and learn who of those who wait has one now, or came too late.

        :param seconds: how long the call took, for an adaptive limit; below 0: that says nothing about the server.
        :param dropped: it was not answered: it timed out, or the server had no place for it.
        """
        in_flight = self.in_flight
        held = self._held + in_flight * (now - self._at)
        service = self.service
        self.service = service + (held - service) * SERVICE_WEIGHT if service else held
        self._held = 0.0
        self._at = now
        self.in_flight = in_flight - 1
        if seconds >= 0 and self.adaptive is not None and self.enabled and not self.closed:
            self.adaptive.observe(seconds, in_flight, dropped, now)
            self.limit = self.adaptive.limit
        if self.waiting:
            return self._next(now)
        return ()

    def give_back(self, now: float) -> Verdicts[W]:
        """Give a place back that was not used: its caller went before it began. As :meth:`leave`."""
        self._hold(now)
        self.in_flight -= 1
        self.admitted -= 1
        self.abandoned += 1
        return self._next(now) if self.waiting else ()

    def abandon(self, waiter: W) -> bool:
        """``waiter`` waits no more. False: it did not; if it has a place that it does not use, it is to be given
        back."""
        if self._since.pop(waiter, None) is None:
            return False
        self._queue.discard(waiter)
        self.waiting -= 1
        self.abandoned += 1
        return True

    def expire(self, waiter: W, now: float) -> Refused | None:
        """``waiter`` has waited until its ``expires_at``: what it is to be told. None: it does not wait any more."""
        if waiter not in self._since:
            return None
        self._queue.discard(waiter)
        return self._too_late(waiter, now)

    def resize(self, limit: int | Adaptive, now: float) -> Verdicts[W]:
        """Let another limit hold from now on. Who is inside stays.

        :raises ValueError: it is less than 1.
        """
        _check(limit)
        if self.closed:
            return ()
        self._set_limit(limit)
        return self._next(now) if self.waiting else ()

    def close(self) -> Verdicts[W]:
        """Admit nobody any more, and send away those who wait. Who is inside stays. Idempotent."""
        self.closed = True
        self.limit = 0
        self._since.clear()
        self.waiting = 0
        return [(waiter, self._refuse("closed", f"{self.name} is closed")) for waiter in self._queue.clear()]

    def expected_wait(self, priority: Priority = Priority.LOW) -> float:
        """Seconds that a new call of ``priority`` would probably wait for a place: the mean time one is held, for each
        round of calls ahead of it."""
        if self.in_flight < self.limit or not self.limit:
            return 0.0
        if priority is Priority.LOW:
            ahead = self.waiting
        else:
            lengths = self._queue.lengths()
            ahead = lengths[Priority.HIGH] + (lengths[Priority.NORMAL] if priority is Priority.NORMAL else 0)
        return self.service * (ahead + 1 + self.in_flight - self.limit) / self.limit

    def statistics(self) -> dict[str, Any]:
        """Counts and the state now; ``service`` and ``expected_wait`` in seconds."""
        found: dict[str, Any] = {
            "enabled": self.enabled,
            "closed": self.closed,
            "limit": self.limit,
            "in_flight": self.in_flight,
            "waiting": self.waiting,
            "admitted": self.admitted,
            "abandoned": self.abandoned,
            "refused": dict(self.refused),
            "service": self.service,
            "expected_wait": self.expected_wait(),
        }
        if self.adaptive is not None:
            found["adaptive"] = self.adaptive.statistics()
        if self.shedder is not None:
            found["shedding"] = self.shedder.statistics()
        return found

    def _queue_up(self, waiter: W, now: float, priority: Priority, deadline: float) -> Waiting[W] | Refused:
        rules = self.rules
        if not rules.max_waiting or not rules.max_wait:
            return self._refuse("full", f"all {self.limit} places of {self.name} are taken")
        if self.shedder is not None:
            self.shedder.observe(self.service * self.waiting / self.limit, now)
            shed = self.shedder.admit(priority, now)
            if shed is not None:
                self.refused[shed.reason] += 1
                return Refused("bulkhead", shed.reason, shed.detail, shed.retry_after)
        start_by = deadline - OWN_SERVICE * self.service  # later it would hardly be answered in time
        if start_by < inf and now + (wait := self.expected_wait(priority)) > start_by:
            return self._refuse(
                "deadline",
                f"{deadline - now:.3f} s remain; waiting for a place takes about {wait:.3f} s, and the call "
                f"{self.service:.3f} s in the mean",
            )
        expires_at = min(now + rules.max_wait, start_by)
        admission = self._queue.offer(waiter, priority, expires_at)
        if admission.outcome == "refused":
            return self._refuse("queue-full", f"{self.waiting} wait for the {self.limit} places of {self.name}")
        self._since[waiter] = now, start_by < now + rules.max_wait
        if admission.victim is None:
            self.waiting += 1
            return Waiting(expires_at)
        del self._since[admission.victim]
        told = self._refuse("pushed-out", f"gave its place in the queue of {self.name} for a {priority} call")
        return Waiting(expires_at, (admission.victim, told))

    def _next(self, now: float) -> Verdicts[W]:
        """Hand out what places there are."""
        verdicts: list[tuple[W, Refused | None]] = []
        while self.waiting and (self.in_flight < self.limit or not self.enabled):
            taken, expired = self._queue.take(now)
            verdicts += [(waiter, self._too_late(waiter, now)) for waiter in expired]
            if taken is not None:
                del self._since[taken]
                self.waiting -= 1
                self._admit(now)
                verdicts.append((taken, None))
        if self.shedder is not None:
            self.shedder.observe(self.service * self.waiting / self.limit, now)
        return verdicts

    def _admit(self, now: float) -> None:
        self._hold(now)
        self.in_flight += 1
        self.admitted += 1

    def _hold(self, now: float) -> None:
        self._held += self.in_flight * (now - self._at)
        self._at = now

    def _too_late(self, waiter: W, now: float) -> Refused:
        since, by_deadline = self._since.pop(waiter)
        self.waiting -= 1
        waited = f"waited {now - since:.3f} s for one of the {self.limit} places of {self.name}"
        if by_deadline:
            return self._refuse("deadline", f"{waited}: too late to be answered before its deadline")
        return self._refuse("max-wait", waited)

    def _refuse(self, reason: str, detail: str) -> Refused:
        self.refused[reason] += 1
        return Refused("bulkhead", reason, detail, 0.0 if self.closed else self.expected_wait())

    def _set_limit(self, limit: int | Adaptive) -> None:
        if isinstance(limit, Adaptive):
            self.adaptive = AdaptiveLimit(limit)
            self.limit = self.adaptive.limit
        else:
            self.adaptive = None
            self.limit = limit


def _check(limit: int | Adaptive) -> None:
    if not isinstance(limit, Adaptive) and limit < 1:
        raise ValueError(f"limit {limit}: must be at least 1")
