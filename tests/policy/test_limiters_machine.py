"""The limiters beside models that remember everything and are slow."""

from __future__ import annotations

from itertools import accumulate
from math import inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forebay.policy.limiters import SlidingWindow, TokenBucket, WarmUp

HAIR = 1e-5  # seconds; what is earlier by this is too early

RATES = st.sampled_from([0.1, 1.0, 3.0, 7.7, 100.0])
BURSTS = st.integers(1, 20)
COUNTS = st.integers(1, 25)
PAUSES = st.one_of(st.just(0.0), st.floats(0.0, 0.05), st.floats(0.0, 5.0), st.floats(0.0, 200.0))
PRECISIONS = st.sampled_from([0.01, 0.3])
FACTORS = st.sampled_from([1.5, 3.0])
STARTS = st.sampled_from([0.0, 1_000.0, 4e6])


class Machine(RuleBasedStateMachine):
    """What is so for all of them: what they let through is bounded in every interval, and the wait is exact."""

    limiter: Any

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.passed: list[tuple[float, int]] = []  # since the rate was last changed
        self.taken = self.refused = self.never = 0

    def begin(self, now: float, limiter: Any) -> None:
        """The limiter of this run."""
        self.now = now
        self.limiter = limiter

    def expected(self, count: int) -> bool | None:
        """Whether the model has so many now; None: by a hair."""
        raise NotImplementedError

    def note(self, count: int) -> None:
        """Take them from the model."""

    def pass_time(self, seconds: float) -> None:
        """Let time pass in the model."""

    @rule(seconds=PAUSES)
    def wait(self, seconds: float) -> None:
        """Time goes on."""
        self.now += seconds
        self.pass_time(seconds)

    @rule(count=COUNTS)
    def take(self, count: int) -> None:
        """One asks, and gets what the model has."""
        foreseen = self.limiter.wait(self.now, count)
        found = self.limiter.take(self.now, count)
        assert found == foreseen
        if count > self.limiter.burst:
            assert found == inf
            self.never += 1
            return
        expected = self.expected(count)
        assert expected is None or expected == (found == 0.0), (found, expected)
        assert 0.0 <= found < inf
        self.note_taken(count) if not found else self.note_refused()

    @rule(count=COUNTS, ahead=st.integers(0, 3))
    def wait_exactly(self, count: int, ahead: int) -> None:
        """Those ahead come one by one, each when it said; a hair before its time it is not there, and then it is."""
        if count > self.limiter.burst:
            return
        foreseen = self.now + self.limiter.wait(self.now, count, ahead)
        for number in (1,) * ahead + (count,):
            wait = self.limiter.wait(self.now, number)
            early = wait - max(HAIR, 1e-4 / self.limiter.rate)
            if early > 0:
                self.now += early
                self.pass_time(early)
                assert self.limiter.take(self.now, number) > 0
                self.note_refused()
                wait = self.limiter.wait(self.now, number)
            self.now += wait
            self.pass_time(wait)
            assert self.limiter.take(self.now, number) == 0.0
            self.note_taken(number)
        assert -HAIR <= self.now - foreseen <= HAIR + self.slip(ahead + count)

    def slip(self, count: int) -> float:
        """How much later than was foreseen the last of ``count`` may be, since others took before it."""
        return 0.0

    def note_taken(self, count: int) -> None:
        """Something was let through."""
        self.note(count)
        self.taken += count
        self.passed.append((self.now, count))

    def note_refused(self) -> None:
        """Something was not."""
        self.refused += 1

    @rule(rate=RATES, burst=BURSTS)
    def change(self, rate: float, burst: int) -> None:
        """Another rate; what is left never grows by that."""
        before = self.limiter.level(self.now)
        self.limiter.set_rate(rate, burst, self.now)
        if not isinstance(self.limiter, SlidingWindow):
            assert self.limiter.level(self.now) == pytest.approx(min(before, burst), abs=1e-6)
        self.passed.clear()
        self.changed(before)

    def changed(self, level: float) -> None:
        """Change the model, in which so much is left."""

    @invariant()
    def never_too_much(self) -> None:
        """In no interval is more let through than its length times the rate, and the burst."""
        if not self.passed:
            return
        rate, burst = self.limiter.rate, self.limiter.burst
        sums = list(accumulate((count for _, count in self.passed), initial=0))
        last, end = self.passed[-1][0], sums[-1]
        for (at, _), before in zip(self.passed, sums, strict=False):
            assert end - before <= burst + rate * (last - at + HAIR) + 1e-6

    @precondition(lambda self: hasattr(self, "limiter"))
    @invariant()
    def counts(self) -> None:
        """Everything is counted, once."""
        said = self.limiter.statistics(self.now)
        assert said["taken"] == self.taken
        assert said["refused"] == {"rate": self.refused, "burst": self.never}
        assert 0.0 <= said["level"] <= said["burst"]


class BucketMachine(Machine):
    """A number of tokens to which time adds some."""

    limiter: TokenBucket

    @initialize(now=STARTS, rate=RATES, burst=BURSTS)
    def make(self, now: float, rate: float, burst: int) -> None:
        """Full at first."""
        self.begin(now, TokenBucket(rate, burst))
        self.tokens = float(burst)

    def expected(self, count: int) -> bool | None:
        return None if abs(self.tokens - count) < 1e-5 else self.tokens > count

    def note(self, count: int) -> None:
        self.tokens -= count

    def pass_time(self, seconds: float) -> None:
        self.tokens = min(float(self.limiter.burst), self.tokens + seconds * self.limiter.rate)

    def changed(self, level: float) -> None:
        self.tokens = min(level, float(self.limiter.burst))

    @invariant()
    def level(self) -> None:
        """The level is the model's."""
        if hasattr(self, "tokens"):
            assert self.limiter.level(self.now) == pytest.approx(self.tokens, abs=1e-5)


class WindowMachine(Machine):
    """A list of everything that was taken. Takes so near to each other that they share an entry come back together."""

    limiter: SlidingWindow

    @initialize(now=STARTS, window=st.sampled_from([0.5, 10.0, 60.0]), limit=BURSTS, precision=PRECISIONS)
    def make(self, now: float, window: float, limit: int, precision: float) -> None:
        """Nothing was taken at first."""
        self.begin(now, SlidingWindow(limit, window, precision=precision))
        self.log: list[tuple[float, int]] = []

    def within(self, window: float) -> int:
        """How many were taken in the last ``window`` seconds."""
        return sum(count for at, count in self.log if at + window > self.now)

    def expected(self, count: int) -> bool | None:
        """With as much as surely counts it may be there; with as much as possibly counts it must be."""
        window, limit = self.limiter.window, self.limiter.burst
        surely = self.within(window - HAIR) + count <= limit
        at_least = self.within(window * (1 + self.limiter.precision) + HAIR) + count <= limit
        return surely if surely == at_least else None

    def note(self, count: int) -> None:
        self.log.append((self.now, count))

    def slip(self, count: int) -> float:
        windows = 1 + count // self.limiter.burst
        return windows * self.limiter.window * self.limiter.precision  # they came to share an entry with earlier ones

    def changed(self, level: float) -> None:
        del self.log[:]  # what it has forgotten before cannot be known; begin anew
        self.limiter = SlidingWindow(self.limiter.burst, self.limiter.window, precision=self.limiter.precision)
        self.taken = self.refused = self.never = 0

    @invariant()
    def no_window_has_more(self) -> None:
        """The bound that a bucket does not keep. The log is bounded too."""
        if hasattr(self, "log"):
            assert self.within(self.limiter.window - HAIR) <= self.limiter.burst
            assert len(self.limiter._log) <= 1 / self.limiter.precision + 2


class WarmUpMachine(Machine):
    """Tokens and flow, integrated in small steps."""

    limiter: WarmUp

    @initialize(now=STARTS, rate=RATES, burst=BURSTS, warm_up=st.sampled_from([0.5, 10.0, 100.0]), factor=FACTORS)
    def make(self, now: float, rate: float, burst: int, warm_up: float, factor: float) -> None:
        """Full and cold at first."""
        self.begin(now, WarmUp(rate, burst, warm_up, factor))
        self.tokens = float(burst)
        self.warmth = 0.0

    def expected(self, count: int) -> bool | None:
        return None if abs(self.tokens - count) < self.error() else self.tokens > count

    def error(self) -> float:
        """How far the steps may be off."""
        return 0.02 * self.limiter.burst

    def note(self, count: int) -> None:
        self.tokens -= count

    def pass_time(self, seconds: float) -> None:
        limiter = self.limiter
        cold = limiter.rate / limiter.cold_factor
        left = seconds
        while left > 0:
            missing = limiter.burst - self.tokens
            flow = cold + self.warmth * (limiter.rate - cold)
            step = min(left, limiter.warm_up / 200)
            if missing > 1e-9:
                step = min(step, missing / flow)
                middle = min(1.0, self.warmth + step / limiter.warm_up / 2)
                self.tokens = min(limiter.burst, self.tokens + step * (cold + middle * (limiter.rate - cold)))
                self.warmth = min(1.0, self.warmth + step / limiter.warm_up)
            elif self.warmth == 0.0:
                return
            else:
                self.warmth = max(0.0, self.warmth - step / limiter.warm_up)
            left -= step
        # The limiter has its own rounding, and goes on from there: the next step is what is looked at.
        assert limiter.level(self.now) == pytest.approx(self.tokens, abs=self.error())
        assert limiter.warmth(self.now) == pytest.approx(self.warmth, abs=0.03)
        self.tokens, self.warmth = limiter._level, limiter.warmth(self.now)

    def changed(self, level: float) -> None:
        assert self.limiter.warmth(self.now) == pytest.approx(self.warmth, abs=0.03)
        self.tokens, self.warmth = level if level < self.limiter.burst else float(self.limiter.burst), self.warmth


TestTokenBucket = BucketMachine.TestCase
TestSlidingWindow = WindowMachine.TestCase
TestWarmUp = WarmUpMachine.TestCase
for _case in (TestTokenBucket, TestSlidingWindow, TestWarmUp):
    _case.settings = settings(stateful_step_count=30)
del _case
