"""A server whose readers may be slow, in its own process.

``python -m tests.engine.publisher POLICY LIMIT TIMEOUT BATCH`` prints its port. A client that sends ``subscribe`` is
sent ``BATCH`` messages of 16 KiB every 10 ms, under ``wait`` only as fast as it takes them; ``measure`` is answered
with what the server has measured, in JSON; all else comes back.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from forebay.engine import Connection, ConnectionHandler, Outbound, TCPServer, run, tune_allocator
from forebay.engine.tasks import Tasks
from forebay.errors import ConnectionClosed
from forebay.wire.framing import Lines

MESSAGE = "x" * (16 * 1024 - 1)


def resident() -> int:
    """Bytes of memory this process has right now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Publishing(ConnectionHandler):
    """One client."""

    tasks: Tasks
    most: dict[str, int]
    waits: bool
    batch: int
    server: TCPServer

    def __init__(self) -> None:
        self.subscribed = False

    def on_message(self, conn: Connection, data: Any) -> None:
        """Do what is asked."""
        if data == "subscribe":
            self.subscribed = True
            if self.waits:
                self.tasks.spawn(self.publish(conn), name="publish")
        elif data == "measure":
            sizes = dict(self.most, rss_now=resident(), **self.server.statistics())
            self.most.update(buffered=0, rss=0)
            conn.write(json.dumps(sizes))
        else:
            conn.write(data)

    async def publish(self, conn: Connection) -> None:
        """Send, but not faster than it is taken."""
        try:
            while True:
                for _ in range(self.batch):
                    await conn.send(MESSAGE)
                await asyncio.sleep(0.01)
        except ConnectionClosed:
            return

    def on_tick(self, conn: Connection) -> None:
        """Write, whether it is taken or not."""
        if self.subscribed:
            if not self.waits:
                for _ in range(self.batch):
                    conn.write(MESSAGE)
            self.most["buffered"] = max(self.most["buffered"], conn.buffer_size())
            self.most["rss"] = max(self.most["rss"], resident())


async def main() -> None:
    """Serve until the parent closes our input."""
    policy, limit, timeout = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    tune_allocator()
    Publishing.tasks = Tasks()
    Publishing.most = {"buffered": 0, "rss": 0}
    Publishing.batch = int(sys.argv[4])
    Publishing.waits = policy == "wait"
    outbound = Outbound(policy=policy, limit=limit, timeout=timeout)
    server = TCPServer(Publishing, bind="tcp://127.0.0.1:0", framing=Lines(), outbound=outbound, tick=0.01)
    Publishing.server = server
    await server.start()
    print(server.addresses[0].port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop()
    await Publishing.tasks.cancel()


if __name__ == "__main__":
    run(main())
