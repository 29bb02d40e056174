"""Whether a target may be used."""

from __future__ import annotations

import json
from math import nan
from typing import Any

import pytest

from forebay.policy.health import ActiveHealth, PassiveHealth, Standing


def test_max_fails_within_the_window_take_it_out() -> None:
    """The third failure within ten seconds does; those before do not."""
    health = PassiveHealth(max_fails=3, fail_timeout=10.0)
    assert [health.failure(now) for now in (100.0, 105.0, 109.0)] == [False, False, True]
    assert not health.allows(110.0)
    assert not health.allows(118.9)
    assert health.allows(119.0)


def test_failures_further_apart_do_not_add_up() -> None:
    """A run is as long as fail_timeout, counted from its first failure."""
    health = PassiveHealth(max_fails=2, fail_timeout=10.0)
    assert [health.failure(now) for now in (100.0, 111.0, 122.0)] == [False, False, False]
    assert health.failure(131.0)


def test_successes_in_between_do_not_hide_failures() -> None:
    """A target that fails every other request is taken out."""
    health = PassiveHealth(max_fails=2, fail_timeout=10.0)
    health.failure(100.0)
    assert not health.success()
    assert health.failure(101.0)


def test_one_probe_at_a_time_brings_it_back() -> None:
    """After fail_timeout one request may try; meanwhile no other; its success ends the outage."""
    health = PassiveHealth(max_fails=1, fail_timeout=10.0)
    health.failure(100.0)
    assert health.allows(110.0)
    assert health.begin(110.0)
    assert health.standing is Standing.PROBING
    assert not health.allows(110.0)
    assert health.success()
    assert health.allows(110.0)
    assert not health.begin(110.0)


def test_a_failed_probe_begins_the_outage_again() -> None:
    """Another fail_timeout from the failed probe on."""
    health = PassiveHealth(max_fails=2, fail_timeout=10.0)
    health.failure(100.0)
    health.failure(100.0)
    assert not health.begin(105.0)
    health.begin(110.0)
    assert health.failure(111.0)
    assert not health.allows(120.9)
    assert health.allows(121.0)


def test_a_probe_without_a_verdict_lets_the_next_one_try() -> None:
    """When the client leaves, the target is neither good nor bad."""
    health = PassiveHealth(max_fails=1, fail_timeout=10.0)
    health.failure(100.0)
    health.begin(110.0)
    health.undecided()
    assert health.allows(110.0)
    assert health.begin(110.0)


def test_late_failures_of_a_target_that_is_out_change_nothing() -> None:
    """Requests sent before it went down do not extend the outage."""
    health = PassiveHealth(max_fails=1, fail_timeout=10.0)
    assert health.failure(100.0)
    assert not health.failure(105.0)
    assert health.allows(110.0)


def test_an_answer_of_a_target_that_is_out_brings_it_back() -> None:
    """It was asked for want of a better one, and answered."""
    health = PassiveHealth(max_fails=1, fail_timeout=10.0)
    health.failure(100.0)
    assert not health.begin(101.0)
    assert health.success()
    assert health.allows(101.0)


def test_max_fails_zero_is_never_out() -> None:
    """Zero turns it off."""
    health = PassiveHealth(max_fails=0, fail_timeout=10.0)
    assert not any(health.failure(100.0) for _ in range(100))
    assert health.allows(100.0)


def test_active_health_needs_runs() -> None:
    """fall bad ones in a row take it out, rise good ones in a row bring it back, a mixture does nothing."""
    health = ActiveHealth(rise=2, fall=3)
    results = [False, False, True, False, False, False, True, False, True, True]
    changed = [health.result(good) for good in results]
    assert [n for n, change in enumerate(changed) if change] == [5, 9]
    assert health.up


def test_active_health_says_down() -> None:
    """After fall bad ones it is not up."""
    health = ActiveHealth(rise=1, fall=2)
    assert [health.result(False), health.result(False)] == [False, True]
    assert not health.up


def test_what_took_it_out() -> None:
    """With figures and the last reason; a failed probe is added; nothing while it is up."""
    health = PassiveHealth(max_fails=3, fail_timeout=10.0)
    assert not health.why()
    for reason in ("timeout", "timeout", "connect-failed"):
        health.failure(100.0, reason)
    assert health.why() == "3 failures within 10 s: connect-failed"
    health.failure(101.0, "late")
    assert health.why() == "3 failures within 10 s: connect-failed"
    health.begin(110.0)
    health.failure(110.0, "timeout")
    assert health.why() == "3 failures within 10 s, 1 failed probe since: timeout"
    health.begin(120.0)
    health.success()
    assert not health.why()
    once = PassiveHealth()
    once.failure(100.0)
    assert once.why() == "1 failure within 10 s"


def test_switched_off_it_stays_up() -> None:
    """At once, and whatever comes; failures are counted all the same. Switched on, it begins anew."""
    health = PassiveHealth(max_fails=2, fail_timeout=10.0)
    health.failure(100.0)
    health.failure(100.0)
    health.enabled = False
    assert health.standing is Standing.UP
    assert not any(health.failure(100.0, "closed") for _ in range(5))
    assert health.allows(100.0)
    assert health.statistics()["failures"] == {"": 2, "closed": 5}
    health.enabled = True
    assert not health.failure(101.0)
    assert health.failure(101.0)
    assert not PassiveHealth(enabled=False).failure(100.0)


def test_passive_statistics() -> None:
    """How it stands, and what was counted; a reset does not take counts back."""
    health = PassiveHealth(max_fails=1, fail_timeout=10.0)
    health.failure(100.0, "timeout")
    health.begin(110.0)
    assert json.loads(json.dumps(health.statistics())) == {
        "enabled": True,
        "standing": "probing",
        "why": "1 failure within 10 s: timeout",
        "fails": 1,
        "failures": {"timeout": 1},
        "ejections": 1,
        "probes": 1,
        "returns": 0,
    }
    health.success()
    health.reset()
    assert health.statistics()["returns"] == 1
    assert health.statistics()["failures"] == {"timeout": 1}


def test_reasons_are_bounded() -> None:
    """A caller that invents a reason for each failure does not fill the memory."""
    health = PassiveHealth(max_fails=0)
    for n in range(1000):
        health.failure(100.0, f"reason {n}")
    failures = health.statistics()["failures"]
    assert len(failures) == 33
    assert sum(failures.values()) == 1000
    assert failures["other"] == 968


def test_why_checks_took_it_out() -> None:
    """How many in a row, as of now, and what the last one said."""
    health = ActiveHealth(rise=2, fall=3)
    for n in range(3):
        assert not health.why()
        health.result(False, f"status 50{n}")
    assert health.why() == "3 failed checks in a row: status 502"
    health.result(False, "no answer")
    assert health.why() == "4 failed checks in a row: no answer"
    health.result(True)
    assert health.why() == "4 failed checks in a row: no answer"  # one good one is not enough
    health.result(False)
    assert health.why() == "1 failed check in a row"
    taken_over = ActiveHealth()
    taken_over.up = False
    assert taken_over.why() == "checks failed"


def test_checks_without_effect() -> None:
    """Switched off it is up, at once; results are counted, and do not add up to anything when it is on again."""
    health = ActiveHealth(rise=1, fall=2)
    health.result(False)
    health.result(False)
    health.enabled = False
    assert health.up
    assert [health.result(False) for _ in range(3)] == [False] * 3
    health.enabled = True
    assert not health.result(False)
    assert health.result(False, "status 503")
    assert json.loads(json.dumps(health.statistics())) == {
        "enabled": True,
        "up": False,
        "why": "2 failed checks in a row: status 503",
        "good": 0,
        "bad": 7,
        "falls": 2,
        "rises": 0,
    }
    assert health.result(True)
    assert health.statistics()["rises"] == 1


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [
        (PassiveHealth, {"max_fails": -1}),
        (PassiveHealth, {"fail_timeout": -1.0}),
        (PassiveHealth, {"fail_timeout": nan}),
        (ActiveHealth, {"rise": 0}),
        (ActiveHealth, {"fall": 0}),
    ],
)
def test_nonsense_is_refused(kind: Any, bounds: dict[str, Any]) -> None:
    """With the name of what makes no sense."""
    with pytest.raises(ValueError, match=f"{next(iter(bounds))} .*: must be at least"):
        kind(**bounds)
