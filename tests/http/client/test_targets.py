"""A group of servers: who is picked, what counts against whom, who is left alone, and who comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from forebay.engine.deadlines import fail_after
from forebay.engine.loop import now
from forebay.errors import (
    CircuitOpen,
    ConnectFailed,
    ConnectionClosed,
    ConnectTimeout,
    DeadlineExceeded,
    NoTarget,
    Overloaded,
    PoolExhausted,
    ProxyFailed,
    ReadTimeout,
    TLSFailed,
    UpstreamClosed,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from forebay.http.client.balancing import Balancing, HealthCheck
from forebay.http.client.failures import failure_reason
from forebay.http.client.resolver import ResolvedTarget, StaticResolver
from forebay.http.client.targets import Balanced
from forebay.policy.breaker import Breaker
from forebay.policy.deadline import deadline
from forebay.policy.outlier_rules import OutlierRules
from forebay.policy.target import TargetEvent
from forebay.policy.target_rules import TargetRules
from forebay.testing.virtual_clock import VirtualClock
from tests.http.client.target_servers import A, B, C, Servers, Told, once_only, request
from tests.support import eventually

EVENLY = Balancing(TargetRules("round-robin", slow_start=None), outliers=None)


def on_clock(main: Callable[[], Awaitable[None]]) -> None:
    """Run ``main`` on a virtual clock."""

    async def whole() -> None:
        await main()

    with VirtualClock(packages=(__name__, "tests.http.client.target_servers")) as clock:
        clock.run(whole())


async def started(servers: Servers, balancing: Balancing = EVENLY, *targets: Any, **more: Any) -> Balanced:
    """A group of three, or of ``targets``."""
    made = Balanced(StaticResolver(*(targets or (A, B, C))), servers.send, balancing, **more)
    await made.start()
    return made


async def test_each_request_goes_to_one_of_them() -> None:
    """In turns, here; the connection leads there, the URL stays what it was, and nothing is left in flight."""
    servers = Servers()
    group = await started(servers)
    for _ in range(6):
        response = await group.send(request())
        assert response.status == 200
        assert str(response.request.url) == f"{A}/x"
        assert response.request.tried == servers.asked[-1:]
    assert servers.shares == {A: 2, B: 2, C: 2}
    assert group.targets.statistics()["in_flight"] == 0
    await group.stop()


async def test_what_is_for_others_goes_where_it_says() -> None:
    """To another origin, as after a redirect; or to an endpoint that somebody has picked."""
    servers = Servers()
    group = await started(servers)
    await group.send(request("http://elsewhere:1/x"))
    picked = group.targets.members[2].endpoint
    await group.send(request(endpoint=picked))
    assert servers.asked == ["http://elsewhere:1", C]
    assert [asked.tried for asked in servers.requests] == [[], []]
    await group.stop()


@pytest.mark.parametrize("balancer", ["round-robin", "random"])
async def test_a_request_that_comes_again_goes_elsewhere(balancer: str) -> None:
    """As long as there is anybody else; then it goes round again, though not to the one where it was last."""
    servers = Servers()
    group = await started(servers, Balancing(TargetRules(balancer), outliers=None))
    again = request()
    for _ in range(3):
        await group.send(again)
    assert sorted(servers.asked) == [A, B, C]
    for _ in range(20):
        await group.send(again)
    assert all(one != other for one, other in pairwise(servers.asked))
    await group.stop()


async def test_one_target_is_tried_again() -> None:
    """Where there is no other."""
    servers = Servers()
    group = await started(servers, EVENLY, A)
    again = request()
    await group.send(again)
    await group.send(again)
    assert servers.asked == [A, A]
    await group.stop()


async def test_where_no_connection_comes_about_the_next_one_is_asked() -> None:
    """At once, whatever the request: nothing was sent. It counts against the target, and is no second try."""
    servers = Servers(a=ConnectFailed("refused"))
    group = await started(servers)
    for _ in range(9):
        assert (await group.send(request(method="POST", content=once_only()))).status == 200
    assert servers.shares[A] >= 3
    assert group.statistics()["targets"]["each"][A]["failures"] == {"connect-failed": servers.shares[A]}
    await group.stop()


@pytest.mark.parametrize("error", [TLSFailed("no"), ProxyFailed("no"), UpstreamClosed("no"), ReadTimeout("no")])
async def test_other_errors_are_for_the_retry_to_judge(error: UpstreamError) -> None:
    """They would be the same with another target, or something was sent."""
    servers = Servers(a=error, b=error, c=error)
    group = await started(servers)
    with pytest.raises(type(error)):
        await group.send(request())
    assert len(servers.asked) == 1
    await group.stop()


async def test_it_ends_when_all_were_asked() -> None:
    """With the error of the last."""
    servers = Servers(a=ConnectFailed("a"), b=ConnectFailed("b"), c=ConnectTimeout("c"))
    group = await started(servers)
    with pytest.raises(ConnectFailed):
        await group.send(request())
    assert sorted(servers.asked) == [A, B, C]
    await group.stop()


FAULTS: list[tuple[BaseException, str | None]] = [
    (ConnectFailed("no"), "connect-failed"),
    (ConnectTimeout("no"), "connect-timeout"),
    (TLSFailed("no"), "tls-failed"),
    (UpstreamClosed("no"), "closed"),
    (UpstreamTimeout("no"), "timeout"),
    (ReadTimeout("no"), "read-timeout"),
    (UpstreamProtocolError("no"), "protocol-error"),
    (UpstreamError("no"), "failed"),
    (DeadlineExceeded("no"), "timeout"),
    (DeadlineExceeded("no", inherited=True), None),
    (asyncio.CancelledError(), None),
    (PoolExhausted("pool", "no"), None),
    (Overloaded("bulkhead", "no"), None),
    (CircuitOpen("no"), None),
    (NoTarget("no"), None),
    (ProxyFailed("no"), None),
    (ConnectionClosed("no"), None),
    (ZeroDivisionError(), None),
]


@pytest.mark.parametrize(("error", "fault"), FAULTS, ids=lambda value: type(value).__name__)
async def test_whose_fault_an_error_is(error: BaseException, fault: str | None) -> None:
    """What the server did counts against it, in the group and in its circuit; what we did says nothing."""
    assert failure_reason(error) == fault
    servers = Servers(a=error)
    group = await started(servers, EVENLY, A, breaker=Breaker())
    with pytest.raises(type(error)):
        await group.send(request())
    found = group.statistics()
    assert found["targets"]["each"][A]["failures"] == ({fault: 1} if fault else {})
    circuit = found["circuits"]["circuits"][A]
    assert (circuit["failed"], circuit["undecided"]) == ((1, 0) if fault else (0, 1))
    assert found["targets"]["in_flight"] == 0
    await group.stop()


@pytest.mark.parametrize(("status", "extra", "failed"), [
    (200, set(), 0), (404, set(), 0), (500, set(), 0), (502, set(), 1), (503, set(), 1), (504, set(), 1),
    (500, {500}, 1), (429, {429}, 1),
])  # fmt: skip
async def test_which_answers_are_failures(status: int, extra: set[int], failed: int) -> None:
    """502 to 504, and those that are named; they are given to the caller all the same."""
    servers = Servers(a=status)
    balancing = Balancing(outliers=None, failed_statuses=frozenset({502, 503, 504} | extra))
    group = await started(servers, balancing, A, breaker=Breaker())
    assert (await group.send(request())).status == status
    found = group.statistics()
    assert sum(found["targets"]["each"][A]["failures"].values()) == failed
    assert found["circuits"]["circuits"][A]["failed"] == failed
    await group.stop()


def test_an_open_circuit_is_passed_over() -> None:
    """The others are asked; when none is left nobody is, and the error says when it is worth another try."""

    async def main() -> None:
        servers = Servers(a=ConnectFailed("no"))
        group = await started(servers, EVENLY, A, B, breaker=Breaker(min_calls=1, calls=1, open_for=7.0))
        for _ in range(2):
            with suppress(ConnectFailed):
                await group.send(request())
        servers.asked.clear()
        for _ in range(4):
            await group.send(request())
        assert servers.shares == {B: 4}
        await asyncio.sleep(2.0)
        servers.does[B] = 503
        await group.send(request())
        servers.asked.clear()
        with pytest.raises(CircuitOpen, match=f"all 2 targets of {A} are left alone") as refused:
            await group.send(request())
        assert refused.value.retry_after == pytest.approx(5.0)
        assert refused.value.retry == "safe"
        assert servers.asked == []
        assert group.targets.statistics()["in_flight"] == 0
        await asyncio.sleep(5.0)
        servers.does[A] = 200
        assert (await group.send(request())).status == 200
        await group.stop()

    on_clock(main)


def test_a_slow_target_that_nobody_waits_for_is_known_to_be_slow() -> None:
    """Its answers are never seen, since callers leave before; it gets little work nevertheless, and no blame."""

    async def main() -> None:
        servers = Servers(a=5.0, b=0.002, c=0.002)
        group = await started(servers, Balancing(outliers=None))
        for _ in range(200):
            try:
                async with asyncio.timeout(0.1):
                    await group.send(request())
            except TimeoutError:
                pass
        assert servers.shares[A] < 10
        assert group.targets.statistics()["each"][A]["failures"] == {}
        assert (servers.running, group.targets.statistics()["in_flight"]) == (0, 0)
        await group.stop()

    on_clock(main)


def test_a_request_whose_time_is_over_counts_against_its_target() -> None:
    """It had all of that time; a deadline of the caller that is earlier says nothing."""

    async def main() -> None:
        servers = Servers(a=5.0)
        group = await started(servers, EVENLY, A, breaker=Breaker())
        for seconds in (1.0, 0.5):
            with pytest.raises(DeadlineExceeded):
                async with fail_after(seconds):
                    await group.send(request(deadline=now() + 1.0))
        assert group.targets.statistics()["each"][A]["failures"] == {"timeout": 1}
        circuit = group.statistics()["circuits"]["circuits"][A]
        assert (circuit["failed"], circuit["undecided"]) == (1, 1)
        await group.stop()

    on_clock(main)


def test_one_that_fails_is_taken_out_and_comes_back() -> None:
    """With a reason and figures, in events and statistics."""

    async def main() -> None:
        events: list[TargetEvent] = []
        servers = Servers(a=503)
        rules = OutlierRules(consecutive_failures=3, ejection_time=20.0)
        balancing = Balancing(TargetRules("round-robin", slow_start=None), outliers=rules)
        group = await started(servers, balancing, on_event=events.append)
        for _ in range(30):
            await group.send(request())
            await asyncio.sleep(0.01)
        assert servers.shares[A] == 3
        assert group.targets.statistics()["each"][A]["state"] == "ejected"
        (event,) = events
        assert (event.target, event.after) == (A, "ejected")
        assert "3 failures in a row" in event.why
        servers.does[A] = 200
        await asyncio.sleep(20.0)
        for _ in range(6):
            await group.send(request())
        assert servers.shares[A] > 3
        assert group.targets.statistics()["each"][A]["state"] == "up"
        await group.stop()

    on_clock(main)


async def test_whoever_is_told_of_changes_may_fail() -> None:
    """The request that it was noticed by is answered all the same."""

    def fails(event: TargetEvent) -> None:
        told.append(event)
        raise ZeroDivisionError

    told: list[TargetEvent] = []
    servers = Servers(a=503)
    balancing = Balancing(outliers=None, max_fails=1)
    group = await started(servers, balancing, A, B, on_event=fails)
    for _ in range(20):
        assert (await group.send(request())).status in (200, 503)
    assert [event.target for event in told][:1] == [A]
    assert group.targets.statistics()["in_flight"] == 0
    await group.stop()


async def test_equal_keys_go_to_the_same_target() -> None:
    """The key is made of the request."""
    servers = Servers()
    rules = TargetRules("consistent-hash", slow_start=None)
    group = await started(servers, Balancing(rules, key=lambda asked: asked.url.path))
    for _ in range(3):
        for path in ("/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8"):
            await group.send(request(A + path))
    by_path: dict[str, set[str]] = {}
    for asked, name in zip(servers.requests, servers.asked, strict=True):
        by_path.setdefault(asked.url.path, set()).add(name)
    assert all(len(names) == 1 for names in by_path.values())
    assert len(servers.shares) > 1
    await group.stop()


def test_requests_wait_for_the_first_set() -> None:
    """That of a resolver, for a while; then nobody knows where to send them, and why is said."""

    async def main() -> None:
        servers = Servers()
        resolver = Told("http://orders/v1")
        group = Balanced(resolver, servers.send, EVENLY)
        await group.start()
        early = asyncio.create_task(group.send(request("http://orders/v1/x")))
        await asyncio.sleep(2.0)
        resolver.say([A])
        assert (await early).status == 200
        await group.stop()

        group = Balanced(resolver, servers.send, EVENLY)
        await group.start()
        resolver.say(OSError("the registry is down"))
        began = now()
        with pytest.raises(NoTarget, match="within 5 s: OSError: the registry is down"):
            await group.send(request("http://orders/v1/x"))
        assert now() - began == pytest.approx(5.0, abs=0.01)
        with pytest.raises(DeadlineExceeded):
            async with fail_after(1.0):
                await group.send(request("http://orders/v1/x"))
        assert now() - began == pytest.approx(6.0, abs=0.01)
        with pytest.raises(DeadlineExceeded) as over, deadline(1.0):
            await group.send(request("http://orders/v1/x"))
        assert over.value.inherited
        assert now() - began == pytest.approx(7.0, abs=0.01)
        await group.stop()
        assert servers.asked == [A]

    on_clock(main)


async def test_targets_join_and_leave() -> None:
    """One that stays keeps its connections, its counts and its state; one that has left ends what it began."""
    servers = Servers()
    resolver = Told()
    group = Balanced(resolver, servers.send, EVENLY)
    await group.start()
    resolver.say([A, B])
    await group.send(request("http://orders/x"))
    await group.send(request("http://orders/x"))
    (before,) = (target for target in group.targets.members if target.name == B)
    resolver.say([ResolvedTarget(B, weight=3, zone="z"), C])
    await eventually(lambda: [target.name for target in group.targets.members] == [B, C])
    after = group.targets.members[0]
    assert after is before
    assert after.endpoint is before.endpoint
    assert (after.weight, after.zone, after.picks) == (3, "z", 1)
    await group.stop()


def test_health_checks_take_out_and_bring_back() -> None:
    """They ask at a path of each, by its own name, and let go of the answers."""

    async def main() -> None:
        servers = Servers(b=503)
        health = HealthCheck("/livez", interval=1.0, timeout=0.5, rise=2, fall=3)
        group = await started(servers, EVENLY, health=health)
        await asyncio.sleep(5.0)
        each = group.targets.statistics()["each"]
        assert {name: found["state"] for name, found in each.items()} == {A: "up", B: "down", C: "up"}
        assert each[B]["cause"] == "3 bad checks in a row, the last: status 503"
        assert {str(asked.url) for asked in servers.requests} == {f"{name}/livez" for name in (A, B, C)}
        assert all(response.discarded for response in servers.responses)
        servers.does[B] = 5.0  # worse than an answer: none
        await asyncio.sleep(3.0)
        assert group.statistics()["checks"]["timed_out"] > 1
        servers.does[B] = 200
        await asyncio.sleep(5.0)
        assert group.targets.statistics()["each"][B]["state"] == "up"
        await group.stop()
        assert servers.running == 0
        asked = len(servers.asked)
        await asyncio.sleep(5.0)
        assert len(servers.asked) == asked

    on_clock(main)


def test_a_check_for_which_there_is_no_connection() -> None:
    """Is our own affair: who is up stays that, and who is down is not brought back by it."""

    async def main() -> None:
        servers = Servers(b=503)
        group = await started(servers, EVENLY, A, B, health=HealthCheck(interval=1.0, timeout=0.5, rise=2, fall=2))
        await asyncio.sleep(4.0)
        servers.does.update({A: PoolExhausted("pool", "no"), B: PoolExhausted("pool", "no")})
        await asyncio.sleep(10.0)
        each = group.targets.statistics()["each"]
        assert {name: found["state"] for name, found in each.items()} == {A: "up", B: "down"}
        pools = [asked.timeouts.pool for asked in servers.requests if asked.timeouts.pool is not None]
        assert max(pools) < 0.5
        await group.stop()

    on_clock(main)


def test_it_says_what_it_is() -> None:
    """For who reads the order of a client's policies."""
    group = Balanced(StaticResolver(A, B), Servers().send, breaker=Breaker(), health=HealthCheck("/up"))
    assert repr(group) == "targets(p2c-ewma of 2, outliers, health /up, breaker 50% of 20)"


@pytest.mark.parametrize(("made", "said"), [
    (lambda: Balancing(TargetRules("consistent-hash")), "key None: consistent-hash needs"),
    (lambda: Balancing(failed_statuses=frozenset({200})), "failed_statuses 200: must be 400 to 599"),
    (lambda: Balancing(first_set=0), "first_set 0: must be above 0"),
    (lambda: Balancing(max_fails=-1), "max_fails -1"),
    (lambda: Balancing.of("fastest"), "no balancer 'fastest'"),
    (lambda: HealthCheck("livez"), "path 'livez': must begin with /"),
    (lambda: HealthCheck(interval=0), "interval 0"),
    (lambda: HealthCheck(rise=0), "rise 0"),
])  # fmt: skip
def test_settings_that_cannot_be(made: Callable[[], Any], said: str) -> None:
    """Are refused where they are made, and say what would be right."""
    with pytest.raises(ValueError, match=said):
        made()


def test_what_may_be_given_for_balancing() -> None:
    """The name of a balancer, rules, all of it, or nothing."""
    rules = TargetRules("random")
    assert Balancing.of("random").rules == rules
    assert Balancing.of(rules).rules is rules
    assert Balancing.of(EVENLY) is EVENLY
    assert Balancing.of(None) == Balancing()
