"""How fast one thing may be done."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from forebay.policy.limiters import GCRA, Limiter, SlidingWindow, TokenBucket, WarmUp

ALL: dict[str, Callable[..., Any]] = {
    "bucket": lambda **more: TokenBucket(2.0, 4, **more),
    "window": lambda **more: SlidingWindow(4, 2.0, **more),
    "warm-up": lambda **more: WarmUp(2.0, 4, 10.0, **more),
}

each = pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())


def drain(limiter: Limiter, now: float) -> int:
    """Take one by one until there is none."""
    count = 0
    while limiter.take(now) == 0.0:
        count += 1
    return count


# What all of them do


@each
@pytest.mark.parametrize("start", [0.0, 100.0, 8e6, 1.8e9], ids=["zero", "boot", "months", "wall-clock"])
def test_a_burst_and_then_as_long_as_it_says(make: Callable[..., Limiter], start: float) -> None:
    """Four at once; after the wait it said, and not a microsecond earlier, the next is there. Whatever the clock reads,
    and however it rounds."""
    limiter = make()
    assert drain(limiter, start) == 4
    for count in (1, 2, 3, 4) * 5:
        wait = limiter.take(start, count)
        if wait:
            assert limiter.take(start + wait - 2e-6, count) > 0
            start += wait
            assert limiter.take(start, count) == 0.0


@each
def test_more_than_the_burst_never_comes(make: Callable[..., Limiter]) -> None:
    """The wait is infinite, nothing is taken, and it is counted apart from what is only not there yet."""
    limiter = make()
    assert limiter.take(100.0, 5) == inf
    assert limiter.wait(100.0, 5) == inf
    assert drain(limiter, 100.0) == 4
    assert limiter.take(100.0, 5) == inf
    assert limiter.statistics()["refused"] == {"rate": 1, "burst": 2}
    assert limiter.refusal(inf).reason == "burst"
    assert limiter.refusal(inf).retry_after == 0.0


@each
def test_several_are_taken_together_or_not_at_all(make: Callable[..., Limiter]) -> None:
    """Three are left: four are not there, and three still are."""
    limiter = make()
    assert limiter.take(100.0) == 0.0
    assert limiter.take(100.0, 4) > 0
    assert limiter.take(100.0, 3) == 0.0


@each
def test_looking_takes_nothing(make: Callable[..., Limiter]) -> None:
    """`wait` says what `take` then says, as often as it is asked."""
    limiter = make()
    for now in (100.0, 100.0, 100.1, 100.7, 103.0, 103.0, 103.5):
        for count in (3, 1, 2):
            waits = {limiter.wait(now, count) for _ in range(3)}
            assert waits == {limiter.take(now, count)}


@each
def test_nobody_takes_less_than_one(make: Callable[..., Limiter]) -> None:
    """Tokens cannot be put in by taking a negative number of them."""
    limiter = make()
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"count {count}: must be at least 1"):
            limiter.take(100.0, count)
        with pytest.raises(ValueError, match=f"count {count}: must be at least 1"):
            limiter.wait(100.0, count)
    assert drain(limiter, 100.0) == 4


@each
def test_one_that_is_switched_off_lets_everything_pass(make: Callable[..., Limiter]) -> None:
    """It counts all the same; switched on again it goes on where it was."""
    limiter = make(enabled=False)
    assert [limiter.take(100.0, 1_000) for _ in range(3)] == [0.0] * 3
    assert limiter.wait(100.0, 1_000) == 0.0
    limiter.enabled = True
    assert drain(limiter, 100.0) == 4
    limiter.enabled = False
    assert limiter.take(100.0) == 0.0
    assert limiter.statistics()["taken"] == 3_005


@each
def test_what_it_says_of_itself(make: Callable[..., Limiter]) -> None:
    """Counts, the level as of the last take or of a given time, and all of it as JSON."""
    limiter = make()
    limiter.take(100.0, 3)
    limiter.take(100.0, 2)
    said = limiter.statistics()
    assert (said["taken"], said["refused"]) == (3, {"rate": 1, "burst": 0})
    assert (said["rate"], said["burst"], said["enabled"]) == (2.0, 4, True)
    assert said["level"] == pytest.approx(1.0)
    assert limiter.statistics(200.0)["level"] == 4.0
    assert json.loads(json.dumps(said)) == said
    assert "taken=3" in repr(limiter)


@each
def test_a_refusal_has_its_figures(make: Callable[..., Limiter]) -> None:
    """Why, in words; and when to come again."""
    refused = make().refusal(0.25)
    assert (refused.policy, refused.reason, refused.retry_after) == ("limiter", "rate", 0.25)
    assert refused.detail == "2 per second and 4 at once are let through, the next in 0.25 s"


@each
def test_the_rate_can_be_changed(make: Callable[..., Limiter]) -> None:
    """A faster one is faster from then on; a larger burst is not full at once; a smaller one cuts what is left."""
    limiter = make()
    drain(limiter, 100.0)
    slow = limiter.wait(100.0)
    limiter.set_rate(100.0, 200, 100.0)
    assert limiter.take(100.0, 200) > 1.0
    assert limiter.wait(100.0) <= slow
    assert limiter.take(200.0, 200) == 0.0
    assert limiter.take(200.0, 1) > 0.0
    limiter.set_rate(100.0, 3, 300.0)
    assert limiter.take(300.0, 4) == inf
    assert drain(limiter, 300.0) == 3


@each
@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (inf, 1), (float("nan"), 1), (1.0, 0)])
def test_a_change_to_nonsense_is_refused(make: Callable[..., Limiter], rate: float, burst: int) -> None:
    """Nothing has changed then."""
    limiter = make()
    with pytest.raises(ValueError, match="must be"):
        limiter.set_rate(rate, burst, 100.0)
    assert drain(limiter, 100.0) == 4
    assert limiter.statistics()["rate"] == 2.0


@each
@pytest.mark.parametrize("ahead", [1, 4, 5, 9, 100])
def test_the_wait_behind_others_is_what_it_turns_out_to_be(make: Callable[..., Limiter], ahead: int) -> None:
    """Others take one by one, each as soon as it is there; then it is there for the one behind them, and not before."""
    limiter, now = make(), 100.0
    limiter.take(now, 2)
    foreseen = now + limiter.wait(now, 1, ahead)
    for _ in range(ahead):
        now += limiter.wait(now)
        assert limiter.take(now) == 0.0
    assert now + limiter.wait(now) == pytest.approx(foreseen, abs=1e-6)


# Token buckets


def test_gcra_is_the_token_bucket() -> None:
    """Two names that people look for, and one thing."""
    assert GCRA is TokenBucket


def test_a_bucket_of_one_spaces_takes() -> None:
    """Ten per second, never two at once; what was not used is gone."""
    bucket = TokenBucket(10.0, 1)
    assert [bucket.take(t) == 0.0 for t in (5.0, 5.05, 5.1, 5.15, 5.2, 9.0, 9.0)] == [
        True, False, True, False, True, True, False,
    ]  # fmt: skip


def test_steps_of_a_tenth_are_a_tenth() -> None:
    """0.1 and 0.1 and 0.1 is not quite 0.3; who comes at the sums is let through all the same, and the rate is kept."""
    bucket, now, taken = TokenBucket(10.0, 1), 0.0, 0
    for _ in range(10_000):
        taken += bucket.take(now) == 0.0
        now += 0.1
    assert taken == 10_000


def test_very_fast_buckets_do_not_give_tokens_away() -> None:
    """At a rate so high that a token takes less than the rounding, the burst is still the burst."""
    bucket = TokenBucket(1e12, 3)
    assert bucket.take(0.0, 4) == inf
    assert drain(bucket, 0.0) == 3


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (inf, 1), (float("nan"), 1), (1.0, 0)])
def test_a_bucket_of_nonsense(rate: float, burst: int) -> None:
    """No rate, no place."""
    with pytest.raises(ValueError, match="must be"):
        TokenBucket(rate, burst)


# Sliding windows


def test_no_window_has_more_than_the_limit() -> None:
    """A bucket lets through nearly twice as many in its first window; this does not."""
    window, bucket = SlidingWindow(60, 60.0), TokenBucket(1.0, 60)
    times = [n / 10 for n in range(600)]
    assert sum(window.take(t) == 0.0 for t in times) == 60
    assert sum(bucket.take(t) == 0.0 for t in times) == 119


def test_it_comes_back_as_it_went() -> None:
    """What was taken at two moments comes back a window after each, in halves."""
    window = SlidingWindow(10, 10.0)
    assert (window.take(100.0, 5), window.take(105.0, 5)) == (0.0, 0.0)
    assert window.take(105.0, 5) == 5.0
    assert window.take(105.0, 6) == 10.0
    assert (window.take(110.0, 5), window.take(110.0, 1)) == (0.0, 5.0)


def test_the_log_is_bounded_and_never_early() -> None:
    """A million takes in a window, of which a hundred and one entries are kept; the first comes back late by less than
    the precision, and no earlier than a window after it was taken."""
    window = SlidingWindow(1_000_000, 100.0)
    for n in range(1_000_000 // 50):
        assert window.take(n * 100.0 / 20_000, 50) == 0.0
    assert len(window._log) <= 101
    last = 19_999 * 100.0 / 20_000
    assert window.limit == 1_000_000
    assert 100.0 <= last + window.take(last) < 101.0
    assert window.level(101.0) == pytest.approx(10_000, rel=0.03)


def test_a_sparse_log_is_exact() -> None:
    """Takes farther apart than the precision come back each at its own time."""
    window = SlidingWindow(3, 10.0, precision=0.1)
    for t in (0.0, 1.5, 3.0):
        window.take(t)
    assert [window.wait(3.0, count) for count in (1, 2, 3)] == [7.0, 8.5, 10.0]


@pytest.mark.parametrize(
    ("limit", "window", "precision"), [(0, 1.0, 0.1), (1, 0.0, 0.1), (1, inf, 0.1), (1, 1.0, 0.0), (1, 1.0, 1.1)]
)
def test_a_window_of_nonsense(limit: int, window: float, precision: float) -> None:
    """Nothing in it, no length, no entry."""
    with pytest.raises(ValueError, match="must be"):
        SlidingWindow(limit, window, precision=precision)


# Warming up


def load(limiter: WarmUp, begin: float, seconds: float, per_second: float) -> int:
    """Ask at a steady rate; how many were let through."""
    return sum(limiter.take(begin + n / per_second) == 0.0 for n in range(round(seconds * per_second)))


def test_it_gets_warm_under_load() -> None:
    """A cold one lets through a third of its rate at first, all of it after ten seconds, and two thirds in between."""
    limiter = WarmUp(90.0, 2, 10.0)
    passed = [load(limiter, 100.0 + second, 1.0, 2_000) for second in range(12)]
    assert passed[0] == pytest.approx(2 + 33, abs=1)
    assert passed == sorted(passed)
    assert sum(passed[:10]) == pytest.approx(90 * 10 * 2 / 3, rel=0.01)
    assert passed[10] == pytest.approx(90, abs=1)
    assert passed[11] == pytest.approx(90, abs=1)
    assert limiter.warmth(112.0) == 1.0
    assert limiter.statistics()["warmth"] == 1.0


def test_it_gets_cold_when_idle() -> None:
    """Half cold after half of the time, cold after all of it, and warm again by the same way."""
    limiter = WarmUp(90.0, 1, 10.0)
    load(limiter, 100.0, 15.0, 2_000)
    assert limiter.warmth(115.0 + 1 / 90 + 5.0) == pytest.approx(0.5, abs=0.01)
    assert limiter.warmth(125.1) == 0.0
    assert load(limiter, 130.0, 1.0, 2_000) == pytest.approx(33, abs=2)


def test_warmth_follows_the_bucket() -> None:
    """Ten tokens flow into an empty one, at first 1 and then more and more: it is full and warmest after the time
    in which that is ten (10 = t + t*t/10), and gets cold from there."""
    for at, warmth in ((3.0, 0.3), (6.18, 0.618), (8.0, 0.436), (12.0, 0.036), (12.4, 0.0), (30.0, 0.0)):
        limiter = WarmUp(3.0, 10, 10.0)
        assert limiter.take(100.0, 10) == 0.0
        assert limiter.warmth(100.0 + at) == pytest.approx(warmth, abs=1e-3)


@pytest.mark.parametrize(("steady", "flow"), [(5.0, 30.0), (12.0, 30.0), (30.0, 60.0), (40.0, 80.0), (60.0, 90.0)])
def test_a_steady_load_has_room_for_twice_as_much(steady: float, flow: float) -> None:
    """The flow settles at twice the load, between the cold rate and the warm one."""
    limiter = WarmUp(90.0, 2, 10.0)
    load(limiter, 100.0, 120.0, steady)
    assert limiter.warmth(220.0) * 60 + 30 == pytest.approx(flow, rel=0.06)


def test_it_is_the_same_however_often_it_is_asked() -> None:
    """Looking at it between two takes changes nothing, in any of its phases."""
    seen, unseen = WarmUp(10.0, 5, 3.0), WarmUp(10.0, 5, 3.0)
    now = 100.0
    for pause, count in [(0.0, 5), (0.4, 1), (0.9, 3), (2.0, 5), (2.5, 5), (0.05, 1), (9.0, 5), (1.0, 2), (0.7, 4)]:
        for step in range(1, 8):
            seen.wait(now + pause * step / 7)
        now += pause
        assert seen.warmth(now) == pytest.approx(unseen.warmth(now), abs=1e-9)
        assert seen.level(now) == pytest.approx(unseen.level(now), abs=1e-9)
        assert seen.take(now, count) == pytest.approx(unseen.take(now, count), abs=1e-9)


@pytest.mark.parametrize(("warm_up", "factor"), [(0.0, 3.0), (inf, 3.0), (1.0, 1.0), (1.0, inf)])
def test_a_warm_up_of_nonsense(warm_up: float, factor: float) -> None:
    """No time to get warm, nowhere to get warm from."""
    with pytest.raises(ValueError, match="must be"):
        WarmUp(1.0, 1, warm_up, factor)
