"""When a slow call is made a second time."""

from __future__ import annotations

import json
import random
from math import inf, nan
from typing import Any

import pytest

from forebay.policy.budget import RetryBudget
from forebay.policy.hedge import Hedge, Hedger


def busy(hedger: Hedger, seconds: list[float], now: float = 100.0) -> Hedger:
    """One that has seen calls which took so long."""
    for each in seconds:
        hedger.answered(each, now)
    return hedger


def test_the_second_try_goes_after_the_observed_p95() -> None:
    """Of calls of 1 to 100 ms, after 95 ms, as exactly as latencies are kept."""
    hedger = busy(Hedger(Hedge(), None), [n / 1000 for n in range(1, 101)])
    assert hedger.delay(100.0, method="GET") == pytest.approx(0.095, rel=0.05)
    hedger = busy(Hedger(Hedge(quantile=0.5), None), [n / 1000 for n in range(1, 101)])
    assert hedger.delay(100.0, method="GET") == pytest.approx(0.05, rel=0.05)


def test_until_enough_is_known() -> None:
    """The initial delay; and again when all that was known is past."""
    hedger = busy(Hedger(Hedge(initial_delay=0.7, min_calls=20), None), [0.01] * 19)
    assert hedger.delay(100.0, idempotent=True) == 0.7
    hedger.answered(0.01, 100.0)
    assert hedger.delay(100.1, idempotent=True) == 0.7, "it is looked at now and then"
    assert hedger.delay(100.3, idempotent=True) == pytest.approx(0.01, rel=0.05)
    assert hedger.delay(300.0, idempotent=True) == 0.7


@pytest.mark.parametrize(("took", "delay"), [(0.0001, 0.02), (0.5, 0.3)])
def test_the_delay_has_bounds(took: float, delay: float) -> None:
    """Never earlier than the least, never later than the most."""
    hedger = busy(Hedger(Hedge(min_delay=0.02, max_delay=0.3), None), [took] * 50)
    assert hedger.delay(100.0, idempotent=True) == delay


@pytest.mark.parametrize(
    ("method", "idempotent", "hedged"),
    [
        ("GET", None, True),
        ("PUT", None, True),
        ("POST", None, False),
        ("", None, False),
        ("POST", True, True),
        ("", True, True),
        ("GET", False, False),
    ],
)
def test_only_idempotent_work(method: str, idempotent: bool | None, hedged: bool) -> None:
    """Other work would be done twice."""
    delay = Hedger(Hedge(), None).delay(0.0, method=method, idempotent=idempotent)
    assert (delay < inf) is hedged


def test_second_tries_come_from_the_budget() -> None:
    """The one of the retries: what one of them takes is not there for the other."""
    budget = RetryBudget(0.2, min_per_second=0)
    for _ in range(10):
        budget.deposit(0.0)
    hedger = Hedger(Hedge(), budget)
    assert hedger.hedge(0.0) is None
    assert budget.withdraw(0.0) is None
    refused = hedger.hedge(0.0)
    assert refused is not None
    assert (refused.policy, refused.reason) == ("hedge", "budget")
    assert hedger.statistics()["refused"] == {"budget": 1, "max-hedges": 0}
    assert (hedger.sent, budget.retries) == (1, 2)


def test_a_server_that_gets_slow_is_not_asked_twice_as_much() -> None:
    """All calls suddenly are slower than the delay; the budget lets a fifth of them go a second time."""
    budget = RetryBudget(0.2, min_per_second=0, window=1.0)
    hedger = busy(Hedger(Hedge(), budget), [0.01] * 1000, 0.0)
    sent = 0
    for call in range(1000):
        now = call / 1000
        budget.deposit(now)
        assert hedger.delay(now, idempotent=True) < 0.5
        sent += hedger.hedge(now) is None
    assert sent == 200


def test_so_many_tries_and_no_more() -> None:
    """One beside the first, or as many as the rules say."""
    refused = Hedger(Hedge(), None).hedge(0.0, sent=1)
    assert refused is not None
    assert refused.reason == "max-hedges"
    three = Hedger(Hedge(max_hedges=3), None)
    assert [three.hedge(0.0, sent=n) is None for n in range(5)] == [True, True, True, False, False]


def test_the_delay_does_not_creep() -> None:
    """Second tries that win hide how long first ones take; the delay stays at the 95th percentile all the same."""
    source = random.Random(8)
    hedger = Hedger(Hedge(window=10.0), None)
    delays = []
    for call in range(60_000):
        now = call / 1000
        first, second = source.expovariate(50.0), source.expovariate(50.0)  # 20 ms; p95 is 60 ms
        delay = hedger.delay(now, idempotent=True)
        if first > delay and hedger.hedge(now) is None and delay + second < first:
            hedger.answered(delay + second, now, winner=1)
        else:
            hedger.answered(first, now)
        delays.append(delay)
    assert all(0.055 < delay < 0.066 for delay in delays[5000:])
    assert hedger.sent / hedger.calls == pytest.approx(0.05, abs=0.01)
    assert 0 < hedger.won < hedger.sent


def test_switched_off() -> None:
    """No second tries; what calls take is still observed, so that it goes on well when it is switched on."""
    hedger = busy(Hedger(Hedge(), None, enabled=False), [0.01] * 50)
    assert hedger.delay(100.0, idempotent=True) == inf
    refused = hedger.hedge(100.0)
    assert refused is not None
    assert refused.reason == "off"
    hedger.enabled = True
    assert hedger.delay(100.0, idempotent=True) == pytest.approx(0.01, rel=0.05)


def test_statistics() -> None:
    """Plain values."""
    hedger = Hedger(Hedge(), None)
    hedger.hedge(0.0)
    hedger.answered(0.1, 0.1, winner=1)
    hedger.answered(0.1, 0.2)
    assert json.loads(json.dumps(hedger.statistics())) == {
        "enabled": True,
        "calls": 2,
        "sent": 1,
        "won": 1,
        "refused": {"budget": 0, "max-hedges": 0},
        "delay": 1.0,
    }


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"quantile": 1.0}, "quantile 1.0"),
        ({"min_delay": 0.0}, "min_delay 0.0"),
        ({"min_delay": 2.0, "max_delay": 1.0}, "max_delay 1.0"),
        ({"initial_delay": 0.0}, "initial_delay 0.0"),
        ({"min_calls": 0}, "min_calls 0"),
        ({"max_hedges": 0}, "max_hedges 0"),
        ({"window": 0.0}, "window 0.0"),
        ({"window": inf}, "window inf"),
        ({"min_delay": nan}, "min_delay nan"),
        ({"max_delay": nan}, "max_delay nan"),
        ({"initial_delay": nan}, "initial_delay nan"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, Any], named: str) -> None:
    """A parameter out of its bounds is named."""
    with pytest.raises(ValueError, match=named):
        Hedge(**arguments)
