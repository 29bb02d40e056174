"""Very many connections that do very little: the client of :mod:`benchmarks.idle`.

``python -m benchmarks.idle_load PORT``, with orders on standard input (see :mod:`benchmarks.orders`):

* ``open COUNT``: have so many connections open, each of which has had one message echoed;
* ``load SECONDS``: each heartbeats every 30 s and sends a message of 64 bytes every 10 s, spread evenly over the time;
* ``rest SECONDS``: send nothing but the answers to the server's pings.
"""

from __future__ import annotations

import select
import sys
from array import array
from time import monotonic
from typing import Any

from benchmarks.echo_load import LoadError, echoes, open_connections
from benchmarks.orders import obey, tell_progress
from benchmarks.processes import raise_descriptor_limit

MESSAGE_BYTES = 64
MESSAGE_EVERY = 10.0  # seconds, on each connection
BEAT_EVERY = 30.0
BEAT = b"beat\n"
PING, PONG = b"ping\n", b"pong\n"
LAST_WORDS = 5.0  # seconds for the last echoes


class Crowd:
    """The connections, and what has become of them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sockets: list[Any] = []  # by number; None: dropped
        self.numbers: dict[int, int] = {}  # by descriptor
        self.awaited: list[bytes] = []  # what has to be echoed, by number
        self.asked_at: list[float] = []
        self.waits = array("d")
        self.dropped = self.wrong = self.messages = self.beats = self.pings = 0
        self.epoll = select.epoll()

    def open(self, count: float) -> dict[str, Any]:
        """See the module."""
        while (missing := int(count) - len(self.sockets)) > 0:
            for sock in open_connections(self.port, min(missing, 500), echoes(message(0, 0))):
                self.numbers[sock.fileno()] = len(self.sockets)
                self.sockets.append(sock)
                self.awaited.append(b"")
                self.asked_at.append(0.0)
                self.epoll.register(sock.fileno(), select.EPOLLIN)
            tell_progress(len(self.sockets) / count)
        return {"open": len(self.sockets) - self.dropped}

    def load(self, seconds: float) -> dict[str, Any]:
        """See the module. Its answer counts messages, heartbeats, and what went wrong."""
        count = len(self.sockets)
        self.waits = array("d")
        self.messages = self.beats = 0
        begun = told = monotonic()
        while (now := monotonic()) < begun + seconds:
            while begun + self.messages * MESSAGE_EVERY / count <= now:
                self.send(self.messages % count, message(self.messages % count, self.messages // count))
                self.messages += 1
            while begun + self.beats * BEAT_EVERY / count <= now:
                self.send((self.beats + count // 2) % count, BEAT)  # half a round away from the messages
                self.beats += 1
            due = begun + min(self.messages * MESSAGE_EVERY, self.beats * BEAT_EVERY) / count
            self.receive(min(due, begun + seconds) - monotonic())
            if now - told >= 0.5:
                told = now
                tell_progress((now - begun) / seconds)
        until = monotonic() + LAST_WORDS
        while any(self.awaited) and (left := until - monotonic()) > 0:
            self.receive(min(left, 0.1))
        waits = sorted(self.waits)
        return {
            "messages": self.messages,
            "beats": self.beats,
            "dropped": self.dropped,
            "wrong": self.wrong,
            "unanswered": sum(map(bool, self.awaited)),
            "p99_ms": waits[int(len(waits) * 0.99)] * 1e3 if waits else 0.0,
            "worst_ms": waits[-1] * 1e3 if waits else 0.0,
        }

    def rest(self, seconds: float) -> dict[str, Any]:
        """See the module."""
        self.pings = 0
        begun = monotonic()
        while (now := monotonic()) < begun + seconds:
            self.receive(min(begun + seconds - now, 0.5))
            tell_progress((now - begun) / seconds)
        return {"pings": self.pings, "dropped": self.dropped, "wrong": self.wrong}

    def send(self, number: int, data: bytes) -> None:
        """Send, and expect it back."""
        if self.sockets[number] is None:
            return
        if not self.awaited[number]:
            self.asked_at[number] = monotonic()
        self.awaited[number] += data
        try:
            self.sockets[number].sendall(data)
        except OSError:
            self.drop(number)

    def receive(self, wait: float) -> None:
        """Take what comes within ``wait`` seconds, at least once."""
        for fd, _ in self.epoll.poll(max(wait, 0.0), 512):
            number = self.numbers[fd]
            try:
                data = self.sockets[number].recv(4096)
            except OSError:
                data = b""
            if not data:
                self.drop(number)
            elif data == PING:
                self.pings += 1
                self.sockets[number].sendall(PONG)
            elif not self.awaited[number].startswith(data):
                self.wrong += 1
                self.awaited[number] = b""
            else:
                self.awaited[number] = self.awaited[number].removeprefix(data)
                if not self.awaited[number]:
                    self.waits.append(monotonic() - self.asked_at[number])

    def drop(self, number: int) -> None:
        """Count a connection that the server has closed."""
        self.dropped += 1
        sock = self.sockets[number]
        self.epoll.unregister(sock.fileno())
        sock.close()
        self.sockets[number] = None
        self.awaited[number] = b""


def message(connection: int, turn: int) -> bytes:
    """64 bytes that no other connection and no other turn has."""
    return f"message {turn} of connection {connection} ".encode().ljust(MESSAGE_BYTES - 1, b".") + b"\n"


if __name__ == "__main__":
    raise_descriptor_limit()
    crowd = Crowd(int(sys.argv[1]))
    try:
        obey({"open": crowd.open, "load": crowd.load, "rest": crowd.rest})
    except LoadError as error:
        sys.exit(str(error))
