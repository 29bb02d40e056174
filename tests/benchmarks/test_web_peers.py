"""The servers of the HTTP and WebSocket scenarios: that each does the same work, and can be measured at it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from benchmarks.idle_http_load import ask_http
from benchmarks.load import measure, websocket_load
from benchmarks.peers import (
    ASGI_APP,
    FILE_BYTES,
    FILE_PATH,
    RSGI_APP,
    Peer,
    Place,
    forebay_asgi,
    forebay_file,
    forebay_websocket,
    granian,
    uvicorn,
    websocket_server,
)
from benchmarks.processes import free_port, started
from benchmarks.websocket_client import BINARY, DEFLATE, TEXT, client_frame, echoes, handshake, receive_frame

pytestmark = pytest.mark.timeout(60)

PLAIN = (
    Peer("Forebay, ASGI", forebay_asgi),
    Peer("uvicorn", uvicorn(ASGI_APP)),
    Peer("granian, RSGI", granian("rsgi", RSGI_APP)),
    Peer("granian, ASGI", granian("asgi", ASGI_APP)),
)
ECHOES = (
    Peer("Forebay", forebay_websocket("echo")),
    Peer("Forebay, coroutine style", forebay_websocket("echo_coroutine")),
    Peer("Forebay, ASGI", forebay_asgi),
    Peer("uvicorn", uvicorn(ASGI_APP)),
    Peer("picows", websocket_server("picows_echo")),
    Peer("websockets", websocket_server("websockets_server", "echo")),
)


def get(port: int, path: str) -> tuple[bytes, bytes]:
    """Head and content of an answer, after which the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = bytearray()
        while data := sock.recv(65536):
            answer += data
    head, _, content = bytes(answer).partition(b"\r\n\r\n")
    return head.lower(), content


@pytest.mark.parametrize("peer", PLAIN, ids=lambda peer: peer.name)
def test_plain_peers_answer_alike(peer: Peer, tmp_path: Path) -> None:
    """The same content, type and length, over connections that are kept."""
    port = free_port()
    with started(peer.command(Place(port, tmp_path)), port=port, log=tmp_path / "log"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            ask_http(sock)
            ask_http(sock)
        head, content = get(port, "/")
    assert content == b"Hello, world!"
    assert head.startswith(b"http/1.1 200 ")
    assert b"\r\ncontent-type: text/plain; charset=utf-8" in head
    assert b"\r\ncontent-length: 13" in head


def test_the_file_is_the_file(tmp_path: Path) -> None:
    """All of its 100 KiB, under the path that is loaded."""
    port = free_port()
    with started(forebay_file(Place(port, tmp_path)), port=port, log=tmp_path / "log"):
        head, content = get(port, FILE_PATH)
    assert head.startswith(b"http/1.1 200 ")
    assert content == (tmp_path / "files" / FILE_PATH[1:]).read_bytes()
    assert len(content) == FILE_BYTES


@pytest.mark.parametrize("peer", ECHOES, ids=lambda peer: peer.name)
def test_every_websocket_echoes(peer: Peer, tmp_path: Path) -> None:
    """Text and binary, short and long, and compressed where that is agreed to."""
    port = free_port()
    with started(peer.command(Place(port, tmp_path)), port=port, log=tmp_path / "log"):
        for payload, opcode in ((b"x" * 64, BINARY), (b"x" * 64, TEXT), (b"y" * 4096, BINARY)):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
                echoes(payload, opcode)(sock)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            agreed, _ = handshake(sock, DEFLATE)
            sock.sendall(client_frame(b"z" * 1000, TEXT))
            first, echo = receive_frame(sock)
            assert bool(first & 0x40) == (len(echo) < 1000) == bool(agreed)


@pytest.mark.parametrize(("size", "kind"), [(64, "binary"), (4096, "binary"), (64, "text")])
def test_a_websocket_echo_is_measured(size: int, kind: str, tmp_path: Path) -> None:
    """Messages, CPU time, and how busy both sides were are there."""
    port = free_port()
    command = forebay_websocket("echo")(Place(port, tmp_path))
    with started(command, port=port, log=tmp_path / "log") as pid:
        measured = measure(websocket_load(port, 1, connections=8, size=size, kind=kind), server=pid)
    assert measured.per_second > 100
    assert measured.errors == 0
    assert measured.cpu_us > 0
    assert measured.load_busy is not None
