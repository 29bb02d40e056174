"""The servers of the HTTP and WebSocket scenarios: that each does the same work, and can be measured at it."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.golang import GIN, build_gin
from benchmarks.idle_http_load import ask_http
from benchmarks.load import BODY_HEADERS, ORDER, ORIGIN_HEADERS, measure, websocket_load
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
from benchmarks.scenarios import ORDERS, SCENARIOS, USER, Scenario
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
WEB = {
    scenario.name: scenario for scenario in SCENARIOS if scenario.name in ("json", "middleware", "body", "dependency")
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Gin, where this machine has what it needs."""
    binary = tmp_path_factory.mktemp("gin") / "gin"
    return {} if build_gin(binary) else {GIN: binary}


def peers_of(scenario: Scenario, programs: Mapping[str, Path]) -> list[Peer]:
    """Those that can be started."""
    return [peer for peer in scenario.peers if not peer.needs or peer.needs in programs]


def get(port: int, path: str) -> tuple[bytes, bytes]:
    """Head and content of an answer, after which the server closes."""
    return ask(port, f"GET {path}", ["Host: a"])


def ask(port: int, line: str, headers: Sequence[str], body: bytes = b"") -> tuple[bytes, bytes]:
    """The same for any request."""
    head = "\r\n".join((f"{line} HTTP/1.1", *headers, "Connection: close", "", ""))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(head.encode() + body)
        answer = bytearray()
        while data := sock.recv(65536):
            answer += data
    answered, _, content = bytes(answer).partition(b"\r\n\r\n")
    return answered.lower(), content


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


@pytest.mark.timeout(180)  # Gin may have to be built
@pytest.mark.parametrize("name", ["json", "middleware", "dependency"])
def test_every_typed_route_answers_alike(name: str, programs: Mapping[str, Path], tmp_path: Path) -> None:
    """Each peer says the same of a user with a name, and of one without."""
    for number, peer in enumerate(peers_of(WEB[name], programs)):
        folder, port = tmp_path / str(number), free_port()
        folder.mkdir()
        with started(peer.command(Place(port, folder, programs=programs)), port=port, log=folder / "log"):
            named, nameless = get(port, USER), get(port, "/users/7")
        for head, content in (named, nameless):
            assert head.startswith(b"http/1.1 200 "), peer.name
            assert b"\r\ncontent-type: application/json" in head, peer.name
            assert content == content.strip(), peer.name
        assert json.loads(named[1]) == {"id": 42, "name": "bob"}, peer.name
        assert json.loads(nameless[1]) == {"id": 7, "name": None}, peer.name


def test_the_middleware_are_at_work(tmp_path: Path) -> None:
    """A request id, the headers of CORS and a line in the access log; nothing of that at the route alone."""
    port = free_port()
    ours, alone = WEB["middleware"].peers[:2]
    with started(ours.command(Place(port, tmp_path)), port=port, log=tmp_path / "log"):
        head, _ = ask(port, f"GET {USER}", ["Host: a", *ORIGIN_HEADERS])
    assert b"\r\nx-request-id: " in head
    assert b"7b1c2f0e" not in head  # a new one, not the client's
    assert b"\r\naccess-control-allow-origin: https://shop.example\r\n" in head
    assert f'"GET {USER} HTTP/1.1" 200 22 "-" "Mozilla' in (tmp_path / "access.log").read_text()
    port = free_port()
    with started(alone.command(Place(port, tmp_path)), port=port, log=tmp_path / "log"):
        head, _ = ask(port, f"GET {USER}", ["Host: a", *ORIGIN_HEADERS])
    assert b"\r\nx-request-id: " not in head
    assert b"\r\naccess-control-" not in head


@pytest.mark.timeout(180)
def test_every_order_is_read_and_checked_alike(programs: Mapping[str, Path], tmp_path: Path) -> None:
    """A kilobyte of order comes to the same everywhere, and what is wrong deep inside is refused everywhere."""
    order = ORDER.read_bytes()
    wrong = [
        order.replace(b'"quantity":4', b'"quantity":0', 1),
        order.replace(b'"cents":1745', b'"cents":"dear"'),
        order.replace(b'"sku":"KT-10457",', b""),
        order[:-1],
    ]
    sent: dict[str, Any] = json.loads(order)
    cents = sum(item["quantity"] * item["cents"] for item in sent["items"])
    for number, peer in enumerate(peers_of(WEB["body"], programs)):
        folder, port = tmp_path / str(number), free_port()
        folder.mkdir()

        def post(content: bytes, port: int = port) -> tuple[bytes, bytes]:
            return ask(port, f"POST {ORDERS}", ["Host: a", *BODY_HEADERS, f"Content-Length: {len(content)}"], content)

        with started(peer.command(Place(port, folder, programs=programs)), port=port, log=folder / "log"):
            head, content = post(order)
            refused = [post(each)[0] for each in wrong]
        assert head.startswith(b"http/1.1 200 "), peer.name
        assert json.loads(content) == {"customer": sent["customer"], "items": len(sent["items"]), "cents": cents}
        assert [head[:10] for head in refused] == [b"http/1.1 4"] * len(wrong), peer.name


def test_the_order_is_a_kilobyte_without_blanks() -> None:
    """As programs write it."""
    order = ORDER.read_bytes()
    assert len(order) == 1024
    assert order == json.dumps(json.loads(order), separators=(",", ":")).encode()


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
