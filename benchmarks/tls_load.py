"""Clients that connect over TLS, have one message echoed and leave: those of :mod:`benchmarks.tls_churn`.

``python -m benchmarks.tls_load PORT CA``, with one order on standard input (see :mod:`benchmarks.orders`): ``round
COUNT``. Every handshake is a full one. Half of the clients say goodbye (close_notify, RFC 8446 section 6.1), the others
just go.
"""

from __future__ import annotations

import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from benchmarks.echo_load import receive_exactly
from benchmarks.orders import obey, tell_progress

THREADS = 8
TIMEOUT = 20.0  # seconds, for each step of a client
MESSAGE = b"x" * 63 + b"\n"


class Churn:
    """The clients of one server."""

    def __init__(self, port: int, ca: str) -> None:
        self.port = port
        self.context = ssl.create_default_context(cafile=ca)

    def round(self, count: float) -> dict[str, Any]:
        """So many clients come and go, :data:`THREADS` at once. Its answer counts those that failed, and says why."""
        failures = []
        with ThreadPoolExecutor(THREADS) as pool:
            clients = [pool.submit(self.visit, number) for number in range(int(count))]
            for done, client in enumerate(as_completed(clients), 1):
                error = client.exception()
                if error is not None:
                    failures.append(f"{type(error).__name__}: {error}")
                if done % 100 == 0:
                    tell_progress(done / count)
        return {"failed": len(failures), "first": failures[0] if failures else ""}

    def visit(self, number: int) -> None:
        """One client."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT) as raw,
            self.context.wrap_socket(raw, server_hostname="localhost") as sock,
        ):
            sock.sendall(MESSAGE)
            if receive_exactly(sock, len(MESSAGE)) != MESSAGE:
                raise ConnectionError("the echo was wrong")
            if number % 2:
                sock.unwrap()


if __name__ == "__main__":
    churn = Churn(int(sys.argv[1]), sys.argv[2])
    obey({"round": churn.round})
