"""How long to wait before the next try."""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

__all__ = ["Backoff", "Jitter"]

Jitter = Literal["none", "full", "equal", "decorrelated"]
"""How chance spreads the waits of many clients; see :class:`Backoff`."""

_SPREAD = 3.0  # decorrelated jitter: how many times the wait before the next one may be


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays: the first is ``initial``, each further one ``factor`` times the one before, up to ``cap``.

    A thousand clients that failed in the same moment would all come again in the same moment. ``jitter`` says how
    :meth:`draw` spreads them ("Exponential Backoff and Jitter", AWS Architecture Blog, 2015):

    ================  =======================================  ======================================================
    jitter            drawn evenly between                     when
    ================  =======================================  ======================================================
    ``none``          exactly the delay                        there is one client, or its waits must be known
    ``full``          nothing, and the delay                   the default: the least work for whoever is called
    ``equal``         half the delay, and the delay            a wait of almost nothing must not happen
    ``decorrelated``  ``initial``, and 3 times the wait        as full, but never below ``initial``; it grows by
                      before                                   itself, so that ``factor`` says nothing
    ================  =======================================  ======================================================

    The defaults: a tenth of a second is longer than what mends itself (a lost packet, a restarted connection), and ten
    seconds are short enough for a service that came back to be found again.

    :param initial: seconds, above 0, and finite.
    :param factor: at least 1; with 1 every delay is ``initial``.
    :param cap: seconds, at least ``initial``; no wait is longer, whatever the jitter.
    :param jitter: ``none``, ``full``, ``equal`` or ``decorrelated``.
    """

    initial: float = 0.1
    factor: float = 2.0
    cap: float = 10.0
    jitter: Jitter = "full"

    def __post_init__(self) -> None:
        if not 0 < self.initial < inf:
            raise ValueError(f"initial {self.initial}: must be above 0, and finite")
        if not self.factor >= 1:
            raise ValueError(f"factor {self.factor}: must be at least 1")
        if not self.cap >= self.initial:
            raise ValueError(f"cap {self.cap}: must be at least initial, which is {self.initial}")
        if self.jitter not in get_args(Jitter):
            raise ValueError(f"jitter {self.jitter!r}: must be one of {', '.join(get_args(Jitter))}")

    def delay(self, attempt: int) -> float:
        """Seconds to wait before try number ``attempt``, without jitter; the first wait is number 0.

        :raises ValueError: ``attempt`` is negative.
        """
        if attempt < 0:
            raise ValueError(f"attempt {attempt}: must be at least 0")
        try:
            delay = self.initial * float(self.factor) ** attempt  # of an int it would be exact, and ever slower
            return delay if delay < self.cap else self.cap
        except OverflowError:  # factor**attempt left the floats long after it passed the cap
            return self.cap

    def draw(self, attempt: int, previous: float, source: random.Random) -> float:
        """Seconds to wait before try number ``attempt``, with jitter; the first wait is number 0.

        :param previous: what was drawn before, in seconds; 0.0 at first. Only ``decorrelated`` looks at it.
        :param source: of randomness: one draw, or none without jitter.
        :raises ValueError: ``attempt`` is negative.
        """
        if self.jitter == "decorrelated":
            if attempt < 0:
                raise ValueError(f"attempt {attempt}: must be at least 0")
            most = _SPREAD * max(previous, self.initial)
            return min(self.cap, self.initial + (most - self.initial) * source.random())
        delay = self.delay(attempt)
        if self.jitter == "full":
            return delay * source.random()
        if self.jitter == "equal":
            return delay * (0.5 + 0.5 * source.random())
        return delay
