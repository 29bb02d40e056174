"""The members of a room, and the one who talks in it: the client of :mod:`benchmarks.broadcast`.

``python -m benchmarks.broadcast_load PORT RATE BYTES [OFFER]``, with orders on standard input (see
:mod:`benchmarks.orders`):

* ``join COUNT``: have so many members, each of which is to get every message;
* ``stall 0``: one more joins, and never reads;
* ``talk SECONDS``: the first member sends RATE messages of BYTES a second, and all are awaited.

Messages are text of words that repeat, as people's do, and no two are alike. Every member compares each of them, in
order. With OFFER, the extension of RFC 7692 is asked for, and inflated.
"""

from __future__ import annotations

import random
import select
import socket
import sys
import zlib
from array import array
from time import monotonic
from typing import Any

from benchmarks.echo_load import TIMEOUT, LoadError, open_connections, send_whole
from benchmarks.orders import obey, tell_progress
from benchmarks.processes import raise_descriptor_limit
from benchmarks.websocket_client import (
    COMPRESSED,
    PING,
    PONG,
    TEXT,
    client_frame,
    handshake,
    server_frame,
    take_frame,
)

PATIENCE = 30.0  # seconds without a message, after which those that are missing are lost
SETTLE = 2.0  # seconds for a member that does not read to be noticed, after the last message
SEGMENT = 1448  # bytes, of TCP over Ethernet; with the loopback's 64 KiB the kernel keeps megabytes for who reads not
WORDS = "after again before between change could every first found great house large little never other people place"
WORDS += (
    " point right same should small sound still story study their there thing think three through under water where"
)

_TAIL = b"\x00\x00\xff\xff"  # what senders leave out, RFC 7692 section 7.2.1


def text(number: int, size: int) -> bytes:
    """The message of this number: JSON of ``size`` bytes or a few more."""
    chosen, words = random.Random(number), WORDS.split()
    made = f'{{"number": {number}, "from": "user-{chosen.randrange(1000)}", "text": "'
    while len(made) < size - 2:
        made += chosen.choice(words) + " "
    return f'{made[: max(size - 2, made.index("text"))]}"}}'.encode()


class Member:
    """One who is to get every message, in order."""

    __slots__ = ("fresh", "inflater", "rest", "seen", "sock", "wrong")

    def __init__(self, sock: socket.socket, extensions: str, rest: bytes) -> None:
        self.sock = sock
        self.inflater = zlib.decompressobj(-15) if extensions else None
        self.fresh = "server_no_context_takeover" in extensions
        self.rest = rest
        self.seen = 0
        self.wrong = 0

    def take(self, data: bytes, messages: list[bytes]) -> int:
        """How many of the messages have come with ``data``. Counts those that are wrong."""
        before = self.seen
        data = self.rest + data
        while (taken := take_frame(data)) is not None:
            first, payload, data = taken
            if first & 0x0F == PING:
                send_whole(self.sock, client_frame(payload, PONG))
                continue
            if first & COMPRESSED:
                payload = self.inflate(payload)
            if self.seen < len(messages) and payload == messages[self.seen]:
                self.seen += 1
            else:
                self.wrong += 1
        self.rest = data
        return self.seen - before

    def inflate(self, payload: bytes) -> bytes:
        """Section 7.2.2 of RFC 7692."""
        if self.inflater is None:
            return b""  # wrong: it was not agreed to
        made = self.inflater.decompress(payload + _TAIL)
        if self.fresh or self.inflater.eof:
            self.inflater = zlib.decompressobj(-15)
        return made


class Room:
    """The members, and what they have got."""

    def __init__(self, port: int, rate: float, size: int, offer: str) -> None:
        self.port = port
        self.rate = rate
        self.size = size
        self.offer = offer
        self.members: dict[int, Member] = {}  # by descriptor
        self.messages: list[bytes] = []
        self.frames: list[bytes] = []  # the same as they come where nothing is compressed
        self.sent_at = array("d")
        self.waits = array("d")
        self.dropped = 0
        self.stalled: socket.socket | None = None
        self.stalled_at = 0.0
        self.stalled_cut = False
        self.stalled_seconds = 0.0  # until it was cut
        self.epoll = select.epoll()

    def greet(self, sock: socket.socket) -> None:
        """See :data:`benchmarks.echo_load.Greet`."""
        extensions, rest = handshake(sock, self.offer)
        if self.offer and not extensions:
            raise LoadError(f"the server does not agree to {self.offer}")
        self.members[sock.fileno()] = Member(sock, extensions, rest)

    def join(self, count: float) -> dict[str, Any]:
        """See the module."""
        while (missing := int(count) - len(self.members)) > 0:
            for sock in open_connections(self.port, min(missing, 200), self.greet):
                self.members[sock.fileno()].seen = len(self.messages)
                self.epoll.register(sock.fileno(), select.EPOLLIN)
            tell_progress(len(self.members) / count)
        return {"members": len(self.members)}

    def stall(self, _: float) -> dict[str, Any]:
        """See the module. Its buffers are small, so that the server's are what fills."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        sock.settimeout(TIMEOUT)
        sock.connect(("127.0.0.1", self.port))
        handshake(sock, self.offer)
        self.stalled, self.stalled_at = sock, monotonic()
        self.epoll.register(sock.fileno(), 0)  # a reset is told of all the same
        return {}

    def talk(self, seconds: float) -> dict[str, Any]:
        """See the module."""
        self.waits = array("d")
        talker = next(iter(self.members.values())).sock
        first, count = len(self.messages), round(seconds * self.rate)
        for number in range(first, first + count):  # made before the time that is measured
            self.messages.append(text(number, self.size))
            self.frames.append(server_frame(self.messages[-1], TEXT))
        masked = [client_frame(message, TEXT) for message in self.messages[first:]]
        expected = count * len(self.members)
        begun = told = heard = monotonic()
        sent = 0
        while sent < count or len(self.waits) < expected:
            now = monotonic()
            while sent < count and begun + sent / self.rate <= now:
                self.sent_at.append(monotonic())
                send_whole(talker, masked[sent])
                sent += 1
            due = begun + sent / self.rate if sent < count else now + 0.5
            if self.receive(due - now):
                heard = now
            elif not self.members or (sent == count and now - heard > PATIENCE):
                break
            if now - told >= 0.5:
                told = now
                tell_progress(len(self.waits) / expected)
        took = monotonic() - begun
        waits = sorted(self.waits)
        return {
            "messages": sent,
            "delivered": len(waits),
            "lost": expected - len(waits),
            "wrong": sum(member.wrong for member in self.members.values()),
            "dropped": self.dropped,
            "seconds": took,
            "p50_ms": waits[len(waits) // 2] * 1e3 if waits else 0.0,
            "p99_ms": waits[int(len(waits) * 0.99)] * 1e3 if waits else 0.0,
            "worst_ms": waits[-1] * 1e3 if waits else 0.0,
            "stalled_cut": self.stalled is not None and self.was_cut(count),
            "stalled_seconds": self.stalled_seconds,
        }

    def receive(self, wait: float) -> int:
        """Take what comes within ``wait`` seconds; how many messages that were."""
        before = len(self.waits)
        for fd, _ in self.epoll.poll(max(wait, 0.0), 1024):
            member = self.members.get(fd)
            if member is None:
                self.epoll.unregister(fd)
                self.stalled_cut, self.stalled_seconds = True, monotonic() - self.stalled_at
                continue
            try:
                data = member.sock.recv(65536)
            except OSError:
                data = b""
            if not data:
                self.drop(fd)
                continue
            seen = member.seen
            if seen < len(self.frames) and data == self.frames[seen] and not member.rest:  # the usual case
                member.seen = seen + 1
                self.waits.append(monotonic() - self.sent_at[seen])
                continue
            taken = member.take(data, self.messages)
            now = monotonic()
            for number in range(seen, seen + taken):
                self.waits.append(now - self.sent_at[number])
        return len(self.waits) - before

    def drop(self, fd: int) -> None:
        """A member whom the server has closed gets nothing more."""
        self.dropped += 1
        self.epoll.unregister(fd)
        self.members.pop(fd).sock.close()

    def was_cut(self, count: int) -> bool:
        """Whether the one who does not read was disconnected: it reads now, and does not come to the last message."""
        assert self.stalled is not None
        if self.stalled_cut:
            return True
        received = 0
        self.stalled.settimeout(SETTLE)
        try:
            while data := self.stalled.recv(65536):
                received += len(data)
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return received < count * self.size


if __name__ == "__main__":
    raise_descriptor_limit()
    room = Room(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), " ".join(sys.argv[4:]))
    try:
        obey({"join": room.join, "stall": room.stall, "talk": room.talk})
    except (LoadError, OSError) as error:
        sys.exit(str(error))
