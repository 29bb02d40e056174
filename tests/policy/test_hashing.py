"""Equal keys to the same member, by the ring with bounded loads; and what holds for all that hash."""

from __future__ import annotations

import math
import random
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from forebay.policy.balance import Member
from forebay.policy.hashing import ConsistentHash, Hashing, digest
from forebay.policy.maglev import Maglev

KEYS = [f"user-{number}" for number in range(20_000)]
BOTH = pytest.mark.parametrize("kind", [ConsistentHash, Maglev])


def group_of(count: int, weight: int = 1) -> list[Member]:
    return [Member(f"http://10.0.0.{number}:80", weight) for number in range(count)]


@pytest.mark.parametrize(
    "keys",
    [
        [f"user-{number}" for number in range(50_000)],
        [str(number) for number in range(50_000)],
        [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(50_000)],
        [str(uuid.UUID(int=n * 0xD1B54A32D192ED03F1357AEA2E62A9C5 % 2**128)) for n in range(50_000)],
    ],
    ids=["names", "numbers", "addresses", "uuids"],
)
def test_both_halves_of_a_digest_are_spread_as_chance_would(keys: list[str]) -> None:
    """Chi-square over 500 bins, within five standard deviations of what random numbers give."""
    for shift in (32, 0):
        bins = Counter((digest(key) >> shift & 0xFFFFFFFF) * 500 >> 32 for key in keys)
        expected = len(keys) / 500
        square = sum((bins[index] - expected) ** 2 / expected for index in range(500))
        assert square < 499 + 5 * math.sqrt(2 * 499)


@BOTH
def test_what_a_key_leads_to_is_the_same_in_every_process(kind: type[ConsistentHash | Maglev]) -> None:
    """Another interpreter with other hashes of strings, and members in another order, agrees."""
    program = (
        "from forebay.policy.balance import Member;"
        f"from forebay.policy.{kind.__module__.rpartition('.')[2]} import {kind.__name__};"
        "group = [Member(f'http://10.0.0.{n}:80') for n in reversed(range(7))];"
        f"balancer = {kind.__name__}();"
        "print(' '.join(balancer.pick(group, 0.0, f'user-{n}').name for n in range(200)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": "77"}, capture_output=True, text=True, check=True
    )
    group, balancer = group_of(7), kind()
    assert said.stdout.split() == [balancer.pick(group, 0.0, key).name for key in KEYS[:200]]


@BOTH
@pytest.mark.parametrize("told", [False, True], ids=["passed over", "made anew"])
@pytest.mark.parametrize("count", [2, 3, 5, 10, 20])
def test_a_leaving_member_moves_little_more_than_its_keys(
    kind: type[ConsistentHash | Maglev], told: bool, count: int
) -> None:
    """At most 1/n and 2%, whether the table keeps its places or is made anew."""
    group, balancer = group_of(count), kind()
    before = [balancer.pick(group, 0.0, key) for key in KEYS]
    for gone in group[:3]:
        rest = [member for member in group if member is not gone]
        if told:
            balancer.update(rest)
        moved = sum(balancer.pick(rest, 0.0, key) is not member for key, member in zip(KEYS, before, strict=True))
        assert moved / len(KEYS) <= 1 / count + 0.02
        balancer.update(group)


@BOTH
@pytest.mark.parametrize("told", [False, True])
def test_keys_of_those_that_stay_stay_on_the_ring(kind: type[ConsistentHash | Maglev], told: bool) -> None:
    """Of the ring none moves. Of a Maglev table that is made anew a few do (3.4 of the paper), else none."""
    group, balancer = group_of(10), kind()
    before = {key: balancer.pick(group, 0.0, key) for key in KEYS}
    rest = group[1:]
    if told:
        balancer.update(rest)
    moved = sum(balancer.pick(rest, 0.0, key) is not member for key, member in before.items() if member is not group[0])
    assert moved <= (0.02 * len(KEYS) if kind is Maglev and told else 0)


@pytest.mark.parametrize("points", [1, 3])
def test_a_key_belongs_to_the_point_before_it(points: int) -> None:
    """Also past the last one and before the first one, where the ring closes."""
    group, balancer = group_of(5), ConsistentHash(points=points)
    owner = {key: balancer.pick(group, 0.0, key).name for key in KEYS}
    names = sorted(member.name for member in group)
    places = list(zip(balancer._ring, balancer._owners, strict=True))[1:]
    for key in KEYS:
        before = [place for place in places if place[0] <= digest(key) >> 32]
        assert owner[key] == names[max(before or places)[1]]
    assert len(places) == 5 * points


@pytest.mark.parametrize("points", [1, 1024])
def test_a_ring_with_a_gap_is_the_ring_without(points: int) -> None:
    """Whoever is passed over leaves the same ring as one that was never there: so processes agree."""
    group, with_gap, without = group_of(6), ConsistentHash(points=points), ConsistentHash(points=points)
    with_gap.update(group)
    rest = group[:2] + group[4:]
    without.update(rest)
    for key in KEYS:
        assert with_gap.pick(rest, 0.0, key) is without.pick(rest, 0.0, key)


@BOTH
def test_keys_come_back_to_who_comes_back(kind: type[ConsistentHash | Maglev]) -> None:
    """A member that was out for a while has the same keys as before."""
    group, balancer = group_of(5), kind()
    before = [balancer.pick(group, 0.0, key) for key in KEYS[:2000]]
    for key in KEYS[:2000]:
        assert balancer.pick(group[:3], 0.0, key) in group[:3]
    assert before == [balancer.pick(list(group), 0.0, key) for key in KEYS[:2000]]


@BOTH
def test_a_table_is_made_for_new_names_and_weights_only(
    kind: type[ConsistentHash | Maglev], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for who is missing, nor for a share, nor for the same ones in another list."""
    made: list[Sequence[str]] = []
    build = kind._build

    def spy(self: Any, names: Sequence[str], weights: Sequence[int]) -> None:
        made.append(names)
        build(self, names, weights)

    monkeypatch.setattr(kind, "_build", spy)
    group, balancer = group_of(4), kind()
    balancer.update(group)
    assert not made, "the first choice makes it"
    for members in (group, group[:2], list(reversed(group)), group[1:]):
        balancer.pick(members, 0.0, "k")
    group[0].share = 0.1
    balancer.pick(list(group), 0.0, "k")
    balancer.update(group)
    balancer.pick(group, 0.0, "k")
    assert len(made) == 1
    group[0].weight = 2
    balancer.pick(list(group), 0.0, "k")
    assert len(made) == 2
    balancer.pick([*group, Member("new")], 0.0, "k")
    assert len(made) == 3
    balancer.update(group)
    balancer.pick(group, 0.0, "k")
    assert len(made) == 4


@BOTH
def test_a_smaller_share_passes_on_always_the_same_keys(kind: type[ConsistentHash | Maglev]) -> None:
    """Of five, at 30% of its weight one has 0.3/4.3 of the keys; at 60% those and more; keys of others never move."""
    group, balancer = group_of(5), kind()
    whole = {key: balancer.pick(group, 0.0, key) for key in KEYS}
    kept: set[str] = set()
    own = {key for key, member in whole.items() if member is group[0]}
    for share in (0.3, 0.6):
        group[0].share = share
        members = list(group)
        now = {key: balancer.pick(members, 0.0, key) for key in KEYS}
        has = {key for key, member in now.items() if member is group[0]}
        assert kept < has < own
        assert len(has) / len(KEYS) == pytest.approx(share / (4 + share), abs=0.015)
        assert all(now[key] is whole[key] for key in KEYS if key not in own)
        kept = has


@BOTH
def test_when_all_have_small_shares_all_is_as_before(kind: type[ConsistentHash | Maglev]) -> None:
    """Shares are next to each other: if all start slowly, none does."""
    group, balancer = group_of(4), kind()
    before = [balancer.pick(group, 0.0, key) for key in KEYS[:1000]]
    for member in group:
        member.share = 0.1
    members = list(group)
    assert before == [balancer.pick(members, 0.0, key) for key in KEYS[:1000]]


@BOTH
def test_work_without_a_key_is_spread(kind: type[ConsistentHash | Maglev]) -> None:
    """An empty key is no key: all such work at one member would be no balance."""
    group, balancer = group_of(4), kind()
    picks = Counter(balancer.pick(group, 0.0).name for _ in range(20_000))
    assert all(abs(count / 20_000 - 0.25) < 0.03 for count in picks.values())
    assert len(picks) == 4


@BOTH
def test_any_text_is_a_key(kind: type[ConsistentHash | Maglev]) -> None:
    """Also what is no text in UTF-8: names of files and headers come with lone surrogates."""
    group, balancer = group_of(3), kind()
    for key in ("\udcff", "\x00", "ä" * 10_000):
        assert balancer.pick(group, 0.0, key) is balancer.pick(group, 0.0, key)


def test_the_ring_follows_the_weights() -> None:
    """Three times the weight, three times the keys, to within what points are good for."""
    group = [Member("a", 300), Member("b", 100), Member("c", 100)]
    balancer = ConsistentHash()
    picks = Counter(balancer.pick(group, 0.0, key).name for key in KEYS)
    for member in group:
        assert picks[member.name] / len(KEYS) == pytest.approx(member.weight / 500, rel=0.1)


@pytest.mark.parametrize("popular", [0.0, 0.5, 1.0])
def test_no_load_is_past_the_bound(popular: float) -> None:
    """100,000 requests that begin and end at random, a part of them for one key: nobody ever has more than 1.25 times
    the mean in flight, rounded up."""
    source = random.Random(8)
    group, balancer = group_of(10), ConsistentHash(bound=1.25)
    flying: list[Member] = []
    spilled = 0
    for number in range(100_000):
        if flying and (len(flying) >= 400 or source.random() < 0.48):
            index = source.randrange(len(flying))
            flying[index], flying[-1] = flying[-1], flying[index]
            flying.pop().in_flight -= 1
            continue
        key = "popular" if source.random() < popular else f"user-{number}"
        member = balancer.pick(group, 0.0, key)
        member.in_flight += 1
        flying.append(member)
        assert member.in_flight <= math.ceil(1.25 * len(flying) / 10)
        spilled += member.in_flight > 1
    assert len(flying) > 100
    assert spilled


def test_the_bound_is_by_weight_and_share() -> None:
    """Who has most of the weight may have most in flight; who starts slowly, only a part of it."""
    group = [Member("a", 8), Member("b", 1), Member("c", 1)]
    group[0].share = 2.0
    balancer = ConsistentHash()
    for number in range(400):
        member = balancer.pick(group, 0.0, f"user-{number % 7}")
        member.in_flight += 1
        assert member.in_flight <= math.ceil(1.25 * (number + 1) * member.share / 4)


def test_keys_that_fit_stay_where_they_belong() -> None:
    """Below the bound the ring is a plain one: work in flight moves nobody."""
    group, balancer = group_of(5), ConsistentHash()
    before = [balancer.pick(group, 0.0, key) for key in KEYS[:500]]
    for member in group:
        member.in_flight = 20
    assert before == [balancer.pick(group, 0.0, key) for key in KEYS[:500]]


def test_parameters_are_checked() -> None:
    """Each with what it must be; and the base makes no table."""
    for bound in (1.0, float("nan")):
        with pytest.raises(ValueError, match=f"bound {bound}: must be above 1"):
            ConsistentHash(bound=bound)
    with pytest.raises(ValueError, match="points 0: must be at least 1"):
        ConsistentHash(points=0)
    with pytest.raises(NotImplementedError):
        Hashing()._build([], [])
