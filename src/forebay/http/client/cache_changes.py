"""What was changed while an answer was on its way: that one may be from before."""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["Changes"]

_REMEMBERED = 4096


class Changes:
    """When things were changed last, counted and not timed. Of so many things only that it remembers: of all others
    it takes the latest change that it has forgotten, so that an answer is not kept rather than wrongly kept.

    :param remembered: things, at least 1.
    """

    __slots__ = ("_before", "_changed", "_number", "_remembered")

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._changed: dict[int, int] = {}  # by hash: keys may be long; the one that was noted last is last
        self._before = 0
        self._number = 0
        self._remembered = remembered

    def next(self) -> int:
        """A number for what begins now."""
        self._number += 1
        return self._number

    def note(self, key: Hashable, number: int) -> None:
        """``key`` is now as it was at ``number``."""
        found = hash(key)
        self._changed[found] = max(number, self._changed.pop(found, 0))
        if len(self._changed) > self._remembered:
            self._before = max(self._before, self._changed.pop(next(iter(self._changed))))

    def since(self, key: Hashable, number: int) -> bool:
        """Whether ``key`` was changed after ``number``, or may have been."""
        return self._changed.get(hash(key), self._before) > number
