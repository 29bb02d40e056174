"""When a client tries again."""

from __future__ import annotations

import random

import pytest

from forebay.policy.backoff import Backoff
from forebay.policy.reconnect import ReconnectSchedule


class Fixed(random.Random):
    """Chance that always says the same."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


def test_the_most_that_is_waited_doubles() -> None:
    """From 100 ms up to the cap."""
    schedule = ReconnectSchedule(Backoff(), source=Fixed(1.0))
    waits = [schedule.ended(float(now)) for now in range(9)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])


def test_full_jitter() -> None:
    """The wait is anything from nothing to the most, evenly, and the same seed gives the same waits."""
    schedule = ReconnectSchedule(Backoff(1.0, 1.0, 1.0), source=random.Random(7))
    waits = [schedule.ended(0.0) for _ in range(2000)]
    assert 0 <= min(waits) < 0.01
    assert 0.99 < max(waits) <= 1
    assert sum(waits) / len(waits) == pytest.approx(0.5, abs=0.03)
    again = ReconnectSchedule(Backoff(1.0, 1.0, 1.0), source=random.Random(7))
    assert waits[:5] == [again.ended(0.0) for _ in range(5)]


def test_a_good_life_begins_anew() -> None:
    """A connection that lived long enough resets the backoff; a shorter one, and a failed try, do not."""
    schedule = ReconnectSchedule(Backoff(), good_life=5.0, source=Fixed(1.0))
    schedule.ended(0.0)
    schedule.connected(1.0)
    assert schedule.ended(5.9) == pytest.approx(0.2)
    schedule.connected(10.0)
    assert schedule.ended(15.0) == pytest.approx(0.1)
    assert schedule.ended(100.0) == pytest.approx(0.2)
    assert schedule.in_a_row == 2


def test_a_negative_life() -> None:
    """It makes no sense."""
    with pytest.raises(ValueError, match="good_life"):
        ReconnectSchedule(Backoff(), good_life=-1)


def test_the_jitter_is_the_backoffs() -> None:
    """Without jitter the waits are known; decorrelated ones grow from the wait before, and begin anew."""
    schedule = ReconnectSchedule(Backoff(0.1, 2.0, 10.0, "none"))
    assert [schedule.ended(0.0) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.4])
    schedule = ReconnectSchedule(Backoff(0.1, 2.0, 10.0, "decorrelated"), source=Fixed(1.0))
    assert [schedule.ended(0.0) for _ in range(6)] == pytest.approx([0.3, 0.9, 2.7, 8.1, 10, 10])
    schedule.connected(10.0)
    assert schedule.ended(20.0) == pytest.approx(0.3)
