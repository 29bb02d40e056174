"""The client's side of WebSockets, against another implementation and against servers that misbehave."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha1
from typing import Any

import pytest
import websockets

from forebay.engine import ClientTLS
from forebay.errors import (
    ConnectFailed,
    ConnectionClosed,
    TLSFailed,
    UpstreamClosed,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from forebay.http.websocket import WebSocket, WebSocketSettings
from forebay.http.websocket_client import connect
from forebay.wire.deflate import DeflateSettings
from tests.engine.connecting import tls_files
from tests.http.websockets_kit import Opcode, Recorder, serving
from tests.support import RawClient, eventually, free_port

Handler = Callable[[websockets.ServerConnection], Awaitable[None]]


async def echo(ws: websockets.ServerConnection) -> None:
    """Send everything back."""
    async for message in ws:
        await ws.send(message)


@asynccontextmanager
async def peer(handler: Handler = echo, **options: Any) -> AsyncIterator[str]:
    """A server of another implementation, and its URL."""
    async with websockets.serve(handler, "127.0.0.1", 0, max_size=None, **options) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@asynccontextmanager
async def misbehaving(serve: Callable[[RawClient, bytes], Awaitable[None]]) -> AsyncIterator[str]:
    """A server that does with a connection, and the head of its request, whatever it is told; and its URL."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = RawClient(reader, writer)
        try:
            await serve(client, await reader.readuntil(b"\r\n\r\n"))
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


def accepting(head: bytes, *lines: str, leave_out: str = "") -> bytes:
    """The answer to a handshake; ``lines`` are added, or stand for one that begins the same."""
    key = head.partition(b"sec-websocket-key: ")[2].partition(b"\r\n")[0]
    digest = sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    fields = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-accept": b64encode(digest).decode()}
    for line in lines:
        name, _, value = line.partition(": ")
        fields[name] = value
    fields.pop(leave_out, None)
    text = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 101 Switching Protocols\r\n{text}\r\n".encode()


MESSAGES: list[str | bytes] = ["", "hello", "grüße" * 50, b"\x00\xff" * 40, b"x" * 65536, "é" * 100_000]


@pytest.mark.both_loops
@pytest.mark.parametrize("theirs", [None, "deflate"])
@pytest.mark.parametrize("ours", [None, DeflateSettings(), DeflateSettings(False, False), DeflateSettings(False)])
async def test_echo_from_another_implementation(theirs: Any, ours: DeflateSettings | None) -> None:
    """Whole and fragmented messages come back as they were sent; compressed where both want that."""

    async def fragment(ws: websockets.ServerConnection) -> None:
        await ws.send(["frag", "ment", "ed"])
        await echo(ws)

    async with peer(fragment, compression=theirs) as url:
        async with connect(url, settings=WebSocketSettings(compression=ours)) as ws:
            assert ws.compressed is (theirs is not None and ours is not None)
            assert await ws.receive(timeout=5) == "fragmented"
            for message in MESSAGES * 2:
                await ws.send(message)
                assert await ws.receive(timeout=5) == message
        assert ws.close_code == 1000
        assert not ws.open


@pytest.mark.both_loops
async def test_both_ends_are_ours() -> None:
    """Each to the other, in both styles, awaited and as a context."""
    server, client = Recorder(), Recorder(lambda ws, message: ws.close_nowait(4000, "heard"))
    async with serving(server) as (_, site, port):
        url = f"ws://127.0.0.1:{port}"
        ws = await connect(f"{url}/a%20b?x=1", headers=[("x-user", "ann"), ("origin", url.replace("ws", "http"))])
        assert (ws.path, ws.query, ws.host) == ("/a b", [("x", "1")], f"127.0.0.1:{port}")
        assert ws.headers["upgrade"] == "websocket"
        theirs = site.sockets[0]
        assert (theirs.path, theirs.query, theirs.headers["x-user"]) == ("/a b", [("x", "1")], "ann")
        ws.write("x" * 300_000)
        assert await ws.receive() == "x" * 300_000
        await ws.close(1001, "away")
        assert server.closes == [(1001, "away")]
        async with connect(url, handler=client) as other:
            other.write("hi")
            await eventually(lambda: client.closes)
        assert client.closes == [(4000, "")]
        assert server.closes[1:] == [(4000, "heard")]


async def test_iteration_ends_with_the_close() -> None:
    """What came before it is received; then there is nothing, and why is known."""

    async def leave(ws: websockets.ServerConnection) -> None:
        await ws.send("one")
        await ws.send("two")
        await ws.close(4001, "done")

    async with peer(leave) as url, connect(url) as ws:
        assert [message async for message in ws] == ["one", "two"]
        with pytest.raises(ConnectionClosed, match=r"\(4001: done\)"):
            await ws.receive()
        with pytest.raises(ConnectionClosed, match=r"\(4001: done\)"):
            await ws.send("three")


async def test_subprotocols() -> None:
    """RFC 6455 section 4.1: what the server chooses of our offer."""
    async with peer(subprotocols=["v2", "v1"]) as url:
        async with connect(url, subprotocols=["v1", "v2"]) as ws:
            assert ws.subprotocol == "v2"
        async with connect(url, settings=WebSocketSettings(subprotocols=("v1",))) as ws:
            assert ws.subprotocol == "v1"


async def test_over_tls() -> None:
    """``wss`` verifies who answers."""
    certificate, ca = tls_files()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate.files)
    async with peer(ssl=context) as url:
        url = url.replace("ws://", "wss://")
        async with connect(url, tls=ClientTLS(ca=ca)) as ws:
            await ws.send("secret")
            assert await ws.receive(timeout=5) == "secret"
            assert ws.conn.tls is not None
        with pytest.raises(TLSFailed):
            await connect(url)


async def test_silent_servers_are_asked_and_then_cut() -> None:
    """As a server does with clients."""
    settings = WebSocketSettings(ping_interval=0.2, ping_timeout=0.2)
    pings: list[bytes] = []

    async def mute(client: RawClient, head: bytes) -> None:
        await client.send(accepting(head))
        pings.append(await client.rest())

    async with misbehaving(mute) as url:
        ws = await connect(url, settings=settings)
        assert [message async for message in ws] == []
        assert (ws.close_code, ws.close_reason) == (1006, "heartbeat")
        await eventually(lambda: pings)
        assert pings[0][:2] == b"\x89\x80"  # a ping, masked
        assert len(pings[0]) == 6


@pytest.mark.parametrize("how", ["no answer", "answered, but not ended"])
async def test_a_server_that_does_not_end_the_connection_is_left(how: str) -> None:
    """RFC 6455 section 7.1.1: the client waits for the server to end TCP, but not for ever."""

    async def stay(client: RawClient, head: bytes) -> None:
        await client.send(accepting(head))
        first, *_ = await client.exactly(8)
        assert first == 0x80 | Opcode.CLOSE
        if how != "no answer":
            await client.send(b"\x88\x02\x03\xe8")
        await client.rest(10)

    async with misbehaving(stay) as url:
        ws = await connect(url, settings=WebSocketSettings(close_timeout=0.3, compression=None))
        await asyncio.wait_for(ws.close(), 2)
        assert ws.close_code == (1006 if how == "no answer" else 1000)


async def test_what_comes_with_the_answer_is_not_lost() -> None:
    """A message in the same segment as the handshake; so are answers that come in pieces, after interim ones."""

    async def eager(client: RawClient, head: bytes) -> None:
        data = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + accepting(head)
        for at in range(0, len(data) - 10, 10):
            await client.send(data[at : at + 10])
            await asyncio.sleep(0)
        await client.send(data[at + 10 :] + b"\x81\x02hi")
        await client.rest()

    async with misbehaving(eager) as url, connect(url, settings=WebSocketSettings(close_timeout=0.2)) as ws:
        assert await ws.receive(timeout=5) == "hi"


async def test_a_masked_frame_of_a_servers() -> None:
    """RFC 6455 section 5.1: the client closes, with 1002."""
    told: list[bytes] = []

    async def mask(client: RawClient, head: bytes) -> None:
        await client.send(accepting(head) + b"\x81\x82\x00\x00\x00\x00hi")
        told.append(await client.rest())

    async with misbehaving(mask) as url:
        ws = await connect(url)
        with pytest.raises(ConnectionClosed, match="1002"):
            await ws.receive(timeout=5)
        await eventually(lambda: told)
        assert told[0][0] == 0x80 | Opcode.CLOSE


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (lambda head: b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", UpstreamProtocolError, "403 Forbidden"),
        (lambda head: b"HTTP/1.1 200 OK\r\n\r\n", UpstreamProtocolError, "200 OK"),
        (lambda head: accepting(head, leave_out="upgrade"), UpstreamProtocolError, "upgrade header"),
        (lambda head: accepting(head, "upgrade: h2c"), UpstreamProtocolError, "upgrade header"),
        (lambda head: accepting(head, leave_out="connection"), UpstreamProtocolError, "connection header"),
        (lambda head: accepting(head, "sec-websocket-accept: x"), UpstreamProtocolError, "does not fit the key"),
        (lambda head: accepting(head, leave_out="sec-websocket-accept"), UpstreamProtocolError, "does not fit"),
        (lambda head: accepting(head, "sec-websocket-protocol: x"), UpstreamProtocolError, "'x' was not offered"),
        (lambda head: accepting(head, "sec-websocket-extensions: x"), UpstreamProtocolError, "must be permessage"),
        (lambda head: b"SSH-2.0-x\r\n", UpstreamProtocolError, "opens no WebSocket"),
        (lambda head: accepting(head)[:-2], UpstreamClosed, "closed the connection before it answered"),
    ],
)
async def test_answers_that_open_no_websocket(
    answer: Callable[[bytes], bytes], error: type[UpstreamError], text: str
) -> None:
    """RFC 6455 section 4.1: the client fails the connection, says why, and leaves nothing open."""
    ended: list[bool] = []

    async def serve(client: RawClient, head: bytes) -> None:
        await client.send(answer(head))
        if error is not UpstreamClosed:
            assert await client.rest() == b""
        ended.append(True)

    async with misbehaving(serve) as url:
        with pytest.raises(error, match=text) as caught:
            await connect(url)
        assert caught.value.target.startswith("tcp://127.0.0.1:")
        await eventually(lambda: ended)


async def test_extensions_that_were_not_offered() -> None:
    """RFC 6455 section 9.1: not even those we know."""

    async def serve(client: RawClient, head: bytes) -> None:
        assert b"sec-websocket-extensions" not in head
        await client.send(accepting(head, "sec-websocket-extensions: permessage-deflate"))
        await client.rest()

    async with misbehaving(serve) as url:
        with pytest.raises(UpstreamProtocolError, match="'permessage-deflate' were not offered"):
            await connect(url, settings=WebSocketSettings(compression=None))


async def test_no_answer_in_time() -> None:
    """``timeout`` is for all of it, and so is a cancellation; both end the connection."""
    ended: list[bool] = []

    async def wait(client: RawClient, head: bytes) -> None:
        await client.rest()
        ended.append(True)

    async with misbehaving(wait) as url:
        with pytest.raises(UpstreamTimeout, match=r"did not answer the WebSocket handshake within 0\.2 s"):
            await connect(url, timeout=0.2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await connect(url)
        await eventually(lambda: ended == [True, True])


async def test_nobody_there() -> None:
    """What the engine says."""
    with pytest.raises(ConnectFailed, match="cannot connect to tcp://127"):
        await connect(f"ws://127.0.0.1:{free_port()}/")


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("http://a/", {}, "must begin with ws:// or wss://"),
        ("ws://a/#b", {}, "without a fragment"),
        ("ws://a/b c", {}, "visible ASCII"),
        ("ws://a/\r\nx: y", {}, r"character '\\r' at 9"),
        ("ws://user:secret@a/", {}, r"'http://\*\*\*@a/': must be without a user"),
        ("ws://user:se/cret@a/", {}, r"'http://\*\*\*@a/': port must be a number"),
        ("ws://a\\@b/", {}, "must be without a user"),
        ("ws://127.1/", {}, "no IPv4 address"),
        ("ws://0x7f000001/", {}, "no IPv4 address"),
        ("ws://ü/", {}, "visible ASCII"),
        ("ws://a:99999/", {}, "port '99999'"),
        ("ws:///x", {}, "and a host"),
        ("ws://a/", {"headers": [("Host", "b")]}, "'Host' belongs to the WebSocket handshake"),
        ("ws://a/", {"headers": [("a", "b\r\nc: d")]}, "control character"),
    ],
)
def test_what_cannot_be_asked_for(url: str, options: Any, text: str) -> None:
    """It is refused before anything is sent."""
    with pytest.raises(ValueError, match=text):
        connect(url, **options)


async def test_frames_of_a_client_are_masked_each_in_its_own_way() -> None:
    """RFC 6455 section 5.3: by a new, unpredictable key."""
    data: list[bytes] = []

    async def take(client: RawClient, head: bytes) -> None:
        await client.send(accepting(head))
        data.extend([await client.exactly(8), await client.exactly(8)])
        await client.rest()

    async with misbehaving(take) as url:
        ws: WebSocket = await connect(url, settings=WebSocketSettings(close_timeout=0.2))
        ws.write("hi")
        ws.write("hi")
        await eventually(lambda: len(data) == 2)
        assert data[0][:2] == data[1][:2] == b"\x81\x82"
        assert data[0][2:6] != data[1][2:6]
        assert bytes(a ^ b for a, b in zip(data[0][6:], data[0][2:4], strict=True)) == b"hi"
        ws.conn.abort()
