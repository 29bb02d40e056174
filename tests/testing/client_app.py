"""An application for the tests of the test client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from forebay.http import App, Request, Response, WebSocket


class Events:
    """What handlers say of themselves."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.received = 0
        self.go = asyncio.Event()


def make_app(events: Events | None = None) -> App[Any]:
    """Routes of every kind that a client meets."""
    app: App[Any] = App("tested", body_limit=4 * 1024 * 1024)
    seen = events or SimpleNamespace()

    @app.get("/users/{number:int}")
    def user(number: int, a: list[int] | None = None) -> dict[str, Any]:
        return {"id": number, "a": a}

    async def mirror(request: Request) -> Response:
        content = await request.body()
        told = {
            "method": request.method,
            "path": request.raw_path.decode(),
            "query": request.query,
            "host": request.host,
            "scheme": request.scheme,
            "client": request.client,
            "headers": {name: request.headers.get_all(name) for name in request.headers},
            "content": content.decode("latin-1"),
        }
        return Response(told)

    async def mirror_below(request: Request, rest: str) -> Response:
        return await mirror(request)

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        app.route("/mirror", (method,))(mirror)
        app.route("/mirror/{rest:path}", (method,))(mirror_below)

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(request.stream(), content_type="application/octet-stream")

    @app.post("/slow-reader")
    async def slow_reader(request: Request) -> dict[str, int]:
        seen.began.set()
        await seen.go.wait()
        async for piece in request.stream():
            seen.received += len(piece)
        return {"received": seen.received}

    @app.get("/never")
    async def never() -> str:
        seen.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.cancelled.set()
            raise
        return ""

    @app.get("/stream")
    async def stream(count: int, size: int = 1) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(count):
                yield bytes([number % 256]) * size

        return Response(pieces())

    @app.get("/endless")
    async def endless() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.cancelled.set()
                raise

        return Response(pieces())

    @app.get("/hints")
    async def hints(request: Request) -> str:
        request.early_hints("</style.css>; rel=preload")
        return "done"

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        async for message in socket:
            await socket.send(message)

    return app
