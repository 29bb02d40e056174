"""What tests of datagrams share."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from forebay.engine.address import Address

ANY = "udp://127.0.0.1:0"


class Peer:
    """A UDP client that sends and receives exact datagrams; every wait has a timeout."""

    def __init__(self, address: Address, source: str | None = None) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        if source is not None:
            self.sock.bind((source, 0))
        self.sock.connect((address.host, address.port))

    @property
    def name(self) -> str:
        """``host:port``, as the server sees it."""
        host, port = self.sock.getsockname()[:2]
        return f"{host}:{port}"

    def send(self, data: bytes) -> None:
        """Send a datagram."""
        self.sock.send(data)

    def received(self) -> bytes | None:
        """A datagram that is there; None: there is none."""
        try:
            return self.sock.recv(65536)
        except BlockingIOError:
            return None

    async def receive(self, timeout: float = 5.0) -> bytes:
        """The next datagram."""
        async with asyncio.timeout(timeout):
            while (data := self.received()) is None:
                await asyncio.sleep(0.002)
            return data

    async def ask(self, data: bytes) -> bytes:
        """Send ``data``, and give what comes back."""
        self.send(data)
        return await self.receive()


@contextmanager
def peer_of(address: Address, source: str | None = None) -> Iterator[Peer]:
    """A :class:`Peer` that is closed at the end."""
    peer = Peer(address, source)
    try:
        yield peer
    finally:
        peer.sock.close()
