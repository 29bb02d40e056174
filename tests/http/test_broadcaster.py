"""One message to many WebSockets, over real sockets."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack

import pytest
import websockets

from forebay.engine import Outbound
from forebay.http.broadcaster import Broadcaster
from forebay.http.websocket import WebSocket, WebSocketHandler, WebSocketSettings
from forebay.http.websocket_client import connect
from forebay.wire.deflate import DeflateSettings
from tests.engine.connecting import deaf_client
from tests.http.websockets_kit import DEFLATE, Opcode, closing, frame, read_frame, request, serving, websocket
from tests.support import eventually


class Room(WebSocketHandler):
    """Everybody who comes hears what is published; what somebody says, only he hears again."""

    def __init__(self) -> None:
        self.group = Broadcaster()
        self.sockets: list[WebSocket] = []

    def on_open(self, ws: WebSocket) -> None:
        self.group.add(ws)
        self.sockets.append(ws)

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        ws.write(message)


@pytest.mark.both_loops
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("message", ["hello", b"\x00\x01", "long " * 200, b"y" * 100_000])
async def test_everybody_hears_the_same(message: str | bytes, alone: bool) -> None:
    """With compression or without, with contexts or without, with large windows or small."""
    room = Room()
    async with (
        serving(room, compression=DeflateSettings(alone, alone, min_size=10)) as (_, _, port),
        AsyncExitStack() as stack,
    ):
        url = f"ws://127.0.0.1:{port}/"
        plain = [await stack.enter_async_context(websockets.connect(url, compression=None)) for _ in range(3)]
        packed = [await stack.enter_async_context(websockets.connect(url)) for _ in range(3)]
        small = DeflateSettings(alone, alone, server_max_window_bits=9)
        ours = [await connect(url, settings=_with(small)) for _ in range(2)]
        assert len(room.group) == 8
        for _ in range(3):
            assert room.group.publish(message) == 8
            for theirs in (*plain, *packed):
                assert await asyncio.wait_for(theirs.recv(), 5) == message
            for mine in ours:
                assert await mine.receive(timeout=5) == message
        for mine in ours:
            await mine.close()


def _with(compression: DeflateSettings | None) -> WebSocketSettings:
    return WebSocketSettings(compression=compression)


async def test_what_is_sent_is_the_same_for_all() -> None:
    """Compressed without a context, so that it may be shared; not at all where it is too short or would grow."""
    room = Room()
    noise = random.Random(1).randbytes(1000)
    async with serving(room) as (_, _, port), AsyncExitStack() as stack:
        plain = await stack.enter_async_context(websocket(port))
        clients = [await stack.enter_async_context(websocket(port, sec_websocket_extensions=DEFLATE)) for _ in range(5)]
        for _ in range(2):
            room.group.publish("x" * 1000)
        room.group.publish("short")
        room.group.publish(noise)
        frames = {(await read_frame(client), await read_frame(client)) for client in clients}
        assert len(frames) == 1
        ((first, second),) = frames
        assert first == second
        assert first[0] == Opcode.TEXT | 0x40
        assert len(first[1]) < 20
        for client in clients:
            assert await read_frame(client) == (Opcode.TEXT, b"short")
            assert await read_frame(client) == (Opcode.BINARY, noise)
        assert await read_frame(plain) == (Opcode.TEXT, b"x" * 1000)


async def test_a_sockets_own_messages_stay_readable() -> None:
    """RFC 7692 section 7.2.2: a socket's own messages are compressed with the context of those before, to which what
    is published does not belong, although its peer counts it in."""
    room = Room()
    keeping = DeflateSettings(server_no_context_takeover=False, min_size=0)
    async with serving(room, compression=keeping) as (_, _, port):  # noqa: SIM117
        async with websockets.connect(f"ws://127.0.0.1:{port}/") as client:
            for number in range(50):
                own = f"this is for you alone, {number % 7} times or more " * 3
                all_ = f"this is for everybody who is alone {number % 5} times " * 4
                await client.send(own)
                assert await asyncio.wait_for(client.recv(), 5) == own
                assert room.group.publish(all_) == 1
                assert await asyncio.wait_for(client.recv(), 5) == all_
            assert room.sockets[0].deflate is not None
            assert not room.sockets[0].deflate.server_no_context_takeover


@pytest.mark.both_loops
async def test_closed_sockets_leave_by_themselves() -> None:
    """Whoever closes, and also those that are reset; discarded ones hear nothing more."""
    room = Room()
    group = room.group
    async with serving(room) as (_, _, port), AsyncExitStack() as stack:
        for left in range(4, -1, -1):
            client = await stack.enter_async_context(websocket(port))
            assert await eventually(lambda: len(group) == 1)
            ws = room.sockets[-1]
            group.add(ws)  # once is enough
            assert ws in group
            assert len(group) == 1
            if left == 4:
                await client.send(frame(Opcode.CLOSE, closing(1000)))
            elif left == 3:
                client.abort()
            elif left == 2:
                ws.close_nowait()
                assert len(group) == 0  # at once
            elif left == 1:
                await client.send(b"\xff" * 10)
            else:
                group.discard(ws)
                group.discard(ws)
            await eventually(lambda: len(group) == 0)
            assert ws not in group
            assert group.publish("unheard") == 0
            if not ws.open:
                group.add(ws)
                assert len(group) == 0


async def test_a_listener_may_publish_and_close_within_a_broadcast() -> None:
    """What writing sets off, such as a close, does not disturb the broadcast."""
    room = Room()
    outbound = Outbound(high=1000, limit=2000, policy="close")
    async with serving(room, outbound=outbound) as (_, _, port), AsyncExitStack() as stack:
        deaf = [await stack.enter_async_context(deaf_client(port)) for _ in range(3)]
        for sock in deaf:
            await asyncio.get_running_loop().sock_sendall(sock, request())
        listening = await stack.enter_async_context(websocket(port))
        await eventually(lambda: len(room.group) == 4)
        heard = 0
        while len(room.group) > 1:
            room.group.publish(b"x" * 100_000)
            heard += 1
            assert (await read_frame(listening)) == (Opcode.BINARY, b"x" * 100_000)
            assert heard < 1000
        reasons = sorted(ws.close_reason for ws in room.sockets)
        assert reasons == ["", "slow-consumer", "slow-consumer", "slow-consumer"]


async def test_one_that_stops_reading_is_not_noticed_by_the_others() -> None:
    """It loses the oldest messages, whole; the others lose none, and all is bounded."""
    room = Room()
    outbound = Outbound(high=10_000, limit=40_000, policy="drop-oldest")
    count = 3000
    async with serving(room, outbound=outbound) as (_, _, port), AsyncExitStack() as stack:
        sock = await stack.enter_async_context(deaf_client(port))
        await asyncio.get_running_loop().sock_sendall(sock, request())
        url = f"ws://127.0.0.1:{port}/"
        others = [await stack.enter_async_context(websockets.connect(url)) for _ in range(4)]
        assert len(room.group) == 5
        for number in range(count):
            assert room.group.publish(f"{number} ".encode() + b"z" * 4000) == 5
            for other in others:
                message = await asyncio.wait_for(other.recv(), 5)
                assert message.startswith(b"%d " % number)  # type: ignore[arg-type]
        deaf, *rest = room.sockets
        assert deaf.conn.messages_dropped > 0
        assert deaf.conn.buffer_size() <= 40_000 + 4_100
        assert not any(ws.conn.messages_dropped for ws in rest)


async def test_a_clients_socket_cannot_be_added() -> None:
    """RFC 6455 section 5.3: each message of a client's is masked anew."""
    async with serving(Room()) as (_, _, port), connect(f"ws://127.0.0.1:{port}/") as client:
        with pytest.raises(ValueError, match="only a server's"):
            Broadcaster().add(client)
