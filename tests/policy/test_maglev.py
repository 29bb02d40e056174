"""The table of Maglev hashing has the properties of the paper (section 3.4)."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.policy.balance import Member
from forebay.policy.maglev import Maglev


def table_of(balancer: Maglev, members: list[Member]) -> list[str]:
    """The names in the order of the table."""
    balancer.pick(members, 0.0, "x")
    names = sorted(member.name for member in members)
    return [names[index] for index in balancer._table]


def by_the_paper(names: list[str], places: list[int], steps: list[int], size: int) -> list[str]:
    """The pseudo-code of the paper, with the permutations written out."""
    permutations = [[(place + j * step) % size for j in range(size)] for place, step in zip(places, steps, strict=True)]
    following = [0] * len(names)
    entry = [-1] * size
    filled = 0
    while True:
        for i in range(len(names)):
            c = permutations[i][following[i]]
            while entry[c] >= 0:
                following[i] += 1
                c = permutations[i][following[i]]
            entry[c] = i
            following[i] += 1
            filled += 1
            if filled == size:
                return [names[i] for i in entry]


@pytest.mark.parametrize("count", [1, 2, 7, 10, 100])
def test_every_entry_is_filled_and_shares_are_even(count: int) -> None:
    """Entries differ by one at most."""
    balancer = Maglev()
    balancer.pick([Member(f"t{number}") for number in range(count)], 0.0, "x")
    entries = balancer.entries()
    assert sum(entries.values()) == 65537
    assert len(entries) == count
    assert max(entries.values()) - min(entries.values()) <= 1


def test_the_table_is_the_one_of_the_paper() -> None:
    """The pseudo-code, run on the same permutations, gives the same table."""
    size, names = 251, [f"t{number}" for number in range(7)]
    places, steps = [], []
    for name in names:
        hashed = blake2b(name.encode(), digest_size=16).digest()
        places.append(int.from_bytes(hashed[:8], "big") % size)
        steps.append(int.from_bytes(hashed[8:], "big") % (size - 1) + 1)
    table = table_of(Maglev(size), [Member(name) for name in names])
    assert table == by_the_paper(names, places, steps, size)


@given(weights=st.lists(st.integers(1, 1000), min_size=1, max_size=8), size=st.sampled_from([1009, 2003, 4099]))
@settings(max_examples=60, deadline=None)
def test_entries_are_in_proportion_to_weights(weights: list[int], size: int) -> None:
    """To within a round of turns, one entry for each member; and none is left out."""
    balancer = Maglev(size)
    members = [Member(f"t{number}", weight) for number, weight in enumerate(weights)]
    balancer.pick(members, 0.0, "x")
    entries = balancer.entries()
    total = sum(weights)
    for member in members:
        assert abs(entries[member.name] - size * member.weight / total) <= 1 + len(members)
    assert sum(entries.values()) == size


@pytest.mark.timeout(20)
def test_the_lightest_has_an_entry_too() -> None:
    """However little its weight is next to the others': when only such are left, keys still lead to them."""
    members = [Member(f"heavy-{number}", 1000) for number in range(66)] + [Member("x"), Member("y")]
    balancer = Maglev()
    balancer.pick(members, 0.0, "k")
    entries = balancer.entries()
    assert all(entries[member.name] for member in members)
    assert {balancer.pick(members[-2:], 0.0, f"user-{number}").name for number in range(50)} == {"x", "y"}


def test_keys_are_as_even_as_the_table() -> None:
    """100,000 keys over five weights, within 1% of all."""
    weights = {"a": 5, "b": 1, "c": 1, "d": 2, "e": 3}
    members = [Member(name, weight) for name, weight in weights.items()]
    balancer = Maglev()
    picks = Counter(balancer.pick(members, 0.0, f"user-{number}").name for number in range(100_000))
    for name, weight in weights.items():
        assert abs(picks[name] / 100_000 - weight / 12) < 0.01


@pytest.mark.parametrize("count", [5, 10, 50])
def test_disruption_is_small(count: int) -> None:
    """When one leaves, of the entries of others at most 2% change: "minimal disruption" as figure 12 has it."""
    members = [Member(f"t{number}") for number in range(count)]
    before = table_of(Maglev(), members)
    gone = members.pop(count // 2)
    after = table_of(Maglev(), members)
    moved = sum(old != new and old != gone.name for old, new in zip(before, after, strict=True))
    assert 0 < moved < 0.02 * len(before)
    assert gone.name not in after


def test_a_larger_table_moves_less() -> None:
    """Figure 12: the larger the table is next to the number of members, the less is disrupted."""
    moved = []
    for size in (251, 65537):
        members = [Member(f"t{number}") for number in range(20)]
        before = table_of(Maglev(size), members)
        after = table_of(Maglev(size), members[1:])
        moved.append(sum(old not in ("t0", new) for old, new in zip(before, after, strict=True)) / size)
    assert moved[1] < moved[0]


@pytest.mark.parametrize("size", [0, 1, 4, 65536, 65535, 49])
def test_a_size_is_a_prime(size: int) -> None:
    """Else some steps would not visit every entry."""
    with pytest.raises(ValueError, match=f"size {size}: must be a prime"):
        Maglev(size)


def test_a_table_has_a_place_for_each() -> None:
    """More members than entries is refused by the choice that would need it."""
    balancer = Maglev(2)
    for _ in range(2):
        with pytest.raises(ValueError, match="must be at least the number of members, which is 3"):
            balancer.pick([Member("a"), Member("b"), Member("c")], 0.0, "x")
