"""Whether something that comes piece by piece still comes fast enough."""

from __future__ import annotations

__all__ = ["Pace"]


class Pace:
    """How fast bytes come.

    :param timeout: seconds there may be between two pieces; and before the average rate counts.
    :param rate: bytes a second there must be on average.
    :param now: when the waiting begins.
    :param received: bytes that had come by then.
    """

    __slots__ = ("_base", "_since", "last", "rate", "timeout")

    def __init__(self, timeout: float, rate: float, now: float, received: int) -> None:
        self.timeout = timeout
        self.rate = rate
        self._since = self.last = now
        self._base = received

    def left(self, now: float) -> float:
        """Seconds until the next piece must have come; 0 or less: it is late."""
        return self.timeout - (now - self.last)

    def too_slow(self, now: float, received: int) -> bool:
        """Whether ``received`` bytes are too few by now."""
        elapsed = now - self._since
        return elapsed >= self.timeout and received - self._base < self.rate * elapsed
