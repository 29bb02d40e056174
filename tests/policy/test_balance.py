"""Choosing one of several targets."""

from __future__ import annotations

import heapq
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


PICKS = 100_000


def even(name: str) -> bool:
    """Whether a balancer divides by weight exactly or by chance, and not by what a key hashes to."""
    return name not in ("round-robin", "consistent-hash", "maglev")


@pytest.mark.parametrize("name", [name for name in BALANCERS if even(name)])
@pytest.mark.parametrize("answered", [False, True])
def test_picks_are_within_a_percent_of_the_weights(name: str, answered: bool) -> None:
    """Over 100,000 picks, whether nothing is known of latency yet, or it is the same for all."""
    random.seed(11)  # what balancers seed their own source with does not come from here: the bound holds for any
    group = members(a=5, b=1, c=1, d=2, e=3)
    balancer = make_balancer(name)
    picks: Counter[str] = Counter()
    for number in range(PICKS):
        member = balancer.pick(group, number / 1000)
        picks[member.name] += 1
        if answered:
            member.observe(0.010, number / 1000)
    for member in group:
        assert abs(picks[member.name] / PICKS - member.weight / 12) < 0.01


def test_two_choices_follow_the_weights_however_latency_jitters() -> None:
    """Latencies of one distribution make no member a favourite: noise decides between two, not between all."""
    source = random.Random(3)
    balancer = PowerOfTwoChoices(random.Random(4))
    group = members(a=5, b=1, c=1, d=2, e=3)
    picks: Counter[str] = Counter()
    for number in range(PICKS):
        now = number / 1000
        for member in group:
            member.latency, member.latency_at = source.random(), now
        picks[balancer.pick(group, now).name] += 1
    for member in group:
        assert abs(picks[member.name] / PICKS - member.weight / 12) < 0.01


@pytest.mark.parametrize("name", ["weighted-round-robin", "least-connections", "random", "p2c-ewma"])
def test_the_share_counts_and_not_the_weight(name: str) -> None:
    """One that starts slowly, at a tenth of its weight, gets a tenth."""
    group = members(a=10, b=10)
    group[1].share = 1.0
    balancer = make_balancer(name)
    picks = Counter(balancer.pick(group, 0.0).name for _ in range(20_000))
    assert abs(picks["b"] / 20_000 - 1 / 11) < 0.01


def test_round_robin_leaves_out_turns_of_a_smaller_share() -> None:
    """At half of its weight every other turn, at a tenth each tenth, and when all are at a tenth all the same."""
    group = members(a=4, b=1, c=1)
    balancer = RoundRobin()
    group[1].share = 0.5
    picks = Counter(balancer.pick(group, 0.0).name for _ in range(1000))
    assert picks["a"] == pytest.approx(400, abs=2)
    assert picks["b"] == pytest.approx(200, abs=2)
    for member in group:
        member.share = member.weight / 10
    picks = Counter(balancer.pick(group, 0.0).name for _ in range(900))
    assert all(picks[member.name] == pytest.approx(300, abs=3) for member in group)


def test_round_robin_owes_nobody_turns_of_when_all_did_little() -> None:
    """They are in proportion to the parts then too, and one that does more afterwards gets that at once."""
    group = members(a=1, b=1, c=1)
    balancer = RoundRobin()
    for member, share in zip(group, (0.1, 0.2, 0.05), strict=True):
        member.share = share
    picks = Counter(balancer.pick(group, 0.0).name for _ in range(7000))
    assert [picks[name] for name in "abc"] == pytest.approx([2000, 4000, 1000], abs=10)
    group[1].share = 1.0
    picks = Counter(balancer.pick(group, 0.0).name for _ in range(1150))
    assert [picks[name] for name in "abc"] == pytest.approx([100, 1000, 50], abs=5)


@pytest.mark.parametrize("shares", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)])
def test_least_connections_take_the_least_busy_wherever_it_stands(shares: tuple[float, ...]) -> None:
    """Against the plain minimum, for random loads; with equal shares and with others."""
    source = random.Random(5)
    balancer = LeastConnections()
    group = members(a=1, b=1, c=1)
    for member, share in zip(group, shares, strict=True):
        member.share = share
    for _ in range(2000):
        for member in group:
            member.in_flight = source.randrange(4)
        chosen = balancer.pick(group, 0.0)
        assert chosen.in_flight / chosen.share == min(member.in_flight / member.share for member in group)


def test_least_connections_owe_nobody_turns_of_before() -> None:
    """One that comes back after a long time has one turn ahead of the others, and not all that it missed."""
    group = members(a=2, b=1, c=1)
    balancer = LeastConnections()
    for _ in range(1000):
        balancer.pick(group[:2], 0.0)
    picks = Counter(balancer.pick(group, 0.0).name for _ in range(40))
    assert picks["c"] <= 12


@pytest.mark.parametrize("count", [2, 3, 10])
def test_two_choices_keep_a_ten_times_slower_one_below_a_fifth(count: int) -> None:
    """Of an even share, in a simulation: 100,000 requests at half of what the fast ones could do one at a time."""
    balancer = PowerOfTwoChoices(random.Random(count))
    source = random.Random(6)
    group = [Member(f"t{number}") for number in range(count)]
    slow = group[0]
    picks = 0
    now = 1.0
    ends: list[tuple[float, int, Member, float]] = []
    for number in range(PICKS):
        now += source.expovariate(50.0 * (count - 1))
        while ends and ends[0][0] <= now:
            at, _, member, seconds = heapq.heappop(ends)
            member.in_flight -= 1
            member.observe(seconds, at)
        member = balancer.pick(group, now)
        picks += member is slow
        member.in_flight += 1
        seconds = (0.1 if member is slow else 0.01) * source.uniform(0.8, 1.2)
        heapq.heappush(ends, (now + seconds, number, member, seconds))
    assert 0 < picks < 0.2 * PICKS / count
