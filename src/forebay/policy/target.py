"""One target: how it stands, what is counted of it, and what became of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from forebay.policy.balance import Member
from forebay.policy.health import ActiveHealth, PassiveHealth

__all__ = ["Target", "TargetEvent", "TargetState"]

_MAX_REASONS = 32


class TargetState(StrEnum):
    """How a target stands. The first three are healthy."""

    UP = "up"
    STARTING = "slow start"  # it has joined or come back: less than its weight
    WEAKENED = "weakened"  # it does badly next to the others: less than its weight
    PROBING = "probing"  # it was ejected: one request may try it, or does
    EJECTED = "ejected"  # for what became of requests
    DOWN = "down"  # health checks say so


@dataclass(frozen=True, slots=True)
class TargetEvent:
    """A change of state.

    :ivar target: its name; empty: the group as a whole, which goes from ``normal`` to ``panic`` and back.
    :ivar why: in one line for people, with figures.
    """

    at: float
    target: str
    before: str
    after: str
    why: str


class Target(Member):
    """One server of a group. Those who dial make a subclass, with the address and the connections.

    :param zone: where it is; empty: not known.
    :param backup: used only while no other can be.
    :param passive: its own, by default 1 failure for 10 seconds.
    :param active: its own, by default 3 bad checks in a row, and 2 good ones.
    :param history: changes of state that are kept, the newest.

    Attributes are read by anybody, and written by the :class:`~forebay.policy.targets.Targets` it belongs to.
    """

    __slots__ = (
        "active",
        "backup",
        "cause",
        "changes",
        "ejected",
        "ejections",
        "factor",
        "failures",
        "gone",
        "joined",
        "passive",
        "picks",
        "reachable",
        "slow_share",
        "state",
        "zone",
    )

    def __init__(
        self,
        name: str,
        weight: int = 1,
        *,
        zone: str = "",
        backup: bool = False,
        passive: PassiveHealth | None = None,
        active: ActiveHealth | None = None,
        history: int = 32,
    ) -> None:
        super().__init__(name, weight)
        if not name:
            raise ValueError("name '': must say which target it is")
        if history < 1:
            raise ValueError(f"history {history}: must be at least 1")
        self.zone = zone
        self.backup = backup
        self.passive = passive or PassiveHealth()
        self.active = active or ActiveHealth()
        self.state = TargetState.UP
        self.cause = ""  # of how it stands
        self.changes: deque[TargetEvent] = deque(maxlen=history)
        self.ejected = False  # by outlier detection
        self.factor = 1.0  # of its weight, by outlier detection
        self.joined = -float("inf")  # when slow start began
        self.slow_share = 1.0  # of its weight, by slow start
        self.reachable = True  # by a token: it is used, or would be in another zone
        self.gone = False  # it has left the group
        self.picks = 0
        self.ejections = 0
        self.failures: dict[str, int] = {}  # by reason

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} in_flight={self.in_flight} {self.state}>"

    @property
    def healthy(self) -> bool:
        """Whether nothing speaks against it but its weight."""
        return self.state in (TargetState.UP, TargetState.STARTING, TargetState.WEAKENED)

    def count_failure(self, reason: str) -> None:
        """Count under ``reason``; under ``other`` when there are too many of them."""
        failures = self.failures
        if reason not in failures and len(failures) >= _MAX_REASONS:
            reason = "other"
        failures[reason] = failures.get(reason, 0) + 1

    def configure(self, new: Target) -> None:
        """Be as configured as ``new`` is, and go on in the state that this one is in."""
        self.weight, self.zone, self.backup = new.weight, new.zone, new.backup
        passive, active = self.passive, self.active
        passive.max_fails, passive.fail_timeout = new.passive.max_fails, new.passive.fail_timeout
        if not passive.max_fails:
            passive.reset()
        active.rise, active.fall = new.active.rise, new.active.fall

    def adopt(self, old: Target) -> None:
        """Go on where ``old``, the same target in another group, has been: health, latency, counts. A probe that is
        under way there reports there."""
        passive, before = self.passive, old.passive
        passive.standing, passive.fails = before.standing, before.fails
        passive.since, passive.until = before.since, before.until
        passive.undecided()
        if not passive.max_fails or not passive.enabled:
            passive.reset()
        self.latency, self.latency_at = old.latency, old.latency_at  # turns are the balancer's, which is new
        self.joined, self.state, self.cause = old.joined, old.state, old.cause
        if old.active.up or self.active.enabled:
            self.active.up = old.active.up
        else:  # no check would bring it back
            self.cause = "it is not checked any more"
        self.picks, self.failures, self.ejections = old.picks, old.failures, old.ejections
        self.changes.extend(old.changes)

    def statistics(self) -> dict[str, Any]:
        """How it stands, and what is counted."""
        return {
            "state": str(self.state),
            "weight": self.weight,
            "share": self.share,
            "zone": self.zone,
            "backup": self.backup,
            "in_flight": self.in_flight,
            "latency": self.latency,
            "picks": self.picks,
            "failures": dict(self.failures),
            "ejections": self.ejections,
            "cause": self.cause,
        }
