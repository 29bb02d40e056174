"""WebSocket bytes for the RFC tests, made and read by hand, not by Forebay's codec; and peers that send them."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from hashlib import sha1
from typing import Any, NamedTuple

from tests.http.websockets_kit import Recorder, request, serving
from tests.support import RawClient, eventually

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"  # RFC 6455 section 5.7
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3


class Frame(NamedTuple):
    """One frame as it was on the wire, unmasked."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    masked: bool = False

    @property
    def code(self) -> int:
        """Of a close frame; 1005 without one."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big") if self.payload else 1005


_XOR = [bytes(number ^ key for number in range(256)) for key in range(256)]


def exclusive_or(payload: bytes, mask: bytes) -> bytes:
    """Every fourth byte with the same byte of the mask: section 5.3."""
    result = bytearray(len(payload))
    for column in range(4):
        result[column::4] = payload[column::4].translate(_XOR[mask[column]])
    return bytes(result)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    width: int | None = None,
    length: int | None = None,
) -> bytes:
    """A frame, right or wrong: section 5.2.

    :param rsv: the three reserved bits; 4 is RSV1.
    :param mask: ``None``: it is not masked, as a server's are not.
    :param width: bytes of the extended length: 0, 2 or 8; as few as will do by default.
    :param length: what the header says; default the payload's.
    """
    size = len(payload) if length is None else length
    if width is None:
        width = 0 if size < 126 else 2 if size < 65536 else 8
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    second = (0 if mask is None else 0x80) | {0: size, 2: 126, 8: 127}[width]
    head = bytes((first, second)) + (size.to_bytes(width, "big") if width else b"")
    return head + payload if mask is None else head + mask + exclusive_or(payload, mask)


def closing(code: int | None = 1000, reason: bytes = b"", mask: bytes | None = MASK) -> bytes:
    """A close frame; without a code if that is None: section 5.5.1."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason, mask=mask)


def read_frames(data: bytes) -> list[Frame]:
    """All frames of ``data``, which ends with the last one's end."""
    frames = []
    while data:
        fin, rsv, opcode = data[0] >> 7, data[0] >> 4 & 7, data[0] & 15
        masked, size, at = data[1] >> 7, data[1] & 127, 2
        if size > 125:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
            assert size > (125 if width == 2 else 65535), "section 5.2: the minimal number of bytes"
        mask = data[at : at + 4] if masked else bytes(4)
        at += 4 * masked
        payload = data[at : at + size]
        assert len(payload) == size, "the last frame is not whole"
        frames.append(Frame(opcode, exclusive_or(payload, mask), bool(fin), rsv, bool(masked)))
        data = data[at + size :]
    return frames


class Peer:
    """One end of a WebSocket, of which each byte is ours to choose."""

    def __init__(self, raw: RawClient) -> None:
        self.raw = raw

    async def send(self, *pieces: bytes) -> None:
        """Send them, each in a segment of its own as far as that can be made."""
        for piece in pieces:
            try:
                await self.raw.send(piece)
            except (ConnectionError, RuntimeError):  # the other side has refused what went before, and is gone
                return
            await asyncio.sleep(0)

    async def next(self, timeout: float = 5.0) -> Frame:
        """The next frame."""
        data = await self.raw.exactly(2, timeout)
        size, masked = data[1] & 127, data[1] >> 7
        if size > 125:
            more = await self.raw.exactly(2 if size == 126 else 8, timeout)
            data, size = data + more, int.from_bytes(more, "big")
        data += await self.raw.exactly(4 * masked + size, timeout)
        return read_frames(data)[0]

    async def rest(self, timeout: float = 5.0) -> list[Frame]:
        """All frames up to the end of the connection, which the other side brings about."""
        return read_frames(await self.raw.rest(timeout))


# -- clients that misbehave, of our server


@asynccontextmanager
async def client(port: int, **fields: Any) -> AsyncIterator[Peer]:
    """A client after its handshake."""
    raw = await RawClient.connect(port)
    try:
        await raw.send(request(**fields))
        status, _, body = await raw.response()
        assert status == 101, (status, body)
        yield Peer(raw)
    finally:
        raw.writer.transport.abort()


class Served(NamedTuple):
    """What came of one client of ours: the frames it got, what the handler was told, and the close."""

    frames: list[Frame]
    messages: list[str | bytes]
    closes: list[tuple[int, str]]


async def serve(pieces: Iterable[bytes], *, offer: str = "", **settings: Any) -> Served:
    """What an echoing server of ours answers to ``pieces``, up to the end of the connection, which is the server's to
    bring about. Nothing is left of the connection then."""
    recorder = Recorder()
    fields = {"sec_websocket_extensions": offer} if offer else {}
    async with serving(recorder, **settings) as (server, _, port), client(port, **fields) as peer:
        sending = asyncio.create_task(peer.send(*pieces))
        try:
            frames = await peer.rest()
        finally:
            sending.cancel()
        peer.raw.writer.transport.abort()
        await eventually(lambda: not server.connections)
    return Served(frames, recorder.messages, recorder.closes)


# -- servers that misbehave, of our client

Script = Callable[[Peer, bytes], Awaitable[None]]


def accepting(head: bytes, *lines: str, leave_out: str = "") -> bytes:
    """The answer to a handshake; ``lines`` are added, or stand for one that begins the same."""
    key = head.partition(b"sec-websocket-key: ")[2].partition(b"\r\n")[0]
    accept = b64encode(sha1(key + GUID).digest()).decode()
    fields = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-accept": accept}
    for line in lines:
        name, _, value = line.partition(": ")
        fields[name] = value
    fields.pop(leave_out, None)
    text = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 101 Switching Protocols\r\n{text}\r\n".encode()


@asynccontextmanager
async def server(script: Script) -> AsyncIterator[str]:
    """A server that does with each connection, and the head of its request, what ``script`` says; its URL. What fails
    in the script is raised at the end."""
    errors: list[BaseException] = []

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(Peer(RawClient(reader, writer)), await reader.readuntil(b"\r\n\r\n"))
        except BaseException as error:
            errors.append(error)
        finally:
            writer.transport.abort()

    listener = await asyncio.start_server(run, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
    finally:
        listener.close()
        if errors:
            raise errors[0]


@asynccontextmanager
async def server_that_sends(*pieces: bytes, got: list[Frame], extensions: str = "") -> AsyncIterator[str]:
    """A server that accepts, sends ``pieces``, notes what it gets in ``got`` up to a close frame, and ends."""

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(accepting(head, *([f"sec-websocket-extensions: {extensions}"] if extensions else [])))
        await peer.send(*pieces)
        while not got or got[-1].opcode != CLOSE:
            got.append(await peer.next())

    async with server(script) as url:
        yield url
