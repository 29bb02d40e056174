"""TestClient: WebSockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from forebay.errors import ConnectionClosed, DeadlineExceeded
from forebay.http import App, Request, Response, WebSocket, WebSocketSettings
from forebay.http.messages import Next
from forebay.testing import TestClient, WebSocketDenied
from tests.testing.client_app import make_app

pytestmark = pytest.mark.both_loops


async def test_echo() -> None:
    """Text and bytes, large ones too, both ways; it is closed in the end."""
    async with TestClient(make_app()) as client:
        async with client.websocket("/ws") as ws:
            for message in ("ü", b"\x00", "x" * 500_000, b""):
                await ws.send(message)
                assert await ws.receive() == message
        assert ws.close_code == 1000
        assert client.server.connections == 0
        async with client.websocket("wss://testserver/ws") as ws:
            await ws.send("secure")
            assert [await anext(ws)] == ["secure"]


async def test_the_handshake() -> None:
    """Path, query, headers, cookies and subprotocols arrive; the answer's cookies are kept."""
    app: App[Any] = App()
    told: dict[str, Any] = {}

    @app.middleware
    async def cookie(request: Request, call_next: Next) -> Response:
        told["cookies"] = request.cookies
        return await call_next(request)

    @app.websocket("/ws/{name}", settings=WebSocketSettings(subprotocols=("b", "a")))
    async def ws(socket: WebSocket, name: str) -> None:
        told.update(name=name, query=socket.query, x=socket.headers["x"], client=socket.client, host=socket.host)

    async with TestClient(app, client="10.1.2.3", headers={"x": "1"}) as client:
        client.cookies.set("a", "1")
        async with client.websocket(
            "/ws/n?q=1", subprotocols=["a", "c"], params={"r": "ü"}, headers={"x": "2"}, cookies={"b": "2"}
        ) as socket:
            assert socket.subprotocol == "a"
            assert await socket.wait_closed() == 1000
    assert told == {
        "name": "n",
        "query": [("q", "1"), ("r", "ü")],
        "x": "2",
        "client": "10.1.2.3",
        "host": "testserver",
        "cookies": {"a": "1", "b": "2"},
    }


async def test_close_codes() -> None:
    """Of the server, with the reason; of the client."""
    app: App[Any] = App()
    closed: list[int | None] = []

    @app.websocket("/by-server")
    async def by_server(socket: WebSocket) -> None:
        await socket.send("one")
        await socket.close(4001, "enough")

    @app.websocket("/by-client")
    async def by_client(socket: WebSocket) -> None:
        async for _ in socket:
            pass
        closed.append(socket.close_code)

    async with TestClient(app) as client:
        async with client.websocket("/by-server") as ws:
            assert [message async for message in ws] == ["one"]
            assert (ws.close_code, ws.close_reason) == (4001, "enough")
            with pytest.raises(ConnectionClosed, match="4001: enough"):
                await ws.receive()
        async with client.websocket("/by-server") as ws:
            assert await ws.wait_closed() == 4001
        async with client.websocket("/by-client") as ws:
            await ws.close(3003)
    assert closed == [3003]


async def test_waits_end() -> None:
    """For a message, for a close; each says on which path."""
    async with TestClient(make_app(), timeout=0.05) as client, client.websocket("/ws") as ws:
        with pytest.raises(DeadlineExceeded, match=r"WebSocket /ws: no message came within 0\.05 s"):
            await ws.receive()
        with pytest.raises(DeadlineExceeded, match=r"no message came within 0\.01 s"):
            await ws.receive(timeout=0.01)
        with pytest.raises(DeadlineExceeded, match="no message came"):
            async for _ in ws:
                pass
        with pytest.raises(DeadlineExceeded, match="WebSocket /ws: it was not closed"):
            await ws.wait_closed()
        await ws.send("still open")
        assert await ws.receive() == "still open"


async def test_denials() -> None:
    """An answer that is none raises, and has status, headers and content; the same goes for a route of HTTP."""
    app = make_app()

    @app.websocket("/same", settings=WebSocketSettings(origins="same"))
    async def same(socket: WebSocket) -> None: ...

    async with TestClient(app) as client:
        with pytest.raises(WebSocketDenied, match="ws://testserver/same opens no WebSocket: 403 Forbidden") as caught:
            async with client.websocket("/same", headers={"origin": "http://evil.example"}):
                pass
        assert caught.value.status == 403
        assert caught.value.headers["content-type"] == "application/problem+json"
        assert b"origin" in caught.value.body
        with pytest.raises(WebSocketDenied, match="404 Not Found"):
            async with client.websocket("/nothing"):
                pass
        with pytest.raises(WebSocketDenied) as caught:
            async with client.websocket("/stream?count=3"):
                pass
        assert (caught.value.status, caught.value.body) == (200, b"\x00\x01\x02")
        assert (await client.get("/ws")).status == 426


async def test_a_handshake_that_is_not_answered() -> None:
    """The wait ends, and the server's side is told."""
    app: App[Any] = App()
    left = asyncio.Event()

    @app.middleware
    async def holding(request: Request, call_next: Next) -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return await call_next(request)

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None: ...

    async with TestClient(app) as client:
        with pytest.raises(DeadlineExceeded, match=r"http://testserver/ws: its handshake was not answered within 0.05"):
            async with client.websocket("/ws", timeout=0.05):
                pass
        assert left.is_set()


async def test_a_handler_that_never_ends() -> None:
    """It is cancelled when the client has gone, also by an error of the test, and when the test is over."""
    app: App[Any] = App()
    cancelled: list[str] = []

    @app.websocket("/ws/{name}")
    async def ws(socket: WebSocket, name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(name)

    before = asyncio.all_tasks()
    async with TestClient(app) as client:
        async with client.websocket("/ws/left"):
            pass
        with pytest.raises(LookupError):
            async with client.websocket("/ws/failed"):
                raise LookupError
        client_of_all = client.websocket("/ws/forgotten")
        forgotten = await client_of_all.__aenter__()
    assert cancelled == ["left", "failed", "forgotten"]
    assert not forgotten.open
    await client_of_all.__aexit__(None, None, None)
    assert asyncio.all_tasks() <= before


async def test_an_upgrade_by_hand_is_an_error() -> None:
    """A plain request that is upgraded cannot be read on, and says so."""
    headers = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-key": "MDEyMzQ1Njc4OWFiY2RlZg==",
        "sec-websocket-version": "13",
    }
    async with TestClient(make_app()) as client:
        with pytest.raises(Exception, match="response is not well-formed: an upgrade"):
            await client.get("/ws", headers=headers)
