"""Whether work that failed may be tried again."""

from __future__ import annotations

import asyncio
import random
from math import inf
from typing import Any

import pytest

from forebay.errors import (
    CircuitOpen,
    ConnectFailed,
    HTTPError,
    Overloaded,
    RetryClass,
    TLSFailed,
    UpstreamClosed,
    UpstreamProtocolError,
)
from forebay.policy.backoff import Backoff
from forebay.policy.budget import RetryBudget
from forebay.policy.retry import IDEMPOTENT, Again, Retry

PLAIN = Backoff(jitter="none")


def decide(rules: Retry, error: BaseException | None, **given: Any) -> Again:
    """What the rules say: of the first try of a GET that failed just now, unless it is said otherwise."""
    arguments: dict[str, Any] = {"method": "GET", "attempt": 1, "began": 100.0, "now": 100.0, "budget": None} | given
    return rules.decide(error=error, **arguments)


@pytest.mark.parametrize(
    ("error", "method", "reason"),
    [
        (ConnectFailed("refused"), "POST", "retry"),
        (ConnectFailed("refused"), "GET", "retry"),
        (UpstreamClosed("ended"), "GET", "retry"),
        (UpstreamClosed("ended"), "PUT", "retry"),
        (UpstreamClosed("ended"), "POST", "not-idempotent"),
        (UpstreamClosed("ended"), "PATCH", "not-idempotent"),
        (UpstreamClosed("ended"), "", "not-idempotent"),
        (UpstreamClosed("ended before it was sent", retry=RetryClass.SAFE), "POST", "retry"),
        (UpstreamProtocolError("garbage"), "GET", "not-retryable"),
        (TLSFailed("expired"), "GET", "not-retryable"),
    ],
)
def test_the_class_of_the_error_and_the_method_decide(error: Exception, method: str, reason: str) -> None:
    """Safe: any method. Maybe: idempotent ones. Never: none."""
    verdict = decide(Retry(attempts=2), error, method=method)
    assert verdict.reason == reason
    assert verdict.again is (reason == "retry")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionResetError(), "retry"),
        (TimeoutError(), "retry"),
        (OSError("no such name"), "not-retryable"),
        (ValueError("a mistake"), "not-retryable"),
        (KeyError("another"), "not-retryable"),
    ],
)
def test_errors_of_others(error: Exception, reason: str) -> None:
    """Broken connections and time that ran out are tried again, when the work is idempotent; what is unknown is not."""
    assert decide(Retry(), error).reason == reason
    assert not decide(Retry(), error, method="POST").again


def test_other_errors_can_be_named() -> None:
    """They may have been processed; an own error that says never is one of them when it is named."""
    rules = Retry(on=(OSError, UpstreamProtocolError))
    assert decide(rules, OSError("no such name")).again
    assert decide(rules, OSError("no such name"), method="POST").reason == "not-idempotent"
    assert decide(rules, UpstreamProtocolError("garbage")).again
    assert decide(rules, TimeoutError()).again, "which is an OSError"
    assert decide(rules, ValueError()).reason == "not-retryable"
    assert decide(rules, ConnectFailed("refused"), method="POST").again, "safe stays safe"


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_what_was_told_to_stop_stops(error: BaseException) -> None:
    """Whatever the rules, and whatever else there is."""
    rules = Retry(on=(Exception,))
    assert decide(rules, error, status=503, idempotent=True) == (False, 0.0, "cancelled")


@pytest.mark.parametrize(
    ("status", "method", "reason"),
    [
        (503, "GET", "retry"),
        (502, "PUT", "retry"),
        (504, "GET", "retry"),
        (503, "POST", "not-idempotent"),
        (429, "GET", "retry"),
        (429, "POST", "retry"),
        (500, "GET", "not-retryable"),
        (404, "GET", "not-retryable"),
        (200, "GET", "success"),
        (304, "GET", "success"),
        (None, "GET", "success"),
    ],
)
def test_the_status_of_an_answer_decides(status: int | None, method: str, reason: str) -> None:
    """Those of the rules; only 429 says that nothing was done."""
    assert decide(Retry(), None, status=status, method=method).reason == reason


def test_an_error_and_a_status() -> None:
    """An error that knows is believed; for one that says never, the status of its answer speaks."""
    assert decide(Retry(), HTTPError(503), status=503, method="POST").again, "raised before anything was done"
    assert decide(Retry(), HTTPError(502), status=502).again
    assert decide(Retry(), HTTPError(502)).reason == "not-retryable"
    assert decide(Retry(), HTTPError(404), status=404).reason == "not-retryable"
    assert decide(Retry(), ValueError("not JSON"), status=200).reason == "not-retryable"


def test_work_that_says_whether_it_is_idempotent() -> None:
    """It knows better than its method."""
    error = UpstreamClosed("ended")
    assert decide(Retry(), error, method="POST", idempotent=True).again
    assert decide(Retry(), error, method="", idempotent=True).again
    assert decide(Retry(), error, method="GET", idempotent=False).reason == "not-idempotent"
    assert decide(Retry(methods=IDEMPOTENT | {"REPORT"}), error, method="REPORT").again


def test_attempts_are_counted_with_the_first() -> None:
    """Three attempts are two retries; one is none; a try that does not count is number 0."""
    error = ConnectFailed("refused")
    assert [decide(Retry(3), error, attempt=n).reason for n in (1, 2, 3, 4)] == [
        "retry",
        "retry",
        "attempts",
        "attempts",
    ]
    assert decide(Retry(1), error).reason == "attempts"
    assert decide(Retry(1), error, attempt=0).again
    assert decide(Retry(1), ValueError()).reason == "not-retryable", "which is why, and not that it was the last"


def test_the_wait_is_the_backoffs() -> None:
    """With its jitter, from the source that is given; and no backoff is no wait."""
    error = ConnectFailed("refused")
    waits = [decide(Retry(9, PLAIN), error, attempt=n).delay for n in (1, 2, 3)]
    assert waits == pytest.approx([0.1, 0.2, 0.4])
    assert decide(Retry(2, None), error).delay == 0.0
    backoff = Backoff(jitter="decorrelated")
    drawn = decide(Retry(2, backoff), error, previous=3.0, source=random.Random(7)).delay
    assert drawn == backoff.draw(0, 3.0, random.Random(7))


def test_retry_after_is_the_least_wait() -> None:
    """The backoff comes on top, so that not all who were told the same moment come in it."""
    rules = Retry(backoff=PLAIN)
    assert decide(rules, None, status=503, retry_after=5.0).delay == pytest.approx(5.1)
    assert decide(rules, None, status=503, retry_after=-5.0).delay == pytest.approx(0.1)
    waits = {decide(Retry(), None, status=503, retry_after=5.0).delay for _ in range(50)}
    assert min(waits) >= 5.0
    assert len(waits) > 40
    assert decide(Retry(backoff=PLAIN, respect_retry_after=False), None, status=503, retry_after=5.0).delay < 1


def test_a_retry_after_that_nobody_waits_for() -> None:
    """It is not tried earlier either: that is what the answer asked for."""
    rules = Retry(max_retry_after=10.0)
    assert decide(rules, None, status=429, retry_after=10.0).again
    assert decide(rules, None, status=429, retry_after=10.1) == (False, 0.0, "retry-after-too-long")
    assert decide(rules, None, status=429, retry_after=inf).reason == "retry-after-too-long"


def test_errors_that_say_when() -> None:
    """A breaker and a limiter know when it is worth another try; who tries elsewhere need not wait for them."""
    rules = Retry(backoff=PLAIN)
    assert decide(rules, CircuitOpen("open", retry_after=4.0)).delay == pytest.approx(4.1)
    assert decide(rules, Overloaded("rate", "too much", retry_after=2.0)).delay == pytest.approx(2.1)
    assert decide(rules, Overloaded("rate", "too much")).delay == pytest.approx(0.1)
    assert decide(rules, CircuitOpen("open", retry_after=60.0)).reason == "retry-after-too-long"
    assert decide(rules, CircuitOpen("open", retry_after=60.0), retry_after=0.0).delay == pytest.approx(0.1)


def test_the_total_time() -> None:
    """The last try begins within it, counted from when the first one began."""
    rules = Retry(9, PLAIN, total=2.0)
    error = ConnectFailed("refused")
    assert decide(rules, error, began=100.0, now=101.8).again
    assert decide(rules, error, began=100.0, now=101.95).reason == "total"
    assert decide(rules, error, began=100.0, now=101.5, retry_after=1.0).reason == "total"


def test_no_try_begins_past_the_deadline() -> None:
    """Nobody would hear its answer; so nobody waits for its beginning either."""
    rules = Retry(9, PLAIN)
    error = ConnectFailed("refused")
    assert decide(rules, error, deadline=100.2).again
    assert decide(rules, error, deadline=100.1).reason == "deadline"
    assert decide(rules, error, deadline=99.0).reason == "deadline"
    assert decide(Retry(9, None), error, deadline=100.0).reason == "deadline"


def test_the_budget_is_asked_last() -> None:
    """What is not tried again anyway takes nothing from it."""
    budget = RetryBudget(0.0, min_per_second=0.1, window=10.0)  # one
    rules = Retry(3, PLAIN)
    assert decide(rules, ValueError(), budget=budget).reason == "not-retryable"
    assert decide(rules, ConnectFailed("refused"), budget=budget, attempt=3).reason == "attempts"
    assert decide(rules, ConnectFailed("refused"), budget=budget, deadline=100.0).reason == "deadline"
    assert budget.retries == budget.refused == 0
    assert decide(rules, ConnectFailed("refused"), budget=budget).again
    assert decide(rules, ConnectFailed("refused"), budget=budget) == (False, 0.0, "budget")
    assert (budget.retries, budget.refused) == (1, 1)


def test_a_budget_by_the_rules() -> None:
    """Its share is theirs; there need not be one."""
    budget = Retry(budget_share=0.5).new_budget()
    assert budget is not None
    assert budget.share == 0.5
    assert Retry(budget_share=None).new_budget() is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"attempts": 0}, "attempts 0"),
        ({"total": 0.0}, "total 0.0"),
        ({"max_retry_after": -1.0}, "max_retry_after -1.0"),
        ({"total": float("nan")}, "total nan"),
        ({"max_retry_after": float("nan")}, "max_retry_after nan"),
        ({"budget_share": 1.5}, "budget_share 1.5"),
        ({"statuses": frozenset({200})}, "statuses 200"),
        ({"on": (asyncio.CancelledError,)}, "on CancelledError"),
        ({"on": (BaseException,)}, "on BaseException"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, Any], named: str) -> None:
    """A parameter out of its bounds is named."""
    with pytest.raises(ValueError, match=named):
        Retry(**arguments)
