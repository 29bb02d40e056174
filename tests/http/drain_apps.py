"""What the tests of draining run: handlers that wait to be released, of an App and of Starlette."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket as StarletteWebSocket
from starlette.websockets import WebSocketDisconnect

from forebay import App
from forebay.http.websocket import WebSocket, WebSocketSettings

FIRST = b"first"
REST = b"r" * 100_000
CLOSE_TIMEOUT = 0.5


def pieces_of(released: Callable[[str], asyncio.Event], what: str) -> AsyncIterator[bytes]:
    """A stream that begins, and goes on when ``what`` is released."""

    async def pieces() -> AsyncIterator[bytes]:
        yield FIRST
        await released(what).wait()
        yield REST

    return pieces()


def site() -> App:
    """The framework's."""
    made = App("site")
    events: dict[str, asyncio.Event] = {}

    def released(what: str) -> asyncio.Event:
        return events.setdefault(what, asyncio.Event())

    @made.get("/hello")
    def hello() -> str:
        return "hello"

    @made.get("/wait/{what}")
    async def wait(what: str) -> str:
        await released(what).wait()
        return "waited"

    @made.post("/body")
    async def body(content: bytes) -> str:
        return str(len(content))

    @made.get("/stream/{what}")
    def stream(what: str) -> AsyncIterator[bytes]:
        return pieces_of(released, what)

    @made.post("/release/{what}")
    async def release(what: str, content: bytes) -> str:
        released(what).set()
        return "released"

    @made.websocket("/ws", WebSocketSettings(close_timeout=CLOSE_TIMEOUT))
    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    return made


def asgi_site() -> Starlette:
    """The same for Starlette."""
    events: dict[str, asyncio.Event] = {}

    def released(what: str) -> asyncio.Event:
        return events.setdefault(what, asyncio.Event())

    async def hello(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("hello")

    async def wait(request: StarletteRequest) -> PlainTextResponse:
        await released(request.path_params["what"]).wait()
        return PlainTextResponse("waited")

    async def body(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    async def stream(request: StarletteRequest) -> StreamingResponse:
        return StreamingResponse(pieces_of(released, request.path_params["what"]))

    async def release(request: StarletteRequest) -> PlainTextResponse:
        await request.body()
        released(request.path_params["what"]).set()
        return PlainTextResponse("released")

    async def echo(ws: StarletteWebSocket) -> None:
        await ws.accept()
        try:
            while True:
                await ws.send_text(await ws.receive_text())
        except WebSocketDisconnect:
            return

    return Starlette(
        routes=[
            Route("/hello", hello),
            Route("/wait/{what}", wait),
            Route("/body", body, methods=["POST"]),
            Route("/stream/{what}", stream),
            Route("/release/{what}", release, methods=["POST"]),
            WebSocketRoute("/ws", echo),
        ]
    )


app = site()
asgi = asgi_site()
