"""WebSockets under attack over real sockets: slow, half-open and hostile peers, floods, handlers that pause,
broadcasters whose members change. Nothing hangs, and all is bounded."""

from __future__ import annotations

import asyncio
import random
import zlib
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from forebay.engine import Outbound
from forebay.errors import ConnectionClosed
from forebay.http import App, HTTPServer, Request
from forebay.http.broadcaster import Broadcaster
from forebay.http.websocket import WebSocket, WebSocketHandler, WebSocketSettings
from forebay.http.websocket_client import connect
from forebay.wire.deflate import DeflateSettings
from tests.engine.connecting import deaf_client
from tests.http.raw_websocket import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Peer,
    accepting,
    client,
    closing,
    frame,
    read_frames,
    server,
)
from tests.http.websockets_kit import DEFLATE, Recorder, request, serving
from tests.support import RawClient, eventually, raw_client, running

NOISE = random.Random(7).randbytes(5000)
BULK = b"".join(frame(BINARY, b"%d " % number + NOISE) for number in range(8))  # 40 KB, which is read piece by piece


# -- pausing and resuming in the middle of what came


@pytest.mark.both_loops
@pytest.mark.parametrize("fields", [{}, {"sec_websocket_extensions": DEFLATE}], ids=["plain", "deflate"])
async def test_reading_is_paused_and_resumed_within_a_message(fields: Any) -> None:
    """By the handler of the first of many messages that came at once: the others are handled, and all that follow."""

    def pause(ws: WebSocket, message: str | bytes) -> None:
        if len(recorder.messages) % 8 == 1:
            ws.pause_reading()
            ws.resume_reading()

    recorder = Recorder(pause)
    async with serving(recorder) as (_, _, port), client(port, **fields) as peer:
        for count in (8, 16, 24):
            await peer.send(BULK)
            await eventually(lambda: len(recorder.messages) == count)  # noqa: B023


@pytest.mark.both_loops
@pytest.mark.parametrize("fields", [{}, {"sec_websocket_extensions": DEFLATE}], ids=["plain", "deflate"])
async def test_reading_stays_paused(fields: Any) -> None:
    """A handler that pauses at each message gets a few with each resumption, and no more is read from the network than
    a chunk: not while it waits for the next, and not behind the last of the chunk either."""
    recorder = Recorder(lambda ws, message: ws.pause_reading())
    async with serving(recorder) as (_, site, port), client(port, **fields) as peer:
        (ws,) = site.sockets
        flood = asyncio.create_task(peer.send(*([BULK] * 400)))  # 16 MB
        await eventually(lambda: recorder.messages)
        for _ in range(100):
            before = ws.conn.bytes_in
            ws.resume_reading()
            assert ws.conn.bytes_in - before <= 600_000
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.1)
        read = ws.conn.bytes_in
        handled = sum(map(len, recorder.messages))
        assert read - handled <= 600_000, "what was read and not handled"
        await asyncio.sleep(0.1)
        assert ws.conn.bytes_in == read
        flood.cancel()


@pytest.mark.both_loops
@pytest.mark.parametrize("fields", [{}, {"sec_websocket_extensions": DEFLATE}], ids=["plain", "deflate"])
async def test_a_paused_handler_that_closes_hears_the_peers_close(fields: Any) -> None:
    """What was not read is thrown away, and the close frame behind it is seen."""

    def leave(ws: WebSocket, message: str | bytes) -> None:
        ws.pause_reading()
        ws.close_nowait(1001)

    recorder = Recorder(leave)
    async with serving(recorder) as (_, _, port), client(port, **fields) as peer:
        await peer.send(BULK)
        assert (await peer.next()).code == 1001
        await peer.send(BULK, closing(1001, b"so be it"))
        assert await peer.rest() == []
        await eventually(lambda: recorder.closes == [(1001, "so be it")])
        assert len(recorder.messages) == 1


async def test_pausing_what_is_gone() -> None:
    """In the last call, and after it, nothing that can be asked of a WebSocket fails or does anything."""
    failures: list[Exception] = []

    def everything(ws: WebSocket) -> None:
        try:
            ws.pause_reading()
            ws.resume_reading()
            ws.write("x")
            ws.ping()
            ws.close_nowait(1000)
            ws.new_context()
            assert not ws.open
            assert repr(ws)
            assert (ws.path, ws.query, ws.host, ws.client) == ("/", [], "test", "127.0.0.1")
        except Exception as error:
            failures.append(error)

    class Last(Recorder):
        def on_close(self, ws: WebSocket, code: int, reason: str) -> None:
            super().on_close(ws, code, reason)
            everything(ws)

    recorder = Last()
    async with serving(recorder) as (_, site, port):
        for how in ("end", "reset", "close"):
            async with client(port, sec_websocket_extensions=DEFLATE) as peer:
                await peer.send(frame(TEXT, b"hi"))
                await peer.next()
                if how == "end":
                    peer.raw.send_eof()
                elif how == "reset":
                    peer.raw.abort()
                else:
                    await peer.send(closing())
                count = len(site.sockets)
                await eventually(lambda: len(recorder.closes) == count)  # noqa: B023
        for ws in site.sockets:
            everything(ws)
            await ws.close()
            with pytest.raises(ConnectionClosed):
                await ws.send("x")
    assert failures == []


# -- half-open and half-closed peers


@pytest.mark.both_loops
async def test_a_client_that_half_closes_before_it_is_accepted() -> None:
    """While middleware still thinks about the handshake: what it sent is handled, and its end is noticed, although the
    loop does not tell of it again."""
    app = App()
    ended: list[Any] = []
    think = asyncio.Event()

    @app.middleware
    async def slow(request: Request, call_next: Any) -> Any:
        await think.wait()
        return await call_next(request)

    @app.websocket("/", WebSocketSettings(ping_interval=None))
    async def listen(ws: WebSocket) -> None:
        got = [message async for message in ws]
        ended.append((got, ws.close_code))

    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as site:  # noqa: SIM117
        async with raw_client(site.addresses[0].port) as raw:
            await raw.send(request() + frame(TEXT, b"hi"))
            raw.send_eof()
            await asyncio.sleep(0.1)
            think.set()
            assert b"101 Switching Protocols" in await raw.rest()
            await eventually(lambda: ended == [(["hi"], 1006)])
            await eventually(lambda: site.connections == 0)


@pytest.mark.parametrize("when", ["idle", "within a frame", "within a message", "while it is closed"])
async def test_a_peer_that_is_silent_for_ever(when: str) -> None:
    """It does not answer the ping, or the close frame, and is cut; so are those that fell silent within a message."""
    data = {"within a frame": frame(TEXT, b"half", length=500), "within a message": frame(TEXT, b"half", fin=False)}
    recorder = Recorder()
    settings: dict[str, Any] = {"ping_interval": 0.2, "ping_timeout": 0.2, "close_timeout": 0.2}
    async with serving(recorder, **settings) as (site, served, port), client(port) as peer:
        await peer.send(data.get(when, b""))
        if when == "while it is closed":
            served.sockets[0].close_nowait()
        await eventually(lambda: recorder.closes)
        assert recorder.closes == [(1006, "timeout" if when == "while it is closed" else "heartbeat")]
        assert site.connections == 0


# -- floods


@pytest.mark.parametrize("payload", [b"", b"x" * 125])
async def test_a_flood_of_pings(payload: bytes) -> None:
    """50,000 at once: each is answered, in order, while the peer reads."""
    count = 50_000
    async with serving(Recorder()) as (_, _, port), client(port) as peer:
        sending = asyncio.create_task(peer.send(frame(PING, payload) * count + frame(TEXT, b"end")))
        expected = frame(PONG, payload, mask=None) * count + frame(TEXT, b"end", mask=None)
        assert await peer.raw.exactly(len(expected), timeout=20) == expected
        await sending


@pytest.mark.parametrize("style", ["event", "coroutine"])
async def test_a_flood_of_empty_messages(style: str) -> None:
    """They take no bytes of the inbox, but they are counted: only so many wait."""
    go = asyncio.Event()
    got = 0

    async def slow(ws: WebSocket) -> None:
        nonlocal got
        await go.wait()
        async for _ in ws:
            got += 1

    def count(ws: WebSocket, message: str | bytes) -> None:
        nonlocal got
        got += 1

    async with serving(slow if style == "coroutine" else Recorder(count)) as (_, site, port), client(port) as peer:
        sending = asyncio.create_task(peer.send(*([frame(TEXT) * 1000] * 100)))
        if style == "coroutine":
            await eventually(lambda: site.sockets[0].paused)
            inbox = site.sockets[0]._inbox
            assert inbox is not None
            assert inbox.queued <= 64 + 262_144 // 6
            go.set()
        await eventually(lambda: got == 100_000, timeout=20)
        await sending


# -- slow and stalled peers


@pytest.mark.parametrize("way", ["write", "send", "publish"])
async def test_large_messages_to_a_peer_that_takes_nothing(way: str) -> None:
    """1 MiB each: ``send`` waits; who does not wait is stopped at the limit. Memory is bounded either way."""
    group = Broadcaster()
    most = 0
    ended: list[str] = []

    async def pour(ws: WebSocket) -> None:
        nonlocal most
        group.add(ws)
        await ws.receive()
        try:
            for _ in range(200):
                if way == "send":
                    await ws.send(bytes(1 << 20))
                elif way == "write":
                    ws.write(bytes(1 << 20))
                elif not group.publish(bytes(1 << 20)):
                    break
                most = max(most, ws.conn.write_buffer_size())
        except ConnectionClosed as error:
            ended.append(str(error))

    outbound = Outbound(limit=4 << 20, timeout=0.5)
    async with serving(pour, outbound=outbound, compression=None) as (site, served, port), deaf_client(port) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, request() + frame(TEXT, b"go"))
        await eventually(lambda: served.sockets and served.sockets[0].close_code)
        assert served.sockets[0].close_reason == ("write-stall" if way == "send" else "slow-consumer")
        await eventually(lambda: not site.connections and not len(served.tasks))
    assert most <= (5 << 20) + 100_000
    assert bool(ended) is (way == "send")
    assert len(group) == 0


async def test_a_close_behind_much_that_is_not_taken() -> None:
    """``close`` returns, and the connection is cut, though the close frame could not even be sent."""
    ended: list[float] = []

    async def leave(ws: WebSocket) -> None:
        await ws.receive()
        ws.write(bytes(15_000_000))
        begun = asyncio.get_running_loop().time()
        await ws.close(1001)
        ended.append(asyncio.get_running_loop().time() - begun)

    async with serving(leave, close_timeout=0.3) as (site, served, port), deaf_client(port) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, request() + frame(TEXT, b"go"))
        await eventually(lambda: ended)
        assert ended[0] < 2
        await eventually(lambda: site.connections == 0)
        assert served.sockets[0].close_code == 1006


async def test_messages_of_a_context_to_a_peer_that_loses_some() -> None:
    """drop-oldest, where contexts were to be kept: those that arrive can be read, as none refers to another."""
    noise = random.Random(3).randbytes(3000).hex()
    outbound = Outbound(high=10_000, limit=50_000, policy="drop-oldest")
    compression = DeflateSettings(False, False, min_size=0)
    group = Broadcaster()

    def pour(ws: WebSocket, message: str | bytes) -> None:
        group.add(ws)
        for number in range(4000):
            text = f"{number} {noise[number % 100 :]}"
            if number % 2:
                ws.write(text)
            else:
                group.publish(text)

    async with serving(Recorder(pour), outbound=outbound, compression=compression) as (_, served, port):  # noqa: SIM117
        async with client(port, sec_websocket_extensions=DEFLATE) as peer:
            peer.raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await peer.send(frame(TEXT, b"go"))
            conn = await eventually(lambda: served.sockets and served.sockets[0].conn)
            await eventually(lambda: conn.messages_dropped)
            peer.raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
            numbers: list[int] = []
            while not numbers or numbers[-1] != 3999:
                got = await peer.next()
                text = zlib.decompressobj(-15).decompress(got.payload + b"\0\0\xff\xff").decode()
                number, _, rest = text.partition(" ")
                numbers.append(int(number))
                assert rest == noise[numbers[-1] % 100 :]
            assert numbers == sorted(numbers)
            assert len(numbers) == 4000 - conn.messages_dropped


# -- broadcasters whose members change


class Lobby(WebSocketHandler):
    """Tells everybody who comes and goes, and throws out who is told to."""

    def __init__(self) -> None:
        self.group = Broadcaster()
        self.other = Broadcaster()
        self.sockets: list[WebSocket] = []

    def on_open(self, ws: WebSocket) -> None:
        self.group.add(ws)
        self.other.add(ws)
        self.sockets.append(ws)
        self.group.publish(f"{len(self.group)} are here")

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        self.group.publish(message)
        if message == "out":
            for each in list(self.sockets):
                each.close_nowait(4000)
                self.group.publish("somebody was thrown out")

    def on_close(self, ws: WebSocket, code: int, reason: str) -> None:
        self.sockets.remove(ws)
        self.group.publish(f"{len(self.group)} are left")
        self.group.add(ws)


async def test_members_that_come_and_go_while_it_is_published() -> None:
    """From within every call, its last included; nobody is sent anything behind his close frame, or twice."""
    lobby = Lobby()
    async with serving(lobby) as (site, _, port), AsyncExitStack() as stack:
        peers = []
        for number in range(8):
            fields = {"sec_websocket_extensions": DEFLATE} if number % 2 else {}
            peers.append(await stack.enter_async_context(client(port, **fields)))
            for peer in peers:
                assert (await peer.next()).payload == b"%d are here" % (number + 1)
        peers.pop(2).raw.abort()
        for peer in peers:
            assert (await peer.next()).payload == b"7 are left"
        await peers[0].send(frame(TEXT, b"out"))
        for number, peer in enumerate(peers):
            assert (await peer.next()).payload == b"out"
            for _ in range(number):
                assert (await peer.next()).payload == b"somebody was thrown out"
            assert (await peer.next()).code == 4000
            await peer.send(closing(4000))
            assert await peer.rest() == []
        await eventually(lambda: site.connections == 0)
        assert (len(lobby.group), len(lobby.other)) == (0, 0)


async def test_a_frame_is_never_torn() -> None:
    """Peers that are slow get whole messages, published and their own, each kind in order."""
    group = Broadcaster()
    outbound = Outbound(high=20_000, limit=None)

    async def join(ws: WebSocket) -> None:
        group.add(ws)
        await ws.receive()
        for number in range(60):
            ws.write(f"own {number} " + "x" * 5000)
            await asyncio.sleep(0)
        await ws.receive()

    async with serving(join, outbound=outbound, compression=None) as (_, _, port), AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(client(port)) for _ in range(3)]
        await eventually(lambda: len(group) == 3)
        for peer in peers:
            await peer.send(frame(TEXT, b"go"))
        for number in range(60):
            group.publish(f"all {number} " + "y" * 5000)
            await asyncio.sleep(0)
        for peer in peers:
            frames = [await peer.next() for _ in range(120)]
            for kind, filling in ((b"own", b"x"), (b"all", b"y")):
                texts = [f.payload for f in frames if f.payload.startswith(kind)]
                assert texts == [b"%b %d " % (kind, number) + filling * 5000 for number in range(60)]


# -- servers that attack our client


async def test_a_server_that_sends_for_ever() -> None:
    """To a client that does not receive: it takes only so much, and closing it takes no longer than it may."""

    async def flood(peer: Peer, head: bytes) -> None:
        await peer.send(accepting(head))
        with suppress(ConnectionError, RuntimeError, TimeoutError):  # it was cut
            while True:
                peer.raw.writer.write(frame(BINARY, bytes(60_000), mask=None))
                await asyncio.wait_for(peer.raw.writer.drain(), 3)

    async with server(flood) as url:
        ws = await connect(url, settings=WebSocketSettings(close_timeout=0.3))
        await eventually(lambda: ws.paused)
        read = ws.conn.bytes_in
        await asyncio.sleep(0.2)
        assert ws.conn.bytes_in == read < 2_000_000
        await asyncio.wait_for(ws.close(), 3)
        assert ws.close_code == 1006


async def test_a_server_that_answers_everything_at_once() -> None:
    """The answer, messages, a ping, a close frame and the end in one segment: all are received before the end."""

    async def hasty(peer: Peer, head: bytes) -> None:
        data = frame(TEXT, b"one", mask=None) + frame(PING, b"p", mask=None) + frame(TEXT, b"two", mask=None)
        await peer.send(accepting(head) + data + closing(4000, b"done", mask=None))
        peer.raw.send_eof()
        answer = await peer.raw.rest()
        assert [f.opcode for f in read_frames(answer)] == [PONG, CLOSE]

    async with server(hasty) as url:
        ws = await connect(url)
        assert [message async for message in ws] == ["one", "two"]
        assert (ws.close_code, ws.close_reason) == (4000, "done")


async def test_raw_clients_at_random() -> None:
    """Frames right and wrong, cut and ended at random moments, from 200 clients: every one ends, in a close frame of a
    code that may be sent or in no frame at all, and nothing is left."""
    dice = random.Random(11)
    recorder = Recorder()
    good = [frame(TEXT, b"hi"), frame(PING), frame(BINARY, NOISE), frame(TEXT, b"a", fin=False), frame(CONT, b"b")]
    bad = [frame(3), frame(PING, fin=False), b"\xff" * 20, closing(1005), frame(TEXT, b"\xff"), frame(TEXT, rsv=2)]

    async def one(port: int) -> None:
        raw = await RawClient.connect(port)
        fields = {"sec_websocket_extensions": DEFLATE} if dice.random() < 0.5 else {}
        data = request(**fields) + b"".join(dice.choices([*good * 4, *bad, closing()], k=dice.randrange(12)))
        data = data[: dice.randrange(len(data) // 2, len(data) + 1)]
        end = dice.random()
        await Peer(raw).send(*(data[at : at + 97] for at in range(0, len(data), 97)))
        if end < 0.4 and not raw.writer.transport.is_closing():
            raw.abort()
        elif end < 0.8:
            with suppress(OSError, RuntimeError):
                raw.send_eof()
            await raw.rest(10)
        raw.writer.transport.abort()

    async with serving(recorder) as (site, served, port):
        await asyncio.gather(*(one(port) for _ in range(200)))
        await eventually(lambda: site.connections == 0)
        assert len(recorder.closes) == len(served.sockets)
        assert {code for code, _ in recorder.closes} <= {1000, 1002, 1006, 1007}
