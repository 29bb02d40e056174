"""What ASGI servers may hand to an application of ours that uvicorn and granian mostly do not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from forebay.engine.settings import Outbound
from forebay.errors import StartError
from forebay.http import App, FileResponse, Request, Response, WebSocket, WebSocketSettings
from forebay.http.asgi_app import ResponseCut, serve_asgi
from tests.support import eventually

pytestmark = pytest.mark.asyncio


class Server:
    """The server's side of one call."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.gone: Exception | None = None
        self.received = 0
        self.asked = 0  # messages that were to be sent
        for message in messages:
            self.coming.put_nowait(message)

    async def receive(self) -> dict[str, Any]:
        """The next message."""
        self.received += 1
        return await self.coming.get()

    async def send(self, message: dict[str, Any]) -> None:
        """Take one, once there is room."""
        self.asked += 1
        await self.open.wait()
        if self.gone is not None:
            raise self.gone
        self.sent.append(message)

    @property
    def kinds(self) -> list[str]:
        """Of what was sent."""
        return [message["type"] for message in self.sent]

    @property
    def status(self) -> int:
        """Of the answer."""
        return int(self.sent[0]["status"])

    @property
    def content(self) -> bytes:
        """Of the answer."""
        return b"".join(message.get("body", b"") for message in self.sent)

    def header(self, name: bytes) -> bytes | None:
        """Of the answer."""
        return dict(self.sent[0]["headers"]).get(name)


def scope(path: str = "/", *, kind: str = "http", **changes: Any) -> dict[str, Any]:
    """What is always there, and no more."""
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"test")],
        **({"method": "GET"} if kind == "http" else {}),
        **changes,
    }


END = {"type": "http.request", "body": b"", "more_body": False}


@pytest.fixture
async def app() -> AsyncIterator[App[Any]]:
    """An application, started by its first request."""
    app: App[Any] = App("scopes", body_limit=1000)

    @app.get("/what/{rest:path}")
    def what(request: Request, rest: str) -> list[Any]:
        return [rest, request.client, request.scheme, request.exchange.root_path, request.exchange.conn.local]

    @app.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.get("/hints")
    async def hints(request: Request) -> str:
        request.early_hints("</a>", "</b>")
        return "hinted"

    @app.get("/file")
    def file() -> Response:
        return FileResponse(__file__, filename="x.py")

    yield app
    await app.shutdown()


async def ask(app: App[Any], changed: dict[str, Any], *messages: dict[str, Any]) -> Server:
    """One request."""
    server = Server(*messages)
    async with asyncio.timeout(5):
        await serve_asgi(app, changed, server.receive, server.send)
    return server


async def test_the_least_there_can_be(app: App[Any]) -> None:
    """A scope without what is optional: the raw path is made of the path."""
    server = await ask(app, scope("/what/a%2F b/ä"))
    assert json.loads(server.content) == ["a%2F b/ä", "unknown", "http", "", "unknown"]
    assert server.kinds == ["http.response.start", "http.response.body"]
    assert server.received == 0  # an answer at once needs nobody to listen


@pytest.mark.parametrize("client", [("1.2.3.4", 5), ("1.2.3.4", "5"), ["1.2.3.4", 5]])
async def test_ends(app: App[Any], client: Any) -> None:
    """Who is at the ends, and the root path, which may be taken off already."""
    for path in "/below/what/a", "/what/a":
        changed = scope(path, client=client, scheme="https", server=("::1", 443), root_path="/below")
        assert json.loads((await ask(app, changed)).content) == ["a", "1.2.3.4", "https", "/below", "[::1]:443"]
    unix = scope("/what/a", client=None, server=("/run/x.sock", None))
    assert json.loads((await ask(app, unix)).content)[1] == "unix"
    assert (await ask(app, scope("/belowwhat/a", root_path="/below"))).status == 404


async def test_http2(app: App[Any]) -> None:
    """Content need not be announced; and connections are none of the answer's business."""
    changed = scope("/size", http_version="2", method="POST")
    server = await ask(app, changed, {"type": "http.request", "body": b"abc", "more_body": True}, END)
    assert server.content == b"3"
    server = await ask(app, scope("/size", http_version="2", method="POST"), END)
    assert server.content == b"0"
    changed["headers"] = [*changed["headers"], (b"connection", b"close")]
    assert (await ask(app, changed, END)).header(b"connection") is None


async def test_content_past_the_limit(app: App[Any]) -> None:
    """413 as soon as there is too much, whatever was announced."""
    changed = scope("/size", method="POST", headers=[(b"host", b"a"), (b"transfer-encoding", b"chunked")])
    piece = {"type": "http.request", "body": bytes(600), "more_body": True}
    server = await ask(app, changed, piece, piece)
    assert (server.status, server.received) == (413, 2)


@pytest.mark.parametrize(
    "headers", [[], [(b"host", b"a\r\nx: y")], [(b"host", b"a"), (b"x y", b"")], [(b"host", b"a"), (b"x", b"a\nb: c")]]
)
async def test_bad_heads(app: App[Any], headers: list[tuple[bytes, bytes]]) -> None:
    """What our own server would refuse is refused, by whichever way it came."""
    assert (await ask(app, scope("/what/a", headers=headers))).status == 400


async def test_unknown_scope(app: App[Any]) -> None:
    """A kind of scope that nobody knows is an error, as the specification demands."""
    with pytest.raises(ValueError, match="'smoke'"):
        await ask(app, {"type": "smoke"})


async def test_early_hints(app: App[Any]) -> None:
    """They are sent where the server takes them."""
    server = await ask(app, scope("/hints", extensions={"http.response.early_hint": {}}), END)
    assert server.sent[0] == {"type": "http.response.early_hint", "links": [b"</a>", b"</b>"]}
    assert server.content == b"hinted"
    assert (await ask(app, scope("/hints"), END)).kinds[0] == "http.response.start"


async def test_pathsend(tmp_path: Path) -> None:
    """A whole file is the server's to send where it can; a part of one is not, nor one that was replaced."""
    path = tmp_path / "large"
    path.write_bytes(b"x" * 100_000)
    app: App[Any] = App("files")
    app.get("/")(lambda: FileResponse(path))
    can: dict[str, Any] = {"http.response.pathsend": {}}
    server = await ask(app, scope(extensions=can))
    assert server.sent[1:] == [{"type": "http.response.pathsend", "path": str(path)}]
    assert server.header(b"content-length") == b"100000"
    server = await ask(app, scope(extensions=can, headers=[(b"host", b"a"), (b"range", b"bytes=1-70000")]))
    assert (server.status, server.content) == (206, b"x" * 70_000)
    other = tmp_path / "other"
    other.write_bytes(b"y")
    other.rename(path)  # the cache does not look for a second
    server = await ask(app, scope(extensions=can))
    assert server.content == b"x" * 100_000
    await app.shutdown()


async def test_a_file_that_shrinks(tmp_path: Path) -> None:
    """It breaks the answer off."""
    path = tmp_path / "large"
    path.write_bytes(b"x" * 300_000)
    app: App[Any] = App("files")
    app.get("/")(lambda: FileResponse(path))
    server = Server()
    server.open.clear()
    call = asyncio.create_task(serve_asgi(app, scope(), server.receive, server.send))
    await eventually(lambda: server.asked)
    path.write_bytes(b"")
    server.open.set()
    with pytest.raises(ResponseCut, match="became shorter"):
        await call
    await app.shutdown()


async def test_a_server_that_has_always_more_requests(app: App[Any]) -> None:
    """A careless server, or a test's double, that never waits in receive does not keep others from working."""
    server = Server()

    async def receive() -> dict[str, Any]:
        server.received += 1
        return END

    async with asyncio.timeout(5):
        await serve_asgi(app, scope("/hints"), receive, server.send)
    assert server.content == b"hinted"
    assert server.received < 5


async def _stream(state: dict[str, Any]) -> AsyncIterator[bytes]:
    try:
        while True:
            state["pieces"] += 1
            yield bytes(10_000)
    finally:
        state["ended"] = True


@pytest.mark.parametrize("end", ["disconnect", "oserror", "cancel", "failure"])
async def test_writers(end: str) -> None:
    """A stream waits while the server does, and ends with its client, however that is said."""
    app: App[Any] = App("writers")
    state: dict[str, Any] = {"pieces": 0, "ended": False}

    @app.get("/")
    async def endless() -> Response:
        return Response(_stream(state))

    server = Server(END)
    server.open.clear()
    call = asyncio.create_task(serve_asgi(app, scope(), server.receive, server.send))
    await eventually(lambda: state["pieces"])
    for _ in range(50):
        await asyncio.sleep(0)
    assert state["pieces"] == 7  # 64 KiB and one more
    server.open.set()
    await eventually(lambda: state["pieces"] > 50)
    server.open.clear()
    if end == "disconnect":
        server.coming.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(call, 5)
    elif end == "oserror":
        server.gone = OSError("gone")
        server.open.set()
        await asyncio.wait_for(call, 5)
    elif end == "failure":
        server.gone = RuntimeError("the server's own")
        server.open.set()
        with pytest.raises(RuntimeError, match="the server's own"):
            await asyncio.wait_for(call, 5)
    else:
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await eventually(lambda: state["ended"])
    await app.shutdown()


async def test_deadline_of_a_client_that_does_not_read() -> None:
    """An answer whose time is over is cut where it waits."""
    app: App[Any] = App("writers")
    state: dict[str, Any] = {"pieces": 0, "ended": False}

    @app.get("/", timeout=0.1)
    async def endless() -> Response:
        return Response(_stream(state))

    server = Server(END)
    server.open.clear()
    with pytest.raises(ResponseCut, match="deadline"):
        await asyncio.wait_for(serve_asgi(app, scope(), server.receive, server.send), 5)
    await eventually(lambda: state["ended"])
    await app.shutdown()


# Lifespan


async def test_lifespan_messages() -> None:
    """Startup, shutdown, and what is said where they fail."""

    @asynccontextmanager
    async def lifespan(app: App[Any]) -> AsyncIterator[None]:
        if app.name == "startup":
            raise RuntimeError("no database")
        yield
        if app.name == "shutdown":
            raise RuntimeError("no more database")

    both = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
    for fails, expected in (
        ("", [("lifespan.startup.complete", None), ("lifespan.shutdown.complete", None)]),
        ("startup", [("lifespan.startup.failed", "RuntimeError: no database")]),
        (
            "shutdown",
            [("lifespan.startup.complete", None), ("lifespan.shutdown.failed", "RuntimeError: no more database")],
        ),
    ):
        server = await ask(App(fails or "well", lifespan=lifespan), {"type": "lifespan"}, *both)
        assert [(message["type"], message.get("message")) for message in server.sent] == expected


async def test_first_requests_start_it_once() -> None:
    """Without a lifespan the first requests wait for the start; one that is cancelled does not end it."""
    go = asyncio.Event()
    starts = 0

    @asynccontextmanager
    async def lifespan(app: App[Any]) -> AsyncIterator[None]:
        nonlocal starts
        starts += 1
        await go.wait()
        yield

    app: App[Any] = App("lazy", lifespan=lifespan)
    app.get("/")(lambda: "yes")
    servers = [Server() for _ in range(3)]
    calls = [asyncio.create_task(serve_asgi(app, scope(), one.receive, one.send)) for one in servers]
    await eventually(lambda: starts)
    calls[0].cancel()
    go.set()
    await asyncio.gather(*calls[1:])
    assert [one.content for one in servers] == [b"", b"yes", b"yes"]
    assert starts == 1
    await app.shutdown()


async def test_a_start_that_fails_is_tried_again() -> None:
    """The request that needed it fails; the next one tries."""
    starts = 0

    @asynccontextmanager
    async def lifespan(app: App[Any]) -> AsyncIterator[None]:
        nonlocal starts
        starts += 1
        if starts == 1:
            raise RuntimeError("not yet")
        yield

    app: App[Any] = App("lazy", lifespan=lifespan)
    app.get("/")(lambda: "yes")
    with pytest.raises(StartError, match="not yet"):
        await ask(app, scope())
    assert (await ask(app, scope())).content == b"yes"
    await app.shutdown()


# WebSockets

CONNECT = {"type": "websocket.connect"}


def sockets(settings: WebSocketSettings, handler: Any) -> App[Any]:
    """An application with one WebSocket."""
    app: App[Any] = App("sockets")
    app.websocket("/", settings)(handler)
    return app


async def test_websocket_of_little_scope() -> None:
    """A handshake without its own headers (HTTP/2 has none) is one; subprotocols come from the scope."""

    async def handler(ws: WebSocket) -> None:
        await ws.send(f"{ws.subprotocol} {ws.client}")

    app = sockets(WebSocketSettings(subprotocols=("b",)), handler)
    changed = scope(kind="websocket", http_version="2", subprotocols=["a", "b"], scheme="wss")
    server = Server(CONNECT)
    call = asyncio.create_task(serve_asgi(app, changed, server.receive, server.send))
    await eventually(lambda: len(server.sent) == 3)
    assert server.sent == [
        {"type": "websocket.accept", "subprotocol": "b", "headers": []},
        {"type": "websocket.send", "text": "b unknown"},
        {"type": "websocket.close", "code": 1000, "reason": ""},
    ]
    server.coming.put_nowait({"type": "websocket.disconnect", "code": 1005})
    await asyncio.wait_for(call, 5)
    await app.shutdown()


async def test_websocket_denial_without_the_extension() -> None:
    """It is closed, which servers answer with 403."""

    async def handler(ws: WebSocket) -> None:
        raise AssertionError("must not be called")

    app = sockets(WebSocketSettings(), handler)
    changed = scope(kind="websocket", headers=[(b"host", b"a"), (b"origin", b"http://b")])
    server = await ask(app, changed, CONNECT)
    assert server.kinds == ["websocket.close"]
    await app.shutdown()


async def test_websocket_that_leaves_before_it_is_accepted() -> None:
    """What the middleware waits for is cancelled."""
    ended = asyncio.Event()

    async def slow(request: Request, call_next: Any) -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("must not come here")

    async def handler(ws: WebSocket) -> None:
        raise AssertionError("must not be called")

    app: App[Any] = App("sockets", middleware=[slow])
    app.websocket("/")(handler)
    server = await ask(app, scope(kind="websocket"), CONNECT, {"type": "websocket.disconnect", "code": 1006})
    await asyncio.wait_for(ended.wait(), 5)
    assert server.sent == []
    await app.shutdown()


@pytest.mark.parametrize("policy", ["wait", "close", "drop-oldest", "stall"])
async def test_slow_websockets(policy: str) -> None:
    """What happens to a slow consumer is as the settings say."""
    state: dict[str, Any] = {"sent": 0, "code": 0, "ws": None, "dropped": 0}
    plain = policy == "stall"
    outbound = Outbound(high=1000, limit=5000, policy="wait" if plain else policy, timeout=0.1 if plain else None)

    async def handler(ws: WebSocket) -> None:
        state["ws"] = ws
        try:
            while state["sent"] < 100:
                if policy == "close":
                    ws.write(b"x" * 500)
                else:
                    await ws.send(b"x" * 500)
                state["sent"] += 1
            await ws.receive()
        finally:
            state["code"], state["why"], state["dropped"] = ws.close_code, ws.close_reason, ws.conn.messages_dropped

    app = sockets(WebSocketSettings(outbound=outbound), handler)
    server = Server(CONNECT)
    server.open.clear()
    call = asyncio.create_task(serve_asgi(app, scope(kind="websocket"), server.receive, server.send))
    if policy == "wait":
        await eventually(lambda: state["sent"])
        for _ in range(50):
            await asyncio.sleep(0)
        assert state["sent"] == 1  # of 502 bytes each: the second one is past 1000
        assert not state["ws"].writable
        server.open.set()
        await eventually(lambda: state["sent"] == 100)
    elif policy == "drop-oldest":
        await eventually(lambda: state["sent"] == 100)
        server.open.set()
        await eventually(lambda: len(server.sent) > 1)
    if policy in ("wait", "drop-oldest"):
        server.coming.put_nowait({"type": "websocket.disconnect", "code": 1001, "reason": "enough"})
    await asyncio.wait_for(call, 5)
    await eventually(lambda: state["code"])
    expected = {"close": (1006, "slow-consumer"), "stall": (1006, "write-stall")}.get(policy, (1001, "enough"))
    assert (state["code"], state["why"]) == expected
    assert (state["dropped"] > 80) == (policy == "drop-oldest")
    assert len(server.sent) == {"wait": 101, "drop-oldest": 101 - state["dropped"]}.get(policy, 0)
    await app.shutdown()


async def test_websocket_reading_waits() -> None:
    """Nothing more is received while the handler has enough to do."""
    go = asyncio.Event()

    async def handler(ws: WebSocket) -> None:
        await go.wait()
        async for _ in ws:
            pass

    app = sockets(WebSocketSettings(queue=4), handler)
    server = Server(CONNECT, *[{"type": "websocket.receive", "text": "x"} for _ in range(20)])
    call = asyncio.create_task(serve_asgi(app, scope(kind="websocket"), server.receive, server.send))
    await eventually(lambda: server.coming.qsize() < 20)
    for _ in range(50):
        await asyncio.sleep(0)
    assert server.coming.qsize() == 16
    server.coming.put_nowait({"type": "websocket.disconnect", "code": 1000})
    go.set()
    await asyncio.wait_for(call, 5)
    await app.shutdown()


async def test_websocket_nobody_answers_the_close() -> None:
    """A close that the server never confirms ends after its timeout."""

    async def handler(ws: WebSocket) -> None:
        return

    app = sockets(WebSocketSettings(close_timeout=0.1), handler)
    server = await ask(app, scope(kind="websocket"), CONNECT)
    assert server.kinds == ["websocket.accept", "websocket.close"]
    await app.shutdown()
