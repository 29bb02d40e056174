"""A pool's plan against a world that believes nothing: it does what it is told, and knows what may be told."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forebay.policy.pool import PoolPlan
from forebay.policy.pool_actions import (
    Action,
    Check,
    Close,
    ClosedBecause,
    Dial,
    Give,
    Place,
    Refuse,
    RefusedBecause,
    Warn,
)
from forebay.policy.pool_settings import PoolSettings

KEYS = ("a", "b", "c")
KEPT = "a"


class Thing:
    """What a dial brings."""


class PoolWorld(RuleBasedStateMachine):
    """The reference: sets of places, and a list of who waits. Whatever is done to the pool is done by ``act``."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.names = 0
        self.waiting: dict[int, str] = {}  # who waits for which key, the oldest first
        self.dialling: set[Place] = set()
        self.checking: set[Place] = set()
        self.idle: set[Place] = set()
        self.held: dict[Place, float] = {}  # since when
        self.told: set[Place] = set()  # held for too long
        self.ended: set[Place] = set()
        self.serial: dict[Place, int] = {}
        self.answered = self.refused = self.warned = self.dials = self.failed = 0
        self.stopped = False

    @initialize(
        total=st.integers(1, 5),
        per_key=st.integers(1, 4),
        idle=st.integers(1, 4),
        waiting=st.integers(0, 6),
        checks=st.booleans(),
        kept=st.booleans(),
    )
    def begin(self, total: int, per_key: int, idle: int, waiting: int, checks: bool, kept: bool) -> None:
        """A small pool: limits are reached at once."""
        settings = PoolSettings(
            max_total=total,
            max_per_key=per_key,
            max_idle=idle,
            max_waiting=waiting,
            idle_timeout=60.0,
            max_lifetime=120.0,
            check_after=30.0,
            check_interval=45.0,
            held_warning=5.0,
            reclaim_after=50.0,
            min_idle=1,
            prewarm=2 if idle > 1 else 0,
        )
        self.ceiling = total
        self.key_ceilings = dict.fromkeys(KEYS, per_key)
        self.plan = PoolPlan(settings, checks=checks, source=random.Random(1))
        if kept:
            self.act(self.plan.keep([KEPT], self.now))

    # What the world knows

    def order(self, place: Place) -> int:
        """Places in the order in which they were dialled."""
        return self.serial[place]

    def of(self, places: Any, key: str) -> int:
        """How many of ``places`` are of ``key``."""
        return sum(place.key == key for place in places)

    def total(self, key: str | None = None) -> int:
        """How many places there are."""
        everything = [*self.dialling, *self.checking, *self.idle, *self.held]
        return len(everything) if key is None else self.of(everything, key)

    def without(self, key: str) -> int:
        """How many wait for ``key`` for whom nothing is dialled or checked."""
        line = sum(wanted == key for wanted in self.waiting.values())
        return max(0, line - self.of(self.dialling, key) - self.of(self.checking, key))

    def nobody_before(self, waiter: int) -> None:
        """Nobody who came before ``waiter`` could have been served instead."""
        settings, mine = self.plan.settings, self.waiting[waiter]
        if self.total() > settings.max_total:
            return  # no place comes free by closing something
        for key in KEYS:
            line = [one for one, wanted in self.waiting.items() if wanted == key]
            if key != mine and self.without(key) and max(line) < waiter:
                assert self.total(key) >= settings.max_per_key, f"{waiter} served before {line} of {key}"

    # Doing

    def act(self, actions: Sequence[Action]) -> None:
        """Do what the plan wants, in order, and complain about what makes no sense."""
        for action in actions:
            match action:
                case Give(waiter, place):
                    key = self.waiting[waiter]
                    assert place.key == key
                    assert waiter == min(one for one, wanted in self.waiting.items() if wanted == key), "not FIFO"
                    self.nobody_before(waiter)
                    self.idle.remove(place)
                    del self.waiting[waiter]
                    self.held[place] = self.now
                    self.answered += 1
                case Dial(place, waiter):
                    assert self.total() < self.plan.settings.max_total
                    assert self.total(place.key) < self.plan.settings.max_per_key
                    if waiter is not None:
                        assert self.waiting[waiter] == place.key
                        assert self.without(place.key)
                        self.nobody_before(waiter)
                    else:
                        assert place.key == KEPT
                    self.dialling.add(place)
                    self.serial[place] = self.dials
                    self.dials += 1
                case Check(place, waiter):
                    assert self.plan.checks
                    assert waiter is None or (self.waiting[waiter] == place.key and self.without(place.key))
                    self.idle.remove(place)
                    self.checking.add(place)
                case Close(place, why, held):
                    self.close(place, why, held)
                case Refuse(waiter, key, why):
                    assert self.waiting.pop(waiter, key) == key
                    self.refused += 1
                    assert why is not RefusedBecause.QUEUE_FULL or self.queue() >= self.plan.settings.max_waiting
                case Warn(place, seconds):
                    assert place not in self.told
                    assert seconds == self.now - self.held[place] >= 5
                    self.told.add(place)
                    self.warned += 1

    def queue(self) -> int:
        """How many wait for whom nothing is on its way."""
        return sum(self.without(key) for key in KEYS)

    def close(self, place: Place, why: ClosedBecause, held: bool) -> None:
        """A resource is closed once, and only from under its holder when that is said."""
        assert place not in self.ended
        self.ended.add(place)
        assert held == (place in self.held)
        self.held.pop(place, None)
        self.told.discard(place)
        for places in (self.idle, self.checking):
            places.discard(place)
        if why is ClosedBecause.ROOM:
            assert self.total() + 1 == self.plan.settings.max_total

    # What happens

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=6))
    def acquire(self, keys: list[str]) -> None:
        """Some want a resource: an idle one, or a place in the line."""
        for key in keys:
            self.acquire_one(key)

    def acquire_one(self, key: str) -> None:
        """One of them."""
        place = self.plan.take(key, self.now)
        if place is not None:
            assert place.key == key
            assert self.now < place.retire_at
            self.idle.remove(place)
            self.held[place] = self.now
            return
        self.names += 1
        if not self.stopped:
            self.waiting[self.names] = key
        self.act(self.plan.want(key, self.names, self.now))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), usable=st.booleans())
    def release(self, data: st.DataObject, usable: bool) -> None:
        """A holder is done, and the resource can be used again, or not."""
        place = data.draw(st.sampled_from(sorted(self.held, key=self.order)))
        if usable:
            del self.held[place]
            self.told.discard(place)
            self.idle.add(place)
            settings = self.plan.settings
            over = self.total() > settings.max_total or self.total(place.key) > settings.max_per_key
            self.act_after_release(place, self.plan.release(place, self.now))
            assert not over or place in self.ended
        else:
            actions = self.plan.release(place, self.now, ClosedBecause.USED_UP)
            assert any(isinstance(one, Close) and one.place is place for one in actions)
            del self.held[place]
            self.told.discard(place)
            self.idle.add(place)  # for as long as it takes to read on
            self.act(actions)
            assert place not in self.idle

    def act_after_release(self, place: Place, actions: Sequence[Action]) -> None:
        """It is idle, given on, or closed for a reason."""
        self.act(actions)
        if place in self.ended:
            assert any(isinstance(one, Close) and one.place is place for one in actions)

    @precondition(lambda self: self.dialling)
    @rule(data=st.data(), works=st.booleans())
    def dial_ends(self, data: st.DataObject, works: bool) -> None:
        """A dial has brought something, or an error: that is for somebody where there is one for each dial."""
        place = data.draw(st.sampled_from(sorted(self.dialling, key=self.order)))
        if works:
            self.dialling.remove(place)
            self.idle.add(place)
            self.act(self.plan.dialled(place, Thing(), self.now))
            return
        coming = self.of(self.dialling, place.key) + self.of(self.checking, place.key)
        wanted = sum(key == place.key for key in self.waiting.values()) >= coming
        self.dialling.remove(place)
        self.failed += 1
        actions = self.plan.dial_failed(place, "refused", self.now)
        failures = [one for one in actions if isinstance(one, Refuse)]
        assert all(one.why is RefusedBecause.DIAL_FAILED and one.error == "refused" for one in failures)
        assert all(self.waiting[one.waiter] == place.key for one in failures)
        assert len(failures) == 1 if wanted else len(failures) <= 1
        self.act(actions)

    @rule()
    def all_dials_work(self) -> None:
        """They bring what they are for."""
        for place in sorted(self.dialling, key=self.order):
            self.dialling.remove(place)
            self.idle.add(place)
            self.act(self.plan.dialled(place, Thing(), self.now))

    @precondition(lambda self: self.checking)
    @rule(data=st.data(), works=st.booleans())
    def check_ends(self, data: st.DataObject, works: bool) -> None:
        """A check has ended: well, or with the end of the resource."""
        place = data.draw(st.sampled_from(sorted(self.checking, key=self.order)))
        if works:
            self.checking.remove(place)
            self.idle.add(place)
        actions = self.plan.checked(place, works, self.now)
        assert works or any(isinstance(one, Close) and one.place is place for one in actions)
        self.act(actions)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), cancelled=st.booleans())
    def give_up(self, data: st.DataObject, cancelled: bool) -> None:
        """Somebody who waits is cancelled, or out of time."""
        waiter = data.draw(st.sampled_from(list(self.waiting)))
        if cancelled:
            del self.waiting[waiter]
            self.plan.leave(waiter)
        else:
            (refusal,) = self.plan.expire(waiter, self.now)
            assert isinstance(refusal, Refuse)
            assert refusal.why in (RefusedBecause.TIMEOUT, RefusedBecause.SLOW_DIAL)
            assert refusal.waiter == waiter
            self.act([refusal])
        assert self.plan.expire(waiter, self.now) == ()

    @precondition(lambda self: self.idle or self.held or self.checking)
    @rule(data=st.data())
    def ends_by_itself(self, data: st.DataObject) -> None:
        """A resource is gone, whoever has it; that it is released or checked later does no harm."""
        place = data.draw(st.sampled_from(sorted([*self.idle, *self.held, *self.checking], key=self.order)))
        self.act(self.plan.discard(place, self.now))
        assert place in self.ended
        assert self.plan.release(place, self.now) == ()
        assert self.plan.checked(place, True, self.now) == ()
        assert self.plan.discard(place, self.now) == ()

    @rule(seconds=st.sampled_from([0.0, 0.5, 4.9, 5.0, 20.0, 30.0, 45.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        """Some time later, somebody looks after the pool."""
        self.now += seconds
        self.act(self.plan.tick(self.now))
        assert all(place in self.told for place, since in self.held.items() if self.now - since >= 5)
        assert not [since for since in self.held.values() if self.now - since >= 50]
        assert not [place for place in self.idle if self.now >= place.retire_at]
        for key in KEYS:
            worn = [one for one in self.idle if one.key == key and self.now - one.since >= 60]
            assert len(worn) <= (key == KEPT), "idle for too long"
        assert self.stopped or not self.total() or self.plan.due <= self.now + 5

    @precondition(lambda self: not self.stopped)
    @rule(total=st.integers(1, 6), per_key=st.integers(1, 4), idle=st.integers(1, 4))
    def resize(self, total: int, per_key: int, idle: int) -> None:
        """The limits change. What is over them goes when it comes back; what is idle, at once."""
        settings = replace(self.plan.settings, max_total=total, max_per_key=per_key, max_idle=idle)
        self.ceiling = max(self.ceiling, total)
        self.key_ceilings = {key: max(most, per_key) for key, most in self.key_ceilings.items()}
        self.act(self.plan.resize(settings, self.now))
        self.limits_hold()
        assert not self.idle or self.total() <= total
        assert all(not self.of(self.idle, key) or self.total(key) <= per_key for key in KEYS)

    @precondition(lambda self: self.now > 1100)
    @rule()
    def stop(self) -> None:
        """All is over: who waits hears of it, and everything is closed, also what a dial brings later."""
        self.stopped = True
        self.dialling, late = set(), self.dialling
        self.act(self.plan.stop(self.now))
        assert not self.waiting
        assert not self.total()
        for place in late:
            (action,) = self.plan.dialled(place, Thing(), self.now)
            assert action == Close(place, ClosedBecause.STOPPED)

    # What is always so

    @invariant()
    def limits_hold(self) -> None:
        """There is never more than the limits say, or than there was when they became smaller."""
        if not hasattr(self, "plan"):
            return
        settings = self.plan.settings
        self.ceiling = max(settings.max_total, min(self.ceiling, self.total()))
        assert self.total() <= self.ceiling
        for key, most in self.key_ceilings.items():
            self.key_ceilings[key] = max(settings.max_per_key, min(most, self.total(key)))
            assert self.total(key) <= self.key_ceilings[key]
        assert len(self.idle) <= settings.max_idle

    @invariant()
    def nobody_waits_for_what_is_free(self) -> None:
        """Who waits has no idle resource, no place, and nobody's idle resource to make one of."""
        if not hasattr(self, "plan"):
            return
        settings = self.plan.settings
        for key in set(self.waiting.values()):
            assert not [one for one in self.idle if one.key == key and self.now < one.fresh_until]
            if self.without(key):
                assert not self.of(self.idle, key)
                if self.total(key) < settings.max_per_key:
                    assert self.total() >= settings.max_total
                    assert not self.idle
        # who is checked for, and then not served, joins the line though it is full
        assert self.queue() <= settings.max_waiting + settings.max_total

    @invariant()
    def the_counts_are_right(self) -> None:
        """Statistics agree with the world."""
        if not hasattr(self, "plan"):
            return
        found = self.plan.statistics()
        assert found["total"] == self.total()
        assert found["idle"] == len(self.idle)
        assert found["in_use"] == len(self.held)
        assert found["waiting"] == self.plan.waiting == len(self.waiting)
        assert found["dials"] == self.dials
        assert found["dial_failures"] == self.failed
        assert found["given"] == self.answered
        assert found["held_warnings"] == self.warned
        assert sum(found["refused"].values()) == self.refused
        assert len(self.plan.places) == len(self.idle) + len(self.held) + len(self.checking)
        assert self.plan.queued == self.queue()
        assert set(found["keys"]) <= set(KEYS)


TestPoolWorld = PoolWorld.TestCase
