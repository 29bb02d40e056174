"""A timer wheel for very many deadlines that are nearly always moved before they are reached.

The hashed wheel of Varghese and Lauck (SOSP 1987), with lazy re-arming: an entry stands in the slot of *some* moment
that is not after its deadline, and is looked at then. Moving a deadline later is therefore one attribute store, and the
wheel touches a connection that receives a thousand messages per second as rarely as an idle one.
"""

from __future__ import annotations

from math import ceil, inf
from typing import Generic, Protocol, TypeVar

__all__ = ["Timed", "TimerWheel"]


class Timed(Protocol):
    """What a wheel holds. Compared and hashed by identity."""

    @property
    def expires_at(self) -> float:
        """When it expires; ``inf``: not at all. It may move later, or to ``inf``, at any time without the wheel being
        told; once it is earlier than ``due_at``, :meth:`TimerWheel.add` has to be called."""

    due_at: float
    """When the wheel looks at it next; ``inf``: it is in no wheel. Written by the wheel only; starts as ``inf``."""

    def on_expired(self) -> None:
        """Called by whoever drives the wheel, when the deadline is reached. It must not raise."""


T = TypeVar("T", bound=Timed)


class TimerWheel(Generic[T]):
    """Holds entries until they expire.

    :param resolution: seconds per slot. An entry is returned at most that much after its deadline, and never before.
    :param now: the time, in seconds, on a clock that never goes back.
    """

    __slots__ = ("_done", "_slots", "now", "resolution")

    def __init__(self, resolution: float, now: float) -> None:
        self.resolution = resolution
        self.now = now  # as of the last advance: a clock for those that need no better one
        # By tick: when it is due, and what is held until then. The float is one object for all entries of a slot, which
        # counts with 100,000 of them; a dict is a set that keeps its order.
        self._slots: dict[int, tuple[float, dict[T, None]]] = {}
        self._done = int(now / resolution)  # every slot up to this tick has been looked at

    def __len__(self) -> int:
        """How many entries are held; entries that were disarmed count until their slot comes."""
        return sum(len(entries) for _, entries in self._slots.values())

    def __bool__(self) -> bool:
        return bool(self._slots)

    def add(self, entry: T) -> None:
        """Hold ``entry`` until ``entry.expires_at``. One that is held already moves to the slot of that moment."""
        self.discard(entry)
        expires_at = entry.expires_at
        if expires_at == inf:
            return
        tick = max(ceil(expires_at / self.resolution), self._done + 1)
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = (tick * self.resolution, {})
        entry.due_at, entries = slot
        entries[entry] = None

    def discard(self, entry: T) -> None:
        """Forget ``entry``, at once. Nothing happens when it is not held."""
        if entry.due_at == inf:
            return
        tick = round(entry.due_at / self.resolution)
        entry.due_at = inf
        entries = self._slots[tick][1]
        del entries[entry]
        if not entries:
            del self._slots[tick]

    def advance(self, now: float) -> list[T]:
        """Set the wheel's clock to ``now``, and take out what has expired by then, in the order of the slots."""
        self.now = now
        current = int(now / self.resolution)
        if current - self._done > len(self._slots):  # the clock jumped, or the wheel is nearly empty
            ticks = sorted(tick for tick in self._slots if tick <= current)
        else:
            ticks = [tick for tick in range(self._done + 1, current + 1) if tick in self._slots]
        self._done = max(self._done, current)
        expired: list[T] = []
        for tick in ticks:
            for entry in self._slots.pop(tick)[1]:
                entry.due_at = inf
                if entry.expires_at <= now:
                    expired.append(entry)
                else:
                    self.add(entry)  # it was moved later, or disarmed, since it was put here
        return expired
