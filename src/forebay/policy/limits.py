"""How much of something is let through."""

from __future__ import annotations

__all__ = ["RateLimit"]


class RateLimit:
    """A token bucket per key, kept as one number each (GCRA, ITU-T I.371: the time at which the bucket is full again).

    :param rate: tokens that flow into a bucket per second.
    :param burst: the size of a bucket, which is full at first.
    :param max_keys: keys remembered at most. Past that the one that was let through longest ago is forgotten, which
        gives it a full bucket: the table errs in favour of clients.
    """

    __slots__ = ("_full_at", "_interval", "_slack", "max_keys")

    def __init__(self, rate: float, burst: int, *, max_keys: int = 50_000) -> None:
        if rate <= 0 or burst < 1 or max_keys < 1:
            raise ValueError(f"rate {rate}, burst {burst}, max_keys {max_keys}: must all be positive")
        self.max_keys = max_keys
        self._interval = 1.0 / rate
        self._slack = (burst - 1) / rate
        self._full_at: dict[str, float] = {}  # ordered: the one let through last is last

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, now: float) -> float:
        """Take one token. 0.0 when there was one, else the seconds until there is; nothing is taken then."""
        table = self._full_at
        full_at = table.get(key, 0.0)
        full_at = max(full_at, now)
        wait = full_at - now - self._slack
        if wait > 1e-9:  # rounding, not waiting
            return wait
        table.pop(key, None)
        table[key] = full_at + self._interval
        if len(table) > self.max_keys:
            del table[next(iter(table))]
        return 0.0

    def take_several(self, key: str, count: int, now: float) -> tuple[float, float, float]:
        """Take ``count`` tokens, all of them or none, and say what is left.

        :param count: 0 only looks. More than ``burst`` are never there.
        :return: the seconds until there are so many, 0.0 when they were taken; the tokens that are left; the seconds
            until the bucket is full.
        """
        table, interval = self._full_at, self._interval
        full_at = max(table.get(key, 0.0), now)
        wait = full_at + (count - 1) * interval - now - self._slack
        if count and wait <= 1e-9:  # rounding, not waiting
            wait = 0.0
            full_at += count * interval
            table.pop(key, None)
            table[key] = full_at
            if len(table) > self.max_keys:
                del table[next(iter(table))]
        elif not count:
            wait = 0.0
        return wait, (self._slack - (full_at - now)) / interval + 1, full_at - now
