"""The budget beside a list of what each request was worth."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from forebay.policy.budget import RetryBudget

WINDOW = 10
EIGHTHS = st.one_of(st.integers(1, 100), st.integers(70, 90)).map(lambda eighths: Fraction(eighths, 8))


class Model:
    """What the budget promises, in the simplest way: exact numbers, and everything kept."""

    def __init__(self, share: Fraction, minimum: Fraction) -> None:
        self.share = share
        self.minimum = minimum
        self.worth: list[tuple[int, Fraction]] = []  # of each request that has something left: its slice, and how much
        self.reserve = minimum * WINDOW
        self.at = Fraction(0)

    def passed(self, now: Fraction) -> None:
        """The minimum flows; requests of a slice are past when ten whole slices came after it."""
        self.reserve = min(self.reserve + self.minimum * (now - self.at), self.minimum * WINDOW)
        self.at = now
        self.worth = [(begun, left) for begun, left in self.worth if begun >= int(now) - 10]

    def deposit(self) -> None:
        """A request: slices are seconds, since the window is ten."""
        self.worth.append((int(self.at), self.share))

    def withdraw(self) -> bool:
        """One, of the oldest first, and of the minimum what is missing."""
        if sum(left for _, left in self.worth) + self.reserve < 1:
            return False
        due = Fraction(1)
        while due and self.worth:
            begun, left = self.worth.pop(0)
            if left > due:
                self.worth.insert(0, (begun, left - due))
            due -= min(left, due)
        self.reserve -= due
        return True


class Budgets(RuleBasedStateMachine):
    """Requests, second tries and time, in any order."""

    @initialize(share=st.sampled_from([0, 1, 2, 4, 8]), minimum=st.sampled_from([0, 1, 2, 8]))
    def begin(self, share: int, minimum: int) -> None:
        """Eighths are exact as floats as well, so that model and budget never differ by rounding."""
        self.now = Fraction(0)
        self.model = Model(Fraction(share, 8), Fraction(minimum, 8))
        self.budget = RetryBudget(share / 8, min_per_second=minimum / 8, window=float(WINDOW))
        self.requests: list[Fraction] = []
        self.retries: list[Fraction] = []

    @rule(passed=EIGHTHS)
    def wait(self, passed: Fraction) -> None:
        """Time passes; often about a window, since that is where it matters."""
        self.now += passed
        self.model.passed(self.now)

    @rule(count=st.integers(1, 30))
    def request(self, count: int) -> None:
        """Requests are made."""
        for _ in range(count):
            self.budget.deposit(float(self.now))
            self.model.deposit()
            self.requests.append(self.now)

    @rule(count=st.integers(1, 25))
    def second_try(self, count: int) -> None:
        """Second tries are asked for: both say the same."""
        for _ in range(count):
            granted = self.budget.withdraw(float(self.now)) is None
            assert granted == self.model.withdraw()
            if granted:
                self.retries.append(self.now)

    @invariant()
    def promised(self) -> None:
        """The bound of the documentation: over the whole life, and over any span that ends now."""
        if not hasattr(self, "now"):
            return
        share, minimum = self.model.share, self.model.minimum
        assert len(self.retries) <= share * len(self.requests) + minimum * (self.now + WINDOW)
        for span in (1, 10, 30):
            start = self.now - span
            retries = sum(at >= start for at in self.retries)
            requests = sum(at >= start - WINDOW - 1 for at in self.requests)  # it moves in tenths
            assert retries <= share * requests + minimum * (span + WINDOW)

    @invariant()
    def counted(self) -> None:
        """Everything is counted."""
        if hasattr(self, "now"):
            assert (self.budget.requests, self.budget.retries) == (len(self.requests), len(self.retries))


TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
