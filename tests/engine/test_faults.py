"""Peers that say nothing, say it too slowly, are gone, or break off: each is closed for its named reason within its
timeout, in both styles, over TCP and TLS, and leaves no descriptor, task, timer or place behind.

Each case is done 30 times. ``FOREBAY_SOAK_ROUNDS=1000 .venv/bin/pytest tests/engine/test_faults.py`` does it a thousand
times, which takes a quarter of an hour for all of them; ``-k uvloop`` leaves out half.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from forebay.engine import Connection, ConnectionHandler, Heartbeat, TCPServer
from forebay.wire.framing import Lines
from tests.engine.connecting import ANY, ANY_TLS, client_of, closed, port_of, server_tls, tls_files
from tests.support import RawClient, eventually, open_descriptors, running

ROUNDS = int(os.environ.get("FOREBAY_SOAK_ROUNDS", "30"))
AT_ONCE, TLS_AT_ONCE = 200, 50

pytestmark = [pytest.mark.both_loops, pytest.mark.timeout(60 + ROUNDS)]

TIMEOUT = 0.3
BEATS = Heartbeat(interval=0.15, misses=2, ping="ping", is_pong=lambda message: message == "pong")
SILENCE = BEATS.interval * BEATS.intervals
TOLERANCE = 0.2
"""Seconds that the timer wheel may be late: a tick of its clock, and one of its slots."""

BUSY = 1.5
"""Seconds more, for a machine that has other things to do, and for fifty TLS handshakes at once."""

FROZEN = Path(__file__).with_name("frozen_peer.py")


class Echo(ConnectionHandler):
    """Sends back what it gets."""

    def on_message(self, conn: Connection, data: Any) -> None:
        conn.write(data)


async def echo(conn: Connection) -> None:
    """The same, in coroutine style."""
    async for message in conn:
        await conn.send(message)


async def stuck(conn: Connection) -> None:
    """One that sends the first message back, and then waits for something that never comes."""
    await conn.send(await conn.receive())
    await asyncio.Event().wait()


STYLES = pytest.mark.parametrize("handler", [Echo, echo])
TRANSPORTS = pytest.mark.parametrize("tls", [False, True])


def faulty(handler: Any, tls: bool, **options: Any) -> TCPServer:
    """A server on which nothing is timed but what a test says."""
    where: dict[str, Any] = {"bind": ANY}
    if tls:
        where = {"bind": ANY_TLS, "tls": server_tls(handshake_timeout=10, reload_interval=3600)}
    quiet = {"idle_timeout": None, "first_byte_timeout": None, "message_timeout": None}
    return TCPServer(handler, framing=Lines(), **{**where, **quiet, **options})


@asynccontextmanager
async def nothing_left_of(server: TCPServer, tls: bool) -> AsyncIterator[None]:
    """Run ``server``, and count what there is before and after."""
    async with running(server):
        async with client_of(port_of(server), tls=tls) as client:
            await client.send(b"hello\n")
            assert await client.line() == b"hello\n"
        await eventually(lambda: not server._doors.inside and not len(server._tasks))
        server._counts.closed.clear()
        descriptors, tasks = open_descriptors(), len(asyncio.all_tasks())
        yield
        await eventually(lambda: not server._doors.inside, 10)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        await eventually(lambda: open_descriptors() <= descriptors)
        await eventually(lambda: server.connections == len(server._tasks) == len(server.ticker) == 0)
        assert not server._entrance._arriving
        assert not server._doors._hosts


async def in_batches(do: Callable[[], Coroutine[Any, Any, None]], tls: bool = True) -> None:
    """``do`` it as often as there are rounds, some of them at once."""
    at_once = TLS_AT_ONCE if tls else AT_ONCE
    for start in range(0, ROUNDS, at_once):
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, ROUNDS - start)):
                group.create_task(do())


async def cut_off(client: RawClient, seconds: float) -> bytes:
    """Wait for the server to end the connection, as it should, in ``seconds`` from now. What it said until then."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    with suppress(ssl.SSLError):
        said = await client.rest(seconds + TOLERANCE + BUSY)
    took = loop.time() - begin
    assert seconds - 0.05 <= took, "nobody is cut before the time"
    return said


async def first_but_pings(client: RawClient) -> bytes:
    """The first line that is no ping."""
    while (line := await client.line(10)) == b"ping\n":
        pass
    return line


@STYLES
@TRANSPORTS
async def test_connect_and_say_nothing(handler: Any, tls: bool) -> None:
    """Not a byte, over TLS after the handshake: the first-byte timeout ends it."""
    server = faulty(handler, tls, first_byte_timeout=TIMEOUT)
    async with nothing_left_of(server, tls):

        async def say_nothing() -> None:
            async with client_of(port_of(server), tls=tls) as client:
                assert await cut_off(client, TIMEOUT) == b""

        await in_batches(say_nothing, tls)
    assert closed(server) == {"first-byte": ROUNDS}


@STYLES
@pytest.mark.parametrize("words", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_say_nothing_of_a_handshake(handler: Any, words: bytes) -> None:
    """Not a byte of TLS, or only some: the handshake's timeout ends it."""
    tls = server_tls(handshake_timeout=1.0, reload_interval=3600)
    server = TCPServer(handler, framing=Lines(), bind=ANY_TLS, tls=tls)
    async with nothing_left_of(server, True):

        async def say_nothing() -> None:
            async with client_of(port_of(server)) as client:
                await client.send(words)
                assert await cut_off(client, 1.0) == b""

        await in_batches(say_nothing)
    assert closed(server) == {"handshake-timeout": ROUNDS}


@STYLES
@TRANSPORTS
async def test_slow_loris(handler: Any, tls: bool) -> None:
    """A byte from time to time, never a message: the message timeout ends it."""
    server = faulty(handler, tls, first_byte_timeout=TIMEOUT, message_timeout=TIMEOUT)
    async with nothing_left_of(server, tls):

        async def dribble() -> None:
            async with client_of(port_of(server), tls=tls) as client:
                await client.send(b"x")

                async def on() -> None:
                    with suppress(ConnectionError, RuntimeError):
                        while not client.writer.is_closing():
                            client.writer.write(b"x")
                            await asyncio.sleep(0.05)

                dribbling = asyncio.create_task(on())
                try:
                    assert await cut_off(client, TIMEOUT) == b""
                finally:
                    dribbling.cancel()

        await in_batches(dribble, tls)
    assert closed(server) == {"slow-message": ROUNDS}


@STYLES
async def test_slow_loris_in_the_handshake(handler: Any) -> None:
    """A byte of TLS from time to time gains nothing: the handshake's timeout is for all of it."""
    hello = ssl_hello()
    tls = server_tls(handshake_timeout=1.0, reload_interval=3600)
    server = TCPServer(handler, framing=Lines(), bind=ANY_TLS, tls=tls)
    async with nothing_left_of(server, True):

        async def dribble() -> None:
            async with client_of(port_of(server)) as client:

                async def on() -> None:
                    with suppress(ConnectionError, RuntimeError):
                        for position in range(len(hello)):
                            client.writer.write(hello[position : position + 1])
                            await asyncio.sleep(0.05)

                dribbling = asyncio.create_task(on())
                try:
                    assert await cut_off(client, 1.0) == b""
                finally:
                    dribbling.cancel()

        await in_batches(dribble)
    assert closed(server) == {"handshake-timeout": ROUNDS}


def ssl_hello() -> bytes:
    """What a TLS client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("handler", [Echo, echo, stuck])
@TRANSPORTS
async def test_half_open(handler: Any, tls: bool) -> None:
    """A peer that is connected, and answers no ping any more: heartbeats find it out, and end a handler that waits for
    something else too."""
    server = faulty(handler, tls, heartbeat=BEATS)
    async with nothing_left_of(server, tls):

        async def fall_silent() -> None:
            async with client_of(port_of(server), tls=tls) as client:
                await client.send(b"hello\n")
                assert await first_but_pings(client) == b"hello\n"
                said = await cut_off(client, SILENCE - BEATS.interval)
                assert set(said.split()) <= {b"ping"}

        await in_batches(fall_silent, tls)
    assert closed(server) == {"heartbeat": ROUNDS}


@STYLES
@TRANSPORTS
async def test_a_frozen_process(handler: Any, tls: bool) -> None:
    """Its kernel still acknowledges everything, and nobody is there: heartbeats find that out, and nothing else can."""
    server = faulty(handler, tls, heartbeat=BEATS, max_connections=2000)
    loop = asyncio.get_running_loop()
    async with nothing_left_of(server, tls):
        for start in range(0, ROUNDS, 100):
            count = min(100, ROUNDS - start)
            extra = [tls_files()[1]] if tls else []
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(FROZEN), str(port_of(server)), str(count), *extra, stdout=asyncio.subprocess.PIPE
            )
            try:
                assert process.stdout is not None
                assert await asyncio.wait_for(process.stdout.readline(), 20) == b"ready\n"
                await asyncio.sleep(2 * SILENCE)  # asked again and again, it answers
                assert server.connections == count
                process.send_signal(signal.SIGSTOP)
                begin = loop.time()
                await eventually(lambda: not server.connections, SILENCE + TOLERANCE + BEATS.interval + BUSY)
                assert loop.time() - begin >= BEATS.interval * BEATS.misses - 0.05
            finally:
                process.kill()
                await process.communicate()
    assert closed(server) == {"heartbeat": ROUNDS}


@pytest.mark.parametrize("handler", [Echo, echo, stuck])
@TRANSPORTS
async def test_reset_in_the_middle_of_a_message(handler: Any, tls: bool) -> None:
    """It ends the connection as a reset, at once, and a handler that waits for something else with it."""
    server = faulty(handler, tls, heartbeat=BEATS)
    async with nothing_left_of(server, tls):

        async def break_off() -> None:
            async with client_of(port_of(server), tls=tls) as client:
                await client.send(b"hello\n")
                assert await first_but_pings(client) == b"hello\n"
                await client.send(b"half a li")
                own = client.writer.get_extra_info("sockname")
                name = f"{own[0]}:{own[1]}"
                await eventually(lambda: any(c.bytes_in == 15 and c.peer == name for c in server._connections))
                client.abort()

        await in_batches(break_off, tls)
        await eventually(lambda: not server.connections, 5)
    assert closed(server) == {"reset": ROUNDS}


async def test_reset_in_the_middle_of_a_handshake() -> None:
    """It is one that did not come about, and leaves nothing."""
    server = faulty(Echo, True)
    hello = ssl_hello()
    async with nothing_left_of(server, True):

        async def break_off() -> None:
            async with client_of(port_of(server)) as client:
                await client.send(hello)
                assert await client.exactly(1)  # the server's part of it is on its way
                client.abort()

        await in_batches(break_off)
    assert closed(server) == {"handshake": ROUNDS}
