"""WebSockets of a server over real sockets: handshake, messages, heartbeats, and every way to end (RFC 6455)."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import zlib
from base64 import b64encode
from contextlib import suppress
from typing import Any

import pytest
import websockets
from structlog.testing import capture_logs

from forebay.engine import Outbound
from forebay.errors import ConnectionClosed, DeadlineExceeded
from forebay.http import App, HTTPServer, Request, Response
from forebay.http.websocket import WebSocket, WebSocketHandler, WebSocketSettings
from forebay.http.websocket_handler import CoroutineStyle
from tests.engine.connecting import client_of, deaf_client
from tests.http.websockets_kit import (
    DEFLATE,
    Opcode,
    Recorder,
    closing,
    frame,
    read_close,
    read_frame,
    request,
    serving,
    websocket,
)
from tests.support import RawClient, eventually, running

TEXT, BINARY, CLOSE, PING, PONG = Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE, Opcode.PING, Opcode.PONG


async def echo(ws: WebSocket) -> None:
    """Send everything back."""
    async for message in ws:
        await ws.send(message)


MESSAGES: list[str | bytes] = [
    "",
    "hello",
    "grüße" * 50,
    b"",
    b"\x00\xff" * 40,
    b"x" * 65535,
    "é" * 100_000,
    b"y" * 1_000_000,
]


@pytest.mark.both_loops
@pytest.mark.parametrize("style", ["coroutine", "event"])
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_echo_to_another_implementation(style: str, compression: Any) -> None:
    """RFC 6455 section 5.6 and RFC 7692: whole and fragmented messages of all kinds come back as they were sent."""
    async with serving(echo if style == "coroutine" else Recorder()) as (_, site, port):
        async with websockets.connect(f"ws://127.0.0.1:{port}/", compression=compression, max_size=None) as client:
            for message in MESSAGES * 2:
                await client.send(message)
                assert await client.recv() == message
            await client.send(["frag", "ment", "ed"])
            assert await client.recv() == "fragmented"
            await (await client.ping(b"there?"))
            assert site.sockets[0].compressed is (compression is not None)
        await eventually(lambda: site.sockets[0].close_code == 1000)


@pytest.mark.parametrize("style", ["coroutine", "event"])
async def test_many_messages_at_once_keep_their_order(style: str) -> None:
    """Frames that arrive in one chunk, the one with the handshake included, are handled one after the other."""
    count = 500
    async with serving(echo if style == "coroutine" else Recorder()) as (_, _, port), client_of(port) as client:
        await client.send(request() + b"".join(frame(TEXT, b"%d" % number) for number in range(count)))
        assert (await client.response())[0] == 101
        for number in range(count):
            assert await read_frame(client) == (TEXT, b"%d" % number)


async def test_what_a_socket_knows_of_its_request() -> None:
    """Path, query, headers and host are there for as long as it lives; so is the client's address."""
    async with serving(Recorder()) as (_, site, port):
        async with websocket(port, path="/a%20b?x=1&y=%C3%A9", host="example.org:81", x_one=" 1 "):
            (ws,) = site.sockets
            assert (ws.path, ws.query, ws.host, ws.client) == (
                "/a b",
                [("x", "1"), ("y", "é")],
                "example.org:81",
                "127.0.0.1",
            )
            assert ws.headers["X-One"] == "1"
            assert "sec-websocket-key" not in ws.headers  # it is of no use any more, and different each time
            assert ws.open
        await eventually(lambda: not ws.open)
        assert ws.path == "/a b"


# The handshake


async def test_the_key_is_answered_as_the_specification_says() -> None:
    """RFC 6455 section 1.3 has the example; section 4.2.2 the headers."""
    async with serving(Recorder()) as (server, _, port), client_of(port) as client:
        await client.send(request())
        status, headers, _ = await client.response()
        assert status == 101
        assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert headers["upgrade"].lower() == "websocket"
        assert headers["connection"].lower() == "upgrade"
        assert "sec-websocket-extensions" not in headers
        assert server.statistics()["requests"] == 1


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"leave_out": "upgrade"}, 426, "upgrade: websocket"),
        ({"leave_out": "connection"}, 426, "upgrade: websocket"),
        ({"upgrade": "h2c"}, 426, "upgrade: websocket"),
        ({"sec_websocket_version": "8"}, 426, "must be 13"),
        ({"leave_out": "sec-websocket-version"}, 426, "must be 13"),
        ({"sec_websocket_version": "13\r\nsec-websocket-version: 13"}, 400, "version must be there once"),
        ({"leave_out": "sec-websocket-key"}, 400, "16 bytes in base64"),
        ({"sec_websocket_key": "c2hvcnQ="}, 400, "16 bytes in base64"),
        ({"sec_websocket_key": "AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-key: x"}, 400, "there once"),
        ({"sec_websocket_extensions": "a b"}, 400, "must be an extension's name"),
        ({"origin": "http://elsewhere"}, 403, "origin"),
        ({"origin": "http://test:8080"}, 403, "origin"),
        ({"origin": "null"}, 403, "origin"),
        ({"origin": "http://test\r\norigin: http://test"}, 400, "origin must be there once"),
    ],
)
async def test_what_is_no_acceptable_handshake(fields: Any, status: int, text: str) -> None:
    """RFC 6455 sections 4.2.1, 4.2.2 and 4.4: refused with a status and a reason, and the connection goes on."""
    async with serving(Recorder()) as (_, site, port), client_of(port) as client:
        await client.send(request(**fields))
        got, headers, body = await client.response()
        assert got == status
        assert text in body.decode()
        assert headers["content-type"] == "application/problem+json"
        if status == 426:
            assert headers["upgrade"] == "websocket"
        if text == "must be 13":
            assert headers["sec-websocket-version"] == "13"
        assert not site.sockets
        await client.send(request())
        assert (await client.response())[0] == 101


@pytest.mark.parametrize(
    ("origins", "fields"),
    [
        ("same", {"origin": "http://test"}),
        ("same", {"origin": "https://TEST:443"}),
        ("same", {"origin": "https://test:8443", "host": "test:8443"}),
        ("same", {"origin": "http://[::1]:80", "host": "[::1]"}),
        ("*", {"origin": "null"}),
        (("https://example.com",), {"origin": "https://example.com:443"}),
        (("https://a.test:8443", "http://b.test"), {"origin": "http://B.test"}),
    ],
)
async def test_origins_that_may_connect(origins: Any, fields: Any) -> None:
    """RFC 6455 section 10.2: the server decides; a port that goes without saying may be said."""
    async with serving(Recorder(), origins=origins) as (_, _, port), websocket(port, **fields) as client:
        await client.send(frame(TEXT, b"in"))
        assert await read_frame(client) == (TEXT, b"in")


async def test_subprotocols_are_chosen_by_the_servers_preference() -> None:
    """RFC 6455 section 4.2.2: one that the client offered, or none."""
    async with serving(Recorder(), subprotocols=("v2", "v1")) as (_, site, port):
        for offered, chosen in (("v1, v2", "v2"), ("v1\r\nsec-websocket-protocol: x", "v1"), ("x", None)):
            async with client_of(port) as client:
                await client.send(request(sec_websocket_protocol=offered))
                assert (await client.response())[1].get("sec-websocket-protocol") == chosen
                assert site.sockets[-1].subprotocol == chosen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_message": 0}, "max_message 0: must be at least 1"),
        ({"queue": 0}, "queue 0: must be at least 1"),
        ({"ping_interval": 0}, "ping_interval 0: must be"),
        ({"ping_timeout": float("inf")}, "ping_timeout inf: must be"),
        ({"close_timeout": None}, "close_timeout None: must be"),
        ({"subprotocols": "v1"}, "must be a tuple"),
        ({"subprotocols": ("a b",)}, "'a b': must be a token"),
        ({"origins": "all"}, "origins 'all': must be 'same'"),
        ({"origins": ("example.com",)}, "origin 'example.com': must be like https"),
    ],
)
def test_settings_that_make_no_sense(options: Any, message: str) -> None:
    """They are refused when they are made, by name and with what would be valid."""
    with pytest.raises(ValueError, match=message):
        WebSocketSettings(**options)


# What the peer must not send


@pytest.mark.both_loops
@pytest.mark.parametrize("style", ["coroutine", "event"])
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x02hi", 1002),  # not masked: section 5.1
        (frame(TEXT, b"hi", rsv1=True), 1002),  # no extension was agreed on: section 5.2
        (frame(3, b""), 1002),  # section 5.2
        (frame(PING, b"", fin=False), 1002),  # section 5.5
        (frame(0, b"x"), 1002),  # section 5.4
        (frame(CLOSE, b"\x03"), 1002),  # section 5.5.1
        (frame(CLOSE, closing(1006)), 1002),  # section 7.4.1
        (frame(TEXT, b"\xff\xfe"), 1007),  # section 8.1
        (frame(BINARY, b"x" * 1001), 1009),  # section 7.4.1
    ],
)
async def test_hostile_frames_end_the_connection_with_their_code(style: str, data: bytes, code: int) -> None:
    """RFC 6455 section 7.1.7: what came before is handled, the close frame says why, and can be read although the peer
    goes on sending."""
    recorder = Recorder()
    received: list[Any] = []

    async def take(ws: WebSocket) -> None:
        async for message in ws:
            received.append(message)
            await ws.send(message)

    handler = recorder if style == "event" else take
    async with serving(handler, max_message=1000) as (server, site, port), websocket(port) as client:
        await client.send(frame(TEXT, b"fine") + data + b"x" * 300_000)
        assert await read_frame(client) == (TEXT, b"fine")
        got, reason = await read_close(client)
        assert got == code
        assert reason
        assert await client.rest() == b""
        client.writer.close()
        await eventually(lambda: server.connections == 0)
        (ws,) = site.sockets
        assert ws.close_code == code
        assert (recorder.messages or received) == ["fine"]
        if style == "event":
            assert recorder.closes == [(code, ws.close_reason)]
        await eventually(lambda: not len(site.tasks))


# The close


@pytest.mark.both_loops
@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "bye"), (4321, "ü" * 61), (1005, "")])
async def test_the_peers_close_is_answered_with_its_code(code: int, reason: str) -> None:
    """RFC 6455 section 5.5.1, and 7.1.1: the server ends the TCP connection. Nothing is read after the close frame."""
    recorder = Recorder()
    async with serving(recorder) as (server, _, port), websocket(port) as client:
        payload = b"" if code == 1005 else closing(code, reason)
        await client.send(frame(TEXT, b"last") + frame(CLOSE, payload) + frame(TEXT, b"too late") + b"\xff\xff")
        assert await read_frame(client) == (TEXT, b"last")
        assert await read_frame(client) == (CLOSE, payload[:2])
        assert await client.rest() == b""
        await eventually(lambda: server.connections == 0)
        assert recorder.closes == [(code, reason)]
        assert recorder.messages == ["last"]


@pytest.mark.both_loops
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_peer_that_leaves_without_a_close_frame(how: str) -> None:
    """RFC 6455 section 7.1.5: 1006, in both styles; a handler that waits for a message gets the end."""
    recorder = Recorder()
    ended: list[Any] = []

    async def wait(ws: WebSocket) -> None:
        async for _ in ws:
            pass
        ended.append(ws.close_code)

    for handler in (recorder, wait):
        async with serving(handler) as (server, _, port), websocket(port) as client:
            await client.send(frame(TEXT, b"in the mid", fin=False))
            await eventually(lambda: server.connections == 1)
            if how == "reset":
                client.abort()
            else:
                client.send_eof()
                assert await client.rest() == b""
            await eventually(lambda: server.connections == 0)
    assert recorder.closes == [(1006, "peer" if how == "end" else "reset")]
    await eventually(lambda: ended == [1006])


@pytest.mark.both_loops
async def test_our_close_waits_for_the_peers() -> None:
    """RFC 6455 section 7.1.2: what comes before its close frame is dropped; then the server ends the connection."""
    done: list[Any] = []

    async def leave(ws: WebSocket) -> None:
        await ws.close(4000, "enough")
        done.append((ws.close_code, ws.close_reason))

    async with serving(leave) as (server, site, port), websocket(port) as client:
        assert await read_close(client) == (4000, "enough")
        await client.send(frame(TEXT, b"unheard"))
        await asyncio.sleep(0.05)  # it is not over yet
        assert not done
        await client.send(frame(CLOSE, closing(4000, "so be it")))
        assert await client.rest() == b""
        await eventually(lambda: done == [(4000, "so be it")])
        assert server.connections == 0
        await site.sockets[0].close()  # at once


async def test_a_peer_that_does_not_answer_our_close_is_cut() -> None:
    """It has ``close_timeout``, also when it goes on sending messages."""
    recorder = Recorder(lambda ws, message: ws.close_nowait(1000))
    async with serving(recorder, close_timeout=0.3) as (server, _, port), websocket(port) as client:
        await client.send(frame(TEXT, b"go"))
        assert await read_close(client) == (1000, "")
        while server.connections:
            with suppress(ConnectionError, RuntimeError):  # the last one comes too late
                await client.send(frame(TEXT, b"never"))
            await asyncio.sleep(0.01)
        assert server.connections == 0
        assert recorder.closes == [(1006, "timeout")]
        assert recorder.messages == ["go"]


async def test_close_within_a_compressed_and_fragmented_message() -> None:
    """RFC 6455 section 5.4: control frames come between fragments; the message is never complete, and is no error."""
    recorder = Recorder()
    async with serving(recorder) as (_, _, port), websocket(port, sec_websocket_extensions=DEFLATE) as client:
        half = zlib.compressobj(wbits=-15)
        data = half.compress(b"hello" * 100) + half.flush(zlib.Z_SYNC_FLUSH)
        await client.send(frame(TEXT, data[:5], fin=False, rsv1=True) + frame(PING, b"p") + frame(CLOSE, closing(1000)))
        assert await read_frame(client) == (PONG, b"p")
        assert await read_close(client) == (1000, "")
        assert await client.rest() == b""
        await eventually(lambda: recorder.closes == [(1000, "")])
        assert not recorder.messages


async def test_the_peer_closes_while_it_is_sent_to() -> None:
    """Whoever waits to send is told, although the peer takes nothing more."""
    ended: list[str] = []

    async def pour(ws: WebSocket) -> None:
        try:
            while True:
                await ws.send(b"x" * 50_000)
        except ConnectionClosed as error:
            ended.append(str(error))

    async with serving(pour, outbound=Outbound(timeout=0.5)) as (server, site, port), deaf_client(port) as sock:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, request())
        await eventually(lambda: site.sockets and not site.sockets[0].writable)
        await loop.sock_sendall(sock, frame(CLOSE, closing(1001, "off")))
        await eventually(lambda: ended)
        assert "1001: off" in ended[0]
        await eventually(lambda: server.connections == 0)  # it never takes the rest


async def test_messages_after_the_close_are_dropped_and_counted() -> None:
    """``write`` and ``ping`` drop, ``send`` and ``receive`` raise, and all say so."""
    async with serving(echo) as (_, site, port), websocket(port) as client:
        (ws,) = site.sockets
        ws.close_nowait()
        ws.write("one")
        ws.ping()
        assert ws.conn.writes_dropped == 2
        with pytest.raises(ConnectionClosed, match="closed by this side"):
            await ws.send("two")
        assert await read_close(client) == (1000, "")
        await client.send(frame(CLOSE, closing(1000, "yes")))
        await eventually(lambda: ws.close_code == 1000)
        with pytest.raises(ConnectionClosed, match=r"\(1000: yes\)"):
            await ws.receive()
        with pytest.raises(ValueError, match="close code 1005"):
            ws.close_nowait(1005)


# Handlers and their ends


@pytest.mark.both_loops
@pytest.mark.parametrize("where", ["open", "message", "pong", "coroutine", "coroutine-first"])
async def test_a_handler_that_fails(where: str) -> None:
    """It is logged, and the peer is told 1011, and no more."""

    class Failing(WebSocketHandler):
        def on_open(self, ws: WebSocket) -> None:
            assert where != "open", "secret"

        def on_message(self, ws: WebSocket, message: str | bytes) -> None:
            assert where != "message", "secret"

        def on_pong(self, ws: WebSocket, payload: bytes) -> None:
            raise AssertionError("secret")

    async def failing(ws: WebSocket) -> None:
        if where == "coroutine":
            await ws.receive()
        raise AssertionError("secret")

    handler = failing if where.startswith("coroutine") else Failing()
    with capture_logs() as logs:
        async with serving(handler) as (server, site, port), websocket(port) as client:
            await client.send(frame(TEXT, b"hi") + frame(PONG, b""))
            assert await read_close(client) == (1011, "internal error")
            client.writer.close()
            await eventually(lambda: server.connections == 0)
            assert site.sockets[0].close_code == 1011
            assert not len(site.tasks)
    assert [entry["event"] for entry in logs].count("handler failed") == 1


async def test_a_handler_that_returns_closes() -> None:
    """With 1000; the Task is gone before the peer has answered."""

    async def one(ws: WebSocket) -> None:
        await ws.send(await ws.receive())

    async with serving(one) as (server, site, port), websocket(port) as client:
        await client.send(frame(TEXT, b"hi") + frame(TEXT, b"unheard"))
        assert await read_frame(client) == (TEXT, b"hi")
        assert await read_close(client) == (1000, "")
        assert not len(site.tasks)
        await client.send(frame(CLOSE, closing(1000)))
        assert await client.rest() == b""
        await eventually(lambda: server.connections == 0)


@pytest.mark.both_loops
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_handler_that_waits_for_something_else_is_cancelled(how: str) -> None:
    """Once the connection is gone, however that came; one that was told of the end is left to finish."""
    ended: list[str] = []
    go = asyncio.Event()

    async def elsewhere(ws: WebSocket) -> None:
        await ws.receive()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def told(ws: WebSocket) -> None:
        async for _ in ws:
            pass
        await go.wait()
        ended.append("finished")

    for handler in (elsewhere, told):
        async with serving(handler) as (server, site, port), websocket(port) as client:
            await client.send(frame(TEXT, b"hi"))
            await eventually(lambda: site.sockets[0].conn.messages_in)
            if how == "reset":
                client.abort()
            else:
                await client.send(frame(CLOSE, closing(1000)))
            await eventually(lambda: server.connections == 0)
            if handler is told:
                await asyncio.sleep(0.05)
                go.set()
            await eventually(lambda: not len(site.tasks))
    assert ended == ["cancelled", "finished"]


async def test_receive_in_time() -> None:
    """Its timeout is an error of its own, and loses nothing."""
    errors: list[str] = []

    async def impatient(ws: WebSocket) -> None:
        try:
            await ws.receive(timeout=0.05)
        except DeadlineExceeded as error:
            errors.append(str(error))
        await ws.send(await ws.receive(timeout=5))

    async with serving(impatient) as (_, _, port), websocket(port) as client:
        await eventually(lambda: errors)
        assert "sent no message within 0.05 s" in errors[0]
        await client.send(frame(TEXT, b"now"))
        assert await read_frame(client) == (TEXT, b"now")


async def test_event_style_does_not_receive() -> None:
    """Who asks all the same is told why not."""
    async with serving(Recorder()) as (_, site, port), websocket(port):
        with pytest.raises(RuntimeError, match="gets on_message"):
            await site.sockets[0].receive()


@pytest.mark.both_loops
@pytest.mark.parametrize("style", ["coroutine", "event"])
async def test_drain_closes_with_1001(style: str) -> None:
    """RFC 6455 section 7.4.1: the peer is told, answers, and the server is drained; who does not answer is cut."""
    ended: list[str] = []

    async def wait(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)
        ended.append("told")

    recorder = Recorder()
    handler = recorder if style == "event" else wait
    async with serving(handler, close_timeout=0.3) as (server, site, port):  # noqa: SIM117
        async with websocket(port) as client, websocket(port) as deaf:
            draining = asyncio.create_task(server.drain())
            assert await read_close(client) == (1001, "the server is going away")
            assert await read_close(deaf) == (1001, "the server is going away")
            await client.send(frame(CLOSE, closing(1001)))
            assert await client.rest() == b""
            assert not draining.done()
            await asyncio.wait_for(draining, 5)
            assert not len(site.tasks)
    if style == "event":
        assert sorted(recorder.closes) == [(1001, ""), (1006, "timeout")]
    else:
        assert ended == ["told", "told"]


async def test_stop_cuts() -> None:
    """Handlers are cancelled; nothing is left."""
    ended: list[str] = []

    async def wait(ws: WebSocket) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async with serving(wait) as (server, site, port), websocket(port) as client:
        await server.stop()
        assert await client.rest() == b""
        assert ended == ["cancelled"]
        assert site.sockets[0].close_code == 1006
        assert site.sockets[0].close_reason == "stopped"


# Heartbeats


@pytest.mark.both_loops
async def test_pings_are_answered_with_their_payload() -> None:
    """RFC 6455 section 5.5.2 and 5.5.3; also between the fragments of a message (5.4)."""
    recorder = Recorder()
    async with serving(recorder) as (_, site, port), websocket(port) as client:
        await client.send(frame(TEXT, b"a", fin=False) + frame(PING, b"1") + frame(0, b"b") + frame(PING, b"x" * 125))
        assert await read_frame(client) == (PONG, b"1")
        assert await read_frame(client) == (TEXT, b"ab")
        assert await read_frame(client) == (PONG, b"x" * 125)
        site.sockets[0].ping(b"you?")
        assert await read_frame(client) == (PING, b"you?")
        await client.send(frame(PONG, b"you?"))
        await eventually(lambda: recorder.pongs == [b"you?"])
        with pytest.raises(ValueError, match="ping of 126 bytes: the most is 125"):
            site.sockets[0].ping(b"x" * 126)


async def test_a_peer_that_does_not_read_gets_one_pong_for_its_last_ping() -> None:
    """RFC 6455 section 5.5.3 allows it; else a flood of pings would fill the server's memory."""
    size = 15_000_000
    recorder = Recorder(lambda ws, message: ws.write(b"x" * size) if message == "go" else None)
    async with serving(recorder) as (_, site, port), deaf_client(port) as sock:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, request() + frame(TEXT, b"go"))
        await eventually(lambda: site.sockets and not site.sockets[0].writable)
        conn = site.sockets[0].conn
        before = conn.bytes_out
        await loop.sock_sendall(sock, b"".join(frame(PING, b"%d" % number) for number in range(1000)))
        await loop.sock_sendall(sock, frame(TEXT, b"all of them have come"))
        await eventually(lambda: len(recorder.messages) == 2)
        assert conn.bytes_out == before
        assert len(await _until(sock, b"\x8a\x03999")) == before + 5
        assert recorder.writable == 1


async def _until(sock: socket.socket, last: bytes) -> bytes:
    """What is sent to ``sock``, which is to end with ``last``."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    loop = asyncio.get_running_loop()
    data = bytearray()
    async with asyncio.timeout(20):
        while not data.endswith(last):
            data += await loop.sock_recv(sock, 1 << 20)
    return bytes(data)


async def test_a_silent_peer_is_asked_and_then_cut() -> None:
    """It is sent a ping when it was silent for the interval; anything it sends shows that it lives."""
    recorder = Recorder()
    async with serving(recorder, ping_interval=0.2, ping_timeout=0.3) as (server, _, port), websocket(port) as client:
        for answer in (frame(PONG, b""), frame(TEXT, b"busy")):
            assert await read_frame(client) == (PING, b"")
            await client.send(answer)
        assert await read_frame(client) == (TEXT, b"busy")
        assert await read_frame(client) == (PING, b"")
        assert await client.rest() == b""
        await eventually(lambda: server.connections == 0)
        assert recorder.closes == [(1006, "heartbeat")]


async def test_no_pings_where_there_shall_be_none() -> None:
    """``ping_interval=None`` switches them off."""
    async with serving(Recorder(), ping_interval=None) as (_, site, port), websocket(port) as client:
        before = site.sockets[0].conn.messages_out
        await asyncio.sleep(0.3)
        assert site.sockets[0].conn.messages_out == before
        await client.send(frame(TEXT, b"x"))
        assert await read_frame(client) == (TEXT, b"x")


async def test_a_peer_we_do_not_listen_to_is_not_to_blame() -> None:
    """While reading is paused no pong can come; later it is asked again."""
    go = asyncio.Event()

    async def slow(ws: WebSocket) -> None:
        await go.wait()
        async for message in ws:
            await ws.send(message)

    async with serving(slow, queue=1, ping_interval=0.15, ping_timeout=0.15) as (_, site, port):  # noqa: SIM117
        async with websocket(port) as client:
            await client.send(frame(TEXT, b"one") + frame(TEXT, b"two"))
            await eventually(lambda: site.sockets and site.sockets[0].paused)
            await asyncio.sleep(0.8)
            go.set()
            assert await read_frame(client) == (TEXT, b"one")
            assert await read_frame(client) == (TEXT, b"two")
            assert await read_frame(client) == (PING, b"")


# Backpressure and bounds


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_slow_handler_holds_its_peer_back(compressed: bool) -> None:
    """Only so many messages are taken from the network, and of compressed ones only so many are inflated."""
    go = asyncio.Event()
    got = 0

    async def slow(ws: WebSocket) -> None:
        nonlocal got
        await go.wait()
        async for _ in ws:
            got += 1

    payload = b"x" * 20_000
    data = frame(BINARY, payload)
    if compressed:
        deflate = zlib.compressobj(wbits=-15)
        payload = b"x" * 1_000_000
        small = (deflate.compress(payload) + deflate.flush(zlib.Z_FULL_FLUSH))[:-4]
        data = frame(BINARY, small, rsv1=True)
        assert len(data) < 1100
    fields = {"sec_websocket_extensions": DEFLATE} if compressed else {}
    count = 400
    async with serving(slow, queue=8) as (_, site, port), websocket(port, **fields) as client:
        client.writer.write(data * count)
        await eventually(lambda: site.sockets and site.sockets[0].paused)
        inbox = site.sockets[0]._inbox
        assert inbox is not None
        read = site.sockets[0].conn.bytes_in
        await asyncio.sleep(0.1)
        assert site.sockets[0].conn.bytes_in == read < 1_000_000
        assert inbox.size <= (17_000_000 if compressed else 700_000)
        go.set()
        await eventually(lambda: got == count, timeout=20)


async def test_an_inflated_message_is_bounded() -> None:
    """RFC 7692 section 8: 1009 for what inflates to more than ``max_message``."""
    deflate = zlib.compressobj(wbits=-15)
    small = (deflate.compress(bytes(50_000_000)) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    async with serving(Recorder()) as (_, _, port), websocket(port, sec_websocket_extensions=DEFLATE) as client:
        await client.send(frame(BINARY, small, rsv1=True))
        code, reason = await read_close(client)
        assert code == 1009
        assert "more than 1048576 bytes" in reason


@pytest.mark.parametrize("policy", ["close", "drop-oldest"])
async def test_a_slow_consumer_is_dealt_with_by_policy(policy: str) -> None:
    """``send`` does not wait. Messages that were dropped leave no gap that a compressed one could refer to."""
    count = 1500
    noise = b64encode(random.Random(1).randbytes(9_000)).decode()  # about 8 MB in all, more than the kernel buffers

    async def pour(ws: WebSocket) -> None:
        await ws.receive()
        for number in range(count):
            await ws.send(f"{number} {noise[number % 100 :]}")
        poured.set()
        await ws.receive()

    poured = asyncio.Event()
    outbound = Outbound(high=10_000, limit=50_000, policy=policy)
    async with serving(pour, outbound=outbound) as (server, site, port), deaf_client(port) as sock:
        loop = asyncio.get_running_loop()
        fields = {"sec_websocket_extensions": DEFLATE} if policy == "drop-oldest" else {}
        await loop.sock_sendall(sock, request(**fields) + frame(TEXT, b"go"))
        await eventually(lambda: site.sockets and site.sockets[0].conn.messages_in)
        (ws,) = site.sockets
        if policy == "close":
            await eventually(lambda: server.connections == 0)
            assert (ws.close_code, ws.close_reason) == (1006, "slow-consumer")
            return
        assert ws.deflate is not None
        assert ws.deflate.server_no_context_takeover
        await poured.wait()
        assert ws.conn.messages_dropped
        ws.write("last")
        data = (await _until(sock, b"\x81\x04last")).partition(b"\r\n\r\n")[2]
        numbers = []
        while len(data) > 6:
            assert data[:2] == b"\xc1\x7e"
            size = int.from_bytes(data[2:4], "big")
            text = zlib.decompressobj(-15).decompress(data[4 : 4 + size] + b"\0\0\xff\xff").decode()
            number, _, rest = text.partition(" ")
            assert rest == noise[int(number) % 100 :]
            numbers.append(int(number))
            data = data[4 + size :]
        assert numbers == sorted(numbers)
        assert len(numbers) == count - ws.conn.messages_dropped
        assert numbers[-1] == count - 1


async def test_nothing_is_left_of_sockets_that_are_gone() -> None:
    """No object of theirs waits for the garbage collector, however they ended."""

    def alive() -> int:
        return sum(isinstance(thing, WebSocket | CoroutineStyle) for thing in gc.get_objects())

    async def one(number: int, port: int) -> None:
        async with websocket(port, sec_websocket_extensions=DEFLATE) as client:
            await client.send(frame(TEXT, b"x" * 200))
            await read_frame(client)
            if number % 3 == 0:
                client.abort()
            elif number % 3 == 1:
                await client.send(frame(CLOSE, closing(1000)))
                await read_close(client)

    for handler in (echo, Recorder()):
        async with serving(handler) as (server, site, port):
            gc.collect()
            before = alive()
            gc.disable()
            try:
                for _ in range(6):
                    await asyncio.gather(*(one(number, port) for number in range(20)))
                await eventually(lambda: server.connections == 0 and not len(site.tasks))
                site.sockets.clear()
                if isinstance(handler, Recorder):
                    handler.sockets.clear()
                await eventually(lambda: alive() <= before)  # noqa: B023
            finally:
                gc.enable()


# As routes of the framework


def chat() -> App:
    """An application with a WebSocket and a route."""
    app = App()

    @app.websocket("/rooms/{room}/{seat:int}")
    async def join(ws: WebSocket, room: str, seat: int) -> None:
        await ws.send(f"{room} {seat + 1}")
        async for message in ws:
            await ws.send(message)

    @app.get("/")
    async def index() -> str:
        return "here"

    return app


@pytest.mark.parametrize("layers", [0, 1])
async def test_a_websocket_route(layers: int) -> None:
    """Path parameters come by name; middleware sees the handshake and may refuse it; HTTP clients are told."""
    app = chat()
    seen: list[int] = []

    async def guard(request: Request, call_next: Any) -> Response:
        if request.headers.get("x-user") == "mallory":
            return Response("no", status=403)
        response: Response = await call_next(request)
        seen.append(response.status)
        return response

    if layers:
        app.middleware(guard)
    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        port = server.addresses[0].port
        async with client_of(port) as client:
            assert (await client.get("/"))[2] == b"here"
            status, headers, _ = await client.get("/rooms/a/1")
            assert (status, headers["upgrade"]) == (426, "websocket")
            if layers:
                await client.send(request(path="/rooms/a/1", x_user="mallory"))
                assert (await client.response())[0] == 403
            await client.send(request(path="/rooms/a/1") + frame(TEXT, b"early"))
            assert (await client.response())[0] == 101
            assert await read_frame(client) == (TEXT, b"a 2")
            assert await read_frame(client) == (TEXT, b"early")
            await client.send(frame(CLOSE, closing(1000)))
            assert await read_close(client) == (1000, "")
        assert seen == ([200, 426, 101] if layers else [])


def test_websocket_routes_that_cannot_be() -> None:
    """They are refused when they are registered, with the place and what would be valid."""
    app = chat()

    async def lonely(ws: WebSocket) -> None:
        """Takes no path parameters."""

    def plain(ws: WebSocket) -> None:
        """Is no coroutine function."""

    with pytest.raises(TypeError, match=r"lonely .*route '/x/\{name\}' does not take the path parameter name"):
        app.websocket("/x/{name}")(lonely)
    with pytest.raises(TypeError, match=r"plain .* must be a coroutine function"):
        app.websocket("/x")(plain)
    app.websocket("/x")(lonely)
    with pytest.raises(ValueError, match=r"GET /x of .* is taken already"):
        app.websocket("/x")(lonely)


async def test_an_application_drains_its_websockets() -> None:
    """One drain for all: requests, idle connections and WebSockets."""
    app = chat()
    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        port = server.addresses[0].port
        clients = [await RawClient.connect(port) for _ in range(5)]
        for client in clients:
            await client.send(request(path="/rooms/a/1"))
            assert (await client.response())[0] == 101
            await read_frame(client)
        draining = asyncio.create_task(server.drain())
        for client in clients:
            assert await read_close(client) == (1001, "the server is going away")
            await client.send(frame(CLOSE, closing(1001)))
            assert await client.rest() == b""
            await client.close()
        await asyncio.wait_for(draining, 5)
