"""WebSocket streams for the tests, what Forebay reads from them, and what the library ``websockets`` does."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from forebay.errors import WebSocketError
from forebay.wire.deflate import Inflater
from forebay.wire.websocket import MessageReader, encode_frame

SMALL = 300  # bytes of the longest message, so that examples reach it, and lengths of two kinds

Event = tuple[Any, ...]


@dataclass
class Heard:
    """A sink that keeps what it is told."""

    events: list[Event] = field(default_factory=list)

    def on_message(self, message: str | bytes) -> None:
        assert type(message) in (str, bytes)
        self.events.append(("message", message))

    def on_ping(self, payload: bytes) -> None:
        self.events.append(("ping", payload))

    def on_pong(self, payload: bytes) -> None:
        self.events.append(("pong", payload))

    def on_close_frame(self, code: int, reason: str) -> None:
        self.events.append(("close", code, reason))


def read(
    pieces: Sequence[bytes], *, masked: bool, max_message: int = SMALL, inflater: Inflater | None = None
) -> tuple[list[Event], WebSocketError | None]:
    """What Forebay reads, and the error it ends with. No more than is allowed is ever held."""
    heard = Heard()
    reader = MessageReader(heard, masked=masked, max_message=max_message, inflater=inflater)
    most = max_message + 131 + (max_message // 8 + 64 if inflater else 0)
    try:
        for piece in pieces:
            reader.feed(piece)
            assert reader.buffered <= most
            assert reader.in_message or reader.buffered == 0
    except WebSocketError as error:
        assert (reader.in_message, reader.buffered) == (False, 0)
        return heard.events, error
    return heard.events, None


class Reference:
    """``websockets``' protocol, and on top what its connections do: messages put together, text decoded.

    Text is decoded frame by frame, so that it is refused at the frame with the first bad byte.
    """

    def __init__(self, *, masked: bool, deflate: PerMessageDeflate | None = None) -> None:
        self._protocol = Protocol(Side.SERVER if masked else Side.CLIENT, max_size=SMALL)
        if deflate is not None:
            self._protocol.extensions = [deflate]
        self.events: list[Event] = []
        self.refused = False
        self.in_message = False
        self._parts: list[Any] = []
        self._decoder: codecs.IncrementalDecoder | None = None

    def feed(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self._protocol.data_to_send()
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame)
            payload = bytes(frame.data)
            if frame.opcode is Opcode.PING:
                self.events.append(("ping", payload))
            elif frame.opcode is Opcode.PONG:
                self.events.append(("pong", payload))
            elif frame.opcode is Opcode.CLOSE:
                close = self._protocol.close_rcvd
                assert close is not None
                self.events.append(("close", int(close.code), close.reason))
            elif not self._data(frame.opcode, payload, frame.fin):
                self.refused = True
                return
        self.refused = self._protocol.parser_exc is not None

    def _data(self, opcode: Any, payload: bytes, fin: bool) -> bool:
        if opcode is not Opcode.CONT:
            self._parts = []
            self._decoder = codecs.getincrementaldecoder("utf-8")() if opcode is Opcode.TEXT else None
            assert opcode in (Opcode.TEXT, Opcode.BINARY)
        try:
            self._parts.append(self._decoder.decode(payload, fin) if self._decoder else payload)
        except UnicodeDecodeError:
            return False
        self.in_message = not fin
        if fin:
            self.events.append(("message", ("" if self._decoder else b"").join(self._parts)))
        return True


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    """``stream`` in pieces, cut at ``places``, some of them perhaps empty."""
    bounds = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(bounds)]


masks = st.binary(min_size=4, max_size=4)
places = st.lists(st.integers(0, 1 << 16), max_size=12)
controls = st.tuples(st.sampled_from([9, 10]), st.binary(max_size=125))


def control_event(opcode: int, payload: bytes) -> Event:
    return ("ping" if opcode == 9 else "pong", payload)


@st.composite
def conversations(draw: st.DrawFn, *, masked: bool) -> tuple[bytes, list[Event]]:
    """A stream that keeps to the protocol, and what is to be read from it: messages in fragments, with control frames
    between them, and perhaps a close frame with something behind it.
    """

    def frame(opcode: int, payload: bytes, fin: bool = True) -> bytes:
        return encode_frame(opcode, payload, fin=fin, mask=draw(masks) if masked else None)

    stream = b""
    events: list[Event] = []
    for message in draw(st.lists(st.text(max_size=75) | st.binary(max_size=SMALL), max_size=5)):
        payload, opcode = (message.encode(), 1) if isinstance(message, str) else (message, 2)
        parts = cut(payload, draw(st.lists(st.integers(0, SMALL), max_size=4)))
        for number, part in enumerate(parts):
            for control in draw(st.lists(controls, max_size=2)):
                stream += frame(*control)
                events.append(control_event(*control))
            stream += frame(opcode if number == 0 else 0, part, number == len(parts) - 1)
        events.append(("message", message))
    if draw(st.booleans()):
        code = draw(st.sampled_from([1000, 1003, 1007, 1014, 3000, 4999]))
        stream += frame(8, code.to_bytes(2, "big") + b"bye") + draw(st.binary(max_size=20))
        events.append(("close", code, "bye"))
    return stream, events


@st.composite
def odd_frames(draw: st.DrawFn, *, masked: bool) -> bytes:
    """A frame of which anything may be wrong, though most of it seldom is."""
    often = st.integers(0, 9)
    opcode = draw(st.sampled_from([0, 0, 1, 1, 1, 2, 2, 8, 9, 10]) if draw(often) else st.integers(0, 15))
    fin = draw(st.booleans())
    if opcode >= 8 and draw(often):
        fin = True
    reserved = 0 if draw(often) else draw(st.integers(0, 7))
    if opcode == 8:
        payload = b"" if not draw(often) else draw(st.integers(990, 5010)).to_bytes(2, "big")
        payload += draw(st.text(max_size=5)).encode() if draw(often) else draw(st.binary(max_size=3))
    elif opcode < 3 and draw(st.booleans()):
        payload = draw(st.text(max_size=50)).encode()
        payload = payload[: draw(st.integers(0, len(payload)))]
    else:
        payload = draw(st.binary(max_size=125 if draw(often) else SMALL + 20))
    size = len(payload) if draw(often) else draw(st.sampled_from([SMALL, SMALL + 1, 1 << 32, 1 << 63]))
    width = 0 if size < 126 else 2 if size < 65536 else 8
    if not draw(often):
        width = max(width, draw(st.sampled_from([0, 2, 8])))
    has_mask = masked if draw(often) else not masked
    head = bytes([fin << 7 | reserved << 4 | opcode, has_mask << 7 | {0: size, 2: 126, 8: 127}[width]])
    head += size.to_bytes(width, "big") if width else b""
    return head + (draw(masks) if has_mask else b"") + payload
