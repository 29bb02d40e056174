"""A Starlette application as its users write them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

done: dict[str, str] = {}


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """What every request finds in its state."""
    yield {"greeting": "good morning"}


async def item(request: Request) -> Response:
    return JSONResponse({"id": request.path_params["id"], "q": request.query_params.get("q")})


async def form(request: Request) -> Response:
    async with request.form() as fields:
        return JSONResponse(sorted((name, str(value)) for name, value in fields.multi_items()))


async def upload(request: Request) -> Response:
    async with request.form() as fields:
        file = fields["file"]
        assert not isinstance(file, str)
        content = await file.read()
        return JSONResponse([file.filename, file.content_type, len(content), hashlib.sha256(content).hexdigest()])


async def raw(request: Request) -> Response:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return PlainTextResponse(str(size))


async def stream(request: Request) -> Response:
    async def pieces() -> AsyncIterator[str]:
        for number in range(20):
            yield f"line {number}\n" * 500
            await asyncio.sleep(0)

    return StreamingResponse(pieces(), media_type="text/plain")


def slow_stream(request: Request) -> Response:
    """Made in a thread, by a plain generator."""

    def pieces() -> Iterator[bytes]:
        for number in range(20):
            yield b"%d " % number * 1000

    return StreamingResponse(pieces(), media_type="application/octet-stream")


async def events(request: Request) -> Response:
    """Server-sent events, until nobody listens."""

    async def pieces() -> AsyncIterator[str]:
        try:
            while not await request.is_disconnected():
                yield "data: tick\n\n"
                await asyncio.sleep(0.02)
        finally:
            done[request.path_params["key"]] = "done"

    return StreamingResponse(pieces(), media_type="text/event-stream")


async def long_poll(request: Request) -> Response:
    """Answers when it is too late."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.02)
    done[request.path_params["key"]] = "done"
    return PlainTextResponse("nobody reads this")


async def state(request: Request) -> Response:
    return PlainTextResponse(request.state.greeting)


async def scope(request: Request) -> Response:
    keys = ("type", "http_version", "method", "scheme", "path", "root_path")
    shown: dict[str, Any] = {key: request.scope[key] for key in keys}
    shown["raw_path"] = request.scope["raw_path"].decode()
    shown["query_string"] = request.scope["query_string"].decode()
    shown["headers"] = [[n.decode(), v.decode("latin-1")] for n, v in request.scope["headers"] if n != b"host"]
    shown["client"] = request.scope["client"][0]
    shown["url"] = request.url.path
    return JSONResponse(shown)


async def background(request: Request) -> Response:
    key = request.path_params["key"]

    async def work() -> None:
        await asyncio.sleep(0.05)
        done[key] = "done"

    return PlainTextResponse("accepted", 202, background=BackgroundTask(work))


async def outcome(request: Request) -> Response:
    return PlainTextResponse(done.get(request.path_params["key"], "not yet"))


async def redirect(request: Request) -> Response:
    return RedirectResponse("/items/1")


async def cookies(request: Request) -> Response:
    response = PlainTextResponse(request.cookies.get("c", ""))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", httponly=True)
    return response


async def nothing(request: Request) -> Response:
    return Response(status_code=204)


async def file(request: Request) -> Response:
    return FileResponse(Path(__file__), filename="source.py")


async def error(request: Request) -> Response:
    raise LookupError("secret")


async def echo(websocket: WebSocket) -> None:
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=offered[-1] if offered else None, headers=[(b"x-from", b"app")])
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") == "close":
                await websocket.close(4002, "as you wish")
                return
            if message.get("text") == "fail":
                raise LookupError("secret")
            if message.get("text") is not None:
                await websocket.send_text(message["text"].upper())
            else:
                await websocket.send_bytes(message["bytes"][::-1])
    except WebSocketDisconnect:
        return


async def deny(websocket: WebSocket) -> None:
    await websocket.close()


async def deny_in_words(websocket: WebSocket) -> None:
    await websocket.send_denial_response(JSONResponse({"why": "no ticket"}, status_code=401))


class Timing(BaseHTTPMiddleware):
    """A middleware of the kind that wraps receive and send."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-middleware"] = "was here"
        return response


routes = [
    Route("/items/{id:int}", item),
    Route("/form", form, methods=["POST"]),
    Route("/upload", upload, methods=["POST"]),
    Route("/raw", raw, methods=["POST"]),
    Route("/stream", stream),
    Route("/slow-stream", slow_stream),
    Route("/events/{key}", events),
    Route("/long-poll/{key}", long_poll),
    Mount("/static", StaticFiles(directory=Path(__file__).parent)),
    Route("/state", state),
    Mount("/sub", routes=[Route("/scope/{rest:path}", scope)]),
    Route("/background/{key}", background, methods=["POST"]),
    Route("/background/{key}", outcome),
    Route("/redirect", redirect),
    Route("/cookies", cookies),
    Route("/nothing", nothing),
    Route("/file", file),
    Route("/error", error),
    WebSocketRoute("/ws", echo),
    WebSocketRoute("/ws/deny", deny),
    WebSocketRoute("/ws/words", deny_in_words),
]

app = Starlette(routes=routes, lifespan=lifespan)
wrapped = Starlette(
    routes=routes,
    lifespan=lifespan,
    middleware=[
        Middleware(Timing),
        Middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_methods=["*"]),
        Middleware(GZipMiddleware, minimum_size=1000),
    ],
)


def make() -> Starlette:
    """A factory."""
    return app
