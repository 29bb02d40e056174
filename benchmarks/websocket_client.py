"""The client's end of WebSocket (RFC 6455, RFC 7692), for the loads: as much of it as they need."""

from __future__ import annotations

import os
import socket
from base64 import b64encode
from hashlib import sha1

from benchmarks.echo_load import Greet, LoadError, receive_exactly
from benchmarks.load import HEADERS

__all__ = [
    "BINARY",
    "COMPRESSED",
    "DEFLATE",
    "PATH",
    "PING",
    "PONG",
    "TEXT",
    "client_frame",
    "echoes",
    "handshake",
    "receive_frame",
    "server_frame",
    "take_frame",
]

PATH = "/ws"
TEXT, BINARY, PING, PONG = 1, 2, 9, 10  # opcodes, section 5.2
FINAL, COMPRESSED = 0x80, 0x40
DEFLATE = "permessage-deflate; client_max_window_bits"
"""The offer that browsers make."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_MASK = b"\x9c\x1f\x5a\xe3"  # an unpredictable one protects proxies between browsers and servers; here are none


def server_frame(payload: bytes, opcode: int = BINARY) -> bytes:
    """A whole message, uncompressed, as servers send it (section 5.2)."""
    return _head(len(payload), opcode, 0) + payload


def client_frame(payload: bytes, opcode: int = BINARY) -> bytes:
    """The same masked, as clients send it (section 5.3)."""
    size = len(payload)
    mask = int.from_bytes((_MASK * (size // 4 + 1))[:size])
    return _head(size, opcode, 0x80) + _MASK + (int.from_bytes(payload) ^ mask).to_bytes(size)


def _head(size: int, opcode: int, masked: int) -> bytes:
    first = FINAL | opcode
    if size < 126:
        return bytes((first, masked | size))
    if size < 65536:
        return bytes((first, masked | 126)) + size.to_bytes(2)
    return bytes((first, masked | 127)) + size.to_bytes(8)


def take_frame(data: bytes) -> tuple[int, bytes, bytes] | None:
    """The first byte and the payload of the frame ``data`` begins with, and what follows; None: it is not whole."""
    if len(data) < 2:
        return None
    size, at = data[1], 2
    if size >= 126:
        at = 4 if size == 126 else 10
        size = int.from_bytes(data[2:at])
    end = at + size
    return None if len(data) < end else (data[0], data[at:end], data[end:])


def handshake(sock: socket.socket, offer: str = "") -> tuple[str, bytes]:
    """Ask for a WebSocket at :data:`PATH` (section 4.1).

    :param offer: of extensions.
    :returns: the extensions the server agreed to, and what came behind its answer.
    :raises LoadError: it refused, or is none.
    """
    key = b64encode(os.urandom(16))
    lines = [f"GET {PATH} HTTP/1.1", f"Host: {':'.join(map(str, sock.getpeername()))}", *HEADERS]
    lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines += [f"Sec-WebSocket-Key: {key.decode()}"]
    lines += [f"Sec-WebSocket-Extensions: {offer}"] if offer else []
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = bytearray()
    while b"\r\n\r\n" not in answer and (data := sock.recv(4096)):
        answer += data
    head, _, rest = bytes(answer).partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    accepted = b64encode(sha1(key + _GUID, usedforsecurity=False).digest()).decode()
    if status.split(" ")[1:2] != ["101"] or headers.get("sec-websocket-accept") != accepted:
        raise LoadError(f"no WebSocket, but {status[:100]!r}")
    return headers.get("sec-websocket-extensions", ""), rest


def echoes(payload: bytes, opcode: int = BINARY) -> Greet:
    """For new connections: makes WebSockets of them, and sees that each echoes ``payload``."""
    message, expected = client_frame(payload, opcode), server_frame(payload, opcode)

    def greet(sock: socket.socket) -> None:
        handshake(sock)
        sock.sendall(message)
        echo = receive_exactly(sock, len(expected))
        if echo != expected:
            raise LoadError(f"sent {payload[:40]!r}... and got {echo[:40]!r}...")

    return greet


def receive_frame(sock: socket.socket) -> tuple[int, bytes]:
    """The first byte and the payload of the next frame, with which the server says all that it has to say; pings that
    come before it are answered.

    :raises LoadError: the connection ends.
    """
    data = b""
    while True:
        while (taken := take_frame(data)) is None:
            received = sock.recv(65536)
            if not received:
                raise LoadError("the connection ended")
            data += received
        first, payload, data = taken
        if first & 0x0F != PING:
            return first, payload
        sock.sendall(client_frame(payload, PONG))
