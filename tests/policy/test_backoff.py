"""Delays between tries."""

from __future__ import annotations

import pytest

from forebay.policy.backoff import Backoff


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
def test_nonsense_is_refused(arguments: dict[str, float], named: str) -> None:
    """A parameter out of its bounds is named."""
    with pytest.raises(ValueError, match=named):
        Backoff(**arguments)


def test_a_negative_attempt_is_refused() -> None:
    """Attempts are counted from 0."""
    with pytest.raises(ValueError, match="attempt -1"):
        Backoff().delay(-1)
