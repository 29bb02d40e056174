"""A thousand clients, and a server that fails 60% of what it is asked."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.retry_storm import Naive, Scene, WithPolicies, picture, run
from forebay.policy.budget import RetryBudget
from forebay.policy.retry import Retry

BAD = Scene(clients=1_000, rate=5.0, seconds=12, bad_from=0, bad_until=12)


def test_naive_retries_are_a_storm() -> None:
    """As many attempts as 60% failures make of 3 and of 5 tries: the scene is what it says."""
    assert run(BAD, Naive(3)).per_request == pytest.approx(1 + 0.6 + 0.6**2, rel=0.01)
    assert run(BAD, Naive(5)).per_request == pytest.approx(sum(0.6**n for n in range(5)), rel=0.01)


def test_the_budget_bounds_all_attempts() -> None:
    """At most 1 + budget for each request, without a minimum rate; and the budget is what bounds them."""
    rules = Retry(budget_share=0.2)
    outcome = run(BAD, WithPolicies(BAD, rules, lambda: RetryBudget(0.2, min_per_second=0)))
    assert 1.18 < outcome.per_request <= 1.2
    without = run(BAD, WithPolicies(BAD, rules, lambda: None))
    assert without.per_request > 1.8


def test_the_minimum_rate_is_accounted_for() -> None:
    """With the defaults it comes on top: so much for each client and second, and one window's at the beginning."""
    rules = Retry()
    policies = WithPolicies(BAD, rules, rules.new_budget)
    outcome = run(BAD, policies)
    bound = policies.bound(outcome, BAD.seconds)
    assert bound == pytest.approx(1.2 + 1000 * 0.2 * 22 / outcome.requests)
    assert outcome.per_request <= bound


def test_a_bad_time_that_lasts_has_no_bursts() -> None:
    """Once what was saved is spent, each second has the budget's share and no more: clients do not go in step."""
    scene = Scene(clients=200, rate=10.0, seconds=40, bad_from=5, bad_until=40)
    outcome = run(scene, WithPolicies(scene, Retry(), lambda: RetryBudget(0.2, min_per_second=0)))
    later = [attempts / new for attempts, new in zip(outcome.attempts_in, outcome.requests_in, strict=True)][12:]
    assert min(later) > 1.1
    assert max(later) < 1.3
    assert sum(later) / len(later) == pytest.approx(1.2, abs=0.01)


def test_all_clients_have_the_same_requests() -> None:
    """So that their attempts can be compared."""
    scene = Scene(clients=50, seconds=4, bad_from=1, bad_until=3)
    naive, policies = run(scene, Naive(5)), run(scene, WithPolicies(scene, Retry(), RetryBudget))
    assert naive.requests_in == policies.requests_in
    assert run(scene, Naive(5)) == naive, "and each time"


def test_the_picture() -> None:
    """It is SVG, with a line for each kind of client and one for new requests."""
    scene = Scene(clients=50, seconds=4, bad_from=1, bad_until=3)
    outcomes = [run(scene, Naive(5)), run(scene, WithPolicies(scene, Retry(), RetryBudget))]
    drawn = ElementTree.fromstring(picture(scene, outcomes, 0.2))
    assert len(drawn.findall("{http://www.w3.org/2000/svg}polyline")) == 3
