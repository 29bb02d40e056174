"""A timer that is moved far more often than it goes off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from forebay.engine.loop import now

__all__ = ["Alarm"]

_EARLY = 0.0005
"""Seconds by which timers of the loop may be early: they are in milliseconds."""
_LATE = 0.05
"""Seconds of lateness from which on the loop has stood still, and not only been busy."""
_A_TURN = 0.001
"""Seconds after which a timer is behind what the loop then finds in its sockets."""


class Alarm:
    """Calls ``ring`` at a moment that can be moved at any time. Precise to the timers of the loop, about a millisecond.

    Moving it later, or switching it off, is one attribute store: a timer of the loop that fires too early only looks
    when it is due, and sets itself anew. So a connection that is used again and again needs a timer as seldom as one
    that is used once. What may be late by a tenth of a second is cheaper in a :class:`~forebay.engine.loop.Ticker`.

    After the loop has stood still it rings a turn later, when what has come meanwhile was read: timers may come before
    sockets in a turn, and who waits for something that is there would be told that it did not come.

    :ivar at: when it rings, on the clock of :data:`~forebay.engine.loop.now`; ``inf``: it does not.
    """

    __slots__ = ("_due", "_gave_way", "_handle", "_ring", "at")

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None
        self._due = inf  # when the timer of the loop fires
        self._gave_way = False
        self.at = inf

    def set(self, at: float) -> None:
        """Let it ring at ``at``; ``inf``: not at all."""
        self.at = at
        if at < self._due:
            self._arm(at - now())

    def close(self) -> None:
        """Switch it off for good, and let go of whom it calls."""
        self.at = self._due = inf
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()
        self._ring = _nobody

    def _arm(self, seconds: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._due = self.at
        self._handle = asyncio.get_running_loop().call_later(max(0.0, seconds), self._fired)

    def _fired(self) -> None:
        self._handle = None
        due, self._due = self._due, inf
        at = now()
        gave_way, self._gave_way = self._gave_way, False
        if self.at - at > _EARLY:
            if self.at != inf:
                self._arm(self.at - at)
        elif at - due > _LATE and not gave_way:
            self._gave_way = True
            self._arm(_A_TURN)
        else:
            self.at = inf
            self._ring()


def _nobody() -> None:
    """Who is called by an alarm that is closed."""
