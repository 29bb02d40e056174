"""A Starlette application as a part of one of ours: under /old, inside its middleware."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request as TheirRequest
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket as TheirSocket
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from forebay.errors import StartError
from forebay.http import App, HTTPServer, Request, Response
from forebay.http.asgi_mount import ASGIMount
from forebay.http.messages import Next
from forebay.http.middleware.body_limit import BodyLimit
from tests.support import RawClient, eventually, raw_client, running

pytestmark = pytest.mark.asyncio


class Old:
    """The application that is mounted, and what happened in it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.pieces = 0
        self.go = asyncio.Event()
        self.app = Starlette(
            routes=[
                Route("/", self.index),
                Route("/about/{name}", self.about),
                Route("/upload", self.upload, methods=["POST"]),
                Route("/echo", self.echo, methods=["POST"]),
                Route("/stream", self.stream),
                Route("/endless", self.endless),
                Route("/cut", self.cut),
                Route("/wait", self.wait),
                Route("/fail", self.fail),
                Route("/after", self.after),
                WebSocketRoute("/ws", self.socket),
                WebSocketRoute("/denied", self.denied),
            ],
            lifespan=self.lifespan,
        )

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[dict[str, Any]]:
        self.events.append("started")
        yield {"greeting": "hello"}
        self.events.append("stopped")

    async def index(self, request: TheirRequest) -> PlainTextResponse:
        return PlainTextResponse(request.state.greeting, headers={"date": "theirs", "x-theirs": "yes"})

    async def about(self, request: TheirRequest) -> JSONResponse:
        return JSONResponse(
            [
                request.path_params["name"],
                request.scope["root_path"],
                request.scope["path"],
                request.scope["raw_path"].decode(),
                str(request.url_for("about", name="x")),
                request.client.host if request.client else None,
                sorted(request.scope["extensions"]),
            ]
        )

    async def upload(self, request: TheirRequest) -> JSONResponse:
        self.events.append("reads")
        return JSONResponse(len(await request.body()))

    async def echo(self, request: TheirRequest) -> StreamingResponse:
        return StreamingResponse(request.stream())

    async def stream(self, request: TheirRequest) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            for number in range(100):
                yield f"{number}\n"

        return StreamingResponse(pieces(), headers={"x-theirs": "stream"})

    async def endless(self, request: TheirRequest) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    self.pieces += 1
                    yield bytes(65536)
            finally:
                self.events.append("endless ended")

        return StreamingResponse(pieces())

    async def cut(self, request: TheirRequest) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield "part"
            await self.go.wait()
            raise RuntimeError("midway")

        return StreamingResponse(pieces())

    async def wait(self, request: TheirRequest) -> PlainTextResponse:
        self.events.append("waits")
        while not await request.is_disconnected():
            await asyncio.sleep(0)
        self.events.append("knows")
        return PlainTextResponse("too late")

    async def fail(self, request: TheirRequest) -> PlainTextResponse:
        raise RuntimeError("a secret")

    async def after(self, request: TheirRequest) -> PlainTextResponse:
        async def work() -> None:
            await self.go.wait()
            self.events.append("worked")

        return PlainTextResponse("at once", background=BackgroundTask(work))

    async def socket(self, ws: TheirSocket) -> None:
        await ws.accept()
        await ws.send_json([ws.scope["root_path"], ws.scope["path"], ws.scope["scheme"]])
        try:
            while True:
                await ws.send_text(await ws.receive_text())
        except WebSocketDisconnect as error:
            self.events.append(f"left {error.code}")

    async def denied(self, ws: TheirSocket) -> None:
        await ws.send_denial_response(PlainTextResponse("not you", status_code=418))


@pytest.fixture
async def old() -> Old:
    """The application that is mounted."""
    return Old()


class Seen:
    """What the middleware of the application around it saw: status, and content where there is a whole one."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes | None]] = []
        self.replace = False

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """A middleware."""
        if request.headers.get("x-first") == "read":
            await request.body()
        response = await call_next(request)
        self.answers.append((response.status, None if response.stream is not None else response.body))
        if self.replace:
            return Response("another")
        if response.status != 101:
            response.headers["x-mark"] = "ours"
        return response


@pytest.fixture
async def seen() -> Seen:
    """The middleware around it."""
    return Seen()


@pytest.fixture
async def port(old: Old, seen: Seen) -> AsyncIterator[int]:
    """Where both are served."""
    app: App[Any] = App("around", middleware=[seen], body_limit=1_000_000)
    app.mount("/old", ASGIMount(old.app, name="old"))
    app.get("/new")(lambda: "new")
    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        yield server.addresses[0].port


async def ask(port: int, path: str, body: bytes | None = None, *lines: str) -> tuple[int, dict[str, str], bytes]:
    """One request."""
    async with raw_client(port) as client:
        method = "GET" if body is None else "POST"
        length = [] if body is None else [f"Content-Length: {len(body)}"]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *length, *lines, "", ""])
        await client.send(head.encode() + (body or b""))
        return await client.response()


async def test_whole_answers(port: int, old: Old, seen: Seen) -> None:
    """An answer of one message is whole to the middleware; date is the server's; the lifespan's state is there."""
    status, headers, content = await ask(port, "/old/")
    assert (status, content, headers["x-theirs"], headers["x-mark"]) == (200, b"hello", "yes", "ours")
    assert headers["content-length"] == "5"
    assert headers["date"].endswith("GMT")
    assert seen.answers == [(200, b"hello")]
    assert (await ask(port, "/new"))[2] == b"new"


async def test_scope(port: int) -> None:
    """The application knows where it is mounted, and makes links that lead to it."""
    _, _, content = await ask(port, "/old/about/a%20b")
    assert json.loads(content) == [
        "a b",
        "/old",
        "/old/about/a b",
        "/old/about/a%20b",
        "http://test/old/about/x",
        "127.0.0.1",
        ["http.response.early_hint"],
    ]


async def test_statuses(port: int, seen: Seen) -> None:
    """Its own 404 and 405, and a 500 for what it raises, marked as all."""
    for path, body, status in ("/old/nothing", None, 404), ("/old/stream", b"", 405), ("/old/fail", None, 500):
        found, headers, content = await ask(port, path, body)
        assert (found, headers["x-mark"]) == (status, "ours")
        assert b"secret" not in content


async def test_head(port: int) -> None:
    """HEAD has the length of what GET has."""
    async with raw_client(port) as client:
        for path, length in ("/old/", "5"), ("/old/stream", None):
            await client.send(f"HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            status, headers, _ = await client.response(head_only=True)
            assert (status, headers.get("content-length")) == (200, length)
        assert (await client.get("/old/"))[2] == b"hello"


async def test_content(port: int) -> None:
    """Content reaches it, whole and in pieces, also what a middleware has read before."""
    assert (await ask(port, "/old/upload", bytes(900_000)))[2] == b"900000"
    assert (await ask(port, "/old/upload", b"abc", "X-First: read"))[2] == b"3"
    assert (await ask(port, "/old/echo", b"ab" * 200_000))[2] == b"ab" * 200_000
    assert (await ask(port, "/old/", b"not read"))[0] == 405


async def test_streams(port: int, seen: Seen) -> None:
    """An answer of several messages is a stream to the middleware."""
    status, headers, content = await ask(port, "/old/stream")
    assert (status, headers["x-theirs"], headers["x-mark"]) == (200, "stream", "ours")
    assert content == b"".join(b"%d\n" % number for number in range(100))
    assert seen.answers == [(200, None)]


async def test_cut(port: int, old: Old) -> None:
    """A stream that fails is cut."""
    async with raw_client(port) as client:
        await client.send(b"GET /old/cut HTTP/1.1\r\nHost: test\r\n\r\n")
        assert await client.line() == b"HTTP/1.1 200 OK\r\n"
        old.go.set()
        answer = await client.rest()
    assert b"part" in answer
    assert not answer.endswith(b"0\r\n\r\n")


async def test_slow_clients(port: int, old: Old) -> None:
    """The application waits for a client that does not read, and is told when it leaves."""
    client = await RawClient.connect(port)
    await client.send(b"GET /old/endless HTTP/1.1\r\nHost: test\r\n\r\n")
    await eventually(lambda: old.pieces > 3)
    before = -1
    while old.pieces != before:
        before = old.pieces
        await asyncio.sleep(0.2)
    assert before < 400  # of 64 KiB; what kernels keep
    await client.exactly(400 * 65536, 20)
    assert old.pieces > before
    client.abort()
    await eventually(lambda: "endless ended" in old.events)


async def test_clients_that_leave(port: int, old: Old) -> None:
    """An application that has not answered is told that its client is gone, and is not cancelled."""
    client = await RawClient.connect(port)
    await client.send(b"GET /old/wait HTTP/1.1\r\nHost: test\r\n\r\n")
    await eventually(lambda: "waits" in old.events)
    client.abort()
    await eventually(lambda: "knows" in old.events)


async def test_middleware_that_answers_instead(port: int, old: Old, seen: Seen) -> None:
    """A stream that a middleware throws away is ended."""
    seen.replace = True
    assert (await ask(port, "/old/endless"))[2] == b"another"
    await eventually(lambda: "endless ended" in old.events)


async def test_errors_of_the_content(old: Old) -> None:
    """What middleware makes of the content is an answer, not the application's."""

    app: App[Any] = App("around", middleware=[BodyLimit(100)])
    app.mount("/old", ASGIMount(old.app))
    server = HTTPServer(app, bind="http://127.0.0.1:0")
    async with running(server), raw_client(server.addresses[0].port) as client:
        await client.send(b"POST /old/upload HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await eventually(lambda: "reads" in old.events)
        await client.send(b"80\r\n%b\r\n0\r\n\r\n" % bytes(128))
        assert (await client.response())[0] == 413


async def test_background_tasks(port: int, old: Old) -> None:
    """What an application does after its answer goes on."""
    assert (await ask(port, "/old/after"))[2] == b"at once"
    old.go.set()
    await eventually(lambda: "worked" in old.events)


async def test_lifespan(old: Old) -> None:
    """It starts and ends with the application around it; background work that is left then is cancelled."""
    app: App[Any] = App("around")
    app.mount("/old", old.app)
    async with running(HTTPServer(app, bind="http://127.0.0.1:0")) as server:
        assert old.events == ["started"]
        assert (await ask(server.addresses[0].port, "/old/after"))[2] == b"at once"
    assert old.events == ["started", "stopped"]


async def test_failed_startup() -> None:
    """An application that cannot start keeps the one around it from starting."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if app.debug:
            raise RuntimeError("no database")
        yield

    app: App[Any] = App("around")
    app.mount("/old", ASGIMount(Starlette(debug=True, lifespan=lifespan), name="old"))
    with pytest.raises(StartError, match="no database"):
        await HTTPServer(app, bind="http://127.0.0.1:0").start()


async def test_websocket(port: int, old: Old, seen: Seen) -> None:
    """A WebSocket of the mounted application."""
    async with connect(f"ws://127.0.0.1:{port}/old/ws") as ws:
        assert json.loads(await ws.recv()) == ["/old", "/old/ws", "ws"]
        await ws.send("again")
        assert await ws.recv() == "again"
        await ws.close(4000)
    await eventually(lambda: "left 4000" in old.events)
    assert seen.answers == [(101, b"")]


async def test_websocket_denial(port: int, seen: Seen) -> None:
    """One that it denies, in its own words, or by 403 where there is no route; middleware sees the status."""
    with pytest.raises(InvalidStatus) as denied:
        await connect(f"ws://127.0.0.1:{port}/old/denied").__aenter__()
    assert (denied.value.response.status_code, denied.value.response.body) == (418, b"not you")
    with pytest.raises(InvalidStatus) as denied:
        await connect(f"ws://127.0.0.1:{port}/old/nothing").__aenter__()
    assert denied.value.response.status_code == 403
    assert [status for status, _ in seen.answers] == [418, 403]


async def test_websocket_at_shutdown(old: Old) -> None:
    """WebSockets are closed when the server drains."""
    app: App[Any] = App("around")
    app.mount("/old", old.app)
    server = HTTPServer(app, bind="http://127.0.0.1:0")
    async with running(server), connect(f"ws://127.0.0.1:{server.addresses[0].port}/old/ws") as ws:
        await ws.recv()
        draining = asyncio.create_task(server.drain())
        with pytest.raises(ConnectionClosed) as closed:
            await ws.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        await draining


@pytest.mark.parametrize("argument", [{"lifespan": "maybe"}])
async def test_wrong_arguments(argument: dict[str, Any]) -> None:
    """Arguments that make no sense are refused."""
    with pytest.raises(ValueError, match="lifespan 'maybe'"):
        ASGIMount(Starlette(), **argument)
