"""What the tests of WebSockets share: a server for a handler, a handler that notes what it is told, raw clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from forebay.engine.tasks import Tasks
from forebay.http import Exchange, HTTPServer
from forebay.http.websocket import WebSocket, WebSocketHandler, WebSocketSettings, accept, upgrade_refusal
from forebay.wire.websocket import Opcode
from tests.engine.connecting import client_of
from tests.support import RawClient

MASK = b"\x01\x02\x03\x04"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3
DEFLATE = "permessage-deflate; client_max_window_bits"


class Recorder(WebSocketHandler):
    """Notes all calls; what it does on a message can be given. By default it sends it back."""

    def __init__(self, on_message: Callable[[WebSocket, str | bytes], None] | None = None) -> None:
        self.sockets: list[WebSocket] = []
        self.messages: list[str | bytes] = []
        self.pongs: list[bytes] = []
        self.closes: list[tuple[int, str]] = []
        self.writable = 0
        self._message = on_message or (lambda ws, message: ws.write(message))

    def on_open(self, ws: WebSocket) -> None:
        self.sockets.append(ws)

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        self.messages.append(message)
        self._message(ws, message)

    def on_pong(self, ws: WebSocket, payload: bytes) -> None:
        self.pongs.append(payload)

    def on_writable(self, ws: WebSocket) -> None:
        self.writable += 1

    def on_close(self, ws: WebSocket, code: int, reason: str) -> None:
        assert (code, reason) == (ws.close_code, ws.close_reason)
        self.closes.append((code, reason))


class Site:
    """An application that is one WebSocket, whatever the path."""

    name = "site"
    body_limit: int | None = None

    def __init__(self, handler: Any, settings: WebSocketSettings) -> None:
        self.handler = handler
        self.settings = settings
        self.tasks = Tasks()
        self.sockets: list[WebSocket] = []

    def on_request(self, exchange: Exchange) -> None:
        """Refuse or accept the handshake."""
        refusal = upgrade_refusal(exchange, self.settings)
        if refusal is not None:
            exchange.respond(*refusal)
        else:
            self.sockets.append(accept(exchange, self.handler, self.settings, tasks=self.tasks))

    async def shutdown(self) -> None:
        """End the handlers."""
        await self.tasks.cancel()


@asynccontextmanager
async def serving(handler: Any, **settings: Any) -> AsyncIterator[tuple[HTTPServer, Site, int]]:
    """A server whose requests all become WebSockets of ``handler``, its site and its port."""
    site = Site(handler, WebSocketSettings(**settings))
    server = HTTPServer(site, bind="http://127.0.0.1:0")
    await server.start()
    try:
        yield server, site, server.addresses[0].port
    finally:
        await server.stop()


def request(*, path: str = "/", leave_out: str = "", **fields: str) -> bytes:
    """A handshake; fields replace those there are, ``_`` stands for ``-``."""
    headers = {
        "host": "test",
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": KEY,
    }
    headers.update({name.replace("_", "-"): value for name, value in fields.items()})
    headers.pop(leave_out, None)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()


async def shake(client: RawClient, **fields: Any) -> dict[str, str]:
    """Do the handshake, and return the headers of the answer."""
    await client.send(request(**fields))
    status, headers, body = await client.response()
    assert status == 101, (status, body)
    return headers


@asynccontextmanager
async def websocket(port: int, **fields: Any) -> AsyncIterator[RawClient]:
    """A raw client after its handshake."""
    async with client_of(port) as client:
        await shake(client, **fields)
        yield client


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """A client's frame, right or wrong."""
    head = bytes(((0x80 if fin else 0) | (0x40 if rsv1 else 0) | opcode,))
    size = len(payload)
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 65536:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    mask = (MASK * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    return head + MASK + masked.to_bytes(size, "big")


def closing(code: int, reason: str = "") -> bytes:
    """The payload of a close frame."""
    return code.to_bytes(2, "big") + reason.encode()


async def read_frame(client: RawClient, timeout: float = 5.0) -> tuple[int, bytes]:
    """One frame of a server's: its first byte without FIN, and its payload."""
    first, length = await client.exactly(2, timeout)
    assert first & 0x80, "a server's frame is never fragmented"
    if length == 126:
        length = int.from_bytes(await client.exactly(2), "big")
    elif length == 127:
        length = int.from_bytes(await client.exactly(8), "big")
    return first & 0x7F, await client.exactly(length) if length else b""


async def read_close(client: RawClient, timeout: float = 5.0) -> tuple[int, str]:
    """A close frame, and nothing else, as code and reason; then the end."""
    opcode, payload = await read_frame(client, timeout)
    assert opcode == Opcode.CLOSE, (opcode, payload)
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


__all__ = [
    "DEFLATE",
    "KEY",
    "MASK",
    "Opcode",
    "Recorder",
    "Site",
    "closing",
    "frame",
    "read_close",
    "read_frame",
    "request",
    "serving",
    "shake",
    "websocket",
]
