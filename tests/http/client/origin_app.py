"""What other servers serve to the client under test: an ASGI application. FOREBAY_ORIGIN is the folder of its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

FOLDER = Path(os.environ.get("FOREBAY_ORIGIN", "."))


async def port(request: Request) -> Response:
    """From which port the client has connected."""
    client = request.client
    return PlainTextResponse(str(client.port if client else 0))


async def sha(request: Request) -> Response:
    """What the content is."""
    digest = hashlib.sha256()
    size = 0
    async for piece in request.stream():
        digest.update(piece)
        size += len(piece)
    return JSONResponse({"size": size, "sha256": digest.hexdigest()})


async def echo(request: Request) -> Response:
    """The content, in pieces, once all of it is there: not everybody passes on both ways at once."""
    content = await request.body()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 10_000):
            yield content[start : start + 10_000]

    return StreamingResponse(pieces(), media_type="application/octet-stream")


async def chunks(request: Request) -> Response:
    """A hundred pieces."""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%05d" % number * 200

    return StreamingResponse(pieces(), media_type="application/octet-stream")


app = Starlette(
    routes=[
        Route("/port", port),
        Route("/sha", sha, methods=["POST", "PUT"]),
        Route("/echo", echo, methods=["POST"]),
        Route("/chunks", chunks),
        Mount("/files", StaticFiles(directory=FOLDER)),
    ]
)
