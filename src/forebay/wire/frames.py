"""WebSocket frames, written: RFC 6455 section 5.2. What they are and which close codes there are; public by way of
:mod:`forebay.wire.websocket`.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

from forebay.errors import WebSocketError
from forebay.wire.deflate import Deflater
from forebay.wire.masking import apply_mask

__all__ = ["Opcode", "decode_close", "encode_close", "encode_frame", "encode_message", "may_close_with"]


class Opcode(IntEnum):
    """What a frame is: RFC 6455 section 11.8."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


# Plain integers, as every frame is compared with them and an enumeration's members are slow to reach.
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FIN = 0x80
RSV1 = 0x40
WHOLE_TEXT = FIN | TEXT
WHOLE_BINARY = FIN | BINARY
LONGEST_CONTROL = 125  # bytes of a control frame's payload: RFC 6455 section 5.5
_NO_CODE = 1005  # stands for a close frame without a code, and is never sent: RFC 6455 section 7.4.1

_HEAD = Struct("!BB").pack
_HEAD_16 = Struct("!BBH").pack
_HEAD_64 = Struct("!BBQ").pack
_CODE = Struct("!H")
_SHORT_TEXT = tuple(_HEAD(WHOLE_TEXT, size) for size in range(126))
_SHORT_BINARY = tuple(_HEAD(WHOLE_BINARY, size) for size in range(126))


def may_close_with(code: int) -> bool:
    """Whether ``code`` may stand in a close frame: RFC 6455 section 7.4 and the registry of section 11.7."""
    return 3000 <= code <= 4999 or 1000 <= code <= 1003 or 1007 <= code <= 1014


def decode_close(payload: bytes) -> tuple[int, str]:
    """The code and the reason of a close frame; 1005 where it has none."""
    if not payload:
        return _NO_CODE, ""
    if len(payload) == 1:
        raise WebSocketError("a close frame of 1 byte: must be empty, or begin with a code of two")
    (code,) = _CODE.unpack_from(payload)
    if not may_close_with(code):
        raise WebSocketError(f"close code {code}: must be 1000 to 1003, 1007 to 1014 or 3000 to 4999")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError as error:
        raise WebSocketError(f"a close reason that is not UTF-8, at byte {error.start}", code=1007) from None


def encode_frame(
    opcode: int, payload: bytes, *, fin: bool = True, rsv1: bool = False, mask: bytes | None = None
) -> bytes:
    """One frame.

    :param mask: four random bytes, as a client has to give; None leaves the payload as it is, as a server has to.

    :raises ValueError: a control frame of more than 125 bytes, or without ``fin``.
    """
    first = opcode | (FIN if fin else 0) | (RSV1 if rsv1 else 0)
    size = len(payload)
    if opcode >= CLOSE and (size > LONGEST_CONTROL or not fin):
        raise ValueError(f"a control frame of {size} bytes, fin={fin}: must be at most {LONGEST_CONTROL}, with fin")
    mask_bit = 0 if mask is None else 0x80
    if size < 126:
        head = _HEAD(first, mask_bit | size)
    elif size < 65536:
        head = _HEAD_16(first, mask_bit | 126, size)
    else:
        head = _HEAD_64(first, mask_bit | 127, size)
    if mask is None:
        return head + payload
    return b"%b%b%b" % (head, mask, apply_mask(payload, mask))


def encode_message(message: str | bytes, deflater: Deflater | None = None, mask: bytes | None = None) -> bytes:
    """A whole message in one frame: text for ``str``, binary for ``bytes``.

    :param deflater: of this connection, where compression was agreed on.
    :param mask: as for :func:`encode_frame`.

    :raises UnicodeEncodeError: a ``str`` with lone surrogates, which UTF-8 has no bytes for.
    """
    if isinstance(message, str):
        payload = message.encode()
        opcode = TEXT
    else:
        payload = message
        opcode = BINARY
    if deflater is not None and len(payload) >= deflater.min_size:
        compressed = deflater.compress(payload)
        if deflater.keeps_context or len(compressed) < len(payload):
            return encode_frame(opcode, compressed, rsv1=True, mask=mask)
    if mask is None and len(payload) < 126:
        return (_SHORT_TEXT if opcode == TEXT else _SHORT_BINARY)[len(payload)] + payload
    return encode_frame(opcode, payload, mask=mask)


def encode_close(code: int, reason: str = "", mask: bytes | None = None) -> bytes:
    """A close frame. A close frame without a code is ``encode_frame(Opcode.CLOSE, b"")``.

    :param reason: cut to 123 bytes of UTF-8, between characters.

    :raises ValueError: a code that must not be sent, such as 1005, 1006 or 1015.
    """
    if not may_close_with(code):
        raise ValueError(f"close code {code}: must be 1000 to 1003, 1007 to 1014 or 3000 to 4999")
    text = reason.encode(errors="replace")
    if len(text) > LONGEST_CONTROL - 2:
        text = text[: LONGEST_CONTROL - 2].decode(errors="ignore").encode()
    return encode_frame(CLOSE, _CODE.pack(code) + text, mask=mask)
