"""A compartment beside a model that is a list of who is inside and lists of who waits."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from forebay.policy.bulkhead import Bulkhead, Compartment, Verdicts, Waiting
from forebay.policy.priority import Priority, WhenFull
from forebay.policy.verdict import Refused

PRIORITIES = list(Priority)
NEVER = 1_000_000  # of patience: starvation is the queue's own test


@dataclass
class Waiter:
    """One that waits in the model."""

    number: int
    rank: int
    expires_at: float


class BulkheadMachine(RuleBasedStateMachine):
    """Whoever comes, leaves, gives up or is late: the same are inside, wait and are refused as in the model. Times
    during which a place is held are all 0 or unknown to the model, so deadlines are those of the callers alone."""

    @initialize(
        limit=st.integers(1, 4),
        max_waiting=st.integers(0, 4),
        max_wait=st.sampled_from([0.0, 2.0, 5.0]),
        when_full=st.sampled_from(["reject", "drop-lowest", "drop-oldest"]),
    )
    def begin(self, limit: int, max_waiting: int, max_wait: float, when_full: WhenFull) -> None:
        """Any rules."""
        self.bulkhead = Bulkhead(limit, max_waiting=max_waiting, max_wait=max_wait, when_full=when_full, patience=NEVER)
        self.compartment: Compartment[int] = Compartment(self.bulkhead)
        self.limit = limit
        self.inside = 0
        self.waiting: list[Waiter] = []  # in the order in which they came
        self.refused: dict[str, int] = {}
        self.admitted = self.gone = self.number = 0
        self.now = 0.0
        self.enabled = True
        self.closed = False

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        """Nothing happens by itself."""
        self.now += seconds

    @rule(priority=st.sampled_from(PRIORITIES), patience=st.sampled_from([-1.0, 1.0, 4.0, 1e9]))
    def enter(self, priority: Priority, patience: float) -> None:
        """It has a place, waits, or is refused for the reason that the model has."""
        self.number += 1
        self.compartment.service = 0.0  # not known
        deadline = self.now + patience
        verdict = self.compartment.enter(self.number, self.now, priority, deadline)
        if self.closed:
            self._expect(verdict, "closed")
        elif patience <= 0 and self.enabled:
            self._expect(verdict, "deadline")
        elif self.inside < self.limit or not self.enabled:
            assert verdict is None
            self.inside += 1
            self.admitted += 1
        elif not self.bulkhead.max_waiting or not self.bulkhead.max_wait:
            self._expect(verdict, "full")
        else:
            self._queue_up(verdict, PRIORITIES.index(priority), deadline)

    @rule()
    def try_enter(self) -> None:
        """Only where there is a place, and never past who waits."""
        expected = self.inside < self.limit and not self.closed
        assert self.compartment.try_enter(self.now) is expected
        self.inside += expected
        self.admitted += expected

    @rule(used=st.booleans())
    def leave(self, used: bool) -> None:
        """The place goes to who is next in the model; those who are late are told on the way."""
        if not self.inside:
            return
        self.inside -= 1
        if used:
            verdicts = self.compartment.leave(self.now)
        else:
            self.admitted -= 1
            self.gone += 1
            verdicts = self.compartment.give_back(self.now)
        self._compare(verdicts)

    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        """One that waits, or does not any more."""
        number = data.draw(st.integers(1, max(1, self.number)))
        found = [waiter for waiter in self.waiting if waiter.number == number]
        assert self.compartment.abandon(number) is bool(found)
        self.gone += len(found)
        self.waiting = [waiter for waiter in self.waiting if waiter.number != number]

    @rule()
    def timers(self) -> None:
        """All who are late are told so."""
        for waiter in [waiter for waiter in self.waiting if waiter.expires_at <= self.now]:
            self._refuse("late")
            assert self.compartment.expire(waiter.number, self.now) is not None
            assert self.compartment.expire(waiter.number, self.now) is None
            self.waiting.remove(waiter)

    @rule(limit=st.integers(1, 5))
    def resize(self, limit: int) -> None:
        """New places go to who is next."""
        verdicts = self.compartment.resize(limit, self.now)
        if not self.closed:
            self.limit = limit
            self._compare(verdicts)

    @rule(enabled=st.booleans())
    def switch(self, enabled: bool) -> None:
        """On or off."""
        self.compartment.enabled = self.enabled = enabled

    @rule(chance=st.integers(0, 9))
    def close(self, chance: int) -> None:
        """Seldom, since nothing happens after that."""
        if chance:
            return
        told = {number for number, _ in self.compartment.close()}
        assert told == {waiter.number for waiter in self.waiting}
        for _ in self.waiting:
            self._refuse("closed")
        self.waiting = []
        self.limit = 0
        self.closed = True

    @invariant()
    def the_same(self) -> None:
        """The model and the compartment agree in all that can be seen."""
        if not hasattr(self, "compartment"):
            return
        found = self.compartment.statistics()
        refused = dict(found["refused"])
        late = refused.pop("max-wait", 0) + refused.pop("deadline", 0)
        expected = dict(self.refused)
        assert late == expected.pop("late", 0) + expected.pop("deadline", 0)
        assert refused == expected
        assert (found["in_flight"], found["waiting"]) == (self.inside, len(self.waiting))
        assert (found["admitted"], found["abandoned"], found["limit"]) == (self.admitted, self.gone, self.limit)
        if self.waiting:
            assert self.inside >= self.limit, "somebody waits beside a free place"

    def _queue_up(self, verdict: Waiting[int] | Refused | None, rank: int, deadline: float) -> None:
        if len(self.waiting) >= self.bulkhead.max_waiting:
            victim = self._victim(rank)
            if victim is None:
                self._expect(verdict, "queue-full")
                return
            self._refuse("pushed-out")
            self.waiting.remove(victim)
            assert isinstance(verdict, Waiting)
            assert verdict.victim is not None
            assert (verdict.victim[0], verdict.victim[1].reason) == (victim.number, "pushed-out")
        assert isinstance(verdict, Waiting)
        expires_at = min(deadline, self.now + self.bulkhead.max_wait)
        assert verdict.expires_at == expires_at
        self.waiting.append(Waiter(self.number, rank, expires_at))

    def _victim(self, rank: int) -> Waiter | None:
        if self.bulkhead.when_full == "reject":
            return None
        lowest = max(waiter.rank for waiter in self.waiting)
        candidates = [waiter for waiter in self.waiting if waiter.rank == lowest]
        if self.bulkhead.when_full == "drop-lowest":
            return candidates[-1] if lowest > rank else None
        return candidates[0] if lowest >= rank else None

    def _compare(self, verdicts: Verdicts[int]) -> None:
        expected: list[tuple[int, bool]] = []
        while self.waiting and (self.inside < self.limit or not self.enabled):
            waiter = min(self.waiting, key=lambda other: (other.rank, other.number))
            self.waiting.remove(waiter)
            late = waiter.expires_at <= self.now
            if late:
                self._refuse("late")
            else:
                self.inside += 1
                self.admitted += 1
            expected.append((waiter.number, late))
        found = [(number, refused is not None) for number, refused in verdicts]
        assert sorted(found) == sorted(expected)
        assert [pair for pair in found if not pair[1]] == [pair for pair in expected if not pair[1]]

    def _expect(self, verdict: Waiting[int] | Refused | None, reason: str) -> None:
        assert isinstance(verdict, Refused)
        assert verdict.reason == reason
        self._refuse(reason)

    def _refuse(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1


TestBulkheadMachine = BulkheadMachine.TestCase
TestBulkheadMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
