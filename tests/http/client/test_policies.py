"""The policies around each request: their order, what is tried again and where, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay import App
from forebay.engine.bulkheads import Slots
from forebay.engine.deadlines import fail_after
from forebay.engine.dns_cache import DNSCache
from forebay.engine.loop import now
from forebay.errors import CircuitOpen, ConnectFailed, DeadlineExceeded, Overloaded, UpstreamClosed
from forebay.http import HTTPServer, Request, Response
from forebay.http.client.balancing import Balancing, HealthCheck
from forebay.http.client.client import Client
from forebay.http.client.policies import Policies
from forebay.http.client.request import ClientRequest
from forebay.http.client.resolver import DNSResolver, StaticResolver
from forebay.http.client.response import ClientResponse
from forebay.http.client.settings import Limits
from forebay.http.client.trace import Step, Trace
from forebay.policy.backoff import Backoff
from forebay.policy.breaker import Breaker
from forebay.policy.budget import RetryBudget
from forebay.policy.bulkhead import Bulkhead
from forebay.policy.deadline import deadline
from forebay.policy.hedge import Hedge
from forebay.policy.limiters import TokenBucket
from forebay.policy.retry import Retry
from forebay.policy.target_rules import TargetRules
from forebay.testing.virtual_clock import VirtualClock
from tests.http.client.kit import Peer, Play, playing
from tests.http.client.target_servers import A, B, C, Names, Servers, once_only, request
from tests.support import eventually, free_port, running

AT_ONCE = Backoff(initial=0.001, cap=0.001, jitter="none")
RETRY = Retry(backoff=AT_ONCE, budget_share=None)
HEDGE = Hedge(initial_delay=1.0)
EVENLY = Balancing(TargetRules("round-robin", slow_start=None), outliers=None)
THREE = StaticResolver(A, B, C)


def on_clock(main: Callable[[], Awaitable[None]]) -> None:
    """Run ``main`` on a virtual clock."""

    async def whole() -> None:
        await main()

    with VirtualClock(packages=(__name__, "tests.http.client.target_servers")) as clock:
        clock.run(whole())


def test_the_order_is_one_and_told() -> None:
    """Whatever the order of the arguments; what is not given is not there, and of nothing the transport is left."""
    servers = Servers()
    options: dict[str, Any] = {
        "attempt_timeout": 0.5, "breaker": Breaker(), "limiter": TokenBucket(100, 10), "bulkhead": Bulkhead(limit=7),
        "hedge": HEDGE, "retry": Retry(attempts=4),
    }  # fmt: skip
    told = repr(Policies(servers.send, **options))
    words = ["retry(4", "hedge(p95)", "bulkhead(7)", "limiter(", "breaker(50% of 20)", "attempt_timeout(0.5 s)"]
    assert [told.index(word) for word in words] == sorted(told.index(word) for word in words)
    told = repr(Policies(servers.send, **options, resolver=THREE, balance=EVENLY, health=HealthCheck()))
    words[4] = "targets(round-robin of 3, health /livez, breaker 50% of 20)"
    assert [told.index(word) for word in words] == sorted(told.index(word) for word in words)
    assert told.count("breaker") == 1  # that of the targets, each of which has a circuit
    nothing = Policies(servers.send)
    assert repr(nothing) == "no policies"
    assert nothing.send == servers.send


async def test_a_retry_goes_to_another_target() -> None:
    """At once, though the first one asked to wait; what it answered is let go of, and the caller's is whole."""
    servers = Servers(a={"retry-after": "5"}, b=ConnectFailed("no"))
    policies = Policies(servers.send, retry=RETRY, resolver=THREE, balance=EVENLY)
    await policies.start()
    trace = Trace()
    asked = request(trace=trace)
    began = now()
    response = await policies.send(asked)
    assert now() - began < 2
    assert (response.status, await response.read()) == (200, b"ok")
    assert sorted(servers.asked) == sorted({*servers.asked})
    assert [made.discarded for made in servers.responses[:-1]] == [1] * (len(servers.responses) - 1)
    assert servers.responses[-1].discarded == 0
    assert response.request is not asked
    assert asked.endpoint is None
    marks = [event.detail for event in trace.events if event.step is Step.RETRY]
    assert [mark["attempt"] for mark in marks] == list(range(2, len(servers.asked) + 1))
    assert all(mark.get("status") == 503 or mark.get("error") == "no" for mark in marks)
    await policies.stop()


def test_who_asks_to_wait_is_waited_for_where_there_is_no_other() -> None:
    """With one server, and with one target."""

    async def main() -> None:
        for more in ({}, {"resolver": StaticResolver(A), "balance": EVENLY}):
            servers = Servers(a=[{"retry-after": "5"}, 200])
            policies = Policies(servers.send, retry=RETRY, **more)  # type: ignore[arg-type]  # of each its own kind
            await policies.start()
            began = now()
            assert (await policies.send(request())).status == 200
            assert now() - began == pytest.approx(5.0, abs=0.01)
            assert servers.asked == [A, A]
            await policies.stop()

    on_clock(main)


@pytest.mark.parametrize(("what", "method", "more", "tries"), [
    (503, "GET", {}, 3),
    (500, "GET", {}, 1),
    (503, "POST", {}, 1),
    (503, "POST", {"idempotent": True}, 3),
    (503, "GET", {"idempotent": False}, 1),
    (503, "GET", {"content": once_only()}, 1),
    (429, "POST", {}, 3),  # which says that nothing was done
    (ConnectFailed("no"), "POST", {}, 3),
    (ConnectFailed("no"), "POST", {"content": once_only()}, 1),
    (UpstreamClosed("no"), "POST", {}, 1),
    (UpstreamClosed("no"), "PUT", {}, 3),
])  # fmt: skip
@pytest.mark.parametrize("targets", [0, 3])
async def test_what_is_tried_again(what: Any, method: str, more: dict[str, Any], tries: int, targets: int) -> None:
    """What may be done twice and can be sent twice; else the caller gets the answer or the error, whole."""
    servers = Servers(a=what, b=what, c=what)
    balanced: dict[str, Any] = {"resolver": THREE, "balance": EVENLY} if targets else {}
    policies = Policies(servers.send, retry=RETRY, **balanced)
    await policies.start()
    if isinstance(what, int):
        assert (await policies.send(request(method=method, **more))).status == what
        assert [response.discarded for response in servers.responses] == [1] * (tries - 1) + [0]
    else:
        with pytest.raises(type(what)):
            await policies.send(request(method=method, **more))
    if targets and isinstance(what, ConnectFailed):
        tries += 2  # the first try is at all three, since nothing was sent
    assert len(servers.asked) == tries
    assert len(set(servers.asked)) == (min(tries, targets) if targets else 1)
    await policies.stop()


async def test_a_key_makes_a_request_one_that_may_be_repeated() -> None:
    """Whoever sends an idempotency key says that the server looks at it."""
    servers = Servers(a=[503, 200])
    policies = Policies(servers.send, retry=RETRY)
    asked = request(method="POST")
    asked.headers["idempotency-key"] = "1"
    assert (await policies.send(asked)).status == 200
    assert len(servers.asked) == 2


def test_a_hedge_goes_to_another_target() -> None:
    """The loser is cancelled, and counts as slow for whoever picks next."""

    async def main() -> None:
        servers = Servers(a=60.0, b=0.01, c=0.01)
        policies = Policies(servers.send, hedge=HEDGE, resolver=THREE, balance=EVENLY)
        await policies.start()
        trace = Trace()
        for _ in range(3):
            began = now()
            assert (await policies.send(request(trace=trace))).status == 200
            assert now() - began < 1.1
        assert servers.running == 0
        slow = servers.shares[A]
        assert slow > 0
        assert len(servers.asked) == 3 + slow
        marks = [event.detail for event in trace.events if event.step is Step.RETRY]
        assert marks == [{"attempt": 2, "hedge": True}] * slow
        assert len({id(asked.trace) for asked in servers.requests}) == 1 + slow  # each hedge knows its own events
        assert policies.statistics()["hedge"]["won"] == slow
        assert policies.statistics()["targets"]["targets"]["in_flight"] == 0
        await policies.stop()

    on_clock(main)


async def test_one_budget_for_all() -> None:
    """Second tries are a share of the requests, however many fail, and whoever's they are."""
    servers = Servers(a=503, b=503, c=503)
    budget = RetryBudget(0.2, min_per_second=0.0)
    policies = Policies(servers.send, retry=Retry(backoff=None), resolver=THREE, balance=EVENLY, budget=budget)
    other = Policies(servers.send, retry=Retry(backoff=None), budget=budget)
    await policies.start()
    for _ in range(100):
        await policies.send(request())
        await other.send(request())
    assert len(servers.asked) == 240
    await policies.stop()


async def test_a_circuit_for_each_origin() -> None:
    """Without targets: what is wrong with one server is not held against another."""
    servers = Servers(a=503)
    policies = Policies(servers.send, breaker=Breaker(min_calls=3))
    for _ in range(3):
        await policies.send(request())
    with pytest.raises(CircuitOpen, match="http://a:1 is open: 3 of 3 calls"):
        await policies.send(request())
    assert (await policies.send(request(f"{B}/x"))).status == 200
    assert policies.statistics()["breaker"]["states"] == {"open": 1, "closed": 1}


def test_a_circuit_opens_for_who_lets_the_time_of_requests_pass() -> None:
    """With targets and without: a server that does not answer in the request's own time fails, which is logged; one
    whose caller leaves earlier does not."""

    async def main() -> None:
        for more in ({}, {"resolver": StaticResolver(A), "balance": EVENLY}):
            servers = Servers(a=60.0)
            policies = Policies(servers.send, breaker=Breaker(min_calls=3), **more)  # type: ignore[arg-type]  # as above
            await policies.start()
            with capture_logs() as logs:
                for own, seconds in ((1.0, 0.5), (1.0, 0.5), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0)):
                    with pytest.raises(DeadlineExceeded):
                        async with fail_after(seconds):
                            await policies.send(request(deadline=now() + own))
                with pytest.raises(CircuitOpen):
                    await policies.send(request())
            (told,) = [entry for entry in logs if entry["event"] == "circuit"]
            assert (told["target"], told["before"], told["after"], told["log_level"]) == (
                A,
                "closed",
                "open",
                "warning",
            )
            assert told["why"].startswith("3 of 3 calls")
            assert servers.running == 0
            await policies.stop()

    on_clock(main)


def test_each_try_has_its_time() -> None:
    """And a target that does not answer in it is a failing one; the caller's own deadline says nothing about it."""

    async def main() -> None:
        servers = Servers(a=60.0)
        policies = Policies(
            servers.send, retry=RETRY, attempt_timeout=0.5, breaker=Breaker(), resolver=THREE, balance=EVENLY
        )
        await policies.start()
        for _ in range(3):
            began = now()
            assert (await policies.send(request())).status == 200
            assert now() - began < 0.6
        found = policies.statistics()["targets"]
        assert servers.shares[A] > 0
        assert found["targets"]["each"][A]["failures"] == {"timeout": servers.shares[A]}
        assert found["circuits"]["circuits"][A]["failed"] == servers.shares[A]
        servers.does.update({B: 60.0, C: 60.0})
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                async with fail_after(0.3):
                    await policies.send(request())
        circuits = policies.statistics()["targets"]["circuits"]["circuits"]
        assert [circuits[name]["failed"] for name in (B, C)] == [0, 0]
        assert servers.running == 0
        await policies.stop()

    on_clock(main)


async def test_what_is_refused_here_is_nobodys_fault() -> None:
    """A full bulkhead, a spent limiter: no target hears of it."""
    servers = Servers()
    slots = Slots(Bulkhead(limit=1, max_waiting=0))
    policies = Policies(
        servers.send, bulkhead=slots, limiter=TokenBucket(0.001, 1), resolver=THREE, balance=EVENLY, breaker=Breaker()
    )
    await policies.start()
    async with slots:
        with pytest.raises(Overloaded):
            await policies.send(request())
    assert (await policies.send(request())).status == 200
    with pytest.raises(Overloaded):
        await policies.send(request())
    assert len(servers.asked) == 1
    each = policies.statistics()["targets"]["targets"]["each"]
    assert sum(target["picks"] for target in each.values()) == 1
    await policies.stop()


def test_a_deadline_ends_the_tries() -> None:
    """No wait begins that would end past it: the answer there is, is given."""

    async def main() -> None:
        servers = Servers(a={"retry-after": "5"})
        policies = Policies(servers.send, retry=RETRY)
        began = now()
        with deadline(3.0):
            response = await policies.send(request())
        assert response.status == 503
        assert now() - began < 0.1
        assert servers.responses[0].discarded == 0

    on_clock(main)


async def test_cancelled_at_any_moment() -> None:
    """Nothing stays in flight, in the group, in the circuits, or at the servers."""
    for turns in range(12):
        servers = Servers(a=503, b=0.001)
        policies = Policies(
            servers.send, retry=RETRY, hedge=Hedge(initial_delay=0.001), bulkhead=Bulkhead(limit=5),
            breaker=Breaker(), resolver=THREE, balance=EVENLY,
        )  # fmt: skip
        await policies.start()
        task = asyncio.ensure_future(policies.send(request()))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert servers.running == 0
        found = policies.statistics()
        assert found["targets"]["targets"]["in_flight"] == 0
        assert found["bulkhead"]["in_flight"] == 0
        await policies.stop()


def test_checks_of_nobody() -> None:
    """Health checks without targets have no effect, which is said."""
    with pytest.raises(ValueError, match="health: there are no targets"):
        Policies(Servers().send, health=HealthCheck())
    with pytest.raises(ValueError, match="on_target: there are no targets"):
        Policies(Servers().send, on_target=print)


# With real servers


def busy(client: Client) -> int:
    """Connections that are not idle, and requests that wait for one."""
    numbers = client.statistics()["pool"]
    return int(numbers["total"] - numbers["idle"] + numbers["waiting"])


class Site:
    """A server on a port of its own, which does what ``play`` says."""

    def __init__(self, play: Callable[[str], Awaitable[Response]]) -> None:
        app = App("site")

        @app.get("/x")
        @app.post("/x")
        async def handle(request: Request) -> Response:
            self.hosts.append(request.headers["host"])
            try:
                return await play(request.method)
            except asyncio.CancelledError:
                self.left += 1
                raise

        self.hosts: list[str] = []
        self.left = 0  # by their clients, before they were answered
        self.server = HTTPServer(app, bind="http://127.0.0.1:0")

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.server.addresses[0].port}"


async def busy_site(_: str) -> Response:
    """Has no time, and says so at length: more than a client takes unasked, so that it holds its connection."""
    return Response(b"x" * 1_000_000, status=503)


async def good_site(method: str) -> Response:
    """Answers."""
    return Response(f"ok {method}".encode())


async def hanging_site(_: str) -> Response:
    """Does not answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_response_that_is_replaced_does_not_keep_its_connection() -> None:
    """Neither one that is retried; the pool is whole when the answer was read."""
    busy_one, good = Site(busy_site), Site(good_site)
    async with running(busy_one.server), running(good.server):
        urls = [busy_one.url, good.url]
        async with Client(urls, retry=RETRY, balance=EVENLY, limits=Limits(buffer=1024), proxy="") as client:
            for _ in range(10):
                response = await client.get("/x")
                assert await response.read() == b"ok GET"
            assert len(good.hosts) == 10
            assert len(busy_one.hosts) > 3
            await eventually(lambda: busy(client) == 0)
        assert set(good.hosts) == {good.url.removeprefix("http://")}
        assert set(busy_one.hosts) == {busy_one.url.removeprefix("http://")}


async def test_the_loser_of_a_hedge_does_not_keep_its_connection() -> None:
    """It is closed, and its server hears of it."""
    hanging, good = Site(hanging_site), Site(good_site)
    async with running(hanging.server), running(good.server):
        hedge = Hedge(initial_delay=0.05)
        async with Client([hanging.url, good.url], hedge=hedge, balance=EVENLY, proxy="") as client:
            for _ in range(4):
                assert await (await client.get("/x")).read() == b"ok GET"
            asked = len(hanging.hosts)
            assert asked > 0
            await eventually(lambda: hanging.left == asked)
            await eventually(lambda: busy(client) == 0)


async def test_nobody_listens_at_one_of_them() -> None:
    """Nothing was sent, so that a POST goes to another as well; soon the dead one is not asked any more."""
    good = Site(good_site)
    async with running(good.server):
        balance = Balancing(TargetRules("round-robin", slow_start=None))
        urls = [f"http://127.0.0.1:{free_port()}", good.url]
        async with Client(urls, retry=RETRY, balance=balance, proxy="") as client:
            for _ in range(40):
                assert await (await client.post("/x")).read() == b"ok POST"
            each = client.statistics()["policies"]["targets"]["targets"]["each"]
            assert each[urls[0]]["state"] == "ejected"
            assert each[urls[0]]["failures"] == {"connect-failed": 5}


async def test_a_target_that_speaks_of_itself_is_still_ours() -> None:
    """It knows itself by the host that it is asked by. Credentials go there, and a target that is named is meant; to
    who is none nothing is told."""
    asked: list[tuple[int, str, bool]] = []
    ports: list[int] = []

    def site(number: int) -> Play:
        async def play(peer: Peer) -> None:
            while (one := await peer.asked()) is not None:
                asked.append((number, one.target, "authorization" in one.headers))
                places = {
                    "/self": f"http://{one.headers['host']}/x",
                    "/leader": f"//127.0.0.1:{ports[1]}/x?y",
                    "/away": f"http://127.0.0.1:{ports[2]}/x",
                    "/path": "/x",
                }
                if (place := places.get(one.target)) is not None:
                    await peer.answer(status=307, headers=f"Location: {place}\r\n")
                else:
                    await peer.answer()

        return play

    async with playing(site(0)) as first, playing(site(1)) as second, playing(site(2)) as other:
        ports += [first.port, second.port, other.port]
        urls = [first.url, second.url]
        async with Client(urls, auth=("ann", "pw"), balance=EVENLY, retry=RETRY, proxy="") as client:
            for _ in range(4):
                asked.clear()
                response = await client.post("/self", json=1)
                assert response.url.origin == first.url
                ((one, *_), (two, *_)) = asked
                assert one == two
                assert all(credentials for _, _, credentials in asked)
            for _ in range(4):
                asked.clear()
                await client.get("/leader")
                assert asked[1] == (1, "/x?y", True)
            asked.clear()
            await client.get("/away")
            assert asked[1] == (2, "/x", False)
            asked.clear()
            for _ in range(4):
                await client.get("/path")
            assert all(credentials for _, _, credentials in asked)
            group = client.policies.targets
            assert group is not None
            assert group.targets.statistics()["in_flight"] == 0


async def test_middleware_that_asks_again_gets_another_target() -> None:
    """The request it was given is not bound to the one that failed."""
    good = Site(good_site)

    async def twice(request: ClientRequest, call_next: Any) -> ClientResponse:
        for _ in range(5):
            try:
                response: ClientResponse = await call_next(request)
            except ConnectFailed:
                continue
            return response
        raise AssertionError(request.tried)

    async with running(good.server):
        urls = [f"http://127.0.0.1:{free_port()}", good.url]
        async with Client(urls, middleware=[twice], balance=EVENLY, proxy="") as client:
            for _ in range(4):
                assert (await client.get("/x")).status == 200


async def test_targets_on_unix_sockets(tmp_path: Path) -> None:
    """Are targets like others, asked and checked there."""
    sites = [Site(good_site), Site(good_site)]
    for number, site in enumerate(sites):
        site.server.application.get("/livez")(lambda: {"well": True})  # type: ignore[attr-defined]  # it is an App
        site.server = HTTPServer(site.server.application, bind=f"unix://{tmp_path}/{number}")
    async with running(sites[0].server), running(sites[1].server):
        urls = [f"unix://{tmp_path}/{number}" for number in (0, 1)]
        async with Client(urls, balance=EVENLY, health=HealthCheck(interval=0.02), proxy="") as client:
            for _ in range(6):
                assert (await client.get("/x")).status == 200
            await eventually(lambda: client.statistics()["policies"]["targets"]["checks"]["good"] >= 4)
            each = client.statistics()["policies"]["targets"]["targets"]["each"]
            assert {name: found["state"] for name, found in each.items()} == {
                f"http://localhost at {url}": "up" for url in urls
            }
    assert [site.hosts for site in sites] == [["localhost"] * 3] * 2


async def test_statistics_are_json() -> None:
    """With everything there is, before and after it was used."""
    hanging, good = Site(hanging_site), Site(good_site)
    async with running(hanging.server), running(good.server):
        options: dict[str, Any] = {
            "retry": RETRY, "hedge": Hedge(initial_delay=0.02), "bulkhead": Bulkhead(limit=7), "breaker": Breaker(),
            "limiter": TokenBucket(1000, 100), "attempt_timeout": 0.5, "health": HealthCheck(interval=0.02),
        }  # fmt: skip
        async with Client([hanging.url, good.url], proxy="", **options) as client:
            json.loads(json.dumps(client.statistics(), allow_nan=False))
            for _ in range(5):
                await client.get("/x")
            json.loads(json.dumps(client.statistics(), allow_nan=False))


async def test_every_address_of_a_name_is_a_target() -> None:
    """Each is connected to by its address, and asked by the name."""
    sites = [Site(good_site), Site(good_site)]
    async with running(sites[0].server):
        port = sites[0].server.addresses[0].port
        sites[1].server = HTTPServer(sites[1].server.application, bind=f"http://127.0.0.2:{port}")
        async with running(sites[1].server):
            backend = Names("127.0.0.1", "127.0.0.2")
            async with DNSCache(backend=backend) as cache:
                resolver = DNSResolver(f"http://orders:{port}", cache)
                async with Client(resolver, balance=EVENLY, proxy="") as client:
                    for _ in range(6):
                        assert (await client.get("/x")).status == 200
            assert [site.hosts for site in sites] == [[f"orders:{port}"] * 3] * 2


async def test_targets_are_asked_how_they_are() -> None:
    """Over real connections, which are kept and given back."""
    good, without = Site(good_site), Site(good_site)
    good.server.application.get("/livez")(lambda: {"well": True})  # type: ignore[attr-defined]  # it is an App
    async with running(good.server), running(without.server):
        health = HealthCheck(interval=0.02, fall=2)
        async with Client([good.url, without.url], health=health, balance=EVENLY, proxy="") as client:
            group = client.policies.targets
            assert group is not None
            await eventually(lambda: group.targets.statistics()["each"][without.url]["state"] == "down")
            for _ in range(4):
                assert (await client.get("/x")).status == 200
            assert len(good.hosts) == 4
            await eventually(lambda: busy(client) == 0)
