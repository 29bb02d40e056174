"""When a worker has served long enough, or has grown too big."""

from __future__ import annotations

import pytest

from forebay.policy.backoff import Backoff
from forebay.policy.recycle import Recycle, Wear, Worn

MIB = 2**20


def worn(wear: Wear, now: float, accepted: int = 0, memory: int = 0) -> str:
    """The reason of the verdict; empty for none."""
    verdict = wear.verdict(now, accepted=accepted, memory=memory)
    return verdict.reason if verdict else ""


def test_nothing_wears_a_worker_without_limits() -> None:
    """Neither time, nor connections, nor memory."""
    wear = Wear()
    wear.renewed(Recycle(), None, now=0, random=1)
    assert wear.verdict(1e9, accepted=10**9, memory=10**12) is None


def test_connections_and_time_wear_a_worker() -> None:
    """At the limit, not before; and the next one begins anew."""
    wear = Wear()
    for start in (0.0, 500.0):
        wear.renewed(Recycle(connections=1000, seconds=60, jitter=0), None, now=start, random=0.7)
        assert worn(wear, start + 59.9, accepted=999) == ""
        assert worn(wear, start, accepted=1000) == "it accepted 1000 connections"
        assert worn(wear, start + 60) == "it served for 60 s"


@pytest.mark.parametrize(("random", "connections", "seconds"), [(0.0, 1000, 60.0), (0.5, 900, 54.0), (1.0, 800, 48.0)])
def test_jitter_makes_lives_shorter_never_longer(random: float, connections: int, seconds: float) -> None:
    """By up to the part that was asked for."""
    wear = Wear()
    wear.renewed(Recycle(connections=1000, seconds=60, jitter=0.2), None, now=0, random=random)
    assert worn(wear, 0, accepted=connections - 1) == ""
    assert worn(wear, 0, accepted=connections) != ""
    assert worn(wear, seconds - 0.001) == ""
    assert worn(wear, seconds + 0.001) != ""


def test_one_connection_is_the_least() -> None:
    """Jitter does not wear a worker that has accepted nothing."""
    wear = Wear()
    wear.renewed(Recycle(connections=1, jitter=0.9), None, now=0, random=1)
    assert worn(wear, 1e9) == ""
    assert worn(wear, 0, accepted=1) != ""


def test_memory_wears_a_worker_and_is_told() -> None:
    """With what it uses, and what it may."""
    wear = Wear()
    wear.renewed(Recycle(), 100 * MIB, now=0, random=0)
    assert worn(wear, 0, memory=100 * MIB) == ""
    assert wear.verdict(0, accepted=0, memory=101 * MIB) == Worn("memory", "101.0 MiB resident, its limit is 100.0 MiB")


def test_a_limit_that_every_worker_is_above_does_not_replace_them_all_the_time() -> None:
    """Each replacement in a row comes later after the one before."""
    wear = Wear(rest=Backoff(60, 2, 200))
    wear.renewed(Recycle(), MIB, now=0, random=0)
    replaced, now = [], 0.0
    while now < 1000:
        if worn(wear, now, memory=2 * MIB):
            replaced.append(now)
            wear.renewed(Recycle(), MIB, now=now, random=0, because="memory")
        now += 1
    assert replaced == [0, 60, 180, 380, 580, 780, 980]


def test_a_slow_leak_is_replaced_whenever_it_has_grown() -> None:
    """Replacements far apart are no row, and neither are those for another reason."""
    wear = Wear(rest=Backoff(60, 2, 3600))
    for now in (0.0, 121.0, 242.0, 363.0):
        assert worn(wear, now, memory=2 * MIB) if now else True
        wear.renewed(Recycle(), MIB, now=now, random=0, because="memory" if now else "")
    wear.renewed(Recycle(), MIB, now=400, random=0, because="reload")
    assert worn(wear, 400, memory=2 * MIB) == ""
    assert worn(wear, 424, memory=2 * MIB) != ""


def test_a_replacement_that_fails_is_tried_again_later_and_later() -> None:
    """Until one succeeds."""
    wear = Wear(retry=Backoff(1, 2, 3))
    wear.renewed(Recycle(connections=1), None, now=0, random=0)
    assert [wear.failed(now) for now in (0, 1, 3)] == [1, 2, 3]
    assert worn(wear, 5.9, accepted=1) == ""
    assert worn(wear, 6, accepted=1) != ""
    wear.renewed(Recycle(connections=1), None, now=6, random=0)
    assert worn(wear, 6, accepted=1) != ""
    assert wear.failed(6) == 1


@pytest.mark.parametrize("options", [{"connections": 0}, {"seconds": 0}, {"jitter": 1}, {"jitter": -0.1}])
def test_nonsense_is_refused(options: dict[str, float]) -> None:
    """Before anything is decided by it."""
    with pytest.raises(ValueError, match="must be"):
        Recycle(**options)  # type: ignore[arg-type]  # whole numbers and others
