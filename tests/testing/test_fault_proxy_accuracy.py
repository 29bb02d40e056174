"""The fault proxy's latency and bandwidth are what they are said to be, within a tenth. Measured on the real clock."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from forebay.engine import Connection, TCPServer
from forebay.testing import FaultProxy
from tests.support import RawClient, running

pytestmark = [pytest.mark.both_loops, pytest.mark.alone]

TOLERANCE = 0.1


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[FaultProxy, RawClient]]:
    """A client whose connection to an echo server passes a proxy, and is in use."""

    async def repeat(conn: Connection) -> None:
        async for data in conn:
            await conn.send(data)

    async with running(TCPServer(repeat, bind="tcp://127.0.0.1:0")) as server, FaultProxy(server.addresses[0]) as proxy:
        client = await RawClient.connect(proxy.address.port)
        await client.send(b"?")
        await client.exactly(1)
        yield proxy, client
        await client.close()


async def round_trip(client: RawClient) -> float:
    """Seconds until one byte is back."""
    began = time.monotonic()
    await client.send(b"x")
    await client.exactly(1)
    return time.monotonic() - began


async def transfer(client: RawClient, size: int) -> float:
    """Seconds until so many bytes are back."""
    began = time.monotonic()
    sending = asyncio.create_task(client.send(bytes(size)))
    await client.exactly(size, timeout=20)
    await sending
    return time.monotonic() - began


@pytest.mark.parametrize("direction", ["up", "down", "both"])
@pytest.mark.parametrize(("latency", "tries"), [(0.02, 15), (0.1, 5), (0.5, 2)])
async def test_latency(latency: float, tries: int, direction: Literal["up", "down", "both"]) -> None:
    """A round trip takes once the latency, or twice when both directions have it."""
    async with echo() as (proxy, client):
        faults = proxy if direction == "both" else getattr(proxy, direction)
        faults.latency = latency
        expected = 2 * latency if direction == "both" else latency
        measured = statistics.median([await round_trip(client) for _ in range(tries)])
        assert measured == pytest.approx(expected, rel=TOLERANCE)


async def test_jitter() -> None:
    """It is between nothing and all of it, and half of it on average."""
    async with echo() as (proxy, client):
        proxy.down.set(latency=0.02, jitter=0.04)
        measured = [await round_trip(client) for _ in range(40)]
        assert min(measured) > 0.02 * (1 - TOLERANCE)
        assert max(measured) < 0.06 * (1 + TOLERANCE)
        assert statistics.mean(measured) == pytest.approx(0.04, rel=0.25)  # 40 draws are few


@pytest.mark.parametrize(
    ("bandwidth", "size"),
    [(10_000, 10_000), (1_000_000, 1_000_000), (20_000_000, 8_000_000)],
    ids=["10KB", "1MB", "20MB"],
)
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_bandwidth(bandwidth: int, size: int, direction: Literal["up", "down"]) -> None:
    """So many bytes take as long as they should; the other direction has no limit."""
    async with echo() as (proxy, client):
        getattr(proxy, direction).bandwidth = bandwidth
        assert size / await transfer(client, size) == pytest.approx(bandwidth, rel=TOLERANCE)


async def test_bandwidth_and_latency() -> None:
    """Together they take what both take one after the other: what is under way does not wait for any answer."""
    async with echo() as (proxy, client):
        proxy.down.set(latency=0.1, bandwidth=20_000_000)
        assert await transfer(client, 8_000_000) == pytest.approx(0.1 + 0.4, rel=TOLERANCE)


async def test_bandwidth_in_slices() -> None:
    """Small pieces are dealt out at the same rate."""
    async with echo() as (proxy, client):
        proxy.down.set(bandwidth=100_000, slice=100)
        assert 50_000 / await transfer(client, 50_000) == pytest.approx(100_000, rel=TOLERANCE)


async def test_a_loop_that_stands_still_is_made_up_for() -> None:
    """Timers that are late by less than the bound cost no bandwidth."""
    async with echo() as (proxy, client):
        proxy.down.bandwidth = 1_000_000
        moving = asyncio.create_task(transfer(client, 600_000))
        while not moving.done():
            await asyncio.sleep(0.05)
            time.sleep(0.03)
        assert 600_000 / await moving == pytest.approx(1_000_000, rel=TOLERANCE)


async def test_slice_pause() -> None:
    """There is at least the pause between two pieces."""
    async with echo() as (proxy, client):
        proxy.down.set(slice=100, slice_pause=0.02)
        assert await transfer(client, 2_000) == pytest.approx(19 * 0.02, rel=TOLERANCE)


@pytest.mark.parametrize("fault", ["reset_after", "timeout"])
async def test_times_of_ends(fault: Literal["reset_after", "timeout"]) -> None:
    """Connections end when they should."""
    async with echo() as (proxy, client):
        began = time.monotonic()
        setattr(proxy.down, fault, 0.3)
        await client.rest()
        assert time.monotonic() - began == pytest.approx(0.3, rel=TOLERANCE)
