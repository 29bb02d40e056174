"""The fault proxy does to connections what it says, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from forebay.engine import Connection, TCPServer
from forebay.testing import FaultProxy
from tests.engine.support import open_sockets
from tests.support import RawClient, eventually, free_port, running

pytestmark = pytest.mark.both_loops


async def repeat(conn: Connection) -> None:
    """Send back what comes; tell the end by one more byte."""
    async for data in conn:
        await conn.send(data)
    await conn.send(b"$")


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """A proxy before an echo server; nothing is left of both in the end."""
    before = open_sockets()
    tasks = len(asyncio.all_tasks())
    async with running(TCPServer(repeat, bind="tcp://127.0.0.1:0")) as server, FaultProxy(server.addresses[0]) as found:
        yield found
    await eventually(lambda: open_sockets() <= before)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)


async def connect(proxy: FaultProxy) -> RawClient:
    """A client of the proxy."""
    return await RawClient.connect(proxy.address.port)


async def test_without_faults(proxy: FaultProxy) -> None:
    """Everything passes, both ways, unchanged; a half-close too."""
    client = await connect(proxy)
    data = bytes(range(256)) * 8192
    sending = asyncio.create_task(client.send(data))
    assert await client.exactly(len(data)) == data
    await sending
    client.send_eof()
    assert await client.rest() == b"$"
    await client.close()
    await eventually(lambda: proxy.connections == 0)
    assert (proxy.accepted, proxy.bytes_up, proxy.bytes_down) == (1, len(data), len(data) + 1)
    assert (proxy.resets, proxy.cuts, proxy.unreachable) == (0, 0, 0)


async def test_latency(proxy: FaultProxy) -> None:
    """Each way takes that much longer, in order, however much is under way."""
    client = await connect(proxy)
    proxy.latency, proxy.jitter = 0.1, 0.05
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(20):
        await client.send(b"%03d" % number)
        await asyncio.sleep(0.002)
    assert await client.exactly(60) == b"".join(b"%03d" % number for number in range(20))
    assert 0.2 <= loop.time() - began < 1.5
    await client.close()


async def test_bandwidth(proxy: FaultProxy) -> None:
    """It takes as long as it must."""
    client = await connect(proxy)
    await client.send(b"hello")
    await client.exactly(5)
    proxy.bandwidth = 100_000
    began = asyncio.get_running_loop().time()
    await client.send(bytes(20_000))
    await client.exactly(20_000)
    assert asyncio.get_running_loop().time() - began >= 0.2
    await client.close()


async def test_reset(proxy: FaultProxy) -> None:
    """Open connections are broken with a reset; new ones are not."""
    client = await connect(proxy)
    await client.send(b"hello")
    await client.exactly(5)
    assert await proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        await client.exactly(1)
    assert proxy.connections == 0
    assert proxy.resets == 1
    await client.close()
    client = await connect(proxy)
    await client.send(b"hello")
    assert await client.exactly(5) == b"hello"
    await client.close()


async def test_a_reset_of_one_end_is_one_of_the_other(proxy: FaultProxy) -> None:
    """A client that resets its connection is a reset to the server: the connection is gone at once."""
    client = await connect(proxy)
    await client.send(b"hello")
    await client.exactly(5)
    client.abort()
    await eventually(lambda: proxy.connections == 0)


async def test_black_hole(proxy: FaultProxy) -> None:
    """Connections come about and stay, and nothing passes, until it ends."""
    client = await connect(proxy)
    proxy.black_hole = True
    late = await connect(proxy)
    await client.send(b"one")
    await late.send(b"two")
    with pytest.raises(TimeoutError):
        await client.exactly(1, timeout=0.1)
    assert proxy.black_hole
    assert proxy.bytes_up == 0
    proxy.black_hole = False
    assert await client.exactly(3) == b"one"
    assert await late.exactly(3) == b"two"
    await client.close()
    await late.close()


async def test_refuse(proxy: FaultProxy) -> None:
    """New connections are refused, open ones go on; the port stays the same."""
    client = await connect(proxy)
    address = proxy.address
    await eventually(lambda: proxy.accepted == 1)
    proxy.refuse()
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    await client.send(b"hello")
    assert await client.exactly(5) == b"hello"
    proxy.accept()
    proxy.accept()
    assert proxy.address == address
    other = await connect(proxy)
    await client.close()
    await other.close()


async def test_flap(proxy: FaultProxy) -> None:
    """Down and up again, as often as asked for."""
    client = await connect(proxy)
    await client.send(b"hello")
    await client.exactly(5)
    flapping = asyncio.create_task(proxy.flap(3, up=0.05, down=0.05))
    assert await client.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    await client.close()
    await asyncio.wait_for(flapping, 5)
    client = await connect(proxy)
    await client.close()


async def test_cut_after(proxy: FaultProxy) -> None:
    """Exactly so many bytes pass, both ways together; then the connection is reset."""
    proxy.cut_after = 8
    client = await connect(proxy)
    await client.send(b"12345")
    received = b""
    with pytest.raises(ConnectionResetError):
        while True:
            received += await client.exactly(1)
    assert received == b"123"
    assert (proxy.bytes_up, proxy.bytes_down, proxy.cuts) == (5, 3, 1)
    await client.close()


async def test_half_close(proxy: FaultProxy) -> None:
    """Clients see the end, while what they send still arrives."""
    client = await connect(proxy)
    await client.send(b"hello")
    await client.exactly(5)
    assert proxy.half_close() == 1
    assert await client.rest() == b""
    await client.send(b"more")
    await eventually(lambda: proxy.bytes_up == 9)
    await client.close()


async def test_a_server_that_is_not_there() -> None:
    """Its clients are reset."""
    async with FaultProxy(f"tcp://127.0.0.1:{free_port()}") as proxy:
        client = await connect(proxy)
        with pytest.raises(ConnectionResetError):
            await client.exactly(1)
        await eventually(lambda: proxy.unreachable == 1)
        await client.close()
    with pytest.raises(RuntimeError, match="not running"):
        _ = proxy.address


async def test_it_leaves_nothing_behind() -> None:
    """Connections in any state are gone with it, also one that was accepted this very moment."""
    before = open_sockets()
    async with running(TCPServer(repeat, bind="tcp://127.0.0.1:0")) as server:
        for black_hole in (False, True):
            async with FaultProxy(server.addresses[0], latency=10) as proxy:
                proxy.black_hole = black_hole
                clients = [await connect(proxy) for _ in range(5)]
                await clients[0].send(b"x")
            for client in clients:
                client.writer.transport.abort()
    await eventually(lambda: open_sockets() <= before)
