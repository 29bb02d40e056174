"""TCP load with one message in flight on each connection.

``python -m benchmarks.echo_load PORT CONNECTIONS BYTES SECONDS``

Plain epoll and non-blocking sockets, since the load must cost less than what it loads. Messages end in a line feed, so
that servers of lines can be loaded as well. Once all connections stand it prints ``begin`` and awaits a line, so that
nobody's CPU time for connecting is counted.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import perf_counter, process_time

from benchmarks.processes import raise_descriptor_limit

BATCH = 64
"""Connections opened at once: fewer than any server's backlog, so that none has to be tried again."""

TIMEOUT = 20.0
"""Seconds for a connection to be accepted and to answer its first message."""


class LoadError(Exception):
    """The server does not do what it is loaded for."""


Greet = Callable[[socket.socket], None]
"""What is done first on a new connection; raises LoadError where it does not go as it should."""


def open_connections(port: int, count: int, greet: Greet) -> list[socket.socket]:
    """Open ``count`` connections, batch by batch, and see that each can be greeted.

    :raises LoadError: one was refused, ended, or did not answer as it should.
    """
    opened: list[socket.socket] = []
    batch = max(1, min(BATCH, count // 16))  # small enough that several workers each get some
    try:
        while len(opened) < count:
            _open_batch(port, min(batch, count - len(opened)), greet, opened)
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    for sock in opened:
        sock.setblocking(False)
    return opened


def _open_batch(port: int, count: int, greet: Greet, opened: list[socket.socket]) -> None:
    first = len(opened)
    for _ in range(count):
        try:
            sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        except OSError as error:
            raise LoadError(f"connection {len(opened) + 1} failed: {error}") from None
        opened.append(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for sock in opened[first:]:
        try:
            greet(sock)
        except OSError as error:
            raise LoadError(f"a new connection got no answer: {error}") from None


def echoes(message: bytes) -> Greet:
    """See that ``message`` comes back."""

    def greet(sock: socket.socket) -> None:
        with suppress(OSError):  # a connection that is gone shows below
            sock.sendall(message)
        echo = receive_exactly(sock, len(message))
        if echo != message:
            raise LoadError(f"sent {message[:40]!r}... and got {echo[:40]!r}...")

    return greet


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """``size`` bytes, or fewer when the connection ends before."""
    received = bytearray()
    while len(received) < size and (data := sock.recv(size - len(received))):
        received += data
    return bytes(received)


def send_whole(sock: socket.socket, message: bytes) -> None:
    """Send on a non-blocking socket, waiting where its buffer is too small for the whole message."""
    try:
        sent = sock.send(message)
    except BlockingIOError:
        sent = 0
    if sent < len(message):
        sock.settimeout(TIMEOUT)
        sock.sendall(message[sent:])
        sock.setblocking(False)


def load(
    sockets: Mapping[int, socket.socket], message: bytes, seconds: float, size: int
) -> tuple[array[float], int, float]:
    """Send and await answers of ``size`` bytes for ``seconds``.

    :returns: the latencies in seconds, the failed connections, and the time it took.
    """
    buffer = bytearray(max(size, 65536))
    missing = dict.fromkeys(sockets, size)
    latencies = array("d")
    failed = 0
    begun = now = perf_counter()
    sent = dict.fromkeys(sockets, begun)
    end = begun + seconds
    with select.epoll() as epoll:
        for fd, sock in sockets.items():
            epoll.register(fd, select.EPOLLIN)
            send_whole(sock, message)
        while now < end and failed < len(sockets):
            for fd, _ in epoll.poll(0.1, 256):
                try:
                    received = sockets[fd].recv_into(buffer)
                    if received:
                        missing[fd] -= received
                        if missing[fd] > 0:
                            continue
                        now = perf_counter()
                        latencies.append(now - sent[fd])
                        missing[fd] = size
                        sent[fd] = now
                        send_whole(sockets[fd], message)
                        continue
                except OSError:
                    pass
                failed += 1
                epoll.unregister(fd)
            now = perf_counter()
    return latencies, failed, now - begun


def report(opened: list[socket.socket], message: bytes, seconds: float, size: int) -> None:
    """Put the load on, and print the outcome in the form of wrk.lua."""
    print("begin", flush=True)
    sys.stdin.readline()
    cpu = process_time()
    latencies, failed, took = load({sock.fileno(): sock for sock in opened}, message, seconds, size)
    cpu = process_time() - cpu
    ordered = sorted(latencies)
    p50, p99 = (ordered[int(len(ordered) * q)] * 1e6 if ordered else 0.0 for q in (0.50, 0.99))
    outcome = {"requests": len(ordered), "seconds": took, "p50_us": p50, "p99_us": p99, "errors": failed}
    print("result", json.dumps({**outcome, "load_busy": cpu / took}), flush=True)
    sys.stdin.readline()  # the server's closing of all connections is not counted either


def main() -> None:
    """See the module."""
    port, connections, size = (int(argument) for argument in sys.argv[1:4])
    message = b"x" * (size - 1) + b"\n"
    raise_descriptor_limit()
    try:
        opened = open_connections(port, connections, echoes(message))
    except LoadError as error:
        sys.exit(str(error))
    report(opened, message, float(sys.argv[4]), size)


if __name__ == "__main__":
    main()
