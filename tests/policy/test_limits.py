"""How much is let through."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.limits import RateLimit


def test_a_burst_then_the_rate() -> None:
    """Three at once, then one every half second, and the wait is said."""
    limit = RateLimit(rate=2.0, burst=3)
    assert [limit.take("a", 100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limit.take("a", 100.0) == pytest.approx(0.5)
    assert limit.take("a", 100.25) == pytest.approx(0.25)
    assert limit.take("a", 100.5) == 0.0
    assert limit.take("a", 100.5) > 0


def test_a_quiet_bucket_fills_up_and_no_further() -> None:
    """After any pause the burst is there again, and not more."""
    limit = RateLimit(rate=1.0, burst=2)
    for now in (100.0, 1000.0):
        assert [limit.take("a", now) > 0 for _ in range(3)] == [False, False, True]


def test_keys_do_not_share() -> None:
    """One client's use does not slow another."""
    limit = RateLimit(rate=1.0, burst=1)
    assert limit.take("a", 100.0) == 0.0
    assert limit.take("b", 100.0) == 0.0
    assert limit.take("a", 100.0) > 0


def test_the_table_is_bounded() -> None:
    """Ten thousand keys leave as many as are allowed, the latest ones."""
    limit = RateLimit(rate=1.0, burst=1, max_keys=100)
    for n in range(10_000):
        limit.take(str(n), 100.0)
    assert len(limit) == 100
    assert limit.take("9999", 100.0) > 0
    assert limit.take("0", 100.0) == 0.0


def test_several_tokens_at_once() -> None:
    """All of them or none; what is left and when it is full again are said; 0 only looks; more than all never come."""
    limit = RateLimit(rate=2.0, burst=5)
    assert limit.take_several("a", 0, 100.0) == (0.0, 5.0, 0.0)
    assert len(limit) == 0
    assert limit.take_several("a", 3, 100.0) == pytest.approx((0.0, 2.0, 1.5))
    assert limit.take_several("a", 3, 100.0) == pytest.approx((0.5, 2.0, 1.5))
    assert limit.take_several("a", 2, 100.0) == pytest.approx((0.0, 0.0, 2.5))
    assert limit.take_several("a", 0, 101.0) == pytest.approx((0.0, 2.0, 1.5))
    assert limit.take_several("a", 6, 1000.0)[0] > 0


@given(st.lists(st.tuples(st.integers(1, 3), st.floats(min_value=0.0, max_value=1.0)), max_size=50))
def test_one_at_a_time_is_the_same(uses: list[tuple[int, float]]) -> None:
    """The same keys, asked for in both ways, are let through at the same times."""
    both = [RateLimit(rate=3.0, burst=4) for _ in range(2)]
    now = 50.0
    for key, pause in uses:
        now += pause
        assert both[0].take(str(key), now) == pytest.approx(both[1].take_several(str(key), 1, now)[0])


@given(st.lists(st.floats(min_value=0.0, max_value=2.0), min_size=1, max_size=200), st.integers(1, 5))
def test_never_more_than_burst_and_rate_allow(pauses: list[float], burst: int) -> None:
    """In any sequence, any window lets through at most burst + rate * its length."""
    limit = RateLimit(rate=3.0, burst=burst)
    now, passed = 50.0, []
    for pause in pauses:
        now += pause
        if limit.take("a", now) == 0.0:
            passed.append(now)
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + 3.0 * (passed[last] - passed[first]) + 1e-6


@pytest.mark.parametrize(("rate", "burst", "keys"), [(0.0, 1, 1), (1.0, 0, 1), (1.0, 1, 0), (nan, 1, 1), (inf, 1, 1)])
def test_nonsense_is_refused(rate: float, burst: int, keys: int) -> None:
    """Nothing to give, nowhere to keep it, and rates that would let everything through."""
    with pytest.raises(ValueError, match="must all be positive"):
        RateLimit(rate, burst, max_keys=keys)
