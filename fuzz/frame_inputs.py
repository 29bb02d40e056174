"""Streams of frames to fuzz with: by hypothesis, and to begin with."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from hypothesis import strategies as st

from forebay.wire.deflate import DeflateParameters, Deflater
from forebay.wire.websocket import encode_frame
from fuzz.target import encode
from tests.wire.websockets_reference import SMALL, conversations, cut, masks, odd_frames

MASKED = 1
"""The flag of an input that a client sends; the others are a server's."""

AGREED: tuple[DeflateParameters | None, ...] = (
    None,
    DeflateParameters(False, False, 15, 15, 3, 5, 0),
    DeflateParameters(True, True, 15, 15, 3, 5, 0),
    DeflateParameters(False, False, 9, 9, 3, 5, 0),
)
"""What may be agreed on of compression: which of these, the flags above the lowest say."""

_MASK = b"\x01\x80\x7f\x20"
_TEXTS = [b"", b"a", "ä€😀".encode(), b"x" * 130, b"\xff", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\x80", b"a\xe2"]
_TAIL = b"\x00\x00\xff\xff"

WORDS = (
    *(bytes([first]) for first in (0x00, 0x80, 0x01, 0x81, 0x02, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0xC2, 0x41, 0x42, 0xA1)),
    *(bytes([first, second]) for first in (0x81, 2, 0x80, 0x89, 0xC1, 0x88) for second in (0, 128, 125, 126, 254, 255)),
    *(b"\x00\x7e", b"\x01\x2c", b"\x01\x2d", b"\x00\x7d", b"\x03\xe8", b"\x03\xed", b"\x0b\xb8", b"\x13\x88"),
    b"\x80" + bytes(7),
    *(text for text in _TEXTS if 0 < len(text) < 20),
    *(_TAIL, b"\x00" + _TAIL, b"\x03\x00", b"\x01\x00\x00\xff\xff", bytes.fromhex("f248cdc9c90700")),
)  # fmt: skip


def _compressed(payload: bytes, how: int) -> bytes:
    """A message's compressed payload as peers may make it: RFC 7692 section 7.2.3."""
    compressor = zlib.compressobj(how % 10, zlib.DEFLATED, -15 if how % 3 else -9)
    if how % 5 == 0:  # several blocks
        half = len(payload) // 2
        packed = compressor.compress(payload[:half]) + compressor.flush(zlib.Z_FULL_FLUSH)
        return packed + compressor.compress(payload[half:]) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
    if how % 5 == 1:  # the last block says that it is the last
        return compressor.compress(payload) + compressor.flush(zlib.Z_FINISH) + b"\x00"
    if how % 5 == 2:  # which must be followed by an empty one
        return compressor.compress(payload) + compressor.flush(zlib.Z_FINISH)
    return compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]


@st.composite
def _compressed_messages(draw: st.DrawFn, parameters: DeflateParameters, *, masked: bool) -> bytes:
    """Messages of one connection, most compressed with its context, in fragments, with pings between them."""
    deflater = Deflater(parameters, "client" if masked else "server")
    stream = b""

    def frame(opcode: int, payload: bytes, fin: bool = True, rsv1: bool = False) -> bytes:
        return encode_frame(opcode, payload, fin=fin, rsv1=rsv1, mask=draw(masks) if masked else None)

    sizes = st.sampled_from([0, 1, 20, SMALL - 1, SMALL, SMALL + 1, 400, 1000])
    for _ in range(draw(st.integers(1, 4))):
        opcode = draw(st.sampled_from([1, 2]))
        payload = draw(
            st.text(max_size=60).map(str.encode)
            | st.sampled_from(_TEXTS)
            | st.builds(lambda size, byte: bytes([byte]) * size, sizes, st.integers(0, 127))
            | st.builds(lambda size, step: bytes(at * step % 251 for at in range(size)), sizes, st.integers(1, 250))
        )
        how = draw(st.integers(-6, 29))
        packed = payload if how == -1 else _compressed(payload, how) if how >= 0 else deflater.compress(payload)
        if how >= 0 and not draw(st.integers(0, 3)):
            at = draw(st.integers(0, len(packed)))
            packed = packed[:at] + draw(st.binary(max_size=2)) + packed[at + draw(st.integers(0, 2)) :]
        parts = cut(packed, draw(st.lists(st.integers(0, 400), max_size=3)))
        for number, part in enumerate(parts):
            if not draw(st.integers(0, 5)):
                stream += frame(draw(st.sampled_from([8, 9, 10])), b"")
            compressed = how != -1 and (number == 0 or not draw(st.integers(0, 19)))
            stream += frame(opcode if number == 0 else 0, part, number == len(parts) - 1, compressed)
    return stream


@st.composite
def inputs(draw: st.DrawFn) -> bytes:
    """A conversation, odd frames or compressed messages, perhaps changed in a few places."""
    masked = draw(st.booleans())
    agreed = draw(st.integers(0, 3))
    parameters = AGREED[agreed]
    if parameters is not None and draw(st.integers(0, 2)):
        stream = bytearray(draw(_compressed_messages(parameters, masked=masked)))
    elif draw(st.booleans()):
        stream = bytearray(draw(conversations(masked=masked))[0])
    else:
        stream = bytearray().join(draw(st.lists(odd_frames(masked=masked), max_size=6)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, len(stream)))
        if draw(st.booleans()):
            stream[at : at + 1] = draw(st.sampled_from(WORDS) | st.binary(max_size=3))
        elif at < len(stream):
            stream[at] ^= 1 << draw(st.integers(0, 7))
    if not draw(st.integers(0, 4)):
        del stream[draw(st.integers(0, len(stream))) :]
    places = draw(st.lists(st.integers(0, max(1, len(stream))), max_size=7))
    return encode(agreed << 1 | masked, places, bytes(stream))


def seeds() -> Sequence[bytes]:
    """Frames of every kind, plain and compressed, of both sides."""
    made = []
    for masked in (0, 1):
        mask = _MASK if masked else None
        streams = [(0, stream) for stream in _plain(mask)]
        for agreed in (1, 2, 3):
            streams += [(agreed, stream) for stream in _packed(mask, agreed)]
        for number, (agreed, stream) in enumerate(streams):
            made.append(encode(agreed << 1 | masked, [1, 3, 9][: number % 4], stream))
    return made


def _plain(mask: bytes | None) -> Sequence[bytes]:
    hello = encode_frame(1, b"Hello", mask=mask)
    streams = [encode_frame(opcode, text, mask=mask) + hello for text in _TEXTS for opcode in (1, 2)]
    streams += [
        encode_frame(1, text[:1], fin=False, mask=mask) + encode_frame(0, text[1:], mask=mask) for text in _TEXTS
    ]
    streams += [encode_frame(opcode, b"", mask=mask) for opcode in range(11)]
    streams += [encode_frame(2, bytes(size), mask=mask) for size in (125, 126, SMALL, SMALL + 1)]
    streams += [encode_frame(2, bytes(size), mask=mask)[:10] for size in (SMALL, SMALL + 1)]
    streams += [
        encode_frame(8, code.to_bytes(2, "big") + b"bye", mask=mask) + hello for code in (999, 1000, 1005, 3000, 5000)
    ]
    streams += [
        encode_frame(8, payload, mask=mask) for payload in (b"", b"\x03", b"\x03\xe8\xff", b"\x03\xe8" + b"x" * 123)
    ]
    inner = [encode_frame(opcode, payload, mask=mask) for opcode, payload in ((9, b"ping"), (8, b""), (8, b"\x03"))]
    begin, end = encode_frame(1, b"a", fin=False, mask=mask), encode_frame(0, b"b", mask=mask)
    longest = encode_frame(2, bytes(SMALL - 1), fin=False, mask=mask)
    streams += [longest + encode_frame(9, b"ping", mask=mask) + end]
    streams += [begin + each + end for each in (*inner, hello, encode_frame(0, b"", fin=False, mask=mask))]
    first, rest = hello[:1], (mask or b"") + bytes(5)
    bit = 0x80 if mask else 0
    streams += [first + bytes([bit | 126, 0, 5]) + rest, first + bytes([bit | 127, *bytes(7), 5]) + rest]
    streams += [first + bytes([bit | 127, 0x80, *bytes(7)]), first + bytes([bit ^ 0x80, 0]) + bytes(5)]
    streams += [bytes([head, bit]) + (mask or b"") for head in (0xC1, 0xA1, 0x91, 0xC9, 0xC0, 0x09, 0x08, 0x83, 0x8B)]
    return streams


def _packed(mask: bytes | None, agreed: int) -> Sequence[bytes]:
    parameters = AGREED[agreed]
    assert parameters is not None
    streams = []
    for how in range(30):
        stream = b""
        deflater = Deflater(parameters, "client" if mask else "server")
        for number, payload in enumerate((_TEXTS[how % len(_TEXTS)], b"forebay " * 30, bytes(SMALL + how % 3 - 1))):
            packed = _compressed(payload, how) if number == how % 2 else deflater.compress(payload)
            half = len(packed) * (how % 4) // 4
            if how % 4:
                stream += encode_frame(2, packed[:half], fin=False, rsv1=True, mask=mask)
                stream += encode_frame(0, packed[half:], rsv1=how == 7, mask=mask)
            else:
                stream += encode_frame(1, packed, rsv1=True, mask=mask)
        streams.append(stream)
    # Noise, and a reference to it over 560 bytes. zlib's window of 9 bits has 512.
    far = zlib.compressobj(9, zlib.DEFLATED, -15)
    noise = bytes(at * at * 7 % 251 for at in range(60))
    for payload in (noise + bytes(200), b"y" * 200, b"z" * 100 + noise):
        packed = (far.compress(payload) + far.flush(zlib.Z_SYNC_FLUSH))[:-4]
        stream = b"" if payload[:1] == noise[:1] else stream
        half = len(packed) // 2
        stream += encode_frame(2, packed[:half], fin=False, rsv1=True, mask=mask)
        stream += encode_frame(0, packed[half:], mask=mask)
    streams.append(stream)
    hello = encode_frame(1, bytes.fromhex("f248cdc9c90700"), rsv1=True, mask=mask)
    streams.append(hello + encode_frame(1, b"", rsv1=True, mask=mask) + hello)
    zeros = encode_frame(1, bytes.fromhex("626018054486000100"), fin=False, rsv1=True, mask=mask)  # 330 of them
    streams.append(zeros + encode_frame(0, b"", mask=mask))
    return streams
