"""One application, to be served by our server and by ASGI servers: all of it must look the same to clients."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec

from forebay.errors import HTTPError
from forebay.http import (
    App,
    Broadcaster,
    FileResponse,
    Request,
    Response,
    WebSocket,
    WebSocketSettings,
)
from forebay.http.messages import Next

FILE = Path(__file__)
LARGE = Path(os.environ.get("FACE_LARGE", "/nonexistent"))
LOG = os.environ.get("FACE_LOG", "")


class Item(msgspec.Struct):
    """What is posted."""

    name: str
    price: Annotated[int, msgspec.Meta(ge=0)]


class State:
    """What happened, for tests to ask."""

    def __init__(self) -> None:
        self.started = 0
        self.waiting = 0
        self.cancelled = 0
        self.closed: list[list[Any]] = []
        self.pushed = 0


state = State()
room = Broadcaster()


def _note(line: str) -> None:
    if LOG:
        with open(LOG, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")


@asynccontextmanager
async def lifespan(app: App[Any]) -> AsyncIterator[None]:
    """Counts its starts."""
    state.started += 1
    _note("started")
    async with asyncio.TaskGroup():  # must be left in the Task that entered it
        yield
    _note("stopped")


app: App[Any] = App("face", lifespan=lifespan, body_limit=1_000_000)


@app.middleware
async def mark(request: Request, call_next: Next) -> Response:
    """Marks every answer that is not sent already."""
    response = await call_next(request)
    if response.status != 101:
        response.headers["x-mark"] = request.method
    return response


@app.get("/")
async def index() -> dict[str, str]:
    """JSON."""
    return {"hello": "world"}


@app.get("/state")
def show() -> dict[str, Any]:
    """What happened."""
    return {
        "started": state.started,
        "waiting": state.waiting,
        "cancelled": state.cancelled,
        "closed": state.closed,
        "pushed": state.pushed,
        "room": len(room),
    }


@app.get("/items/{number:int}")
def item(number: int, q: str = "", tags: list[int] | None = None) -> dict[str, Any]:
    """Path and query."""
    return {"number": number, "q": q, "tags": tags or []}


@app.post("/items")
def add(item: Item) -> Item:
    """A body."""
    return item


@app.get("/what/{rest:path}")
def what(request: Request, rest: str) -> dict[str, Any]:
    """What came."""
    return {
        "rest": rest,
        "path": request.path,
        "raw": request.raw_path.decode(),
        "query": request.query,
        "client": request.client,
        "scheme": request.scheme,
        "host": request.host,
        "header": request.headers.get("x-given", ""),
        "cookies": dict(request.cookies),
    }


@app.get("/cookies")
def cookies() -> Response:
    """Two values of one header."""
    response = Response("ok")
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


@app.get("/empty")
def empty() -> None:
    """204."""


@app.get("/move")
def move() -> Response:
    """A redirect."""
    return Response(status=307, headers={"location": "/"})


@app.get("/refuse")
def refuse() -> None:
    """An error that is meant."""
    raise HTTPError(409, "not now", headers=[("x-why", "because")])


@app.get("/fail")
async def fail() -> None:
    """One that is not."""
    raise RuntimeError("a secret")


@app.get("/stream")
async def stream(count: int = 3) -> AsyncIterator[bytes]:
    """Pieces."""
    return _pieces(count)


async def _pieces(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield b"%d\n" % number
        await asyncio.sleep(0)


@app.get("/sized")
async def sized() -> Response:
    """Pieces of a known length."""
    response = Response(_pieces(5), content_type="text/plain")
    response.headers["content-length"] = "10"
    return response


@app.get("/cut")
async def cut() -> Response:
    """Breaks off."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"part"
        await asyncio.sleep(0.05)
        raise RuntimeError("midway")

    return Response(pieces())


@app.get("/cut-sized")
async def cut_sized() -> Response:
    """Breaks off before the length it has announced."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"part"
        await asyncio.sleep(0.05)

    return Response(pieces(), headers={"content-length": "100"})


@app.get("/endless")
async def endless() -> Response:
    """Goes on until the client leaves."""

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                state.pushed += 1
                yield bytes(65536)
        finally:
            state.cancelled += 1

    return Response(pieces())


@app.get("/wait")
async def wait() -> str:
    """Never answers."""
    state.waiting += 1
    try:
        await asyncio.Event().wait()
    finally:
        state.cancelled += 1
    return ""


@app.get("/slow", timeout=0.3)
async def slow() -> str:
    """Has too little time."""
    await asyncio.Event().wait()
    return ""


@app.get("/slow-stream", timeout=0.3)
async def slow_stream() -> Response:
    """Has too little time for its second piece."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"part"
        await asyncio.Event().wait()

    return Response(pieces())


@app.post("/upload")
async def upload(request: Request) -> dict[str, Any]:
    """Counts what it is sent."""
    size = pieces = 0
    async for piece in request.stream():
        size += len(piece)
        pieces += 1
    return {"size": size}


@app.post("/echo")
async def echo(request: Request) -> Response:
    """Gives back what it is sent, while it comes."""
    return Response(request.stream(), content_type="application/octet-stream")


@app.post("/ignore")
async def ignore() -> str:
    """Does not read."""
    return "ignored"


@app.post("/half")
async def half(request: Request) -> str:
    """Waits for content that does not come to its end."""
    try:
        async for _ in request.stream():
            state.waiting += 1
    except Exception:
        state.cancelled += 1
        raise
    return "complete"


@app.get("/hints")
async def hints(request: Request) -> str:
    """Early hints, which few servers have."""
    request.early_hints("</style.css>; rel=preload")
    return "hinted"


@app.get("/file")
async def file() -> Response:
    """This file."""
    return FileResponse(FILE)


@app.get("/large")
async def large() -> Response:
    """A large file."""
    return FileResponse(LARGE)


@app.websocket("/ws/echo")
async def ws_echo(ws: WebSocket) -> None:
    """Sends back."""
    try:
        async for message in ws:
            await ws.send(message)
    finally:
        state.closed.append([ws.close_code, ws.close_reason])


@app.websocket("/ws/about/{name}")
async def ws_about(ws: WebSocket, name: str) -> None:
    """Says what it knows, and returns."""
    await ws.send(msgspec.json.encode([ws.path, ws.query, name, ws.headers.get("x-given", ""), ws.client]).decode())


@app.websocket("/ws/close/{code:int}")
async def ws_close(ws: WebSocket, code: int) -> None:
    """Closes with a code."""
    await ws.close(code, "as asked")
    state.closed.append([ws.close_code, "ours"])


@app.websocket("/ws/fail")
async def ws_fail(ws: WebSocket) -> None:
    """Fails."""
    raise RuntimeError("a secret")


@app.websocket("/ws/flood")
async def ws_flood(ws: WebSocket) -> None:
    """Sends on and on."""
    try:
        while True:
            state.pushed += 1
            await ws.send(bytes(65536))
    finally:
        state.cancelled += 1


@app.websocket("/ws/lazy")
async def ws_lazy(ws: WebSocket) -> None:
    """Does not receive, until it is gone."""
    state.waiting += 1
    try:
        await asyncio.Event().wait()
    finally:
        state.cancelled += 1


@app.websocket("/ws/sub", WebSocketSettings(subprotocols=("b", "c"), max_message=100_000))
async def ws_sub(ws: WebSocket) -> None:
    """Has subprotocols, and a limit."""
    await ws.send(ws.subprotocol or "none")
    async for message in ws:
        await ws.send(str(len(message)))
    state.closed.append([ws.close_code, ""])


@app.websocket("/ws/room")
async def ws_room(ws: WebSocket) -> None:
    """All hear what one says."""
    room.add(ws)
    async for message in ws:
        room.publish(message)


async def _theirs(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application of others, which echoes: content, and WebSocket messages."""
    if scope["type"] == "lifespan":
        return
    about = f"{scope['root_path']} {scope['path']} {scope['scheme']}"
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-about", about.encode())]})
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})
        return
    await receive()
    if scope["path"].endswith("/denied"):
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": about})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


app.mount("/theirs", _theirs)


@asynccontextmanager
async def _refusing(app: App[Any]) -> AsyncIterator[None]:
    if app.name == "broken":
        raise RuntimeError("the database is not there")
    yield


broken: App[Any] = App("broken", lifespan=_refusing)
