"""Very many connections that have said one thing each: the client of :mod:`benchmarks.idle_http`.

``python -m benchmarks.idle_http_load PORT KIND``, with orders on standard input (see :mod:`benchmarks.orders`):

* ``open COUNT``: have so many connections open, each of which has had one message or request answered;
* ``again 0``: one more on each of them; answers how many did not get theirs.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from benchmarks.echo_load import TIMEOUT, Greet, LoadError, echoes, open_connections
from benchmarks.load import HEADERS
from benchmarks.orders import obey, tell_progress
from benchmarks.processes import raise_descriptor_limit
from benchmarks.websocket_client import BINARY, DEFLATE, client_frame, handshake, receive_frame

MESSAGE = b"x" * 63 + b"\n"
REQUEST = "\r\n".join(["GET / HTTP/1.1", "Host: 127.0.0.1", *HEADERS, "", ""]).encode()
FRAME = client_frame(MESSAGE, BINARY)


def ask_http(sock: socket.socket) -> None:
    """A request, and the whole of its answer, after which the connection stays open."""
    sock.sendall(REQUEST)
    answer = bytearray()
    while b"\r\n\r\n" not in answer:
        _receive(sock, answer)
    head, _, content = bytes(answer).partition(b"\r\n\r\n")
    status, *lines = head.lower().split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines)
    if status.split(b" ")[1] != b"200" or b"content-length" not in fields or fields.get(b"connection") == b"close":
        raise LoadError(f"the answer is {head[:200]!r}")
    length = int(fields[b"content-length"])
    received = bytearray(content)
    while len(received) < length:
        _receive(sock, received)


def _receive(sock: socket.socket, into: bytearray) -> None:
    data = sock.recv(65536)
    if not data:
        raise LoadError("the connection ended")
    into += data


def ask_websocket(sock: socket.socket) -> None:
    """A message, and its echo."""
    sock.sendall(FRAME)
    receive_frame(sock)


def greet_websocket(sock: socket.socket) -> None:
    """The first message of a WebSocket."""
    handshake(sock)
    ask_websocket(sock)


def greet_deflate(sock: socket.socket) -> None:
    """The same where messages may be compressed."""
    if not handshake(sock, DEFLATE)[0]:
        raise LoadError(f"the server does not agree to {DEFLATE}")
    ask_websocket(sock)


KINDS: dict[str, tuple[Greet, Greet]] = {
    "tcp": (echoes(MESSAGE), echoes(MESSAGE)),
    "http": (ask_http, ask_http),
    "websocket": (greet_websocket, ask_websocket),
    "deflate": (greet_deflate, ask_websocket),
}
"""What is said first, and what is said again."""


class Crowd:
    """The connections."""

    def __init__(self, port: int, kind: str) -> None:
        self.port = port
        self.greet, self.ask = KINDS[kind]
        self.sockets: list[socket.socket] = []

    def open(self, count: float) -> dict[str, Any]:
        """See the module."""
        while (missing := int(count) - len(self.sockets)) > 0:
            self.sockets += open_connections(self.port, min(missing, 500), self.greet)
            tell_progress(len(self.sockets) / count)
        return {"open": len(self.sockets)}

    def again(self, _: float) -> dict[str, Any]:
        """See the module."""
        lost = 0
        for sock in self.sockets:
            sock.settimeout(TIMEOUT)
            try:
                self.ask(sock)
            except (OSError, LoadError):
                lost += 1
        return {"lost": lost}


if __name__ == "__main__":
    raise_descriptor_limit()
    crowd = Crowd(int(sys.argv[1]), sys.argv[2])
    try:
        obey({"open": crowd.open, "again": crowd.again})
    except LoadError as error:
        sys.exit(str(error))
