"""Idle HTTP and WebSocket connections, as few as can be: that they stay, are counted right, and judged right."""

from __future__ import annotations

import socket

import pytest

from benchmarks import idle_http
from benchmarks.echo_load import LoadError, open_connections
from benchmarks.idle_http import CASES, DEFLATE, DEFLATE_UVICORN, Case, Held, hold, verdicts
from benchmarks.idle_http_load import Crowd, ask_http
from tests.benchmarks.misbehaving import server

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.peer.name)
def test_idle_connections_stay(case: Case) -> None:
    """20 of every kind are opened, kept, and used again."""
    parts: list[float] = []
    held = hold(case, 20, parts.append, settle=0.0)
    assert (held.name, held.lost) == (case.peer.name, 0)
    assert parts[-1] == 1.0


def test_a_connection_that_is_gone_is_counted() -> None:
    """One that the server closed after its first answer is lost when it is used again."""

    def once(sock: socket.socket) -> None:
        sock.sendall(sock.recv(100))

    with server(once) as port:
        crowd = Crowd(port, "tcp")
        crowd.open(1)
        assert crowd.again(0) == {"lost": 1}
        for sock in crowd.sockets:
            sock.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx",
        b"",
    ],
    ids=["refused", "not kept", "short", "none"],
)
def test_only_whole_answers_on_connections_that_stay_count(answer: bytes) -> None:
    """Whatever else a server says, its idle connections are not measured."""

    def say(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(answer)

    with server(say) as port, pytest.raises(LoadError):
        open_connections(port, 1, ask_http)


def test_idle_http_verdicts() -> None:
    """Up to 1.5 times the engine's, and less than half of uvicorn's; what both need for compression is only shown."""

    def judged(http: float, uvicorn: float, lost: int) -> list[bool]:
        names = [case.peer.name for case in CASES]
        sizes = [1000.0, http, uvicorn, http, uvicorn, 90_000.0, 10.0]
        return [verdict.met for verdict in verdicts({n: Held(n, s, lost) for n, s in zip(names, sizes, strict=True)})]

    assert CASES[-2:] == (DEFLATE, DEFLATE_UVICORN)
    assert judged(1500.0, 3001.0, 0) == [True] * 5
    assert judged(1501.0, 3003.0, 1) == [False] + [False, True] * 2
    assert judged(1500.0, 3000.0, 0) == [True] + [True, False] * 2
    assert idle_http.ENGINE_RATIO == 1.5
