"""Whether something that comes piece by piece still comes fast enough."""

from __future__ import annotations

from forebay.policy.pace import Pace


def test_a_piece_has_the_timeout_after_the_one_before() -> None:
    """What has come already does not count, only when."""
    pace = Pace(timeout=10.0, rate=0, now=100.0, received=5)
    assert pace.left(100.0) == 10.0
    assert pace.left(107.0) == 3.0
    pace.last = 107.0
    assert pace.left(107.0) == 10.0
    assert pace.left(117.0) == 0.0
    assert pace.left(118.0) < 0


def test_the_average_counts_once_the_timeout_is_over() -> None:
    """From when the waiting began, and from what had come by then."""
    pace = Pace(timeout=10.0, rate=100, now=100.0, received=1_000_000)
    assert not pace.too_slow(109.9, 1_000_000)
    assert pace.too_slow(110.0, 1_000_999)
    assert not pace.too_slow(110.0, 1_001_000)
    assert pace.too_slow(120.0, 1_001_999)
    assert not pace.too_slow(120.0, 1_002_000)


def test_without_a_rate_nothing_is_too_slow() -> None:
    """Only the timeout between two pieces is left."""
    assert not Pace(timeout=1.0, rate=0, now=0.0, received=0).too_slow(1000.0, 0)
