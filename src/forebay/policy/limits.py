"""How much of something is let through."""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import Any

__all__ = ["RateLimit"]


class RateLimit:
    """A token bucket per key, kept as one number each (GCRA, ITU-T I.371: the time at which the bucket is full again).

    :param rate: tokens that flow into a bucket per second.
    :param burst: the size of a bucket, which is full at first.
    :param max_keys: keys remembered at most. Past that the one that was let through longest ago is forgotten, which
        gives it a full bucket: the table errs in favour of clients.
    :ivar enabled: whether it limits; may be set at any time. Otherwise all are let through, counted, and forgotten.
    """

    __slots__ = ("_forgotten", "_full_at", "_interval", "_refused", "_slack", "_taken", "enabled", "max_keys")

    def __init__(self, rate: float, burst: int, *, max_keys: int = 50_000, enabled: bool = True) -> None:
        if not 0 < rate < inf or burst < 1 or max_keys < 1:
            raise ValueError(f"rate {rate}, burst {burst}, max_keys {max_keys}: must all be positive and finite")
        self.max_keys = max_keys
        self.enabled = enabled
        self._interval = 1.0 / rate
        self._slack = (burst - 1) / rate
        self._taken = self._refused = self._forgotten = 0
        # The one let through last is last. A plain dict looks at every place that became free before the first key.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, now: float) -> float:
        """Take one token. 0.0 when there was one, else the seconds until there is; nothing is taken then."""
        table = self._full_at
        full_at = table.get(key, now)
        if full_at < now:
            full_at = now
        wait = full_at - now - self._slack
        if wait > 1e-9 and self.enabled:  # rounding, not waiting
            self._refused += 1
            return wait
        self._taken += 1
        if self.enabled:
            table[key] = full_at + self._interval
            table.move_to_end(key)
            if len(table) > self.max_keys:
                self._forget_one()
        return 0.0

    def take_several(self, key: str, count: int, now: float) -> tuple[float, float, float]:
        """Take ``count`` tokens, all of them or none, and say what is left.

        :param count: 0 only looks. More than ``burst`` are never there.
        :return: the seconds until there are so many, 0.0 when they were taken; the tokens that are left; the seconds
            until the bucket is full.
        """
        table, interval = self._full_at, self._interval
        full_at, wait = now, 0.0
        if not self.enabled:
            self._taken += count
        else:
            full_at = table.get(key, now)
            if full_at < now:
                full_at = now
            if count:
                wait = full_at + (count - 1) * interval - now - self._slack
                if wait <= 1e-9:  # rounding, not waiting
                    wait = 0.0
                    full_at += count * interval
                    self._taken += count
                    table[key] = full_at
                    table.move_to_end(key)
                    if len(table) > self.max_keys:
                        self._forget_one()
                else:
                    self._refused += 1
        return wait, (self._slack - (full_at - now)) / interval + 1, full_at - now

    def statistics(self) -> dict[str, Any]:
        """The ``keys`` remembered now; since the start the tokens ``taken``, the takes ``refused``, and the keys
        ``forgotten`` because there were more than ``max_keys``, which should be few beside the others."""
        return {
            "enabled": self.enabled,
            "keys": len(self._full_at),
            "max_keys": self.max_keys,
            "taken": self._taken,
            "refused": self._refused,
            "forgotten": self._forgotten,
        }

    def _forget_one(self) -> None:
        self._full_at.popitem(last=False)
        self._forgotten += 1
