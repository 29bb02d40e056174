"""The WebSocket client of the loads: its frames beside those of the websockets library, and servers that misbehave."""

from __future__ import annotations

import socket
import zlib
from base64 import b64encode
from hashlib import sha1

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol

from benchmarks.broadcast_load import Member, text
from benchmarks.echo_load import LoadError, open_connections
from benchmarks.websocket_client import (
    BINARY,
    DEFLATE,
    PING,
    TEXT,
    client_frame,
    echoes,
    handshake,
    receive_frame,
    server_frame,
    take_frame,
)
from tests.benchmarks.misbehaving import server

SIZES = (0, 1, 3, 125, 126, 65535, 65536)


@pytest.mark.parametrize("size", SIZES)
def test_a_server_understands_our_frames(size: int) -> None:
    """They are masked, and as the other implementation reads them, for every way of writing the length."""
    payload = bytes(range(256)) * (size // 256 + 1)
    peer = Protocol(SERVER, max_size=None)
    peer.receive_data(client_frame(payload[:size], BINARY) + client_frame(b"after", TEXT))
    frames = [event for event in peer.events_received() if isinstance(event, Frame)]
    assert [(frame.opcode, bytes(frame.data)) for frame in frames] == [
        (Opcode.BINARY, payload[:size]),
        (Opcode.TEXT, b"after"),
    ]


@pytest.mark.parametrize("size", SIZES)
def test_we_know_what_a_server_sends(size: int) -> None:
    """The echo that is expected is, byte for byte, what the other implementation sends; and it is taken apart again."""
    peer = Protocol(SERVER, max_size=None)
    peer.send_binary(b"x" * size)
    sent = b"".join(peer.data_to_send())
    assert server_frame(b"x" * size, BINARY) == sent
    assert take_frame(sent + b"rest") == (0x82, b"x" * size, b"rest")
    assert take_frame(sent[:-1]) is None


def test_what_comes_in_pieces_is_put_together() -> None:
    """A frame that is not whole waits for its rest, after each of its bytes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        member = Member(ours, "", b"")
        messages = [text(number, 300) for number in range(3)]
        stream = b"".join(server_frame(message, TEXT) for message in messages)
        got = [member.take(stream[at : at + 1], messages) for at in range(len(stream))]
    assert (sum(got), member.seen, member.wrong) == (3, 3, 0)


def test_a_member_tells_what_is_wrong_and_answers_pings() -> None:
    """Messages that are changed, repeated or out of order are counted."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        member = Member(ours, "", b"")
        messages = [b"one", b"two", b"three"]
        for said in (b"one", b"one", b"three", b"two"):
            member.take(server_frame(said, TEXT), messages)
        assert (member.seen, member.wrong) == (2, 2)
        member.take(server_frame(b"there?", PING), messages)
        assert theirs.recv(100)[:1] == b"\x8a"
        assert (member.seen, member.wrong) == (2, 2)


@pytest.mark.parametrize("takeover", [True, False])
def test_a_member_inflates(takeover: bool) -> None:
    """With and without context takeover, as the other implementation compresses."""
    extension = PerMessageDeflate(
        remote_no_context_takeover=False, local_no_context_takeover=not takeover, remote_max_window_bits=15,
        local_max_window_bits=15,
    )  # fmt: skip
    peer = Protocol(SERVER, max_size=None)
    peer.extensions = [extension]
    agreed = "permessage-deflate" if takeover else "permessage-deflate; server_no_context_takeover"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        member = Member(ours, agreed, b"")
        messages = [text(number, 300) for number in range(5)]
        for message in messages:
            peer.send_text(message)
        sent = b"".join(peer.data_to_send())
        assert len(sent) < 5 * 300
        assert member.take(sent, messages) == 5
        assert member.wrong == 0


def test_a_compressed_message_that_ends_its_stream_is_followed_by_others() -> None:
    """BFINAL may be set (RFC 7692 section 7.2.3.4): what follows is a stream of its own."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        member = Member(ours, "permessage-deflate", b"")
        for message in (b"one", b"two"):
            deflater = zlib.compressobj(wbits=-15)
            payload = deflater.compress(message) + deflater.flush() + b"\x00"
            frame = bytes((0xC1, len(payload))) + payload
            assert member.take(frame, [b"one", b"two"]) == 1


def test_messages_are_of_their_size_and_differ() -> None:
    """All are JSON in one line, and no two are alike."""
    made = [text(number, 256) for number in range(200)]
    assert {len(each) for each in made} == {256}
    assert len(set(made)) == 200


def _upgrade(sock: socket.socket, extra: bytes = b"") -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += sock.recv(4096)
    key = request.lower().partition(b"sec-websocket-key: ")[2].split(b"\r\n")[0]
    key = request[request.lower().index(key) :][: len(key)]
    accept = b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nsec-websocket-accept: " + accept
    sock.sendall(head + b"\r\n\r\n" + extra)


def test_a_wrong_echo_of_a_websocket_is_no_echo() -> None:
    """A server that answers something else is not measured."""

    def shout(sock: socket.socket) -> None:
        _upgrade(sock)
        sock.recv(100)
        sock.sendall(server_frame(b"HELLO"))

    with server(shout) as port, pytest.raises(LoadError, match=r"^sent b'hello'"):
        open_connections(port, 1, echoes(b"hello"))


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 Not Found\r\n\r\n", b"HTTP/1.1 101 Yes\r\n\r\n", b""])
def test_a_refused_handshake_is_said(answer: bytes) -> None:
    """Another status, no key, and nothing at all are no WebSocket."""

    def refuse(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(answer)

    with server(refuse) as port, pytest.raises(LoadError, match="no WebSocket, but"):
        open_connections(port, 1, echoes(b"hello"))


def test_what_comes_behind_the_handshake_is_kept_and_pings_are_answered() -> None:
    """The server may speak first."""
    with (
        server(lambda sock: _upgrade(sock, server_frame(b"welcome"))) as port,
        socket.create_connection(("127.0.0.1", port), timeout=5) as sock,
    ):
        assert handshake(sock, DEFLATE) == ("", server_frame(b"welcome"))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(server_frame(b"?", PING) + server_frame(b"hello"))
        assert receive_frame(ours) == (0x82, b"hello")
        assert theirs.recv(100)[:1] == b"\x8a"
