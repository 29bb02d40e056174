"""What a pool's plan decides, rule by rule."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from forebay.policy.pool import PoolPlan
from forebay.policy.pool_actions import (
    Action,
    Check,
    Close,
    ClosedBecause,
    Dial,
    Give,
    Place,
    PlaceState,
    Refuse,
    RefusedBecause,
    Warn,
)
from forebay.policy.pool_settings import PoolSettings


class Thing:
    """What a dial brings."""


def plan(checks: bool = False, **settings: Any) -> PoolPlan:
    """A plan with a few limits of its own."""
    return PoolPlan(PoolSettings(**settings), checks=checks, source=random.Random(1))


def only(actions: Sequence[Action]) -> Action:
    """The one thing that is to be done."""
    (action,) = actions
    return action


def dialling(pool: PoolPlan, key: str, waiter: str, now: float = 0.0) -> Place:
    """``waiter`` comes, and something is dialled for it."""
    action = only(pool.want(key, waiter, now))
    assert isinstance(action, Dial)
    assert action.waiter == waiter
    return action.place


def held(pool: PoolPlan, key: str, waiter: str, now: float = 0.0) -> Place:
    """``waiter`` has something that was dialled for it."""
    place = dialling(pool, key, waiter, now)
    assert pool.dialled(place, Thing(), now) == [Give(waiter, place)]
    return place


def waiter_of(place: Place) -> Any:
    """Whom a place is dialled for."""
    return place.waiting and place.waiting.waiter


def test_what_is_released_last_is_used_first() -> None:
    """So that few are in use, and the others fall to the idle timeout."""
    pool = plan()
    first, second = held(pool, "k", "w1"), held(pool, "k", "w2")
    assert pool.release(first, 1.0) == ()
    assert pool.release(second, 2.0) == ()
    assert pool.take("k", 3.0) is second
    assert pool.take("k", 3.0) is first
    assert pool.take("k", 3.0) is None
    assert pool.statistics()["reused"] == 2


def test_released_twice() -> None:
    """Only what is held can be released."""
    pool = plan()
    place = held(pool, "k", "w")
    pool.release(place, 1.0)
    with pytest.raises(ValueError, match="is held by nobody"):
        pool.release(place, 1.0)


def test_waiting_twice() -> None:
    """A waiter is one."""
    pool = plan()
    dialling(pool, "k", "w")
    with pytest.raises(ValueError, match="waits already"):
        pool.want("k", "w", 0.0)


def test_first_come_first_served_whatever_was_dialled_for_whom() -> None:
    """The second dial is done first, and is for the first who waits; the first dial is for the second then."""
    pool = plan()
    one, two = dialling(pool, "k", "w1"), dialling(pool, "k", "w2")
    assert pool.dialled(two, Thing(), 1.0) == [Give("w1", two)]
    assert one.waiting is not None
    assert one.waiting.waiter == "w2"
    assert only(pool.dial_failed(one, "refused", 2.0)) == Refuse("w2", "k", RefusedBecause.DIAL_FAILED, 2.0, "refused")


def test_the_dial_of_who_left_is_for_the_next() -> None:
    """It is not wasted: the oldest without one gets it; when there is none, who comes next; else it is idle."""
    pool = plan(max_total=1)
    place = dialling(pool, "k", "w1")
    assert pool.want("k", "w2", 1.0) == []
    pool.leave("w1")
    assert waiter_of(place) == "w2"
    pool.leave("w2")
    assert waiter_of(place) is None
    assert pool.want("k", "w3", 2.0) == []
    assert waiter_of(place) == "w3"
    pool.leave("w3")
    assert pool.dialled(place, Thing(), 3.0) == []
    assert place.state is PlaceState.IDLE
    assert pool.take("k", 3.0) is place


def test_a_failed_dial_frees_its_place() -> None:
    """Its error goes to whom it was for, and the next one is dialled for at once."""
    pool = plan(max_total=1)
    place = dialling(pool, "k", "w1")
    pool.want("k", "w2", 0.0)
    refusal, dial = pool.dial_failed(place, "refused", 1.0)
    assert refusal == Refuse("w1", "k", RefusedBecause.DIAL_FAILED, 1.0, "refused")
    assert isinstance(dial, Dial)
    assert dial.waiter == "w2"
    assert pool.dial_failed(place, "again", 2.0) == ()


def test_a_key_at_its_limit_is_passed_over_but_not_starved() -> None:
    """Others are served past it; when one of its own comes back, it is its turn, before those who came later."""
    pool = plan(max_total=3, max_per_key=1)
    a = held(pool, "a", "w1")
    assert pool.want("a", "w2", 1.0) == []
    b = held(pool, "b", "w3", 1.0)
    held(pool, "c", "w4", 1.0)
    assert pool.want("d", "w5", 2.0) == []
    assert pool.release(a, 3.0) == [Give("w2", a)]
    close, dial = pool.release(b, 4.0)
    assert close == Close(b, ClosedBecause.ROOM)
    assert isinstance(dial, Dial)
    assert (dial.waiter, dial.place.key) == ("w5", "d")


def test_the_oldest_comes_before_a_younger_one_of_the_same_key() -> None:
    """What comes back is closed for the oldest, though a younger one could have had it as it is."""
    pool = plan(max_total=1)
    a = held(pool, "a", "w1")
    assert pool.want("b", "w2", 1.0) == []
    assert pool.want("a", "w3", 2.0) == []
    close, dial = pool.release(a, 3.0)
    assert close == Close(a, ClosedBecause.ROOM)
    assert isinstance(dial, Dial)
    assert dial.waiter == "w2"


def test_room_is_made_of_what_was_not_used_for_longest() -> None:
    """When all places are taken, an idle resource of another key goes, and only one."""
    pool = plan(max_total=3)
    a, b, c = held(pool, "a", "w1"), held(pool, "b", "w2"), held(pool, "c", "w3")
    for at, place in ((1.0, b), (2.0, a), (3.0, c)):
        pool.release(place, at)
    close, dial = pool.want("d", "w4", 4.0)
    assert close == Close(b, ClosedBecause.ROOM)
    assert isinstance(dial, Dial)
    assert dial.place.key == "d"


def test_who_may_wait_is_bounded() -> None:
    """Those for whom something is dialled do not count; past the bound one is refused at once."""
    pool = plan(max_total=2, max_waiting=1)
    dialling(pool, "k", "w1")
    dialling(pool, "k", "w2")
    assert pool.want("k", "w3", 0.0) == []
    assert only(pool.want("k", "w4", 0.0)) == Refuse("w4", "k", RefusedBecause.QUEUE_FULL, 0.0)
    pool.leave("w3")
    assert pool.want("k", "w5", 0.0) == []
    assert pool.statistics()["refused"] == {"queue-full": 1}


def test_why_the_time_is_over() -> None:
    """A dial that is slow is told from a pool that is exhausted."""
    pool = plan(max_total=1)
    dialling(pool, "k", "w1")
    pool.want("k", "w2", 1.0)
    assert only(pool.expire("w2", 4.0)) == Refuse("w2", "k", RefusedBecause.TIMEOUT, 3.0)
    assert only(pool.expire("w1", 5.0)) == Refuse("w1", "k", RefusedBecause.SLOW_DIAL, 5.0)
    assert pool.expire("w1", 6.0) == ()


def test_idle_timeout() -> None:
    """An idle one is closed after it, and never given after it, when nobody has looked after the pool meanwhile too."""
    pool = plan(idle_timeout=60.0)
    place = held(pool, "k", "w1")
    pool.release(place, 0.0)
    assert pool.tick(59.9) == []
    assert pool.due == 60.0
    assert pool.take("k", 60.0) is None
    close, dial = pool.want("k", "w2", 60.0)
    assert close == Close(place, ClosedBecause.IDLE)
    assert isinstance(dial, Dial)
    other = dial.place
    pool.dialled(other, Thing(), 60.0)
    pool.release(other, 61.0)
    assert pool.tick(121.0) == [Close(other, ClosedBecause.IDLE)]


def test_lifetime_with_jitter() -> None:
    """Lives end between 90% and 100% of the lifetime, spread evenly; one that is held ends when it comes back."""
    pool = plan(max_total=2000, max_per_key=2000, max_idle=2000, max_lifetime=100.0, lifetime_jitter=0.1)
    places = [held(pool, "k", f"w{number}") for number in range(2000)]
    lives = sorted(place.retire_at for place in places)
    assert 90 < lives[0] < 90.5
    assert 99.5 < lives[-1] <= 100
    assert sum(lives) / 2000 == pytest.approx(95, abs=0.2)
    assert pool.release(places[0], 100.0) == [Close(places[0], ClosedBecause.LIFETIME)]


def test_kept_keys() -> None:
    """Two are dialled at the start, one is always idle, and the idle timeout leaves it alone."""
    pool = plan(prewarm=2, min_idle=1, idle_timeout=60.0, held_warning=None)
    first, second = pool.keep(["k"], 0.0)
    assert isinstance(first, Dial)
    assert isinstance(second, Dial)
    assert first.waiter is None
    pool.dialled(first.place, Thing(), 0.0)
    pool.dialled(second.place, Thing(), 1.0)
    assert pool.tick(61.0) == [Close(first.place, ClosedBecause.IDLE)]
    assert pool.tick(1000.0) == []
    assert only(pool.want("k", "w", 1000.0)) == Give("w", second.place)
    again = only(pool.tick(1001.0))
    assert isinstance(again, Dial)
    assert pool.forget("k", 1001.0) == []
    pool.dialled(again.place, Thing(), 1002.0)
    assert pool.tick(1062.0) == [Close(again.place, ClosedBecause.IDLE)]


def test_dials_for_nobody_back_off() -> None:
    """What is to be idle and cannot be dialled is tried again after half a second, a second, two."""
    pool = plan(min_idle=1)
    action = only(pool.keep(["k"], 0.0))
    at = 0.0
    for delay in (0.5, 1.0, 2.0):
        assert isinstance(action, Dial)
        assert pool.dial_failed(action.place, "refused", at) == []
        assert pool.tick(at + delay - 0.01) == []
        assert pool.due <= at + delay
        at += delay
        action = only(pool.tick(at))
    assert pool.statistics()["dial_failures"] == 3


def test_check_before_it_is_borrowed() -> None:
    """Only after some time without use. One that fails is closed, and the next is checked, or one is dialled."""
    pool = plan(checks=True, check_after=30.0, idle_timeout=None)
    one, two = held(pool, "k", "w1"), held(pool, "k", "w2")
    pool.release(one, 0.0)
    pool.release(two, 1.0)
    assert pool.take("k", 30.0) is two
    pool.release(two, 30.5)
    assert pool.take("k", 60.5) is None
    assert pool.want("k", "w3", 60.5) == [Check(two, "w3")]
    assert pool.checked(two, False, 61.0) == [Close(two, ClosedBecause.CHECK), Check(one, "w3")]
    close, dial = pool.checked(one, False, 62.0)
    assert close == Close(one, ClosedBecause.CHECK)
    assert isinstance(dial, Dial)
    assert dial.waiter == "w3"


def test_a_check_that_succeeds() -> None:
    """The resource goes to who waits, and counts as proven from then on."""
    pool = plan(checks=True, check_after=30.0)
    place = held(pool, "k", "w1")
    pool.release(place, 0.0)
    assert pool.want("k", "w2", 40.0) == [Check(place, "w2")]
    pool.leave("w2")
    assert pool.checked(place, True, 41.0) == []
    assert place.since == 0.0, "a check is no use: the idle timeout goes on"
    assert pool.take("k", 42.0) is place


def test_who_is_checked_for_in_vain_keeps_its_place_in_the_line() -> None:
    """It is before those who came later, whatever they wait for by then."""
    pool = plan(checks=True, check_after=30.0, max_total=3, max_per_key=2, idle_timeout=None)
    one, two = held(pool, "k", "w1"), held(pool, "k", "w2")
    other = held(pool, "o", "w3")
    pool.release(one, 0.0)
    pool.release(two, 1.0)
    assert pool.want("k", "a", 40.0) == [Check(two, "a")]
    assert pool.want("k", "b", 40.0) == [Check(one, "b")]
    pool.want("k", "c", 40.0)
    pool.want("o", "z", 40.0)  # a place of its key would be free, but not one of the pool
    close, dial = pool.checked(one, False, 41.0)
    assert close == Close(one, ClosedBecause.CHECK)
    assert isinstance(dial, Dial)
    assert dial.waiter == "b"
    close, dial = pool.checked(two, False, 41.0)
    assert isinstance(dial, Dial)
    assert dial.waiter == "a"
    assert pool.release(other, 42.0) == [Give("z", other)]


def test_background_checks() -> None:
    """One at a time for each key, of what was neither used nor checked for the interval."""
    pool = plan(checks=True, check_interval=10.0)
    one, two = held(pool, "k", "w1"), held(pool, "k", "w2")
    pool.release(one, 0.0)
    pool.release(two, 0.0)
    assert pool.tick(9.0) == []
    assert pool.tick(10.0) == [Check(one, None)]
    assert pool.checked(one, True, 10.5) == []
    assert pool.tick(11.0) == [Check(two, None)]
    assert pool.checked(two, False, 11.5) == [Close(two, ClosedBecause.CHECK)]
    assert pool.tick(20.4) == []
    assert pool.tick(20.5) == [Check(one, None)]


def test_held_for_too_long() -> None:
    """It is told once for each time that it is taken, then it is closed under its holder; releasing it is harmless."""
    pool = plan(held_warning=5.0, reclaim_after=60.0, max_total=1)
    place = held(pool, "k", "w1")
    assert pool.tick(4.9) == []
    assert pool.tick(5.0) == [Warn(place, 5.0)]
    assert pool.tick(6.0) == []
    pool.release(place, 7.0)
    assert pool.take("k", 8.0) is place
    assert pool.tick(13.0) == [Warn(place, 5.0)]
    assert pool.due == 18.0
    pool.want("k", "w2", 14.0)
    close, dial = pool.tick(68.0)
    assert close == Close(place, ClosedBecause.RECLAIMED, held=True)
    assert isinstance(dial, Dial)
    assert dial.waiter == "w2"
    assert pool.release(place, 69.0) == ()
    assert pool.statistics()["held_warnings"] == 2
    assert pool.statistics()["closed"] == {"reclaimed": 1}


def test_it_becomes_smaller() -> None:
    """Idle ones go at once, the longest unused first; the others when they come back, though somebody waits."""
    pool = plan()
    places = [held(pool, "k", f"w{number}") for number in range(4)]
    pool.release(places[0], 1.0)
    pool.release(places[1], 2.0)
    assert pool.resize(PoolSettings(max_total=3), 3.0) == [Close(places[0], ClosedBecause.SHRUNK)]
    assert pool.resize(PoolSettings(max_total=1), 3.0) == [Close(places[1], ClosedBecause.SHRUNK)]
    assert pool.want("k", "late", 4.0) == []
    assert pool.release(places[2], 5.0) == [Close(places[2], ClosedBecause.SHRUNK)]
    assert pool.release(places[3], 5.0) == [Give("late", places[3])]


def test_a_key_becomes_smaller() -> None:
    """So does its share of an otherwise large pool."""
    pool = plan()
    places = [held(pool, "k", f"w{number}") for number in range(4)]
    for place in places[:3]:
        pool.release(place, 1.0)
    closed = [Close(place, ClosedBecause.SHRUNK) for place in places[:2]]
    assert pool.resize(PoolSettings(max_per_key=2), 2.0) == closed
    assert pool.resize(PoolSettings(max_per_key=1), 2.0) == [Close(places[2], ClosedBecause.SHRUNK)]


def test_it_becomes_larger() -> None:
    """Those who wait are dialled for at once."""
    pool = plan(max_total=1)
    held(pool, "k", "w1")
    pool.want("k", "w2", 0.0)
    action = only(pool.resize(PoolSettings(max_total=2), 1.0))
    assert isinstance(action, Dial)
    assert action.waiter == "w2"


def test_too_many_idle() -> None:
    """The longest unused one of all keys goes."""
    pool = plan(max_idle=1)
    a, b = held(pool, "a", "w1"), held(pool, "b", "w2")
    assert pool.release(a, 1.0) == ()
    assert pool.release(b, 2.0) == [Close(a, ClosedBecause.SURPLUS)]
    assert pool.statistics()["keys"] == {"b": {"total": 1, "idle": 1, "coming": 0, "in_use": 0, "waiting": 0}}


def test_draining() -> None:
    """Who comes is refused, who waits is served, and all is closed that is not needed any more."""
    pool = plan(max_total=2)
    one, two = held(pool, "k", "w1"), held(pool, "j", "w2")
    pool.release(two, 0.0)
    pool.want("k", "w3", 0.0)  # takes the place of two
    assert pool.want("k", "w4", 0.0) == []
    assert pool.drain(1.0) == []
    assert only(pool.want("k", "w5", 1.0)) == Refuse("w5", "k", RefusedBecause.DRAINING, 0.0)
    assert pool.release(one, 2.0) == [Give("w3", one)]
    assert pool.release(one, 3.0) == [Give("w4", one)]
    assert pool.release(one, 4.0) == [Close(one, ClosedBecause.DRAINED)]
    assert pool.total == 1, "what is still dialled"


def test_stopping() -> None:
    """All is closed, held or not, and all are refused; what a dial brings later is closed too."""
    pool = plan(max_total=3, max_per_key=2)
    one, two = held(pool, "k", "w1"), held(pool, "k", "w2")
    pool.release(one, 0.0)
    late = dialling(pool, "j", "w3")
    pool.want("k", "w4", 0.0)  # has one
    pool.want("k", "w5", 0.0)
    actions = pool.stop(1.0)
    assert Refuse("w3", "j", RefusedBecause.STOPPED, 1.0) in actions
    assert Refuse("w5", "k", RefusedBecause.STOPPED, 1.0) in actions
    assert Close(one, ClosedBecause.STOPPED, held=True) in actions
    assert Close(two, ClosedBecause.STOPPED, held=True) in actions
    assert len(actions) == 4
    assert (pool.total, pool.waiting, pool.statistics()["keys"]) == (0, 0, {})
    assert pool.dialled(late, Thing(), 2.0) == [Close(late, ClosedBecause.STOPPED)]
    assert only(pool.want("k", "w6", 2.0)) == Refuse("w6", "k", RefusedBecause.STOPPED, 0.0)


def test_switched_off() -> None:
    """Nobody waits, whatever the limits; resources are used again all the same."""
    pool = plan(max_total=1, max_per_key=1)
    first = held(pool, "k", "w1")
    pool.enabled = False
    second = held(pool, "k", "w2")
    assert pool.release(first, 1.0) == ()
    assert pool.take("k", 1.0) is first
    pool.enabled = True
    assert pool.release(second, 2.0) == [Close(second, ClosedBecause.SHRUNK)]


def test_statistics() -> None:
    """What there is, what came of it, and how long it took."""
    pool = plan(max_total=1)
    place = held(pool, "k", "w1")
    pool.want("k", "w2", 1.0)
    pool.release(place, 4.0)
    found = pool.statistics()
    assert (found["total"], found["in_use"], found["waiting"]) == (1, 1, 0)
    assert (found["waited"], found["wait_seconds"], found["wait_max"]) == (1, 3.0, 3.0)
    assert (found["dials"], found["given"], found["reused"]) == (1, 2, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_total", 0),
        ("max_per_key", 0),
        ("max_idle", -1),
        ("idle_timeout", 0.0),
        ("max_lifetime", -1.0),
        ("lifetime_jitter", 1.5),
        ("min_idle", 1000),
        ("max_waiting", -1),
        ("dial_timeout", None),
        ("reclaim_after", 1.0),
    ],
)
def test_settings_that_make_no_sense(name: str, value: Any) -> None:
    """Each is refused with its name and what would be right."""
    with pytest.raises(ValueError, match=f"{name} {value}: must be"):
        PoolSettings(**{name: value})


@pytest.mark.parametrize("stopped", [False, True])
def test_nothing_is_kept_ready_any_more(stopped: bool) -> None:
    """Once it drains or is stopped nothing is dialled for nobody, and an empty pool has nothing to come again for."""
    pool = plan(min_idle=1)
    (dial,) = pool.keep(["a"], 0.0)
    assert isinstance(dial, Dial)
    pool.dialled(dial.place, Thing(), 0.0)
    held(pool, "z", "w")
    (pool.stop if stopped else pool.drain)(1.0)
    assert pool.keep(["b"], 1.0) == []
    assert pool.total == (0 if stopped else 1)
    assert pool.resize(PoolSettings(min_idle=2), 2.0) == []
    assert (pool.due == float("inf")) is stopped


def test_a_key_that_cannot_be_kept() -> None:
    """The keys before it have no place that nobody dials for."""
    pool = plan(min_idle=1)
    with pytest.raises(TypeError):
        pool.keep(["a", []], 0.0)  # type: ignore[list-item]  # that is the mistake
    assert (pool.total, pool.statistics()["keys"]) == (0, {})


def test_keys_of_the_same_name() -> None:
    """In the statistics they are one, and nothing of them is lost."""
    pool = plan()
    for key in (1, "1"):
        (action,) = pool.want(key, f"{key!r}", 0.0)
        assert isinstance(action, Dial)
        pool.dialled(action.place, Thing(), 0.0)
    found = pool.statistics()
    assert found["in_use"] == 2
    assert found["keys"] == {"1": {"total": 2, "idle": 0, "coming": 0, "in_use": 2, "waiting": 0}}
