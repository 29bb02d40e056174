"""Deadlines: the earliest counts, they are seen by all that is called, and travel as what is left of them."""

from __future__ import annotations

import asyncio
import contextvars
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.deadline import HEADER, deadline, encode_header, parse_header


def test_without_one_there_is_no_end() -> None:
    """Nothing is said to others either."""
    assert deadline.current() == inf
    assert deadline.remaining() == inf
    assert deadline.header() == ()


def test_nested_the_earliest_counts() -> None:
    """A longer time within a shorter one is the shorter one; at the end of each the one around it counts again."""
    with deadline(10.0, now=100.0) as outer:
        assert outer.at == deadline.current() == 110.0
        with deadline(60.0, now=101.0):
            assert deadline.current() == 110.0
        with deadline(2.0, now=101.0):
            assert deadline.remaining(102.5) == 0.5
            assert deadline.remaining(200.0) == 0.0
            assert deadline.header(102.5) == ((HEADER, "500"),)
        with deadline.until(105.0):
            assert deadline.current() == 105.0
        assert deadline.remaining(100.0) == 10.0
    assert deadline.current() == inf


def test_an_error_does_not_leave_it_behind() -> None:
    """Nor does a second entrance confuse it."""
    scope = deadline(1.0, now=0.0)
    with pytest.raises(KeyError), scope:
        with pytest.raises(RuntimeError, match="entered already"):
            scope.__enter__()
        raise KeyError
    assert deadline.current() == inf


async def test_tasks_that_are_started_within_have_it_too() -> None:
    """And keep it when the block has ended; others do not."""

    async def look() -> float:
        await asyncio.sleep(0)
        return deadline.current()

    with deadline(5.0, now=0.0):
        within = asyncio.create_task(look())
    assert await within == 5.0
    assert await look() == inf


def test_begin_is_for_the_whole_context() -> None:
    """It holds to the end of the context it is called in, and nowhere else."""
    context = contextvars.copy_context()
    context.run(deadline.begin, 7.0)
    assert context.run(deadline.current) == 7.0
    assert deadline.current() == inf


@pytest.mark.parametrize("seconds", [-0.001, nan, -inf])
def test_bad_times(seconds: float) -> None:
    """They are named."""
    with pytest.raises(ValueError, match=r"deadline in .* seconds: must be at least 0"):
        deadline(seconds)


@given(st.floats(min_value=0, max_value=1e12))
def test_the_header_never_says_more_than_is_left(seconds: float) -> None:
    """It is rounded down to milliseconds, and comes back as that."""
    value = encode_header(seconds)
    read = parse_header(value)
    assert read is not None
    assert read == parse_header(value.encode())
    assert read <= seconds + 1e-9
    assert read == min(int(seconds * 1000), 999_999_999) / 1000


def test_an_endless_header_is_the_longest() -> None:
    """Where somebody asks for it."""
    assert encode_header(inf) == "999999999"


@pytest.mark.parametrize(
    "value", ["", "-1", "+1", "1.5", "1e3", "0x10", " 1", "1 ", "1234567890", "٣", "²", "1_0", b"\xb2"]
)
def test_what_is_no_header(value: str | bytes) -> None:
    """Anything but 1 to 9 digits says nothing."""
    assert parse_header(value) is None
