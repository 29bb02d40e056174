"""Who is sent away while a queue stands."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import pytest

from forebay.policy.priority import Priority
from forebay.policy.shedding import Shedder, Shedding

HIGH, NORMAL, LOW = Priority
RULES = Shedding(low=0.05, normal=0.2, interval=0.1, release=0.5)


def after(shedder: Shedder, *delays: float, begin: float = 0.0, intervals: int = 8) -> float:
    """Let queues with ``delays``, seen over and over, be seen for some intervals; when that ended."""
    at = begin
    for _ in range(intervals):
        for number in range(10):
            shedder.observe(delays[number % len(delays)], at + 0.01 * number)
        at += 0.1
    return at


def refusals(shedder: Shedder, at: float) -> list[str]:
    """The priorities that are refused."""
    return [str(priority) for priority in Priority if shedder.admit(priority, at) is not None]


@pytest.mark.parametrize(
    ("delay", "expected"),
    [(0.04, []), (0.06, ["low"]), (0.18, ["low"]), (0.25, ["normal", "low"]), (9.0, ["normal", "low"])],
)
def test_the_least_urgent_go_first(delay: float, expected: list[str]) -> None:
    """Each from its own delay on; the most urgent never, unless that is asked for."""
    shedder = Shedder(RULES)
    at = after(shedder, delay)
    assert refusals(shedder, at) == expected


def test_high_work_is_shed_where_that_is_asked_for() -> None:
    """Then it has a threshold like the others."""
    shedder = Shedder(Shedding(high=1.0))
    assert refusals(shedder, after(shedder, 2.0)) == ["high", "normal", "low"]


def test_a_burst_is_not_a_standing_queue() -> None:
    """However long its delays are: one moment without a queue in each interval is enough."""
    shedder = Shedder(RULES)
    at = after(shedder, 5.0, 5.0, 0.0, 5.0, 5.0)
    assert shedder.delay == 0.0
    assert refusals(shedder, at) == []


def test_it_does_not_flap() -> None:
    """What is shed stays so until the delay is well below where it began; and is then let in."""
    shedder = Shedder(RULES)
    at = after(shedder, 0.07)
    changes, shed = 0, True
    for delay in (0.045, 0.055, 0.04, 0.06, 0.03, 0.055):
        at = after(shedder, delay, begin=at)
        changes += shed is not shedder.sheds(LOW)
        shed = shedder.sheds(LOW)
    assert changes == 0
    at = after(shedder, 0.02, begin=at)
    assert refusals(shedder, at) == []


def test_silence_is_no_queue() -> None:
    """When nothing was seen for more than an interval, everyone is let in."""
    shedder = Shedder(RULES)
    at = after(shedder, 1.0)
    assert refusals(shedder, at) == ["normal", "low"]
    assert refusals(shedder, at + 0.5) == []


def test_a_deadline_within_the_queue_is_refused() -> None:
    """Whatever its priority; so is one that is over."""
    shedder = Shedder(RULES)
    assert shedder.admit(HIGH, 0.0, 0.0) is not None
    at = after(shedder, 1.0)
    refused = shedder.admit(HIGH, at, 0.5)
    assert refused is not None
    assert (refused.policy, refused.reason) == ("shedding", "deadline")
    assert shedder.admit(HIGH, at, 1.5) is None


def test_the_verdict_says_why() -> None:
    """With the delay, the limit, and when to try again; statistics count it."""
    shedder = Shedder(RULES)
    refused = shedder.admit(LOW, after(shedder, 1.0))
    assert refused is not None
    assert (refused.reason, refused.retry_after) == ("shed", 0.1)
    assert "the limit is 0.05 s" in refused.detail
    found = shedder.statistics()
    assert (found["shedding"], found["refused"], found["admitted"]) == (["normal", "low"], {"shed": 1}, 0)


def test_off() -> None:
    """Everything is admitted, and counted."""
    shedder = Shedder(RULES, enabled=False)
    at = after(shedder, 1.0)
    assert shedder.admit(LOW, at, -1.0) is None
    assert shedder.statistics()["admitted"] == 1
    shedder.enabled = True
    assert shedder.admit(LOW, at) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "low 0.0"),
        ({"low": 0.3}, "must rise"),
        ({"normal": inf, "high": 1.0}, "must rise"),
        ({"interval": 0.0}, "interval 0.0"),
        ({"release": 1.1}, "release 1.1"),
    ],
)
def test_nonsense_is_refused(options: Mapping[str, Any], message: str) -> None:
    """Thresholds rise with urgency, and the rest has its bounds."""
    with pytest.raises(ValueError, match=message):
        Shedding(**options)
