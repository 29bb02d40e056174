"""Passive and active health against models that keep everything that was said."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from forebay.policy.health import ActiveHealth, PassiveHealth, Standing


class PassiveMachine(RuleBasedStateMachine):
    """Requests that fail, succeed and are given up, in any order; the model keeps the failures of the run in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.run: list[float] = []
        self.out_until: float | None = None
        self.probing = False
        self.failed: list[str] = []
        self.probes_failed = 0
        self.reason = ""
        self.ejections = self.returns = 0

    @initialize(max_fails=st.integers(0, 4))
    def begin_with(self, max_fails: int) -> None:
        """Any number of failures takes it out."""
        self.health = PassiveHealth(max_fails, 10.0)

    def up(self) -> None:
        """The model's target is up and has no past."""
        self.run, self.out_until, self.probing, self.probes_failed = [], None, False, 0

    @rule(seconds=st.sampled_from((0.5, 1.0, 4.0, 10.0, 10.5, 100.0)))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule(reason=st.sampled_from(("timeout", "closed", "")))
    def failure(self, reason: str) -> None:
        """A request fails: one from before, or the probe."""
        took_out = self.health.failure(self.now, reason)
        self.failed.append(reason)
        expected = False
        if not self.health.enabled or not self.health.max_fails:
            pass
        elif self.probing:
            expected = True
            self.probes_failed += 1
        elif self.out_until is None:
            if self.run and self.now - self.run[0] > 10.0:
                self.run = []
            self.run.append(self.now)
            expected = len(self.run) >= self.health.max_fails
            self.ejections += expected
        if expected:
            self.out_until, self.probing, self.reason = self.now + 10.0, False, reason
        assert took_out == expected

    @rule()
    def success(self) -> None:
        """A request succeeds."""
        assert self.health.success() == (self.out_until is not None)
        if self.out_until is not None:
            self.up()
            self.returns += 1

    @rule()
    def begin(self) -> None:
        """A request goes there: it is a probe when the time is over and no other is under way."""
        expected = self.out_until is not None and not self.probing and self.now >= self.out_until
        assert self.health.allows(self.now) == (self.out_until is None or expected)
        assert self.health.begin(self.now) == expected
        self.probing = self.probing or expected

    @rule()
    def undecided(self) -> None:
        """The client of a probe leaves."""
        self.health.undecided()
        self.probing = False

    @rule(on=st.sampled_from((True, True, True, False)))
    def switch(self, on: bool) -> None:
        """Off, rarely, and on."""
        self.health.enabled = on
        if not on:
            self.up()

    @invariant()
    def they_agree(self) -> None:
        """About how it stands, why, and what was counted."""
        health = self.health
        if self.out_until is None:
            assert health.standing is Standing.UP
            assert not health.why()
        else:
            assert health.standing is (Standing.PROBING if self.probing else Standing.DOWN)
            assert health.until == self.out_until
            assert health.why().startswith(f"{len(self.run)} failure")
            assert "within 10 s" in health.why()
            assert health.why().endswith(self.reason)
            assert (f" {self.probes_failed} failed probe" in health.why()) == bool(self.probes_failed)
        told = health.statistics()
        assert told["standing"] == health.standing.value
        assert told["failures"] == {reason: self.failed.count(reason) for reason in dict.fromkeys(self.failed)}
        assert (told["ejections"], told["returns"]) == (self.ejections, self.returns)


class ActiveMachine(RuleBasedStateMachine):
    """Good and bad results; the model keeps all since it last changed."""

    def __init__(self) -> None:
        super().__init__()
        self.up = True
        self.results: list[bool] = []
        self.bad_row = 0

    @initialize(rise=st.integers(1, 3), fall=st.integers(1, 3))
    def begin_with(self, rise: int, fall: int) -> None:
        """Any number in a row."""
        self.health = ActiveHealth(rise, fall)

    @rule(good=st.booleans())
    def result(self, good: bool) -> None:
        """A check ended."""
        changed = self.health.result(good, "" if good else "status 503")
        if not self.health.enabled:
            assert not changed
            return
        self.bad_row = 0 if good else self.bad_row + 1
        self.results.append(good)
        needed = self.health.fall if self.up else self.health.rise
        expected = self.results[-needed:] == [not self.up] * needed
        if expected:
            self.up, self.results = good, []
        assert changed == expected

    @rule(on=st.sampled_from((True, True, True, False)))
    def switch(self, on: bool) -> None:
        """Off, rarely, and on."""
        self.health.enabled = on
        if not on:
            self.up, self.results, self.bad_row = True, [], 0

    @invariant()
    def they_agree(self) -> None:
        """About how it stands and why."""
        assert self.health.up is self.up
        assert bool(self.health.why()) is not self.up
        if not self.up and self.bad_row:
            many = "" if self.bad_row == 1 else "s"
            assert self.health.why() == f"{self.bad_row} failed check{many} in a row: status 503"


PassiveMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
ActiveMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestPassiveMachine = PassiveMachine.TestCase
TestActiveMachine = ActiveMachine.TestCase
