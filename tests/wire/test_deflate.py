"""WebSocket compression: what is agreed on, what is compressed, and what hostile data can do. Beside ``websockets``."""

from __future__ import annotations

import gc
import os
import tracemalloc
import zlib
from random import Random
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame
from websockets.frames import Opcode as TheirOpcode
from websockets.headers import parse_extension

from forebay.errors import WebSocketError
from forebay.wire.deflate import (
    DeflateParameters,
    Deflater,
    DeflateSettings,
    Inflater,
    accept_offer,
    accept_response,
    compress_once,
    offer,
)
from forebay.wire.extensions import parse_extensions
from forebay.wire.websocket import MessageReader, encode_frame, encode_message
from tests.wire.websockets_reference import SMALL, Heard, Reference, conversations, cut, places, read

MASK = bytes.fromhex("37fa213d")
HELLO = bytes.fromhex("f248cdc9c90700")  # RFC 7692 section 7.2.3.1
PLAIN = DeflateParameters(False, False, 15, 15, 3, 5, 0)
ALONE = DeflateParameters(True, True, 15, 15, 3, 5, 0)
KEEPING = DeflateSettings(server_no_context_takeover=False, client_no_context_takeover=False)

bits = st.integers(8, 15)
settings = st.builds(
    DeflateSettings, st.booleans(), st.booleans(), bits, bits, st.integers(0, 9), st.integers(1, 9), st.just(0)
)
agreed = st.builds(
    DeflateParameters, st.booleans(), st.booleans(), bits, bits, st.integers(0, 9), st.integers(1, 9), st.just(0)
)
sides: st.SearchStrategy[Any] = st.sampled_from([("server", "client"), ("client", "server")])
repetitive = st.lists(st.sampled_from([b"forebay", b"\x00" * 70, b"basin ", b"\xff\x01"]), max_size=60).map(b"".join)
messages = st.lists(repetitive | st.binary(max_size=400), max_size=6)


# --- compressing and inflating


@given(agreed, sides, messages)
def test_what_is_compressed_is_inflated(parameters: DeflateParameters, side: Any, said: list[bytes]) -> None:
    """Any messages by any parameters, with a context and without, one after the other."""
    deflater, inflater = Deflater(parameters, side[0]), Inflater(parameters, side[1], 1 << 16)
    for message in said:
        assert inflater.decompress(deflater.compress(message)) == message


def theirs(parameters: DeflateParameters, side: str) -> PerMessageDeflate:
    """``websockets``' extension. It cannot compress by 8 bits, and inflates by 9 what was compressed by 8."""
    server = parameters.server_no_context_takeover, max(9, parameters.server_max_window_bits)
    client = parameters.client_no_context_takeover, max(9, parameters.client_max_window_bits)
    remote, local = (client, server) if side == "server" else (server, client)
    return PerMessageDeflate(remote[0], local[0], remote[1], local[1])


@given(agreed, sides, messages)
def test_websockets_and_we_understand_each_other(parameters: DeflateParameters, side: Any, said: list[bytes]) -> None:
    """Both ways, over the same connection's messages."""
    other = theirs(parameters, side[1])
    deflater, inflater = Deflater(parameters, side[0]), Inflater(parameters, side[0], 1 << 16)
    for message in said:
        sent = Frame(TheirOpcode.BINARY, deflater.compress(message), rsv1=True)
        assert bytes(other.decode(sent).data) == message
        assert inflater.decompress(bytes(other.encode(Frame(TheirOpcode.BINARY, message)).data)) == message


@given(st.integers(200, 600), st.integers(0), st.integers(0, 9), st.integers(1, 9), st.booleans())
@example(256, 0, 6, 8, False)
@example(257, 0, 6, 8, False)
@example(400, 0, 9, 9, False)
def test_a_window_of_8_bits_is_kept(period: int, seed: int, level: int, mem_level: int, alone: bool) -> None:
    """zlib compresses by 9 bits at least, but refers back no further than 8 bits reach: here data repeats beyond that.

    Inflated byte by byte, as zlib takes longer references as long as what they refer to is in the same output.
    """
    noise = Random(seed).randbytes(period)
    said = [noise * 3, noise, noise[:250] * 2]
    deflater = Deflater(DeflateParameters(alone, alone, 8, 8, level, mem_level, 0), "server")
    inflate = zlib.decompressobj(-8)
    for message in said:
        rest = deflater.compress(message) + b"\x00\x00\xff\xff"
        found = b""
        while rest or len(found) < len(message):
            piece = inflate.decompress(rest, 1)
            rest = inflate.unconsumed_tail
            found += piece
        assert found == message


@pytest.mark.parametrize(
    "payload",
    [
        "f248cdc9c90700",
        "000500faff48656c6c6f00",  # a block without compression
        "f348cdc9c9070000",  # a block with BFINAL
        "f2480500 0000ffff cac9c90700",  # two blocks
    ],
)
@pytest.mark.parametrize("parameters", [PLAIN, ALONE])
def test_the_examples_of_rfc_7692(payload: str, parameters: DeflateParameters) -> None:
    """Those of its section 7.2.3; a last block ends the context, and nothing else."""
    inflater = Inflater(parameters, "server", 5)
    for data in (bytes.fromhex(payload), HELLO, bytes.fromhex(payload)):
        assert inflater.decompress(data) == b"Hello"


def test_a_message_with_a_context_refers_to_the_one_before() -> None:
    """As in RFC 7692 section 7.2.3.2, which gives the bytes; without a context they are no message."""
    inflater = Inflater(PLAIN, "server", 100)
    assert [inflater.decompress(HELLO), inflater.decompress(bytes.fromhex("f200110000"))] == [b"Hello", b"Hello"]
    deflater = Deflater(PLAIN, "client")
    first, second = deflater.compress(b"basin" * 20 + HELLO), deflater.compress(b"basin" * 20 + HELLO)
    assert len(second) < len(first)
    alone = Inflater(ALONE, "server", 100)
    assert alone.decompress(HELLO) == b"Hello"
    with pytest.raises(WebSocketError, match="does not inflate") as caught:
        alone.decompress(bytes.fromhex("f200110000"))
    assert caught.value.code == 1007


@given(st.data(), st.lists(st.tuples(repetitive, st.booleans()), max_size=8), bits)
def test_a_broadcast_message_fits_into_any_context(
    data: st.DataObject, said: list[tuple[bytes, bool]], least: int
) -> None:
    """Compressed once by the smallest window, and sent between messages of each receiver's own."""
    receivers = []
    for _ in range(3):
        window = data.draw(st.integers(least, 15))
        parameters = DeflateParameters(data.draw(st.booleans()), False, window, 15, 6, 8, 0)
        receivers.append((Deflater(parameters, "server"), Inflater(parameters, "client", 1 << 16)))
    for message, once in said:
        broadcast = compress_once(message, least, 6)
        for deflater, inflater in receivers:
            if once:
                deflater.forget()
            assert inflater.decompress(broadcast if once else deflater.compress(message)) == message


# --- hostile data


@pytest.mark.parametrize("parameters", [PLAIN, ALONE])
def test_a_bomb_is_refused_before_it_goes_off(parameters: DeflateParameters) -> None:
    """64 MiB in 64 KiB: no more is inflated than is allowed, and one byte."""
    compressor = zlib.compressobj(9, wbits=-15)
    chunk = bytes(1 << 20)
    bomb = b"".join(compressor.compress(chunk) for _ in range(64)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    bomb = bomb[:-4]
    inflater = Inflater(parameters, "server", 1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(WebSocketError, match="inflates to more than 1048576 bytes") as caught:
            inflater.decompress(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == 1009
    assert peak < 3 << 20
    frame = encode_frame(2, bomb, rsv1=True, mask=MASK)
    reader = MessageReader(Heard(), masked=True, inflater=Inflater(parameters, "server", 1 << 20))
    with pytest.raises(WebSocketError, match="inflates to more than"):
        reader.feed(frame)


@given(st.integers(1, 40_000), st.integers(0, 9))
def test_the_longest_message_inflates_and_one_byte_more_does_not(size: int, level: int) -> None:
    """At any size, however little the data is compressed."""
    message = bytes(size // 2) + os.urandom(size - size // 2)
    assert Inflater(ALONE, "client", size).decompress(compress_once(message, 15, level)) == message
    with pytest.raises(WebSocketError) as caught:
        Inflater(ALONE, "client", size).decompress(compress_once(message + b"x", 15, level))
    assert caught.value.code == 1009


@given(st.lists(st.binary(max_size=60) | repetitive.map(lambda data: compress_once(data)), max_size=4), agreed)
def test_garbage_is_refused_as_zlib_refuses_it(payloads: list[bytes], parameters: DeflateParameters) -> None:
    """With a WebSocketError and no other; and where zlib finds a message, so do we."""
    inflater = Inflater(DeflateParameters(True, True, 15, 15, 6, 8, 0), "server", 2000)
    context = Inflater(parameters, "server", 2000)
    for payload in payloads:
        zlib_one = zlib.decompressobj(-15)
        try:
            expected = zlib_one.decompress(payload + b"\x00\x00\xff\xff")
        except zlib.error:
            with pytest.raises(WebSocketError) as caught:
                inflater.decompress(payload)
            assert caught.value.code in (1007, 1009)  # its beginning may be too long as it is
            continue
        if len(expected) > 2000 or (zlib_one.eof and zlib_one.unused_data != b"\x00\x00\x00\xff\xff"):
            with pytest.raises(WebSocketError) as caught:
                inflater.decompress(payload)
            assert caught.value.code == (1009 if len(expected) > 2000 else 1007)
        else:
            assert inflater.decompress(payload) == expected
    for payload in payloads:
        try:
            assert len(context.decompress(payload)) <= 2000
        except WebSocketError:
            break


def test_nothing_may_follow_a_last_block() -> None:
    """But the empty block that RFC 7692 section 7.2.3.4 puts there: thousands of tiny streams are not a message."""
    for payload in ("f348cdc9c90700", "f348cdc9c907000000", "0300" * 1000):
        with pytest.raises(WebSocketError, match="goes on after its last block") as caught:
            Inflater(PLAIN, "server", 100).decompress(bytes.fromhex(payload))
        assert caught.value.code == 1007


# --- what is kept


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("side", ["server", "client"])
def test_no_window_is_kept_without_a_context(side: Literal["server", "client"], keeps: bool) -> None:
    """Neither before the first message nor, where each stands by itself, after one."""
    ours = side == "server"
    sending = DeflateParameters(not (ours and keeps), not (not ours and keeps), 15, 15, 3, 5, 0)
    receiving = DeflateParameters(not (not ours and keeps), not (ours and keeps), 15, 15, 3, 5, 0)
    deflater, inflater = Deflater(sending, side), Inflater(receiving, side, 100)

    def windows() -> int:
        held = gc.get_referents(deflater) + gc.get_referents(inflater)
        return sum(type(item).__module__ == "zlib" for item in held)

    assert windows() == 0
    for _ in range(2):
        assert inflater.decompress(deflater.compress(b"Hello")) == b"Hello"
        assert windows() == (2 if keeps else 0)
    assert deflater.keeps_context is keeps
    deflater.forget()
    assert windows() == (1 if keeps else 0)


def test_by_default_neither_side_keeps_a_context() -> None:
    """A silent connection holds no window: a server says so in its answer to browsers, a client in its offer, and all
    connections that agreed on the same share what compresses and inflates. One with a context has its own."""
    text = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    accepted = [accept_offer("permessage-deflate; client_max_window_bits", DeflateSettings()) for _ in range(2)]
    assert [found and found[0] for found in accepted] == [text, text]
    assert offer(DeflateSettings()) == f"{text}; client_max_window_bits"
    assert accepted[0] is not None
    parameters = accepted[0][1]
    assert parameters is accept_response(text, DeflateSettings())
    for side in ("server", "client"):
        assert Deflater.of(parameters, side) is Deflater.of(parameters, side)
        assert Inflater.of(parameters, side, 100) is Inflater.of(parameters, side, 100)
        assert Inflater.of(parameters, side, 100).max_size == 100
        assert Inflater.of(parameters, side, 99).max_size == 99
        assert Deflater.of(PLAIN, side) is not Deflater.of(PLAIN, side)
        assert Inflater.of(PLAIN, side, 100) is not Inflater.of(PLAIN, side, 100)


def test_connections_that_share_a_deflater_do_not_mix() -> None:
    """Messages of several, in turns; and when one of them sent garbage, the others do not notice."""
    deflater, inflater = Deflater.of(ALONE, "server"), Inflater.of(ALONE, "client", 1000)
    for number in range(20):
        said = b"%d said this and that and this " % number * 20
        assert Inflater.of(ALONE, "client", 1000).decompress(deflater.compress(said)) == said
        with pytest.raises(WebSocketError):
            inflater.decompress(b"\xff\xff\xff")
        with pytest.raises(WebSocketError):
            inflater.decompress(compress_once(bytes(2000)))


def test_a_message_of_no_bytes_at_all_leaves_the_context_alone() -> None:
    """RFC 7692 section 7.2.3.6: an empty message is one byte of zero. Of none, zlib would wait for the rest."""
    deflater, inflater = Deflater(PLAIN, "client"), Inflater(PLAIN, "server", 100)
    assert deflater.compress(b"") == b"\x00"
    for said in (b"Hello", b"", b"Hello"):
        assert inflater.decompress(deflater.compress(said)) == said
        assert inflater.decompress(b"") == b""


# --- in frames


def test_a_compressed_message_in_frames() -> None:
    """RSV1 on its first frame alone, with control frames between; others may come as they are."""
    frames = (
        encode_frame(1, HELLO[:3], fin=False, rsv1=True, mask=MASK)
        + encode_frame(9, b"", mask=MASK)
        + encode_frame(0, HELLO[3:], mask=MASK)
        + encode_message("plain", None, MASK)
        + encode_frame(2, HELLO, rsv1=True, mask=MASK)
    )
    expected = [("ping", b""), ("message", "Hello"), ("message", "plain"), ("message", b"Hello")]
    for pieces in ([frames], [frames[at : at + 1] for at in range(len(frames))]):
        assert read(pieces, masked=True, inflater=Inflater(PLAIN, "server", SMALL)) == (expected, None)


@pytest.mark.parametrize(
    ("wire", "code", "words"),
    [
        ("4100 c000", 1002, "RSV1 on a frame of opcode 0"),
        ("c900", 1002, "RSV1 on a frame of opcode 9"),
        ("e100", 1002, "reserved bits 110: only RSV1 may be set"),
        ("9100", 1002, "reserved bits 001"),
        ("c103 ffffff", 1007, "a compressed message that does not inflate"),
        (encode_frame(1, compress_once(b"x" * (SMALL + 1)), rsv1=True).hex(), 1009, "inflates to more than 300"),
    ],
)
def test_compressed_frames_that_are_refused(wire: str, code: int, words: str) -> None:
    """Whole and byte by byte."""
    data = bytes.fromhex(wire)
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        _, error = read(pieces, masked=False, inflater=Inflater(PLAIN, "client", SMALL))
        assert error is not None
        assert (error.code, words in str(error)) == (code, True), str(error)


def test_compressed_text_has_to_be_utf_8() -> None:
    """As all text, once it is inflated."""
    wire = encode_frame(1, compress_once(b"ab\xff"), rsv1=True)
    _, error = read([wire], masked=False, inflater=Inflater(PLAIN, "client", SMALL))
    assert error is not None
    assert (error.code, str(error)) == (1007, "text that is not UTF-8, at byte 2 (invalid start byte)")


def test_what_cannot_be_compressed_may_take_a_little_more_than_its_length() -> None:
    """The longest message is accepted though its compressed bytes are more; but not any number of them."""
    message = os.urandom(1 << 20)
    for mem_level in range(1, 10):
        deflater = Deflater(DeflateParameters(False, False, 15, 15, 9, mem_level, 0), "server")
        wire = encode_message(message, deflater)
        assert len(wire) > len(message)
        inflater = Inflater(PLAIN, "client", 1 << 20)
        assert read([wire], masked=False, max_message=1 << 20, inflater=inflater) == ([("message", message)], None)
    head = encode_frame(2, bytes((1 << 20) + (1 << 17) + 65), rsv1=True)[:10]
    _, error = read([head], masked=False, max_message=1 << 20, inflater=Inflater(PLAIN, "client", 1 << 20))
    assert error is not None
    assert error.code == 1009


def test_which_messages_are_sent_compressed() -> None:
    """None below min_size; without a context, none that would become longer by it; with one, all, in order."""
    noise = os.urandom(500)
    for parameters, longer in ((PLAIN, True), (ALONE, False)):
        deflater = Deflater(
            DeflateParameters(parameters.server_no_context_takeover, False, 15, 15, 3, 5, 100), "server"
        )
        assert encode_message("x" * 99, deflater)[0] == 0x81
        assert encode_message("x" * 100, deflater)[0] == 0xC1
        assert (encode_message(noise, deflater)[0] == 0xC2) is longer


@given(st.data(), agreed, st.booleans(), places)
def test_compressed_streams_beside_websockets(
    data: st.DataObject, parameters: DeflateParameters, masked: bool, where: list[int]
) -> None:
    """A conversation's messages, compressed, in fragments and cut anywhere: both read the same and refuse the same."""
    side: Any = "server" if masked else "client"
    mask = MASK if masked else None
    deflater = Deflater(parameters, "client" if masked else "server")
    stream = b""
    for _, said, *_ in data.draw(conversations(masked=masked))[1]:
        payload = said.encode() if isinstance(said, str) else said if isinstance(said, bytes) else b"x" * (SMALL + 1)
        packed = deflater.compress(payload)
        half = data.draw(st.integers(0, len(packed)))
        opcode = 1 if isinstance(said, str) else 2
        if data.draw(st.booleans()):
            stream += encode_frame(opcode, packed[:half], fin=False, rsv1=True, mask=mask)
            stream += encode_frame(0, packed[half:], mask=mask)
        else:
            stream += encode_frame(opcode, packed, rsv1=True, mask=mask)
    other = Reference(masked=masked, deflate=theirs(parameters, side))
    other.feed(stream)
    events, error = read(cut(stream, where), masked=masked, inflater=Inflater(parameters, side, SMALL))
    if other.refused and error is None:
        # They count compressed bytes against the maximum as they are, and inflated ones of fragments one by one.
        assert other.events == events[: len(other.events)]
        return
    assert (events, error is not None) == (other.events, other.refused)


# --- what is agreed on


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        ("permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
        ("foo, , permessage-deflate;server_no_context_takeover", "permessage-deflate; server_no_context_takeover"),
        ("permessage-deflate; client_no_context_takeover", "permessage-deflate; client_no_context_takeover"),
        ("permessage-deflate; server_max_window_bits=10", "permessage-deflate; server_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=15", "permessage-deflate; server_max_window_bits=15"),
        ('permessage-deflate; client_max_window_bits="9"', "permessage-deflate; client_max_window_bits=9"),
        ('permessage-deflate; client_max_window_bits="1\\0"', "permessage-deflate; client_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=7, permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; server_max_window_bits=08, permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; client_no_context_takeover; client_no_context_takeover", None),
        ("permessage-deflate; unknown", None),
        ("permessage-deflate-2", None),
        ("", None),
        ("permessage-deflate;", None),
        ("permessage-deflate; =1", None),
        ("permessage-deflate; client_max_window_bits 9", None),
        ("permessage deflate", None),
    ],
)
def test_what_a_server_answers(header: str, answer: str | None) -> None:
    """The first offer that is acceptable is taken as it was made; what is malformed offers nothing."""
    accepted = accept_offer(header, KEEPING)
    assert (accepted and accepted[0]) == answer


def test_what_a_server_wants_is_in_its_answer() -> None:
    """It limits itself as it likes; a client only in what the client offered (RFC 7692 section 7.1.2.2)."""
    settings = DeflateSettings(True, True, 11, 12, 1, 2, 3)
    accepted = accept_offer("permessage-deflate; server_max_window_bits=12; client_max_window_bits", settings)
    assert accepted == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
        "server_max_window_bits=11; client_max_window_bits=12",
        DeflateParameters(True, True, 11, 12, 1, 2, 3),
    )
    accepted = accept_offer("permessage-deflate", settings)
    assert accepted is not None
    assert "client_max" not in accepted[0]
    assert (accepted[1].server_max_window_bits, accepted[1].client_max_window_bits) == (11, 15)


parameter = st.tuples(
    st.sampled_from(
        ["server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits", "client_max_window_bits"]
    ),
    st.sampled_from([None, None, "8", "9", "12", "15", "16", "09", "x"]),
)


@given(st.lists(parameter, max_size=4), st.booleans(), st.booleans(), st.integers(9, 15), st.integers(9, 15))
def test_an_offer_is_accepted_as_websockets_accepts_it(
    offered: list[tuple[str, str | None]], alone: bool, client_alone: bool, server: int, client: int
) -> None:
    """The same offers, with the same outcome."""
    header = "; ".join(
        ["permessage-deflate", *(name if value is None else f"{name}={value}" for name, value in offered)]
    )
    accepted = accept_offer(header, DeflateSettings(alone, client_alone, server, client))
    factory = ServerPerMessageDeflateFactory(alone, client_alone, server, client)
    try:
        answer, extension = factory.process_request_params(offered, [])
    except NegotiationError:
        # They cannot compress by 8 bits, and decline an offer that asks for it.
        assert accepted is None or ("server_max_window_bits", "8") in offered
        return
    assert accepted is not None
    text, ours = accepted
    assert isinstance(extension, PerMessageDeflate)
    ((_, said),) = parse_extensions(text)
    assert ours.server_no_context_takeover == extension.local_no_context_takeover
    assert ours.client_no_context_takeover == extension.remote_no_context_takeover
    assert ours.server_max_window_bits == extension.local_max_window_bits
    assert ours.client_max_window_bits == extension.remote_max_window_bits
    assert {(name, value) for name, value in said if value != "15"} == {p for p in answer if p[1] != "15"}


@given(settings, settings, messages)
def test_both_sides_agree(client: DeflateSettings, server: DeflateSettings, said: list[bytes]) -> None:
    """Whatever each of them wants, what the answer means is the same to both, and messages go both ways."""
    accepted = accept_offer(offer(client), server)
    assert accepted is not None
    text, at_server = accepted
    at_client = accept_response(text, client)
    for name in ("server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits"):
        assert getattr(at_server, name) == getattr(at_client, name)
    assert at_server.client_max_window_bits == at_client.client_max_window_bits
    up = Deflater(at_client, "client"), Inflater(at_server, "server", 1 << 16)
    down = Deflater(at_server, "server"), Inflater(at_client, "client", 1 << 16)
    for message in said:
        for deflater, inflater in (up, down):
            assert inflater.decompress(deflater.compress(message)) == message


@given(settings, st.booleans(), st.booleans(), st.integers(9, 15), st.integers(9, 15))
def test_a_websockets_server_agrees(
    client: DeflateSettings, alone: bool, client_alone: bool, server_bits: int, client_bits: int
) -> None:
    """Its answer to our offer is accepted; it declines one of 8 bits for itself."""
    factory = ServerPerMessageDeflateFactory(alone, client_alone, server_bits, client_bits)
    ((_, params),) = parse_extension(offer(client))
    try:
        answer, extension = factory.process_request_params(params, [])
    except NegotiationError:
        assert client.server_max_window_bits == 8
        return
    text = "; ".join(["permessage-deflate", *(n if v is None else f"{n}={v}" for n, v in answer)])
    ours = accept_response(text, client)
    deflater, inflater = Deflater(ours, "client"), Inflater(ours, "client", 100)
    for _ in range(2):
        sent = Frame(TheirOpcode.BINARY, deflater.compress(b"Hello" * 9), rsv1=True)
        assert bytes(extension.decode(sent).data) == b"Hello" * 9
        assert inflater.decompress(bytes(extension.encode(Frame(TheirOpcode.BINARY, b"Hello")).data)) == b"Hello"


@given(settings, st.booleans(), st.booleans(), st.integers(9, 15) | st.none(), st.integers(9, 15) | st.none())
def test_a_websockets_client_agrees(
    server: DeflateSettings, alone: bool, client_alone: bool, server_bits: int | None, client_bits: int | None
) -> None:
    """It accepts our answer to its offer, but for a window of 8 bits that it would have to compress by."""
    factory = ClientPerMessageDeflateFactory(alone, client_alone, server_bits, client_bits or True)
    params = factory.get_request_params()
    accepted = accept_offer(
        "; ".join(["permessage-deflate", *(n if v is None else f"{n}={v}" for n, v in params)]), server
    )
    assert accepted is not None
    ((_, answer),) = parse_extension(accepted[0])
    try:
        extension = factory.process_response_params(answer, [])
    except (NegotiationError, AssertionError):
        assert server.client_max_window_bits == 8
        return
    assert isinstance(extension, PerMessageDeflate)
    deflater = Deflater(accepted[1], "server")
    sent = Frame(TheirOpcode.BINARY, deflater.compress(b"Hello" * 9), rsv1=True)
    assert bytes(extension.decode(sent).data) == b"Hello" * 9


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("", "must name an extension"),
        ("permessage-deflate;", "'' must be name or name=value"),
        ("permessage deflate", "'permessage deflate' must be an extension's name"),
        ("x-webkit-deflate-frame", "must be permessage-deflate once and nothing else"),
        ("permessage-deflate, permessage-deflate", "must be permessage-deflate once"),
        ("permessage-deflate; server_max_window_bits=10; mystery", "a parameter that is unknown"),
        ("permessage-deflate; server_max_window_bits=10; client_max_window_bits", "not of a value"),
        ("permessage-deflate; server_max_window_bits=10; server_max_window_bits=10", "repeated"),
        ("permessage-deflate; server_max_window_bits=10", "lacks server_no_context_takeover"),
        ("permessage-deflate; server_no_context_takeover", "lacks server_max_window_bits, of which at most 10"),
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=11",
            "server_max_window_bits must be at most 10",
        ),
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=10; client_max_window_bits=13",
            "client_max_window_bits must be at most 12",
        ),
    ],
)
def test_what_a_client_refuses(answer: str, words: str) -> None:
    """Anything that was not offered ends the connection with 1010: RFC 7692 section 7.1, RFC 6455 section 7.4.1."""
    settings = DeflateSettings(server_max_window_bits=10, client_max_window_bits=12)
    with pytest.raises(WebSocketError) as caught:
        accept_response(answer, settings)
    assert (caught.value.code, words in str(caught.value)) == (1010, True), str(caught.value)


def test_a_client_keeps_to_what_it_offered_of_itself() -> None:
    """Where the answer does not say: it may always limit itself."""
    settings = DeflateSettings(
        server_no_context_takeover=False, client_max_window_bits=12, level=1, mem_level=2, min_size=3
    )
    expected = DeflateParameters(False, True, 15, 12, 1, 2, 3)
    assert accept_response("permessage-deflate", settings) == expected
    text = "permessage-deflate; server_no_context_takeover; client_max_window_bits=9; server_max_window_bits=11"
    assert accept_response(text, settings) == DeflateParameters(True, True, 11, 9, 1, 2, 3)


def test_what_a_client_offers() -> None:
    """That it can be limited, always; and what it wants."""
    assert offer(KEEPING) == "permessage-deflate; client_max_window_bits"
    assert offer(DeflateSettings(True, True, 10, 12)) == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
        "server_max_window_bits=10; client_max_window_bits=12"
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("server_max_window_bits", 7, "must be 8 to 15"),
        ("client_max_window_bits", 16, "must be 8 to 15"),
        ("level", 10, "must be 0 to 9"),
        ("mem_level", 0, "must be 1 to 9"),
        ("min_size", -1, "must be 0 bytes or more"),
    ],
)
def test_settings_that_make_no_sense(name: str, value: int, words: str) -> None:
    """Refused when they are made, in words that say what would be right."""
    given_values: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"DeflateSettings {name} {value}: {words}"):
        DeflateSettings(**given_values)
    with pytest.raises(ValueError, match="max_size 0: must be 1"):
        Inflater(PLAIN, "server", 0)


@example("a; b c")
@example('a; b="c')
@given(st.text(alphabet='ab=;,"\\ \t\x00é', max_size=14))
def test_the_header_s_grammar_beside_websockets(value: str) -> None:
    """The same headers are malformed, and the others mean the same. What is around a value is not part of it."""
    value = value.strip(" \t")
    try:
        ours = parse_extensions(value)
    except WebSocketError:
        with pytest.raises(InvalidHeader):
            parse_extension(value)
    else:
        assert [(str(name), params) for name, params in parse_extension(value)] == ours
