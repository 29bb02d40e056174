"""WebSockets of hosted applications: the handshake, messages in both directions, and every way to end."""

from __future__ import annotations

import asyncio
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from forebay.http import HTTPServer
from forebay.http.asgi import ASGIApplication, ClientDisconnected
from tests.support import RawClient, eventually, running

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

ACCEPT = {"type": "websocket.accept"}
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@asynccontextmanager
async def serving(handler: Handler, **options: Any) -> AsyncIterator[HTTPServer]:
    """A server whose WebSockets are ``handler``'s."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await handler(scope, receive, send)

    server = HTTPServer(ASGIApplication(app, **options), bind="http://127.0.0.1:0")
    async with running(server):
        yield server


def dial(server: HTTPServer, **options: Any) -> connect:
    """A client, of another implementation."""
    return connect(f"ws://127.0.0.1:{server.addresses[0].port}/ws?x=1", proxy=None, **options)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept, and send back until the client leaves."""
    assert await receive() == {"type": "websocket.connect"}
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def ending(ws: ClientConnection) -> tuple[int | None, str | None]:
    """Code and reason with which the server closed."""
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(ws.recv(), 5)
    return ws.close_code, ws.close_reason


async def test_messages_go_both_ways() -> None:
    """Text as text, binary as binary, long ones too."""
    async with serving(echo) as server, dial(server, max_size=None) as ws:
        for message in ("hällo", b"\x00\xff", "", b"", "x" * 3_000_000):
            await ws.send(message)
            assert await asyncio.wait_for(ws.recv(), 5) == message


async def test_the_scope_and_what_accept_adds() -> None:
    """The subprotocols that were offered, the one that is chosen, and headers of the application's."""
    scopes = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await receive()
        await send({**ACCEPT, "subprotocol": "chat.v2", "headers": [(b"x-room", b"7"), (b"set-cookie", b"a=b")]})
        await receive()

    async with serving(app, root_path="/api") as server:
        offered = [Subprotocol("chat.v1"), Subprotocol("chat.v2")]
        async with dial(server, subprotocols=offered, origin="http://elsewhere.example") as ws:
            assert ws.subprotocol == "chat.v2"
            assert ws.response is not None
            assert (ws.response.headers["x-room"], ws.response.headers["set-cookie"]) == ("7", "a=b")
    (scope,) = scopes
    assert (scope["type"], scope["scheme"], scope["http_version"]) == ("websocket", "ws", "1.1")
    assert (scope["path"], scope["root_path"], scope["query_string"]) == ("/api/ws", "/api", b"x=1")
    assert scope["subprotocols"] == ["chat.v1", "chat.v2"]
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert "method" not in scope
    assert scope["client"][0] == "127.0.0.1"


async def test_the_application_closes() -> None:
    """With its code and reason; it is disconnected then, and can send nothing more."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
        seen.append(await receive())
        for wrong in (receive(), send({"type": "websocket.send", "text": "x"})):
            with pytest.raises(RuntimeError) as caught:
                await wrong
            seen.append(str(caught.value))

    async with serving(app) as server, dial(server) as ws:
        assert await ending(ws) == (4001, "enough")
        await eventually(lambda: len(seen) == 3)
    assert seen[0] == {"type": "websocket.disconnect", "code": 4001, "reason": "enough"}
    assert seen[1] == "there is no message after websocket.disconnect"
    assert seen[2] == "websocket.send was sent, but the WebSocket is closed by the application"


@pytest.mark.parametrize(
    ("leave", "code", "reason"),
    [
        (lambda ws: ws.close(3000, "bye"), 3000, "bye"),
        (lambda ws: ws.close(1000), 1000, ""),
        (lambda ws: asyncio.sleep(0, ws.transport.abort()), 1006, ""),
    ],
)
async def test_the_client_closes(leave: Callable[[Any], Awaitable[None]], code: int, reason: str) -> None:
    """What it had sent is received first; sending is an OSError afterwards, and nothing is cancelled."""
    seen: list[Any] = []
    begun = asyncio.Event()
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        seen.append(await receive())
        begun.set()
        await go.wait()
        seen.extend([await receive(), await receive()])
        try:
            await send({"type": "websocket.send", "text": "late"})
        except OSError as error:
            seen.append(error)

    async with serving(app) as server:
        ws = await dial(server)
        await ws.send("1")
        await begun.wait()
        await ws.send("2")
        await (await ws.ping())  # it has come
        await leave(ws)
        await ws.wait_closed()
        await eventually(lambda: not server.connections)
        go.set()
        await eventually(lambda: len(seen) == 4)
    assert [message["text"] for message in seen[:2]] == ["1", "2"]
    assert seen[2] == {"type": "websocket.disconnect", "code": code, "reason": reason}
    assert isinstance(seen[3], ClientDisconnected)


async def test_a_close_without_code_is_1005() -> None:
    """RFC 6455 section 7.1.5."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        seen.append(await receive())

    async with serving(app) as server:
        client = await RawClient.connect(server.addresses[0].port)
        await client.send(HANDSHAKE)
        assert (await client.response())[0] == 101
        await client.send(b"\x88\x80\x00\x00\x00\x00")
        await client.rest()
        await client.close()
    assert seen == [{"type": "websocket.disconnect", "code": 1005, "reason": ""}]


async def status_of(server: HTTPServer) -> InvalidStatus:
    """How the server refused the handshake."""
    with pytest.raises(InvalidStatus) as caught:
        await dial(server)
    return caught.value


async def test_closing_instead_of_accepting_is_a_403() -> None:
    """By the specification."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close"})
        seen.append(await receive())

    async with serving(app) as server:
        assert (await status_of(server)).response.status_code == 403
    assert seen == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


async def test_a_denial_of_the_applications_own() -> None:
    """The extension ``websocket.http.response``: status, headers and content, in one piece or several."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"x-why", b"no ticket")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"go ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"away"})
        with pytest.raises(RuntimeError, match="closed by the application"):
            await send(ACCEPT)

    async with serving(app) as server:
        response = (await status_of(server)).response
    assert (response.status_code, response.headers["x-why"], response.body) == (401, "no ticket", b"go away")


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise LookupError("secret")


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


async def half_denies(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.http.response.start", "status": 401})


async def talks_first(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.send", "text": "x"})


async def meddles(scope: Scope, receive: Receive, send: Send) -> None:
    await send({**ACCEPT, "headers": [(b"Sec-WebSocket-Accept", b"x")]})


async def answers_http(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})


@pytest.mark.parametrize(
    ("app", "said"),
    [
        (fails, "secret"),
        (returns, "application did not answer"),
        (half_denies, "application did not answer"),
        (talks_first, "websocket.send was sent, but the WebSocket is not accepted yet"),
        (meddles, "'Sec-WebSocket-Accept', which is the server's"),
        (answers_http, "http.response.start was sent, but the WebSocket is not accepted yet"),
    ],
)
async def test_a_handshake_that_the_application_does_not_answer_is_a_500(app: Handler, said: str) -> None:
    """And the log says why."""
    with capture_logs() as logs:
        async with serving(app) as server:
            assert (await status_of(server)).response.status_code == 500
    assert said in " ".join(f"{entry['event']} {entry.get('exc_info')}" for entry in logs)


async def test_an_application_that_fails_closes_with_1011() -> None:
    """RFC 6455 section 7.4.1; the reason stays in the log."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        raise LookupError("secret")

    with capture_logs() as logs:
        async with serving(app) as server, dial(server) as ws:
            assert await ending(ws) == (1011, "")
    assert any(isinstance(entry.get("exc_info"), LookupError) for entry in logs)


async def test_an_application_that_returns_closes_with_1000() -> None:
    """The scope lives as long as the socket."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await send({"type": "websocket.send", "text": "that is all"})

    async with serving(app) as server, dial(server) as ws:
        assert await ws.recv() == "that is all"
        assert await ending(ws) == (1000, "")


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8", 426),
        (b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", b"", 400),
    ],
)
async def test_what_is_no_handshake_never_reaches_the_application(old: bytes, new: bytes, status: int) -> None:
    """RFC 6455 section 4.2."""
    async with serving(fails) as server:
        client = await RawClient.connect(server.addresses[0].port)
        with capture_logs() as logs:
            await client.send(HANDSHAKE.replace(old, new))
            assert (await client.response())[0] == status
        await client.close()
    assert logs == []


async def test_a_client_that_leaves_before_the_answer() -> None:
    """Is a disconnect, and nobody to accept."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(await receive())
        seen.append(await receive())
        with pytest.raises(ClientDisconnected):
            await send(ACCEPT)
        seen.append("done")

    async with serving(app) as server:
        client = await RawClient.connect(server.addresses[0].port)
        await client.send(HANDSHAKE)
        await eventually(lambda: seen)
        client.abort()
        await eventually(lambda: len(seen) == 3)
    assert (seen[1]["type"], seen[1]["code"]) == ("websocket.disconnect", 1006)


async def test_the_client_waits_for_an_application_that_does_not_receive() -> None:
    """What waits for it is bounded, and nothing is lost."""
    go = asyncio.Event()
    got = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal got
        await receive()
        await send(ACCEPT)
        await go.wait()
        while (await receive())["type"] == "websocket.receive":
            got += 1

    count, message = 400, b"\x01" * 100_000
    async with serving(app) as server, dial(server, compression=None) as ws:

        async def all_of_it() -> None:
            for _ in range(count):
                await ws.send(message)

        sending = asyncio.create_task(all_of_it())
        done, _ = await asyncio.wait([sending], timeout=0.3)
        assert not done, "40 MB were taken in by a server whose application takes nothing"
        go.set()
        await asyncio.wait_for(sending, 10)
        await ws.close()
        await eventually(lambda: got == count)


async def test_a_slow_client_makes_send_wait() -> None:
    """What is sent is bounded by what the client takes."""
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await receive()
        await send(ACCEPT)
        for _ in range(100):
            await send({"type": "websocket.send", "bytes": bytes(1_000_000)})
            sent += 1

    async with serving(app) as server:
        client = await RawClient.connect(server.addresses[0].port)
        await client.send(HANDSHAKE)
        assert (await client.response())[0] == 101
        await asyncio.sleep(0.1)  # all of it would be sent by then
        assert sent < 100
        client.abort()


async def test_draining_closes_with_1001() -> None:
    """The application is told by its disconnect, and waited for."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        seen.append(await receive())
        await asyncio.sleep(0.05)
        seen.append("done")

    async with serving(app) as server, dial(server) as ws:
        draining = asyncio.create_task(server.drain())
        assert (await ending(ws))[0] == 1001
        await asyncio.wait_for(draining, 5)
        assert [seen[0]["type"], seen[0]["code"], seen[1]] == ["websocket.disconnect", 1001, "done"]


async def test_stopping_cancels_the_application() -> None:
    """Nothing is left."""
    app_ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        try:
            await asyncio.Event().wait()
        finally:
            app_ended.set()

    async with serving(app) as server:
        ws = await dial(server)
    assert app_ended.is_set()
    await ws.wait_closed()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"text": b"abc"}, "websocket.send has a bytes for its text: must be a str"),
        ({"bytes": "abc"}, "websocket.send has a str where bytes must be: 'abc'"),
        ({"bytes": 5}, "websocket.send has a int where bytes must be: 5"),
    ],
)
async def test_what_is_no_message_is_not_sent(message: dict[str, Any], said: str) -> None:
    """The application is told what it was."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await send({"type": "websocket.send", **message})

    with capture_logs() as logs:
        async with serving(app) as server, dial(server) as ws:
            assert await ending(ws) == (1011, "")
    (error,) = [entry["exc_info"] for entry in logs if entry["event"] == "application failed"]
    assert said in str(error)


async def test_a_view_and_a_buffer_are_messages() -> None:
    """What was sent is what was in them then."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        buffer = bytearray(b"first")
        await send({"type": "websocket.send", "bytes": buffer})
        buffer[:] = b"later"
        await send({"type": "websocket.send", "bytes": memoryview(buffer)})

    async with serving(app) as server, dial(server) as ws:
        assert [await ws.recv(), await ws.recv()] == [b"first", b"later"]


async def test_an_exit_is_a_failure_like_any_other() -> None:
    """Of the WebSocket; the server goes on."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise SystemExit(3)

    async with serving(app) as server:
        for _ in range(2):
            with pytest.raises(InvalidStatus) as caught:
                await dial(server)
            assert caught.value.response.status_code == 500


async def test_a_task_that_is_left_behind_is_told_of_the_end() -> None:
    """When the application returns while another Task of it receives."""
    told: list[dict[str, Any]] = []
    listeners: list[asyncio.Task[None]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)

        async def listen() -> None:
            told.append(await receive())

        listeners.append(asyncio.create_task(listen()))
        await asyncio.sleep(0)

    async with serving(app) as server, dial(server) as ws:
        assert (await ending(ws))[0] == 1000
        await eventually(lambda: told)
    assert told == [{"type": "websocket.disconnect", "code": 1000, "reason": ""}]


async def test_tiny_messages_for_ever_leave_others_their_turn() -> None:
    """Though their client takes them all."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        while True:
            await send({"type": "websocket.send", "text": ""})

    async with serving(app) as server:
        client = await RawClient.connect(server.addresses[0].port)
        await client.send(HANDSHAKE)
        assert (await client.response())[0] == 101
        for _ in range(1000):
            assert len(await client.exactly(2000)) == 2000
        client.abort()
        await eventually(lambda: server.connections == 0)


async def test_what_little_becomes_much_is_bounded() -> None:
    """Compressed messages that nobody receives are inflated no further than a few MiB, whatever came in one piece."""
    go = asyncio.Event()
    got = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal got
        await receive()
        await send(ACCEPT)
        await go.wait()
        while (await receive())["type"] == "websocket.receive":
            got += 1

    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    payload = (squeezer.compress(bytes(60_000)) + squeezer.flush(zlib.Z_SYNC_FLUSH))[:-4]
    frame = bytes([0xC2, 0x80 | len(payload)]) + bytes(4) + payload
    count = 60_000 // len(frame)
    async with serving(app) as server:
        client = await RawClient.connect(server.addresses[0].port)
        tracemalloc.start()
        try:
            extension = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
            await client.send(HANDSHAKE.removesuffix(b"\r\n") + extension + frame * count)
            await eventually(lambda: tracemalloc.get_traced_memory()[0] > 1_000_000)
            assert tracemalloc.get_traced_memory()[1] < 10_000_000 < count * 60_000
        finally:
            tracemalloc.stop()
        go.set()
        await eventually(lambda: got == count)
        client.abort()
