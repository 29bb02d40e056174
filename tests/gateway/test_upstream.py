"""Which target is next. No sockets: time is passed in."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from forebay.config import schema
from forebay.errors import ConnectFailed, NoTarget, UpstreamTimeout
from forebay.gateway.upstream import Target, Upstream


def upstream(*names: str, **fields: float) -> Upstream:
    """Targets by name; one that ends in ! is a backup."""
    targets = [schema.Target(url=f"http://{n.strip('!')}:1", backup=n.endswith("!"), **fields) for n in names]  # type: ignore[arg-type]  # max_fails is an int
    return Upstream("u", schema.Upstream(targets=targets, balance="round-robin"))


def use(group: Upstream, now: float, *tried: Target, fails: bool = False, answers: bool = False) -> str:
    """One try; its target's name."""
    target = group.pick(now, tried=tried)
    if fails:
        group.broke(target, ConnectFailed("refused"), now)
    if answers:
        group.answered(target, 0.01, now)
    group.leave(target)
    return target.name.removeprefix("http://").removesuffix(":1")


def test_primaries_then_backups_then_anybody() -> None:
    """The three ranks, and the way back."""
    group = upstream("a", "b", "c!", fail_timeout=10.0)
    assert [use(group, 1.0) for _ in range(3)] == ["a", "b", "a"]
    assert use(group, 1.0, fails=True) == "b"
    assert use(group, 1.0, fails=True) == "a"
    assert [use(group, 2.0) for _ in range(2)] == ["c", "c"]
    assert use(group, 2.0, fails=True) == "c"
    assert {use(group, 3.0) for _ in range(4)} == {"a", "b"}
    assert use(group, 3.0, answers=True) in "ab"
    assert len({use(group, 3.0) for _ in range(4)}) == 1


def test_a_retry_goes_to_somebody_else() -> None:
    """Another primary, then a backup, then nobody."""
    group = upstream("a", "b", "c!")
    a, b, c = group.targets
    assert use(group, 1.0, a) == "b"
    assert use(group, 1.0, a, b) == "c"
    with pytest.raises(NoTarget, match="every target of u that is up was tried"):
        group.pick(1.0, tried=(a, b, c))


def test_one_probe_at_a_time() -> None:
    """After fail_timeout one request tries the target; the others stay away until it has said something."""
    group = upstream("a", "b", fail_timeout=10.0)
    a, b = group.targets
    assert use(group, 1.0, b, fails=True) == "a"
    assert {use(group, 10.9) for _ in range(4)} == {"b"}
    probe = group.pick(11.0, tried=(b,))
    assert probe is a
    assert {use(group, 11.0) for _ in range(4)} == {"b"}
    group.leave(probe)  # its client left
    assert {use(group, 11.0, answers=True) for _ in range(4)} == {"a", "b"}
    assert a.state == "up"


def test_in_flight_is_counted() -> None:
    """From pick to leave."""
    group = upstream("a")
    target = group.pick(1.0)
    assert (target.in_flight, target.picks) == (1, 1)
    group.leave(target)
    assert (target.in_flight, target.picks) == (0, 1)


def test_a_new_configuration_adopts_the_old_one() -> None:
    """What is known of a server stays with it, wherever it stands in the list; what it may do is said anew."""
    old = upstream("a", "b", fail_timeout=10.0)
    old.broke(old.targets[0], ConnectFailed("refused"), 1.0)
    new = upstream("b", "a", "c", fail_timeout=10.0)
    new.adopt(old, 1.0)
    assert {use(new, 2.0) for _ in range(6)} == {"b", "c"}
    assert new.targets[1].failures == {"connect-failed": 1}
    forgiving = upstream("a", "b", max_fails=0)
    forgiving.adopt(old, 1.0)
    assert {use(forgiving, 2.0) for _ in range(4)} == {"a", "b"}


def test_who_is_not_checked_any_more_is_not_down_for_good() -> None:
    """A configuration without health checks takes over from one with them, which had taken a target out."""
    targets = [schema.Target(url="http://a:1"), schema.Target(url="http://b:1")]
    checked = schema.Upstream(targets=targets, health=schema.Health(path="/"))
    old = Upstream("u", checked)
    for _ in range(3):
        old.checked(old.targets[0], "status 503", 1.0)
    again = Upstream("u", checked)
    again.adopt(old, 2.0)
    assert again.targets[0].state == "down"
    new = Upstream("u", schema.Upstream(targets=targets))
    new.adopt(again, 3.0)
    assert new.targets[0].state == "up"


def test_the_log_says_who_is_out_and_why() -> None:
    """With figures and the reason: once when it goes, also after a probe, and once when it is back."""
    group = upstream("a", "b", max_fails=2, fail_timeout=10.0)
    _, b = group.targets
    with capture_logs() as logs:
        for _ in range(2):
            use(group, 1.0, b, fails=True)
        assert use(group, 11.0, b, fails=True) == "a"
        assert use(group, 21.0, b, answers=True) == "a"
    common = {"upstream": "u", "target": "http://a:1"}
    out = {
        **common,
        "event": "target taken out",
        "log_level": "warning",
        "why": "2 failures within 10 s: connect-failed",
        "reason": "connect-failed",
        "error": "refused",
        "seconds": 10.0,
        "left": 1,
    }
    again = out | {"why": "2 failures within 10 s, 1 failed probe since: connect-failed"}
    back = {**common, "event": "target is back", "log_level": "info", "why": "a request was answered"}
    assert logs == [out, again, back]


def test_the_log_says_what_health_checks_found() -> None:
    """How many were bad in a row, and the last one."""
    group = upstream("a", "b")
    a, _ = group.targets
    with capture_logs() as logs:
        for why in ("status 503", "status 500", "no answer within 1 s", "", ""):
            group.checked(a, why, 1.0)
    assert [(line["event"], line["why"], line.get("error")) for line in logs] == [
        ("target taken out", "3 failed checks in a row: no answer within 1 s", "no answer within 1 s"),
        ("target is back", "health checks succeeded", None),
    ]
    assert a.ejections == 1


def test_failures_are_counted_by_reason() -> None:
    """Of the target that failed, whether that takes it out or not."""
    group = upstream("a", max_fails=0)
    (a,) = group.targets
    for error in (ConnectFailed("refused"), UpstreamTimeout("late"), UpstreamTimeout("late")):
        group.broke(a, error, 1.0)
    assert a.failures == {"connect-failed": 1, "timeout": 2}
    assert (a.state, a.ejections) == ("up", 0)


def test_what_took_how_long_is_counted_and_known() -> None:
    """In the histogram for all, and by the targets where the balancer asks for it."""
    group = Upstream("u", schema.Upstream(targets=[schema.Target(url="http://a:1")], balance="p2c-ewma"))
    assert use(group, 1.0, answers=True) == "a"
    assert group.targets[0].latency == 0.01
    assert sum(group.seconds.counts) == 1
    plain = upstream("a")
    assert use(plain, 1.0, answers=True) == "a"
    assert plain.targets[0].latency == 0.0
    assert sum(plain.seconds.counts) == 1
