"""What the last calls were like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.windows import CountWindow, TimeWindow

Outcomes = list[tuple[bool, bool]]
FAILED, SLOW, GOOD = (True, False), (False, True), (False, False)


def figures(window: CountWindow | TimeWindow) -> tuple[int, int, int]:
    """Calls, failures, slow ones."""
    return window.calls, window.failures, window.slow


def test_only_the_last_calls_count() -> None:
    """The fourth outcome takes the place of the first."""
    window = CountWindow(3)
    for failed, slow in [(True, True), FAILED, SLOW]:
        window.record(failed, slow, 0.0)
    assert figures(window) == (3, 2, 2)
    window.record(False, False, 0.0)
    assert figures(window) == (3, 1, 1)
    window.advance(1e9)
    assert figures(window) == (3, 1, 1)


def test_a_window_of_one_call() -> None:
    """It knows the last call and no other."""
    window = CountWindow(1)
    for failed, slow in [FAILED, GOOD, SLOW, (True, True), FAILED]:
        window.record(failed, slow, 0.0)
        assert figures(window) == (1, failed, slow)


@given(st.integers(1, 7), st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_a_count_window_is_the_end_of_the_list(size: int, outcomes: Outcomes) -> None:
    """After any outcomes the figures are those of the last ``size`` of a plain list, also after it was cleared once."""
    window = CountWindow(size)
    for _ in range(2):
        window.clear()
        assert figures(window) == (0, 0, 0)
        for n, (failed, slow) in enumerate(outcomes, 1):
            window.record(failed, slow, 5.0)
            last = outcomes[:n][-size:]
            assert figures(window) == (len(last), sum(f for f, _ in last), sum(s for _, s in last))


def test_calls_leave_with_their_bucket() -> None:
    """Ten seconds in ten buckets: what ended at 3.9 counts up to 13, and not longer."""
    window = TimeWindow(10.0)
    window.record(True, False, 3.9)
    window.record(False, True, 4.0)
    window.advance(12.99)
    assert figures(window) == (2, 1, 1)
    window.advance(13.0)
    assert figures(window) == (1, 0, 1)
    window.advance(14.0)
    assert figures(window) == (0, 0, 0)


def test_a_clock_that_stands_still_or_goes_back() -> None:
    """All calls at one moment count; one that is dated earlier counts as of now, and nothing is lost."""
    window = TimeWindow(10.0)
    for _ in range(1000):
        window.record(True, True, 50.0)
    window.record(False, False, 20.0)
    window.advance(1.0)
    assert figures(window) == (1001, 1000, 1000)
    window.advance(59.9)
    assert window.calls == 1001
    window.advance(60.0)
    assert window.calls == 0


@pytest.mark.parametrize("jump", [10.0, 1e6, 1e15])
def test_a_jump_in_time_empties_it(jump: float) -> None:
    """A long pause leaves nothing, and counting goes on as ever."""
    window = TimeWindow(10.0)
    for now in (0.0, 4.0, 9.0):
        window.record(True, True, now)
    window.record(False, False, 9.0 + jump)
    assert figures(window) == (1, 0, 0)


def test_one_bucket_is_enough() -> None:
    """A window of a single bucket begins anew at each multiple of its length."""
    window = TimeWindow(10.0, buckets=1)
    window.record(True, False, 9.0)
    assert window.calls == 1
    window.record(True, False, 10.0)
    assert window.calls == 1


def test_memory_does_not_grow() -> None:
    """After a thousand buckets it keeps what ten need."""
    window = TimeWindow(10.0)
    for n in range(1000):
        window.record(False, False, float(n))
    assert window.calls == 10
    assert len(window._past) == 9


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans(), st.booleans(), st.booleans()), max_size=60),
    st.floats(0.0, 1e6),
)
def test_a_time_window_is_a_filter_of_the_list(
    buckets: int, calls: list[tuple[float, bool, bool, bool]], start: float
) -> None:
    """At any time the figures are those of a plain list of which only the last buckets are looked at."""
    window = TimeWindow(float(buckets), buckets)  # buckets of one second, whose limits floats have exactly
    seen: list[tuple[float, bool, bool]] = []
    now = start
    for pause, record, failed, slow in calls:
        now += pause**3  # mostly short, at times more than all buckets
        if record:
            window.record(failed, slow, now)
            seen.append((now, failed, slow))
        else:
            window.advance(now)
        counted = [call for call in seen if int(call[0]) > int(now) - buckets]
        assert figures(window) == (len(counted), sum(c[1] for c in counted), sum(c[2] for c in counted))


@given(st.floats(0.05, 100.0), st.integers(1, 20), st.lists(st.floats(0.0, 50.0), min_size=1, max_size=50))
def test_a_call_counts_about_as_long_as_it_should(seconds: float, buckets: int, pauses: list[float]) -> None:
    """With limits that floats do not have exactly: nothing older than the window counts, nothing younger than it less
    one bucket is missing."""
    window, now, times = TimeWindow(seconds, buckets), 1000.0, []
    for pause in pauses:
        now += pause
        window.record(False, False, now)
        times.append(now)
        surely = sum(now - at < seconds * (buckets - 1) / buckets - 1e-6 for at in times)
        maybe = sum(now - at <= seconds + 1e-6 for at in times)
        assert surely <= window.calls <= maybe


@pytest.mark.parametrize("size", [0, -1])
def test_a_count_window_has_a_size(size: int) -> None:
    """None, or less, is a mistake."""
    with pytest.raises(ValueError, match="size"):
        CountWindow(size)


@pytest.mark.parametrize(
    ("seconds", "buckets", "named"),
    [
        (0.0, 10, "seconds"),
        (-1.0, 10, "seconds"),
        (float("nan"), 10, "seconds"),
        (float("inf"), 1, "seconds"),
        (1.0, 0, "buckets"),
    ],
)
def test_a_time_window_has_a_length(seconds: float, buckets: int, named: str) -> None:
    """What cannot be a window is refused by name."""
    with pytest.raises(ValueError, match=named):
        TimeWindow(seconds, buckets)
