"""Whether a target may be used."""

from __future__ import annotations

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
