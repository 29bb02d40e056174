"""Log lines that may come thousands of times a second, at most once a second each."""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["Sparing"]


class Sparing:
    """Decides whether an event is worth a line now.

    :param interval: seconds between two lines about the same thing.
    :param max_keys: things remembered; past it all are forgotten, which costs a few lines too many.
    """

    __slots__ = ("_interval", "_max_keys", "_seen")

    def __init__(self, interval: float = 1.0, *, max_keys: int = 1000) -> None:
        self._interval = interval
        self._max_keys = max_keys
        self._seen: dict[Hashable, list[float]] = {}  # when a line is due again, and how many were left out

    def due(self, key: Hashable, now: float) -> int | None:
        """How many lines about ``key`` were left out since the last one; None when this one is left out as well."""
        entry = self._seen.get(key)
        if entry is None:
            if len(self._seen) >= self._max_keys:
                self._seen.clear()
            self._seen[key] = [now + self._interval, 0]
            return 0
        if now < entry[0]:
            entry[1] += 1
            return None
        left_out = int(entry[1])
        entry[:] = [now + self._interval, 0]
        return left_out
