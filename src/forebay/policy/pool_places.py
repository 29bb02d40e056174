"""The places of a pool: what is idle, what is worn, and where there is room."""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable
from math import inf
from operator import attrgetter
from typing import Any

from forebay.policy.pool_actions import Action, Close, ClosedBecause, Keyed, Place, PlaceState
from forebay.policy.pool_settings import PoolSettings

__all__ = ["PoolPlaces"]

_since = attrgetter("since")


class PoolPlaces:
    """What :class:`~forebay.policy.pool.PoolPlan` knows of its places.

    :ivar total: places of all keys: what is dialled, idle, checked or held.
    :ivar idle: those that are idle.
    :ivar places: by the id of their resource.
    """

    __slots__ = (
        "_fresh",
        "_kept",
        "_keys",
        "_max_idle",
        "_max_per_key",
        "_max_total",
        "checks",
        "closed",
        "dials",
        "draining",
        "enabled",
        "idle",
        "places",
        "settings",
        "total",
    )

    def __init__(self, settings: PoolSettings, checks: bool, enabled: bool) -> None:
        self.checks = checks
        self.enabled = enabled
        self.draining = False
        self.total = self.idle = self.dials = 0
        self.closed = dict.fromkeys(ClosedBecause, 0)
        self.places: dict[int, Place] = {}
        self._keys: dict[Any, Keyed] = {}  # those of which there is anything
        self._kept: dict[Any, None] = {}
        self._apply(settings)

    def _apply(self, settings: PoolSettings) -> None:
        self.settings = settings
        self._max_total, self._max_per_key = settings.max_total, settings.max_per_key
        self._max_idle = settings.max_idle
        check_after = settings.check_after if self.checks else None
        self._fresh = min(settings.idle_timeout or inf, check_after or inf)

    def count(self, key: Hashable) -> int:
        """How many places ``key`` has."""
        peers = self._keys.get(key)
        return 0 if peers is None else peers.total

    def idle_of(self, key: Hashable) -> list[Place]:
        """The idle places of ``key``, the last used one last."""
        peers = self._keys.get(key)
        return [] if peers is None else list(peers.idle)

    # Coming and going

    def _of(self, key: Any) -> Keyed:
        peers = self._keys.get(key)
        if peers is None:
            peers = self._keys[key] = Keyed(key)
        return peers

    def _tidy(self, peers: Keyed) -> None:
        """Remember nothing of a key of which there is nothing."""
        if not peers.total and not peers.waiting and peers.key not in self._kept:
            self._keys.pop(peers.key, None)

    def _new(self, peers: Keyed, now: float) -> Place:
        """A place that is dialled for."""
        self.total += 1
        peers.total += 1
        self.dials += 1
        return Place(peers.key, peers, now)

    def _remove(self, place: Place) -> None:
        place.state = PlaceState.GONE
        self.total -= 1
        place.peers.total -= 1
        self._tidy(place.peers)

    def _drop(self, place: Place, why: ClosedBecause, actions: list[Action], held: bool = False) -> None:
        """Close the resource of ``place``, which was taken out of wherever it stood."""
        del self.places[id(place.resource)]
        self._remove(place)
        self.closed[why] += 1
        actions.append(Close(place, why, held))

    # Room

    def _room(self, peers: Keyed) -> bool:
        return not self.enabled or (self.total < self._max_total and peers.total < self._max_per_key)

    def _may_dial(self, peers: Keyed) -> bool:
        """Whether there is a place for one more of ``peers``, or will be when an idle one is closed."""
        return self._room(peers) or (
            peers.total < self._max_per_key and self.idle > 0 and self.total == self._max_total
        )

    # Idle ones

    def _rest(self, place: Place, now: float) -> None:
        """``place`` is idle, and has just shown that it works."""
        place.state = PlaceState.IDLE
        place.proven = now
        place.fresh_until = self._fresh_until(place)
        insort(place.peers.idle, place, key=_since)
        self.idle += 1

    def _fresh_until(self, place: Place) -> float:
        settings = self.settings
        after = settings.check_after if self.checks else None
        return min(place.since + (settings.idle_timeout or inf), place.proven + (after or inf), place.retire_at)

    def _wake(self, place: Place) -> None:
        """``place`` is idle no more."""
        idle = place.peers.idle
        if idle[-1] is place:
            del idle[-1]
        else:
            idle.remove(place)
        self.idle -= 1

    def _worn(self, place: Place, now: float) -> ClosedBecause | None:
        """Why an idle one may not be used any more; None: it may."""
        if now < place.fresh_until:
            return None
        if now >= place.retire_at:
            return ClosedBecause.LIFETIME
        timeout = self.settings.idle_timeout
        if timeout is not None and now >= place.since + timeout and len(place.peers.idle) > self._spared(place.peers):
            return ClosedBecause.IDLE
        return None

    def _needs_check(self, place: Place, now: float) -> bool:
        after = self.settings.check_after
        return self.checks and after is not None and now >= place.proven + after

    def _spared(self, peers: Keyed) -> int:
        """How many idle ones the idle timeout leaves alone."""
        return self.settings.min_idle if peers.key in self._kept and not self.draining else 0

    # Too many

    def _trim(self, actions: list[Action]) -> None:
        """Close idle ones that are too many for the whole pool."""
        if self.draining:
            while self.idle:
                self._drop_longest_idle(ClosedBecause.DRAINED, actions)
        while self.idle and self.enabled and self.total > self._max_total:
            self._drop_longest_idle(ClosedBecause.SHRUNK, actions)
        while self.idle > self._max_idle:
            self._drop_longest_idle(ClosedBecause.SURPLUS, actions)

    def _trim_key(self, peers: Keyed, actions: list[Action]) -> None:
        """Close idle ones that are too many for their key."""
        while peers.idle and self.enabled and peers.total > self._max_per_key:
            place = peers.idle[0]
            self._wake(place)
            self._drop(place, ClosedBecause.SHRUNK, actions)

    def _drop_longest_idle(self, why: ClosedBecause, actions: list[Action]) -> None:
        peers = min((one for one in self._keys.values() if one.idle), key=lambda one: one.idle[0].since)
        place = peers.idle[0]
        self._wake(place)
        self._drop(place, why, actions)
