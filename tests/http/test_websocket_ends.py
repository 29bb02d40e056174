"""The ends of WebSockets over real sockets: closes that race, draining, stopping, cancellation and failures at every
moment. Nothing hangs, and nothing is left."""

from __future__ import annotations

import asyncio
import gc
import random
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine import Outbound
from forebay.errors import ConnectionClosed
from forebay.http import App, HTTPServer, Request
from forebay.http.websocket import WebSocket, WebSocketHandler
from forebay.http.websocket_client import Connecting, connect
from tests.engine.connecting import deaf_client
from tests.http.raw_websocket import (
    BINARY,
    CLOSE,
    PONG,
    TEXT,
    Frame,
    Peer,
    client,
    closing,
    frame,
    server,
)
from tests.http.websockets_kit import Recorder, request, serving
from tests.support import eventually, raw_client, running

# -- closes that race


async def test_both_sides_close_at_every_moment() -> None:
    """Against each other, and against messages: both hear of the end exactly once, and neither hangs."""
    server_side, client_side = Recorder(), Recorder(lambda ws, message: None)
    async with serving(server_side) as (site, served, port):
        for number in range(60):
            ws = await connect(f"ws://127.0.0.1:{port}/", handler=client_side)
            ws.write(bytes(1000 * number))
            for _ in range(number % 7):
                await asyncio.sleep(0)
            theirs = served.sockets[-1]
            if number % 3:
                theirs.close_nowait(4001, "server")
            for _ in range(number % 5):
                await asyncio.sleep(0)
            await asyncio.wait_for(ws.close(4002, "client"), 5)
        await eventually(lambda: site.connections == 0)
    assert len(server_side.closes) == len(client_side.closes) == 60
    assert {code for code, _ in server_side.closes} <= {4001, 4002}
    assert {code for code, _ in client_side.closes} <= {4001, 4002}


async def test_a_reset_in_the_middle_of_every_close() -> None:
    """By a client that has sent its close frame, or got ours, or both."""
    recorder = Recorder(lambda ws, message: ws.close_nowait(1001))
    async with serving(recorder) as (site, _, port):
        for number in range(40):
            async with client(port) as peer:
                await peer.send(frame(TEXT, b"go")[: number % 9] if number % 2 else frame(TEXT, b"go") + closing())
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                peer.raw.abort()
        await eventually(lambda: site.connections == 0)
        assert len(recorder.closes) == 40


# -- draining and stopping


async def test_a_drain_within_a_handshake() -> None:
    """A request that was begun may be finished, becomes a WebSocket, and is closed with 1001 at once."""
    recorder = Recorder()
    async with serving(recorder) as (site, _, port), raw_client(port) as raw:
        half = request()
        await raw.send(half[:50])
        await eventually(lambda: site.connections == 1)
        await asyncio.sleep(0.02)
        draining = asyncio.create_task(site.drain())
        await asyncio.sleep(0.02)
        await raw.send(half[50:] + frame(TEXT, b"early"))
        assert (await raw.response())[0] == 101
        peer = Peer(raw)
        opcodes = [(await peer.next()).opcode, (await peer.next()).opcode]
        assert sorted(opcodes) == [TEXT, CLOSE]
        await peer.send(closing(1001))
        await asyncio.wait_for(draining, 5)
        assert recorder.closes == [(1001, "")]


async def test_a_drain_while_middleware_thinks_about_a_handshake() -> None:
    """It is accepted, and closed with 1001."""
    app = App()
    think = asyncio.Event()

    @app.middleware
    async def slow(request: Request, call_next: Any) -> Any:
        await think.wait()
        return await call_next(request)

    @app.websocket("/")
    async def listen(ws: WebSocket) -> None:
        async for _ in ws:
            pass

    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as site:  # noqa: SIM117
        async with raw_client(site.addresses[0].port) as raw:
            await raw.send(request())
            await eventually(lambda: site.in_flight == 1)
            draining = asyncio.create_task(site.drain())
            await asyncio.sleep(0.02)
            think.set()
            assert (await raw.response())[0] == 101
            assert (await Peer(raw).next()).code == 1001
            await raw.send(closing(1001))
            await asyncio.wait_for(draining, 5)


@pytest.mark.parametrize("who", ["we", "the peer"])
async def test_a_drain_within_a_close(who: str) -> None:
    """It waits for the close that has begun, and begins no second one."""
    recorder = Recorder(lambda ws, message: ws.close_nowait(4000))
    async with serving(recorder, close_timeout=0.3) as (site, _, port), client(port) as peer:
        await peer.send(frame(TEXT, b"go") if who == "we" else closing(4000))
        assert (await peer.next()).code == 4000
        await asyncio.wait_for(site.drain(), 5)
        assert await peer.rest() == []
        assert recorder.closes == [(1006, "timeout") if who == "we" else (4000, "")]


@pytest.mark.parametrize("step", ["receive", "send", "close", "sleep", "drain"])
async def test_stop_in_the_middle(step: str) -> None:
    """Whatever a handler waits for: it is cancelled or told, its connection is cut, and nothing is left of it."""
    ended: list[str] = []

    async def handle(ws: WebSocket) -> None:
        try:
            if step == "receive":
                await ws.receive()
            elif step == "send":
                while True:
                    await ws.send(bytes(1 << 20))
            elif step == "close":
                await ws.close()
            else:
                await asyncio.Event().wait()
        except (ConnectionClosed, asyncio.CancelledError) as error:
            ended.append(type(error).__name__)
            raise
        ended.append("returned")

    async with serving(handle) as (site, served, port), deaf_client(port) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, request())
        await eventually(lambda: len(served.tasks))
        await asyncio.sleep(0.05)
        draining = asyncio.create_task(site.drain()) if step == "drain" else None
        await asyncio.sleep(0.02)
        await asyncio.wait_for(site.stop(), 5)
        assert len(ended) == 1
        assert not len(served.tasks)
        assert served.sockets[0].close_code == 1006
        if draining is not None:
            await asyncio.wait_for(draining, 5)


# -- cancellation


async def test_receive_is_cancelled_again_and_again() -> None:
    """No message is lost or doubled, by whatever of it was under way; with timeouts that fire at random moments."""
    got: list[Any] = []

    async def impatient(ws: WebSocket) -> None:
        dice = random.Random(5)
        with suppress(ConnectionClosed):
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(dice.choice((0, 0.0005, 0.002))):
                        got.append(await ws.receive())

    async with serving(impatient) as (_, _, port), client(port) as peer:
        for number in range(500):
            await peer.send(frame(TEXT, b"%d" % number))
            if number % 3 == 0:
                await asyncio.sleep(0.001)
        await peer.send(closing())
        await peer.rest()
        await eventually(lambda: len(got) == 500)
        assert got == [str(number) for number in range(500)]


async def test_send_is_cancelled() -> None:
    """What was sent is sent; the next one goes out whole, behind it."""
    cancelled = 0

    async def pour(ws: WebSocket) -> None:
        nonlocal cancelled
        await ws.receive()
        for number in range(30):
            try:
                async with asyncio.timeout(0.001):
                    await ws.send(bytes([number]) * 200_000)
            except TimeoutError:
                cancelled += 1
        await ws.send("end")

    async with serving(pour, compression=None) as (_, _, port), client(port) as peer:
        peer.raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(frame(TEXT, b"go"))
        await eventually(lambda: cancelled > 5)
        peer.raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for number in range(30):
            assert await peer.next() == Frame(BINARY, bytes([number]) * 200_000)
        assert await peer.next() == Frame(TEXT, b"end")


async def test_close_is_cancelled() -> None:
    """It has begun all the same, and is bounded."""

    async def leave(ws: WebSocket) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await ws.close(4000)
        await asyncio.Event().wait()

    async with serving(leave, close_timeout=0.2) as (site, served, port), client(port) as peer:
        assert (await peer.next()).code == 4000
        assert await peer.rest() == []
        await eventually(lambda: site.connections == 0)
        assert served.sockets[0].close_reason == "timeout"


async def test_many_close_at_once() -> None:
    """All of them return when the connection has ended; those that are cancelled leave the others alone."""
    async with serving(Recorder()) as (_, served, port), client(port) as peer:
        (ws,) = served.sockets
        closing_ = [asyncio.create_task(ws.close(4000 + number)) for number in range(10)]
        await asyncio.sleep(0)
        closing_[3].cancel()
        assert (await peer.next()).code == 4000
        await peer.send(closing(4000))
        await asyncio.wait_for(asyncio.gather(*closing_, return_exceptions=True), 5)
        assert [task.cancelled() for task in closing_].count(True) == 1


async def test_a_connect_that_is_cancelled_at_every_moment() -> None:
    """Nothing is left of it, on either side."""
    async with serving(Recorder()) as (site, _, port):
        for number in range(60):
            task = asyncio.create_task(_open(connect(f"ws://127.0.0.1:{port}/")))
            for _ in range(number // 2):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                (await task).conn.abort()
        await eventually(lambda: site.connections == 0)


async def _open(connecting: Connecting) -> WebSocket:
    return await connecting


@pytest.mark.parametrize("how", ["thrown out", "sent to"])
async def test_who_is_cut_by_others_is_cancelled(how: str) -> None:
    """That somebody else closes a WebSocket, or learns when sending that it is closed, its handler does not know of: it
    waits for something else, and would for ever."""
    ended: list[str] = []
    sockets: list[WebSocket] = []
    heard: list[str] = []

    async def wait(ws: WebSocket) -> None:
        sockets.append(ws)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with serving(wait, close_timeout=0.3, outbound=Outbound(timeout=0.3)) as (_, served, port):  # noqa: SIM117
        async with deaf_client(port) as sock:
            await asyncio.get_running_loop().sock_sendall(sock, request())
            await eventually(lambda: sockets)
            if how == "thrown out":
                sockets[0].close_nowait(4000)
            else:
                try:
                    while True:
                        await sockets[0].send(bytes(1 << 20))
                except ConnectionClosed as error:
                    heard.append(str(error))
            await eventually(lambda: ended == ["cancelled"])
            await eventually(lambda: not len(served.tasks))
    assert len(heard) == (how == "sent to")


async def test_a_peer_that_leaves_is_no_failure_of_a_group_of_tasks() -> None:
    """A handler whose tasks learn of the end ends with a group of their errors: it is not logged, unless there is
    another one among them."""

    async def both(ws: WebSocket) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(pour(ws))

    async def pour(ws: WebSocket) -> None:
        try:
            while True:
                await ws.send(bytes(1 << 20))
        except ConnectionClosed:
            if ws.path == "/wrong":
                raise ValueError("wrong") from None
            raise

    for path in ("/", "/wrong"):
        with capture_logs() as logs:
            async with serving(both) as (_, served, port), client(port, path=path) as peer:
                await eventually(lambda: served.sockets and not served.sockets[0].writable)
                await peer.send(closing())
                await eventually(lambda: not len(served.tasks))
        errors = [entry for entry in logs if entry["log_level"] == "error"]
        assert len(errors) == (path == "/wrong")


# -- handlers that fail


CALLS = ("on_open", "on_message", "on_pong", "on_writable", "on_drain", "on_close")


@pytest.mark.both_loops
@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
@pytest.mark.parametrize("where", CALLS)
async def test_a_handler_that_fails_anywhere(where: str, error: type[BaseException]) -> None:
    """It is logged once; the peer is told 1011, and no more. A stray cancellation is no different."""

    def fail(ws: WebSocket, *_: Any) -> None:
        raise error("secret")

    handler = type("Failing", (WebSocketHandler,), {where: fail})()
    if where == "on_writable":
        handler.on_message = lambda ws, message: ws.write(bytes(12_000_000))
    with capture_logs() as logs:
        async with serving(handler, compression=None) as (site, served, port), client(port) as peer:
            if where == "on_writable":
                peer.raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await peer.send(frame(TEXT, b"hi") + frame(PONG))
            if where == "on_writable":
                await eventually(lambda: not served.sockets[0].writable)
                peer.raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
                assert (await peer.next()).payload == bytes(12_000_000)
            draining = asyncio.create_task(site.drain()) if where == "on_drain" else None
            if where == "on_close":
                await peer.send(closing())
                assert await peer.rest() == [Frame(CLOSE, b"\x03\xe8")]
            else:
                assert await peer.next() == Frame(CLOSE, b"\x03\xf3internal error")
            peer.raw.writer.transport.abort()
            await eventually(lambda: site.connections == 0)
            assert served.sockets[0].close_code == (1000 if where == "on_close" else 1011)
            if draining is not None:
                await asyncio.wait_for(draining, 5)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["handler failed"]


async def test_nothing_is_left_of_clients_sockets() -> None:
    """No object of theirs waits for the garbage collector, however they came about or did not."""

    async def refuse(peer: Peer, head: bytes) -> None:
        await peer.send(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        await peer.raw.rest()

    def alive() -> int:
        return sum(type(thing).__name__ in ("WebSocket", "HandshakeAnswer") for thing in gc.get_objects())

    async with serving(Recorder()) as (site, served, port), server(refuse) as refusing:
        gc.collect()
        gc.disable()
        try:
            before = alive()
            for _ in range(10):
                async with connect(f"ws://127.0.0.1:{port}/") as ws:
                    await ws.send("hi")
                    await ws.receive()
                with suppress(Exception):
                    await connect(refusing)
                with suppress(Exception):
                    await connect("ws://127.0.0.1:1/")
            del ws
            await eventually(lambda: site.connections == 0)
            served.sockets.clear()
            served.handler.sockets.clear()
            await eventually(lambda: alive() <= before)
        finally:
            gc.enable()
