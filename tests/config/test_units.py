from __future__ import annotations

import pytest

from forebay.config import parse_duration, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("5s", 5.0), ("2m", 120.0), ("1.5h", 5400.0), (" 3 s ", 3.0)]
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    """Every unit of time is understood."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "size"), [("1B", 1), ("64KiB", 65536), ("10MB", 10_000_000), ("1GiB", 2**30)])
def test_sizes_are_bytes(text: str, size: int) -> None:
    """Binary and decimal units are told apart."""
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "rate"), [("100/s", 100.0), ("90/m", 1.5), ("3600/h", 1.0)])
def test_rates_are_per_second(text: str, rate: float) -> None:
    """Every unit of time is understood."""
    assert parse_rate(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["", "5", "s", "5 sec", "-5s", "5s5s", "1e3s", "٥s", "5s\n5s"])
def test_a_duration_without_a_unit_is_refused_with_a_remedy(text: str) -> None:
    """Nothing is guessed: what is meant has to be written."""
    with pytest.raises(ValueError, match='as in "5s"'):
        parse_duration(text)


@pytest.mark.parametrize("text", ["64", "64kib", "64 KiB/s", "-1B", ""])
def test_a_size_that_is_none_is_refused_with_a_remedy(text: str) -> None:
    """The remedy shows the units there are."""
    with pytest.raises(ValueError, match=r"B, KiB, MiB.*64KiB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["100", "/s", "100/day", "100s", "a/s"])
def test_a_rate_that_is_none_is_refused_with_a_remedy(text: str) -> None:
    """The remedy shows the form."""
    with pytest.raises(ValueError, match="100/s"):
        parse_rate(text)
