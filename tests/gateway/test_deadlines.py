"""What clients of the gateway say about their patience is kept, passed on as what is left of it, and blames nobody."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from forebay.engine import dial
from forebay.gateway import proxy
from tests.gateway.kit import HELLO, FakeConnection, backend, fake_target, gateway_to, never_answers
from tests.support import eventually, raw_client


async def slowly(fake: FakeConnection) -> None:
    """Answers every request after a moment."""
    while True:
        await fake.request()
        await asyncio.sleep(0.2)
        await fake.send(HELLO)


async def test_what_is_left_is_passed_on() -> None:
    """In place of what came in; nothing where nothing came."""
    async with (
        fake_target(slowly) as target,
        gateway_to(target.url) as gateway,
        raw_client(gateway.addresses[0].port) as client,
    ):
        assert (await client.get("/a", request_timeout_ms="5000"))[0] == 200
        assert (await client.get("/b"))[0] == 200
        assert (await client.get("/c", request_timeout_ms="soon"))[0] == 200
        await client.send(b"POST /d HTTP/1.1\r\nhost: a\r\nrequest-timeout-ms: 4000\r\ncontent-length: 2\r\n\r\nhi")
        assert (await client.response())[0] == 200
        left = [seen.headers.get("request-timeout-ms") for seen in target.seen]
        assert left[1:3] == [None, None]
        assert 4500 < int(left[0] or 0) <= 5000
        assert 3500 < int(left[3] or 0) <= 4000
        assert target.seen[3].body == b"hi"


async def test_a_retry_has_only_what_is_left() -> None:
    """The second target is told less than the first."""

    async def dies(fake: FakeConnection) -> None:
        await fake.request()
        await asyncio.sleep(0.3)
        fake.reset()

    async with (
        fake_target(dies) as bad,
        fake_target(slowly) as good,
        gateway_to(bad.url, good.url) as gateway,
        raw_client(gateway.addresses[0].port) as client,
    ):
        assert (await client.get("/", request_timeout_ms="5000"))[0] == 200
        first = int(bad.seen[0].headers["request-timeout-ms"])
        second = int(good.seen[0].headers["request-timeout-ms"])
        assert first - second >= 290


async def later(fake: FakeConnection) -> None:
    """Answers every request after more than a tick of the gateway's timers."""
    while True:
        await fake.request()
        await asyncio.sleep(0.6)
        await fake.send(HELLO)


async def test_impatient_clients_take_no_target_out() -> None:
    """Whoever gives a target no time has no say in how it is: else any client could take all of them out."""
    async with (
        fake_target(later) as target,
        gateway_to(target.url) as gateway,
        raw_client(gateway.addresses[0].port) as client,
    ):
        for patience in ("1", "20", "0"):
            began = time.monotonic()
            assert (await client.get("/", request_timeout_ms=patience))[0] == 504
            assert time.monotonic() - began < 2
        (member,) = gateway.proxy.plan.upstreams["u"].targets
        assert (member.state, member.failures) == ("up", {})
        assert (await client.get("/"))[0] == 200


async def test_the_routes_own_time_still_counts_against_a_target() -> None:
    """Also where the client would have waited longer."""
    async with (
        fake_target(never_answers) as target,
        gateway_to(target.url, timeout=0.3) as gateway,
        raw_client(gateway.addresses[0].port) as client,
    ):
        assert (await client.get("/", request_timeout_ms="60000"))[0] == 504
        (member,) = gateway.proxy.plan.upstreams["u"].targets
        await eventually(lambda: member.failures == {"timeout": 1})


async def test_also_where_the_client_waits_hardly_longer() -> None:
    """A timer is late at times; what decides is whose time it was set for."""
    async with (
        fake_target(never_answers) as target,
        gateway_to(target.url, timeout=0.3) as gateway,
        raw_client(gateway.addresses[0].port) as client,
    ):
        assert (await client.get("/", request_timeout_ms="320"))[0] == 504
        (member,) = gateway.proxy.plan.upstreams["u"].targets
        assert member.failures == {"timeout": 1}


async def test_an_answer_that_began_in_time_may_end_later() -> None:
    """Also when the request goes on for longer than the client said that it waits for an answer."""

    async def early(fake: FakeConnection) -> None:
        await fake.head()
        await fake.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")
        await fake.reader.readexactly(4)
        await asyncio.sleep(0.4)
        await fake.send(b"world")

    async with (
        fake_target(early) as target,
        gateway_to(target.url) as gateway,
        raw_client(gateway.addresses[0].port) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\nrequest-timeout-ms: 200\r\ncontent-length: 4\r\n\r\nhi")
        await asyncio.sleep(0.4)
        await client.send(b"hi")
        assert (await client.response())[2] == b"helloworld"


async def test_nothing_is_tried_again_for_who_has_stopped_waiting() -> None:
    """While its content still comes, the time can be over already."""

    async def dies(fake: FakeConnection) -> None:
        await fake.head()
        await asyncio.sleep(0.4)
        fake.reset()

    async with (
        fake_target(dies) as bad,
        fake_target(slowly) as good,
        gateway_to(bad.url, good.url) as gateway,
        raw_client(gateway.addresses[0].port) as client,
    ):
        await client.send(b"PUT / HTTP/1.1\r\nhost: a\r\nrequest-timeout-ms: 200\r\ncontent-length: 4\r\n\r\nhi")
        assert (await client.response())[0] == 502
        assert (len(bad.seen), good.connections) == (1, 0)
        assert [member.failures for member in gateway.proxy.plan.upstreams["u"].targets] == [{}, {}]


async def test_a_slow_upload_takes_no_time_to_connect_from_the_next_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """The route's time is for the answer: a target that is dialled after it, while content comes, is not hurried."""

    async def dies(fake: FakeConnection) -> None:
        await fake.head()
        await asyncio.sleep(0.4)
        fake.reset()

    limits: list[float] = []

    async def dialled(*arguments: Any, timeout: float) -> Any:
        limits.append(timeout)
        return await dial(*arguments, timeout=timeout)

    monkeypatch.setattr(proxy, "dial", dialled)
    async with (
        fake_target(dies) as bad,
        fake_target(slowly) as good,
        gateway_to(bad.url, good.url, timeout=0.3, connect_timeout=3.0) as gateway,
        raw_client(gateway.addresses[0].port) as client,
    ):
        await client.send(b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nhi")
        await eventually(lambda: bool(good.seen))
        await client.send(b"hi")
        assert (await client.response())[0] == 200
        assert limits[1] == 3.0


async def test_a_target_that_waits_for_the_client_is_not_hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a client reads on that was slow to read, time goes on only for a target that owes something."""
    forwards: list[proxy.Forward] = []

    class Known(proxy.Forward):
        __slots__ = ()

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            forwards.append(self)

    async def early(fake: FakeConnection) -> None:
        await fake.head()
        await fake.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")
        await fake.reader.readexactly(4)
        await fake.send(b"world")

    monkeypatch.setattr(proxy, "Forward", Known)
    async with (
        fake_target(early) as target,
        gateway_to(target.url, timeout=0.3) as gateway,
        raw_client(gateway.addresses[0].port) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nhi")
        await client.reader.readuntil(b"hello")
        forwards[0].on_writable()  # as after an answer that was too much for the client at once
        await asyncio.sleep(0.7)
        await client.send(b"hi")
        assert await client.reader.readexactly(5) == b"world"


async def test_a_target_that_has_begun_to_answer_still_has_to_read() -> None:
    """One that does neither any more is given up, though the request is not complete: nobody else can go on."""

    async def stalls(fake: FakeConnection) -> None:
        await fake.head()
        await asyncio.sleep(0.2)
        await fake.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")
        await asyncio.Future()

    async with (
        fake_target(stalls) as target,
        gateway_to(target.url, timeout=0.4) as gateway,
        raw_client(gateway.addresses[0].port) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 20000000\r\n\r\n")
        client.writer.write(bytes(20_000_000))
        (member,) = gateway.proxy.plan.upstreams["u"].targets
        await eventually(lambda: member.failures == {"timeout": 1})
        assert member.in_flight == 0


@pytest.mark.parametrize("name", [b"request_timeout_ms", b"Request_Timeout-ms"])
async def test_a_twin_is_not_passed_on(name: bytes) -> None:
    """Many servers cannot tell the two apart."""
    async with backend() as (_, url), gateway_to(url) as gateway, raw_client(gateway.addresses[0].port) as client:
        await client.send(b"GET / HTTP/1.1\r\nhost: a\r\n" + name + b": 1\r\n\r\n")
        status, _, body = await client.response()
        assert status == 200
        assert b"imeout" not in body
