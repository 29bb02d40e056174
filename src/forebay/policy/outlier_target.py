"""One target as outlier detection sees it: its calls, its weight, how often it was out, and what became of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from forebay.policy.outlier_rules import OutlierRules
from forebay.policy.quantiles import Quantiles
from forebay.policy.windows import TimeWindow

__all__ = ["Change", "ObservedTarget"]


@dataclass(frozen=True, slots=True)
class Change:
    """Something became of a target.

    :ivar at: when, on the clock of the caller.
    :ivar what: ``lighter`` or ``heavier`` by a step; ``ejected``; ``kept``: it was to be ejected, and the cap forbids
        it; ``returned``: it is in use again, and slow start begins ``at``.
    :ivar factor: what its weight is to be multiplied with from now on; 0.0 while it is out.
    :ivar ejected: whether it is out.
    :ivar reason: why, in a short word that never changes: what is counted under.
    :ivar why: why, in one line for people, with figures.
    """

    name: str
    at: float
    what: Literal["lighter", "heavier", "ejected", "kept", "returned"]
    factor: float
    ejected: bool
    reason: str
    why: str


class ObservedTarget:
    """What is known of a target. The rules are applied by :class:`~forebay.policy.outliers.Outliers`."""

    __slots__ = (
        "calls",
        "ejected",
        "ejections",
        "failures",
        "good_since",
        "history",
        "kept",
        "latency",
        "level",
        "name",
        "offences",
        "quantile",
        "returned_at",
        "rules",
        "run",
        "stepped_at",
        "timed",
        "until",
        "window",
        "worst_run",
    )

    def __init__(self, name: str, rules: OutlierRules, now: float, history: int) -> None:
        self.name = name
        self.rules = rules
        self.history: deque[Change] = deque(maxlen=history)
        self.level = 0  # steps down; 0: full weight
        self.stepped_at = -inf
        self.kept = ""  # the reason for which it would be out, but for the cap
        self.ejected = False
        self.until = 0.0  # while ejected: when it comes back
        self.ejections = 0  # ever
        self.offences = 0  # ejections not forgotten: by so many doublings the next one is longer
        self.good_since = now  # since when it has been in use with full weight; inf: it is not
        self.returned_at: float | None = None
        # as of the last measurement
        self.calls = 0
        self.failures = 0
        self.timed = 0  # calls whose latency counts
        self.quantile = 0.0  # seconds; 0.0: too few calls
        self.window = TimeWindow(rules.window)
        self.latency = Quantiles(rules.window)
        self.run = self.worst_run = 0  # failures in a row: now, and at most since the last measurement

    @property
    def factor(self) -> float:
        """What its weight is multiplied with."""
        if self.ejected:
            return 0.0
        return self.rules.steps[self.level - 1] if self.level else 1.0

    @property
    def error_rate(self) -> float:
        """The share of its calls that failed, as of the last measurement."""
        return self.failures / self.calls if self.calls else 0.0

    def measure(self, now: float) -> None:
        """Bring the figures up to date."""
        window, latency = self.window, self.latency
        window.advance(now)
        self.calls = window.calls
        self.failures = window.failures
        self.timed = latency.count(now)
        enough = self.timed >= self.rules.latency_calls
        self.quantile = latency.quantile(self.rules.latency_quantile, now) if enough else 0.0

    def step_to(self, level: int, now: float) -> None:
        """Give it the weight of that many steps down."""
        self.forgive(now)
        self.level = level
        self.stepped_at = now
        self.good_since = inf if level else now
        self.latency.clear()  # the next step is judged by what this one does

    def eject(self, now: float) -> float:
        """Take it out. For how many seconds."""
        self.forgive(now)
        rules = self.rules
        seconds: float = min(rules.ejection_cap, rules.ejection_time * 2.0**self.offences)
        if seconds < rules.ejection_cap:
            self.offences += 1
        self.ejected = True
        self.ejections += 1
        self.until = now + seconds
        self.good_since = inf
        self.kept = ""
        return seconds

    def bring_back(self, now: float) -> None:
        """Use it again, with full weight; its calls before are not held against it."""
        self.ejected = False
        self.returned_at = self.good_since = self.stepped_at = now
        self.level = 0
        self.kept = ""
        self.window.clear()
        self.latency.clear()
        self.run = self.worst_run = 0

    def forgive(self, now: float) -> None:
        """Forget an ejection for each ``good_time`` in use."""
        if self.offences and now > self.good_since:
            forgotten = int((now - self.good_since) / self.rules.good_time)
            self.good_since += forgotten * self.rules.good_time
            self.offences = max(0, self.offences - forgotten)

    def latency_said(self) -> str:
        """``p99 3.1 s``; no digits beyond what a quantile is good for."""
        return f"p{self.rules.latency_quantile * 100:g} {self.quantile:.2g} s"

    def why(self, now: float) -> str:
        """How it stands, and why, with figures."""
        last = self.history[-1] if self.history else None
        if last is not None and self.ejected:
            return f"ejected, back in {max(0.0, self.until - now):.0f} s: {last.why}"
        if last is not None and self.level:
            return f"weight x {self.factor:g} for {now - self.stepped_at:.0f} s: {last.why}"
        self.measure(now)
        said = f"in use: {self.failures} of {self.calls} calls failed within {self.rules.window:g} s"
        if self.quantile:
            said += f", {self.latency_said()}"
        if last is not None:
            said += f"; {last.what} {now - last.at:.0f} s ago: {last.why}"
        return said

    def statistics(self) -> dict[str, Any]:
        """Figures as of the last measurement."""
        return {
            "factor": self.factor,
            "ejected": self.ejected,
            "ejections": self.ejections,
            "calls": self.calls,
            "failures": self.failures,
            "latency": self.quantile,
            "why": self.history[-1].why if self.history else "",
        }
