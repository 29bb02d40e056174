"""The binary framings one by one: what is on the wire, what is refused, and in which words."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import FrameTooLong, FramingError
from forebay.wire.framing import Delimited, Fixed, Framing, LengthPrefixed, Varint
from tests.wire.codecs import read


@pytest.mark.parametrize(
    ("framing", "wire", "message"),
    [
        (LengthPrefixed(2), "0002 6869", "6869"),
        (LengthPrefixed(2, "little"), "0200 6869", "6869"),
        (LengthPrefixed(3), "000002 6869", "6869"),
        (LengthPrefixed(3, "little"), "020000 6869", "6869"),
        (LengthPrefixed(8), "0000000000000002 6869", "6869"),
        (LengthPrefixed(2, inclusive=True), "0004 6869", "6869"),
        (LengthPrefixed(2, strip=0), "0002 6869", "00026869"),
        (LengthPrefixed(1, offset=1), "0702 6869", "07026869"),
        (LengthPrefixed(1, offset=1, strip=2), "0002 6869", "6869"),
        (LengthPrefixed(1, adjustment=1), "02 6869d1", "6869d1"),
        # the examples of Netty's LengthFieldBasedFrameDecoder, with its "HELLO, WORLD" cut to "HI"
        (LengthPrefixed(2, strip=0, inclusive=True), "0004 4849", "00044849"),
        (LengthPrefixed(3, offset=2), "cafe 000002 4849", "cafe0000024849"),
        (LengthPrefixed(3, adjustment=2, strip=0), "000002 cafe 4849", "000002cafe4849"),
        (LengthPrefixed(2, offset=1, adjustment=1, strip=3), "00 0002 fe 4849", "fe4849"),
        (LengthPrefixed(2, offset=1, adjustment=-3, strip=3), "00 0006 fe 4849", "fe4849"),
    ],
    ids=repr,
)
def test_length_prefixed_on_the_wire(framing: LengthPrefixed, wire: str, message: str) -> None:
    """Each message is written and read as documented, whole and byte by byte."""
    data, expected = bytes.fromhex(wire), bytes.fromhex(message)
    assert framing.encode(expected) == data
    assert read(framing, [data]) == ([expected], None)
    assert read(framing, [data[at : at + 1] for at in range(len(data))]) == ([expected], None)


def test_the_length_in_a_message_s_own_header_is_filled_in() -> None:
    """Whoever writes a header need not count: the length's place may hold anything."""
    assert LengthPrefixed(2, offset=1).encode(b"\x07\xff\xffbody") == b"\x07\x00\x04body"


@given(st.lists(st.binary(max_size=300), max_size=20), st.sampled_from(["B", "H", "I", "Q"]), st.sampled_from("<>"))
def test_length_prefixed_beside_struct(messages: list[bytes], letter: str, order: str) -> None:
    """For the widths that struct has, the bytes are struct's."""
    messages = [message[:255] for message in messages]
    framing = LengthPrefixed(struct.calcsize("=" + letter), "little" if order == "<" else "big")
    stream = b"".join(struct.pack(order + letter, len(message)) + message for message in messages)
    assert b"".join(map(framing.encode, messages)) == stream
    assert read(framing, [stream]) == (messages, None)


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 8])
def test_length_prefixed_maximum(width: int, views: bool) -> None:
    """A message of the maximum passes; one byte more is refused from its header, before it comes."""
    framing = LengthPrefixed(width, maximum=200, views=views)
    assert read(framing, [framing.encode(b"x" * 200)])[0] == [b"x" * 200]
    header = framing.encode(b"x" * 201)[:width]
    for chunks in ([header], [header + b"x" * 201], [header[:1], header[1:]]):
        messages, error = read(framing, chunks)
        assert messages == []
        assert isinstance(error, FrameTooLong)
        assert "201 bytes" in str(error)


@pytest.mark.parametrize(
    ("framing", "length"),
    [
        (LengthPrefixed(2, inclusive=True), 1),
        (LengthPrefixed(2, offset=2, inclusive=True), 3),
        (LengthPrefixed(2, adjustment=-5), 4),
    ],
    ids=repr,
)
def test_a_length_that_ends_before_its_header_is_refused(framing: LengthPrefixed, length: int) -> None:
    """It would make the reader go backwards, or stand still forever."""
    data = bytes(framing.offset) + length.to_bytes(2, "big") + b"later"
    messages, error = read(framing, [data])
    assert messages == []
    assert "after its header" in str(error)
    smallest = bytes(framing.offset) + (length + 1).to_bytes(2, "big")
    assert read(framing, [smallest]) == ([smallest[framing.strip :]], None)


def test_good_frames_before_a_bad_one_are_not_lost() -> None:
    """They are returned, and the error is set."""
    decoder = LengthPrefixed(1, maximum=5).decoder()
    assert decoder.feed(b"\x01a\x00\x06bcdefg") == [b"a", b""]
    assert isinstance(decoder.error, FrameTooLong)
    assert decoder.pending == 0
    with pytest.raises(FrameTooLong):
        decoder.feed(b"\x01a")


@pytest.mark.parametrize(
    ("framing", "message"),
    [
        (LengthPrefixed(1), bytes(256)),
        (LengthPrefixed(3), bytes(1 << 24)),
        (LengthPrefixed(1, inclusive=True), bytes(255)),
        (LengthPrefixed(1, adjustment=4), b"123"),
        (LengthPrefixed(3, adjustment=4), b"123"),
        (LengthPrefixed(1, offset=1), b"1"),
        (LengthPrefixed(2, strip=0), b"1"),
        (LengthPrefixed(2, strip=0, adjustment=-5), b"1"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_a_length_cannot_say_is_refused(framing: LengthPrefixed, message: bytes) -> None:
    """Too long for the width, shorter than the adjustment, or without room for the length."""
    with pytest.raises(ValueError, match=f"a message of {len(message)} bytes has"):
        framing.encode(message)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 5}, "width 5: must be 1, 2, 3, 4 or 8"),
        ({"byteorder": "middle"}, "byteorder 'middle': must be 'big' or 'little'"),
        ({"offset": -1}, "offset -1: must be at least 0"),
        ({"strip": 5}, "strip 5: must be 0 to offset \\+ width, which is 4"),
        ({"strip": -1}, "strip -1: must be"),
        ({"maximum": 0}, "maximum 0: must be at least 1"),
        ({"offset": 4, "maximum": 7}, "maximum 7: must be at least 8"),
    ],
)
def test_bad_parameters_of_length_prefixed(options: dict[str, Any], words: str) -> None:
    """They are refused when the framing is made, with what would be right."""
    with pytest.raises(ValueError, match=f"^LengthPrefixed {words}"):
        LengthPrefixed(**options)


@given(st.integers(0, 70_000))
def test_varint_lengths(length: int) -> None:
    """A length of any size is written in the fewest bytes, and read over any cut of it."""
    framing = Varint(70_000)
    data = framing.encode(bytes(length))
    size = len(data) - length
    assert size == max(1, (length.bit_length() + 6) // 7)
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data[:size])) == length
    for at in range(size + 1):
        assert read(framing, [data[:at], data[at:]]) == ([bytes(length)], None)


def test_varint_of_protobuf() -> None:
    """The example of protobuf's documentation: 150 is 96 01."""
    assert Varint().encode(bytes(150))[:2] == b"\x96\x01"


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"\x80\x00", FramingError, "more bytes than it needs"),
        (b"\x85\x00x", FramingError, "more bytes than it needs"),
        (b"\xad\x02", FrameTooLong, "longer than 300 bytes"),
        (b"\x80\x80", FrameTooLong, "more than the 2 bytes that 300 needs"),
        (b"\xff" * 20, FrameTooLong, "300"),
    ],
)
def test_bad_varints(data: bytes, kind: type[FramingError], words: str) -> None:
    """A length that is padded, too large or endless is refused, in whatever pieces it comes."""
    for chunks in ([data], [data[at : at + 1] for at in range(len(data))]):
        messages, error = read(Varint(300), chunks)
        assert messages == []
        assert type(error) is kind
        assert words in str(error)


def test_the_smallest_maximum_of_varint_holds_for_short_messages() -> None:
    """One byte is enough to be too long."""
    framing = Varint(1)
    assert read(framing, [b"\x01a"]) == ([b"a"], None)
    assert isinstance(read(framing, [b"\x02ab"])[1], FrameTooLong)


def test_fixed() -> None:
    """Messages of the size and of no other."""
    framing = Fixed(3)
    assert framing.size == framing.maximum == 3
    assert read(framing, [b"ab", b"cdef", b"gh"]) == ([b"abc", b"def"], None)
    decoder = framing.decoder()
    decoder.feed(b"ab")
    with pytest.raises(FramingError, match="2 bytes"):
        decoder.eof()
    for message in (b"ab", b"abcd"):
        with pytest.raises(ValueError, match="every message has 3"):
            framing.encode(message)


@pytest.mark.parametrize("cut", [1, 2, 3, 100])
@pytest.mark.parametrize("views", [False, True])
def test_delimited_maximum(cut: int, views: bool) -> None:
    """A message of exactly the maximum passes, one byte more does not, whole or in pieces."""
    framing = Delimited(b"::", 5, views=views)
    for data, expected in ((b"12345::", [b"12345"]), (b"123456::", []), (b"1234567", [])):
        messages, error = read(framing, [data[i : i + cut] for i in range(0, len(data), cut)])
        assert messages == expected
        assert isinstance(error, FrameTooLong) == (not expected)


def test_delimited_takes_the_first_delimiter_there_is() -> None:
    """One that overlaps itself ends a message as early as it can; what could be read otherwise is not sent."""
    framing = Delimited(b"aa")
    assert read(framing, [b"xaaa", b"a"]) == ([b"x", b""], None)
    for message in (b"xa", b"xaax"):
        with pytest.raises(ValueError, match="delimiter"):
            framing.encode(message)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Delimited(b""), "Delimited delimiter b'': must be one byte or more"),
        (lambda: Delimited("\n"), "Delimited delimiter '\\\\n': must be"),  # type: ignore[arg-type]  # what is refused
        (lambda: Delimited(b";", 0), "Delimited maximum 0: must be at least 1"),
        (lambda: Fixed(0), "Fixed size 0: must be at least 1"),
        (lambda: Varint(0), "Varint maximum 0: must be at least 1"),
    ],
)
def test_bad_parameters_of_the_others(make: Any, words: str) -> None:
    """They are refused when the framing is made."""
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("framing", [Delimited(b";"), Fixed(9), LengthPrefixed(offset=1), Varint()], ids=repr)
def test_repr_is_how_it_is_made(framing: Framing) -> None:
    """What ``repr`` shows makes the same framing."""
    assert repr(eval(repr(framing))) == repr(framing)
