"""The value of a Retry-After header."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.policy.retry_after import parse_retry_after

NOW = datetime(1994, 11, 6, 8, 49, 7, tzinfo=UTC).timestamp()  # half a minute before the RFC's example


@pytest.mark.parametrize(("value", "seconds"), [("120", 120.0), ("0", 0.0), ("007", 7.0), (" 5\t", 5.0)])
def test_seconds(value: str, seconds: float) -> None:
    """Digits are seconds; white space around them is not theirs."""
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_all_three_formats_of_dates(value: str) -> None:
    """A recipient has to take each of them (RFC 9110 section 5.6.7)."""
    assert parse_retry_after(value, NOW) == 30.0


def test_a_date_in_the_past_is_now() -> None:
    """It may be asked again at once."""
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", NOW + 3600) == 0.0


def test_two_digits_of_a_year() -> None:
    """What seems more than 50 years ahead is past; anything else is ahead."""
    now = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
    assert parse_retry_after("Sunday, 06-Nov-94 08:49:37 GMT", now) == 0.0
    assert parse_retry_after("Thursday, 01-Jan-76 00:00:00 GMT", now) == 0.0
    ahead = parse_retry_after("Friday, 01-Jan-75 00:00:00 GMT", now)
    assert ahead == datetime(2075, 1, 1, tzinfo=UTC).timestamp() - now


def test_a_leap_second() -> None:
    """The grammar has a second 60; half a minute and a bit stays one."""
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:60 GMT", NOW) == pytest.approx(52, abs=1)


def test_more_digits_than_fit() -> None:
    """They are more than anybody waits, and no error."""
    assert parse_retry_after("9" * 5000, NOW) == inf


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-1",
        "+5",
        "1.5",
        "1_0",
        "1e3",
        "٣",  # a digit, and none of ASCII's
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 30 Feb 2020 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 25:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, 5",
        "Foo, 06 Nov 1994 08:49:37 GMT",
    ],
)
def test_what_is_neither_is_as_if_it_were_not_there(value: str) -> None:
    """Nothing is guessed."""
    assert parse_retry_after(value, NOW) is None


@given(st.text(max_size=40))
def test_no_text_raises(value: str) -> None:
    """Whatever a server sends gives seconds or nothing."""
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0


@given(st.integers(0, 400 * 365 * 86400))
def test_a_written_date_is_read_back(ahead: int) -> None:
    """In the format that servers send today."""
    at = datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=ahead)
    assert parse_retry_after(at.strftime("%a, %d %b %Y %H:%M:%S GMT"), NOW) == ahead
