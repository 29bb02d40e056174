"""How long most calls took lately, without keeping any of them."""

from __future__ import annotations

import math
from array import array
from collections import deque
from operator import sub

__all__ = ["Quantiles"]

SHORTEST = 10e-6
"""Seconds; what took less counts as this."""

LONGEST = 600.0
"""Seconds; what took longer counts as this."""

GROWTH = 1.1
"""Each bucket of latencies reaches so many times further than the one before it. Its middle is at most
``(GROWTH - 1) / (GROWTH + 1)`` = 4.8% from anything in it."""

SCALE = 1.0 / math.log(GROWTH)
OFFSET = 1.0 - math.log(SHORTEST) * SCALE  # bucket 0 is for what took at most SHORTEST
LAST = int(math.log(LONGEST) * SCALE + OFFSET) + 1  # and the last one for what took at least LONGEST

VALUES = (SHORTEST, *(SHORTEST * GROWTH**n * 2.0 / (GROWTH + 1.0) for n in range(1, LAST)), LONGEST)
"""What each bucket stands for: the value with the same relative distance from both its ends."""

BLOCK_BITS = 4
BLOCK = 1 << BLOCK_BITS
"""Buckets that are also counted together, so that a quantile is found in some 25 steps instead of 190."""

BLOCKS = LAST // BLOCK + 1
SIZE = BLOCKS * BLOCK


class Quantiles:
    """The distribution of the latencies of the last ``window`` seconds, from which any quantile is read.

    The latencies are counted in logarithmic buckets, as in DDSketch (Masson, Rim, Lee, VLDB 2019), so a quantile is at
    most 5% from the latency that has its rank, for anything between ``SHORTEST`` and ``LONGEST``. Memory is 8 KiB, and
    up to 12 KiB for large counts, whatever happens.

    :param window: seconds that count, above 0.
    :param buckets: steps in which they slide, at least 1; a latency counts for ``window`` at most, for one step less
        at least.
    :raises ValueError: a parameter is out of bounds.

    A time before the current step counts as within it.
    """

    __slots__ = ("_before", "_blocks", "_count", "_counts", "_past", "_step", "_until", "_width", "buckets", "window")

    def __init__(self, window: float = 60.0, buckets: int = 6) -> None:
        if not 0 < window < math.inf:
            raise ValueError(f"window {window}: must be above 0, and finite")
        if buckets < 1:
            raise ValueError(f"buckets {buckets}: must be at least 1")
        self.window = window
        self.buckets = buckets
        self._width = window / buckets
        self.clear()

    def observe(self, seconds: float, now: float) -> None:
        """Count what took ``seconds`` until ``now``."""
        if now >= self._until:
            self._advance(now)
        if seconds >= LONGEST:
            bucket = LAST
        elif seconds > SHORTEST:
            bucket = int(_log(seconds) * SCALE + OFFSET)
        else:
            bucket = 0
        self._counts[bucket] += 1
        self._blocks[bucket >> BLOCK_BITS] += 1
        self._count += 1

    def quantile(self, q: float, now: float) -> float:
        """The seconds within which at least the share ``q`` of all was over; 0.0 when nothing is known.

        :param q: 0.5 for the median, 0.99 for p99; 0.0 is the shortest, 1.0 the longest.
        :raises ValueError: ``q`` is not from 0 to 1.
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"q {q}: must be from 0 to 1")
        if now >= self._until:
            self._advance(now)
        count = self._count
        if not count:
            return 0.0
        rank = max(1, math.ceil(q * count - 1e-9))  # 0.07 * 100 is a bit more than 7
        bucket = 0
        for together in self._blocks:
            if rank <= together:
                break
            rank -= together
            bucket += BLOCK
        counts = self._counts
        while rank > (here := counts[bucket]):
            rank -= here
            bucket += 1
        return VALUES[bucket]

    def count(self, now: float) -> int:
        """How many latencies there are."""
        if now >= self._until:
            self._advance(now)
        return self._count

    def clear(self) -> None:
        """Forget everything."""
        self._count = 0
        self._counts = [0] * SIZE  # a list, since it is faster; what only waits to be taken off is kept in arrays
        self._before = self._counts[:]  # what the counts were when the current step began
        self._blocks = [0] * BLOCKS
        self._past: deque[array[int]] = deque()  # of each step before the current one that still counts
        self._step = 0
        self._until = -math.inf  # until the first latency says when it is

    def _advance(self, now: float) -> None:
        step = int(now // self._width)
        turns = step - self._step
        if not self._count or turns >= self.buckets:
            self.clear()
        elif turns > 0:
            past = self._past
            past.append(array("I", map(sub, self._counts, self._before)))
            past.extend([array("I", bytes(4 * SIZE))] * (turns - 1))
            while len(past) >= self.buckets:
                self._counts = list(map(sub, self._counts, past.popleft()))
            self._before = self._counts[:]
            self._blocks = [sum(self._counts[first : first + BLOCK]) for first in range(0, SIZE, BLOCK)]
            self._count = sum(self._blocks)
        self._step = step
        self._until = (step + 1) * self._width


_log = math.log
