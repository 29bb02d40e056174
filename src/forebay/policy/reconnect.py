"""When a client that lost its connection tries again."""

from __future__ import annotations

import random
from math import inf

from forebay.policy.backoff import Backoff

__all__ = ["ReconnectSchedule"]


class ReconnectSchedule:
    """Each wait is drawn from the backoff, with its jitter: by default evenly between nothing and the backoff's delay.

    A thousand clients that lost one server so come back spread out, and not in step. The backoff begins anew after a
    connection that lived for ``good_life``: one that is accepted and broken at once, over and over, is treated like one
    that does not come about.

    :param backoff: what is waited before each try, and how it is spread.
    :param good_life: seconds, at least 0.
    :param source: of randomness; an own one when not given.
    :raises ValueError: ``good_life`` is negative.
    """

    __slots__ = ("_connected_at", "_previous", "_random", "backoff", "good_life", "in_a_row")

    def __init__(self, backoff: Backoff, good_life: float = 5.0, source: random.Random | None = None) -> None:
        if good_life < 0:
            raise ValueError(f"good_life {good_life}: must be at least 0")
        self.backoff = backoff
        self.good_life = good_life
        self.in_a_row = 0  # tries and connections that ended since the last good one
        self._random = source or random.Random()  # noqa: S311 - clients are spread with it, nothing is secret
        self._connected_at = inf
        self._previous = 0.0  # the wait before; 0.0 after a good life

    def connected(self, now: float) -> None:
        """A connection came about at ``now``."""
        self._connected_at = now

    def ended(self, now: float) -> float:
        """The connection ended at ``now``, or did not come about. Seconds to wait before the next try."""
        if now - self._connected_at >= self.good_life:
            self.in_a_row = 0
            self._previous = 0.0
        self._connected_at = inf
        self._previous = delay = self.backoff.draw(self.in_a_row, self._previous, self._random)
        self.in_a_row += 1
        return delay
