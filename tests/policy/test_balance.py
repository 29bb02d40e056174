"""Choosing one of several targets."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from forebay.policy.balance import (
    BALANCERS,
    LeastConnections,
    Member,
    PowerOfTwoChoices,
    Random,
    RoundRobin,
    WeightedRoundRobin,
    make_balancer,
)


def members(**weights: int) -> list[Member]:
    return [Member(name, weight) for name, weight in weights.items()]


def test_weighted_round_robin_is_smooth() -> None:
    """Weights 5/1/1 give the spread-out order of the smooth algorithm, again and again."""
    group = members(a=5, b=1, c=1)
    balancer = WeightedRoundRobin()
    order = "".join(balancer.pick(group, 0.0).name for _ in range(14))
    assert order == "aabacaa" * 2


def test_weighted_round_robin_stays_fair_when_a_part_is_missing() -> None:
    """Members that are left out for a while neither starve nor flood when they come back."""
    group = members(a=2, b=1, c=1)
    balancer = WeightedRoundRobin()
    for _ in range(10):
        assert balancer.pick(group[1:], 0.0).name in "bc"
    assert Counter(balancer.pick(group, 0.0).name for _ in range(40)) == {"a": 20, "b": 10, "c": 10}


def test_round_robin_takes_turns_and_survives_a_shrinking_list() -> None:
    """Weights do not matter, and an index past the end begins again."""
    group = members(a=5, b=1, c=1)
    balancer = RoundRobin()
    assert [balancer.pick(group, 0.0).name for _ in range(4)] == ["a", "b", "c", "a"]
    assert balancer.pick(group[:1], 0.0).name == "a"


def test_least_connections_counts_work_per_weight() -> None:
    """Four in flight at weight four are less than two at weight one; equals are taken in turn."""
    group = members(a=4, b=1)
    group[0].in_flight, group[1].in_flight = 4, 2
    balancer = LeastConnections()
    assert balancer.pick(group, 0.0).name == "a"
    group[0].in_flight, group[1].in_flight = 0, 0
    assert Counter(balancer.pick(group, 0.0).name for _ in range(10)) == {"a": 8, "b": 2}


def test_random_follows_the_weights() -> None:
    """Three times the weight is about three times the picks."""
    balancer = Random(random.Random(1))
    group = members(a=3, b=1)
    picks = Counter(balancer.pick(group, 0.0).name for _ in range(4000))
    assert 2800 < picks["a"] < 3200


def test_two_choices_prefer_the_faster_one_and_forget_old_peaks() -> None:
    """The slow one of two is avoided, until its peak has faded."""
    balancer = PowerOfTwoChoices(random.Random(1))
    fast, slow = group = members(fast=1, slow=1)
    fast.observe(0.010, 1.0)
    slow.observe(0.500, 1.0)
    assert {balancer.pick(group, 1.0).name for _ in range(20)} == {"fast"}
    fast.observe(0.010, 100.0)
    assert {balancer.pick(group, 100.0).name for _ in range(20)} == {"slow"}


def test_two_choices_weigh_work_in_flight() -> None:
    """Equal latency, more in flight: the other one is taken; and one that has not answered yet is not flooded."""
    balancer = PowerOfTwoChoices(random.Random(1))
    busy, idle = group = members(busy=1, idle=1)
    busy.observe(0.010, 1.0)
    idle.observe(0.010, 1.0)
    busy.in_flight = 2
    assert {balancer.pick(group, 1.0).name for _ in range(20)} == {"idle"}
    new = Member("new")
    assert {balancer.pick([idle, new], 1.0).name for _ in range(20)} == {"new"}
    new.in_flight = 1
    assert {balancer.pick([idle, new], 1.0).name for _ in range(20)} == {"idle"}


def test_two_choices_never_compare_one_with_itself() -> None:
    """Both choices are different members, whatever the dice say."""
    balancer = PowerOfTwoChoices(random.Random(7))
    group = members(a=1, b=1, c=1)
    for member in group[:2]:
        member.observe(1.0, 1.0)
    group[2].observe(0.001, 1.0)
    picks = Counter(balancer.pick(group, 1.0).name for _ in range(3000))
    assert 1850 < picks["c"] < 2150  # c is in two of the three pairs, and wins both


def test_peak_latency_is_taken_at_once_and_improves_gradually() -> None:
    """Peak EWMA: worse counts fully, better only with time."""
    member = Member("a")
    member.observe(0.1, 1.0)
    member.observe(0.4, 2.0)
    assert member.latency == 0.4
    member.observe(0.1, 2.0)
    assert member.latency == pytest.approx(0.4)
    member.observe(0.1, 12.0)
    assert member.latency == pytest.approx(0.1 + 0.3 / 2.718281828)


@pytest.mark.parametrize("name", BALANCERS)
def test_every_balancer_takes_the_only_one(name: str) -> None:
    """A list of one has one answer."""
    (only,) = members(a=1)
    balancer = make_balancer(name)
    assert all(balancer.pick([only], 0.0) is only for _ in range(3))


def test_names_and_weights_are_checked() -> None:
    """An unknown balancer lists those there are; a weight below one is refused."""
    with pytest.raises(ValueError, match="no balancer 'fastest': there are round-robin, "):
        make_balancer("fastest")
    with pytest.raises(ValueError, match="weight 0 of a"):
        Member("a", 0)
