"""What is written soon: it leaves at the end of the turn, in order, whatever comes between."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from forebay.engine import Connection, ConnectionHandler, TCPServer, corks
from forebay.engine.open_file import OpenFile
from forebay.wire.framing import Lines
from tests.support import raw_client, running

pytestmark = pytest.mark.both_loops

ANY = "tcp://127.0.0.1:0"


class Answering(ConnectionHandler):
    """Does what the test wants with each message."""

    def __init__(self, on_message: Callable[[Connection, bytes], None]) -> None:
        self.message = on_message
        self.conn: Connection | None = None

    def on_message(self, conn: Connection, data: bytes) -> None:
        self.conn = conn
        self.message(conn, data)


def has_something(client: socket.socket) -> bool:
    """Whether something can be read, without reading it."""
    try:
        return bool(client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


async def turns(handler_seconds: float) -> list[bool]:
    """Twelve clients ask within one turn. For each: had the first client its answer when this one was handled?"""
    clients: list[socket.socket] = []
    seen: list[bool] = []

    def on_message(conn: Connection, data: bytes) -> None:
        conn.write_soon(data)
        if conn.state != "warm":
            conn.state = "warm"
            return
        seen.append(any(map(has_something, clients)))
        time.sleep(handler_seconds)  # it is what the loop is busy with

    loop = asyncio.get_running_loop()
    server = TCPServer(lambda: Answering(on_message), bind=ANY)
    with ExitStack() as stack:
        async with running(server):
            for _ in range(12):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", server.addresses[0].port)))
                client.setblocking(False)
                await loop.sock_sendall(client, b"warm")
                assert await loop.sock_recv(client, 4) == b"warm"
                clients.append(client)
            for number, client in enumerate(clients):
                client.send(b"%04d" % number)  # all wait in the kernel when the loop looks
            for number, client in enumerate(clients):
                assert await loop.sock_recv(client, 100) == b"%04d" % number
    assert len(seen) == 12
    return seen


async def test_the_answers_of_a_turn_leave_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """All twelve were handled before any client got anything."""
    monkeypatch.setattr(corks, "_LONGEST", 60.0)  # on a busy machine a turn may take its millisecond
    seen = await turns(0.0)
    assert not any(seen)


async def test_a_turn_that_takes_long_does_not_hold_them_back() -> None:
    """Handlers take 2 ms each: the first answers are out long before the last handler runs."""
    seen = await turns(0.002)
    assert seen[:1] == [False]
    assert seen[3:] == [True] * 9


@pytest.mark.parametrize("how", ["write", "soon", "many", "close", "framed"])
async def test_order_is_kept(how: str) -> None:
    """Whatever is written behind it leaves behind it, and a close waits for it."""
    expected = b"first"

    def on_message(conn: Connection, data: bytes) -> None:
        nonlocal expected
        conn.write_soon(b"first")
        if how == "write":
            conn.write(b" second")
            expected = b"first second"
        elif how == "soon":
            conn.write_soon(b" second")
            expected = b"first second"
        elif how == "many":
            for number in range(200):
                conn.write(b" %d" % number)
            expected = b"first" + b"".join(b" %d" % number for number in range(200))
        elif how == "framed":
            conn.write(b"second")
            expected = b"first\nsecond\n"
        conn.close()

    framing = Lines() if how == "framed" else None
    async with (
        running(TCPServer(lambda: Answering(on_message), bind=ANY, framing=framing)) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        await client.send(b"go\n")
        assert await client.rest() == expected


async def test_a_file_follows(tmp_path: Path) -> None:
    """What was written soon is in front of a file that is sent in the same call."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    opened = OpenFile(path)

    def on_message(conn: Connection, data: bytes) -> None:
        conn.write_soon(b"head ")
        conn.start_file(opened, 0, 100_000, lambda error: conn.close())

    async with (
        running(TCPServer(lambda: Answering(on_message), bind=ANY)) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        await client.send(b"go")
        assert await client.rest() == b"head " + b"x" * 100_000
    opened.release()


async def test_behind_what_the_peer_has_not_taken() -> None:
    """The connection is not writable: it waits its turn."""
    size = 8_000_000

    def on_message(conn: Connection, data: bytes) -> None:
        conn.write(b"a" * size)
        assert not conn.writable
        conn.write_soon(b"b")
        conn.write(b"c")
        conn.close()

    async with (
        running(TCPServer(lambda: Answering(on_message), bind=ANY)) as server,
        raw_client(server.addresses[0].port) as client,
    ):
        await client.send(b"go")
        got = await client.rest()
        assert (len(got), got[-3:]) == (size + 2, b"abc")


async def test_after_the_end() -> None:
    """A cut loses it; after a close it is dropped and counted."""
    handlers: list[Answering] = []

    def on_message(conn: Connection, data: bytes) -> None:
        conn.write_soon(b"lost")
        conn.abort()
        conn.write_soon(b"too late")
        conn.write_soon(b"too late")

    def make() -> Answering:
        handlers.append(Answering(on_message))
        return handlers[-1]

    async with running(TCPServer(make, bind=ANY)) as server, raw_client(server.addresses[0].port) as client:
        await client.send(b"go")
        assert await client.rest() == b""
        conn = handlers[0].conn
        assert conn is not None
        assert conn.writes_dropped == 2


class Refusing:
    """A transport that takes nothing."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        raise RuntimeError("it takes nothing")


async def test_one_that_fails_does_not_hold_up_the_others() -> None:
    """It is closed, with its error logged; what was written to others in the same turn leaves."""

    def on_message(conn: Connection, data: bytes) -> None:
        if data == b"fail":
            conn.transport = cast("asyncio.Transport", Refusing(conn.transport))
        conn.write_soon(data)

    loop = asyncio.get_running_loop()
    async with running(TCPServer(lambda: Answering(on_message), bind=ANY)) as server:
        port = server.addresses[0].port
        with (
            socket.create_connection(("127.0.0.1", port)) as first,
            socket.create_connection(("127.0.0.1", port)) as other,
        ):
            for client in (first, other):
                client.setblocking(False)
                await loop.sock_sendall(client, b"warm")
                assert await loop.sock_recv(client, 4) == b"warm"
            first.send(b"fail")
            other.send(b"fine")
            with capture_logs() as logs:
                assert await asyncio.wait_for(loop.sock_recv(other, 4), 5) == b"fine"
                assert await asyncio.wait_for(loop.sock_recv(first, 4), 5) == b""
        assert [entry["event"] for entry in logs] == ["handler failed"]
