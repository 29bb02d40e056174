"""Who waits for a resource of a pool, and who is served next."""

from __future__ import annotations

from collections.abc import Hashable
from operator import attrgetter
from typing import Any

from forebay.policy.pool_actions import (
    Action,
    Check,
    ClosedBecause,
    Dial,
    Give,
    Keyed,
    Place,
    PlaceState,
    Refuse,
    RefusedBecause,
    Waiting,
)
from forebay.policy.pool_places import PoolPlaces
from forebay.policy.pool_settings import PoolSettings

__all__ = ["PoolLine"]

_number = attrgetter("number")


class PoolLine(PoolPlaces):
    """What :class:`~forebay.policy.pool.PoolPlan` knows of who waits.

    :ivar queued: those for whom nothing is dialled or checked.
    :ivar given: how often somebody who had to ask was served; :ivar waited: of these, who had to wait;
    :ivar wait_seconds: for how long altogether; :ivar wait_max: at most.
    """

    __slots__ = ("_last", "_lines", "_waiting", "given", "queued", "refused", "wait_max", "wait_seconds", "waited")

    def __init__(self, settings: PoolSettings, checks: bool, enabled: bool) -> None:
        super().__init__(settings, checks, enabled)
        self._lines: dict[Any, Keyed] = {}  # those for which somebody waits
        self._waiting: dict[Hashable, Waiting] = {}
        self._last = 0  # number of who came last
        self.queued = self.given = self.waited = 0
        self.wait_seconds = self.wait_max = 0.0
        self.refused = dict.fromkeys(RefusedBecause, 0)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    # Serving

    def _serve(self, now: float, actions: list[Action]) -> None:
        """Serve whoever can be, the one that waits longest first."""
        while self._lines and (found := self._next(now, actions)) is not None:
            if not found.peers.idle:
                self._dial_for(found, now, actions)
                continue
            place = found.peers.idle[-1]
            self._wake(place)
            if self._needs_check(place, now):
                place.state = PlaceState.CHECKING
                self._promise(place, found)
                actions.append(Check(place, found.waiter))
            else:
                self._give(place, found, now, actions)

    def _next(self, now: float, actions: list[Action]) -> Waiting | None:
        """Who waits longest, of those for whom there is something. One candidate of each key is enough."""
        found: Waiting | None = None
        for peers in self._lines.values():
            while peers.idle and (why := self._worn(peers.idle[-1], now)) is not None:
                place = peers.idle[-1]
                self._wake(place)
                self._drop(place, why, actions)
            line = peers.queued
            if peers.idle:
                if not self._needs_check(peers.idle[-1], now):
                    line = peers.waiting  # whoever is dialled for may have it as well
            elif not self._may_dial(peers):
                continue
            if line:
                first = next(iter(line.values()))
                if found is None or first.number < found.number:
                    found = first
        return found

    def _dial_for(self, waiting: Waiting, now: float, actions: list[Action]) -> None:
        if self.enabled and self.total >= self._max_total:
            self._drop_longest_idle(ClosedBecause.ROOM, actions)
        place = self._new(waiting.peers, now)
        self._promise(place, waiting)
        actions.append(Dial(place, waiting.waiter))

    def _give(self, place: Place, waiting: Waiting, now: float, actions: list[Action]) -> None:
        self._forget(waiting)
        place.state = PlaceState.HELD
        place.since = now
        self.given += 1
        waited = now - waiting.since
        if waited > 0:
            self.waited += 1
            self.wait_seconds += waited
            self.wait_max = max(self.wait_max, waited)
        actions.append(Give(waiting.waiter, place))

    # Standing in line

    def _enter(self, waiter: Hashable, peers: Keyed, now: float) -> Waiting:
        self._last += 1
        waiting = Waiting(waiter, peers, self._last, now)
        self._waiting[waiter] = peers.waiting[waiter] = waiting
        self._lines[peers.key] = peers
        self._enqueue(waiting)
        return waiting

    def _enqueue(self, waiting: Waiting) -> None:
        """It has no place of its own, unless there is one that is for nobody."""
        peers = waiting.peers
        if peers.spare:
            place = next(iter(peers.spare))
            del peers.spare[place]
            place.waiting, waiting.place = waiting, place
            return
        queued = peers.queued
        queued[waiting.waiter] = waiting
        self.queued += 1
        if len(queued) > 1 and waiting.number < self._last:  # it is not the newest: to its place in the line
            for one in sorted(queued.values(), key=_number):
                queued.move_to_end(one.waiter)

    def _promise(self, place: Place, waiting: Waiting) -> None:
        """``place`` is for ``waiting``, which stands in the queue."""
        del waiting.peers.queued[waiting.waiter]
        self.queued -= 1
        place.waiting, waiting.place = waiting, place

    def _unpromise(self, place: Place) -> None:
        """``place`` is not dialled or checked any more; who it was for is without one."""
        waiting = place.waiting
        if waiting is None:
            del place.peers.spare[place]
        else:
            waiting.place = place.waiting = None
            self._enqueue(waiting)

    def _forget(self, waiting: Waiting) -> None:
        """It waits no more. What was for it is for the next one, or for nobody."""
        peers, waiter = waiting.peers, waiting.waiter
        del self._waiting[waiter], peers.waiting[waiter]
        if peers.queued.pop(waiter, None) is not None:
            self.queued -= 1
        place, waiting.place = waiting.place, None
        if place is not None:
            place.waiting = None
            if peers.queued:
                self._promise(place, next(iter(peers.queued.values())))
            else:
                peers.spare[place] = None
        if not peers.waiting:
            del self._lines[peers.key]
            self._tidy(peers)

    def _refusal(self, waiter: Any, key: Any, why: RefusedBecause, waited: float, error: Any = None) -> Refuse:
        self.refused[why] += 1
        return Refuse(waiter, key, why, waited, error)
