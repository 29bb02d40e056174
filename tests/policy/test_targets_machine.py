"""Anything may happen to a group of targets in any order: what always holds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import inf

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forebay.errors import NoTarget
from forebay.policy.health import PassiveHealth
from forebay.policy.slow_start import SlowStart
from forebay.policy.target import Target, TargetEvent
from forebay.policy.target_rules import TargetRules
from forebay.policy.targets import Targets

NAMES = "abcdef"
FAIL_TIMEOUT = 10.0


@dataclass
class Model:
    """What is known of a target, in the simplest way: one failure takes it out, three bad checks do, two good ones end
    that."""

    backup: bool
    until: float = -inf  # out for failed requests until then, and after it until a probe has said something
    out: bool = False
    probing: bool = False
    up: bool = True
    run: int = 0
    in_flight: int = 0

    def healthy(self) -> bool:
        return self.up and not self.out

    def may_be_probed(self, now: float) -> bool:
        return self.up and self.out and not self.probing and now >= self.until


class TargetsMachine(RuleBasedStateMachine):
    """Against :class:`Model`, one per target. Times are whole seconds, so that ends of periods are hit exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.flying: list[Target] = []
        self.models: dict[str, Model] = {}
        self.gone: list[Target] = []
        self.events: list[TargetEvent] = []

    def target(self, name: str, weight: int = 1) -> Target:
        return Target(name, weight, backup=name == "f", zone=name, passive=PassiveHealth(1, FAIL_TIMEOUT))

    @initialize(
        balance=st.sampled_from(["round-robin", "weighted-round-robin", "least-connections"]),  # they use no chance
        panic=st.sampled_from([0.0, 0.5]),
        cap=st.sampled_from([0.0, 0.5, 1.0]),
        slow=st.booleans(),
        zone=st.sampled_from(["", "a"]),
    )
    def begin(self, balance: str, panic: float, cap: float, slow: bool, zone: str) -> None:
        slow_start = SlowStart(window=20.0) if slow else None
        self.under = TargetRules(balance, zone, panic_threshold=panic, max_ejected=cap, slow_start=slow_start)
        self.group: Targets[Target] = Targets(self.under, on_event=self.events.append)
        self.update(set("abcf"), 1)

    @rule(names=st.sets(st.sampled_from(NAMES)), weight=st.integers(1, 5))
    def update(self, names: set[str], weight: int) -> None:
        before = {target.name: target for target in self.group.members}
        joined, left = self.group.update([self.target(name, weight) for name in sorted(names)], self.now)
        assert {target.name for target in joined} == names - set(before)
        assert {target.name for target in left} == set(before) - names
        self.gone += left
        for target in left:
            del self.models[target.name]
        for target in joined:
            self.models[target.name] = Model(target.backup)
        for target in self.group.members:
            assert target.name not in before or target is before[target.name]
            assert target.weight == weight

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 10.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=st.sampled_from(["", "one", "two"]), avoid=st.sets(st.sampled_from(NAMES), max_size=3))
    def pick(self, key: str, avoid: set[str]) -> None:
        tried = [target for target in self.group.members if target.name in avoid]
        models = self.models
        left = {name: model for name, model in models.items() if name not in avoid}
        primaries = [model for model in models.values() if not model.backup]
        reserve = any(m.backup and (m.healthy() or m.may_be_probed(self.now)) for m in models.values())
        healthy = sum(model.healthy() for model in primaries)
        few = bool(primaries) and healthy < self.under.panic_threshold * len(primaries)
        usable = {name for name, m in models.items() if m.healthy() or m.may_be_probed(self.now)}
        panic = (few and (healthy > 0 or not reserve)) or not usable
        try:
            target = self.group.pick(self.now, key=key, tried=tried)
        except NoTarget:
            assert not any(name in usable for name in left), "one that is left was not found"
            return
        model = models[target.name]
        assert target.name not in avoid
        assert target in self.group.members
        if not panic:
            assert target.name in usable, "one that is out was picked, and there was no panic"
            if model.backup:
                assert not any(not m.backup and name in usable for name, m in left.items())
        else:
            assert not model.backup or not any(not m.backup for m in left.values())
        if model.out and not model.probing and self.now >= model.until:
            model.probing = True
        model.in_flight += 1
        self.flying.append(target)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), outcome=st.sampled_from(["answered", "bad answer", "failed", "nothing"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        target = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        model = None if target.gone else self.models[target.name]
        out = sum(m.out for m in self.models.values())
        allowed = max(1, int(len(self.models) * self.under.max_ejected)) if self.under.max_ejected else 0
        if outcome == "answered":
            self.group.answered(target, 0.1, self.now)
            if model is not None:
                model.out = model.probing = False
        elif outcome != "nothing":
            if outcome == "failed":
                self.group.failed(target, "refused", self.now)
            else:
                self.group.answered(target, 0.1, self.now, failed=True)
            if model is not None and (model.probing or (not model.out and out < allowed)):
                model.out, model.probing, model.until = True, False, self.now + FAIL_TIMEOUT
        self.group.leave(target)
        if model is not None:
            model.probing = False
            model.in_flight -= 1

    @precondition(lambda self: self.models)
    @rule(data=st.data(), good=st.booleans())
    def check(self, data: st.DataObject, good: bool) -> None:
        target = data.draw(st.sampled_from(self.group.members))
        model = self.models[target.name]
        self.group.checked(target, "" if good else "status 503", self.now)
        model.run = 0 if good is model.up else model.run + 1
        if model.run == (2 if good else 3):
            model.up, model.run = good, 0

    @invariant()
    def in_flight_is_what_was_picked_and_not_left(self) -> None:
        assert sum(target.in_flight for target in (*self.group.members, *self.gone)) == len(self.flying)
        for target in self.group.members:
            assert target.in_flight == self.models[target.name].in_flight

    @invariant()
    def what_is_out_is_what_the_model_says(self) -> None:
        statistics = self.group.statistics()
        assert statistics["ejected"] == sum(model.out for model in self.models.values())
        for target in self.group.members:
            assert 0.0 < target.share <= target.weight
            assert self.group.why(target, self.now)
            assert len(self.group.history(target)) <= 32

    @invariant()
    def changes_follow_each_other(self) -> None:
        for target in self.group.members:
            changes = self.group.history(target)
            assert all(first.after == second.before for first, second in pairwise(changes))
            assert all(first.at <= second.at for first, second in pairwise(changes))

    def teardown(self) -> None:
        while self.flying:
            self.group.leave(self.flying.pop())
        assert all(target.in_flight == 0 for target in (*getattr(self, "group", Targets()).members, *self.gone))


TestTargets = TargetsMachine.TestCase
TestTargets.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestTargets = pytest.mark.timeout(120)(TestTargets)
