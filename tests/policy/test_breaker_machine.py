"""The breaker against a simple model of it: lists of what happened, looked through anew each time.

The model knows each call and what it was admitted as; the breaker sees only how long ago that was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from forebay.policy.breaker import Breaker, BreakerEvent, Circuit

RULES = st.builds(
    lambda calls, min_calls, slow_after, rates, open_for, probes: Breaker(
        failure_rate=rates[0],
        slow_rate=rates[1],
        slow_after=slow_after,
        min_calls=min_calls,
        window=10.0,  # in buckets of one second
        calls=None if calls is None else max(calls, min_calls),
        open_for=open_for,
        open_factor=2.0,
        open_cap=open_for * 5,
        probes=max(probes),
        probe_successes=min(probes),
        half_open_timeout=20.0,
    ),
    st.none() | st.integers(1, 8),
    st.integers(1, 4),
    st.none() | st.just(3.0),
    st.tuples(st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from([0.5, 1.0])),
    st.sampled_from([0.5, 5.0]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
)


@dataclass
class Call:
    """One that was let through."""

    begun: float
    era: int
    probe: bool


@dataclass
class Outcome:
    """One that was counted."""

    at: float
    failed: bool
    slow: bool


class Model:
    """What the breaker should be, by the plainest means.

    An era begins when the circuit opens, when probes are given up, and when it is forced or given back. The result of a
    call matters only in the era that it was admitted in, except that leaving half-open for closed begins none.
    """

    def __init__(self, rules: Breaker) -> None:
        self.rules = rules
        self.state = "closed"
        self.era = 0
        self.outcomes: list[Outcome] = []
        self.opened_at = 0.0
        self.times_opened = 0  # in a row
        self.probes: list[float] = []  # when those that are out began
        self.last_probe = 0.0  # when the last one began, out or not
        self.verdicts: list[bool] = []  # of probes
        self.late = self.abandoned = 0

    def open_time(self) -> float:
        """Seconds that it stays open this time."""
        return min(self.rules.open_cap, self.rules.open_for * self.rules.open_factor ** (self.times_opened - 1))

    def window(self, now: float) -> list[Outcome]:
        """The outcomes that count."""
        if self.rules.calls is not None:
            return self.outcomes[-self.rules.calls :]
        return [outcome for outcome in self.outcomes if int(outcome.at) > int(now) - 10]

    def close(self, state: str = "closed") -> None:
        """As new."""
        self.state = state
        self.outcomes = []
        self.times_opened = 0

    def open(self, now: float) -> None:
        """Leave it alone for a while."""
        self.state, self.opened_at = "open", now
        self.times_opened += 1
        self.era += 1

    def admit(self, now: float) -> Call | str:
        """A call, or the reason of its refusal."""
        if self.state == "forced-open":
            return "forced-open"
        if self.state in ("closed", "forced-closed", "off"):
            return Call(now, self.era, False)
        if self.state == "open":
            if now < self.opened_at + self.open_time():
                return "open"
            self.state = "half-open"
            self.probes, self.verdicts = [], []
        if len(self.probes) + len(self.verdicts) == self.rules.probes:
            if now < self.last_probe + self.rules.half_open_timeout:
                return "half-open"
            self.abandoned += len(self.probes)
            self.probes = []
            self.era += 1
        self.probes.append(now)
        self.last_probe = now
        return Call(now, self.era, True)

    def result(self, call: Call, failed: bool, slow: bool, now: float) -> None:
        """Its call came to an end."""
        if call.era != self.era:
            self.late += 1
            return
        if self.state == "half-open":
            self.probes.remove(call.begun)
            self.verdicts.append(not (failed or slow))
            if self.verdicts.count(True) == self.rules.probe_successes:
                self.close()
            elif self.verdicts.count(False) > self.rules.probes - self.rules.probe_successes:
                self.open(now)
            return
        if self.state == "off":
            return
        self.outcomes.append(Outcome(now, failed, slow))
        window = self.window(now)
        if self.state == "closed" and len(window) >= self.rules.min_calls:
            for bad, rate in [
                (sum(outcome.failed for outcome in window), self.rules.failure_rate),
                (sum(outcome.slow for outcome in window), self.rules.slow_rate),
            ]:
                if bad / len(window) > rate or bad == len(window):
                    self.open(now)
                    return

    def undecided(self, call: Call) -> None:
        """Its call came to no end."""
        if call.era == self.era and self.state == "half-open":
            self.probes.remove(call.begun)


class BreakerMachine(RuleBasedStateMachine):
    """Calls that come, last, and end in any order, pauses short and long, and a hand that forces."""

    calls = Bundle("calls")

    @initialize(rules=RULES, start=st.floats(0.0, 1e6))
    def begin(self, rules: Breaker, start: float) -> None:
        """Any rules, at any time."""
        self.now = start
        self.events: list[BreakerEvent] = []
        self.circuit = Circuit(rules, "target", self.events.append)
        self.model = Model(rules)

    @rule(target=calls, count=st.integers(1, 4))
    def call(self, count: int) -> object:
        """Some calls come at once; each is let through by both, or refused by both for the same reason."""
        admitted: list[Call] = []
        for _ in range(count):
            expected = self.model.admit(self.now)
            refused = self.circuit.admit(self.now)
            if isinstance(expected, Call):
                assert refused is None
                admitted.append(expected)
                continue
            assert refused is not None
            assert refused.reason == expected
            if expected == "open":
                assert abs(self.now + refused.retry_after - self.model.opened_at - self.model.open_time()) < 1e-6
            else:
                assert refused.retry_after == 0.0
        return multiple(*admitted)

    @rule(call=consumes(calls), failed=st.booleans())
    def end(self, call: Call, failed: bool) -> None:
        """A call ends: one of now, or one of long ago."""
        seconds = self.now - call.begun
        slow = self.model.rules.slow_after is not None and seconds > self.model.rules.slow_after
        self.model.result(call, failed, slow, self.now)
        (self.circuit.failure if failed else self.circuit.success)(seconds, self.now)

    @rule(call=consumes(calls))
    def cancel(self, call: Call) -> None:
        """A caller leaves."""
        self.model.undecided(call)
        self.circuit.undecided(self.now, self.now - call.begun)

    @rule(failed=st.booleans(), count=st.integers(1, 5))
    def quick(self, failed: bool, count: int) -> None:
        """Calls that end at the moment they come, as far as they are let through."""
        for _ in range(count):
            call = self.model.admit(self.now)
            assert (self.circuit.admit(self.now) is None) == isinstance(call, Call)
            if isinstance(call, Call):
                self.model.result(call, failed, False, self.now)
                (self.circuit.failure if failed else self.circuit.success)(0.0, self.now)

    @rule(seconds=st.floats(0.001, 2.0) | st.sampled_from([0.5, 1.0, 5.0, 10.0, 20.0, 1e5]))
    def wait(self, seconds: float) -> None:
        """Time passes; between any two of the other rules it need not."""
        self.now += seconds

    @rule()
    def wait_until_it_is_due(self) -> None:
        """Until the very moment at which it may be tried, or tried again because no verdict came."""
        if self.model.state == "open":
            self.now = max(self.now, self.model.opened_at + self.model.open_time())
        elif self.model.state == "half-open":
            self.now = max(self.now, self.model.last_probe + self.model.rules.half_open_timeout)

    @rule(to=st.sampled_from([None, "open", "closed", "off"]))
    def force(self, to: Literal["open", "closed", "off"] | None) -> None:
        """A hand intervenes, at a moment at which no call comes: by their times these could not be told apart."""
        self.now += 0.01
        model = self.model
        forced = model.state in ("forced-open", "forced-closed", "off")
        if to is None:
            if forced:
                model.close()
                model.era += 1
        elif model.state != (state := "off" if to == "off" else f"forced-{to}"):
            model.era += 1
            if to == "closed":
                model.close(state)
            model.state = state
        self.circuit.force(to, self.now)
        self.now += 0.01

    @invariant()
    def alike(self) -> None:
        """State, window and counts are those of the model; the events lead from the first state to this one."""
        if not hasattr(self, "model"):
            return
        model, statistics = self.model, self.circuit.statistics()
        assert statistics["state"] == model.state
        assert statistics["late"] == model.late
        assert statistics["abandoned"] == model.abandoned
        if model.state in ("closed", "forced-closed"):
            self.circuit.window.advance(self.now)
            window = model.window(self.now)
            assert self.circuit.window.calls == len(window)
            assert self.circuit.window.failures == sum(outcome.failed for outcome in window)
            assert self.circuit.window.slow == sum(outcome.slow for outcome in window)
        path = [event.before.value for event in self.events] + [model.state]
        assert path == ["closed", *(event.after.value for event in self.events)]
        assert all(event.at <= self.now and event.target == "target" and event.why for event in self.events)


BreakerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase
