"""What the last calls were like: so many of them, or those of so many seconds."""

from __future__ import annotations

import math
from collections import deque

__all__ = ["CountWindow", "TimeWindow"]


class CountWindow:
    """The outcomes of the last ``size`` calls, one byte each.

    :param size: calls that count, at least 1.
    :ivar calls: how many there are, at most ``size``.
    :ivar failures: how many of them failed.
    :ivar slow: how many of them were slow, failed or not.
    :raises ValueError: ``size`` is below 1.
    """

    __slots__ = ("_at", "_ring", "calls", "failures", "size", "slow")
    calls: int
    failures: int
    slow: int
    _at: int
    _ring: bytearray

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size {size}: must be at least 1")
        self.size = size
        self.clear()

    def record(self, failed: bool, slow: bool, now: float) -> None:
        """Count a call in the place of the oldest one; ``now`` does not matter here."""
        at = self._at
        oldest = self._ring[at]  # bit 0: it failed; bit 1: it was slow; 0 also while there is none
        latest = (1 if failed else 0) + (2 if slow else 0)
        if latest != oldest:
            self._ring[at] = latest
            self.failures += (latest & 1) - (oldest & 1)
            self.slow += (latest >> 1) - (oldest >> 1)
        if self.calls < self.size:
            self.calls += 1
        at += 1
        self._at = at if at < self.size else 0

    def advance(self, now: float) -> None:
        """Nothing: no outcome goes because time passes."""

    def clear(self) -> None:
        """Forget all calls."""
        self.calls = self.failures = self.slow = 0
        self._at = 0
        self._ring = bytearray(self.size)


class TimeWindow:
    """The outcomes of the last ``seconds``, in buckets of time; the memory does not depend on how many calls there are.

    The buckets begin at multiples of ``seconds / buckets``. What counts is the bucket that ``now`` is in and the
    ``buckets - 1`` before it, exactly; a call thus counts for at most ``seconds``, and for at least one bucket less.

    :param seconds: above 0.
    :param buckets: at least 1. More follow time more closely, and only the turn from one to the next costs more.
    :ivar calls: how many there are, as of the last :meth:`record` or :meth:`advance`.
    :ivar failures: how many of them failed.
    :ivar slow: how many of them were slow, failed or not.
    :raises ValueError: a parameter is out of bounds.

    A time before the current bucket counts as within it: clocks that stand still or are read late do no harm.
    """

    __slots__ = ("_bucket", "_past", "_until", "_width", "buckets", "calls", "failures", "seconds", "slow")
    calls: int
    failures: int
    slow: int
    _bucket: int
    _until: float

    def __init__(self, seconds: float, buckets: int = 10) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds {seconds}: must be above 0, and finite")
        if buckets < 1:
            raise ValueError(f"buckets {buckets}: must be at least 1")
        self.seconds = seconds
        self.buckets = buckets
        self._width = seconds / buckets
        # calls, failures, slow of each bucket before the current one, which is what the sums have beyond these
        self._past: deque[tuple[int, int, int]] = deque(maxlen=buckets - 1)
        self.clear()

    def record(self, failed: bool, slow: bool, now: float) -> None:
        """Count a call that ended at ``now``."""
        if now >= self._until:
            self.advance(now)
        self.calls += 1
        if failed:
            self.failures += 1
        if slow:
            self.slow += 1

    def advance(self, now: float) -> None:
        """Let go what is too old at ``now``."""
        if now < self._until:
            return
        bucket = int(now // self._width)
        turns = bucket - self._bucket
        if turns >= self.buckets:
            self.clear()
        elif turns > 0 and self.calls:  # without any, all buckets are alike
            past = self._past
            calls, failures, slow = self._past_sums()
            past.append((self.calls - calls, self.failures - failures, self.slow - slow))
            past.extend([(0, 0, 0)] * (turns - 1))
            self.calls, self.failures, self.slow = self._past_sums()
        self._bucket = bucket
        self._until = (bucket + 1) * self._width

    def clear(self) -> None:
        """Forget all calls."""
        self.calls = self.failures = self.slow = 0
        self._past.clear()
        self._bucket = 0
        self._until = -math.inf  # until the first call says when it is

    def _past_sums(self) -> tuple[int, int, int]:
        calls = failures = slow = 0
        for bucket in self._past:
            calls += bucket[0]
            failures += bucket[1]
            slow += bucket[2]
        return calls, failures, slow
