"""Whether the limit finds the knee of a server, and what does not mislead it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import Any

import pytest

from forebay.policy.adaptive import Adaptive, AdaptiveLimit


class Crowd:
    """Callers that keep as many calls in flight as the limit allows, or ``demand``, at a server that has ``workers``,
    each of which takes ``service()`` seconds for a call: those in excess wait in the server."""

    def __init__(self, rules: Adaptive, workers: int, service: Callable[[random.Random], float], seed: int = 1) -> None:
        self.limit = AdaptiveLimit(rules)
        self.workers = workers
        self.service = service
        self.demand = 10_000
        self.random = random.Random(seed)
        self.now = 0.0
        self.waiting: list[float] = []  # when they began, oldest first
        self.serving: list[tuple[float, float]] = []  # when they end and when they began
        self.ended = 0

    def run(self, seconds: float, *, dropped: float = 0.0) -> list[int]:
        """The limit at each end of a call in that time."""
        end = self.now + seconds
        limits = []
        while self.now < end:
            while len(self.waiting) + len(self.serving) < min(self.limit.limit, self.demand):
                self.waiting.append(self.now)
            while self.waiting and len(self.serving) < self.workers:
                heappush(self.serving, (self.now + self.service(self.random), self.waiting.pop(0)))
            in_flight = len(self.waiting) + len(self.serving)
            self.now, began = heappop(self.serving)
            self.limit.observe(self.now - began, in_flight, self.random.random() < dropped, self.now)
            self.ended += 1
            limits.append(self.limit.limit)
        return limits


def steady(seconds: float) -> Callable[[random.Random], float]:
    """Always the same time, within a tenth."""
    return lambda rng: seconds * rng.uniform(0.9, 1.1)


def exponential(seconds: float) -> Callable[[random.Random], float]:
    """As much noise as times that know nothing of each other have."""
    return lambda rng: rng.expovariate(1 / seconds)


def bimodal(fast: float, slow: float, share: float) -> Callable[[random.Random], float]:
    """A ``share`` of slow ones, as behind a cache."""
    return lambda rng: (slow if rng.random() < share else fast) * rng.uniform(0.9, 1.1)


def mean(limits: list[int]) -> float:
    """The mean."""
    return sum(limits) / len(limits)


@pytest.mark.parametrize("workers", [8, 30, 200])
@pytest.mark.parametrize("kind", [steady, exponential])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_knee_is_found(workers: int, kind: Callable[[float], Callable[[random.Random], float]], seed: int) -> None:
    """Within ten seconds, from below, and kept for two minutes: enough for all workers, and not much of a queue."""
    crowd = Crowd(Adaptive(), workers, kind(0.05), seed)
    crowd.run(10.0)
    crowd.ended = 0
    limits = crowd.run(120.0 if workers < 100 else 20.0)
    assert 0.85 * workers <= mean(limits) <= 2.2 * workers
    assert crowd.ended / (120.0 if workers < 100 else 20.0) >= 0.88 * workers / 0.05


def test_the_knee_is_found_from_above() -> None:
    """A limit that is ten times too high begins with a queue in the server: looks find what is behind it."""
    crowd = Crowd(Adaptive(initial=300), 30, steady(0.05))
    crowd.run(15.0)
    assert 25 <= mean(crowd.run(20.0)) <= 66


def test_the_queue_does_not_become_normal() -> None:
    """For ten minutes of being used to the full, over many looks, the limit stays at the knee."""
    crowd = Crowd(Adaptive(), 10, exponential(0.05))
    crowd.run(20.0)
    thirds = [mean(crowd.run(200.0)) for _ in range(3)]
    assert all(8 <= third <= 22 for third in thirds), thirds


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noise_is_not_a_queue(seed: int) -> None:
    """With a heavy tail, of outliers a hundred times as long, the limit does not collapse."""

    def outliers(rng: random.Random) -> float:
        return 2.0 if rng.random() < 0.005 else rng.expovariate(1 / 0.02)

    crowd = Crowd(Adaptive(), 40, outliers, seed)
    crowd.run(20.0)
    limits = crowd.run(60.0)
    assert mean(limits) >= 32
    assert min(limits) >= 10


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_two_kinds_of_latency(share: float) -> None:
    """Twenty times apart, with a slow share of a tenth or of a half, the limit is where it belongs."""
    crowd = Crowd(Adaptive(), 40, bimodal(0.01, 0.2, share))
    crowd.run(20.0)
    limits = crowd.run(60.0)
    assert 34 <= mean(limits) <= 90
    assert min(limits) >= 12


def test_an_unused_limit_does_not_grow() -> None:
    """Nothing was seen of what so many calls would do."""
    crowd = Crowd(Adaptive(), 1000, steady(0.05))
    crowd.demand = 8
    assert set(crowd.run(60.0)) == {20}
    crowd.demand = 50
    assert 50 <= max(crowd.run(30.0)) <= 125


def test_a_server_that_gets_slower_keeps_its_limit() -> None:
    """Three times as slow, with the same number of workers: after a dip the limit is back at the knee."""
    crowd = Crowd(Adaptive(), 30, steady(0.05))
    crowd.run(30.0)
    crowd.service = steady(0.15)
    crowd.run(15.0)
    assert 25 <= mean(crowd.run(30.0)) <= 66


def test_a_server_that_gets_faster_keeps_its_limit() -> None:
    """Five times as fast: no queue of what is by now an age is taken for normal."""
    crowd = Crowd(Adaptive(), 30, steady(0.25))
    crowd.run(60.0)
    crowd.service = steady(0.05)
    crowd.run(15.0)
    assert 25 <= mean(crowd.run(30.0)) <= 66


def test_the_knee_moves() -> None:
    """Three of four workers go, and come back: the limit follows both ways."""
    crowd = Crowd(Adaptive(), 80, steady(0.05))
    crowd.run(20.0)
    crowd.workers = 20
    crowd.run(15.0)
    assert 16 <= mean(crowd.run(20.0)) <= 44
    crowd.workers = 80
    crowd.run(15.0)
    assert 68 <= mean(crowd.run(20.0)) <= 176


def test_dropped_calls_lower_it() -> None:
    """When half of them are, it goes down to its minimum; a few mean nothing; it comes back."""
    crowd = Crowd(Adaptive(), 1000, steady(0.05))
    crowd.demand = 60
    crowd.run(20.0)
    before = crowd.limit.limit
    assert min(crowd.run(20.0, dropped=0.03)) >= 0.45 * before  # a look is the half
    crowd.run(20.0, dropped=0.5)
    assert crowd.limit.limit == 4
    crowd.run(20.0)
    assert crowd.limit.limit >= 50


def test_all_dropped_is_no_latency() -> None:
    """A server that answers nothing teaches no baseline, and gets the fewest calls."""
    limit = AdaptiveLimit(Adaptive(initial=100, maximum=100))
    for number in range(1000):
        limit.observe(0.001, limit.limit, True, number * 0.01)
    assert limit.statistics()["baseline"] == 0.0
    for number in range(1000, 2000):
        limit.observe(0.05, limit.limit, False, number * 0.01)
    assert limit.baseline == pytest.approx(0.05)
    for number in range(2000, 4000):
        limit.observe(5.0, limit.limit, True, number * 0.01)
    assert limit.limit == 4


def test_a_cut_does_not_look_like_a_queue() -> None:
    """After a sudden cut the calls that were there before are the long ones: with one call in ten ten times as long,
    for ten minutes, the limit does not fall further and further."""
    crowd = Crowd(Adaptive(), 100, bimodal(0.05, 0.5, 0.1))
    crowd.run(30.0)
    limits = crowd.run(100.0)
    assert mean(limits) >= 85
    assert min(limits) >= 35  # a look is the half


def test_a_guess_is_corrected() -> None:
    """A baseline from the first calls, which are the short ones, is replaced by the first look: no limit stays at a
    fraction of the knee because of it."""
    for seed in range(5):
        crowd = Crowd(Adaptive(), 200, bimodal(0.05, 0.5, 0.1), seed)
        crowd.run(20.0)
        assert mean(crowd.run(10.0)) >= 120


def test_a_look_does_not_wait_for_calls_that_hang() -> None:
    """Ten places more than the limit are held for good by calls that never end; looks end all the same."""
    limit = AdaptiveLimit(Adaptive(look_every=1.0))
    for number in range(80_000):
        limit.observe(0.05, limit.limit + 10, False, number * 0.005)
    assert limit.looks >= 2


def test_bounds() -> None:
    """It never leaves them, whatever it sees."""
    rules = Adaptive(minimum=3, maximum=12, initial=5)
    crowd = Crowd(rules, 100, exponential(0.01))
    assert max(crowd.run(20.0)) == 12
    crowd.workers = 1
    assert min(crowd.run(60.0)) == 3


def test_a_clock_that_stands_still() -> None:
    """Calls that took no time at all break nothing."""
    limit = AdaptiveLimit(Adaptive())
    for number in range(1000):
        limit.observe(0.0, 15, False, number * 0.01)
    assert limit.limit >= 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minimum": 0}, "minimum 0"),
        ({"initial": 3}, "initial 3"),
        ({"maximum": 10}, "initial 20"),
        ({"tolerance": 1.0}, "tolerance 1.0"),
        ({"smoothing": 0.0}, "smoothing 0.0"),
        ({"window": 0.0}, "window 0.0"),
        ({"samples": 0}, "samples 0"),
        ({"look_every": 0.0}, "look_every 0.0"),
    ],
)
def test_nonsense_is_refused(options: Mapping[str, Any], message: str) -> None:
    """Each rule has its bounds."""
    with pytest.raises(ValueError, match=message):
        Adaptive(**options)
