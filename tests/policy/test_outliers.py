"""Outliers of a group: who loses weight, who leaves, who comes back, and what is said about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import inf
from re import fullmatch
from typing import Any

import pytest

from forebay.policy.outliers import Change, OutlierRules, Outliers

SLOW = r"(3|3\.[0-3]|2\.9)"  # 3.1 s and 0.01 s, up to 5% off, as quantiles are
FAST = r"0\.(01|009\d|010\d)"


def group(count: int, rules: OutlierRules | None = None, **options: Any) -> Outliers:
    """Targets a, b, c, ... watched since 1000.0, a multiple of all widths of windows."""
    outliers = Outliers(rules or OutlierRules(), **options)
    for name in "abcdefghij"[:count]:
        outliers.add(name, 1000.0)
    return outliers


def calls(
    outliers: Outliers, names: str, now: float, good: int = 0, bad: int = 0, seconds: float = 0.01, slow: int = 0
) -> None:
    """``slow`` calls of 3.1 s, ``good`` and ``bad`` ones, never more than one bad one in a row if that can be."""
    for name in names:
        for _ in range(slow):
            outliers.observe(name, False, 3.1, now)
        for n in range(max(good, bad)):
            if n < bad:
                outliers.observe(name, True, seconds, now)
            if n < good:
                outliers.observe(name, False, seconds, now)


def brief(changes: Sequence[Change]) -> list[tuple[str, str, float, str]]:
    """Name, what, factor, reason."""
    return [(change.name, change.what, change.factor, change.reason) for change in changes]


def test_a_slow_target_loses_weight_then_leaves_then_returns() -> None:
    """Past a p99 of 2 s: half the weight, a quarter, none for 30 s, and back; each with its reason and figures."""
    outliers = group(4)
    seen: list[Change] = []
    ejected_at = 0.0
    for second in range(120):
        now = 1000.0 + second
        calls(outliers, "bcd", now, good=30)
        calls(outliers, "a", now, good=28, slow=0 if ejected_at else 2)
        changes = outliers.evaluate(now)
        seen += changes
        if any(change.ejected for change in changes):
            ejected_at = now
            assert outliers.factor("a") == 0.0
            assert outliers.why("a", now + 10).startswith("ejected, back in 20 s: p99")
    assert brief(seen) == [
        ("a", "lighter", 0.5, "latency"),
        ("a", "lighter", 0.25, "latency"),
        ("a", "ejected", 0.0, "latency"),
        ("a", "returned", 1.0, "time"),
    ]
    first, second_step, left, returned = seen
    assert fullmatch(f"p99 {SLOW} s past 2 s over 120 calls", first.why)
    assert second_step.at - first.at == 10.0
    assert left.at - second_step.at == 10.0
    assert left.why.endswith("calls; out for 30 s")
    assert returned.at == ejected_at + 30.0
    assert returned.why == "its time out is over"
    assert outliers.returned_at("a") == returned.at
    assert outliers.history("a") == tuple(seen)
    assert [outliers.history(name) for name in "bcd"] == [(), (), ()]
    assert "returned 66 s ago: its time out is over" in outliers.why("a", returned.at + 66)


def test_a_step_waits_for_what_the_last_one_does() -> None:
    """Slow calls from before a step do not count for the next one; a fast target gets its weight back by steps."""
    outliers = group(2)
    calls(outliers, "a", 1000.0, slow=100)
    assert brief(outliers.evaluate(1001.0)) == [("a", "lighter", 0.5, "latency")]
    assert outliers.evaluate(1010.9) == []
    calls(outliers, "a", 1010.0, good=100)
    changes = outliers.evaluate(1011.0)
    assert brief(changes) == [("a", "heavier", 1.0, "latency")]
    assert fullmatch(f"p99 {FAST} s over 100 calls: not too slow now", changes[0].why)


def test_too_few_calls_are_no_reason_to_stay_light() -> None:
    """Without enough calls to judge by, a step is taken back after a whole window."""
    outliers = group(2)
    calls(outliers, "a", 1000.0, slow=100)
    outliers.evaluate(1000.0)
    calls(outliers, "a", 1029.0, slow=99)
    assert outliers.evaluate(1029.9) == []
    changes = outliers.evaluate(1030.0)
    assert brief(changes) == [("a", "heavier", 1.0, "few-calls")]
    assert changes[0].why == "99 calls within 30 s are too few to call it slow"


def test_weight_in_between_is_said() -> None:
    """What its weight is, since when, and why."""
    outliers = group(2)
    calls(outliers, "a", 1000.0, slow=120)
    outliers.evaluate(1000.0)
    assert fullmatch(f"weight x 0.5 for 12 s: p99 {SLOW} s past 2 s over 120 calls", outliers.why("a", 1012.0))
    calls(outliers, "b", 1012.0, good=100, bad=1)
    assert fullmatch(f"in use: 1 of 101 calls failed within 30 s, p99 {FAST} s", outliers.why("b", 1012.0))


def test_no_steps_is_leaving_at_once() -> None:
    """Empty steps grade nothing."""
    outliers = group(2, OutlierRules(steps=()))
    calls(outliers, "a", 1000.0, slow=100)
    assert brief(outliers.evaluate(1000.0)) == [("a", "ejected", 0.0, "latency")]


def test_few_calls_are_never_slow() -> None:
    """99 slow calls are not enough to speak of a p99."""
    outliers = group(2)
    calls(outliers, "a", 1000.0, slow=99)
    assert outliers.evaluate(1000.0) == []
    calls(outliers, "a", 1000.0, slow=1)
    assert outliers.evaluate(1000.0) != []


def test_slow_for_its_group() -> None:
    """Five times the median is slow, wherever the limit is; below the floor nothing is."""
    outliers = group(4)
    calls(outliers, "abc", 1000.0, good=100, seconds=0.1)
    calls(outliers, "d", 1000.0, good=100, seconds=0.7)
    (change,) = outliers.evaluate(1000.0)
    assert (change.name, change.what, change.reason) == ("d", "lighter", "latency-stands-out")
    assert fullmatch(r"p99 0\.\d+ s over 100 calls, past 5 times the group's median, 0\.(09\d|1) s", change.why)
    fast = group(4)
    calls(fast, "abc", 1000.0, good=100, seconds=0.001)
    calls(fast, "d", 1000.0, good=100, seconds=0.09)
    assert fast.evaluate(1000.0) == []
    pair = group(2)
    calls(pair, "a", 1000.0, good=100, seconds=0.1)
    calls(pair, "b", 1000.0, good=100, seconds=1.5)
    assert pair.evaluate(1000.0) == []


def test_failures_in_a_row() -> None:
    """The fifth says that it is time to evaluate; a success in between begins anew, one after them changes nothing."""
    outliers = group(3)
    said = [outliers.observe("a", failed, 0.01, 1000.0) for failed in (True, True, False, True, True, True, True)]
    assert not any(said)
    assert outliers.evaluate(1000.0) == []
    assert outliers.observe("a", True, 0.01, 1000.0)
    outliers.observe("a", False, 0.01, 1000.0)
    (change,) = outliers.evaluate(1000.0)
    assert (change.what, change.reason, change.why) == (
        "ejected",
        "consecutive-failures",
        "5 failures in a row; out for 30 s",
    )


def test_a_row_is_judged_once() -> None:
    """A row that was broken is not held against the target in the next evaluation, when it could not be ejected."""
    outliers = group(1)
    calls(outliers, "a", 1000.0, bad=5)
    outliers.observe("a", False, 0.01, 1000.0)
    assert brief(outliers.evaluate(1000.0)) == [("a", "kept", 0.25, "consecutive-failures")]
    outliers.add("b", 1001.0)
    assert outliers.evaluate(1001.0) == []


def test_error_rate() -> None:
    """More than half of at least 20 calls."""
    outliers = group(2)
    calls(outliers, "a", 1000.0, good=9, bad=10)
    assert outliers.evaluate(1000.0) == []  # 19 calls
    calls(outliers, "a", 1000.0, good=1)
    assert outliers.evaluate(1000.0) == []  # 10 of 20: not past one half
    outliers.observe("a", True, 0.01, 1000.0)
    (change,) = outliers.evaluate(1000.0)
    assert change.reason == "error-rate"
    assert change.why == "11 of 21 calls failed within 30 s, 52.4%, past 50.0%; out for 30 s"


def test_calls_are_forgotten() -> None:
    """What is older than the window says nothing."""
    outliers = group(2)
    calls(outliers, "a", 1000.0, good=15, bad=15)
    outliers.observe("a", True, 0.01, 1000.0)
    outliers.observe("a", False, 0.01, 1000.0)
    calls(outliers, "a", 1030.0, bad=4)
    assert outliers.evaluate(1030.0) == []


def test_an_error_rate_that_stands_out() -> None:
    """A fifth of its calls, where four others have none: ejected, by comparison; not where all are like that."""
    outliers = group(5)
    calls(outliers, "abcd", 1000.0, good=40)
    calls(outliers, "e", 1000.0, good=32, bad=8)
    (change,) = outliers.evaluate(1000.0)
    assert (change.name, change.what, change.reason) == ("e", "ejected", "error-rate-stands-out")
    assert change.why == (
        "8 of 40 calls failed within 30 s, 20.0%, past 19.2%: the group has 4.0% +- 8.0%; out for 30 s"
    )
    alike = group(5)
    calls(alike, "abcde", 1000.0, good=32, bad=8)
    assert alike.evaluate(1000.0) == []


def test_one_error_in_a_perfect_group_does_not_stand_out() -> None:
    """Many standard deviations, but less than the margin."""
    outliers = group(10)
    calls(outliers, "abcdefghi", 1000.0, good=40)
    calls(outliers, "j", 1000.0, good=38, bad=2)
    assert outliers.evaluate(1000.0) == []


def test_the_worst_go_first_and_the_rest_is_kept() -> None:
    """Two of four may be out: the failing before the slow, among them the one that fails most; the others lose weight,
    and it is said that the cap was the reason."""
    outliers = group(4, OutlierRules(steps=(0.5,), consecutive_failures=0))
    calls(outliers, "a", 1000.0, good=10, bad=15)
    calls(outliers, "b", 1000.0, good=1, bad=30)
    calls(outliers, "c", 1000.0, good=2, bad=30)
    changes = outliers.evaluate(1000.0)
    assert brief(changes) == [
        ("b", "ejected", 0.0, "error-rate"),
        ("c", "ejected", 0.0, "error-rate"),
        ("a", "kept", 0.5, "error-rate"),
    ]
    assert changes[2].why.endswith("60.0%, past 50.0%; not ejected: cap, 2 of 4 are")
    assert not changes[2].ejected
    assert outliers.evaluate(1001.0) == []  # it is not said again
    calls(outliers, "a", 1028.0, good=10, bad=15)
    assert brief(outliers.evaluate(1030.0)) == [
        ("b", "returned", 1.0, "time"),
        ("c", "returned", 1.0, "time"),
        ("a", "ejected", 0.0, "error-rate"),
    ]


@pytest.mark.parametrize(
    ("targets", "share", "most"),
    [(0, 0.5, 0), (1, 1.0, 0), (2, 0.5, 1), (3, 0.5, 1), (4, 0.5, 2), (5, 0.1, 1), (5, 1.0, 4), (9, 0.0, 0)],
)
def test_the_cap(targets: int, share: float, most: int) -> None:
    """Rounded down; one of two or more always may go, unless none is to; one always stays."""
    assert OutlierRules(max_ejected=share).most_ejected(targets) == most
    assert OutlierRules(max_ejected=0.29).most_ejected(100) == 29


def test_a_group_that_shrinks_takes_back_who_would_be_next() -> None:
    """With fewer targets fewer may be out, at once."""
    outliers = group(4)
    calls(outliers, "a", 1000.0, bad=5)
    outliers.evaluate(1000.0)
    calls(outliers, "b", 1010.0, bad=5)
    outliers.evaluate(1010.0)
    assert outliers.ejected() == ["a", "b"]
    (change,) = outliers.remove("d", 1011.0)
    assert (change.name, change.what, change.factor, change.reason) == ("a", "returned", 1.0, "cap")
    assert change.why == "early, 2 of 3 would be ejected, past the cap of 1"
    assert outliers.remove("a", 1011.0) == []
    assert outliers.remove("a", 1011.0) == []
    assert outliers.ejected() == ["b"]


def test_ejections_grow_and_are_forgotten() -> None:
    """30, 60, 120, 240, 300, 300 s; a minute of good service takes one back."""
    outliers = group(2)
    now = 1000.0

    def eject() -> float:
        nonlocal now
        calls(outliers, "a", now, bad=5)
        (change,) = outliers.evaluate(now)
        assert change.ejected
        since = now
        while outliers.ejected():
            now += 1.0
            outliers.evaluate(now)
        return now - since

    assert [eject() for _ in range(6)] == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]
    now += 59.0
    assert eject() == 300.0
    now += 120.0
    assert eject() == 120.0
    now += 3600.0
    assert eject() == 30.0


def test_calls_to_who_is_out_say_nothing() -> None:
    """Late answers neither lengthen the ejection nor count after it; nor do those of unknown targets."""
    outliers = group(2)
    calls(outliers, "a", 1000.0, bad=5)
    outliers.evaluate(1000.0)
    calls(outliers, "a", 1029.0, bad=50)
    calls(outliers, "x", 1029.0, bad=50)
    assert brief(outliers.evaluate(1030.0)) == [("a", "returned", 1.0, "time")]
    assert outliers.evaluate(1031.0) == []
    assert "0 of 0 calls" in outliers.why("a", 1031.0)


def test_calls_before_an_ejection_say_nothing_after_it() -> None:
    """They are still within the window, and were punished already."""
    outliers = group(2, OutlierRules(ejection_time=5.0))
    calls(outliers, "a", 1000.0, good=30, bad=60, slow=100)
    assert [change.what for change in outliers.evaluate(1000.0)] == ["ejected"]
    assert [change.what for change in outliers.evaluate(1005.0)] == ["returned"]
    assert outliers.evaluate(1006.0) == []
    assert outliers.why("a", 1006.0).startswith("in use: 0 of 0 calls")


def test_who_is_kept_is_told_again_after_it_was_off() -> None:
    """Also where there are no steps: nothing from before counts."""
    outliers = group(2, OutlierRules(steps=(), max_ejected=0.0))
    for now in (1000.0, 1100.0):
        calls(outliers, "a", now, bad=5)
        assert brief(outliers.evaluate(now)) == [("a", "kept", 1.0, "consecutive-failures")]
        outliers.enabled = False
        assert outliers.evaluate(now) == []
        outliers.enabled = True


def test_switched_off_all_are_used() -> None:
    """At the next evaluation, and nothing is counted meanwhile; what was known is not held against anybody."""
    outliers = group(4)
    calls(outliers, "a", 1000.0, bad=5)
    calls(outliers, "b", 1000.0, slow=100)
    outliers.evaluate(1000.0)
    calls(outliers, "c", 1000.0, bad=4)
    outliers.enabled = False
    assert brief(outliers.evaluate(1001.0)) == [("a", "returned", 1.0, "off"), ("b", "heavier", 1.0, "off")]
    calls(outliers, "abcd", 1001.0, bad=50)
    assert outliers.evaluate(1002.0) == []
    assert outliers.why("a", 1002.0) == "in use: outlier detection is off"
    outliers.enabled = True
    outliers.observe("c", True, 0.01, 1002.0)
    assert outliers.evaluate(1002.0) == []


def test_history_is_bounded() -> None:
    """The newest changes are kept."""
    outliers = group(2, OutlierRules(ejection_time=1.0, ejection_cap=1.0), history=3)
    for n in range(5):
        calls(outliers, "a", 1000.0 + n, bad=5)
        outliers.evaluate(1000.0 + n)
    assert [(change.what, change.at) for change in outliers.history("a")] == [
        ("ejected", 1002.0),
        ("returned", 1003.0),
        ("ejected", 1004.0),
    ]
    assert len(outliers.history("a")) == 3


def test_statistics() -> None:
    """Counts by kind and reason, and each target; plain values."""
    outliers = group(4)
    calls(outliers, "a", 1000.0, bad=5)
    calls(outliers, "b", 1000.0, slow=100)
    outliers.evaluate(1000.0)
    outliers.add("a", 1001.0)  # it is there: it stays as it is
    told = json.loads(json.dumps(outliers.statistics()))
    each = told.pop("each")
    assert told == {
        "enabled": True,
        "targets": 4,
        "ejected": 1,
        "lighter": 1,
        "most_ejected": 2,
        "changes": {"ejected": {"consecutive-failures": 1}, "lighter": {"latency": 1}},
    }
    assert each["a"] == {
        "factor": 0.0,
        "ejected": True,
        "ejections": 1,
        "calls": 5,
        "failures": 5,
        "latency": 0.0,
        "why": "5 failures in a row; out for 30 s",
    }
    assert each["b"]["factor"] == 0.5
    assert each["b"]["latency"] == pytest.approx(3.1, rel=0.05)
    assert len(outliers) == 4


def test_of_who_is_not_watched_nothing_is_known() -> None:
    """A name that is not there is an error of the caller."""
    outliers = group(1)
    for ask in (outliers.factor, outliers.returned_at, outliers.history):
        with pytest.raises(KeyError):
            ask("x")
    with pytest.raises(KeyError):
        outliers.why("x", 1000.0)


@pytest.mark.parametrize(
    "rules",
    [
        {"window": 0.0},
        {"window": inf},
        {"deviation": 0.0},
        {"latency_limit": 0.0},
        {"latency_ratio": -1.0},
        {"step_time": 0.0},
        {"ejection_time": 0.0},
        {"good_time": 0.0},
        {"min_calls": 0},
        {"latency_calls": 0},
        {"error_rate": 1.1},
        {"deviation_margin": -0.1},
        {"max_ejected": 2.0},
        {"consecutive_failures": -1},
        {"latency_quantile": 1.0},
        {"latency_floor": -1.0},
        {"min_group": 1},
        {"steps": (1.0,)},
        {"steps": (0.5, 0.5)},
        {"steps": (0.5, 0.0)},
        {"ejection_cap": 29.0},
        {"ejection_cap": float("nan")},
    ],
)
def test_nonsense_is_refused(rules: dict[str, Any]) -> None:
    """With the name of what makes no sense."""
    with pytest.raises(ValueError, match=f"{next(iter(rules))}.*: must"):
        OutlierRules(**rules)
    with pytest.raises(ValueError, match="history 0: must be"):
        Outliers(history=0)
