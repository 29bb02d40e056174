"""Faults that once slipped through: deadlines of other requests, floods, statuses that are none, spoofed twins."""

from __future__ import annotations

import asyncio

from tests.gateway.kit import HELLO, FakeConnection, fake_target, gateway_to, metric, port_of
from tests.support import raw_client


async def test_the_deadline_of_one_request_is_not_the_next_ones() -> None:
    """A kept connection still has the deadline of the request before; a slow upload on it must not be cut by that."""

    async def script(fake: FakeConnection) -> None:
        while True:
            await fake.request()
            await fake.send(HELLO)

    async with (
        fake_target(script) as target,
        gateway_to(target.url, timeout=0.6) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        assert (await client.get("/"))[0] == 200
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n")
        for _ in range(10):
            await asyncio.sleep(0.12)
            await client.send(b"xx")
        assert (await client.response())[0] == 200
        assert target.connections == 1
        assert metric(gateway, "forebay_gateway_upstream_failures") == 0


async def test_a_target_that_waits_for_the_request_is_not_timed_out() -> None:
    """It has begun its answer and wants the rest of the content: the client is who takes its time."""

    async def script(fake: FakeConnection) -> None:
        await fake.head()
        await fake.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        await fake.reader.readexactly(4)
        await fake.send(b"1\r\nb\r\n0\r\n\r\n")
        await fake.until_closed()

    async with (
        fake_target(script) as target,
        gateway_to(target.url, timeout=0.3) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nxx")
        await asyncio.sleep(0.8)
        await client.send(b"xx")
        assert (await client.response())[2] == b"ab"


async def test_a_flood_of_interim_answers_is_refused() -> None:
    """They are passed on without waiting for the client, so their number is bounded."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        for _ in range(10_000):
            await fake.send(b"HTTP/1.1 103 Early Hints\r\nlink: " + b"x" * 8000 + b"\r\n\r\n")

    async with fake_target(script) as target, gateway_to(target.url) as gateway, raw_client(port_of(gateway)) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        statuses = [(await client.response())[0] for _ in range(17)]
        assert statuses == [103] * 16 + [502]


async def test_a_status_that_is_none_is_a_protocol_error() -> None:
    """Not a crash, and not a reason to ask another target."""

    async def script(fake: FakeConnection) -> None:
        await fake.request()
        await fake.send(b"HTTP/1.1 999 X\r\ncontent-length: 2\r\n\r\nab")
        await fake.until_closed()

    async with (
        fake_target(script) as one,
        fake_target(script) as two,
        gateway_to(one.url, two.url) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        assert (await client.get("/"))[0] == 502
        assert one.connections + two.connections == 1


async def test_underscores_do_not_get_around_a_trusted_proxy() -> None:
    """Many servers read ``X_Forwarded_For`` as ``X-Forwarded-For``: only the proxy's own field is passed on."""

    async def script(fake: FakeConnection) -> None:
        while True:
            await fake.request()
            await fake.send(HELLO)

    async with (
        fake_target(script) as target,
        gateway_to(target.url, trusted_proxies=["127.0.0.1"]) as gateway,
        raw_client(port_of(gateway)) as client,
    ):
        await client.get("/", X_Forwarded_For="1.2.3.4")
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n")
        await client.response()
        assert target.seen[1].headers["x-forwarded-for"] == "1.2.3.4, 127.0.0.1"
        assert not any("_" in name for name in target.seen[1].headers)
