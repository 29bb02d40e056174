"""A gateway and an HTTP server whose network fails as networks do: each time the answer is whole, or an error."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from forebay.testing import FaultProxy
from tests.gateway.kit import Backend, backend, gateway_to, metric, port_of
from tests.support import RawClient, raw_client

BODY = bytes(range(256)) * 40
POST = b"POST /things HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


@asynccontextmanager
async def through(**options: Any) -> AsyncIterator[tuple[FaultProxy, RawClient, Backend]]:
    """A client of a gateway whose only target is behind a fault proxy."""
    async with backend() as (application, url), FaultProxy(url.replace("http:", "tcp:")) as proxy:
        target = f"http://127.0.0.1:{proxy.address.port}"
        async with gateway_to(target, **options) as gateway, raw_client(port_of(gateway)) as client:
            yield proxy, client, application


async def test_a_target_whose_network_cuts_all_in_slices() -> None:
    """Heads and contents that arrive byte by byte are the same ones."""
    async with through() as (proxy, client, _):
        proxy.set(slice=7)
        await client.send(POST)
        status, _, body = await client.response()
        assert status == 200
        assert json.loads(body)["body"].encode("latin-1") == BODY
        assert proxy.up.counts["slice"] > len(BODY) // 7
        assert proxy.down.counts["slice"] > len(BODY) // 7


async def test_a_target_that_is_far_away() -> None:
    """Requests take that much longer, and nothing else happens."""
    async with through() as (proxy, client, _):
        proxy.set(latency=0.05, jitter=0.02)
        began = time.monotonic()
        for _ in range(3):
            assert (await client.get("/"))[0] == 200
        assert 0.3 <= time.monotonic() - began < 5
        assert proxy.accepted == 1


async def test_a_target_that_is_reset_while_it_answers() -> None:
    """An answer that broke off in its head is an error with a reason; the connection to the client lives on."""
    async with through() as (proxy, client, _):
        proxy.down.reset_after_bytes = 10
        status, _, body = await client.get("/")
        assert status == 502
        assert json.loads(body)["reason"]
        proxy.clear()
        assert (await client.get("/"))[0] == 200


async def test_a_target_that_ends_within_its_content() -> None:
    """A client is never told that half of an answer is all of it."""
    async with through() as (proxy, client, _):
        proxy.down.limit = 5_000
        await client.send(POST)
        received = await client.rest()
        head, _, content = received.partition(b"\r\n\r\n")
        assert b"200 OK" in head
        assert 0 < len(content) < 5_000
        assert proxy.down.counts["limit"] == 1


async def test_a_target_that_is_a_black_hole() -> None:
    """The gateway's own timeout answers; as soon as the network is back, so is the target."""
    async with through(timeout=0.3) as (proxy, client, application):
        assert (await client.get("/"))[0] == 200
        proxy.down.black_hole = True
        status, _, body = await client.get("/")
        assert (status, application.requests) == (504, 2), body
        proxy.clear()
        assert (await client.get("/"))[0] == 200


async def test_a_target_that_flaps() -> None:
    """Requests fail with a reason or succeed; when it stays up, all succeed. The client's connection survives it."""
    async with through() as (proxy, client, _):
        proxy.flapping = (0.03, 0.03)
        statuses: set[int] = set()
        deadline = time.monotonic() + 10
        while proxy.flaps < 5 or len(statuses) < 2:
            statuses.add((await client.get("/"))[0])
            assert time.monotonic() < deadline, statuses
        assert statuses <= {200, 502, 503}
        proxy.flapping = None
        await asyncio.sleep(0)
        assert 200 in {(await client.get("/"))[0] for _ in range(3)}


async def test_a_bad_day_by_script() -> None:
    """Slow, then gone, then well: one script, and the gateway says what it saw."""
    async with backend() as (_, url), FaultProxy(url.replace("http:", "tcp:")) as proxy:
        target = f"http://127.0.0.1:{proxy.address.port}"
        async with gateway_to(target) as gateway, raw_client(port_of(gateway)) as client:
            await proxy.apply({"latency": 0.02})
            playing = asyncio.create_task(
                proxy.play([(0.1, {"clear": True, "refuse": True, "reset": True}), (0.4, {"refuse": False})])
            )
            seen = []
            while not playing.done():
                seen.append((await client.get("/"))[0])
                await asyncio.sleep(0.01)
            await playing
            assert seen[0] == 200
            assert 502 in seen
            assert metric(gateway, "forebay_gateway_upstream_failures") > 0


@asynccontextmanager
async def directly() -> AsyncIterator[tuple[FaultProxy, RawClient, Backend]]:
    """A client whose connection to an HTTP server passes a fault proxy."""
    async with (
        backend() as (application, url),
        FaultProxy(url.replace("http:", "tcp:")) as proxy,
        raw_client(proxy.address.port) as client,
    ):
        yield proxy, client, application


async def test_a_client_that_is_slow_to_send() -> None:
    """A request that trickles in over a thin line is one request, answered once."""
    async with directly() as (proxy, client, application):
        proxy.up.set(bandwidth=50_000, slice=100)
        await client.send(POST)
        status, _, body = await client.response()
        assert (status, application.requests) == (200, 1)
        assert json.loads(body)["body"].encode("latin-1") == BODY
        assert proxy.up.counts["bandwidth"] > 10


async def test_a_client_that_vanishes_within_its_request() -> None:
    """Its request never reaches the application, and the server goes on."""
    async with directly() as (proxy, first, application):
        proxy.up.reset_after_bytes = 30
        await first.send(b"GET /things HTTP/1.1\r\nHost: example.org\r\n\r\n")
        assert await first.rest() == b""
        assert application.requests == 0
        proxy.clear()
        async with raw_client(proxy.address.port) as client:
            assert (await client.get("/"))[0] == 200


async def test_a_client_that_reads_slowly() -> None:
    """The answer arrives whole, as slowly as the line is."""
    async with directly() as (proxy, client, _):
        proxy.down.bandwidth = 100_000
        began = time.monotonic()
        await client.send(POST)
        _, _, body = await client.response()
        assert json.loads(body)["body"].encode("latin-1") == BODY
        assert time.monotonic() - began >= len(body) / 100_000 * 0.9
