"""Delays between tries."""

from __future__ import annotations

import random
from math import inf, nan
from typing import Any, get_args

import pytest

from forebay.policy.backoff import Backoff, Jitter


def test_delays_double_up_to_the_cap() -> None:
    """Each delay is twice the one before, until the cap is reached."""
    backoff = Backoff(initial=0.1, factor=2, cap=1.0)
    assert [backoff.delay(attempt) for attempt in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_the_default_is_a_tenth_of_a_second_to_ten_seconds() -> None:
    """The documented defaults."""
    assert Backoff().delay(0) == pytest.approx(0.1)
    assert Backoff().delay(100) == 10.0


def test_a_very_late_attempt_waits_the_cap() -> None:
    """The power leaves the range of floats, and the delay is still the cap."""
    assert Backoff(cap=7).delay(100_000) == 7


def test_factor_one_keeps_the_delay() -> None:
    """A constant delay is a backoff too."""
    assert {Backoff(initial=2, factor=1).delay(attempt) for attempt in range(9)} == {2}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"initial": 0}, "initial 0"), ({"factor": 0.5}, "factor 0.5"), ({"initial": 2, "cap": 1}, "cap 1")],
)
def test_nonsense_is_refused(arguments: dict[str, Any], named: str) -> None:
    """A parameter out of its bounds is named."""
    with pytest.raises(ValueError, match=named):
        Backoff(**arguments)


def test_a_negative_attempt_is_refused() -> None:
    """Attempts are counted from 0."""
    with pytest.raises(ValueError, match="attempt -1"):
        Backoff().delay(-1)


def test_without_jitter_the_wait_is_the_delay() -> None:
    """Nothing is drawn."""
    backoff = Backoff(jitter="none")
    source = random.Random(1)
    before = source.getstate()
    assert [backoff.draw(n, 0.0, source) for n in range(9)] == [backoff.delay(n) for n in range(9)]
    assert source.getstate() == before


@pytest.mark.parametrize(("jitter", "least"), [("full", 0.0), ("equal", 0.5)])
def test_the_wait_is_spread_evenly(jitter: Jitter, least: float) -> None:
    """Between a share of the delay and the delay: bounds, quarters, and the middle."""
    backoff = Backoff(initial=0.1, cap=10.0, jitter=jitter)
    source = random.Random(2)
    for attempt in (0, 3, 50):
        most = backoff.delay(attempt)
        drawn = [backoff.draw(attempt, 99.0, source) / most for _ in range(4000)]
        assert least <= min(drawn) < least + 0.01
        assert 0.99 < max(drawn) <= 1.0
        middle = (1 + least) / 2
        assert sum(drawn) / len(drawn) == pytest.approx(middle, abs=0.02)
        assert sum(value < middle for value in drawn) == pytest.approx(2000, abs=120)


def test_decorrelated_waits_follow_the_wait_before() -> None:
    """From ``initial`` to three times the wait before, whatever the attempt, and never above the cap."""
    backoff = Backoff(initial=0.1, cap=2.0, jitter="decorrelated")
    source = random.Random(3)
    first = [backoff.draw(0, 0.0, source) for _ in range(4000)]
    assert 0.1 <= min(first) < 0.101
    assert 0.299 < max(first) <= 0.3
    later = [backoff.draw(7, 0.5, source) for _ in range(4000)]
    assert 0.1 <= min(later) < 0.102
    assert 1.49 < max(later) <= 1.5
    assert sum(later) / len(later) == pytest.approx(0.8, abs=0.03)
    assert max(backoff.draw(7, 2.0, source) for _ in range(100)) == 2.0


def test_decorrelated_waits_grow_to_the_cap() -> None:
    """A long row of them gets as far as any other backoff does."""
    backoff = Backoff(initial=0.1, cap=10.0, jitter="decorrelated")
    source = random.Random(4)
    wait = 0.0
    waits = [wait := backoff.draw(n, wait, source) for n in range(200)]
    assert all(0.1 <= each <= 10.0 for each in waits)
    assert max(waits) == 10.0


def test_the_same_seed_gives_the_same_waits() -> None:
    """Chance comes from the source alone."""
    backoff = Backoff()
    one, other = random.Random(5), random.Random(5)
    assert [backoff.draw(n, 0.0, one) for n in range(5)] == [backoff.draw(n, 0.0, other) for n in range(5)]


@pytest.mark.parametrize("jitter", get_args(Jitter))
def test_a_negative_attempt_has_no_wait(jitter: Jitter) -> None:
    """With any jitter."""
    with pytest.raises(ValueError, match="attempt -1"):
        Backoff(jitter=jitter).draw(-1, 0.0, random.Random(6))


def test_an_unknown_jitter_is_refused() -> None:
    """The ones there are, are named."""
    with pytest.raises(ValueError, match="jitter 'some': must be one of none, full, equal, decorrelated"):
        Backoff(jitter="some")  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("bounds", "named"),
    [
        ({"initial": nan}, "initial nan"),
        ({"initial": inf, "cap": inf}, "initial inf"),
        ({"factor": nan}, "factor nan"),
        ({"cap": nan}, "cap nan"),
    ],
)
def test_what_is_no_number_of_seconds_is_refused(bounds: dict[str, Any], named: str) -> None:
    """It would be no wait at all, or one without an end."""
    with pytest.raises(ValueError, match=named):
        Backoff(**bounds)


class Whole(int):
    """A number whose powers cost too much."""

    def __pow__(self, *_: Any) -> Any:
        pytest.fail("a power of a whole number is exact: of a hundred thousand tries, it takes milliseconds")


def test_whole_factors_cost_no_more_than_others() -> None:
    """They are powers of floats, whose size does not grow."""
    assert Backoff(factor=Whole(3)).delay(100_000) == 10.0
