"""A server that closes connections it keeps at random moments, as servers and balancers do, and counts what it did."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

__all__ = ["Stale", "stale_server"]

_RESET = struct.pack("ii", 1, 0)


class Stale:
    """What the server was asked and did.

    :param share: of the answers after which it closes the connection in some way, 0 to 1.

    ``executed`` counts how often each request, by its ``x-id``, was processed; ``ends`` how its connections ended.
    """

    def __init__(self, share: float, seed: int) -> None:
        self.share = share
        self.chance = random.Random(seed)
        self.executed: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.connections: set[_Kept] = set()
        self.accepted = 0
        self.port = 0

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.port}"


class _Kept(asyncio.Protocol):
    """One connection. Only one that has answered before ends: a new one is always good."""

    transport: asyncio.Transport

    def __init__(self, server: Stale) -> None:
        self.server = server
        self.data = b""
        self.answered = 0
        self.end = ""  # how it will end, once it is asked again

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.connections.add(self)
        self.server.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.end.startswith("asked"):  # it had decided before the request came, and does not look at it
            self._go()
            return
        self.data += data
        head, found, rest = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", b"0"))
        if len(rest) < length:
            if self.end == "half":
                self._go()
            return
        self.data = rest[length:]
        if self.end == "half":
            self._go()
            return
        name = fields[b"x-id"].decode()
        self.server.executed[name] += 1
        if self.end == "executed":  # it did it, and dies before it can tell
            self._go()
            return
        body = b"" if head.startswith(b"HEAD") else name.encode()
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), body))
        self.answered += 1
        self._decide()

    def _decide(self) -> None:
        chance = self.server.chance
        if chance.random() >= self.server.share:
            return
        self.end = chance.choice(
            ("at once", "at once, reset", "soon", "soon, reset", "asked", "asked, reset", "half", "executed")
        )
        if self.end.startswith("at once"):
            self._go()
        elif self.end.startswith("soon"):
            asyncio.get_running_loop().call_later(chance.random() * 0.003, self._go)

    def _go(self) -> None:
        if self.transport.is_closing():
            return
        self.server.ends[self.end] += 1
        if self.end.endswith("reset"):
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.close()


@asynccontextmanager
async def stale_server(*, share: float = 0.3, seed: int = 1) -> AsyncIterator[Stale]:
    """Serve on 127.0.0.1."""
    stale = Stale(share, seed)
    server = await asyncio.get_running_loop().create_server(lambda: _Kept(stale), "127.0.0.1", 0)
    stale.port = server.sockets[0].getsockname()[1]
    try:
        yield stale
    finally:
        server.close()
        for kept in list(stale.connections):
            kept.transport.abort()
        await server.wait_closed()
