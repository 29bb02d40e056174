"""WebSocket frames: every message however it is cut, everything that is refused, and what it costs to keep and to read.

The library ``websockets`` is asked for a second opinion on any stream.
"""

from __future__ import annotations

import codecs
import gc
import runpy
import sys
import tracemalloc
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError as TheirProtocolError
from websockets.frames import Close, Frame
from websockets.frames import Opcode as TheirOpcode

from forebay.errors import WebSocketError
from forebay.wire import masking
from forebay.wire.deflate import DeflateParameters, Inflater
from forebay.wire.masking import apply_mask, apply_mask_by_integers
from forebay.wire.websocket import (
    MessageReader,
    Opcode,
    encode_close,
    encode_frame,
    encode_message,
    may_close_with,
)
from tests.wire.websockets_reference import (
    SMALL,
    Event,
    Heard,
    Reference,
    conversations,
    cut,
    masks,
    odd_frames,
    places,
    read,
)

MASK = bytes.fromhex("37fa213d")
PLAIN = DeflateParameters(False, False, 15, 15, 3, 5, 0)


# --- what is on the wire


@pytest.mark.parametrize(
    ("wire", "masked", "events"),
    [
        ("8105 48656c6c6f", False, [("message", "Hello")]),
        ("8185 37fa213d 7f9f4d5158", True, [("message", "Hello")]),
        ("0103 48656c 8002 6c6f", False, [("message", "Hello")]),
        ("8905 48656c6c6f", False, [("ping", b"Hello")]),
        ("8a85 37fa213d 7f9f4d5158", True, [("pong", b"Hello")]),
        ("827e0100" + "5a" * 256, False, [("message", b"Z" * 256)]),
        ("827f0000000000010000" + "5a" * 65536, False, [("message", b"Z" * 65536)]),
        ("8100", False, [("message", "")]),
        ("8280 01020304", True, [("message", b"")]),
        ("0100 0000 8000", False, [("message", "")]),
        ("8800", False, [("close", 1005, "")]),
        ("8802 03e8", False, [("close", 1000, "")]),
        ("0103 48656c 8805 03e9 627965", False, [("close", 1001, "bye")]),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_the_examples_of_rfc_6455(wire: str, masked: bool, events: list[Event]) -> None:
    """Those of its section 5.7, and the shortest frames there are, whole and byte by byte."""
    data = bytes.fromhex(wire)
    assert read([data], masked=masked, max_message=1 << 20) == (events, None)
    assert read([data[at : at + 1] for at in range(len(data))], masked=masked, max_message=1 << 20) == (events, None)


@given(st.sampled_from(list(Opcode)), st.binary(max_size=125) | st.binary(max_size=SMALL), st.booleans(), st.booleans())
def test_a_frame_is_written_as_websockets_writes_it(opcode: Opcode, payload: bytes, fin: bool, rsv1: bool) -> None:
    """The same bytes, and the same refusal of control frames that are too long or fragmented."""
    try:
        theirs = Frame(TheirOpcode(opcode), payload, fin).serialize(mask=False)
    except TheirProtocolError:
        with pytest.raises(ValueError, match="control frame"):
            encode_frame(opcode, payload, fin=fin)
        return
    assert encode_frame(opcode, payload, fin=fin) == theirs
    assert encode_frame(opcode, payload, fin=fin, rsv1=rsv1) == bytes([theirs[0] | rsv1 << 6]) + theirs[1:]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
@pytest.mark.parametrize("mask", [None, MASK])
def test_a_message_of_any_length_comes_back(size: int, mask: bytes | None) -> None:
    """At each of the sizes where the length's encoding changes, as text and as bytes."""
    for message in ("x" * size, b"x" * size):
        wire = encode_message(message, None, mask)
        assert len(wire) == size + (2 if size < 126 else 4 if size < 65536 else 10) + (4 if mask else 0)
        assert read([wire], masked=mask is not None, max_message=65536) == ([("message", message)], None)


def test_a_close_frame_s_reason_is_cut_between_characters() -> None:
    """It fits into a control frame, and what is left of it is UTF-8."""
    assert encode_close(1000) == bytes.fromhex("880203e8")
    ((_, code, reason),) = read([encode_close(1001, "!" + "€" * 100)], masked=False)[0]
    assert (code, reason) == (1001, "!" + "€" * 40)
    assert read([encode_close(4000, "\ud800", MASK)], masked=True) == ([("close", 4000, "?")], None)


def test_close_codes_are_those_that_websockets_allows() -> None:
    """Every code, to send and to receive; one that is not allowed is refused in words that say which are."""
    for code in range(6000):
        wire = encode_frame(Opcode.CLOSE, code.to_bytes(2, "big"))
        try:
            Close(code, "").check()
        except TheirProtocolError:
            assert not may_close_with(code)
            with pytest.raises(ValueError, match=f"close code {code}: must be 1000 to 1003, 1007"):
                encode_close(code)
            events, error = read([wire], masked=False)
            assert events == []
            assert error is not None
            assert (error.code, f"close code {code}: must be" in str(error)) == (1002, True)
        else:
            assert encode_close(code) == wire
            assert read([wire], masked=False) == ([("close", code, "")], None)


# --- masking


@given(st.binary(max_size=80), masks)
def test_both_ways_to_mask(data: bytes, mask: bytes) -> None:
    """By C and by integers, each byte is exclusive-ored with its own of the mask."""
    expected = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
    assert apply_mask(data, mask) == expected
    assert apply_mask_by_integers(data, mask) == expected


def test_masking_does_without_websockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its compiled part is missing, integers are used, and messages are read all the same."""
    assert apply_mask is not apply_mask_by_integers, "the compiled part is installed with the extra dev"
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    without = runpy.run_path(masking.__file__)
    assert without["apply_mask"] is without["apply_mask_by_integers"]
    for module in ("websocket", "frames"):
        monkeypatch.setattr(f"forebay.wire.{module}.apply_mask", without["apply_mask"])
    wire = encode_message("Hellö, " * 20, None, MASK)
    for step in (1, 3, len(wire)):
        pieces = [wire[at : at + step] for at in range(0, len(wire), step)]
        assert read(pieces, masked=True) == ([("message", "Hellö, " * 20)], None)


# --- any stream, cut anywhere


@given(st.data(), st.booleans(), places)
def test_messages_however_they_are_cut(data: st.DataObject, masked: bool, where: list[int]) -> None:
    """Fragments, control frames between them, and a close frame: what was said is what is read, in its order."""
    stream, events = data.draw(conversations(masked=masked))
    assert read(cut(stream, where), masked=masked) == (events, None)
    assert read([stream], masked=masked) == (events, None)
    assert read([stream[at : at + 1] for at in range(len(stream))], masked=masked) == (events, None)


@given(st.data(), st.booleans(), places, st.none() | st.tuples(st.integers(0), st.integers(1, 255)), st.integers(0))
def test_any_stream_beside_websockets(
    data: st.DataObject, masked: bool, where: list[int], flip: tuple[int, int] | None, most: int
) -> None:
    """Any bytes, cut anywhere: both read the same and refuse the same, but for what is said below."""
    if data.draw(st.booleans()):
        stream = bytearray(data.draw(conversations(masked=masked))[0])
    else:
        stream = bytearray().join(data.draw(st.lists(odd_frames(masked=masked), max_size=6)))
    if flip and stream:
        stream[flip[0] % len(stream)] ^= flip[1]
    if most % 3 == 0:
        del stream[most % (len(stream) + 1) :]
    pieces = cut(bytes(stream), where)
    theirs = Reference(masked=masked)
    for piece in pieces:
        if not theirs.refused:
            theirs.feed(piece)
    events, error = read(pieces, masked=masked)
    if error is not None and "must be sent in the fewest" in str(error):
        # They take a length in more bytes than it needs: RFC 6455 section 5.2 has it in the fewest.
        assert theirs.events[: len(events)] == events
        return
    if events and events[-1][0] == "close" and theirs.refused and theirs.in_message:
        # They refuse a close frame within a message: RFC 6455 section 5.4 has control frames there.
        assert theirs.events in (events, events[:-1])
        return
    if error is not None:
        # We refuse a frame by its header or at its first bad byte, they once it is complete: so complete it.
        before = len(theirs.events)
        while not theirs.refused and len(theirs.events) == before:
            theirs.feed(b"\x00")
    assert events == theirs.events
    assert (error is not None) == theirs.refused


# --- what is refused

OVER = (SMALL + 1).to_bytes(2, "big").hex()


@pytest.mark.parametrize(
    ("wire", "code", "words"),
    [
        ("c100", 1002, "reserved bits 100: must be 0, as no extension uses them here"),
        ("a100", 1002, "reserved bits 010"),
        ("9900", 1002, "reserved bits 001"),
        ("8300", 1002, "opcode 3: must be 0, 1, 2, 8, 9 or 10"),
        ("8700", 1002, "opcode 7"),
        ("8b00", 1002, "opcode 11"),
        ("8f00", 1002, "opcode 15"),
        ("8180", 1002, "a masked frame: a server must not mask"),
        ("89fe", 1002, "a masked frame: a server must not mask"),
        ("0900", 1002, "a control frame of opcode 9 without FIN"),
        ("0800", 1002, "a control frame of opcode 8 without FIN"),
        ("8a7e007e", 1002, "a control frame of 126 bytes: the most is 125"),
        ("897f0000000000010000", 1002, "a control frame of 65536 bytes"),
        ("827e007d", 1002, "a length of 125 in 3 bytes"),
        ("827f000000000000ffff", 1002, "a length of 65535 in 9 bytes"),
        ("827f8000000000000000", 1002, "must be less than 2**63"),
        ("8000", 1002, "a continuation frame without a message to continue"),
        ("810161 8000", 1002, "a continuation frame without a message to continue"),
        ("010161 8100", 1002, "a frame of opcode 1 within a message"),
        ("010161 0200", 1002, "a frame of opcode 2 within a message"),
        ("880103", 1002, "a close frame of 1 byte"),
        ("880203ed", 1002, "close code 1005"),
        ("880303e8ff", 1007, "a close reason that is not UTF-8, at byte 0"),
        ("880403e8e282", 1007, "a close reason that is not UTF-8"),
        ("8102c328", 1007, "text that is not UTF-8, at byte 0"),
        ("8103eda080", 1007, "text that is not UTF-8, at byte 0"),  # a surrogate
        ("8101c3", 1007, "text that is not UTF-8, at byte 0"),
        ("0101c3 8000", 1007, "text that is not UTF-8"),
        ("0103616263 0002c328", 1007, "text that is not UTF-8, at byte 3"),
        (f"827e{OVER}", 1009, f"a message of {SMALL + 1} bytes or more: the most is {SMALL}"),
        ("817f7fffffffffffffff", 1009, "a message of 9223372036854775807 bytes"),
        (f"020161 807e{SMALL:04x}", 1009, f"a message of {SMALL + 1} bytes or more"),
    ],
)
def test_what_is_refused(wire: str, code: int, words: str) -> None:
    """Each with its code, whole and byte by byte, whatever came before it."""
    data = bytes.fromhex("8900" + wire)
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        events, error = read(pieces, masked=False)
        assert error is not None
        assert (error.code, words in str(error)) == (code, True), str(error)
        assert events == [("ping", b"")] + [("message", "a")] * wire.startswith("81016")


@pytest.mark.parametrize("wire", ["8100", "8900", "827e0100", "817f0000000000010000"])
def test_a_server_takes_no_frame_that_is_not_masked(wire: str) -> None:
    """RFC 6455 section 5.1. Two bytes are enough to tell."""
    events, error = read([bytes.fromhex(wire)[:2]], masked=True)
    assert (events, error and error.code) == ([], 1002)
    assert "a client must mask every frame" in str(error)


def test_the_longest_message_is_accepted_and_a_longer_one_by_no_way() -> None:
    """In one frame, in fragments, and in pieces; refused before any of its payload came."""
    message = b"x" * SMALL
    assert read([encode_message(message)], masked=False) == ([("message", message)], None)
    start, rest = encode_frame(2, message[:200], fin=False), message[200:]
    assert read([start + encode_frame(0, rest)], masked=False) == ([("message", message)], None)
    for data in (encode_message(message + b"x"), start + encode_frame(0, rest + b"x")):
        assert getattr(read([data], masked=False)[1], "code", None) == 1009
    head = encode_frame(0, rest + b"x", mask=MASK)[:2]
    masked_start = encode_frame(2, message[:200], fin=False, mask=MASK)
    assert read([masked_start, head[:1]], masked=True) == ([], None)
    assert getattr(read([masked_start, head], masked=True)[1], "code", None) == 1009


@given(st.text(max_size=30), st.binary(min_size=1, max_size=6), st.integers(1, 5), st.booleans(), masks)
def test_text_fails_at_its_first_bad_byte(good: str, bad: bytes, step: int, fragments: bool, mask: bytes) -> None:
    """As soon as the piece with it arrives, though its frame, or its message, has long not ended."""
    payload = good.encode() + bad
    decoder = codecs.getincrementaldecoder("utf-8")()
    reader = MessageReader(Heard(), masked=True)
    if not fragments:
        reader.feed(encode_frame(1, bytes(1000), mask=mask)[:8])
    wire = apply_mask_by_integers(payload, mask)
    for at in range(0, len(payload), step):
        piece = payload[at : at + step]
        data = encode_frame(0 if at else 1, piece, fin=False, mask=mask) if fragments else wire[at : at + step]
        try:
            decoder.decode(piece)
        except UnicodeDecodeError:
            with pytest.raises(WebSocketError, match="not UTF-8") as caught:
                reader.feed(data)
            assert caught.value.code == 1007
            return
        reader.feed(data)
    assert reader.in_message


# --- the end of reading


@pytest.mark.parametrize("end", ["8800", "8300"], ids=["close", "error"])
def test_nothing_is_read_after_the_end(end: str) -> None:
    """After a close frame or an error everything is ignored, in the same piece and in later ones."""
    heard = Heard()
    reader = MessageReader(heard, masked=False)
    data = bytes.fromhex("010161" + end + "800162 8900 8300")
    try:
        reader.feed(data)
    except WebSocketError:
        assert end == "8300"
    reader.feed(data)
    reader.feed(b"\x81")
    assert heard.events == ([("close", 1005, "")] if end == "8800" else [])
    assert (reader.in_message, reader.buffered) == (False, 0)


def test_an_exception_of_the_sink_s_ends_the_reading() -> None:
    """It reaches whoever fed, as it is, even one that decoding raises too; nothing is read twice or out of place."""

    class Failing(Heard):
        def on_message(self, message: str | bytes) -> None:
            super().on_message(message)
            b"\xff".decode()

    heard = Failing()
    reader = MessageReader(heard, masked=False)
    with pytest.raises(UnicodeDecodeError):
        reader.feed(encode_message("a") + encode_message("b"))
    reader.feed(encode_message("c"))
    assert heard.events == [("message", "a")]


@pytest.mark.parametrize("most", [0, -1])
def test_a_maximum_that_makes_no_sense_is_refused(most: int) -> None:
    """In words that say what would be right; so is an inflater that allows for more than the reader does."""
    with pytest.raises(ValueError, match=f"max_message {most}: must be 1"):
        MessageReader(Heard(), masked=True, max_message=most)
    with pytest.raises(ValueError, match=r"inflater.max_size 200: must be at most max_message, 100"):
        MessageReader(Heard(), masked=True, max_message=100, inflater=Inflater(PLAIN, "server", 200))


# --- what it costs


@pytest.mark.parametrize("kind", ["text", "binary"])
@pytest.mark.parametrize("size", [64, 65536])
def test_time_grows_with_the_bytes_alone(kind: str, size: int) -> None:
    """16 MiB in small pieces take about a second; copying what is there for each piece would take minutes."""
    heard = Heard()
    reader = MessageReader(heard, masked=True, max_message=1 << 24)
    message = "é" * (1 << 23) if kind == "text" else b"x" * (1 << 24)
    wire = encode_message(message, None, MASK)
    pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
    before = process_time()
    for piece in pieces:
        reader.feed(piece)
    assert process_time() - before < 15
    assert heard.events == [("message", message)]


@pytest.mark.parametrize("size", [0, 200])
def test_many_messages_in_one_piece(size: int) -> None:
    """Time grows with their number: what is left of the piece is not copied for each."""
    heard = Heard()
    count = (1 << 23) // (size + 6)
    wire = encode_message(b"x" * size, None, MASK) * count
    before = process_time()
    MessageReader(heard, masked=True).feed(wire)
    assert process_time() - before < 15
    assert len(heard.events) == count


def test_a_message_in_fragments_of_a_byte_takes_the_memory_of_its_bytes() -> None:
    """Not that of an object for each of them; and empty fragments take none."""
    reader = MessageReader(Heard(), masked=False)
    reader.feed(encode_frame(1, "é".encode(), fin=False))
    wire = (encode_frame(0, b"a", fin=False) + encode_frame(0, b"", fin=False)) * 50_000
    tracemalloc.start()
    try:
        reader.feed(wire)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.buffered == 50_002
    assert peak < 200_000


@given(st.data(), st.booleans(), places)
def test_nothing_is_kept_between_messages(data: st.DataObject, masked: bool, where: list[int]) -> None:
    """An idle reader holds no bytes, and is small."""
    stream, events = data.draw(conversations(masked=masked))
    heard = Heard()
    reader = MessageReader(heard, masked=masked)
    for piece in cut(stream, where):
        reader.feed(piece)
    assert heard.events == events
    assert (reader.in_message, reader.buffered) == (False, 0)
    buffers = [held for held in gc.get_referents(reader) if isinstance(held, bytes | bytearray)]
    assert all(held == b"" and type(held) is bytes for held in buffers), buffers
    assert sys.getsizeof(reader) <= 160
