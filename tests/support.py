"""What tests of several packages share."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from forebay.service import Service


async def eventually(predicate: Callable[[], Any], timeout: float = 5.0) -> Any:
    """Return the predicate's value as soon as it is true; fail when it is not within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {predicate}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Any]:
    """Start a service, stop it at the end."""
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


class RawClient:
    """A TCP client that sends exact bytes and reads exact answers; every wait has a timeout."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, host: str = "127.0.0.1") -> RawClient:
        """Connect."""
        async with asyncio.timeout(5):  # wait_for of Python 3.11 may lose a cancellation
            return cls(*await asyncio.open_connection(host, port, limit=1 << 20))

    async def send(self, data: bytes) -> None:
        """Send ``data`` and wait until it is on its way."""
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), 10)

    def send_eof(self) -> None:
        """Half-close: nothing more will be sent."""
        self.writer.write_eof()

    async def line(self, timeout: float = 5.0) -> bytes:
        """One line; empty at the end of the connection."""
        return await asyncio.wait_for(self.reader.readline(), timeout)

    async def exactly(self, count: int, timeout: float = 5.0) -> bytes:
        """Exactly ``count`` bytes."""
        return await asyncio.wait_for(self.reader.readexactly(count), timeout)

    async def rest(self, timeout: float = 5.0) -> bytes:
        """Everything up to the end of the connection, a reset included."""
        parts = []
        async with asyncio.timeout(timeout):
            while True:
                try:
                    part = await self.reader.read(65536)
                except ConnectionError:
                    break
                if not part:
                    break
                parts.append(part)
        return b"".join(parts)

    async def response(self, *, head_only: bool = False, timeout: float = 5.0) -> tuple[int, dict[str, str], bytes]:
        """One HTTP response: its status, its headers (names in lower case) and its content."""
        async with asyncio.timeout(timeout):
            status_line = await self.reader.readline()
            assert status_line, "the connection ended before a response"
            status = int(status_line.split()[1])
            headers: dict[str, str] = {}
            while (line := await self.reader.readline()) not in (b"\r\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            body = b""
            if head_only or status in (204, 304) or status < 200:
                pass
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                while size := int((await self.reader.readline()).split(b";")[0], 16):
                    body += await self.reader.readexactly(size)
                    assert await self.reader.readline() == b"\r\n"
                assert await self.reader.readline() == b"\r\n"
            else:
                body = await self.reader.read()
        return status, headers, body

    async def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """GET ``path`` and read the answer."""
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        await self.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n{extra}\r\n".encode())
        return await self.response()

    def abort(self) -> None:
        """Reset the connection."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close."""
        self.writer.close()
        try:
            await asyncio.wait_for(self.writer.wait_closed(), 5)
        except ConnectionError:
            return


@asynccontextmanager
async def raw_client(port: int) -> AsyncIterator[RawClient]:
    """A :class:`RawClient` that is closed at the end."""
    client = await RawClient.connect(port)
    try:
        yield client
    finally:
        await client.close()
