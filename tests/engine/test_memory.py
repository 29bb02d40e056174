"""The bound for all buffers together: what counts, when it is looked at, and who has to go."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from forebay.engine import CloseReason, Connection, ConnectionHandler, Outbound, TCPServer
from forebay.engine.memory import BufferMemory
from forebay.wire.framing import LengthPrefixed, Lines
from tests.engine.connecting import (
    ANY,
    ANY_TLS,
    Recorder,
    client_of,
    closed,
    coroutine_style,
    deaf_client,
    port_of,
    server_tls,
    serving,
)
from tests.support import eventually, running

pytestmark = pytest.mark.both_loops

KIB = 1024
MIB = 1024 * KIB


class Kept:
    """What the memory looks at of a connection."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.looked = 0
        self.close_reason: CloseReason | None = None

    def buffer_size(self) -> int:
        self.looked += 1
        return self.size

    def abort(self, reason: CloseReason) -> None:
        assert self.close_reason is reason


def memory_of(limit: int, kept: list[Kept]) -> BufferMemory:
    def there() -> Any:
        return [conn for conn in kept if conn.close_reason is None]

    return BufferMemory(limit, there)


def test_within_the_limit_nobody_has_to_go() -> None:
    """Up to 95 % of it, which is so that there is room to grow until the next time."""
    kept = [Kept(190) for _ in range(5)]
    memory = memory_of(1000, kept)
    memory.measure()
    assert (memory.used, memory.cut) == (950, 0)
    assert not any(conn.close_reason for conn in kept)


def test_the_largest_go_first() -> None:
    """Until a tenth of the limit is free, and not more of them; it is counted."""
    kept = [Kept(size) for size in (100, 400, 50, 300, 200)]
    memory = memory_of(1000, kept)
    memory.measure()
    assert [conn.size for conn in kept if conn.close_reason is CloseReason.MEMORY] == [400]
    assert (memory.used, memory.cut) == (650, 1)
    many = [Kept(10) for _ in range(200)]
    memory = memory_of(1000, many)
    memory.measure()
    assert (memory.used, memory.cut) == (900, 110)


def test_growth_is_looked_at_when_it_may_be_too_much() -> None:
    """And only then."""
    kept = [Kept(100) for _ in range(5)]
    memory = memory_of(1000, kept)
    memory.measure()
    for _ in range(10):
        memory.grew(50)
    assert kept[0].looked == 1
    kept[0].size = 700
    memory.grew(101)
    assert kept[0].close_reason is CloseReason.MEMORY


def test_looking_does_not_cost_more_the_nearer_the_limit_is() -> None:
    """With buffers that fill the limit nearly, and for long, a write does not mean to add all of them up again."""
    kept = [Kept(949) for _ in range(1000)]
    memory = memory_of(1_000_000, kept)
    memory.measure()
    for _ in range(10_000):
        memory.grew(100)  # as much leaves meanwhile
    assert kept[0].looked <= 21
    assert memory.cut == 0


async def accepted(server: TCPServer, count: int) -> None:
    """Wait until so many were."""
    await eventually(lambda: server.statistics()["accepted"] == count)


class Publisher(ConnectionHandler):
    """Writes as much as it was told, when it was opened."""

    def __init__(self, size: int) -> None:
        self.size = size

    def on_open(self, conn: Connection) -> None:
        for _ in range(self.size // 10_000):
            conn.write(b"x" * 10_000)


@pytest.mark.parametrize("tls", [False, True])
async def test_slow_readers_together(tls: bool) -> None:
    """Many that each stay within their own limit do not get past the server's: some are cut for it, by name, the
    others are kept."""
    options: dict[str, Any] = {"bind": ANY_TLS, "tls": server_tls()} if tls else {"bind": ANY}
    server = TCPServer(
        lambda: Publisher(24 * MIB),
        outbound=Outbound(policy="drop-oldest", limit=12 * MIB),  # of which the kernel takes up to 4 MiB later
        buffer_memory=34 * MIB,
        **options,
    )
    async with running(server), AsyncExitStack() as stack:
        for count in range(10):
            await stack.enter_async_context(client_of(port_of(server), tls=tls))  # which stops reading after 2 MiB
            await accepted(server, count + 1)
            await eventually(lambda: all(conn.bytes_out for conn in server._connections))
            assert sum(conn.buffer_size() for conn in server._connections if not conn.closing) <= 34 * MIB
        await eventually(lambda: server.connections == 10 - closed(server).get("memory", 0))
        assert closed(server).get("memory", 0) >= 5
        assert server.connections >= 2


async def test_one_large_message_for_each() -> None:
    """What was written while a connection was writable counts too, when its peer does not take it."""
    recorders: list[Recorder] = []

    def make() -> Recorder:
        recorders.append(Recorder())
        return recorders[-1]

    server = TCPServer(make, bind=ANY, buffer_memory=40 * MIB)
    async with running(server), AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(deaf_client(port_of(server)))
        await eventually(lambda: len(recorders) == 10 and all(recorder.conn for recorder in recorders))
        for recorder in recorders:
            recorder.opened.write(b"x" * 14 * MIB)
            await asyncio.sleep(0)
        await eventually(lambda: closed(server).get("memory", 0) >= 5)
        await eventually(lambda: server.statistics()["buffer_bytes"] <= 40 * MIB)
        assert 1 <= server.connections <= 5


async def test_only_the_greedy_one_goes() -> None:
    """Who holds little keeps its connection, and is answered."""
    recorders: list[Recorder] = []

    def make() -> Recorder:
        recorders.append(Recorder())
        return recorders[-1]

    server = TCPServer(make, bind=ANY, buffer_memory=4 * MIB, outbound=Outbound(limit=None))
    async with running(server), client_of(port_of(server)) as client, deaf_client(port_of(server)):
        await client.send(b"one")
        assert await client.exactly(3) == b"one"
        await eventually(lambda: len(recorders) == 2 and all(recorder.conn for recorder in recorders))
        (greedy,) = (recorder for recorder in recorders if not recorder.messages)
        while not greedy.opened.closing:
            greedy.opened.write(b"x" * 50_000)
            assert greedy.opened.buffer_size() < 5 * MIB
        assert await eventually(lambda: greedy.reason) is CloseReason.MEMORY
        await client.send(b"two")
        assert await client.exactly(3) == b"two"
        assert closed(server) == {"memory": 1}


async def test_what_peers_make_us_keep_counts() -> None:
    """Messages that are not complete, and those nobody receives, are found once a second at the latest."""
    recorder = Recorder()
    server = serving(recorder, framing=LengthPrefixed(maximum=8 * MIB), buffer_memory=6 * MIB)
    async with running(server), AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(port_of(server))) for _ in range(3)]
        for client in clients:
            await client.send((8 * MIB).to_bytes(4, "big") + b"x" * 4 * MIB)
        await eventually(lambda: closed(server))
        assert closed(server).keys() == {"memory"}
        assert sum(conn.buffer_size() for conn in server._connections) <= 6 * MIB


async def test_inboxes_count() -> None:
    """A coroutine that does not receive holds the peer back; what it has not received is in the sum."""
    opened: list[Connection] = []

    async def handle(conn: Connection) -> None:
        opened.append(conn)
        await asyncio.Event().wait()

    server = serving(Recorder(), lambda recorder: handle, framing=Lines(), inbound_limit=100)
    async with running(server), client_of(port_of(server)) as client:
        await client.send((b"x" * 1000 + b"\n") * 60)
        await eventually(lambda: opened and opened[0].messages_in == 60)
        assert opened[0].buffer_size() == 60_000
        assert server.statistics()["buffer_bytes"] == 60_000


async def test_it_can_be_seen() -> None:
    """Statistics and metrics say what is buffered now, however little that is."""
    recorder = Recorder()
    async with running(serving(recorder, outbound=Outbound(limit=None))) as server:
        async with deaf_client(port_of(server)):
            await eventually(lambda: recorder.conn)
            assert server.statistics()["buffer_bytes"] == 0
            recorder.opened.write(b"x" * 8 * MIB)
            kept = recorder.opened.buffer_size()
            assert kept > 4 * MIB
            assert server.statistics()["buffer_bytes"] == kept
            (family,) = (family for family in server.collect() if family.name == "forebay_tcp_buffer_bytes")
            assert family.samples[0].value == kept
        await eventually(lambda: not server.connections)
        assert server.statistics()["buffer_bytes"] == 0


async def test_no_bound() -> None:
    """Then nothing is cut for it; it can be seen all the same."""
    recorder = Recorder(lambda conn, data: conn.write(b"x" * 8 * MIB))
    server = serving(recorder, coroutine_style, buffer_memory=None, outbound=Outbound(limit=None))
    async with running(server), deaf_client(port_of(server)):
        await eventually(lambda: recorder.conn)
        recorder.opened.write(b"x" * 8 * MIB)
        assert server.statistics()["buffer_bytes"] > 4 * MIB
        assert not closed(server)
