"""Handlers that send on and on to peers that take it all, or that have gone: everybody else still has their turn."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from forebay import App, Connection, TCPServer
from forebay.http import ASGIApplication, HTTPServer, WebSocket
from forebay.wire.framing import LengthPrefixed
from tests.engine.connecting import client_context, server_tls
from tests.support import eventually, running

PIECE = b"p" * 16384
GET = b"GET /s HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

app = App()


@app.get("/s")
async def stream() -> AsyncIterator[bytes]:
    """Never waits for anything but its client."""
    while True:
        yield PIECE


@app.websocket("/ws")
async def talk(ws: WebSocket) -> None:
    """The same."""
    while True:
        await ws.send(PIECE)


async def pour(conn: Connection) -> None:
    """The same."""
    while True:
        await conn.send(PIECE)


async def hosted(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The same, in both of ASGI's ways."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "bytes": PIECE})


def read_and_leave(port: int, request: bytes, gone: threading.Event) -> None:
    """A client in a thread of its own: reads 3 MB as fast as it can, then resets the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        client = client_context().wrap_socket(plain, server_hostname="localhost")
        client.sendall(request)
        left = 3_000_000
        while left > 0:
            left -= len(client.recv(65536))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    gone.set()


@pytest.mark.both_loops
@pytest.mark.parametrize("kind", ["tcp", "framed", "stream", "websocket", "asgi", "asgi-websocket"])
async def test_a_handler_that_only_sends_leaves_others_their_turn(kind: str) -> None:
    """Over TLS, whose transport takes what is written to a connection that was reset."""
    server: Any
    if kind in ("tcp", "framed"):
        framing = LengthPrefixed() if kind == "framed" else None
        server = TCPServer(pour, bind="tls://127.0.0.1:0", tls=server_tls(), framing=framing)
    else:
        application: Any = ASGIApplication(hosted) if kind.startswith("asgi") else app
        server = HTTPServer(application, bind="https://127.0.0.1:0", tls=server_tls())
    request = b"" if kind in ("tcp", "framed") else UPGRADE if kind.endswith("websocket") else GET
    async with running(server):
        gone = threading.Event()
        client = threading.Thread(target=read_and_leave, args=(server.addresses[0].port, request, gone))
        client.start()
        longest, before = 0.0, time.monotonic()
        while not gone.is_set() or server.connections:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            longest, before = max(longest, now - before), now
        client.join()
        assert longest < 1.0
        await eventually(lambda: server.connections == 0)
