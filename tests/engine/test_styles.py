"""Coroutine handlers over real sockets: how they begin, are held back, and end. Races are in test_stepping."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from forebay.engine import CloseReason, Connection, ConnectionHandler, Outbound, TCPServer
from forebay.engine.styles import _Coroutine, handler_factory, is_coroutine_style
from forebay.engine.tasks import Tasks
from forebay.errors import ConnectionClosed
from forebay.wire.framing import Lines
from tests.engine.connecting import ANY, client_of, closed, port_of
from tests.support import eventually, running

pytestmark = pytest.mark.both_loops


def test_which_style() -> None:
    """Coroutine functions, and objects that are called as such, are coroutine style; classes and functions are not."""

    async def function(conn: Connection) -> None:
        pass

    class Callable:
        async def __call__(self, conn: Connection) -> None:
            pass

    assert is_coroutine_style(function)
    assert is_coroutine_style(Callable())
    assert not is_coroutine_style(ConnectionHandler)
    assert not is_coroutine_style(lambda: ConnectionHandler())
    with pytest.raises(ValueError, match="must be a coroutine function"):
        handler_factory(5, Tasks(), 1)  # type: ignore[arg-type]


async def test_a_reader_and_a_writer_task() -> None:
    """Child tasks of a handler may have the connection between them, after the handler took what comes first."""

    async def handle(conn: Connection) -> None:
        name = await conn.receive()
        lines: asyncio.Queue[Any] = asyncio.Queue()

        async def read() -> None:
            async for line in conn:
                lines.put_nowait(line)
            lines.put_nowait(None)

        async def write() -> None:
            while (line := await lines.get()) is not None:
                await conn.send(f"{name}: {line}")

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            group.create_task(write())

    async with running(TCPServer(handle, bind=ANY, framing=Lines())) as server:
        async with client_of(port_of(server)) as client:
            await client.send(b"ann\n")
            await client.send(b"".join(b"%d\n" % number for number in range(1000)))
            for number in range(1000):
                assert await client.line() == b"ann: %d\n" % number
            client.send_eof()
            assert await client.rest() == b""
        await eventually(lambda: closed(server) == {"peer": 1})


async def test_a_slow_handler_holds_its_peer_back() -> None:
    """What is not handled stays in the kernel and with the peer: only so much is read."""
    go = asyncio.Event()
    handled = 0

    async def handle(conn: Connection) -> None:
        nonlocal handled
        async for _ in conn:
            await go.wait()
            handled += 1

    line = b"x" * 999 + b"\n"
    server = TCPServer(handle, bind=ANY, framing=Lines(), inbound_limit=16)
    async with running(server), client_of(port_of(server)) as client:
        for _ in range(20):
            client.writer.write(line * 1000)
        (conn,) = await eventually(lambda: list(server._connections))
        await eventually(lambda: conn._paused)
        read = conn.bytes_in
        await asyncio.sleep(0.1)
        assert conn.bytes_in == read < 2_000_000
        go.set()
        await eventually(lambda: handled == 20_000, timeout=20)


async def test_a_handler_that_is_too_much_for_its_peer() -> None:
    """Cut for that in the middle of a step, it is cancelled at what it waits for next."""
    ended: list[str] = []

    async def handle(conn: Connection) -> None:
        async for _ in conn:
            while not conn.closing:
                conn.write("x" * 10_000)
            try:
                await asyncio.sleep(60)
            finally:
                ended.append("cancelled")

    outbound = Outbound(high=1000, limit=10_000)
    server = TCPServer(handle, bind=ANY, framing=Lines(), outbound=outbound)
    async with running(server), client_of(port_of(server)) as client:
        await client.send(b"go\n")
        await eventually(lambda: closed(server) == {"slow-consumer": 1})
        await eventually(lambda: not len(server._tasks))
    assert ended == ["cancelled"]


async def test_a_handler_that_ignores_its_connection() -> None:
    """It is not cancelled for a peer that leaves in order, but for one that is gone."""
    ended: list[str] = []
    go = asyncio.Event()

    async def handle(conn: Connection) -> None:
        try:
            await go.wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        ended.append("finished")

    async with running(TCPServer(handle, bind=ANY, framing=Lines())) as server:
        async with client_of(port_of(server)) as client:
            await client.send(b"one\n")
            await eventually(lambda: server.connections == 1)
            client.abort()
            await eventually(lambda: ended == ["cancelled"])
        async with client_of(port_of(server)) as client:
            client.send_eof()
            await eventually(lambda: server.connections == 1)
            go.set()
            assert await client.rest() == b""
    assert ended == ["cancelled", "finished"]


@pytest.mark.parametrize("where", ["before a message", "between messages", "sending", "elsewhere"])
async def test_stop(where: str) -> None:
    """It ends every handler, wherever it is, and leaves no task behind."""
    ended: list[str] = []

    async def handle(conn: Connection) -> None:
        try:
            async for _ in conn:
                if where == "sending":
                    while True:
                        await conn.send("x" * 100_000)
                elif where == "elsewhere":
                    await asyncio.sleep(60)
            ended.append("end")
        except ConnectionClosed:
            ended.append("closed")
            raise
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    server = TCPServer(handle, bind=ANY, framing=Lines())
    async with running(server), client_of(port_of(server)) as client:
        await eventually(lambda: server.connections == 1)
        (conn,) = server._connections
        if where != "before a message":
            await client.send(b"one\n")
            await eventually(lambda: conn.messages_in == 1 and (where != "sending" or not conn.writable))
        await asyncio.wait_for(server.stop(), 5)
    assert len(ended) == 1
    assert not len(server._tasks)
    assert conn.close_reason is CloseReason.STOPPED


async def test_a_thousand_connections_leave_nothing() -> None:
    """No object of theirs is left once they are closed, collector or not."""

    async def handle(conn: Connection) -> None:
        async for line in conn:
            await conn.send(line)
            if line == "wait":
                await asyncio.sleep(0)

    def alive() -> int:
        return sum(isinstance(thing, Connection | _Coroutine) for thing in gc.get_objects())

    async def one(number: int) -> None:
        async with client_of(port_of(server)) as client:
            await client.send(b"one\nwait\n")
            assert await client.exactly(9) == b"one\nwait\n"
            if number % 3 == 0:
                client.abort()
            elif number % 3 == 1:
                client.send_eof()
                assert await client.rest() == b""

    async with running(TCPServer(handle, bind=ANY, framing=Lines())) as server:
        gc.collect()
        before = alive()
        gc.disable()
        try:
            for _ in range(20):
                await asyncio.gather(*(one(number) for number in range(50)))
            await eventually(lambda: server.connections == 0 and not len(server._tasks))
            assert server._counts.accepted == 1000
            await eventually(lambda: alive() <= before)
        finally:
            gc.enable()
