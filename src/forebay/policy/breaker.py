"""Whether a target is called at all: one that fails too often is left alone for a while, then tried again."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any, Literal

from forebay.policy.verdict import Refused
from forebay.policy.windows import CountWindow, TimeWindow

__all__ = ["Breaker", "BreakerEvent", "Circuit", "CircuitState", "Circuits"]


class CircuitState(Enum):
    """What a circuit does with calls.

    =============  ==================  ==========================================================  =============
    from           event               condition                                                   to
    =============  ==================  ==========================================================  =============
    CLOSED         result of a call    ``min_calls`` in the window, more than ``failure_rate`` of  OPEN
                                       them failed or more than ``slow_rate`` were slow
    OPEN           a call comes        its time is over; the call is a probe                       HALF_OPEN
    HALF_OPEN      a probe succeeds    it is number ``probe_successes``                            CLOSED
    HALF_OPEN      a probe fails, or   ``probe_successes`` can no longer be reached                OPEN, longer
                   is slow
    HALF_OPEN      a call comes        no probe is left, and the last one began                    HALF_OPEN, with
                                       ``half_open_timeout`` ago                                   new probes
    any            forced open                                                                     FORCED_OPEN
    any            forced closed                                                                   FORCED_CLOSED
    any            forced off                                                                      OFF
    a forced one   forced no more                                                                  CLOSED
    =============  ==================  ==========================================================  =============

    Whatever enters CLOSED begins with an empty window and with ``open_for`` as the next open time.
    """

    CLOSED = "closed"
    """Calls pass, and are judged."""

    OPEN = "open"
    """No call passes."""

    HALF_OPEN = "half-open"
    """A few calls pass, and what becomes of them decides."""

    FORCED_OPEN = "forced-open"
    """No call passes until somebody says otherwise."""

    FORCED_CLOSED = "forced-closed"
    """All calls pass and are counted; nothing opens it."""

    OFF = "off"
    """All calls pass, and their outcomes are not looked at."""


# as globals they cost less than half of what members of the enum do
_CLOSED, _OPEN, _HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
_FORCED_OPEN, _FORCED_CLOSED, _OFF = CircuitState.FORCED_OPEN, CircuitState.FORCED_CLOSED, CircuitState.OFF
_FORCED = {"open": _FORCED_OPEN, "closed": _FORCED_CLOSED, "off": _OFF}

TINY = 1e-9
"""Of calls: what is left of a rate times a number of calls by rounding."""

CLOCK_TOLERANCE = 1e-6
"""Seconds by which the start of a call, which is computed, may be before the moment it was admitted at."""


@dataclass(frozen=True, slots=True)
class BreakerEvent:
    """A circuit changed: at ``at``, of ``target``, from ``before`` to ``after``, and why, in one line with figures."""

    at: float
    target: str
    before: CircuitState
    after: CircuitState
    why: str


@dataclass(frozen=True, slots=True)
class Breaker:
    """When circuits open, and how they close again (Nygard, "Release It!", 2007, Circuit Breaker).

    :param failure_rate: a share; when more of the calls in the window failed it opens. 1.0: when all of them did. The
        default is a half: with two tries per call, three calls of four still get through below it.
    :param slow_rate: the same for calls that took longer than ``slow_after``; slow ones that failed are among them.
    :param slow_after: seconds; None (default): no call is slow, since only the owner knows what slow is. Slow probes
        count as failed ones.
    :param min_calls: calls in the window below which nothing is decided, at least 1. 20: with fewer, half of them may
        fail by chance alone.
    :param window: seconds of which calls count, to a tenth of it. 60: longer than a hiccup, soon over.
    :param calls: so many last calls count instead, however long ago they were; at least ``min_calls``. None: a window
        of time, because at low traffic yesterday's failures say nothing.
    :param open_for: seconds that it stays open at first. 30: time to restart a process.
    :param open_factor: each further time it opens without having been closed, it stays open so many times longer; at
        least 1.
    :param open_cap: and so long at most, at least ``open_for``. 300: an outage that is over is noticed within minutes.
    :param probes: calls that try a half-open target, at least 1; further ones are refused until these have decided.
    :param probe_successes: how many of the probes must succeed to close it, from 1 to ``probes``. 2 of 3: neither one
        answer by luck nor one failure by bad luck decides.
    :param half_open_timeout: seconds from the beginning of the last probe, after which those that have no verdict are
        given up and others may try. 60: longer than most calls may take.
    :raises ValueError: a value is out of its bounds.

    A half-open target gets ``probes`` calls in all, not ``probes`` at a time; calls without a verdict are not counted.
    """

    failure_rate: float = 0.5
    slow_rate: float = 1.0
    slow_after: float | None = None
    min_calls: int = 20
    window: float = 60.0
    calls: int | None = None
    open_for: float = 30.0
    open_factor: float = 2.0
    open_cap: float = 300.0
    probes: int = 3
    probe_successes: int = 2
    half_open_timeout: float = 60.0

    def __post_init__(self) -> None:
        for name in ("failure_rate", "slow_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} {getattr(self, name)}: must be from 0 to 1")
        for name in ("window", "open_for", "half_open_timeout"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)}: must be above 0, and finite")
        if self.slow_after is not None and not self.slow_after > 0.0:
            raise ValueError(f"slow_after {self.slow_after}: must be above 0")
        if self.min_calls < 1:
            raise ValueError(f"min_calls {self.min_calls}: must be at least 1")
        if self.calls is not None and self.calls < self.min_calls:
            raise ValueError(f"calls {self.calls}: must be at least min_calls, which is {self.min_calls}")
        if not 1.0 <= self.open_factor < math.inf:
            raise ValueError(f"open_factor {self.open_factor}: must be at least 1, and finite")
        if not self.open_for <= self.open_cap < math.inf:
            raise ValueError(
                f"open_cap {self.open_cap}: must be at least open_for, which is {self.open_for}, and finite"
            )
        if self.probes < 1:
            raise ValueError(f"probes {self.probes}: must be at least 1")
        if not 1 <= self.probe_successes <= self.probes:
            raise ValueError(
                f"probe_successes {self.probe_successes}: must be from 1 to probes, which is {self.probes}"
            )


class Circuit:
    """The state of one target: what its calls came to lately, and whether more of them are let through.

    :param rules: when it opens and closes.
    :param name: the target, for events and messages.
    :param on_event: is told of each change of state once it has happened.
    :param enabled: False: all calls pass, and the state stays as it is. May be set at any time.
    :ivar state: what it does now. An open circuit stays that until a call comes after its time.
    :ivar since: when ``state`` began; 0.0 at first.

    After :meth:`admit` returned None, exactly one of :meth:`success`, :meth:`failure` and :meth:`undecided` is called.
    Their ``seconds`` is how long ago the call was admitted. By it results of calls from before the circuit opened are
    told from those of probes: the former come late and decide nothing. The limit between them is half-way through the
    open time, when no call began, so an owner may be wrong by so much.
    """

    __slots__ = (
        "_admissible_since",
        "_closing",
        "_detail",
        "_failed_probes",
        "_failure_rate",
        "_good_probes",
        "_min_calls",
        "_on_event",
        "_open_for",
        "_probing",
        "_slow_after",
        "_until",
        "abandoned",
        "admitted",
        "enabled",
        "failed",
        "late",
        "name",
        "opened",
        "refused_forced_open",
        "refused_half_open",
        "refused_open",
        "rules",
        "since",
        "slow",
        "state",
        "succeeded",
        "undecided_calls",
        "window",
    )

    def __init__(
        self,
        rules: Breaker,
        name: str = "",
        on_event: Callable[[BreakerEvent], None] | None = None,
        *,
        enabled: bool = True,
    ) -> None:
        self.rules = rules
        self.name = name
        self.enabled = enabled
        self.state = CircuitState.CLOSED
        self.since = 0.0
        self.window: CountWindow | TimeWindow = CountWindow(rules.calls) if rules.calls else TimeWindow(rules.window)
        self._on_event = on_event
        self._min_calls = rules.min_calls  # this and the next two are of the hot path
        self._failure_rate = rules.failure_rate
        self._slow_after = math.inf if rules.slow_after is None else rules.slow_after
        self._admissible_since = -math.inf  # a call that began before this decides nothing
        self._open_for = rules.open_for  # seconds, the next time it opens
        self._until = 0.0  # OPEN: when it may be tried; HALF_OPEN: when the probes that are out are given up
        self._detail = ""  # of refusals in this state
        self._probing = self._good_probes = self._failed_probes = 0
        self.admitted = self.succeeded = self.failed = self.slow = self.undecided_calls = 0
        self.late = self.abandoned = self.opened = 0
        self.refused_open = self.refused_half_open = self.refused_forced_open = 0

    def admit(self, now: float) -> Refused | None:
        """Whether a call may go there now: None if so."""
        if self.state is not _CLOSED and self.enabled:
            refused = self._admit_not_closed(now)
            if refused is not None:
                return refused
        self.admitted += 1
        return None

    def success(self, seconds: float, now: float) -> None:
        """A call that was admitted ``seconds`` ago came to a good end."""
        self.succeeded += 1
        slow = seconds > self._slow_after
        if slow:
            self.slow += 1
        if self.state is _CLOSED and now - seconds >= self._admissible_since:
            window = self.window
            window.record(False, slow, now)
            if window.failures or window.slow:
                self._judge(now)
        else:
            self._result(False, slow, seconds, now)

    def failure(self, seconds: float, now: float) -> None:
        """A call that was admitted ``seconds`` ago failed, in a way that speaks against the target."""
        self.failed += 1
        slow = seconds > self._slow_after
        if slow:
            self.slow += 1
        if self.state is _CLOSED and now - seconds >= self._admissible_since:
            self.window.record(True, slow, now)
            self._judge(now)
        else:
            self._result(True, slow, seconds, now)

    def undecided(self, now: float, seconds: float = 0.0) -> None:
        """A call ended without a verdict: it was cancelled, or failed by no fault of the target.

        :param seconds: how long ago it was admitted. When it is not said, a half-open circuit takes the call for one of
            its probes, and may let one more try.
        """
        self.undecided_calls += 1
        if self.state is _HALF_OPEN and self._probing and now - seconds >= self._admissible_since:
            self._probing -= 1

    def force(self, to: Literal["open", "closed", "off"] | None, now: float) -> None:
        """Decide by hand; None gives it back to its rules, closed.

        :raises ValueError: ``to`` is something else.
        """
        if to is not None and to not in _FORCED:
            raise ValueError(f"force {to!r}: must be open, closed, off, or None")
        state = _CLOSED if to is None else _FORCED[to]
        if self.state is state or (to is None and self.state not in _FORCED.values()):
            return
        self._admissible_since = now - CLOCK_TOLERANCE
        self._begin(state, now, "no longer forced" if to is None else "forced")

    def statistics(self) -> dict[str, Any]:
        """The state since when, the window as of the last result, and counts since the beginning."""
        window = self.window
        return {
            "state": self.state.value,
            "since": self.since,
            "enabled": self.enabled,
            "window": {"calls": window.calls, "failures": window.failures, "slow": window.slow},
            "admitted": self.admitted,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "slow": self.slow,
            "undecided": self.undecided_calls,
            "late": self.late,
            "abandoned": self.abandoned,
            "opened": self.opened,
            "refused": {
                "open": self.refused_open,
                "half-open": self.refused_half_open,
                "forced-open": self.refused_forced_open,
            },
        }

    def _admit_not_closed(self, now: float) -> Refused | None:
        state = self.state
        if state is _OPEN:
            if now < self._until:
                self.refused_open += 1
                return Refused("breaker", "open", self._detail, self._until - now)
            self._begin(_HALF_OPEN, now, f"it was open for {now - self.since:.3g} s")
            return self._admit_not_closed(now)  # whoever was told may have forced it
        if state is not _HALF_OPEN:
            if state is not _FORCED_OPEN:
                return None
            self.refused_forced_open += 1
            return Refused("breaker", "forced-open", self._detail)
        rules = self.rules
        if self._probing + self._good_probes + self._failed_probes >= rules.probes:
            if now < self._until:
                self.refused_half_open += 1
                return Refused("breaker", "half-open", self._detail)
            # their results, if they come after all, are told from those of new probes as after any open time
            self._admissible_since = self._until - rules.half_open_timeout / 2
            self.abandoned += self._probing
            self._probing = 0
        self._probing += 1
        self._until = now + rules.half_open_timeout
        return None

    def _result(self, failed: bool, slow: bool, seconds: float, now: float) -> None:
        """A result that came late, or in another state than closed."""
        state = self.state
        if now - seconds < self._admissible_since:
            self.late += 1
        elif state is _FORCED_CLOSED:
            self.window.record(failed, slow, now)
        elif state is _HALF_OPEN and self._probing:
            self._probing -= 1
            if self.enabled:
                self._judge_probe(failed or slow, now)
        elif state is not _OFF:
            self.late += 1

    def _judge(self, now: float) -> None:
        window = self.window
        calls = window.calls
        if calls < self._min_calls:
            return
        failures, slow, rules = window.failures, window.slow, self.rules
        if failures - calls * self._failure_rate > TINY or failures == calls:
            what, count, rate = "failed", failures, rules.failure_rate
        elif slow and (slow - calls * rules.slow_rate > TINY or slow == calls):
            what, count, rate = f"took more than {rules.slow_after:.3g} s", slow, rules.slow_rate
        else:
            return
        if self.enabled:
            lately = f" of the last {rules.window:.3g} s" if rules.calls is None else ""
            limit = f"more than {rate:.3g}" if rate < 1.0 else "all"
            self._open(now, f"{count} of {calls} calls{lately} {what} (limit: {limit})")

    def _judge_probe(self, failed: bool, now: float) -> None:
        rules = self.rules
        if failed:
            self._failed_probes += 1
            if self._failed_probes > rules.probes - rules.probe_successes:
                self._open(now, f"{self._failed_probes} of {rules.probes} probes failed or were slow")
        else:
            self._good_probes += 1
            if self._good_probes >= rules.probe_successes:
                self._begin(_CLOSED, now, f"{self._good_probes} of {rules.probes} probes succeeded")

    def _open(self, now: float, why: str) -> None:
        seconds = self._open_for
        self._open_for = min(self.rules.open_cap, seconds * self.rules.open_factor)
        self._until = now + seconds
        self._admissible_since = now + seconds / 2  # see the class
        self.opened += 1
        self._begin(_OPEN, now, why)

    def _begin(self, state: CircuitState, now: float, why: str) -> None:
        before = self.state
        self.state = state
        self.since = now
        self._probing = self._good_probes = self._failed_probes = 0
        if state is _CLOSED or state is _FORCED_CLOSED:
            self.window.clear()
            self._open_for = self.rules.open_for
        self._detail = f"{self.name or 'the target'} is {state.value}: {why}"
        if self._on_event is not None:
            self._on_event(BreakerEvent(now, self.name, before, state, why))


class Circuits:
    """A circuit for each target, made when it is first asked for.

    :param rules: those of all of them.
    :param max_targets: circuits kept at most, at least 1. Past that one is forgotten of that half of them which was
        asked for longest ago: the oldest that is closed, or else the oldest. So those of targets that are gone for good
        do not stay for ever, open as they are, and those that are in use are kept.
    :param on_event: is told of each change of any of them.
    :param enabled: see :class:`Circuit`; setting it sets it for all.
    :ivar forgotten: how many were forgotten.
    :raises ValueError: ``max_targets`` is below 1.
    """

    __slots__ = ("_circuits", "_enabled", "_on_event", "forgotten", "max_targets", "rules")

    def __init__(
        self,
        rules: Breaker,
        max_targets: int = 1000,
        on_event: Callable[[BreakerEvent], None] | None = None,
        *,
        enabled: bool = True,
    ) -> None:
        if max_targets < 1:
            raise ValueError(f"max_targets {max_targets}: must be at least 1")
        self.rules = rules
        self.max_targets = max_targets
        self.forgotten = 0
        self._on_event = on_event
        self._enabled = enabled
        self._circuits: OrderedDict[str, Circuit] = OrderedDict()  # the one asked for last is last

    def __len__(self) -> int:
        return len(self._circuits)

    def __iter__(self) -> Iterator[Circuit]:
        return iter(self._circuits.values())

    @property
    def enabled(self) -> bool:
        """Whether circuits refuse anything."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled = value
        for circuit in self:
            circuit.enabled = value

    def of(self, target: str) -> Circuit:
        """The circuit of ``target``."""
        circuits = self._circuits
        circuit = circuits.get(target)
        if circuit is not None:
            circuits.move_to_end(target)
            return circuit
        if len(circuits) >= self.max_targets:
            old = islice(circuits.items(), (self.max_targets + 1) // 2)
            oldest = next(iter(circuits))
            del circuits[next((name for name, other in old if other.state is _CLOSED), oldest)]
            self.forgotten += 1
        circuit = circuits[target] = Circuit(self.rules, target, self._on_event, enabled=self._enabled)
        return circuit

    def statistics(self) -> dict[str, Any]:
        """How many there are in each state, how many were forgotten, and the statistics of each."""
        return {
            "enabled": self._enabled,
            "targets": len(self._circuits),
            "forgotten": self.forgotten,
            "states": dict(Counter(circuit.state.value for circuit in self)),
            "circuits": {name: circuit.statistics() for name, circuit in self._circuits.items()},
        }
