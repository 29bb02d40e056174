"""When a call that is slow is made a second time, beside the first: the first answer wins."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from forebay.policy.budget import RetryBudget
from forebay.policy.quantiles import Quantiles
from forebay.policy.retry import IDEMPOTENT
from forebay.policy.verdict import Refused

__all__ = ["Hedge", "Hedger"]

_LOOK_EVERY = 0.25  # seconds: the quantile of a minute does not change faster than it matters


@dataclass(frozen=True, slots=True)
class Hedge:
    """When to send a second try ("The Tail at Scale", Dean and Barroso, Communications of the ACM 56(2), 2013).

    :param quantile: of the time calls take, above 0 and below 1, after which the second try goes. The paper's 0.95
        makes about one call of twenty twice, and cuts off what is slower than that by chance.
    :param min_delay: seconds, above 0; whatever calls take, the second try never goes earlier. Below a millisecond it
        is the caller that is slow.
    :param max_delay: seconds, at least ``min_delay``; whatever calls take, the second try never goes later.
    :param initial_delay: seconds, above 0, until enough is known, even past ``max_delay``. Longer than most calls take,
        so that guessing adds no load; ``inf``: there is no second try until then.
    :param min_calls: calls that are enough, at least 1. Of fewer than twenty the 95th percentile is the slowest.
    :param max_hedges: tries beside the first one, at least 1, each ``delay`` after the one before.
    :param window: seconds of calls that are looked at, above 0, and finite.
    :param methods: those that are idempotent, where nobody says it of the work itself.
    """

    quantile: float = 0.95
    min_delay: float = 0.001
    max_delay: float = 10.0
    initial_delay: float = 1.0
    min_calls: int = 20
    max_hedges: int = 1
    window: float = 60.0
    methods: frozenset[str] = IDEMPOTENT

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile {self.quantile}: must be above 0 and below 1")
        if not self.min_delay > 0:
            raise ValueError(f"min_delay {self.min_delay}: must be above 0")
        if not self.max_delay >= self.min_delay:
            raise ValueError(f"max_delay {self.max_delay}: must be at least min_delay, which is {self.min_delay}")
        if not self.initial_delay > 0:
            raise ValueError(f"initial_delay {self.initial_delay}: must be above 0")
        if self.min_calls < 1:
            raise ValueError(f"min_calls {self.min_calls}: must be at least 1")
        if self.max_hedges < 1:
            raise ValueError(f"max_hedges {self.max_hedges}: must be at least 1")
        if not 0 < self.window < inf:
            raise ValueError(f"window {self.window}: must be above 0, and finite")


class Hedger:
    """Hedging of the calls of one service.

    For each call: :meth:`delay` at its beginning; when so much time has passed without an answer, :meth:`hedge`, and
    the second try goes if that gives None; :meth:`answered` when the first answer came, whichever try it was of. A call
    that failed is reported to nobody: how long a failure takes says nothing of how long an answer does.

    :param budget: what second tries are taken from, shared with the retries of the same service; its deposits are made
        by whoever makes the calls. None: nothing bounds them but the quantile, which does not when everything gets
        slow.
    :param enabled: whether there are second tries; the times of calls go on being observed.
    """

    __slots__ = (
        "_delay",
        "_latencies",
        "_look_at",
        "budget",
        "calls",
        "enabled",
        "refused_by_budget",
        "refused_by_count",
        "rules",
        "sent",
        "won",
    )

    def __init__(self, rules: Hedge, budget: RetryBudget | None, *, enabled: bool = True) -> None:
        self.rules = rules
        self.budget = budget
        self.enabled = enabled
        self.calls = self.sent = self.won = 0  # ever: calls that were answered, second tries, answers by those
        self.refused_by_budget = self.refused_by_count = 0
        self._latencies = Quantiles(rules.window)
        self._delay = rules.initial_delay
        self._look_at = -inf  # when the quantile is to be looked at again

    def delay(self, now: float, *, method: str = "", idempotent: bool | None = None) -> float:
        """Seconds after which a try beside the ones there are should go; ``inf``: none ever.

        :param idempotent: whether the work may be done twice; None: as ``method`` says, and without a method it may
            not.
        """
        if not self.enabled:
            return inf
        if not (method in self.rules.methods if idempotent is None else idempotent):
            return inf
        if now >= self._look_at:
            self._look(now)
        return self._delay

    def hedge(self, now: float, sent: int = 0) -> Refused | None:
        """The delay has passed without an answer. None when another try may go, and then it is counted.

        :param sent: tries of this call that went beside the first one already.
        """
        if not self.enabled:
            return Refused("hedge", "off", "hedging was turned off")
        if sent >= self.rules.max_hedges:
            self.refused_by_count += 1
            return Refused("hedge", "max-hedges", f"{sent} tries went beside the first, which is the most")
        if self.budget is not None and not self.budget.spend(now):
            self.refused_by_budget += 1
            return Refused("hedge", "budget", self.budget.detail)
        self.sent += 1
        return None

    def answered(self, seconds: float, now: float, *, winner: int = 0) -> None:
        """A call was answered.

        :param seconds: since its **first** try began, whichever try won. The first one would have taken at least as
            long: if the times of winners were looked at, each second try would make the next one come sooner.
        :param winner: which try it was: 0 the first, 1 and on those beside it.
        """
        self.calls += 1
        if winner:
            self.won += 1
        self._latencies.observe(seconds, now)

    def statistics(self) -> dict[str, Any]:
        """Counts, ever; and the delay as it was last."""
        return {
            "enabled": self.enabled,
            "calls": self.calls,
            "sent": self.sent,
            "won": self.won,
            "refused": {"budget": self.refused_by_budget, "max-hedges": self.refused_by_count},
            "delay": self._delay,
        }

    def _look(self, now: float) -> None:
        rules = self.rules
        self._look_at = now + _LOOK_EVERY
        if self._latencies.count(now) < rules.min_calls:
            self._delay = rules.initial_delay
        else:
            self._delay = min(max(self._latencies.quantile(rules.quantile, now), rules.min_delay), rules.max_delay)
