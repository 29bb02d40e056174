"""Who is let in: decisions with the time given."""

from __future__ import annotations

import random

import pytest

from forebay.policy.admission import Doorkeeper, Refusal

HERE, THERE = "192.0.2.1", "192.0.2.2"


def test_the_maximum() -> None:
    """Nobody comes in past it, whoever they are; once one has left there is room for one."""
    doors = Doorkeeper(2)
    assert doors.enter(HERE, 0) is None
    assert doors.enter(THERE, 0) is None
    assert doors.enter(HERE, 0) is Refusal.FULL
    assert doors.enter("", 0) is Refusal.FULL
    assert doors.inside == 2
    doors.leave(THERE)
    assert doors.enter(HERE, 0) is None
    assert doors.refused == {Refusal.FULL: 2}


def test_per_peer() -> None:
    """One host's connections do not keep others out; those of nobody in particular are not counted together."""
    doors = Doorkeeper(100, per_peer=2)
    assert [doors.enter(HERE, 0) for _ in range(3)] == [None, None, Refusal.PER_PEER]
    assert doors.enter(THERE, 0) is None
    assert [doors.enter("", 0) for _ in range(5)] == [None] * 5
    assert doors.count(HERE) == 2
    doors.leave(HERE)
    assert doors.enter(HERE, 0) is None
    assert doors.inside == 8


def test_the_accept_rate() -> None:
    """A burst comes in at once, after that as many per second as were said; who is refused takes nothing of it."""
    doors = Doorkeeper(1000, rate=10, burst=3)
    assert [doors.enter(HERE, 100.0) for _ in range(5)] == [None] * 3 + [Refusal.RATE] * 2
    assert doors.enter(HERE, 100.05) is Refusal.RATE
    assert doors.enter(HERE, 100.1) is None
    assert doors.enter(HERE, 100.1) is Refusal.RATE
    inside = doors.inside
    assert sum(doors.enter(HERE, 101 + n / 100) is None for n in range(100)) == 12  # 10 of them, and what had gathered
    assert doors.inside == inside + 12


@pytest.mark.parametrize(("rate", "burst"), [(0.5, 1), (10, 10), (2.6, 3)])
def test_a_burst_is_a_seconds_worth_when_not_given(rate: float, burst: int) -> None:
    """And at least one."""
    doors = Doorkeeper(1000, rate=rate)
    assert sum(doors.enter(HERE, 5.0) is None for _ in range(100)) == burst


def test_others_bounds_are_asked_before_the_rate() -> None:
    """A host that has too many already does not use up what others need of the rate."""
    doors = Doorkeeper(100, per_peer=1, rate=1, burst=2)
    assert doors.enter(HERE, 0) is None
    assert {doors.enter(HERE, 0) for _ in range(50)} == {Refusal.PER_PEER}
    assert doors.enter(THERE, 0) is None


def test_moving() -> None:
    """Who came in through a proxy counts for the host behind it; one too many there has to go, and is not inside."""
    doors = Doorkeeper(10, per_peer=1)
    assert doors.enter("", 0) is None
    assert doors.move("", HERE) is None
    assert (doors.inside, doors.count(""), doors.count(HERE)) == (1, 0, 1)
    assert doors.enter("", 0) is None
    assert doors.move("", HERE) is Refusal.PER_PEER
    assert (doors.inside, doors.count(""), doors.count(HERE)) == (1, 0, 1)
    assert doors.move(HERE, HERE) is None
    doors.leave(HERE)
    assert doors.inside == 0
    assert doors.refused == {Refusal.PER_PEER: 1}


def test_one_string_per_host() -> None:
    """A thousand connections of one host share its name."""
    doors = Doorkeeper(1000)
    names = ["".join(("192.0.2.", str(n % 2))) for n in range(1000)]
    for name in names:
        doors.enter(name, 0)
    assert len({id(doors.name(name)) for name in names}) == 2


def test_nothing_is_remembered_of_who_left() -> None:
    """Any order of coming, moving and leaving ends with nobody inside, and an empty table."""
    chance = random.Random(4)
    doors = Doorkeeper(50, per_peer=3)
    inside: list[str] = []
    for now in range(5000):
        host = f"10.0.0.{chance.randrange(30)}"
        if inside and chance.random() < 0.5:
            doors.leave(inside.pop(chance.randrange(len(inside))))
        elif chance.random() < 0.5:
            if doors.enter(host, now) is None:
                inside.append(host)
        elif doors.enter("", now) is None and doors.move("", host) is None:
            inside.append(host)
        assert doors.inside == len(inside) <= 50
        assert all(doors.count(host) == inside.count(host) <= 3 for host in inside)
    for host in inside:
        doors.leave(host)
    assert doors.inside == 0
    assert not doors._hosts
