"""The websockets library's asyncio server on uvloop: ``python -m benchmarks.servers.websockets_server PORT STYLE``.

STYLE is ``echo`` or ``room``: every message goes to all who are connected, as its documentation of broadcasting has it.
It compresses for those who offer it, as it does unless told otherwise.
"""

from __future__ import annotations

import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.processes import raise_descriptor_limit

CONNECTED: set[ServerConnection] = set()


async def echo(socket: ServerConnection) -> None:
    """Every message goes back."""
    async for message in socket:
        await socket.send(message)


async def room(socket: ServerConnection) -> None:
    """Every message goes to everybody."""
    CONNECTED.add(socket)
    try:
        async for message in socket:
            broadcast(CONNECTED, message)
    finally:
        CONNECTED.discard(socket)


async def run(port: int, style: str) -> None:
    """Serve on ``port`` until the process is ended."""
    handler = {"echo": echo, "room": room}[style]
    async with serve(handler, "127.0.0.1", port, backlog=1024) as server:
        await server.wait_closed()


if __name__ == "__main__":
    raise_descriptor_limit()
    uvloop.run(run(int(sys.argv[1]), sys.argv[2]))
