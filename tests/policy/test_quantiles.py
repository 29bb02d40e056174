"""How long most calls took lately."""

from __future__ import annotations

import math
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.quantiles import Quantiles

QS = [0.0, 0.01, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0]


def exact(latencies: list[float], q: float) -> float:
    """The latency with the rank that ``q`` means, from a sorted list."""
    return sorted(latencies)[max(1, math.ceil(round(q * len(latencies), 6))) - 1]


def test_nothing_known_is_zero() -> None:
    """Before the first latency, and after all of them are too old."""
    latencies = Quantiles()
    assert latencies.quantile(0.95, 1000.0) == 0.0
    assert latencies.count(1000.0) == 0
    latencies.observe(1.0, 1000.0)
    assert latencies.count(1000.0) == 1
    assert latencies.quantile(0.95, 1061.0) == 0.0
    assert latencies.count(1061.0) == 0


def test_the_slow_ones_are_seen_where_they_are() -> None:
    """Ninety-five at 10 ms and five at a second: p95 is 10 ms, p96 a second."""
    latencies = Quantiles()
    for n in range(100):
        latencies.observe(0.01 if n < 95 else 1.0, 5.0)
    assert latencies.quantile(0.95, 5.0) == pytest.approx(0.01, rel=0.05)
    assert latencies.quantile(0.96, 5.0) == pytest.approx(1.0, rel=0.05)


def test_rounding_takes_no_further_rank() -> None:
    """Seven of a hundred are 7%, though 0.07 * 100 is a bit more than 7."""
    for percent in range(1, 100):
        latencies = Quantiles()
        for n in range(100):
            latencies.observe(0.01 if n < percent else 1.0, 5.0)
        assert latencies.quantile(percent / 100, 5.0) == pytest.approx(0.01, rel=0.05)


@given(st.lists(st.floats(10e-6, 600.0), min_size=1, max_size=100), st.sampled_from(QS))
def test_any_quantile_is_within_five_percent(seconds: list[float], q: float) -> None:
    """From ten microseconds to ten minutes, whatever the distribution."""
    latencies = Quantiles()
    for one in seconds:
        latencies.observe(one, 7.0)
    assert latencies.quantile(q, 7.0) == pytest.approx(exact(seconds, q), rel=0.05)


def test_a_long_sequence_is_within_five_percent() -> None:
    """Twenty thousand log-normal latencies, as services have them."""
    source = random.Random(6)
    seconds = [source.lognormvariate(-4.0, 1.5) for _ in range(20_000)]
    latencies = Quantiles()
    for one in seconds:
        latencies.observe(one, 7.0)
    for q in QS[1:]:
        assert latencies.quantile(q, 7.0) == pytest.approx(exact(seconds, q), rel=0.05)


@given(
    st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(10e-6, 600.0)), min_size=1, max_size=60),
    st.integers(1, 8),
    st.sampled_from(QS),
)
def test_the_window_slides(calls: list[tuple[float, float]], buckets: int, q: float) -> None:
    """At any time only what a plain list has for the last steps counts."""
    latencies = Quantiles(window=float(buckets), buckets=buckets)
    seen: list[tuple[float, float]] = []
    now = 100.0
    for pause, seconds in calls:
        now += pause**3  # mostly short, at times more than the whole window
        before = [s for at, s in seen if int(at) > int(now) - buckets]
        assert latencies.count(now) == len(before)
        assert latencies.quantile(q, now) == (pytest.approx(exact(before, q), rel=0.05) if before else 0.0)
        latencies.observe(seconds, now)
        seen.append((now, seconds))


def test_what_is_out_of_range_counts_as_the_end_of_it() -> None:
    """Nothing is lost and nothing breaks at 0, below it, and past ten minutes."""
    latencies = Quantiles()
    for seconds in (-1.0, 0.0, 1e-9, float("nan")):
        latencies.observe(seconds, 1.0)
    assert latencies.quantile(1.0, 1.0) == 10e-6
    for seconds in (600.0, 601.0, 700.0, 1e9, math.inf):
        latencies.observe(seconds, 1.0)
        assert latencies.quantile(1.0, 1.0) == 600.0
    assert latencies.count(1.0) == 9


def test_a_clock_that_stands_still_or_goes_back_or_jumps() -> None:
    """Latencies dated earlier count as of now; a jump empties the window."""
    latencies = Quantiles(window=60.0)
    latencies.observe(1.0, 500.0)
    latencies.observe(1.0, 500.0)
    latencies.observe(1.0, 3.0)
    assert latencies.count(2.0) == 3
    latencies.observe(2.0, 1e15)
    assert latencies.count(1e15) == 1
    assert latencies.quantile(0.5, 1e15) == pytest.approx(2.0, rel=0.05)


def test_memory_is_bounded() -> None:
    """Twenty thousand latencies over hours leave about 6 KiB."""
    latencies = Quantiles()
    source = random.Random(6)
    for n in range(20_000):
        latencies.observe(source.lognormvariate(-4.0, 2.0), n * 0.5)
    assert len(latencies._past) == 5
    tables = [latencies._counts, latencies._before, *latencies._past]
    assert sum(sys.getsizeof(table) for table in tables) < 8_192
    assert latencies.count(10_000.0 - 0.5) == 120


@pytest.mark.parametrize("q", [-0.01, 1.01, float("nan"), 95.0])
def test_a_quantile_is_a_share(q: float) -> None:
    """95 is not 95%."""
    with pytest.raises(ValueError, match="q "):
        Quantiles().quantile(q, 0.0)


@pytest.mark.parametrize(
    ("window", "buckets", "named"), [(0.0, 6, "window"), (math.nan, 6, "window"), (1.0, 0, "buck")]
)
def test_a_window_has_a_length(window: float, buckets: int, named: str) -> None:
    """What cannot be a window is refused by name."""
    with pytest.raises(ValueError, match=named):
        Quantiles(window, buckets)
