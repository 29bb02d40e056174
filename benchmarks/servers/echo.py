"""TCP echo without Forebay: ``python -m benchmarks.servers.echo PORT STYLE``.

``protocol`` is the least Python that echoes on uvloop, and what Forebay's event style is measured against. The other
styles: ``protocol-tuned``, ``protocol-lines``, ``streams``, ``readline``.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from typing import cast

import uvloop

from benchmarks.processes import raise_descriptor_limit

BACKLOG = 1024  # as Forebay's
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


class Echo(asyncio.Protocol):
    """Every chunk goes back as it came."""

    __slots__ = ("transport",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)


class EchoLines(asyncio.Protocol):
    """Every line goes back on its own, as an application that looks at each of them would send it."""

    __slots__ = ("rest", "transport")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        """Cut it into lines."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.transport.write(line + b"\n")


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The same with asyncio's streams."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def echo_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Line by line with asyncio's streams."""
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def serve(port: int, style: str) -> None:
    """Serve on ``port`` until the process is ended."""
    loop = asyncio.get_running_loop()
    match style:
        case "streams":
            server = await asyncio.start_server(echo_stream, "127.0.0.1", port, backlog=BACKLOG)
        case "readline":
            server = await asyncio.start_server(echo_lines, "127.0.0.1", port, backlog=BACKLOG)
        case "protocol-lines":
            server = await loop.create_server(EchoLines, "127.0.0.1", port, backlog=BACKLOG)
        case "protocol" | "protocol-tuned":
            server = await loop.create_server(Echo, "127.0.0.1", port, backlog=BACKLOG)
        case _:
            sys.exit(f"unknown style {style!r}")
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    raise_descriptor_limit()
    if sys.argv[2] == "protocol-tuned":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 26)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 27)
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
