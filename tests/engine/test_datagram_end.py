"""How UDP servers end: drained, stopped, cancelled half-way; and what is left of them."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import ExitStack

import pytest

from forebay.engine import Address, set_socket_source
from forebay.engine.datagram import UDPServer
from forebay.engine.datagram_handler import DatagramHandler
from forebay.engine.datagram_session import DatagramSession
from forebay.errors import ConnectionClosed
from forebay.service import Group, State
from tests.engine.datagrams import ANY, peer_of
from tests.engine.support import open_sockets
from tests.support import eventually, running

pytestmark = pytest.mark.both_loops


class Echo(DatagramHandler):
    """Sends back what it gets, and closes when told ``bye``."""

    def on_message(self, session: DatagramSession, data: bytes) -> None:
        session.write(data)
        if data == b"bye":
            session.close()


async def echo(session: DatagramSession) -> None:
    """The same in coroutine style."""
    async for data in session:
        await session.send(data)
        if data == b"bye":
            return


async def test_drain_in_event_style() -> None:
    """Sessions are told and end when they want; new peers are dropped; then the socket closes."""

    class Patient(Echo):
        def on_drain(self, session: DatagramSession) -> None:
            session.write(b"draining")

    async with running(UDPServer(Patient, bind=ANY)) as server:
        address = server.addresses[0]
        with peer_of(address) as old, peer_of(address) as new:
            await old.ask(b"hello")
            drain = asyncio.create_task(server.drain())
            assert await old.receive() == b"draining"
            assert server.state is State.DRAINING
            new.send(b"hello")
            await eventually(lambda: server.statistics()["dropped"] == {"drain": 1})
            assert not drain.done()
            assert await old.ask(b"still here") == b"still here"
            assert await old.ask(b"bye") == b"bye"
            await asyncio.wait_for(drain, 5)
            with pytest.raises(ConnectionRefusedError):
                await old.ask(b"anybody?")
                await old.receive()
    assert server.statistics()["closed"] == {"app": 1}


async def test_drain_in_coroutine_style() -> None:
    """What was received is still handled, the iteration ends, what comes later is dropped, and drain waits."""
    gate = asyncio.Event()

    async def slow(session: DatagramSession) -> None:
        async for data in session:
            await gate.wait()
            await session.send(data)
        with pytest.raises(ConnectionClosed, match="drain"):
            await session.receive()
        await session.send(b"bye")

    async with running(UDPServer(slow, bind=ANY)) as server:
        with peer_of(server.addresses[0]) as peer:
            peer.send(b"1")
            peer.send(b"2")
            await eventually(lambda: server.statistics()["messages_in"] == 2)
            drain = asyncio.create_task(server.drain())
            await asyncio.sleep(0)
            peer.send(b"3")
            await eventually(lambda: server.statistics()["dropped"] == {"drain": 1})
            assert not drain.done()
            gate.set()
            assert [await peer.receive() for _ in range(3)] == [b"1", b"2", b"bye"]
            await asyncio.wait_for(drain, 5)
    assert server.statistics()["closed"] == {"drain": 1}
    assert server.statistics()["queued_bytes"] == 0


async def test_drain_past_its_deadline_is_cut() -> None:
    """A coroutine that does not end is cancelled by ``stop``, and everything is given back."""
    before = open_sockets()

    async def stubborn(session: DatagramSession) -> None:
        await asyncio.Event().wait()

    server = UDPServer(stubborn, bind=ANY)
    group = Group("all", [server], drain_timeout=0.05)
    await group.start()
    with peer_of(server.addresses[0]) as peer:
        peer.send(b"x")
        await eventually(lambda: server.sessions)
        await group.drain()
        assert server.sessions == 1
        await group.stop()
    assert server.state is State.STOPPED
    assert server.statistics()["closed"] == {"stopped": 1}
    assert not server.tasks
    await eventually(lambda: open_sockets() == before)


async def test_stop_is_right_in_any_state() -> None:
    """Before the start, twice, and while the start waits for a socket."""
    server = UDPServer(Echo, bind=ANY)
    await server.stop()
    await server.stop()
    asked = asyncio.Event()

    async def never(address: Address) -> socket.socket:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    set_socket_source(never)
    try:
        server = UDPServer(Echo, bind=ANY)
        start = asyncio.create_task(server.start())
        await asyncio.wait_for(asked.wait(), 5)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        await server.stop()
    finally:
        set_socket_source(None)


async def test_a_start_cancelled_at_any_step_leaves_nothing() -> None:
    """Whichever wait of the start is cancelled, no socket stays open."""
    before = open_sockets()
    for steps in range(8):
        server = UDPServer(Echo, bind=[ANY, ANY])
        start = asyncio.create_task(server.start())
        for _ in range(steps):
            await asyncio.sleep(0)
        start.cancel()
        await asyncio.wait([start])
        await server.stop()
        await eventually(lambda: open_sockets() == before)


async def test_nothing_leaks() -> None:
    """Rounds of servers, sessions and ends leave no socket and no task."""
    before = None
    for number in range(30):
        server = UDPServer(Echo if number % 2 else echo, bind=ANY)
        await server.start()
        with ExitStack() as stack:
            for _ in range(5):
                await stack.enter_context(peer_of(server.addresses[0])).ask(b"x")
            if number % 3:
                await asyncio.wait_for(server.drain(), 5)
            await server.stop()
        assert not server.tasks
        if number == 2:
            gc.collect()
            before = (open_sockets(), len(asyncio.all_tasks()))
    assert before is not None
    await eventually(lambda: (open_sockets(), len(asyncio.all_tasks())) == before)
