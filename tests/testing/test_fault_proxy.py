"""The fault proxy does to connections what it says, and nothing else."""

from __future__ import annotations

import asyncio
import random
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest

from forebay.engine import Connection, TCPServer
from forebay.testing import FaultProxy
from forebay.testing.fault_flow import LARGEST_HELD, LEAST_HELD
from forebay.testing.fault_pipe import Passed
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


async def hello(proxy: FaultProxy) -> RawClient:
    """A client whose connection is in use."""
    client = await connect(proxy)
    await client.send(b"hello")
    assert await client.exactly(5) == b"hello"
    return client


async def test_directions_are_apart(proxy: FaultProxy) -> None:
    """What one has, the other has not; what is set on the proxy, both have."""
    client = await hello(proxy)
    proxy.down.latency = 0.15
    began = asyncio.get_running_loop().time()
    await client.send(b"up")
    await eventually(lambda: proxy.bytes_up == 7)
    assert asyncio.get_running_loop().time() - began < 0.14
    await client.exactly(2)
    assert asyncio.get_running_loop().time() - began >= 0.14
    assert (proxy.up.counts["latency"], proxy.down.counts["latency"]) == (0, 1)
    with pytest.raises(RuntimeError, match=r"latency is 0.0 upward and 0.15 downward"):
        _ = proxy.latency
    proxy.latency = 0.01
    assert (proxy.latency, proxy.up.latency, proxy.down.latency) == (0.01, 0.01, 0.01)
    await client.close()


async def test_black_hole_of_one_direction(proxy: FaultProxy) -> None:
    """The server hears the client, and the client hears nothing, the end included, until it is over."""
    client = await hello(proxy)
    proxy.down.black_hole = True
    await client.send(b"on")
    client.send_eof()
    await eventually(lambda: proxy.bytes_up == 7)
    with pytest.raises(TimeoutError):
        await client.exactly(1, timeout=0.1)
    assert (proxy.bytes_down, proxy.down.counts["black_hole"], proxy.up.counts["black_hole"]) == (5, 1, 0)
    proxy.down.black_hole = False
    assert await client.rest() == b"on$"
    await client.close()


async def test_slices(proxy: FaultProxy) -> None:
    """Data arrives in small pieces, one by one, and whole."""
    client = await hello(proxy)
    proxy.down.set(slice=10, slice_pause=0.02)
    data = bytes(range(95))
    await client.send(data)
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < 95:
        pieces.append(await asyncio.wait_for(client.reader.read(1000), 5))
    assert b"".join(pieces) == data
    assert len(pieces[0]) == 10
    assert len(pieces) >= 5, "two or more may come together when this test is late, not all"
    assert proxy.down.counts["slice"] == 9
    await client.close()


async def test_reset_after_no_time(proxy: FaultProxy) -> None:
    """New connections are reset at once, and open ones when it is set."""
    client = await hello(proxy)
    proxy.up.reset_after = 0
    for one in (client, await connect(proxy)):
        with pytest.raises(ConnectionResetError):
            await one.exactly(1)
        await one.close()
    assert proxy.up.counts["reset_after"] == 2
    assert proxy.resets == 0


async def test_reset_after_a_time_counts_from_when_it_was_set(proxy: FaultProxy) -> None:
    """It is not over yet when it is changed, so it never comes when it is switched off."""
    client = await hello(proxy)
    proxy.down.reset_after = 0.1
    await asyncio.sleep(0.05)
    proxy.down.reset_after = None
    await asyncio.sleep(0.1)
    await client.send(b"still")
    assert await client.exactly(5) == b"still"
    proxy.down.reset_after = 0.05
    with pytest.raises(ConnectionResetError):
        await client.exactly(1)
    await client.close()


async def test_reset_after_bytes(proxy: FaultProxy) -> None:
    """Exactly so many go that way; what goes the other way does not count."""
    proxy.down.reset_after_bytes = 7
    client = await hello(proxy)
    await client.send(b"12345")
    received = b""
    with pytest.raises(ConnectionResetError):
        while True:
            received += await client.exactly(1)
    assert received == b"12"
    assert (proxy.bytes_up, proxy.bytes_down, proxy.down.counts["reset_after_bytes"]) == (10, 7, 1)
    await client.close()


async def test_timeout(proxy: FaultProxy) -> None:
    """Nothing passes, and the connection is closed, without a reset, though there was data for the server."""
    client = await hello(proxy)
    proxy.up.timeout = 0.1
    await client.send(b"lost")
    assert await asyncio.wait_for(client.reader.read(), 5) == b""
    assert proxy.bytes_up == 5
    assert proxy.up.counts["timeout"] == 1
    await client.close()
    await eventually(lambda: proxy.connections == 0)


async def test_timeout_that_is_switched_off(proxy: FaultProxy) -> None:
    """What waited arrives, and the connection lives."""
    client = await hello(proxy)
    proxy.up.timeout = 30
    await client.send(b"late")
    await asyncio.sleep(0.05)
    assert proxy.bytes_up == 5
    proxy.up.timeout = None
    assert await client.exactly(4) == b"late"
    await client.close()


@pytest.mark.parametrize("limit", [0, 1, 7])
async def test_limit(proxy: FaultProxy, limit: int) -> None:
    """Exactly so many bytes pass, then comes the end, without a reset, whatever the client still sends."""
    client = await connect(proxy)
    proxy.down.limit = limit
    await client.send(bytes(100_000))
    assert await asyncio.wait_for(client.reader.read(), 5) == bytes(limit)
    await client.send(b"more")
    assert proxy.connections == 1, "it hears the client out"
    await client.close()
    await eventually(lambda: proxy.connections == 0)
    assert (proxy.bytes_down, proxy.down.counts["limit"]) == (limit, 1)


async def test_a_client_that_does_not_hear_the_end(proxy: FaultProxy) -> None:
    """After a second it is left, and sooner by a reset."""
    proxy.down.limit = 3
    client, other = await connect(proxy), await connect(proxy)
    for one in (client, other):
        await one.send(b"hello")
        assert await asyncio.wait_for(one.reader.read(), 5) == b"hel"
    began = asyncio.get_running_loop().time()
    await eventually(lambda: proxy.connections == 0)
    assert asyncio.get_running_loop().time() - began < 2
    third = await connect(proxy)
    await third.send(b"hello")
    assert await asyncio.wait_for(third.reader.read(), 5) == b"hel"
    began = asyncio.get_running_loop().time()
    assert await proxy.reset() == 1
    assert asyncio.get_running_loop().time() - began < 0.5
    for one in (client, other, third):
        await one.close()


async def shares(proxy: FaultProxy, share: float, count: int) -> list[bool]:
    """Which of so many connections, one after another, have faults."""
    passed: list[Passed] = []
    proxy.on_passed = passed.append
    proxy.share = share
    for number in range(count):
        client = await connect(proxy)
        client.send_eof()
        await client.rest()
        await client.close()
        while len(passed) <= number:  # it ends as soon as the loop has its turn
            await asyncio.sleep(0)
    assert all(one.has_faults[0] == one.has_faults[1] for one in passed), "both directions draw together"
    return [one.has_faults[0] for one in passed]


async def test_share(proxy: FaultProxy) -> None:
    """So many connections have the faults, the same ones with the same seed, and more of them with a larger share."""
    async with FaultProxy(proxy.target, seed=1) as one, FaultProxy(proxy.target, seed=1) as same:
        assert (half := await shares(one, 0.5, 30)) == await shares(same, 0.5, 30)
        assert 5 <= sum(half) <= 25
    async with FaultProxy(proxy.target, seed=1) as more, FaultProxy(proxy.target, seed=2) as other:
        most = await shares(more, 0.8, 30)
        assert all(late or not early for early, late in zip(half, most, strict=True))
        assert sum(most) > sum(half)
        assert await shares(other, 0.5, 30) != half
    assert not any(await shares(proxy, 0, 5))
    assert all(await shares(proxy, 1, 5))


async def test_a_share_of_none_has_no_faults(proxy: FaultProxy) -> None:
    """Not even those that end connections; and open ones have them as soon as they are among the share."""
    proxy.share = 0
    proxy.set(reset_after=0, black_hole=True, limit=1)
    client = await hello(proxy)
    proxy.down.share = 1
    with pytest.raises(ConnectionResetError):
        await client.exactly(1)
    await client.close()


async def test_flapping(proxy: FaultProxy) -> None:
    """It is there and gone by turns until it is told not to; then it is there."""
    client = await hello(proxy)
    proxy.flapping = (0.05, 0.05)
    assert await client.rest() == b""
    await client.close()
    await eventually(lambda: proxy.flaps >= 3)
    proxy.flapping = None
    flaps = proxy.flaps
    client = await hello(proxy)
    await asyncio.sleep(0.15)
    assert proxy.flaps == flaps
    await client.send(b"x")
    assert await client.exactly(1) == b"x"
    await client.close()
    with pytest.raises(ValueError, match=r"flapping \(0, 0\): must take some time"):
        proxy.flapping = (0, 0)


async def test_flapping_ends_with_the_proxy(proxy: FaultProxy) -> None:
    """Given before it runs, it begins with it; nothing of it is left when the proxy is gone."""
    other = FaultProxy(proxy.target)
    other.flapping = (0.01, 30)
    before = asyncio.all_tasks()
    async with other:
        await eventually(lambda: other.flaps == 1)
    assert asyncio.all_tasks() <= before


async def test_a_slow_client_is_slow_for_the_server() -> None:
    """What nobody reads is not piled up; with latency there is room for what is under way, and no more."""
    sent = 0

    async def flood(conn: Connection) -> None:
        nonlocal sent
        while True:
            await conn.send(bytes(65536))
            sent += 65536

    async with running(TCPServer(flood, bind="tcp://127.0.0.1:0")) as server:
        for latency, least, most in ((0.0, 0, LEAST_HELD), (60.0, 100e6 * 0.1, LARGEST_HELD)):
            async with FaultProxy(server.addresses[0], latency=latency) as proxy:
                sent = 0
                client = await RawClient.connect(proxy.address.port)
                client.reader._transport.pause_reading()  # type: ignore[attr-defined]  # else it would read some
                before = -1
                while sent != before:
                    before = sent
                    await asyncio.sleep(0.2)
                assert least <= proxy.held < most + 70_000
                client.writer.transport.abort()


async def test_play(proxy: FaultProxy) -> None:
    """Each step is done when it is its turn, for open connections too; what it leaves stays."""
    client = await hello(proxy)
    playing = asyncio.create_task(
        proxy.play(
            [(0, {"down": {"black_hole": True}}), (0.15, {"clear": True, "latency": 0.01}), (0.3, {"reset": True})]
        )
    )
    await client.send(b"held")
    with pytest.raises(TimeoutError):
        await client.exactly(1, timeout=0.1)
    assert await client.exactly(4) == b"held"
    assert await client.rest() == b""
    await playing
    assert (proxy.latency, proxy.down.black_hole, proxy.resets) == (0.01, False, 1)
    await client.close()


async def test_a_script_that_is_wrong_is_not_begun(proxy: FaultProxy) -> None:
    """The error says which step, and what there is."""
    with pytest.raises(ValueError, match=r"step 2: unknown fault 'latncy': valid are latency, jitter, .*reset"):
        await proxy.play([(0, {"latency": 1.0}), (1, {"latncy": 1.0})])
    with pytest.raises(ValueError, match=r"down: unknown fault 'refuse': valid are latency"):
        await proxy.apply({"latency": 1.0, "down": {"refuse": True}})
    assert proxy.latency == 0


async def test_unknown_faults(proxy: FaultProxy) -> None:
    """A name that is mistyped sets nothing silently."""
    with pytest.raises(AttributeError, match="unknown fault 'latncy': valid are latency, jitter"):
        proxy.up.latncy = 1  # type: ignore[attr-defined]  # that is what is tried
    with pytest.raises(AttributeError):
        proxy.latncy = 1  # type: ignore[attr-defined]  # that is what is tried
    with pytest.raises(ValueError, match=r"latency -1: must be at least 0 \(seconds\)"):
        proxy.latency = -1


async def test_statistics(proxy: FaultProxy) -> None:
    """All counters, as plain values; and who has passed, in one line."""
    passed: list[Passed] = []
    proxy.on_passed = passed.append
    proxy.down.limit = 5
    client = await hello(proxy)
    assert await asyncio.wait_for(client.reader.read(), 5) == b""
    await client.close()
    await eventually(lambda: passed)
    assert str(passed[0]).startswith("#1 from 127.0.0.1:")
    assert str(passed[0]).endswith("s, down.limit")
    found = proxy.statistics()
    assert (found["accepted"], found["bytes_up"], found["bytes_down"], found["held"]) == (1, 5, 5, 0)
    assert found["down"]["limit"] == 1
    assert sum(found["up"].values()) == 0


@pytest.mark.parametrize("faults", ["none", "latency", "black_hole", "limit", "flapping", "script"])
async def test_cancelled_at_any_moment(faults: str) -> None:
    """Whatever it does, and whenever it is cancelled, nothing of it is left."""
    before = open_sockets()
    tasks = len(asyncio.all_tasks())
    async with running(TCPServer(repeat, bind="tcp://127.0.0.1:0")) as server:

        async def use() -> None:
            async with FaultProxy(server.addresses[0]) as proxy:
                if faults == "flapping":
                    proxy.flapping = (0.005, 0.005)
                elif faults not in ("none", "script"):
                    setattr(proxy.down, faults, faults == "black_hole" or 1)
                with ExitStack() as stack:
                    for _ in range(3):  # none of this waits, so nothing of it is cancelled
                        client = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.address.port)))
                        client.sendall(b"hello")
                    if faults == "script":
                        await proxy.play([(0, {"latency": 0.01}), (0.005, {"reset": True})], loops=0)
                    await asyncio.sleep(10)

        for turns in range(0, 40, 3):
            task = asyncio.create_task(use())
            for _ in range(turns):
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
    await eventually(lambda: open_sockets() <= before)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)


async def test_where_it_listens(proxy: FaultProxy) -> None:
    """At an address of one's own, which is free again afterwards; one that is taken is an error that leaves nothing."""
    port = free_port()
    async with FaultProxy(proxy.target, listen=f"tcp://127.0.0.1:{port}") as other:
        assert other.address.port == port
        client = await hello(other)
        await client.close()
        with pytest.raises(OSError, match="in use"):
            async with FaultProxy(proxy.target, listen=f"tcp://127.0.0.1:{port}"):
                raise AssertionError("it listens where another one does")
    async with FaultProxy(proxy.target, listen=f"tcp://127.0.0.1:{port}"):
        pass


async def test_half_close_of_a_client_that_does_not_read() -> None:
    """It is told the end behind what it has not read, and what it sends still arrives."""
    heard = bytearray()

    async def flood(conn: Connection) -> None:
        async def listen() -> None:
            async for data in conn:
                heard.extend(data)

        listening = asyncio.create_task(listen())
        try:
            while True:
                await conn.send(bytes(65536))
        finally:
            listening.cancel()

    async with running(TCPServer(flood, bind="tcp://127.0.0.1:0")) as server, FaultProxy(server.addresses[0]) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.address.port)) as client:
            before = -1
            while proxy.bytes_down != before:  # until nothing more fits in
                before = proxy.bytes_down
                await asyncio.sleep(0.1)
            assert proxy.half_close() == 1
            client.sendall(b"more")
            await eventually(lambda: heard == b"more")
            assert proxy.connections == 1


async def test_a_reset_does_not_pass_a_black_hole(proxy: FaultProxy) -> None:
    """The server hears of it when the black hole ends: whoever wants to see a peer that is gone silently can."""
    for ways in (proxy.up, proxy):
        client = await hello(proxy)
        ways.black_hole = True
        client.abort()
        await asyncio.sleep(0.1)
        assert proxy.connections == 1
        proxy.black_hole = False
        await eventually(lambda: proxy.connections == 0)


@pytest.mark.parametrize("latency", [0.0, 0.1])
async def test_a_reset_comes_behind_what_was_said_before(latency: float) -> None:
    """A server that answers before it was told all, and closes: its answer arrives, and takes as long as all else."""

    def refuse(listener: socket.socket) -> None:
        with listener.accept()[0] as conn:
            conn.recv(1)
            conn.sendall(b"too large")  # and closed, though there is more to read: a reset

    passed: list[Passed] = []
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        async with FaultProxy(target, latency=latency, on_passed=passed.append) as proxy:
            for _ in range(5):
                refusing = loop.run_in_executor(None, refuse, listener)
                began = loop.time()
                client = await connect(proxy)
                client.writer.write(bytes(1_000_000))
                assert await client.rest() == b"too large"
                assert loop.time() - began >= 2 * latency
                await refusing
                client.writer.transport.abort()
            await eventually(lambda: len(passed) == 5)
    assert {one.end for one in passed} == {"broken"}


async def test_a_reset_does_not_wait_for_who_does_not_read() -> None:
    """What it would come behind is given up after a second."""
    conns: list[Connection] = []

    async def flood(conn: Connection) -> None:
        conns.append(conn)
        while True:
            await conn.send(bytes(65536))

    async with running(TCPServer(flood, bind="tcp://127.0.0.1:0")) as server, FaultProxy(server.addresses[0]) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.address.port)) as client:
            before = -1
            while proxy.bytes_down != before:
                before = proxy.bytes_down
                await asyncio.sleep(0.1)
            conns[0].abort()
            client.sendall(b"x")
            await eventually(lambda: proxy.connections == 0)


async def test_what_waits_hears_of_changes(proxy: FaultProxy) -> None:
    """A pause of an hour is over when it is switched off; a bandwidth of nearly nothing leaves nothing to pay off."""
    client = await hello(proxy)
    proxy.down.set(slice=1, slice_pause=3600)
    await client.send(b"slow")
    assert await client.exactly(1) == b"s"
    proxy.clear()
    assert await client.exactly(3) == b"low"
    proxy.down.bandwidth = 0.001
    await client.send(b"slow")
    await asyncio.sleep(0.05)
    proxy.clear()
    assert await client.exactly(4) == b"slow"
    proxy.down.bandwidth = 1_000_000
    await client.send(b"fast")
    assert await client.exactly(4) == b"fast"
    await client.close()


async def test_bandwidth_of_what_a_black_hole_held(proxy: FaultProxy) -> None:
    """What was held when there was no limit does not pass in one piece when there is one."""
    client = await hello(proxy)
    proxy.down.black_hole = True
    await client.send(bytes(50_000))
    await eventually(lambda: proxy.held >= 50_000)
    proxy.down.set(black_hole=False, bandwidth=10_000)
    assert len(await client.exactly(1)) == 1
    await asyncio.sleep(0.1)
    assert proxy.bytes_down < 10_000
    proxy.clear()
    await client.exactly(49_999)
    await client.close()


@pytest.mark.parametrize("seed", range(3))
async def test_faults_that_change_while_data_is_under_way(proxy: FaultProxy, seed: int) -> None:
    """In any order and together: none that only delays loses a byte, and when all are off, all arrives."""
    values: dict[str, list[Any]] = {
        "latency": [0, 0.01, 0.05],
        "jitter": [0, 0.02],
        "bandwidth": [None, 0.001, 10_000, 1e6, 1e9],
        "slice": [None, 1, 100, 70_000],
        "slice_pause": [0, 0.001, 3600],
        "timeout": [None, 3600],
        "reset_after": [None, 3600],
        "black_hole": [False, True],
        "limit": [None, 10_000_000],
        "share": [0, 0.5, 1],
    }
    chance = random.Random(seed)
    data = chance.randbytes(300_000)

    async def use() -> bytes:
        client = await connect(proxy)
        sending = asyncio.create_task(client.send(data))
        received = await client.exactly(len(data), timeout=20)
        await sending
        client.send_eof()
        assert await client.rest() == b"$"
        await client.close()
        return received

    clients = [asyncio.create_task(use()) for _ in range(5)]
    for _ in range(150):
        names = chance.sample(list(values), chance.randint(1, 5))
        change = {name: chance.choice(values[name]) for name in names}
        await proxy.apply(chance.choice([change, {"up": change}, {"down": change}]))
        await asyncio.sleep(chance.choice([0, 0, 0.005]))
    proxy.clear()
    assert all([await client == data for client in clients])
    assert proxy.held == 0
    await eventually(lambda: proxy.connections == 0)


async def test_many_connections_at_once(proxy: FaultProxy) -> None:
    """None of them has to try again, which would take it a second that nobody asked for."""
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(300)]
        for client in clients:  # all before the proxy has its turn
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", proxy.address.port))
        for client in clients:
            client.getpeername()  # it is connected
        await eventually(lambda: proxy.accepted == 300)


async def test_too_many_open_files(proxy: FaultProxy) -> None:
    """It does not ask for what it cannot have in every turn of the loop, and goes on when it can."""

    class Watched(FaultProxy):
        __slots__ = ("asked",)

        asked: int

        def _accept(self, listener: socket.socket) -> None:
            self.asked += 1
            super()._accept(listener)

    other = Watched(proxy.target)
    other.asked = 0
    async with other:
        with socket.socket() as client:
            client.setblocking(False)
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # of new ones: those that are open stay so
            try:
                client.connect_ex(("127.0.0.1", other.address.port))
                await asyncio.sleep(0.25)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert other.accepted == 0
            assert 1 <= other.asked <= 4
            await eventually(lambda: other.accepted == 1)
        await eventually(lambda: other.connections == 0)


async def test_every_address_of_this_machine(proxy: FaultProxy) -> None:
    """The host * is IPv4 and IPv6 on one port, also after connections were refused."""
    async with FaultProxy(proxy.target, listen="tcp://*:0") as other:
        other.refuse()
        other.accept()
        for host in ("127.0.0.1", "::1") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
            client = await RawClient.connect(other.address.port, host)
            await client.send(b"hello")
            assert await client.exactly(5) == b"hello"
            await client.close()


async def test_cut_after_is_checked(proxy: FaultProxy) -> None:
    """As all faults are."""
    for value in (-1, 1.5, "1MB", True):
        with pytest.raises(ValueError, match=r"cut_after .*: must be a whole number, at least 0 \(bytes\), or None"):
            proxy.cut_after = value  # type: ignore[assignment]  # that is what is tried
    assert proxy.cut_after is None
