"""Decisions: what to do, given what is known and the time. No I/O, no clock, no waiting.

What most programs need is here, and is imported when it is first used; ``docs/resilience.md`` is the guide. The doing
halves, which wait and dial, are in :mod:`forebay.engine`: ``stack``, ``Slots``, ``Throttle``, ``Pool``, ``fail_after``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from forebay.policy.deadline import deadline  # at once: the module of this name would be found in its place

if TYPE_CHECKING:
    from forebay.policy.adaptive import Adaptive
    from forebay.policy.backoff import Backoff
    from forebay.policy.balance import Member, make_balancer
    from forebay.policy.breaker import Breaker, BreakerEvent, Circuit, Circuits, CircuitState
    from forebay.policy.budget import RetryBudget
    from forebay.policy.bulkhead import Bulkhead
    from forebay.policy.fallback import FAILURES, Fallback
    from forebay.policy.hashing import ConsistentHash
    from forebay.policy.hedge import Hedge
    from forebay.policy.limiters import GCRA, Limiter, SlidingWindow, TokenBucket, WarmUp
    from forebay.policy.limits import RateLimit
    from forebay.policy.maglev import Maglev
    from forebay.policy.outlier_rules import OutlierRules
    from forebay.policy.outlier_target import Change
    from forebay.policy.outliers import Outliers
    from forebay.policy.pool import PoolPlan
    from forebay.policy.pool_settings import PoolSettings
    from forebay.policy.priority import Priority
    from forebay.policy.quantiles import Quantiles
    from forebay.policy.retry import Again, Retry
    from forebay.policy.retry_after import parse_retry_after
    from forebay.policy.shedding import Shedding
    from forebay.policy.slow_start import SlowStart
    from forebay.policy.sticky import Sticky
    from forebay.policy.target import Target
    from forebay.policy.target_rules import TargetRules
    from forebay.policy.targets import Targets
    from forebay.policy.verdict import Refused

__all__ = [
    "FAILURES",
    "GCRA",
    "Adaptive",
    "Again",
    "Backoff",
    "Breaker",
    "BreakerEvent",
    "Bulkhead",
    "Change",
    "Circuit",
    "CircuitState",
    "Circuits",
    "ConsistentHash",
    "Fallback",
    "Hedge",
    "Limiter",
    "Maglev",
    "Member",
    "OutlierRules",
    "Outliers",
    "PoolPlan",
    "PoolSettings",
    "Priority",
    "Quantiles",
    "RateLimit",
    "Refused",
    "Retry",
    "RetryBudget",
    "Shedding",
    "SlidingWindow",
    "SlowStart",
    "Sticky",
    "Target",
    "TargetRules",
    "Targets",
    "TokenBucket",
    "WarmUp",
    "deadline",
    "make_balancer",
    "parse_retry_after",
]

_HOMES = {
    "Adaptive": "adaptive",
    "Again": "retry",
    "Backoff": "backoff",
    "Breaker": "breaker",
    "BreakerEvent": "breaker",
    "Bulkhead": "bulkhead",
    "Change": "outlier_target",
    "Circuit": "breaker",
    "CircuitState": "breaker",
    "Circuits": "breaker",
    "ConsistentHash": "hashing",
    "FAILURES": "fallback",
    "Fallback": "fallback",
    "GCRA": "limiters",
    "Hedge": "hedge",
    "Limiter": "limiters",
    "Maglev": "maglev",
    "Member": "balance",
    "OutlierRules": "outlier_rules",
    "Outliers": "outliers",
    "PoolPlan": "pool",
    "PoolSettings": "pool_settings",
    "Priority": "priority",
    "Quantiles": "quantiles",
    "RateLimit": "limits",
    "Refused": "verdict",
    "Retry": "retry",
    "RetryBudget": "budget",
    "Shedding": "shedding",
    "SlidingWindow": "limiters",
    "SlowStart": "slow_start",
    "Sticky": "sticky",
    "Target": "target",
    "TargetRules": "target_rules",
    "Targets": "targets",
    "TokenBucket": "limiters",
    "WarmUp": "limiters",
    "make_balancer": "balance",
    "parse_retry_after": "retry_after",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'forebay.policy' has no attribute {name!r}")
    found = getattr(import_module(f"forebay.policy.{_HOMES[name]}"), name)
    globals()[name] = found  # from now on without this call
    return found
