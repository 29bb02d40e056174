"""TCP load with one message in flight on each connection.

``python -m benchmarks.echo_load PORT CONNECTIONS BYTES SECONDS``

Plain epoll and non-blocking sockets, since the load must cost less than what it loads.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from array import array
from time import perf_counter


def connect(port: int, count: int) -> dict[int, socket.socket]:
    """The connections, by descriptor."""
    opened = {}
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port), timeout=5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        opened[sock.fileno()] = sock
    return opened


def load(sockets: dict[int, socket.socket], message: bytes, seconds: float) -> tuple[array[float], int, float]:
    """Send and await echoes for ``seconds``; the latencies in seconds, the failed connections, and the time it took."""
    size = len(message)
    buffer = bytearray(max(size, 65536))
    missing = dict.fromkeys(sockets, size)
    latencies = array("d")
    failed = 0
    epoll = select.epoll()
    begun = now = perf_counter()
    sent = dict.fromkeys(sockets, begun)
    for fd, sock in sockets.items():
        epoll.register(fd, select.EPOLLIN)
        sock.send(message)
    end = begun + seconds
    while now < end and sockets:
        for fd, _ in epoll.poll(1.0, 64):
            received = sockets[fd].recv_into(buffer)
            if not received:
                failed += 1
                epoll.unregister(fd)
                sockets.pop(fd).close()
                continue
            missing[fd] -= received
            if missing[fd] <= 0:
                now = perf_counter()
                latencies.append(now - sent[fd])
                missing[fd] = size
                sent[fd] = now
                sockets[fd].send(message)
        now = perf_counter()
    return latencies, failed, now - begun


def main() -> None:
    """Print the outcome in the form of wrk.lua."""
    port, connections, size = (int(argument) for argument in sys.argv[1:4])
    latencies, failed, seconds = load(connect(port, connections), b"x" * size, float(sys.argv[4]))
    ordered = sorted(latencies)
    p50, p99 = (ordered[int(len(ordered) * q)] * 1e6 if ordered else 0.0 for q in (0.50, 0.99))
    outcome = {"requests": len(ordered), "seconds": seconds, "p50_us": p50, "p99_us": p99, "errors": failed}
    print("result", json.dumps(outcome))


if __name__ == "__main__":
    main()
