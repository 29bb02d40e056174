"""How many calls there are at once, who waits, and why somebody is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from forebay.policy.adaptive import Adaptive
from forebay.policy.bulkhead import Bulkhead, Compartment, Waiting
from forebay.policy.priority import Priority
from forebay.policy.shedding import Shedding
from forebay.policy.verdict import Refused

HIGH, NORMAL, LOW = Priority


def full(limit: int = 1, **options: Any) -> Compartment[str]:
    """A compartment whose places are all taken, at the moment 0."""
    compartment: Compartment[str] = Compartment(Bulkhead(limit, **options), "orders")
    for _ in range(limit):
        assert compartment.try_enter(0.0)
    return compartment


def reason(verdict: Waiting[str] | Refused | None) -> str:
    """Why it was refused."""
    assert isinstance(verdict, Refused)
    assert verdict.policy == "bulkhead"
    return verdict.reason


def learned(compartment: Compartment[str], seconds: float, calls: int = 300) -> float:
    """Let calls of ``seconds`` go by through all places, one after the other, and say when the last one ended."""
    at = 0.0
    for _ in range(calls):
        at += seconds / compartment.limit
        compartment.leave(at)
        assert compartment.try_enter(at)
    return at


def test_places_go_round() -> None:
    """As many as the limit get one, then none, then again whoever comes after somebody left."""
    compartment = full(2, max_waiting=0)
    assert not compartment.try_enter(0.0)
    assert reason(compartment.enter("a", 0.0)) == "full"
    assert compartment.leave(1.0) == ()
    assert compartment.enter("b", 1.0) is None
    assert reason(compartment.enter("c", 1.0)) == "full"
    found = compartment.statistics()
    assert (found["in_flight"], found["admitted"], found["refused"]) == (2, 3, {"full": 2})


def test_no_time_to_wait_is_no_waiting() -> None:
    """`max_wait=0` refuses at once, as `max_waiting=0` does."""
    assert reason(full(max_wait=0.0).enter("a", 0.0)) == "full"


def test_a_place_goes_to_the_next_in_line() -> None:
    """The most urgent first, within a priority who came first, and nobody who comes later overtakes them."""
    compartment = full()
    for waiter, priority in (("l", LOW), ("n1", NORMAL), ("n2", NORMAL), ("h", HIGH)):
        assert isinstance(compartment.enter(waiter, 0.0, priority), Waiting)
    woken: list[Any] = []
    for _ in range(4):
        assert not compartment.try_enter(0.1)
        woken += compartment.leave(0.1)
        assert compartment.in_flight == 1
    assert woken == [("h", None), ("n1", None), ("n2", None), ("l", None)]
    assert (compartment.waiting, compartment.leave(0.2), compartment.in_flight) == (0, (), 0)


def test_waiting_is_bounded() -> None:
    """Past that, who is more urgent pushes the last of the least urgent out; others are refused."""
    compartment = full(max_waiting=2)
    compartment.enter("l1", 0.0, LOW)
    compartment.enter("l2", 0.0, LOW)
    assert reason(compartment.enter("l3", 0.0, LOW)) == "queue-full"
    verdict = compartment.enter("n", 0.0, NORMAL)
    assert isinstance(verdict, Waiting)
    assert verdict.victim is not None
    victim, told = verdict.victim
    assert (victim, told.reason, compartment.waiting) == ("l2", "pushed-out", 2)
    assert [waiter for waiter, _ in (*compartment.leave(0.0), *compartment.leave(0.0))] == ["n", "l1"]


def test_who_waited_too_long_is_told() -> None:
    """By its timer, or by who comes to hand it a place too late; once."""
    compartment = full(max_wait=2.0)
    for waiter, at in (("a", 0.0), ("b", 1.0), ("c", 2.5)):
        verdict = compartment.enter(waiter, at)
        assert isinstance(verdict, Waiting)
        assert verdict.expires_at == at + 2.0
    told = compartment.expire("a", 2.0)
    assert told is not None
    assert (told.reason, "2.000 s" in told.detail, compartment.expire("a", 2.0)) == ("max-wait", True, None)
    (late, refused), (woken, nothing) = compartment.leave(3.0)
    assert (late, refused and refused.reason, woken, nothing) == ("b", "max-wait", "c", None)
    assert compartment.statistics()["refused"] == {"max-wait": 2}


def test_a_deadline_ends_the_waiting() -> None:
    """And says that it was the deadline; one that is over already is refused also where there is a place."""
    compartment = full()
    verdict = compartment.enter("a", 0.0, deadline=0.5)
    assert isinstance(verdict, Waiting)
    assert verdict.expires_at == 0.5
    told = compartment.expire("a", 0.5)
    assert told is not None
    assert told.reason == "deadline"
    compartment.leave(0.6)
    assert reason(compartment.enter("b", 1.0, deadline=1.0)) == "deadline"
    assert compartment.enter("c", 1.0, deadline=1.1) is None


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    """By the observed time a place is held, and who is ahead: less urgent ones are not."""
    compartment = full(2, max_wait=60.0)
    at = learned(compartment, 1.0)
    assert compartment.service == pytest.approx(1.0, rel=0.05)
    for waiter in "abc":
        compartment.enter(waiter, at, NORMAL)
    assert compartment.expected_wait() == pytest.approx(2.0, rel=0.05)
    refused = compartment.enter("x", at, NORMAL, at + 3.5)  # two seconds of waiting, and two for itself
    assert reason(refused) == "deadline"
    assert isinstance(refused, Refused)
    assert refused.retry_after == pytest.approx(2.0, rel=0.05)
    assert isinstance(compartment.enter("y", at, NORMAL, at + 4.5), Waiting)
    assert isinstance(compartment.enter("z", at, HIGH, at + 3.5), Waiting)


def test_a_queue_that_stands_sheds_the_less_urgent() -> None:
    """Once it has not emptied for an interval; and no more after it did."""
    compartment = full(max_waiting=1000, max_wait=60.0, shed=Shedding(low=0.5, normal=2.0, interval=0.1))
    at = learned(compartment, 0.1)
    for number in range(10):
        compartment.enter(f"n{number}", at, HIGH)
    for _ in range(6):
        at += 0.1
        verdict = compartment.enter(f"l{at}", at, LOW)
        compartment.leave(at)
        compartment.enter(f"h{at}", at, HIGH)
    assert reason(verdict) == "shed"
    assert isinstance(compartment.enter("n", at, NORMAL), Waiting)
    while compartment.in_flight:
        at += 0.1
        compartment.leave(at)
    for _ in range(20):
        at += 0.1
        assert compartment.try_enter(at)
        compartment.leave(at)
    assert compartment.try_enter(at)
    assert isinstance(compartment.enter("l", at, LOW), Waiting)


def test_who_gives_up_is_forgotten() -> None:
    """One who has a place already has to give it back, and the next one gets it; that is no admission."""
    compartment = full()
    compartment.enter("a", 0.0)
    compartment.enter("b", 0.0)
    compartment.enter("c", 0.0)
    assert compartment.abandon("a")
    assert not compartment.abandon("a")
    assert compartment.leave(0.5) == [("b", None)]
    assert not compartment.abandon("b")
    assert compartment.give_back(0.6) == [("c", None)]
    found = compartment.statistics()
    assert (found["in_flight"], found["waiting"], found["admitted"], found["abandoned"]) == (1, 0, 2, 2)


def test_resize() -> None:
    """More places wake who waits; fewer throw nobody out, and are none until enough have left."""
    compartment = full(1)
    for waiter in "abc":
        compartment.enter(waiter, 0.0)
    assert compartment.resize(3, 0.0) == [("a", None), ("b", None)]
    assert compartment.resize(1, 0.0) == []
    assert (compartment.in_flight, compartment.leave(0.1), compartment.leave(0.2)) == (3, [], [])
    assert compartment.leave(0.3) == [("c", None)]
    with pytest.raises(ValueError, match="limit 0"):
        compartment.resize(0, 0.0)


def test_an_adaptive_limit_grows_with_what_it_learns() -> None:
    """And what it grows by goes to who waits."""
    compartment: Compartment[int] = Compartment(Bulkhead(Adaptive(initial=10), max_waiting=10_000, max_wait=1e6))
    assert compartment.limit == 10
    inside: list[float] = []
    for number in range(5_000):
        if compartment.enter(number, 0.0) is None:
            inside.append(0.0)
    at = 0.0
    while at < 6.0:
        at += 0.1
        began, inside = inside, []
        for start in began:
            inside += [at for _ in compartment.leave(at, at - start)]
        assert compartment.in_flight == len(inside)
    assert compartment.limit > 30
    compartment.resize(5, at)
    assert (compartment.limit, compartment.adaptive) == (5, None)


def test_off_lets_everyone_in() -> None:
    """Also past the limit, and those who waited when the next one leaves; counts go on."""
    compartment = full(1)
    compartment.enter("a", 0.0)
    compartment.enabled = False
    assert compartment.enter("b", 0.0, deadline=-1.0) is None
    assert compartment.in_flight == 2
    assert compartment.leave(0.1) == [("a", None)]
    compartment.enabled = True
    assert not compartment.try_enter(0.2)
    assert isinstance(compartment.enter("c", 0.2), Waiting)


def test_closed() -> None:
    """Who waits is told, who comes is refused, who is inside may leave."""
    compartment = full(2)
    compartment.enter("a", 0.0)
    ((waiter, told),) = compartment.close()
    assert (waiter, told and told.reason, compartment.close()) == ("a", "closed", [])
    assert reason(compartment.enter("b", 0.0)) == "closed"
    assert compartment.leave(0.1) == ()
    assert not compartment.try_enter(0.2)
    assert compartment.resize(10, 0.3) == ()
    assert not compartment.try_enter(0.3)


def test_statistics_are_plain() -> None:
    """They can be sent as JSON, and have a part for what is configured."""
    compartment: Compartment[str] = Compartment(Bulkhead(Adaptive(), shed=Shedding()))
    found = json.loads(json.dumps(compartment.statistics()))
    assert found["adaptive"]["limit"] == found["limit"] == 20
    assert found["shedding"]["shedding"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit 0"),
        ({"limit": 1, "max_waiting": -1}, "max_waiting -1"),
        ({"limit": 1, "max_wait": -0.1}, "max_wait -0.1"),
        ({"limit": 1, "max_wait": float("inf")}, "max_wait inf"),
        ({"limit": 1, "when_full": "wait"}, "when_full 'wait'"),
        ({"limit": 1, "patience": 0}, "patience 0"),
    ],
)
def test_nonsense_is_refused(options: Mapping[str, Any], message: str) -> None:
    """Each rule has its bounds; waiting for a place to wait has none, so there is none of it."""
    with pytest.raises(ValueError, match=message):
        Bulkhead(**options)
