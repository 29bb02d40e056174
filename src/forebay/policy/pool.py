"""Who gets which resource of a pool, what is dialled, and what is closed."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Sequence
from math import inf
from typing import Any

from forebay.policy.backoff import Backoff
from forebay.policy.pool_actions import (
    Action,
    Check,
    Close,
    ClosedBecause,
    Dial,
    Keyed,
    Place,
    PlaceState,
    RefusedBecause,
    Warn,
)
from forebay.policy.pool_line import PoolLine
from forebay.policy.pool_settings import PoolSettings

__all__ = ["PoolPlan"]

_NOTHING: tuple[Action, ...] = ()
_IDLE, _HELD, _GONE = PlaceState.IDLE, PlaceState.HELD, PlaceState.GONE
_BACKOFF = Backoff(initial=0.5, cap=30.0, jitter="none")  # between dials for nobody that fail


class PoolPlan(PoolLine):
    """Decides for a pool. It does nothing itself: what its methods return is to be done, in that order, each once.

    The rule of who is served: **whoever waits longest, of those that can be served.** Within a key that is strictly
    the order in which they came, whatever was dialled for whom. Between keys it means:

    * who waits for a key that is at its limit is passed over, and keeps its place in the line;
    * when all places are taken, an idle resource of another key, the one that was not used for longest, is closed for
      the oldest who waits: also one that came back just now, and could have been given to a younger one of its own key.

    A dial, or a check, is for one who waits. When that one is served otherwise or leaves, it is for the oldest of its
    key who has none, else for nobody: what it brings is idle then. Its error goes to whom it is for by then.

    Idle resources are used again last in, first out: few are in use, and the others fall to the idle timeout.

    :param checks: whether resources can be checked.
    :param enabled: with False nothing is limited and nobody waits; resources are still used again. It may be set at any
        time, and counts from the next call on.
    :param source: of randomness, for the jitter of lifetimes; an own one when not given.
    """

    __slots__ = ("_random", "dial_failures", "due", "held_warnings", "reused", "stopped")

    def __init__(
        self,
        settings: PoolSettings | None = None,
        *,
        checks: bool = False,
        enabled: bool = True,
        source: random.Random | None = None,
    ) -> None:
        super().__init__(settings or PoolSettings(), checks, enabled)
        self._random = source or random.Random()  # noqa: S311 - lives are spread with it, nothing is secret
        self.stopped = False
        self.due = inf  # when the next tick is worth while
        self.dial_failures = self.reused = self.held_warnings = 0

    def __repr__(self) -> str:
        return f"<PoolPlan total={self.total} idle={self.idle} waiting={len(self._waiting)}>"

    # Borrowing

    def take(self, key: Hashable, now: float) -> Place | None:
        """An idle resource of ``key`` that can be given as it is, at once; it is held then. None: see :meth:`want`."""
        peers = self._keys.get(key)
        if peers is None or not peers.idle:
            return None
        place = peers.idle[-1]
        if now >= place.fresh_until:
            return None
        del peers.idle[-1]
        self.idle -= 1
        self.reused += 1
        place.state = _HELD
        place.since = now
        return place

    def want(self, key: Hashable, waiter: Hashable, now: float) -> Sequence[Action]:
        """``waiter`` waits for a resource of ``key`` from now on; what is returned may answer it already.

        :raises ValueError: it waits already.
        """
        if waiter in self._waiting:
            raise ValueError(f"waiter {waiter!r}: waits already")
        if self.draining:
            why = RefusedBecause.STOPPED if self.stopped else RefusedBecause.DRAINING
            return [self._refusal(waiter, key, why, 0.0)]
        peers = self._of(key)
        waiting = self._enter(waiter, peers, now)
        actions: list[Action] = []
        self._serve(now, actions)
        if self.queued > self.settings.max_waiting and waiter in peers.queued and self.enabled:
            self._forget(waiting)
            actions.append(self._refusal(waiter, key, RefusedBecause.QUEUE_FULL, 0.0))
        return actions

    def leave(self, waiter: Hashable) -> None:
        """``waiter`` waits no more. Nothing happens when it does not."""
        waiting = self._waiting.get(waiter)
        if waiting is not None:
            self._forget(waiting)

    def expire(self, waiter: Hashable, now: float) -> Sequence[Action]:
        """The time of ``waiter`` is over: it is refused, if it still waits."""
        waiting = self._waiting.get(waiter)
        if waiting is None:
            return _NOTHING
        dialled = waiting.place is not None and waiting.place.state is PlaceState.DIALLING
        self._forget(waiting)
        why = RefusedBecause.SLOW_DIAL if dialled else RefusedBecause.TIMEOUT
        return [self._refusal(waiter, waiting.peers.key, why, now - waiting.since)]

    def release(self, place: Place, now: float, why: ClosedBecause | None = None) -> Sequence[Action]:
        """The holder of ``place`` is done with it. One that is gone meanwhile is let be.

        :param why: it cannot be used again; None: it can.
        :raises ValueError: nobody holds it.
        """
        if place.state is not _HELD:
            if place.state is _GONE:
                return _NOTHING
            raise ValueError(f"{place!r}: is held by nobody")
        place.holder = None
        peers = place.peers
        over = (self.total > self._max_total or peers.total > self._max_per_key) and self.enabled
        if why is None and not (over or self._waiting or self.draining or now >= place.retire_at):
            place.state = _IDLE
            place.since = place.proven = now
            fresh_until = now + self._fresh
            place.fresh_until = fresh_until if fresh_until < place.retire_at else place.retire_at
            peers.idle.append(place)
            self.idle += 1
            if self.idle <= self._max_idle:
                return _NOTHING
        actions: list[Action] = []
        if place.state is _IDLE:
            pass  # though there are too many of them now
        elif why is not None or now >= place.retire_at:
            self._drop(place, why or ClosedBecause.LIFETIME, actions)
        elif over:
            self._drop(place, ClosedBecause.SHRUNK, actions)
        else:
            place.since = now
            self._rest(place, now)
        self._settle(now, actions)
        return actions

    def discard(self, place: Place, now: float, why: ClosedBecause = ClosedBecause.ENDED) -> Sequence[Action]:
        """The resource of ``place`` is of no use any more, whoever has it. Its place is free at once."""
        if place.state is _GONE:
            return _NOTHING
        actions: list[Action] = []
        self._take_out(place, why, actions)
        self._settle(now, actions)
        return actions

    def _take_out(self, place: Place, why: ClosedBecause, actions: list[Action]) -> None:
        held = place.state is _HELD
        if place.state is _IDLE:
            self._wake(place)
        elif not held:
            self._unpromise(place)
        self._drop(place, why, actions, held=held)

    def _settle(self, now: float, actions: list[Action]) -> None:
        """Serve who waits, then close what is too much."""
        if self._lines:
            self._serve(now, actions)
        if self.idle:
            self._trim(actions)

    # What came of actions

    def dialled(self, place: Place, resource: Any, now: float) -> Sequence[Action]:
        """The dial for ``place`` has brought ``resource``."""
        place.resource = resource
        actions: list[Action] = []
        if place.state is _GONE:
            self.closed[ClosedBecause.STOPPED] += 1
            return [Close(place, ClosedBecause.STOPPED)]
        self.places[id(resource)] = place
        place.born = place.since = now
        place.peers.failures = 0
        lifetime = self.settings.max_lifetime
        if lifetime is not None:
            place.retire_at = now + lifetime * (1.0 - self.settings.lifetime_jitter * self._random.random())
        self._unpromise(place)
        self._rest(place, now)
        self._settle(now, actions)
        self._trim_key(place.peers, actions)
        return actions

    def dial_failed(self, place: Place, error: Any, now: float) -> Sequence[Action]:
        """The dial for ``place`` has failed. ``error`` is handed to who it was for."""
        if place.state is _GONE:
            return _NOTHING
        self.dial_failures += 1
        actions: list[Action] = []
        waiting, peers = place.waiting, place.peers
        if waiting is None:
            peers.failures += 1
            peers.failed_at = now
            del peers.spare[place]
        else:
            waiting.place = place.waiting = None
            self._forget(waiting)
            waited = now - waiting.since
            actions.append(self._refusal(waiting.waiter, peers.key, RefusedBecause.DIAL_FAILED, waited, error))
        self._remove(place)
        self._settle(now, actions)
        return actions

    def checked(self, place: Place, works: bool, now: float) -> Sequence[Action]:
        """The check of ``place`` has ended."""
        if place.state is not PlaceState.CHECKING:
            return _NOTHING
        actions: list[Action] = []
        self._unpromise(place)
        if works:
            self._rest(place, now)
        else:
            self._drop(place, ClosedBecause.CHECK, actions)
        self._settle(now, actions)
        self._trim_key(place.peers, actions)
        return actions

    # What comes with time, and from above

    def tick(self, now: float) -> Sequence[Action]:
        """Close what is worn, check in the background, tell who holds for too long, and make what is to be idle.

        :attr:`due` says when to come again.
        """
        actions: list[Action] = []
        due = inf
        for peers in list(self._keys.values()):
            due = min(due, self._tick_idle(peers, now, actions))
        for place in list(self.places.values()):
            if place.state is _HELD:
                due = min(due, self._tick_held(place, now, actions))
        self._settle(now, actions)
        if not self.draining:
            for key in self._kept:
                due = min(due, self._fill(key, self.settings.min_idle, now, actions))
        if self.total or (self._kept and not self.draining):
            due = min(due, now + self.settings.horizon)
        self.due = due
        return actions

    def resize(self, settings: PoolSettings, now: float) -> Sequence[Action]:
        """Go by ``settings`` from now on. What is too much is closed: idle ones at once, longest unused first, the
        others when they come back. Lifetimes that have begun stay as they are."""
        self._apply(settings)
        actions: list[Action] = []
        for peers in list(self._keys.values()):
            for place in peers.idle:
                place.fresh_until = self._fresh_until(place)
            self._trim_key(peers, actions)
        self._trim(actions)
        actions += self.tick(now)
        return actions

    def keep(self, keys: Iterable[Hashable], now: float) -> Sequence[Action]:
        """Have ``min_idle`` idle ones of each of ``keys`` from now on, and ``prewarm`` now. Not when it drains."""
        actions: list[Action] = []
        for key in () if self.draining else dict.fromkeys(keys):  # one that cannot be hashed is to leave no dial behind
            self._kept[key] = None
            self._fill(key, max(self.settings.prewarm, self.settings.min_idle), now, actions)
        actions += self.tick(now)
        return actions

    def forget(self, key: Hashable, now: float) -> Sequence[Action]:
        """Keep no idle ones of ``key`` any more; what is there falls to the idle timeout."""
        if key in self._kept:
            del self._kept[key]
            self._tidy(self._keys[key])
        return self.tick(now)

    def drain(self, now: float) -> Sequence[Action]:
        """Refuse who comes from now on and close what is not needed; who waits is still served."""
        self.draining = True
        actions: list[Action] = []
        self._settle(now, actions)
        return actions

    def stop(self, now: float) -> Sequence[Action]:
        """Refuse all, and close all, also what is held."""
        self.draining = self.stopped = True
        actions: list[Action] = []
        for waiting in list(self._waiting.values()):
            self._forget(waiting)
            waited = now - waiting.since
            actions.append(self._refusal(waiting.waiter, waiting.peers.key, RefusedBecause.STOPPED, waited))
        for peers in list(self._keys.values()):
            for place in list(peers.spare):
                if place.state is PlaceState.DIALLING:
                    del peers.spare[place]
                    self._remove(place)
        for place in list(self.places.values()):
            self._take_out(place, ClosedBecause.STOPPED, actions)
        self.due = inf
        return actions

    def statistics(self) -> dict[str, Any]:
        """What there is now, of each key too, and counts since the start."""
        keys: dict[str, dict[str, int]] = {}
        for key, peers in self._keys.items():
            counts, name = self._counts(peers), str(key)
            if (same := keys.get(name)) is not None:  # 1 and "1"
                counts = {what: count + same[what] for what, count in counts.items()}
            keys[name] = counts
        return {
            "enabled": self.enabled,
            "max_total": self._max_total,
            "max_per_key": self._max_per_key,
            "total": self.total,
            "idle": self.idle,
            "in_use": sum(one["in_use"] for one in keys.values()),
            "waiting": len(self._waiting),
            "dials": self.dials,
            "dial_failures": self.dial_failures,
            "reused": self.reused,
            "given": self.given,
            "closed": {str(why): count for why, count in self.closed.items() if count},
            "refused": {str(why): count for why, count in self.refused.items() if count},
            "held_warnings": self.held_warnings,
            "waited": self.waited,
            "wait_seconds": self.wait_seconds,
            "wait_max": self.wait_max,
            "keys": keys,
        }

    def _counts(self, peers: Keyed) -> dict[str, int]:
        coming = len(peers.spare) + len(peers.waiting) - len(peers.queued)
        return {
            "total": peers.total,
            "idle": len(peers.idle),
            "coming": coming,  # dialled or checked just now
            "in_use": peers.total - len(peers.idle) - coming,
            "waiting": len(peers.waiting),
        }

    # What comes with time

    def _tick_idle(self, peers: Keyed, now: float, actions: list[Action]) -> float:
        """Look after the idle ones of a key. When to look again."""
        due = inf
        settings = self.settings
        interval = settings.check_interval if self.checks else None
        checked = False
        for place in list(peers.idle):
            why = self._worn(place, now)
            if why is not None:
                self._wake(place)
                self._drop(place, why, actions)
                continue
            due = min(due, place.retire_at)
            if settings.idle_timeout is not None and len(peers.idle) > self._spared(peers):
                due = min(due, place.since + settings.idle_timeout)
            if interval is None:
                continue
            if now - place.proven >= interval and not checked:
                checked = True  # one at a time: the others stay there to be borrowed
                self._wake(place)
                place.state = PlaceState.CHECKING
                peers.spare[place] = None
                actions.append(Check(place, None))
            else:
                due = min(due, place.proven + interval)
        return due

    def _tick_held(self, place: Place, now: float, actions: list[Action]) -> float:
        """Tell that ``place`` is held for too long, or take it back. When to look again."""
        due = inf
        settings = self.settings
        if settings.held_warning is not None and place.warned != place.since:
            if now - place.since >= settings.held_warning:
                place.warned = place.since
                self.held_warnings += 1
                actions.append(Warn(place, now - place.since))
            else:
                due = place.since + settings.held_warning
        if settings.reclaim_after is not None:
            if now - place.since >= settings.reclaim_after:
                self._drop(place, ClosedBecause.RECLAIMED, actions, held=True)
                return inf
            due = min(due, place.since + settings.reclaim_after)
        return due

    def _fill(self, key: Any, wanted: int, now: float, actions: list[Action]) -> float:
        """Dial until ``wanted`` are idle or will be, as far as there is room. When to look again."""
        peers = self._of(key)
        if peers.failures:
            again = peers.failed_at + _BACKOFF.delay(peers.failures - 1)
            if now < again:
                return again
        while len(peers.idle) + len(peers.spare) < wanted and self.idle < self._max_idle and self._room(peers):
            place = self._new(peers, now)
            peers.spare[place] = None
            actions.append(Dial(place, None))
        return inf
