"""Which target is next. No sockets: time is passed in."""

from __future__ import annotations

import pytest

from forebay.config import schema
from forebay.errors import ConnectFailed, NoTarget
from forebay.gateway.upstream import Target, Upstream


def upstream(*names: str, **fields: float) -> Upstream:
    """Targets by name; one that ends in ! is a backup."""
    targets = [schema.Target(url=f"http://{n.strip('!')}:1", backup=n.endswith("!"), **fields) for n in names]  # type: ignore[arg-type]  # max_fails is an int
    return Upstream("u", schema.Upstream(targets=targets, balance="round-robin"))


def use(group: Upstream, now: float, *tried: Target, fails: bool = False, answers: bool = False) -> str:
    """One try; its target's name."""
    target = group.pick(now, tried)
    if fails:
        group.failed(target, ConnectFailed("refused"), now)
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
        group.pick(1.0, (a, b, c))


def test_one_probe_at_a_time() -> None:
    """After fail_timeout one request tries the target; the others stay away until it has said something."""
    group = upstream("a", "b", fail_timeout=10.0)
    a, b = group.targets
    assert use(group, 1.0, b, fails=True) == "a"
    assert {use(group, 10.9) for _ in range(4)} == {"b"}
    probe = group.pick(11.0, (b,))
    assert probe is a
    assert {use(group, 11.0) for _ in range(4)} == {"b"}
    group.leave(probe)  # its client left
    assert {use(group, 11.0, answers=True) for _ in range(4)} == {"a", "b"}
    assert a.state == "up"


def test_in_flight_is_counted() -> None:
    """From pick to leave."""
    group = upstream("a")
    target = group.pick(1.0)
    assert (target.in_flight, target.requests) == (1, 1)
    group.leave(target)
    assert (target.in_flight, target.requests) == (0, 1)


def test_a_new_configuration_adopts_the_old_one() -> None:
    """What is known of a server stays with it, wherever it stands in the list; what it may do is said anew."""
    old = upstream("a", "b", fail_timeout=10.0)
    old.failed(old.targets[0], ConnectFailed("refused"), 1.0)
    new = upstream("b", "a", "c", fail_timeout=10.0)
    new.adopt(old)
    assert {use(new, 2.0) for _ in range(6)} == {"b", "c"}
    assert new.targets[1].failures == {"connect-failed": 1}
    forgiving = upstream("a", "b", max_fails=0)
    forgiving.adopt(old)
    assert {use(forgiving, 2.0) for _ in range(4)} == {"a", "b"}
