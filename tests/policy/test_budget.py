"""How much of the traffic may be second tries."""

from __future__ import annotations

import json
from sys import getsizeof
from typing import Any

import pytest

from forebay.policy.budget import RetryBudget


def granted(budget: RetryBudget, tries: int, now: float) -> int:
    """How many of so many second tries may be made."""
    return sum(budget.withdraw(now) is None for _ in range(tries))


def deposited(budget: RetryBudget, requests: int, now: float) -> None:
    """So many requests."""
    for _ in range(requests):
        budget.deposit(now)


def test_a_share_of_the_requests() -> None:
    """A fifth of a hundred, and no more."""
    budget = RetryBudget(0.2, min_per_second=0)
    deposited(budget, 100, 50.0)
    assert granted(budget, 100, 50.0) == 20


def test_nothing_without_requests() -> None:
    """Without a minimum, a second try needs requests that were made."""
    budget = RetryBudget(0.2, min_per_second=0)
    assert granted(budget, 9, 0.0) == 0
    deposited(budget, 4, 0.0)
    assert granted(budget, 9, 0.0) == 0
    deposited(budget, 1, 0.0)
    assert granted(budget, 9, 0.0) == 1


def test_a_quiet_client_can_try_again() -> None:
    """With the defaults, the one request of a minute gets all of its three attempts, in each minute."""
    budget = RetryBudget()
    for minute in range(5):
        budget.deposit(minute * 60.0)
        assert granted(budget, 3, minute * 60.0) == 2


def test_the_minimum_comes_back_at_its_rate() -> None:
    """0.2 per second are one in five seconds."""
    budget = RetryBudget(0.0, min_per_second=0.2, window=10.0)
    assert granted(budget, 9, 100.0) == 2
    assert granted(budget, 9, 104.9) == 0
    assert granted(budget, 9, 105.0) == 1
    assert granted(budget, 9, 1000.0) == 2


def test_no_more_of_the_minimum_is_saved_than_a_window_gives() -> None:
    """Two of three that were left, and almost three more that came, are three."""
    budget = RetryBudget(0.0, min_per_second=0.3, window=10.0)
    assert granted(budget, 1, 100.0) == 1
    assert granted(budget, 9, 109.0) == 3


def test_the_share_and_the_minimum_add_up() -> None:
    """Parts of both make one as well."""
    budget = RetryBudget(0.2, min_per_second=0.15, window=10.0)  # one and a half
    deposited(budget, 8, 0.0)  # one and six tenths
    assert granted(budget, 9, 0.0) == 3


def test_requests_count_for_a_window() -> None:
    """Then they are past; within it, what they were worth is saved."""
    for later, left in ((9.9, 20), (10.0, 20), (11.1, 0), (1e6, 0)):
        budget = RetryBudget(0.2, min_per_second=0, window=10.0)
        deposited(budget, 100, 50.0)
        assert granted(budget, 100, 50.0 + later) == left, later


def test_what_is_oldest_is_spent_first() -> None:
    """So what is spent today is not missing when yesterday's goes."""
    budget = RetryBudget(0.2, min_per_second=0, window=10.0)
    deposited(budget, 50, 0.0)
    deposited(budget, 50, 8.0)
    assert granted(budget, 10, 9.0) == 10
    assert granted(budget, 99, 15.0) == 10


def test_what_is_spent_does_not_come_back() -> None:
    """In a bad time that lasts, second tries go on at the share: they do not come in bursts, one for each window."""
    budget = RetryBudget(0.2, min_per_second=0, window=10.0)
    second_tries = []
    for second in range(100):
        deposited(budget, 10, float(second))
        second_tries.append(granted(budget, 10, float(second)) if second >= 50 else 0)
    assert second_tries[50:53] == [10, 10, 6]  # what was saved
    assert set(second_tries[53:]) == {2}


def test_switched_off_it_refuses_nothing_and_counts() -> None:
    """And switched on again it goes by what happened."""
    budget = RetryBudget(0.2, min_per_second=0, enabled=False)
    deposited(budget, 10, 0.0)
    assert granted(budget, 10, 0.0) == 10
    budget.enabled = True
    assert granted(budget, 10, 0.0) == 0
    assert (budget.requests, budget.retries, budget.refused) == (10, 10, 10)


def test_a_refusal_says_why() -> None:
    """For people, and in a word for metrics."""
    refused = RetryBudget(0.2, min_per_second=0).withdraw(0.0)
    assert refused is not None
    assert (refused.policy, refused.reason) == ("budget", "spent")
    assert str(refused) == "budget: 0 second tries of 0 requests spent what there was"


def test_statistics() -> None:
    """Plain values."""
    budget = RetryBudget(0.2, min_per_second=0)
    deposited(budget, 25, 0.0)
    granted(budget, 2, 0.0)
    assert json.loads(json.dumps(budget.statistics())) == {
        "enabled": True,
        "share": 0.2,
        "requests": 25,
        "retries": 2,
        "refused": 0,
        "saved": 3,
    }


def test_memory_is_bounded() -> None:
    """A ring of the window's slices is all there is, after any time."""
    budget = RetryBudget()
    before = getsizeof(budget._requests_before)
    for second in range(10_000):
        budget.deposit(second * 0.7)
    assert getsizeof(budget._requests_before) == before


def test_a_time_before_the_last_one() -> None:
    """Counts as now: clocks of threads may differ by a bit."""
    budget = RetryBudget(0.2, min_per_second=0)
    budget.deposit(100.0)
    deposited(budget, 9, 95.0)
    assert granted(budget, 9, 90.0) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"share": 1.1}, "share 1.1"),
        ({"share": -0.1}, "share -0.1"),
        ({"min_per_second": -1.0}, "min_per_second -1.0"),
        ({"window": 0.0}, "window 0.0"),
        ({"window": float("inf")}, "window inf"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, Any], named: str) -> None:
    """A parameter out of its bounds is named."""
    with pytest.raises(ValueError, match=named):
        RetryBudget(**arguments)
