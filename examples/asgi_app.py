"""An ASGI application without any framework, and what it may rely on. Run it, and try it::

    forebay run examples.asgi_app:app
    curl http://127.0.0.1:8000/
    curl -N http://127.0.0.1:8000/ticks                           # until Ctrl-C
    curl -T README.md http://127.0.0.1:8000/size

Starlette, FastAPI and Django applications are run the same way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

TICK = 1.0  # seconds


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Called once for the lifespan, and once for each request and WebSocket."""
    if scope["type"] == "lifespan":
        await lifespan(scope["state"], receive, send)
    elif scope["type"] == "websocket":
        await echo(receive, send)
    elif scope["path"] == "/":
        since = time.monotonic() - scope["state"]["started"]
        await answer(send, 200, f"up for {since:.0f} s\n")
    elif scope["path"] == "/ticks":
        await ticks(send)
    elif scope["path"] == "/size":
        await size(receive, send)
    else:
        await answer(send, 404, "there is nothing at this path\n")


async def lifespan(state: dict[str, Any], receive: Receive, send: Send) -> None:
    """What is put into ``state`` before it serves, each scope has."""
    await receive()
    state["started"] = time.monotonic()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def answer(send: Send, status: int, text: str) -> None:
    """Answer at once."""
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


async def ticks(send: Send) -> None:
    """A stream without an end: ``send`` waits while the client is slow, and raises an OSError when it has gone."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    while True:
        await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
        await asyncio.sleep(TICK)


async def size(receive: Receive, send: Send) -> None:
    """The content comes as fast as it is taken, and is never in memory as a whole."""
    total, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        total += len(message["body"])
        more = message["more_body"]
    await answer(send, 200, f"{total} bytes\n")


async def echo(receive: Receive, send: Send) -> None:
    """A WebSocket that sends everything back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})
