"""TCP echo without Forebay: ``python -m benchmarks.servers.echo PORT protocol|protocol-tuned|streams``.

``protocol`` is the least Python that echoes on uvloop, and what Forebay's event style is measured against.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from typing import cast

import uvloop

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


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The same with asyncio's streams."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve(port: int, style: str) -> None:
    """Serve on ``port`` until the process is ended."""
    if style == "streams":
        server = await asyncio.start_server(echo_stream, "127.0.0.1", port)
    else:
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[2] == "protocol-tuned":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 26)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 27)
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
