"""A group of targets: who may be chosen, how much each gets, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import pytest

from forebay.errors import NoTarget
from forebay.policy.balance import BALANCERS
from forebay.policy.health import ActiveHealth, PassiveHealth
from forebay.policy.outlier_judge import OutlierChange
from forebay.policy.outliers import OutlierRules, Outliers
from forebay.policy.slow_start import SlowStart
from forebay.policy.sticky import Sticky
from forebay.policy.target import Target, TargetEvent
from forebay.policy.target_rules import TargetRules
from forebay.policy.targets import Targets

AT_ONCE = TargetRules(balance="round-robin", slow_start=None, panic_threshold=0.0)


def targets_of(*names: str, zone: str = "", **passive: Any) -> list[Target]:
    """By name; one that ends in ! is a backup."""
    return [
        Target(name.strip("!"), zone=zone, backup=name.endswith("!"), passive=PassiveHealth(**passive))
        for name in names
    ]


def group_of(*names: str, rules: TargetRules = AT_ONCE, **fields: Any) -> Targets[Target]:
    return Targets(rules, targets_of(*names), 0.0, name="u", **fields)


def use(group: Targets[Target], now: float, *tried: Target, fails: bool = False, answers: bool = False) -> str:
    """One try; its target's name."""
    target = group.pick(now, tried=tried)
    if fails:
        group.failed(target, "refused", now)
    if answers:
        group.answered(target, 0.01, now)
    group.leave(target)
    return target.name


def eject(group: Targets[Target], now: float, *targets: Target) -> None:
    """By one failure each."""
    for target in targets:
        target.in_flight += 1
        group.failed(target, "refused", now)
        group.leave(target)


def shares(group: Targets[Target], now: float, picks: int = 1000) -> dict[str, float]:
    """What part of the picks each gets."""
    return {name: count / picks for name, count in Counter(use(group, now, answers=True) for _ in range(picks)).items()}


def test_primaries_then_backups_then_anybody() -> None:
    """The ranks, and the way back."""
    group = group_of("a", "b", "c!")
    assert [use(group, 1.0) for _ in range(3)] == ["a", "b", "a"]
    assert use(group, 1.0, fails=True) == "b"
    assert use(group, 1.0, fails=True) == "a"
    assert [use(group, 2.0) for _ in range(2)] == ["c", "c"]
    assert not group.statistics()["panic"]
    assert use(group, 2.0, fails=True) == "c"
    assert {use(group, 3.0) for _ in range(4)} == {"a", "b"}
    assert group.statistics()["panic"]
    assert use(group, 3.0, answers=True) in "ab"
    assert len({use(group, 3.0) for _ in range(4)}) == 1
    assert not group.statistics()["panic"]


def test_backups_alone_are_used() -> None:
    """A group without primaries has its backups, healthy or not."""
    group = group_of("a!", "b!")
    assert {use(group, 1.0) for _ in range(4)} == {"a", "b"}
    eject(group, 1.0, *group.members)
    assert {use(group, 1.0) for _ in range(4)} == {"a", "b"}


def test_a_retry_goes_to_somebody_else() -> None:
    """Another primary, then a backup, then nobody."""
    group = group_of("a", "b", "c!")
    a, b, c = group.members
    assert use(group, 1.0, a) == "b"
    assert use(group, 1.0, a, b) == "c"
    with pytest.raises(NoTarget, match="every target of u that is up was tried"):
        group.pick(1.0, tried=(a, b, c))
    assert group.statistics()["no_target"] == 1


def test_a_group_of_nobody_says_so() -> None:
    """At the beginning, and when all have left."""
    group: Targets[Target] = Targets(AT_ONCE, name="u")
    with pytest.raises(NoTarget, match="u has no targets"):
        group.pick(1.0)
    group.update(targets_of("a"), 1.0)
    assert use(group, 1.0) == "a"
    group.update([], 2.0)
    with pytest.raises(NoTarget):
        group.pick(2.0)


def test_one_probe_at_a_time_decides() -> None:
    """After fail_timeout one request tries it, and the others stay away until it has said something."""
    group = group_of("a", "b")
    a, b = group.members
    eject(group, 1.0, a)
    assert group.why(a, 4.0) == "ejected for 7 s more: 1 failed within 10 s, the last by refused"
    assert {use(group, 10.9) for _ in range(4)} == {"b"}
    probe = group.pick(11.0, tried=(b,))
    assert probe is a
    assert group.why(a, 11.0) == "probing: one request tries it"
    assert {use(group, 11.0) for _ in range(4)} == {"b"}
    group.leave(a)  # the client has left: no verdict, so the next one may try
    assert group.pick(11.0, tried=(b,)) is a
    group.failed(a, "timeout", 12.0)
    group.leave(a)
    assert group.why(a, 12.0).startswith("ejected for 10 s more: ")
    assert {use(group, 21.9) for _ in range(4)} == {"b"}
    assert group.pick(22.0, tried=(b,)) is a
    group.answered(a, 0.01, 22.0)
    group.leave(a)
    assert group.why(a, 22.0) == "up"
    assert {use(group, 22.0) for _ in range(4)} == {"a", "b"}
    assert [(e.before, e.after) for e in group.history(a)][:3] == [
        ("up", "ejected"),
        ("ejected", "probing"),
        ("probing", "ejected"),
    ]
    assert group.history(a)[-1].why == "up: a request was answered"


def test_health_checks_decide() -> None:
    """Three bad ones take it out, whatever requests say, and two good ones bring it back."""
    group = group_of("a", "b")
    a, _ = group.members
    for _ in range(3):
        group.checked(a, "status 503", 1.0)
    assert {use(group, 1.0, answers=True) for _ in range(4)} == {"b"}
    assert group.why(a, 1.0) == "down: 3 bad checks in a row, the last: status 503"
    group.checked(a, "", 2.0)
    assert {use(group, 2.0) for _ in range(4)} == {"b"}
    group.checked(a, "", 3.0)
    assert {use(group, 3.0) for _ in range(4)} == {"a", "b"}
    assert group.history(a)[-1].why == "up: health checks succeeded"


def test_panic_uses_all_as_if_healthy() -> None:
    """Below half of them, not at half; it ends when enough are back, and is said."""
    events: list[TargetEvent] = []
    rules = TargetRules(balance="round-robin", slow_start=None, panic_threshold=0.5)
    group = group_of("a", "b", "c", "d", rules=rules, on_event=events.append)
    a, b, c, d = group.members
    eject(group, 1.0, a, b)
    assert {use(group, 1.0) for _ in range(8)} == {"c", "d"}
    for _ in range(3):
        group.checked(c, "status 503", 1.0)
    assert {use(group, 1.0) for _ in range(8)} == {"a", "b", "c", "d"}
    assert group.why(a, 3.0).startswith("panic, so it is used: 1 of 4 are healthy; ejected for 8 s more: ")
    assert group.why(d, 3.0) == "up"
    panics = [event for event in events if not event.target]
    assert [(e.before, e.after, e.why) for e in panics] == [("normal", "panic", "1 of 4 are healthy")]
    group.answered(a, 0.01, 4.0)
    assert {use(group, 4.0) for _ in range(8)} == {"a", "d"}
    assert group.statistics()["panics"] == 1
    assert not group.statistics()["panic"]


def test_panic_leaves_backups_alone_while_a_primary_can_be_used() -> None:
    """Backups are for when none can; then there is no panic as long as one of them is healthy."""
    rules = TargetRules(balance="round-robin", slow_start=None, panic_threshold=0.9)
    group = group_of("a", "b", "c!", rules=rules)
    a, b, _ = group.members
    eject(group, 1.0, a)
    assert {use(group, 1.0) for _ in range(4)} == {"a", "b"}
    eject(group, 1.0, b)
    assert {use(group, 1.0) for _ in range(4)} == {"c"}


def test_the_cap_keeps_the_rest_in() -> None:
    """At most half are out for failed requests; who would be one more stays, and it is said why not."""
    rules = TargetRules(balance="round-robin", slow_start=None, panic_threshold=0.0, max_ejected=0.5)
    group = group_of("a", "b", "c", "d", rules=rules)
    eject(group, 1.0, *group.members)
    statistics = group.statistics()
    assert statistics["ejected"] == 2
    assert {use(group, 1.0) for _ in range(8)} == {"c", "d"}
    assert statistics["each"]["d"]["cause"] == "1 failed within 10 s, the last by refused; not ejected, as 2 of 4 are"
    assert group_of("a", rules=rules).rules.most_ejected(1) == 1
    assert TargetRules(max_ejected=0.0).most_ejected(100) == 0


@pytest.mark.parametrize("name", ["round-robin", "weighted-round-robin", "least-connections", "random", "p2c-ewma"])
def test_who_comes_back_starts_slowly(name: str) -> None:
    """A tenth of its weight at first, half after half of the window, all at its end: with any balancer."""
    rules = TargetRules(balance=name, slow_start=SlowStart(window=30.0), panic_threshold=0.0)
    group = group_of("a", "b", rules=rules)
    a, b = group.members
    eject(group, 1.0, a)
    group.answered(group.pick(11.0, tried=(b,)), 0.01, 11.0)
    group.leave(a)
    assert group.why(a, 11.0) == "slow start 10%: a request was answered"
    assert shares(group, 11.0, 5000)["a"] == pytest.approx(0.1 / 1.1, abs=0.02)
    assert shares(group, 26.0, 5000)["a"] == pytest.approx(1 / 3, abs=0.03)
    assert shares(group, 41.0, 5000)["a"] == pytest.approx(0.5, abs=0.03)
    assert group.why(a, 41.0) == "up"
    assert [(event.before, event.after) for event in group.history(a)][-2:] == [
        ("probing", "slow start"),
        ("slow start", "up"),
    ]


def test_who_joins_later_starts_slowly_and_the_first_do_not() -> None:
    """At the beginning there is nobody else to do the work."""
    rules = TargetRules(balance="weighted-round-robin", slow_start=SlowStart(window=30.0))
    group = group_of("a", rules=rules)
    (a,) = group.members
    assert group.why(a, 0.0) == "up"
    joined, left = group.update([a, *targets_of("b")], 5.0)
    assert ([target.name for target in joined], left) == (["b"], [])
    assert group.why(joined[0], 5.0) == "slow start 10%: joined"
    assert shares(group, 5.0)["b"] == pytest.approx(0.1 / 1.1, abs=0.01)


def test_an_update_keeps_the_state_of_those_that_stay() -> None:
    """A known name stays the object it is, out as it was, with the weight of now; who left may still be answered."""
    group = group_of("a", "b", "c")
    a, b, c = group.members
    eject(group, 1.0, a)
    flying = group.pick(1.0, tried=(b,))
    assert flying is c
    new_a = Target("a", 7, passive=PassiveHealth(3, 20.0))
    joined, left = group.update([new_a, b, *targets_of("d")], 2.0)
    assert group.members[:2] == (a, b)
    assert (a.weight, a.passive.max_fails, a.passive.fail_timeout) == (7, 3, 20.0)
    assert ([t.name for t in joined], left) == (["d"], [c])
    assert {use(group, 2.0) for _ in range(8)} == {"b", "d"}
    assert group.why(c, 2.0) == "has left the group"
    group.failed(c, "closed", 3.0)
    group.leave(c)
    assert c.in_flight == 0
    assert {use(group, 3.0) for _ in range(8)} == {"b", "d"}


def test_two_of_a_name_are_refused_whole() -> None:
    """Nothing has changed then."""
    group = group_of("a", "b")
    with pytest.raises(ValueError, match="target c: is there twice"):
        group.update(targets_of("c", "c"), 1.0)
    assert [target.name for target in group.members] == ["a", "b"]


def test_a_new_group_goes_on_where_the_old_one_was() -> None:
    """As a reload needs: health, latency, counts and history go over, a probe under way does not."""
    old = group_of("a", "b", "c")
    a, b, _ = old.members
    eject(old, 1.0, a)
    eject(old, 5.0, b)
    assert old.pick(11.0, tried=old.members[1:]) is a
    new = group_of("a", "b", "d")
    new.adopt(old, 11.0)
    assert new.why(new.members[1], 11.0).startswith("ejected for 4 s more")
    assert new.why(new.members[0], 11.0) == "probing: a try is due"
    assert new.history(new.members[0])[0].after == "ejected"
    assert new.members[0].picks == a.picks


@pytest.mark.parametrize("balance", ["least-connections", "weighted-round-robin", "round-robin"])
def test_a_new_group_owes_nobody_turns_of_the_old_one(balance: str) -> None:
    """Its balancer is new, and may be another: who has just come gets a share, and not all there is, nor nothing."""
    members = (("a", 1), ("b", 2), ("c", 1))
    old = Targets(TargetRules("least-connections", slow_start=None), [Target(*each) for each in members[:2]], 0.0)
    shares(old, 1.0, 3000)
    new = Targets(TargetRules(balance, slow_start=None), [Target(*each) for each in members], 0.0)
    new.adopt(old, 1.0)
    assert shares(new, 1.0, 40)["c"] == pytest.approx(1 / 3 if balance == "round-robin" else 1 / 4, abs=0.05)


def test_a_new_group_without_checks_does_not_wait_for_them() -> None:
    """No check would bring back whom they had taken out; nor is anybody out who is judged no more."""
    old = group_of("a", "b")
    for _ in range(3):
        old.checked(old.members[0], "status 503", 1.0)
    eject(old, 1.0, old.members[1])
    members = [Target("a", active=ActiveHealth(enabled=False)), Target("b", passive=PassiveHealth(enabled=False))]
    new = Targets(AT_ONCE, members, 0.0)
    new.adopt(old, 2.0)
    assert [new.why(target, 2.0) for target in members] == ["up", "up"]
    assert new.history(members[0])[-1].why == "up: it is not checked any more"
    new = group_of("a", "b")
    new.adopt(old, 2.0)
    assert [target.state for target in new.members] == ["down", "ejected"]


def zoned(rules: TargetRules, **zones: int) -> Targets[Target]:
    """So many targets in each zone, named after it."""
    members = [Target(f"{zone}{n}", zone=zone) for zone, count in zones.items() for n in range(count)]
    return Targets(rules, members, 0.0)


def by_zone(group: Targets[Target], now: float, picks: int = 4000) -> dict[str, float]:
    """What part of the picks each zone gets."""
    counts: Counter[str] = Counter()
    for number in range(picks):
        target = group.pick(now, key=f"user-{number}")
        counts[target.zone] += 1
        group.leave(target)
    return {zone: count / picks for zone, count in counts.items()}


@pytest.mark.parametrize("name", sorted(BALANCERS))
def test_the_own_zone_is_preferred_and_spills_over_in_proportion(name: str) -> None:
    """All of the work stays while 1/1.4 of the zone is healthy; of less, 1.4 times the healthy part; then none."""
    rules = TargetRules(balance=name, zone="x", slow_start=None, panic_threshold=0.0)
    group = zoned(rules, x=4, y=3, z=5)
    own = group.members[:4]
    assert by_zone(group, 1.0) == {"x": 1.0}
    eject(group, 1.0, own[0])
    assert by_zone(group, 1.0) == {"x": 1.0}
    assert group.why(group.members[-1], 1.0) == "up; not used: in another zone"
    eject(group, 1.0, own[1])
    # bounded loads are a ring's, whose arcs are uneven
    near = 0.06 if name == "consistent-hash" else 0.03
    parts = by_zone(group, 1.0)
    assert parts["x"] == pytest.approx(0.7, abs=near)
    assert parts["y"] == pytest.approx(0.3 * 3 / 8, abs=near)
    assert group.spill == pytest.approx(0.3)
    eject(group, 1.0, own[2])
    assert by_zone(group, 1.0)["x"] == pytest.approx(0.35, abs=near)
    eject(group, 1.0, own[3])
    assert set(by_zone(group, 1.0)) == {"y", "z"}
    assert group.spill == 1.0
    assert {target.name for target in own} & {use(group, 11.0) for _ in range(50)}


def test_a_spill_does_not_drown_a_small_neighbour() -> None:
    """The others get no more for each weight than what is left of the own zone."""
    rules = TargetRules(zone="x", slow_start=None, panic_threshold=0.0)
    group = zoned(rules, x=10, y=1)
    eject(group, 1.0, *group.members[:9])
    assert by_zone(group, 1.0) == pytest.approx({"x": 0.5, "y": 0.5}, abs=0.01)
    assert group.spill == pytest.approx(0.5)


def test_a_retry_leaves_the_zone_before_it_takes_a_backup() -> None:
    """When all of the own zone were tried: another zone, then a backup."""
    rules = TargetRules(zone="x", slow_start=None)
    members = [Target("a", zone="x"), Target("b", zone="y"), Target("c", zone="x", backup=True)]
    group = Targets(rules, members, 0.0)
    assert use(group, 1.0) == "a"
    assert use(group, 1.0, members[0]) == "b"
    assert use(group, 1.0, *members[:2]) == "c"


def test_a_zone_that_is_just_able_keeps_all_of_its_work() -> None:
    """5/7 of it times 1.4 is all; rounding does not give anybody elsewhere a share that is next to nothing."""
    members = [Target("a", 45, zone="x"), Target("b", 18, zone="x"), Target("c", 3, zone="y")]
    group = Targets(TargetRules(zone="x", slow_start=None, panic_threshold=0.0), members, 0.0)
    eject(group, 1.0, members[1])
    assert group.spill == 0.0
    assert members[2].share == 3.0
    assert use(group, 1.0) == "a"


def test_zones_do_not_matter_without_targets_there_or_in_panic() -> None:
    """A zone of nobody prefers nobody; a group in panic has no zones."""
    rules = TargetRules(zone="nowhere", slow_start=None)
    assert set(by_zone(zoned(rules, x=2, y=2), 1.0)) == {"x", "y"}
    group = zoned(TargetRules(zone="x", slow_start=None), x=2, y=3)
    eject(group, 1.0, *group.members[2:])
    assert group.panic
    assert set(by_zone(group, 1.0)) == {"x", "y"}


def test_a_token_keeps_a_client_where_it_is() -> None:
    """Past the balancer and past zones, but not where the target is out, was tried, or is a backup in reserve."""
    sticky = Sticky(b"sixteen or more!")
    rules = TargetRules(balance="round-robin", zone="x", slow_start=None, panic_threshold=0.0)
    members = [Target("a", zone="x"), Target("b", zone="x"), Target("c", zone="y"), Target("d", backup=True)]
    group = Targets(rules, members, 0.0, sticky=sticky)
    tokens = {target.name: group.token(target) for target in group.members}
    for name in ("b", "c"):
        assert {group.pick(1.0, token=tokens[name]).name for _ in range(4)} == {name}
    assert group.pick(1.0, token=tokens["d"]).name in "ab"
    assert group.pick(1.0, token=tokens["b"], tried=(members[1],)).name == "a"
    eject(group, 1.0, members[1])
    assert group.pick(1.0, token=tokens["b"]).name == "a"
    assert group.pick(1.0, token="made up").name == "a"
    assert {name: sticky.statistics()[name] for name in ("kept", "stale", "unknown")} == {
        "kept": 8,
        "stale": 3,
        "unknown": 1,
    }
    group.update(members[:1], 2.0)
    assert group.token(members[2]) == ""


def test_switched_off_all_primaries_are_used() -> None:
    """At run time, and what was known counts again when it is switched on."""
    group = group_of("a", "b", "c!")
    a, _, _ = group.members
    eject(group, 1.0, a)
    group.enabled = False
    assert {use(group, 1.0, fails=True) for _ in range(6)} == {"a", "b"}
    assert group.why(a, 1.0) == "used: health does not count, it is switched off"
    assert a.failures["refused"] == 4
    group.enabled = True
    assert {use(group, 1.0) for _ in range(6)} == {"b"}


class Heard(Exception):
    """Out of one who is told of events."""


def test_who_is_told_may_raise() -> None:
    """It comes out of the call that caused it: all histories have their change then, and nobody is in flight, so that
    the next request probes."""

    def hear(event: TargetEvent) -> None:
        raise Heard

    group = group_of("a", "b", "c!")
    a, b, _ = group.members
    eject(group, 1.0, a, b)
    group.on_event = hear
    with pytest.raises(Heard):
        group.pick(11.0)
    assert [group.history(target)[-1].after for target in (a, b)] == ["probing", "probing"]
    assert group.statistics()["in_flight"] == 0
    group.on_event = None
    assert use(group, 11.0, answers=True) in "ab"


def test_a_probe_that_nobody_got_is_not_under_way() -> None:
    """Who is told that it begins raises, so the request that was to be it has no target to leave."""

    def hear(event: TargetEvent) -> None:
        if not event.target:
            raise Heard

    rules = TargetRules(balance="round-robin", slow_start=None, panic_threshold=0.0)
    group = group_of("a", rules=rules, on_event=hear)
    (a,) = group.members
    with pytest.raises(Heard):
        group.failed(a, "refused", 1.0)  # panic begins
    with pytest.raises(Heard):
        group.pick(11.0)  # it ends, as a probe is due
    with pytest.raises(Heard):
        group.pick(11.0)  # it begins again, as that is under way
    assert a.in_flight == 0
    with pytest.raises(Heard):
        group.pick(11.0)
    group.on_event = None
    assert use(group, 11.0, answers=True) == "a"
    assert group.why(a, 11.0) == "up"


@dataclass(frozen=True)
class Said:
    """A change, as outlier detection gives it."""

    name: str
    factor: float
    ejected: bool
    why: str


@dataclass
class Judge:
    """Outlier detection that says what a test tells it to."""

    says: list[Said] = field(default_factory=list)
    heard: list[tuple[str, bool, float]] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)
    evaluated: list[float] = field(default_factory=list)
    urgent: bool = False

    def add(self, name: str, now: float) -> None:
        self.watched.append(name)

    def remove(self, name: str, now: float) -> Sequence[OutlierChange]:
        self.watched.remove(name)
        return self.evaluate(now)

    def observe(self, name: str, failed: bool, seconds: float, now: float) -> bool:
        self.heard.append((name, failed, seconds))
        return self.urgent

    def evaluate(self, now: float) -> Sequence[OutlierChange]:
        self.evaluated.append(now)
        said, self.says = self.says, []
        return said

    def why(self, name: str, now: float) -> str:
        return "ejected for 12 s more: p99 3.1 s past 2 s"


def test_an_outlier_loses_weight_then_leaves_then_starts_slowly() -> None:
    """What outlier detection says is done within a second, and is the reason that is given."""
    judge = Judge()
    rules = TargetRules(slow_start=SlowStart(window=30.0), panic_threshold=0.0)
    group = group_of("a", "b", rules=rules, outliers=judge)
    a, _ = group.members
    judge.says = [Said("a", 0.5, False, "p99 2.4 s past 2 s"), Said("nobody", 0.0, True, "")]
    assert shares(group, 1.0)["a"] == pytest.approx(1 / 3, abs=0.01)
    assert group.why(a, 1.0) == "weight x 0.5: p99 2.4 s past 2 s"
    judge.says = [Said("a", 0.0, True, "p99 3.1 s past 2 s")]
    assert set(shares(group, 1.9)) == {"a", "b"}
    assert set(shares(group, 2.0)) == {"b"}
    assert group.why(a, 2.0) == "ejected for 12 s more: p99 3.1 s past 2 s"
    judge.says = [Said("a", 1.0, False, "its time out is over")]
    assert shares(group, 3.0)["a"] == pytest.approx(0.1 / 1.1, abs=0.01)
    assert group.why(a, 3.0) == "slow start 10%: its time out is over"
    assert shares(group, 33.0)["a"] == 0.5
    assert [event.after for event in group.history(a)] == ["weakened", "ejected", "slow start", "up"]


def test_who_joins_again_is_not_ejected_for_good() -> None:
    """Outlier detection has forgotten it meanwhile, and would not say that its time is over."""
    rules = TargetRules(slow_start=None, panic_threshold=0.0)
    a, b, c = members = targets_of("a", "b", "c", max_fails=0)
    group = Targets(rules, members, 0.0, outliers=Outliers())
    eject(group, 1.0, *[a] * 5)
    assert set(shares(group, 1.0)) == {"b", "c"}
    group.update([b, c], 2.0)
    group.update([a, b, c], 3.0)
    assert group.why(a, 3.0) == "up"
    assert set(shares(group, 3.0)) == {"a", "b", "c"}


@pytest.mark.parametrize("balance", sorted(BALANCERS))
def test_switched_off_outliers_have_all_of_their_weight(balance: str) -> None:
    """Whatever they were found to be."""
    judge = Judge([Said("a", 0.0, True, "too slow"), Said("b", 0.25, False, "slow")])
    group = group_of("a", "b", "c", rules=TargetRules(balance, panic_threshold=0.0), outliers=judge)
    assert set(shares(group, 1.0, 200)) == {"b", "c"}
    group.enabled = False
    assert set(shares(group, 1.0, 200)) == {"a", "b", "c"}
    assert [target.share for target in group.members] == [1.0, 1.0, 1.0]


def test_outlier_detection_hears_of_every_answer_and_is_asked_when_it_wants() -> None:
    """Once a second, or at once when it says so; answers that are failures are such; who has left is not heard of."""
    judge = Judge()
    group = group_of("a", "b", outliers=judge)
    a, b = group.members
    group.answered(group.pick(1.0), 0.2, 1.0)
    group.answered(group.pick(1.5), 0.3, 1.5, failed=True)
    assert judge.heard == [("a", False, 0.2), ("b", True, 0.3)]
    assert b.failures == {"answer": 1}
    asked = len(judge.evaluated)
    for _ in range(5):
        group.pick(1.9)
    assert len(judge.evaluated) == asked
    group.pick(2.0)
    assert len(judge.evaluated) == asked + 1
    judge.urgent = True
    group.failed(a, "closed", 2.1, 0.1)
    group.pick(2.1)
    assert len(judge.evaluated) == asked + 2
    group.update([a], 3.0)
    assert judge.watched == ["a"]
    heard = len(judge.heard)
    group.answered(b, 0.1, 3.0)
    assert len(judge.heard) == heard


def test_the_cap_holds_for_outliers_too() -> None:
    """One more than may be out keeps a tenth of its weight."""
    judge = Judge([Said(name, 0.0, True, "too slow") for name in "abc"])
    rules = TargetRules(slow_start=None, panic_threshold=0.0, max_ejected=0.5)
    group = group_of("a", "b", "c", "d", rules=rules, outliers=judge)
    assert shares(group, 1.0) == pytest.approx({"c": 0.1 / 1.1, "d": 1 / 1.1}, abs=0.01)


def test_a_target_past_two_seconds_loses_weight_leaves_and_returns() -> None:
    """With the real outlier detection: each step with its reason, and slow start at the end."""
    rules = TargetRules(balance="weighted-round-robin", slow_start=SlowStart(window=30.0), panic_threshold=0.5)
    group = group_of("a", "b", "c", "d", rules=rules, outliers=Outliers(OutlierRules()))
    slow = group.members[0]
    states: list[str] = []
    lowest: dict[str, float] = {}
    for step in range(40_000):
        now = 1.0 + step / 200
        target = group.pick(now)
        group.answered(target, 3.0 if target is slow and now < 60.0 else 0.05, now)
        group.leave(target)
        if not states or states[-1] != slow.state:
            states.append(str(slow.state))
        lowest[slow.state] = min(lowest.get(slow.state, 1.0), slow.share)
    assert states[:5] == ["up", "weakened", "ejected", "slow start", "up"]
    assert lowest["weakened"] <= 0.5
    assert lowest["slow start"] == pytest.approx(0.1)
    said = {event.after: event.why for event in group.history(slow)}
    assert "p99" in said["weakened"]
    assert "p99" in said["ejected"]
    assert said["slow start"].startswith("slow start 10%: ")


def test_failing_fast_is_not_being_fast() -> None:
    """With two choices by latency: a target that refuses in a millisecond does not draw the work."""
    rules = TargetRules(balance="p2c-ewma", slow_start=None)
    group = Targets(rules, targets_of("a", "b", max_fails=0), 0.0)
    a, b = group.members
    group.answered(a, 0.1, 1.0)
    group.answered(b, 0.1, 1.0)
    group.answered(a, 0.001, 1.5, failed=True)
    assert a.latency == 0.1
    group.answered(a, 5.0, 1.5, failed=True)
    assert a.latency == 5.0
    assert {use(group, 1.5) for _ in range(10)} == {"b"}


def test_keys_stay_with_their_targets_while_one_is_out() -> None:
    """A group that hashes: only keys of the ejected one move, and they come back."""
    rules = TargetRules(balance="consistent-hash", slow_start=None, panic_threshold=0.0)
    group = group_of("a", "b", "c", "d", rules=rules)

    def owners(now: float) -> list[str]:
        found = []
        for number in range(500):
            target = group.pick(now, key=f"user-{number}")
            found.append(target.name)
            group.answered(target, 0.01, now)
            group.leave(target)
        return found

    before = owners(1.0)
    eject(group, 1.0, group.members[0])
    during = owners(2.0)
    assert all(old in ("a", new) for old, new in zip(before, during, strict=True))
    assert "a" not in during
    owners(11.0)
    assert owners(11.0) == before


def test_histories_and_reasons_are_bounded() -> None:
    """The newest 32 changes; reasons past 32 are counted as other."""
    group = group_of("a", "b")
    a, _ = group.members
    for number in range(60):
        now = 1.0 + 20.0 * number
        eject(group, now, a)
        group.answered(a, 0.01, now + 5.0)
        group.failed(a, f"reason {number}", now + 5.0)
        group.answered(a, 0.01, now + 5.0)
    assert len(group.history(a)) == 32
    assert len(a.failures) == 33
    assert a.failures["other"] == 60 - 31


def test_statistics_are_plain() -> None:
    """They go out as JSON."""
    group = group_of("a", "b!", sticky=Sticky(b"sixteen or more!"))
    use(group, 1.0, fails=True)
    said = json.loads(json.dumps(group.statistics()))
    assert said["targets"] == 2
    assert said["healthy"] == 1
    assert said["each"]["a"]["state"] == "ejected"
    assert said["each"]["a"]["failures"] == {"refused": 1}
    assert said["in_flight"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"balance": "fastest"}, "no balancer 'fastest'"),
        ({"zone_headroom": 0.9}, r"zone_headroom 0\.9: must be at least 1"),
        ({"zone_headroom": nan}, "zone_headroom nan: must be at least 1"),
        ({"panic_threshold": 1.5}, r"panic_threshold 1\.5: must be from 0 to 1"),
        ({"max_ejected": -0.1}, r"max_ejected -0\.1: must be from 0 to 1"),
        ({"evaluate_every": 0.0}, r"evaluate_every 0\.0: must be above 0"),
    ],
)
def test_rules_are_checked(arguments: dict[str, Any], message: str) -> None:
    """Each with what it must be."""
    with pytest.raises(ValueError, match=message):
        TargetRules(**arguments)
    with pytest.raises(ValueError, match="history 0"):
        Target("a", history=0)
    with pytest.raises(ValueError, match="name ''"):
        Target("")  # it would be everybody's whose token is unknown, and its events would be the group's
