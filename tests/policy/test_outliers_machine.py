"""Outlier detection against a model that keeps every call in lists, through random calls, times and groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import fmean, median_low, pstdev

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forebay.policy.outliers import Change, OutlierRules, Outliers

RULES = OutlierRules(
    window=30.0,  # windows of calls turn every 3 s, those of latencies every 5 s
    consecutive_failures=4,
    min_calls=6,
    deviation=1.43,
    deviation_margin=0.0531,  # no share of so few calls lies exactly there
    latency_quantile=0.9,
    latency_calls=8,
    steps=(0.5, 0.25),
    ejection_time=12.0,  # calls from before are still within the window when it comes back
    ejection_cap=90.0,
)
NAMES = "abcdef"
BAD = ("x", "xxo", "xo", "xoo", "xooo")  # ways to fail, as x
# No two of them are near each other, the limit, the floor or the ratio of five: quantiles are up to 5% off
LATENCIES = (0.01, 0.03, 0.3, 3.0, 9.0)


@dataclass
class Call:
    """One call."""

    at: float
    failed: bool
    seconds: float


@dataclass
class Model:
    """One target."""

    since: float
    calls: list[Call] = field(default_factory=list)
    timed: list[Call] = field(default_factory=list)  # since the last step
    fresh: list[bool] = field(default_factory=list)  # outcomes since the last evaluation, after the row before it
    level: int = 0
    stepped_at: float = -inf
    out_until: float | None = None
    offences: int = 0
    good_since: float | None = None
    kept: str = ""

    def within(self, calls: list[Call], now: float, width: float) -> list[Call]:
        """Those calls that still count, in windows that turn every ``width`` seconds."""
        return [call for call in calls if call.at // width > now // width - RULES.window / width]

    def longest_row(self) -> int:
        """Failures in a row, at most, of the fresh ones."""
        longest = row = 0
        for failed in self.fresh:
            row = row + 1 if failed else 0
            longest = max(longest, row)
        return longest

    def open_row(self) -> list[bool]:
        """The failures at the end."""
        row: list[bool] = []
        for failed in reversed(self.fresh):
            if not failed:
                break
            row.append(True)
        return row

    def share(self, now: float) -> float | None:
        """Failed calls of all, when there are enough."""
        calls = self.within(self.calls, now, 3.0)
        return fmean(call.failed for call in calls) if len(calls) >= RULES.min_calls else None

    def latency(self, now: float) -> float | None:
        """The quantile, when there are enough calls."""
        times = sorted(call.seconds for call in self.within(self.timed, now, 5.0))
        if len(times) < RULES.latency_calls:
            return None
        return times[math.ceil(RULES.latency_quantile * len(times) - 1e-9) - 1]

    def forgive(self, now: float) -> None:
        """An ejection less for each minute of full weight."""
        while self.good_since is not None and self.offences and now - self.good_since >= RULES.good_time:
            self.offences -= 1
            self.good_since += RULES.good_time

    def step_to(self, level: int, now: float) -> None:
        """More or less weight."""
        self.forgive(now)
        self.level, self.stepped_at, self.timed = level, now, []
        self.good_since = None if level else now

    def back(self, now: float) -> None:
        """In use, as if new."""
        self.calls, self.timed, self.fresh = [], [], []
        self.level, self.stepped_at, self.out_until, self.kept = 0, now, None, ""
        self.good_since = now

    @property
    def factor(self) -> float:
        """Of its weight."""
        return 0.0 if self.out_until is not None else (1.0, *RULES.steps)[self.level]


def most(targets: int) -> int:
    """How many may be out: half, but one of two or more."""
    return 0 if targets < 2 else max(1, targets // 2)


Brief = tuple[str, str, float, str]


class OutliersMachine(RuleBasedStateMachine):
    """Targets come, are called, and go; time passes, and now and then they are judged."""

    def __init__(self) -> None:
        super().__init__()
        self.outliers = Outliers(RULES, history=5)
        self.models: dict[str, Model] = {}
        self.now = 1_000.0
        for name in NAMES[:4]:
            self.add(name)

    @rule(name=st.sampled_from(NAMES))
    def add(self, name: str) -> None:
        """Watch one more."""
        self.outliers.add(name, self.now)
        self.models.setdefault(name, Model(self.now, good_since=self.now))

    @rule(name=st.sampled_from(NAMES), really=st.integers(0, 1))
    def remove(self, name: str, really: int) -> None:
        """Watch one less, now and then; who is soonest back comes back when the cap asks for it."""
        if really:
            return
        changes = self.outliers.remove(name, self.now)
        self.models.pop(name, None)
        out = sorted(
            (model.out_until, n, who)
            for n, (who, model) in enumerate(self.models.items())
            if model.out_until is not None
        )
        expected: list[Brief] = []
        for _, _, who in out[: max(0, len(out) - most(len(self.models)))]:
            self.models[who].back(self.now)
            expected.append((who, "returned", 1.0, "cap"))
        assert [(c.name, c.what, c.factor, c.reason) for c in changes] == expected

    @precondition(lambda self: self.outliers.ejected())
    @rule()
    def shrink(self) -> None:
        """Of the group go some in use, so that the cap is reached while others are out."""
        for name in [name for name, model in self.models.items() if model.out_until is None][:2]:
            self.remove(name, 0)

    @rule(
        name=st.sampled_from(NAMES),
        count=st.integers(1, 12),
        how=st.sampled_from(("good", *BAD)),
        seconds=st.sampled_from(LATENCIES),
    )
    def call(self, name: str, count: int, how: str, seconds: float) -> None:
        """Some calls, which all take as long; those fail where ``how``, again and again, has an x."""
        for n in range(count):
            failed = how[n % len(how)] == "x"
            told = self.outliers.observe(name, failed, seconds, self.now)
            model = self.models.get(name)
            if model is None or model.out_until is not None or not self.outliers.enabled:
                assert not told
                continue
            model.calls.append(Call(self.now, failed, seconds))
            model.timed.append(Call(self.now, failed, seconds))
            model.fresh.append(failed)
            assert told == (failed and len(model.open_row()) == RULES.consecutive_failures)

    @rule(
        rounds=st.integers(1, 5),
        slow=st.sets(st.sampled_from(NAMES), max_size=4),
        failing=st.sets(st.sampled_from(NAMES), max_size=4),
        seconds=st.sampled_from(LATENCIES),
        how=st.sampled_from(BAD),
    )
    def live(self, rounds: int, slow: set[str], failing: set[str], seconds: float, how: str) -> None:
        """For a while, everybody is called and judged: some are slower than the others, some fail."""
        for _ in range(rounds):
            for name in NAMES:
                self.call(name, 8, how if name in failing else "good", seconds if name in slow else 0.03)
            self.evaluate()
            self.now += 6

    @rule(seconds=st.integers(1, 35))
    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.now += seconds

    @precondition(lambda self: any(model.offences for model in self.models.values()))
    @rule()
    def wait_long(self) -> None:
        """So long that everything is forgotten, and whoever was out comes back."""
        out = set(self.outliers.ejected())
        self.now += 600
        changes = self.outliers.evaluate(self.now)
        self.compare(changes)
        assert {change.name for change in changes if change.what == "returned"} == out

    @rule(on=st.sampled_from((True, True, True, False)))
    def switch(self, on: bool) -> None:
        """Off, rarely, and on."""
        self.outliers.enabled = on

    @rule()
    def evaluate(self) -> None:
        """Judge all."""
        self.compare(self.outliers.evaluate(self.now))

    def compare(self, changes: Sequence[Change]) -> None:
        """What is decided is what the model says, in its order, and each has figures or says that it is over."""
        assert [(c.name, c.what, c.factor, c.reason) for c in changes] == self.expected()
        for change in changes:
            assert change.at == self.now
            assert change.ejected == (change.what == "ejected")
            assert any(c.isdigit() for c in change.why) or change.reason in ("time", "off")
            assert ("cap" in change.why) == (change.what == "kept")

    def expected(self) -> list[Brief]:
        """What an evaluation is to say now."""
        now, said = self.now, list[Brief]()
        if not self.outliers.enabled:
            for name, model in self.models.items():
                if model.out_until is not None or model.level:
                    said.append((name, "heavier" if model.out_until is None else "returned", 1.0, "off"))
                    model.back(now)
                model.fresh = []
            return said
        for name, model in self.models.items():
            if model.out_until is not None and model.out_until <= now:
                model.back(now)
                said.append((name, "returned", 1.0, "time"))
        used = {name: model for name, model in self.models.items() if model.out_until is None}
        grounds = self.grounds(used)
        for model in used.values():
            model.fresh = model.open_row()
        for name, model in used.items():
            if name not in grounds:
                model.kept = ""
                model.forgive(now)
                rested, known = now - model.stepped_at, model.latency(now) is not None
                if model.level and ((known and rested >= RULES.step_time) or rested >= RULES.window):
                    model.step_to(model.level - 1, now)
                    said.append((name, "heavier", model.factor, "latency" if known else "few-calls"))
        for name in sorted(grounds, key=lambda name: (-grounds[name][0], -grounds[name][1])):
            said += self.verdict(name, grounds[name][0], grounds[name][2])
        return said

    def grounds(self, used: dict[str, Model]) -> dict[str, tuple[bool, float, str]]:
        """Who fails or is slow: whether it fails, how much, and the reason."""
        shares = {name: share for name, model in used.items() if (share := model.share(self.now)) is not None}
        times = {name: time for name, model in used.items() if (time := model.latency(self.now)) is not None}
        found: dict[str, tuple[bool, float, str]] = {}
        comparable = inf
        if len(times) >= RULES.min_group:
            comparable = max(RULES.latency_ratio * median_low(times.values()), RULES.latency_floor)
        for name, model in used.items():
            share, time = shares.get(name), times.get(name)
            good = [1 - s for s in shares.values()]
            far = max(RULES.deviation * pstdev(good), RULES.deviation_margin) if len(good) >= RULES.min_group else inf
            if model.longest_row() >= RULES.consecutive_failures:
                found[name] = True, 2.0, "consecutive-failures"
            elif share is not None and share > RULES.error_rate:
                found[name] = True, share, "error-rate"
            elif share is not None and fmean(good) - (1 - share) > far:
                found[name] = True, share, "error-rate-stands-out"
            elif time is not None and time > RULES.latency_limit:
                found[name] = False, time, "latency"
            elif time is not None and time > comparable:
                found[name] = False, time, "latency-stands-out"
        return found

    def verdict(self, name: str, failing: bool, reason: str) -> list[Brief]:
        """What becomes of one that fails or is slow."""
        model, now = self.models[name], self.now
        if not failing:
            if now - model.stepped_at < RULES.step_time:
                return []
            if model.level < len(RULES.steps):
                model.step_to(model.level + 1, now)
                return [(name, "lighter", model.factor, reason)]
        out = [m for m in self.models.values() if m.out_until is not None]
        if len(out) < most(len(self.models)):
            model.forgive(now)
            model.out_until = now + (12, 24, 48, 90)[model.offences]
            model.offences = min(3, model.offences + 1)
            model.good_since, model.kept = None, ""
            return [(name, "ejected", 0.0, reason)]
        if model.kept == reason:
            return []
        model.kept = reason
        if model.level < len(RULES.steps):
            model.step_to(len(RULES.steps), now)
        return [(name, "kept", model.factor, reason)]

    @invariant()
    def the_cap_holds(self) -> None:
        """At any moment, whoever was added or removed; one stays in use."""
        assert len(self.outliers.ejected()) <= most(len(self.outliers))
        assert len(self.outliers) == len(self.models)

    @invariant()
    def each_can_say_why(self) -> None:
        """Weight, reason and history fit together, and history is bounded."""
        told = self.outliers.statistics()["each"]
        for name, model in self.models.items():
            assert self.outliers.factor(name) == told[name]["factor"] == model.factor
            history = self.outliers.history(name)
            assert len(history) <= 5
            assert [change.at for change in history] == sorted(change.at for change in history)
            why = self.outliers.why(name, self.now)
            if not self.outliers.enabled:
                assert "off" in why
            elif model.factor < 1.0:
                assert history[-1].why in why
                assert history[-1].factor == model.factor
            else:
                assert why.startswith("in use")
            if model.out_until is not None:
                assert history[-1].what == "ejected"
                assert model.out_until - history[-1].at <= RULES.ejection_cap


OutliersMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestOutliersMachine = OutliersMachine.TestCase
