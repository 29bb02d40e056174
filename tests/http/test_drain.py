"""One drain for all: what is idle closes at once, what is in flight is answered, streams have the rest of the deadline,
WebSockets are told that the server goes away. As a program that gets a SIGTERM, and in one process."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection, connect

from forebay.http import HTTPServer, ServerTimeouts
from tests.engine.connecting import server_tls
from tests.http.drain_apps import CLOSE_TIMEOUT, FIRST, REST, site
from tests.http.websockets_kit import Opcode, closing, frame, read_close, request
from tests.support import RawClient, eventually, free_port, raw_client

ROOT = Path(__file__).parent.parent.parent
EACH = 50  # clients of each kind

AT_ONCE = 0.5
"""Seconds within which idle connections are closed. It takes some ms, on a machine that has nothing else to do."""
LATE, BUSY = 0.4, 1.5  # as in tests.http.fault_clients

GOING_AWAY = 1001  # RFC 6455 section 7.4.1


@dataclass
class Program:
    """``forebay run`` at work."""

    process: asyncio.subprocess.Process
    port: int
    log: Path

    async def end(self, timeout: float = 20.0) -> int:
        """Its exit code."""
        return await asyncio.wait_for(self.process.wait(), timeout)


@asynccontextmanager
async def running_program(target: str, folder: Path, *options: str) -> AsyncIterator[Program]:
    """``forebay run`` with ``target``, from the moment it listens."""
    port = free_port()
    bind = f"http://127.0.0.1:{port}"
    arguments = ["run", f"tests.http.drain_apps:{target}", "--bind", bind, "--admin", "off", *options]
    log = folder / "log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "forebay", *arguments, cwd=ROOT, stdout=out, stderr=out
        )
    try:
        await eventually(lambda: b"ready" in log.read_bytes() or process.returncode is not None, 30)
        assert process.returncode is None, log.read_text()
        yield Program(process, port, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Held:
    """A request whose last byte is kept back: until :meth:`release` it is in flight."""

    def __init__(self, client: RawClient) -> None:
        self.client = client

    @classmethod
    async def post(cls, client: RawClient, path: str, size: int = 1) -> Held:
        """Send a request but for its last byte."""
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
        await client.send(head + b"x" * (size - 1))
        return cls(client)

    async def release(self) -> bytes:
        """Complete it. The content of its answer."""
        await self.client.send(b"x")
        return await last_answer(self.client)


async def last_answer(client: RawClient) -> bytes:
    """The content of a complete answer that says that it is the last one, and is."""
    status, headers, body = await client.response(timeout=10)
    assert (status, headers["connection"]) == (200, "close")
    assert await client.rest() == b""
    await client.close()
    return body


async def start_stream(client: RawClient, what: str) -> None:
    """Ask for a stream, and read its first piece."""
    await client.send(f"GET /stream/{what} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 5)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert await client.exactly(10) == b"5\r\n%b\r\n" % FIRST


CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(REST), REST)


async def when_ended(client: RawClient) -> float:
    """When the connection was ended, orderly and without another word."""
    assert await asyncio.wait_for(client.reader.read(), 10) == b""
    ended = time.monotonic()
    await client.close()
    return ended


async def told_to_go(ws: ClientConnection) -> float:
    """When a WebSocket was closed because the server goes away, orderly on both sides."""
    await asyncio.wait_for(ws.wait_closed(), 10)
    assert (ws.close_code, ws.protocol.close_rcvd_then_sent) == (GOING_AWAY, True)
    return time.monotonic()


@pytest.mark.parametrize("target", ["app", "asgi"])
async def test_a_program_drains_all_at_once(target: str, tmp_path: Path) -> None:
    """Fifty of each: the exit code is 0, for an App and for Starlette."""
    async with running_program(target, tmp_path, "--drain-timeout", "20s") as program, AsyncExitStack() as stack:

        async def client() -> RawClient:
            return await stack.enter_async_context(raw_client(program.port))

        clients = [await client() for _ in range(4 * EACH + 12)]
        take = iter(clients)
        idle = [next(take) for _ in range(EACH)]
        for one in idle:
            assert (await one.get("/hello"))[2] == b"hello"
        silent = [next(take) for _ in range(10)]  # connected, and no more
        waiting = [next(take) for _ in range(EACH // 2)]
        for one in waiting:
            await one.send(b"GET /wait/requests HTTP/1.1\r\nHost: a\r\n\r\n")
        uploads = [await Held.post(next(take), "/body", 1000) for _ in range(EACH // 2)]
        streams = [next(take) for _ in range(EACH)]
        await asyncio.gather(*(start_stream(one, "streams") for one in streams))
        sockets = [
            await stack.enter_async_context(connect(f"ws://127.0.0.1:{program.port}/ws", proxy=None))
            for _ in range(EACH)
        ]
        for ws in sockets:
            await ws.send("hello")
            assert await ws.recv() == "hello"
        requests = await Held.post(next(take), "/release/requests")
        others = await Held.post(next(take), "/release/streams")

        begin = time.monotonic()
        program.process.send_signal(signal.SIGTERM)
        ended = await asyncio.gather(*(when_ended(one) for one in idle + silent))
        assert max(ended) - begin < AT_ONCE
        closed = await asyncio.gather(*(told_to_go(ws) for ws in sockets))
        assert max(closed) - begin < AT_ONCE + BUSY
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await RawClient.connect(program.port)

        assert await requests.release() == b"released"
        assert await asyncio.gather(*(last_answer(one) for one in waiting)) == [b"waited"] * len(waiting)
        assert await asyncio.gather(*(one.release() for one in uploads)) == [b"1000"] * len(uploads)
        await asyncio.sleep(1)  # streams have all of the deadline, whatever else is done
        assert program.process.returncode is None
        assert await others.release() == b"released"
        assert await asyncio.gather(*(one.rest() for one in streams)) == [CHUNKS] * len(streams)
        for one in streams:
            await one.close()
        assert await program.end() == 0, program.log.read_text()
        assert "cut" not in program.log.read_text()


@pytest.mark.parametrize("target", ["app", "asgi"])
async def test_a_program_cuts_what_is_left_at_the_deadline(target: str, tmp_path: Path) -> None:
    """Streams that do not end are broken off, so that no client takes them for complete; those that do are complete."""
    async with running_program(target, tmp_path, "--drain-timeout", "1.5s") as program:
        async with raw_client(program.port) as endless, raw_client(program.port) as ending:
            await start_stream(endless, "never")
            await start_stream(ending, "streams")
            async with raw_client(program.port) as control, raw_client(program.port) as idle:
                held = await Held.post(control, "/release/streams")
                begin = time.monotonic()
                program.process.send_signal(signal.SIGTERM)
                await when_ended(idle)
                assert await held.release() == b"released"
            assert await ending.rest() == CHUNKS
            await ending.close()
            assert await endless.rest(10) == b""
            assert 1.5 - 0.1 <= time.monotonic() - begin < 1.5 + LATE + BUSY
        await program.end()
        assert "drain deadline reached" in program.log.read_text()


# -- in one process


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[HTTPServer]:
    """A server with the framework's application."""
    server = HTTPServer(site(), **{"bind": "http://127.0.0.1:0", **options})
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def drained_in(server: HTTPServer, least: float, most: float) -> AsyncIterator[None]:
    """Drain meanwhile; it takes at least and at most so many seconds. All connections know it when it has begun."""
    async with raw_client(port_of(server)) as idle:
        await idle.get("/hello")
        begin = time.monotonic()
        draining = asyncio.create_task(server.drain())
        assert await idle.rest() == b""
    try:
        yield
        await asyncio.wait_for(draining, most + LATE + BUSY)
        assert least <= time.monotonic() - begin
        assert server.connections == server.in_flight == 0
    finally:
        draining.cancel()
        await asyncio.wait((draining,))


def port_of(server: HTTPServer) -> int:
    return server.addresses[0].port


@pytest.mark.both_loops
async def test_requests_behind_the_one_in_flight_are_not_answered() -> None:
    """RFC 9112 section 9.6: after ``connection: close`` the client knows that they were not, and can ask elsewhere."""
    async with serving() as server, raw_client(port_of(server)) as client:
        held = await Held.post(client, "/body")
        hello = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
        await client.send(b"x" + hello.replace(b"hello", b"wait/it") + hello * 3)
        assert (await client.response())[2] == b"1"
        await eventually(lambda: server.in_flight == 1)
        async with raw_client(port_of(server)) as control:
            other = await Held.post(control, "/release/it")
            async with drained_in(server, 0, 2):
                assert await other.release() == b"released"
                assert await last_answer(held.client) == b"waited"
        assert sum(sum(by_status.values()) for by_status in server.requests.values()) == 3 + 1


@pytest.mark.both_loops
async def test_a_request_that_was_begun_may_be_completed() -> None:
    """In its head or in its content, and is answered; one that is not gets its 408 in the usual time."""
    timeouts = ServerTimeouts(head=0.6, body=0.6, linger=0.1)
    async with serving(timeouts=timeouts) as server, AsyncExitStack() as stack:
        head, slow_head, body, slow_body = [
            await stack.enter_async_context(raw_client(port_of(server))) for _ in range(4)
        ]
        await head.send(b"GET /hello HTTP/1.1\r\nHo")
        await slow_head.send(b"GET /hello HTTP/1.1\r\nHo")
        held = await Held.post(body, "/body", 10)
        await Held.post(slow_body, "/body", 10)
        await eventually(lambda: server.in_flight == 2)
        await eventually(lambda: server.statistics()["connections"]["bytes_in"] > 2 * 20 + 2 * 50)
        async with drained_in(server, 0.5, 0.6):
            await head.send(b"st: a\r\n\r\n")
            assert await last_answer(head) == b"hello"
            assert await held.release() == b"10"
            for slow in (slow_head, slow_body):
                status, headers, _ = await slow.response()
                assert (status, headers["connection"]) == (408, "close")
                await slow.close()
        assert server.refused_by == {"head-timeout": 1, "body-timeout": 1}


@pytest.mark.both_loops
async def test_a_websocket_that_does_not_answer_is_cut_in_time() -> None:
    """It delays the drain by its ``close_timeout``, and the others end orderly meanwhile."""
    async with serving() as server, AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(raw_client(port_of(server))) for _ in range(EACH)]
        for one in sockets:
            await one.send(request(path="/ws"))
            assert (await one.response())[0] == 101
        silent, *answering = sockets
        async with drained_in(server, CLOSE_TIMEOUT, CLOSE_TIMEOUT):
            begin = time.monotonic()
            for one in answering:
                assert (await read_close(one))[0] == GOING_AWAY
                await one.send(frame(Opcode.CLOSE, closing(GOING_AWAY)))
                assert await one.rest() == b""
                await one.close()
            assert time.monotonic() - begin < CLOSE_TIMEOUT + BUSY
            assert (await read_close(silent))[0] == GOING_AWAY
            assert await silent.rest() == b""
        closed = server.statistics()["connections"]["closed"]
        assert closed == {"app": EACH - 1, "timeout": 1, "drain": 1}


async def test_a_websocket_that_reads_nothing_is_cut_in_time() -> None:
    """Even its close frame cannot be sent: what waits before it is not read."""
    async with serving() as server, raw_client(port_of(server)) as client:
        await client.send(request(path="/ws"))
        assert (await client.response())[0] == 101
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with suppress(TimeoutError):
            while True:
                client.writer.write(frame(Opcode.BINARY, b"m" * 60_000))
                await asyncio.wait_for(client.writer.drain(), 0.3)
        async with drained_in(server, CLOSE_TIMEOUT, CLOSE_TIMEOUT):
            pass


@pytest.mark.both_loops
async def test_who_keeps_its_connection_open_does_not_hold_up_the_drain() -> None:
    """After its last answer there is the time to read it, ``linger``, and then the end."""
    async with serving(timeouts=ServerTimeouts(linger=0.4)) as server, raw_client(port_of(server)) as client:
        held = await Held.post(client, "/body")
        await eventually(lambda: server.in_flight == 1)
        async with drained_in(server, 0.4, 0.4):
            await client.send(b"x")
            assert (await held.client.response())[2] == b"1"


async def test_a_handshake_that_does_not_come_about_holds_up_the_drain_for_its_timeout_at_most() -> None:
    """Who has only connected over TLS is not an idle connection yet."""
    tls = server_tls(handshake_timeout=0.5)
    async with serving(bind="https://127.0.0.1:0", tls=tls) as server, raw_client(port_of(server)) as client:
        await eventually(lambda: server._tcp._doors.inside)
        await asyncio.wait_for(server.drain(), 0.5 + LATE + BUSY)
        assert await client.rest() == b""


async def test_a_drain_that_is_given_up_cuts_and_tells() -> None:
    """As its owner does at the deadline: connections are reset, handlers cancelled, and each request is named."""
    async with serving() as server:
        async with raw_client(port_of(server)) as stream, raw_client(port_of(server)) as waiting:
            await start_stream(stream, "never")
            await waiting.send(b"GET /wait/never HTTP/1.1\r\nHost: a\r\n\r\n")
            await eventually(lambda: server.in_flight == 2)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(server.drain(), 0.3)
            with capture_logs() as logs:
                await server.stop()
            assert await stream.rest() == await waiting.rest() == b""
        cut = {entry["path"] for entry in logs if entry["event"] == "request cut"}
        assert cut == {"/stream/never", "/wait/never"}
        assert server.connections == server.in_flight == 0
