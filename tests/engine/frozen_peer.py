"""A program that holds connections and answers their pings, to be frozen by a test: ``frozen_peer.py PORT COUNT [CA]``.

It prints ``ready`` once all connections were made, and each has had its first message back.
"""

from __future__ import annotations

import asyncio
import ssl
import sys


async def hold(port: int, context: ssl.SSLContext | None) -> asyncio.Task[None]:
    """Connect, say hello, and answer from then on."""
    name = "localhost" if context is not None else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    writer.write(b"hello\n")
    while await reader.readline() != b"hello\n":
        writer.write(b"pong\n")

    async def answer() -> None:
        while await reader.readline():
            writer.write(b"pong\n")
        writer.close()

    return asyncio.create_task(answer())


async def main() -> None:
    """Hold as many as were asked for."""
    context = ssl.create_default_context(cafile=sys.argv[3]) if len(sys.argv) > 3 else None
    tasks = [await hold(int(sys.argv[1]), context) for _ in range(int(sys.argv[2]))]
    print("ready", flush=True)
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
