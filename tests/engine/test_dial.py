"""Dialling: what comes about, and what is said when nothing does."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

import pytest

from forebay.engine import Address, CloseReason, Connection, ConnectionHandler, TCPServer, dial, open_socket
from forebay.errors import ConnectFailed, ConnectTimeout, RetryClass
from forebay.wire.framing import Lines
from tests.engine.support import open_sockets
from tests.support import eventually, free_port, running

pytestmark = pytest.mark.both_loops


class Client(ConnectionHandler):
    """Collects what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_open(self, conn: Connection) -> None:
        self.heard.append("open")

    def on_message(self, conn: Connection, data: Any) -> None:
        self.heard.append(data)

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self.heard.append(reason)


async def echo(conn: Connection) -> None:
    """Answer one line, then end."""
    await conn.send(await conn.receive())


async def test_dial() -> None:
    """The connection is open when it returns, unbuffered, and has the timers and counters of any other."""
    async with running(TCPServer(echo, bind="tcp://127.0.0.1:0", framing=Lines())) as server:
        client = Client()
        conn = await dial(server.addresses[0], client, framing=Lines())
        assert client.heard == ["open"]
        assert f"tcp://{conn.peer}" == str(server.addresses[0])
        sock = conn._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        conn.write("hello")
        await eventually(lambda: len(client.heard) == 3)
        assert client.heard == ["open", "hello", CloseReason.PEER]


async def test_expire_in_on_a_dialled_connection() -> None:
    """A server that does not answer is given up by the deadline."""
    async with running(TCPServer(echo, bind="tcp://127.0.0.1:0")) as server:
        client = Client()
        conn = await dial(server.addresses[0], client)
        conn.expire_in(0.1)
        await eventually(lambda: client.heard[-1] is CloseReason.IDLE)


async def test_refused() -> None:
    """The error names the address and the reason, and says that it is safe to try again."""
    address = Address("tcp", "127.0.0.1", free_port())
    before = open_sockets()
    with pytest.raises(ConnectFailed, match=f"^cannot connect to {address}: connection refused$") as caught:
        await dial(address, Client())
    assert caught.value.target == str(address)
    assert caught.value.retry is RetryClass.SAFE
    assert open_sockets() == before


async def test_unknown_name() -> None:
    """So does that of a name nobody knows."""
    with pytest.raises(ConnectFailed, match="its host name is not known"):
        await dial(Address("tcp", "name.invalid", 1), Client())


async def test_timeout_and_cancellation() -> None:
    """A server whose queue is full is given up in time; nothing is left, neither then nor when we are cancelled."""
    with open_socket(Address("tcp", "127.0.0.1", 0), backlog=0) as sock:
        port = sock.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        before = open_sockets()
        address = Address("tcp", "127.0.0.1", port)
        client = Client()
        with pytest.raises(ConnectTimeout, match=re.escape(f"cannot connect to {address} within 0.1 s")):
            await dial(address, client, timeout=0.1)
        task = asyncio.create_task(dial(address, client, timeout=5))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: open_sockets() == before)
        assert client.heard == []
        for filler in fillers:
            filler.close()
