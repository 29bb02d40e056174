"""Restart after a death, or give up."""

from __future__ import annotations

import pytest

from forebay.policy.backoff import Backoff
from forebay.policy.restart import RestartHistory, RestartPolicy


def test_short_lives_are_restarted_with_growing_delays() -> None:
    """Deaths in a row wait longer and longer."""
    history = RestartHistory(RestartPolicy(deaths=10))
    delays = [history.died(float(second), 0.5).delay for second in range(4)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_a_good_life_resets_the_backoff() -> None:
    """A worker that lived long enough is restarted as fast as the first time."""
    history = RestartHistory(RestartPolicy(deaths=10, good_life=10))
    history.died(0, 0)
    assert history.died(1, 9.9).delay == pytest.approx(0.2)
    assert history.died(12, 10).delay == pytest.approx(0.1)
    assert history.died(13, 0).delay == pytest.approx(0.2)


def test_five_deaths_within_thirty_seconds_are_a_crash_loop() -> None:
    """The documented default gives up at the fifth death, and says how many there were in which time."""
    history = RestartHistory(RestartPolicy())
    verdicts = [history.died(now, 1) for now in (0.0, 5.0, 12.0, 20.0, 30.0)]
    assert [verdict.restart for verdict in verdicts] == [True, True, True, True, False]
    assert (verdicts[-1].deaths, verdicts[-1].span) == (5, 30.0)


def test_deaths_spread_over_more_than_the_window_are_no_crash_loop() -> None:
    """Old deaths are forgotten, for as long as it goes on."""
    history = RestartHistory(RestartPolicy())
    assert all(history.died(8.0 * number, 7.0).restart for number in range(100))


def test_two_kills_in_a_few_seconds_do_not_give_up() -> None:
    """An operator's kill -9, twice, is not a crash loop."""
    history = RestartHistory(RestartPolicy())
    assert history.died(100, 50).restart
    assert history.died(102, 1.5).restart


def test_one_death_can_be_enough() -> None:
    """deaths=1 turns restarts off."""
    assert not RestartHistory(RestartPolicy(deaths=1)).died(5, 100).restart


@pytest.mark.parametrize("arguments", [{"deaths": 0}, {"window": 0}, {"good_life": -1}])
def test_nonsense_is_refused(arguments: dict[str, int]) -> None:
    """A parameter out of its bounds is named."""
    with pytest.raises(ValueError, match=next(iter(arguments))):
        RestartPolicy(backoff=Backoff(), **arguments)
