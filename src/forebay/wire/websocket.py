"""WebSocket messages from bytes and back, without any I/O: RFC 6455.

:class:`MessageReader` reads one connection's bytes and calls a :class:`MessageSink`; :func:`encode_message`,
:func:`encode_close` and :func:`encode_frame` write frames. Compression (RFC 7692) is in :mod:`forebay.wire.deflate`.

A payload is unmasked and checked as it arrives: text that is not UTF-8 is refused at its first bad byte, a message that
is too long by the length in its frame's header, before any of its payload is kept. A compressed message is inflated,
and its text checked, once it is complete.
"""

from __future__ import annotations

from codecs import utf_8_decode
from typing import Protocol

from forebay.errors import WebSocketError
from forebay.wire.deflate import Inflater
from forebay.wire.frames import (
    BINARY,
    CLOSE,
    FIN,
    LONGEST_CONTROL,
    PING,
    PONG,
    RSV1,
    TEXT,
    WHOLE_BINARY,
    WHOLE_TEXT,
    Opcode,
    decode_close,
    encode_close,
    encode_frame,
    encode_message,
    may_close_with,
)
from forebay.wire.masking import apply_mask

__all__ = [
    "MessageReader",
    "MessageSink",
    "Opcode",
    "encode_close",
    "encode_frame",
    "encode_message",
    "may_close_with",
]

_RESERVED = 0x70
_OVER = -1


class MessageSink(Protocol):
    """What a :class:`MessageReader` reports to, from within ``feed`` and in the order of the wire."""

    def on_message(self, message: str | bytes) -> None:
        """A whole message: ``str`` for text, ``bytes`` for binary."""

    def on_ping(self, payload: bytes) -> None:
        """A ping, to be answered with a pong of the same payload; also between the fragments of a message."""

    def on_pong(self, payload: bytes) -> None:
        """A pong, asked for or not."""

    def on_close_frame(self, code: int, reason: str) -> None:
        """The peer's last frame. ``code`` is 1005 where the frame carried none; ``reason`` may be empty."""


class MessageReader:
    """One connection's bytes to messages.

    :param sink: what is called.
    :param masked: frames have to be masked, as a server requires; False: they must not be, as a client requires.
    :param max_message: bytes of the longest message accepted, all its fragments together. A longer one is refused
        with 1009 (RFC 6455 section 7.4.1).
    :param inflater: of this connection, where compression was agreed on. Its ``max_size`` bounds what a message
        becomes; its compressed bytes may be an eighth more than ``max_message``, as incompressible ones grow.

    :raises ValueError: a parameter makes no sense.
    """

    __slots__ = (
        "_before_payload",
        "_final",
        "_held",
        "_inflater",
        "_kind",
        "_left",
        "_mask",
        "_mask_bit",
        "_max",
        "_message",
        "_sink",
        "_valid",
    )

    def __init__(
        self, sink: MessageSink, *, masked: bool, max_message: int = 1 << 20, inflater: Inflater | None = None
    ) -> None:
        if max_message < 1:
            raise ValueError(f"max_message {max_message}: must be 1 byte or more")
        if inflater is not None and inflater.max_size > max_message:
            raise ValueError(f"inflater.max_size {inflater.max_size}: must be at most max_message, {max_message}")
        self._sink = sink
        self._mask_bit = 0x80 if masked else 0
        self._before_payload = 6 if masked else 2  # bytes, where the length fits into the second one
        self._max = max_message
        self._inflater = inflater
        self._held = b""  # the beginning of a frame: part of a header, or of a control frame
        self._message: bytearray | None = None  # payload of the message under way
        self._kind = 0  # of that message: TEXT or BINARY, and RSV1 where it is compressed
        self._valid = 0  # bytes at its beginning that are known to be UTF-8
        self._left = 0  # payload bytes still to come of the data frame under way; _OVER: nothing is read any more
        self._final = False  # that frame ends its message
        self._mask = b""  # of that frame, turned to its next byte

    @property
    def in_message(self) -> bool:
        """A frame, or a message of several, has begun and is not complete."""
        return self._message is not None or self._held != b""

    @property
    def buffered(self) -> int:
        """Bytes kept until more arrive: at most those of the longest message and 131."""
        return len(self._held) + (0 if self._message is None else len(self._message))

    def feed(self, data: bytes) -> None:
        """Report what ``data`` completes.

        After a close frame, an error, or an exception of the sink's, everything is ignored: RFC 6455 section 5.5.1.

        :raises WebSocketError: the peer broke the protocol (``code`` 1002), sent text that is not UTF-8 or compressed
            data that is not (1007), or too long a message (1009). What came before it was reported.
        """
        try:
            at = 0
            if self._left:
                if self._left == _OVER:
                    return
                at = self._take_payload(data, 0)
            elif self._held:
                data = self._held + data
                self._held = b""
            size = len(data)
            mask_bit = self._mask_bit
            while size - at > 1:
                first = data[at]
                length = data[at + 1] ^ mask_bit
                begin = at + self._before_payload
                if length > 125:
                    begin, length = self._long_header(data, at, length)
                end = begin + length
                if end <= size and self._message is None and length <= self._max:
                    if first == WHOLE_BINARY:
                        payload = data[begin:end]
                        if mask_bit:
                            payload = apply_mask(payload, data[begin - 4 : begin])
                        at = end
                        self._sink.on_message(payload)
                        continue
                    if first == WHOLE_TEXT:
                        payload = data[begin:end]
                        if mask_bit:
                            payload = apply_mask(payload, data[begin - 4 : begin])
                        at = end
                        try:
                            text = payload.decode()
                        except UnicodeDecodeError as error:
                            raise _not_text(error, 0) from None
                        self._sink.on_message(text)
                        continue
                self._check(first, length)
                if begin > size:
                    break
                if first & 0x0F < CLOSE:
                    at = self._frame(first, data, begin, length)
                elif end > size:
                    break
                else:
                    self._control(first & 0x0F, data, begin, end)
                    if self._left == _OVER:
                        return
                    at = end
            if at < size:
                self._held = data[at:]
        except BaseException:
            self._end()
            raise

    def _long_header(self, data: bytes, at: int, length: int) -> tuple[int, int]:
        """Where the payload begins and its length, by a header that is longer than two bytes and a mask.

        A length of which not all bytes are there yet is 0.
        """
        if length == 126:
            width, least = 2, 126
        elif length == 127:
            width, least = 8, 65536
        elif self._mask_bit:
            raise WebSocketError("a frame that is not masked: a client must mask every frame")
        else:
            raise WebSocketError("a masked frame: a server must not mask")
        begin = at + self._before_payload + width
        encoded = data[at + 2 : at + 2 + width]
        if len(encoded) < width:
            return begin, 0
        length = int.from_bytes(encoded, "big")
        if length < least:
            raise WebSocketError(f"a length of {length} in {width + 1} bytes: must be sent in the fewest")
        if length >> 63:
            raise WebSocketError(f"a length of {length}: must be less than 2**63")
        return begin, length

    def _check(self, first: int, length: int) -> None:
        """Refuse a frame by its header: one that no frame may have, or none here, or too long."""
        opcode = first & 0x0F
        if reserved := first & _RESERVED:
            if self._inflater is None:
                raise WebSocketError(f"reserved bits {reserved >> 4:03b}: must be 0, as no extension uses them here")
            if reserved != RSV1:
                raise WebSocketError(f"reserved bits {reserved >> 4:03b}: only RSV1 may be set, by compression")
            if opcode not in (TEXT, BINARY):
                raise WebSocketError(f"RSV1 on a frame of opcode {opcode}: only the first of a message may carry it")
        if opcode > PONG or BINARY < opcode < CLOSE:
            raise WebSocketError(f"opcode {opcode}: must be 0, 1, 2, 8, 9 or 10")
        if opcode >= CLOSE:
            if first < FIN:
                raise WebSocketError(f"a control frame of opcode {opcode} without FIN: must not be fragmented")
            if length > LONGEST_CONTROL:
                raise WebSocketError(f"a control frame of {length} bytes: the most is {LONGEST_CONTROL}")
            return
        message = self._message
        if opcode:
            if message is not None:
                raise WebSocketError(f"a frame of opcode {opcode} within a message: its fragments must have opcode 0")
            total, kind = length, first
        else:
            if message is None:
                raise WebSocketError("a continuation frame without a message to continue: must have opcode 1 or 2")
            total, kind = len(message) + length, self._kind
        if total > self._max and (not kind & RSV1 or total > self._max + (self._max >> 3) + 64):
            raise WebSocketError(f"a message of {total} bytes or more: the most is {self._max}", code=1009)

    def _frame(self, first: int, data: bytes, begin: int, length: int) -> int:
        """Take a data frame whose header is complete, or as much of it as there is. Gives where to go on."""
        if self._message is None:
            self._message = bytearray()
            self._kind = first & (0x0F | RSV1)
        self._left = length
        self._final = first >= FIN
        if self._mask_bit:
            self._mask = data[begin - 4 : begin]
        return self._take_payload(data, begin)

    def _take_payload(self, data: bytes, at: int) -> int:
        """Take what ``data`` has, from ``at`` on, of the payload of the data frame under way. Gives where it ends."""
        message = self._message
        assert message is not None
        payload = data[at : at + self._left]
        taken = len(payload)
        if self._mask_bit:
            mask = self._mask
            message += apply_mask(payload, mask)
            turn = taken & 3
            self._mask = mask[turn:] + mask[:turn]
        else:
            message += payload
        self._left -= taken
        if self._final and not self._left:
            self._complete(message)
        elif self._kind == TEXT and taken:
            try:
                self._valid += utf_8_decode(message[self._valid :], "strict", False)[1]
            except UnicodeDecodeError as error:
                raise _not_text(error, self._valid) from None
        return at + taken

    def _complete(self, payload: bytearray) -> None:
        """Report the message whose last frame is complete."""
        self._message = None
        self._mask = b""
        self._valid = 0
        data: bytes | bytearray = payload
        if self._kind & RSV1:
            assert self._inflater is not None
            data = self._inflater.decompress(payload)
        if self._kind & TEXT:
            try:
                message: str | bytes = data.decode()
            except UnicodeDecodeError as error:
                raise _not_text(error, 0) from None
        else:
            message = bytes(data)
        self._sink.on_message(message)

    def _control(self, opcode: int, data: bytes, begin: int, end: int) -> None:
        """Report a control frame, which is complete."""
        payload = data[begin:end]
        if self._mask_bit:
            payload = apply_mask(payload, data[begin - 4 : begin])
        if opcode == PING:
            self._sink.on_ping(payload)
        elif opcode == PONG:
            self._sink.on_pong(payload)
        else:
            code, reason = decode_close(payload)
            self._end()
            self._sink.on_close_frame(code, reason)

    def _end(self) -> None:
        """Read nothing any more, and keep nothing."""
        self._left = _OVER
        self._held = self._mask = b""
        self._message = self._inflater = None


def _not_text(error: UnicodeDecodeError, before: int) -> WebSocketError:
    return WebSocketError(f"text that is not UTF-8, at byte {before + error.start} ({error.reason})", code=1007)
