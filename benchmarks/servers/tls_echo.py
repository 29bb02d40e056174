"""Forebay's TLS echo, in one process: ``python -m benchmarks.servers.tls_echo PORT CERTIFICATE KEY``.

``FOREBAY_LOOP=asyncio`` in the environment makes it run on the standard library's loop.
"""

from __future__ import annotations

import asyncio
import sys

from forebay import Connection, ConnectionHandler, TCPServer
from forebay.engine import run, serve_until_signalled, tune_allocator
from forebay.engine.certificates import Certificate
from forebay.engine.tls_settings import TLS


class Echo(ConnectionHandler):
    """Every chunk goes back as it came."""

    __slots__ = ()

    def on_message(self, conn: Connection, data: bytes) -> None:
        """Send it back."""
        conn.write(data)


async def serve(port: int, certificate: str, key: str) -> int:
    """Serve until a signal ends it."""
    print("loop", type(asyncio.get_running_loop()).__module__, flush=True)
    tls = TLS(certificates=Certificate(certificate, key))
    return await serve_until_signalled(TCPServer(Echo, bind=f"tls://127.0.0.1:{port}", name="tls", tls=tls))


if __name__ == "__main__":
    tune_allocator()  # as workers do
    sys.exit(run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3])))
