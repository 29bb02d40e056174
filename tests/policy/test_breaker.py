"""A target that fails too often is left alone for a while."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from forebay.policy.breaker import Breaker, BreakerEvent, Circuit, Circuits, CircuitState

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
TOUCHY = Breaker(min_calls=1, open_for=10.0, open_cap=35.0, probes=3, probe_successes=2, half_open_timeout=60.0)
"""Opens at the first failure."""


def call(circuit: Circuit, good: bool, now: float, seconds: float = 0.0) -> None:
    """A call that is let through, and ends at ``now``."""
    assert circuit.admit(now - seconds) is None
    (circuit.success if good else circuit.failure)(seconds, now)


def refusal(circuit: Circuit, now: float) -> tuple[str, float]:
    """The reason and the wait of a call that is not let through."""
    refused = circuit.admit(now)
    assert refused is not None
    assert refused.policy == "breaker"
    assert refused.detail
    return refused.reason, refused.retry_after


def half_open(rules: Breaker = TOUCHY) -> Circuit:
    """A circuit that opened at 100 and whose first probe began at 110."""
    circuit = Circuit(rules)
    call(circuit, False, 100.0)
    assert circuit.admit(110.0) is None
    assert circuit.state is HALF_OPEN
    return circuit


# closed to open


def test_fewer_than_min_calls_decide_nothing() -> None:
    """Nineteen failures leave it closed, the twentieth opens it."""
    circuit = Circuit(Breaker())
    for _ in range(19):
        call(circuit, False, 5.0)
    assert circuit.state is CLOSED
    call(circuit, False, 5.0)
    assert circuit.state is OPEN


def test_a_success_may_complete_min_calls() -> None:
    """Nineteen failures and one success are twenty calls with 95% failures."""
    circuit = Circuit(Breaker())
    for _ in range(19):
        call(circuit, False, 5.0)
    call(circuit, True, 5.0)
    assert circuit.state is OPEN


def test_exactly_the_rate_is_not_more_than_it() -> None:
    """Ten of twenty leave it closed; eleven of twenty-one open it."""
    circuit = Circuit(Breaker())
    for n in range(20):
        call(circuit, n % 2 == 0, 5.0)
    assert circuit.state is CLOSED
    call(circuit, False, 5.0)
    assert circuit.state is OPEN


@pytest.mark.parametrize("percent", range(1, 100))
def test_rounding_opens_nothing(percent: int) -> None:
    """At each whole percentage of a hundred calls, exactly so many failures are not too many, and one more is."""
    rules = Breaker(failure_rate=percent / 100, min_calls=100, calls=100)
    for failures, state in [(percent, CLOSED), (percent + 1, OPEN)]:
        circuit = Circuit(rules)
        for n in range(100):
            call(circuit, n >= failures, 5.0)
        assert circuit.state is state


def test_a_rate_of_one_is_all_and_of_zero_is_any() -> None:
    """At 1.0 a single success keeps it closed; at 0.0 a single failure opens it."""
    for last, state in [(True, CLOSED), (False, OPEN)]:
        circuit = Circuit(Breaker(failure_rate=1.0, min_calls=5))
        for good in [False, False, False, False, last]:
            call(circuit, good, 5.0)
        assert circuit.state is state
    circuit = Circuit(Breaker(failure_rate=0.0, min_calls=5))
    for good in [True, True, True, True, True]:
        call(circuit, good, 5.0)
    assert circuit.state is CLOSED
    call(circuit, False, 5.0)
    assert circuit.state is OPEN


def test_old_calls_do_not_count() -> None:
    """Failures that the window of time has let go are not among those that open it, and neither are old successes."""
    circuit = Circuit(Breaker(window=10.0, min_calls=4))
    for _ in range(3):
        call(circuit, False, 5.0)
    call(circuit, False, 16.0)
    assert circuit.state is CLOSED
    circuit = Circuit(Breaker(window=10.0, min_calls=4))
    for _ in range(100):
        call(circuit, True, 5.0)
    for n in range(4):
        assert circuit.state is CLOSED
        call(circuit, False, 16.0 + n)
    assert circuit.state is OPEN


def test_a_window_of_calls_knows_no_time() -> None:
    """Of the last four calls three failed, though days apart."""
    circuit = Circuit(Breaker(calls=4, min_calls=4))
    for n, good in enumerate([True, True, True, False, True, False]):
        call(circuit, good, n * 1e5)
    assert circuit.state is CLOSED
    call(circuit, False, 7e5)
    assert circuit.state is OPEN


def test_a_window_of_one_call() -> None:
    """One failure is all that counts, and opens it."""
    circuit = Circuit(Breaker(calls=1, min_calls=1))
    for _ in range(50):
        call(circuit, True, 5.0)
    assert circuit.state is CLOSED
    call(circuit, False, 5.0)
    assert circuit.state is OPEN


def test_slow_calls_open_it() -> None:
    """More than half of the calls took more than two seconds, though all succeeded; failed ones can be slow too."""
    circuit = Circuit(Breaker(slow_after=2.0, slow_rate=0.5, min_calls=4))
    for n in range(20):
        call(circuit, True, 50.0, seconds=2.1 if n % 2 else 2.0)
    assert circuit.state is CLOSED
    call(circuit, False, 50.0, seconds=30.0)
    assert circuit.state is OPEN
    assert circuit.statistics()["slow"] == 11
    assert "11 of 21 calls of the last 60 s took more than 2 s" in str(circuit.admit(51.0))


def test_all_slow_open_it_by_default_and_none_is_slow_without_a_limit() -> None:
    """With slow_after alone, only when every call was; without it a call may take an hour."""
    circuit = Circuit(Breaker(slow_after=2.0, min_calls=4))
    for _ in range(3):
        call(circuit, True, 50.0, seconds=3.0)
    assert circuit.state is CLOSED
    call(circuit, True, 50.0, seconds=3.0)
    assert circuit.state is OPEN
    circuit = Circuit(Breaker(min_calls=4))
    for _ in range(50):
        call(circuit, True, 5000.0, seconds=3600.0)
    assert circuit.state is CLOSED


# open


def test_an_open_circuit_says_when_to_come_again() -> None:
    """The wait is what is left of the open time, and the detail has the figures that opened it."""
    circuit = Circuit(Breaker(), "users")
    for _ in range(20):
        call(circuit, False, 100.0)
    assert refusal(circuit, 100.0) == ("open", 30.0)
    assert refusal(circuit, 129.5) == ("open", 0.5)
    refused = circuit.admit(129.5)
    assert str(refused) == "breaker: users is open: 20 of 20 calls of the last 60 s failed (limit: more than 0.5)"
    assert circuit.admit(130.0) is None
    assert circuit.state is HALF_OPEN


def test_results_while_it_is_open_change_nothing() -> None:
    """Calls from before are late, whatever became of them."""
    circuit = Circuit(TOUCHY)
    for _ in range(4):
        assert circuit.admit(90.0) is None
    circuit.failure(10.0, 100.0)
    circuit.success(12.0, 102.0)
    circuit.failure(14.0, 104.0)
    circuit.undecided(105.0)
    assert circuit.state is OPEN
    assert refusal(circuit, 105.0) == ("open", 5.0)
    assert circuit.statistics()["late"] == 2


# half-open


def test_enough_probes_close_it() -> None:
    """The second success of three probes does; the third counts as any call."""
    circuit = half_open()
    assert circuit.admit(110.0) is None
    assert circuit.admit(110.0) is None
    circuit.success(1.0, 111.0)
    assert circuit.state is HALF_OPEN
    circuit.success(1.0, 111.0)
    assert circuit.state is CLOSED
    assert circuit.statistics()["window"]["calls"] == 0
    circuit.success(2.0, 112.0)
    assert circuit.statistics()["window"]["calls"] == 1


def test_one_failed_probe_of_three_may_be() -> None:
    """When two of three have to succeed, a failure and two successes close it."""
    circuit = half_open()
    circuit.failure(1.0, 111.0)
    assert circuit.state is HALF_OPEN
    call(circuit, True, 112.0)
    call(circuit, True, 113.0)
    assert circuit.state is CLOSED


def test_too_many_failed_probes_open_it_again() -> None:
    """Two of three do, without waiting for the third, whose success comes late."""
    circuit = half_open()
    assert circuit.admit(110.0) is None
    assert circuit.admit(110.0) is None
    circuit.failure(1.0, 111.0)
    circuit.failure(1.0, 111.0)
    assert circuit.state is OPEN
    circuit.success(2.0, 112.0)
    assert circuit.state is OPEN
    assert circuit.statistics()["late"] == 1


def test_no_more_calls_than_probes() -> None:
    """While three are out, further ones are refused; one that decided is not followed by another."""
    circuit = half_open()
    assert circuit.admit(110.0) is None
    assert circuit.admit(110.0) is None
    assert refusal(circuit, 110.0) == ("half-open", 0.0)
    circuit.success(0.5, 110.5)
    assert refusal(circuit, 110.5) == ("half-open", 0.0)
    assert circuit.statistics()["refused"] == {"open": 0, "half-open": 2, "forced-open": 0}


def test_slow_probes_are_not_good_ones() -> None:
    """A target that answers its probes after ten seconds is not back."""
    circuit = half_open(Breaker(min_calls=1, open_for=10.0, slow_after=2.0, probes=1, probe_successes=1))
    circuit.success(2.5, 112.5)
    assert circuit.state is OPEN


def test_a_probe_without_a_verdict_lets_another_try() -> None:
    """When its caller leaves, its place is free."""
    circuit = half_open(Breaker(min_calls=1, open_for=10.0, probes=1, probe_successes=1))
    assert refusal(circuit, 110.0)[0] == "half-open"
    circuit.undecided(111.0, 1.0)
    call(circuit, True, 112.0)
    assert circuit.state is CLOSED


def test_probes_whose_verdict_never_comes_block_nothing() -> None:
    """When all are out and the last is a minute old, others may try; what the first ones say then is late."""
    circuit = half_open()
    assert circuit.admit(120.0) is None
    assert circuit.admit(125.0) is None
    assert refusal(circuit, 184.9) == ("half-open", 0.0)
    assert circuit.admit(185.0) is None
    circuit.failure(75.0, 185.0)
    circuit.failure(65.0, 185.0)
    assert circuit.state is HALF_OPEN
    circuit.success(0.0, 185.0)
    call(circuit, True, 186.0)
    assert circuit.state is CLOSED
    statistics = circuit.statistics()
    assert statistics["abandoned"] == 3
    assert statistics["late"] == 2


def test_few_calls_are_no_timeout() -> None:
    """As long as a probe may still come, nothing is given up: the answers of today and tomorrow close it."""
    circuit = half_open()
    circuit.success(1.0, 111.0)
    call(circuit, True, 90_000.0)
    assert circuit.state is CLOSED
    assert circuit.statistics()["abandoned"] == 0


def test_what_began_before_it_opened_decides_nothing_when_half_open() -> None:
    """Neither failures nor successes of calls from then, nor calls from then that end without a verdict."""
    circuit = Circuit(TOUCHY)
    for _ in range(8):
        assert circuit.admit(100.0) is None  # at the same moment as the failure that opens it
    circuit.failure(0.0, 100.0)
    for _ in range(3):
        assert circuit.admit(110.0) is None
    for _ in range(3):
        circuit.failure(10.0, 110.0)
    for _ in range(3):
        circuit.success(11.0, 111.0)
    circuit.undecided(111.0, 11.0)
    assert circuit.state is HALF_OPEN
    assert refusal(circuit, 111.0)[0] == "half-open"
    assert circuit.statistics()["late"] == 6


def test_what_began_before_it_opened_decides_nothing_when_closed_again() -> None:
    """Timeouts that are left of the outage do not open it once more."""
    circuit = Circuit(TOUCHY)
    assert circuit.admit(99.0) is None
    call(circuit, False, 100.0)
    for now in (110.0, 111.0):
        call(circuit, True, now)
    assert circuit.state is CLOSED
    circuit.failure(13.0, 112.0)
    assert circuit.state is CLOSED
    call(circuit, False, 112.0)
    assert circuit.state is OPEN


def test_probes_of_an_earlier_round_decide_nothing() -> None:
    """One that was still out when the others failed is late in the next round."""
    circuit = half_open()
    assert circuit.admit(110.0) is None
    assert circuit.admit(110.0) is None
    circuit.failure(0.0, 110.0)
    circuit.failure(0.0, 110.0)
    for _ in range(2):
        assert circuit.admit(130.0) is None
    circuit.success(20.0, 130.0)
    circuit.success(0.0, 130.0)
    assert circuit.state is HALF_OPEN
    circuit.success(0.0, 130.0)
    assert circuit.state is CLOSED


@pytest.mark.parametrize("now", [0.1, 1.1, 12345.678, 1e6 / 3, 1e9 / 7])
def test_rounding_makes_no_probe_late(now: float) -> None:
    """Start times are computed, and are a little wrong for nearly all times."""
    circuit = Circuit(Breaker(min_calls=1, open_for=0.1, open_cap=0.1, probes=1, probe_successes=1))
    call(circuit, False, now)
    begun = now + 0.1
    while circuit.admit(begun) is not None:
        begun += 1e-8 * now
    for step in range(1, 2000):
        end = begun + step * 0.0137
        circuit.success(end - begun, end)
        assert circuit.state is CLOSED
        call(circuit, False, end)
        begun = end + 0.11
        assert circuit.admit(begun) is None


# the backoff


def test_it_stays_open_longer_each_time() -> None:
    """10, 20, then at most 35 seconds; after it was closed, 10 again."""
    circuit = Circuit(TOUCHY)
    call(circuit, False, 100.0)
    now = 100.0
    for seconds in (10.0, 20.0, 35.0, 35.0):
        assert refusal(circuit, now) == ("open", seconds)
        now += seconds
        call(circuit, False, now)
        call(circuit, False, now)
    now += 35.0
    call(circuit, True, now)
    call(circuit, True, now)
    assert circuit.state is CLOSED
    call(circuit, False, now)
    assert refusal(circuit, now) == ("open", 10.0)
    assert circuit.statistics()["opened"] == 6


def test_flapping() -> None:
    """A target that answers its probes and fails at once again gets two probes each ten seconds, for ever."""
    circuit = Circuit(TOUCHY)
    now, passed = 100.0, 0
    call(circuit, False, now)
    for tick in range(1, 1001):
        now = 100.0 + tick
        if circuit.admit(now) is None:
            passed += 1
            (circuit.success if circuit.state is HALF_OPEN else circuit.failure)(0.0, now)
    assert 240 <= passed <= 260  # three calls each twelve seconds
    assert circuit.statistics()["opened"] in (83, 84, 85)


def test_a_clock_that_stands_still() -> None:
    """Everything that can happen at one moment does, and an open circuit stays open."""
    circuit = Circuit(Breaker())
    for _ in range(1000):
        if circuit.admit(7.0) is None:
            circuit.failure(0.0, 7.0)
    assert circuit.state is OPEN
    assert circuit.statistics()["refused"]["open"] == 980


def test_a_huge_jump_in_time() -> None:
    """Years later the first call is a probe, and the window has forgotten everything."""
    circuit = Circuit(TOUCHY)
    call(circuit, False, 100.0)
    call(circuit, True, 1e9)
    call(circuit, True, 1e9)
    assert circuit.state is CLOSED
    call(circuit, True, 1e12)
    assert circuit.statistics()["window"]["calls"] == 1


# by hand


def test_forced_open() -> None:
    """Nothing passes, however long it takes, until it is given back: closed, with an empty window."""
    circuit = Circuit(TOUCHY)
    circuit.force("open", 50.0)
    assert circuit.state is CircuitState.FORCED_OPEN
    assert refusal(circuit, 50.0) == ("forced-open", 0.0)
    assert refusal(circuit, 1e9) == ("forced-open", 0.0)
    circuit.force(None, 1e9)
    assert circuit.state is CLOSED
    assert circuit.admit(1e9) is None
    assert circuit.statistics()["refused"]["forced-open"] == 2


def test_forced_closed() -> None:
    """Everything passes and is counted; failures open nothing, also not afterwards."""
    circuit = half_open()
    circuit.force("closed", 111.0)
    for _ in range(100):
        call(circuit, False, 112.0)
    assert circuit.state is CircuitState.FORCED_CLOSED
    assert circuit.statistics()["window"] == {"calls": 100, "failures": 100, "slow": 0}
    circuit.force(None, 113.0)
    assert circuit.state is CLOSED
    assert circuit.statistics()["window"]["calls"] == 0
    call(circuit, True, 113.0)
    assert circuit.state is CLOSED


def test_off() -> None:
    """Everything passes and nothing is looked at, though totals are kept."""
    circuit = Circuit(TOUCHY)
    circuit.force("off", 50.0)
    for _ in range(100):
        call(circuit, False, 51.0)
    assert circuit.state is CircuitState.OFF
    assert circuit.statistics()["window"]["calls"] == 0
    assert circuit.statistics()["failed"] == 100
    assert circuit.statistics()["late"] == 0


def test_results_from_before_it_was_forced_do_not_count_afterwards() -> None:
    """A call that began while it was forced closed fails when it no longer is."""
    circuit = Circuit(TOUCHY)
    circuit.force("closed", 50.0)
    assert circuit.admit(51.0) is None
    circuit.force(None, 52.0)
    circuit.failure(2.0, 53.0)
    assert circuit.state is CLOSED
    call(circuit, False, 53.0)
    assert circuit.state is OPEN


def test_probes_that_were_out_when_it_was_forced_do_not_count() -> None:
    """A hand that intervenes begins anew, also for them."""
    circuit = half_open()
    circuit.force("closed", 111.0)
    circuit.failure(2.0, 112.0)
    assert circuit.statistics()["window"]["calls"] == 0
    assert circuit.statistics()["late"] == 1


def test_forcing_twice_is_forcing_once() -> None:
    """The same again is no event, nor is giving back what was not taken; and there is nothing else to force."""
    events: list[BreakerEvent] = []
    circuit = Circuit(TOUCHY, on_event=events.append)
    circuit.force(None, 1.0)
    circuit.force("open", 2.0)
    circuit.force("open", 3.0)
    circuit.force("off", 4.0)
    circuit.force(None, 5.0)
    assert [(event.at, event.after.value) for event in events] == [(2.0, "forced-open"), (4.0, "off"), (5.0, "closed")]
    ajar: Any = "ajar"
    with pytest.raises(ValueError, match="ajar"):
        circuit.force(ajar, 6.0)


@pytest.mark.parametrize("to", ["open", "closed", "off"])
def test_giving_back_a_circuit_begins_with_the_first_open_time(to: Literal["open", "closed", "off"]) -> None:
    """Whatever it had grown to is forgotten."""
    circuit = half_open()
    circuit.failure(0.0, 110.0)
    call(circuit, False, 110.0)
    assert refusal(circuit, 110.0) == ("open", 20.0)
    circuit.force(to, 111.0)
    circuit.force(None, 112.0)
    call(circuit, False, 113.0)
    assert refusal(circuit, 113.0) == ("open", 10.0)


def test_disabled() -> None:
    """Everything passes and the state stays; enabled again it goes on from where it was."""
    circuit = Circuit(TOUCHY, enabled=False)
    for _ in range(5):
        call(circuit, False, 50.0)
    assert circuit.state is CLOSED
    circuit.enabled = True
    call(circuit, False, 51.0)
    assert circuit.state is OPEN
    circuit.enabled = False
    for now in (52.0, 500.0):
        call(circuit, True, now)
    assert circuit.state is OPEN
    circuit.enabled = True
    for _ in range(3):
        assert circuit.admit(501.0) is None
    assert circuit.state is HALF_OPEN
    circuit.enabled = False
    for _ in range(5):
        call(circuit, False, 502.0)
    assert circuit.state is HALF_OPEN


# what can be seen


def test_events_tell_the_whole_story() -> None:
    """Each change is told once it has happened: when, of what, from, to, and why with figures."""
    events: list[BreakerEvent] = []
    circuit = Circuit(TOUCHY, "users", on_event=events.append)
    call(circuit, False, 100.0)
    for now in (110.0, 111.0):
        call(circuit, False, now)
    for now in (140.0, 141.0):
        call(circuit, True, now)
    assert events == [
        BreakerEvent(100.0, "users", CLOSED, OPEN, "1 of 1 calls of the last 60 s failed (limit: more than 0.5)"),
        BreakerEvent(110.0, "users", OPEN, HALF_OPEN, "it was open for 10 s"),
        BreakerEvent(111.0, "users", HALF_OPEN, OPEN, "2 of 3 probes failed or were slow"),
        BreakerEvent(140.0, "users", OPEN, HALF_OPEN, "it was open for 29 s"),
        BreakerEvent(141.0, "users", HALF_OPEN, CLOSED, "2 of 3 probes succeeded"),
    ]


def test_an_event_may_force_the_circuit() -> None:
    """Who is told that it opened finds it open, and may force it closed there and then."""
    seen: list[CircuitState] = []

    def keep_closed(event: BreakerEvent) -> None:
        seen.append(circuit.state)
        if event.after is OPEN:
            circuit.force("closed", event.at)

    circuit = Circuit(TOUCHY, on_event=keep_closed)
    call(circuit, False, 100.0)
    assert seen == [OPEN, CircuitState.FORCED_CLOSED]
    assert circuit.admit(100.0) is None


def test_an_event_may_force_it_open_before_the_first_probe() -> None:
    """Then the call that would have been the probe does not pass either."""

    def keep_open(event: BreakerEvent) -> None:
        if event.after is HALF_OPEN:
            circuit.force("open", event.at)

    circuit = Circuit(TOUCHY, on_event=keep_open)
    call(circuit, False, 100.0)
    assert refusal(circuit, 110.0) == ("forced-open", 0.0)
    assert circuit.statistics()["admitted"] == 1


def test_statistics() -> None:
    """All of it is plain, and the figures are those of what happened."""
    circuit = Circuit(Breaker(min_calls=3, slow_after=1.0, slow_rate=0.9, open_for=10.0), "users")
    call(circuit, True, 100.0, seconds=2.0)
    call(circuit, False, 100.0)
    assert circuit.admit(100.0) is None
    circuit.undecided(100.0, 0.0)
    assert circuit.admit(100.0) is None
    call(circuit, False, 101.0)
    refusal(circuit, 102.0)
    circuit.success(3.0, 103.0)
    assert json.loads(json.dumps(circuit.statistics())) == {
        "state": "open",
        "since": 101.0,
        "enabled": True,
        "window": {"calls": 3, "failures": 2, "slow": 1},
        "admitted": 5,
        "succeeded": 2,
        "failed": 2,
        "slow": 2,
        "undecided": 1,
        "late": 1,
        "abandoned": 0,
        "opened": 1,
        "refused": {"open": 1, "half-open": 0, "forced-open": 0},
    }


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"failure_rate": 1.1}, "failure_rate"),
        ({"failure_rate": float("nan")}, "failure_rate"),
        ({"slow_rate": -0.1}, "slow_rate"),
        ({"slow_after": 0.0}, "slow_after"),
        ({"min_calls": 0}, "min_calls"),
        ({"window": 0.0}, "window"),
        ({"calls": 19}, "calls"),
        ({"calls": 0, "min_calls": 1}, "calls"),
        ({"open_for": 0.0}, "open_for"),
        ({"open_factor": 0.5}, "open_factor"),
        ({"open_cap": 29.0}, "open_cap"),
        ({"open_cap": float("inf")}, "open_cap"),
        ({"probes": 0}, "probes"),
        ({"probe_successes": 0}, "probe_successes"),
        ({"probe_successes": 4}, "probe_successes"),
        ({"half_open_timeout": float("inf")}, "half_open_timeout"),
    ],
)
def test_rules_that_cannot_be_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    """At once, not when the target fails."""
    with pytest.raises(ValueError, match=f"^{named} "):
        Breaker(**wrong)


# many targets


def test_each_target_has_its_own() -> None:
    """One that opens leaves others as they are; events say which one."""
    events: list[BreakerEvent] = []
    circuits = Circuits(TOUCHY, on_event=events.append)
    call(circuits.of("a"), False, 100.0)
    assert circuits.of("a").admit(100.0) is not None
    assert circuits.of("b").admit(100.0) is None
    assert circuits.of("a") is circuits.of("a")
    assert [event.target for event in events] == ["a"]


def test_the_table_is_bounded_and_forgets_the_one_that_was_unused_longest() -> None:
    """Of ten thousand targets the latest hundred are left, and one that was asked for again and again."""
    circuits = Circuits(TOUCHY, max_targets=100)
    mine = circuits.of("mine")
    for n in range(10_000):
        circuits.of(str(n))
        assert circuits.of("mine") is mine
    assert len(circuits) == 100
    assert {circuit.name for circuit in circuits} == {"mine", *(str(n) for n in range(9901, 10_000))}
    assert circuits.statistics()["forgotten"] == 10_001 - 100


@pytest.mark.parametrize("state", ["open", "half-open", "forced-closed"])
def test_one_that_is_not_closed_is_not_forgotten_for_one_that_is(state: str) -> None:
    """Else a target that is down would be called again because others were."""
    circuits = Circuits(TOUCHY, max_targets=3)
    held = circuits.of("held")
    if state == "forced-closed":
        held.force("closed", 100.0)
    else:
        call(held, False, 100.0)
    if state == "half-open":
        assert held.admit(110.0) is None
    assert held.state.value == state
    for n in range(100):
        circuits.of(str(n))
    assert circuits.of("held") is held
    assert len(circuits) == 3


def test_the_bound_holds_when_all_are_open() -> None:
    """Then the oldest one goes."""
    circuits = Circuits(TOUCHY, max_targets=3)
    for name in ("a", "b", "c", "d"):
        call(circuits.of(name), False, 100.0)
    assert [circuit.name for circuit in circuits] == ["b", "c", "d"]
    circuits.of("e")
    circuits.of("f")
    assert [circuit.name for circuit in circuits] == ["d", "e", "f"]


def test_targets_that_are_gone_for_good_do_not_take_the_place_of_those_in_use() -> None:
    """Addresses of yesterday stay open for ever, as nobody asks for them any more: they are forgotten in the end."""
    circuits = Circuits(TOUCHY, max_targets=10)
    for number in range(10):
        call(circuits.of(f"gone {number}"), False, 100.0)
    live = {circuits.of(f"live {number}") for number in range(5)}
    for turn in range(20):
        assert {circuits.of(f"live {number}") for number in range(5)} == live, turn
        circuits.of(f"new {turn}")


def test_all_can_be_disabled_at_once() -> None:
    """Those there are and those to come; and enabled again."""
    circuits = Circuits(TOUCHY)
    call(circuits.of("a"), False, 100.0)
    circuits.enabled = False
    call(circuits.of("a"), False, 101.0)
    call(circuits.of("b"), False, 101.0)
    assert circuits.of("b").state is CLOSED
    circuits.enabled = True
    assert circuits.of("a").admit(102.0) is not None
    assert circuits.enabled


def test_statistics_of_all() -> None:
    """By state and by target."""
    circuits = Circuits(TOUCHY)
    call(circuits.of("a"), False, 100.0)
    call(circuits.of("b"), True, 100.0)
    call(circuits.of("c"), True, 100.0)
    statistics = json.loads(json.dumps(circuits.statistics()))
    assert statistics["targets"] == 3
    assert statistics["states"] == {"open": 1, "closed": 2}
    assert statistics["circuits"]["a"]["opened"] == 1
    assert statistics["circuits"]["b"]["succeeded"] == 1
    with pytest.raises(ValueError, match="max_targets"):
        Circuits(TOUCHY, max_targets=0)
