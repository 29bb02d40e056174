"""Who is sent away while a queue does not empty: the least urgent first, and whoever would wait past its deadline."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import inf
from typing import Any

from forebay.policy.priority import Priority
from forebay.policy.verdict import Refused

__all__ = ["Shedder", "Shedding"]


@dataclass(frozen=True, slots=True)
class Shedding:
    """Rules: from which standing delay on, in seconds, work of a priority is shed. ``inf``: never.

    :ivar low: 0.05: low work is what can be done later, so it goes as soon as a queue stands.
    :ivar normal: 0.2: past that people notice.
    :ivar high: never, unless it is given: the limits of the queue hold for it all the same.
    :ivar interval: seconds a queue must not have emptied in to count as standing. 0.1, RFC 8289's (section 4.2): a
        burst is over by then.
    :ivar release: shedding ends below this share of the delay it began at, so that it does not flap; 0 to 1.
    """

    low: float = 0.05
    normal: float = 0.2
    high: float = inf
    interval: float = 0.1
    release: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.normal <= self.high:
            raise ValueError(f"low {self.low}, normal {self.normal}, high {self.high}: must rise from above 0")
        if not 0 < self.interval < inf:
            raise ValueError(f"interval {self.interval}: must be more than 0 seconds")
        if not 0 <= self.release <= 1:
            raise ValueError(f"release {self.release}: must be 0 to 1")


class Shedder:
    """Sheds load by the *standing* delay of a queue, which is told apart from a burst as CoDel does it (RFC 8289,
    section 3.2): it is the smallest delay seen in an interval, so one moment with an empty queue is a delay of 0.

    ``delay`` is half the one of the last interval and half what it was before. A priority is shed from its threshold on
    until ``delay`` is below ``release`` times that.

    :ivar delay: seconds.
    :ivar enabled: False: everything is admitted.
    """

    __slots__ = (
        "_ends_at",
        "_shedding",
        "_smallest",
        "_thresholds",
        "admitted",
        "delay",
        "enabled",
        "refused",
        "rules",
    )

    def __init__(self, rules: Shedding, *, enabled: bool = True) -> None:
        self.rules = rules
        self.enabled = enabled
        self.delay = 0.0
        self.admitted = 0
        self.refused: Counter[str] = Counter()
        self._smallest = inf
        self._ends_at = -inf
        self._thresholds = {Priority.HIGH: rules.high, Priority.NORMAL: rules.normal, Priority.LOW: rules.low}
        self._shedding = dict.fromkeys(Priority, False)

    def observe(self, delay: float, now: float) -> None:
        """Take a delay into account: what one that is now taken from the queue has waited, or what a new one would have
        to wait. Where the queue is one with priorities only the latter will do: the urgent never wait.

        :param delay: seconds; 0.0 also for those who did not have to wait.
        """
        if now >= self._ends_at:
            self._interval_ended(now)
        if delay < self._smallest:
            self._smallest = delay

    def admit(self, priority: Priority, now: float, remaining: float = inf) -> Refused | None:
        """Whether work may come in.

        :param remaining: seconds until nobody wants it done any more. Where that is less than the standing delay it is
            refused, whatever its priority.
        """
        if now >= self._ends_at:
            self._interval_ended(now)
        if self.enabled:
            if remaining <= 0 or remaining < self.delay:
                self.refused["deadline"] += 1
                return Refused(
                    "shedding", "deadline", f"{remaining:.3f} s remain, and the queue alone takes {self.delay:.3f} s"
                )
            if self._shedding[priority]:
                self.refused["shed"] += 1
                return Refused(
                    "shedding",
                    "shed",
                    f"{priority} work is shed: for {self.rules.interval:g} s the queue did not get below "
                    f"{self.delay:.3f} s, the limit is {self._thresholds[priority]:g} s",
                    self.rules.interval,
                )
        self.admitted += 1
        return None

    def sheds(self, priority: Priority) -> bool:
        """Whether work of ``priority`` is shed at present."""
        return self._shedding[priority]

    def statistics(self) -> dict[str, Any]:
        """The standing delay in seconds, what is shed, and counts."""
        return {
            "enabled": self.enabled,
            "delay": self.delay,
            "shedding": [str(priority) for priority, sheds in self._shedding.items() if sheds],
            "admitted": self.admitted,
            "refused": dict(self.refused),
        }

    def _interval_ended(self, now: float) -> None:
        interval = self.rules.interval
        if now >= self._ends_at + interval or self._smallest == inf:  # nothing went by: there is no queue
            self.delay = 0.0 if now >= self._ends_at + interval else self.delay / 2
        else:
            self.delay += (self._smallest - self.delay) / 2
        self._smallest = inf
        self._ends_at = now + interval
        for priority, threshold in self._thresholds.items():
            if self._shedding[priority]:
                self._shedding[priority] = self.delay >= threshold * self.rules.release and self.delay > 0
            else:
                self._shedding[priority] = self.delay >= threshold
