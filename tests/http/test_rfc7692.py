"""RFC 7692 section by section over real sockets: what is negotiated, and compressed messages in both directions, beside
zlib. A case's name begins with its section."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from forebay.errors import UpstreamProtocolError
from forebay.http.websocket import WebSocketSettings
from forebay.http.websocket_client import connect
from forebay.wire.deflate import DeflateSettings
from tests.http.raw_websocket import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    accepting,
    client,
    closing,
    frame,
    serve,
    server,
    server_that_sends,
)
from tests.http.websockets_kit import Recorder, request, serving
from tests.support import eventually, raw_client

PMD = "permessage-deflate"
SERVER_ALONE = f"{PMD}; server_no_context_takeover"
CLIENT_ALONE = f"{PMD}; client_no_context_takeover"
ALONE = f"{PMD}; server_no_context_takeover; client_no_context_takeover"
KEEPING = DeflateSettings(False, False, min_size=0)  # a context on both sides, and everything compressed
TAIL = b"\x00\x00\xff\xff"
RSV1 = 4
WORDS = b"the quick brown fox jumps over the lazy dog, and " * 6


def deflated(*messages: bytes, keep: bool = False, bits: int = 15, **options: Any) -> list[bytes]:
    """Messages as zlib compresses them (7.2.1), each by itself or with the context of those before."""
    found = []
    one = zlib.compressobj(wbits=-bits, **options)
    for message in messages:
        found.append((one.compress(message) + one.flush(zlib.Z_SYNC_FLUSH))[:-4])
        one = one if keep else zlib.compressobj(wbits=-bits, **options)
    return found


def inflated(*payloads: bytes, keep: bool = False, bits: int = 15) -> list[bytes]:
    """The reverse (7.2.2)."""
    found = []
    one = zlib.decompressobj(-bits)
    for payload in payloads:
        found.append(one.decompress(payload + TAIL))
        one = one if keep else zlib.decompressobj(-bits)
    return found


# -- 5.1 and 7.1: what a server answers to an offer

NO_LIMITS = DeflateSettings(False, False)
OFFERS: dict[str, tuple[str, DeflateSettings, str | None]] = {
    "7.1 nothing but the name": (PMD, NO_LIMITS, PMD),
    "7.1 what browsers offer": (f"{PMD}; client_max_window_bits", NO_LIMITS, PMD),
    "7.1 what browsers offer, by default": (f"{PMD}; client_max_window_bits", DeflateSettings(), ALONE),
    "5.1 no offer of it": ("x-webkit-deflate-frame, bbf-usp-protocol", NO_LIMITS, None),
    "5.1 it is not the first extension": (f"foo, {PMD}", NO_LIMITS, PMD),
    "5.1 the first of two": (f"{SERVER_ALONE}, {PMD}", NO_LIMITS, SERVER_ALONE),
    "5.1 the fallback": (f"{PMD}; unknown=1, {SERVER_ALONE}", NO_LIMITS, SERVER_ALONE),
    "5.1 no fallback is acceptable": (f"{PMD}; unknown, {PMD}; server_max_window_bits=7", NO_LIMITS, None),
    "7.1 an unknown parameter": (f"{PMD}; unknown", NO_LIMITS, None),
    "7.1 an unknown parameter among others": (f"{PMD}; client_max_window_bits; mem_level=9", NO_LIMITS, None),
    "7.1 a name nearly right": ("permessage-deflat", NO_LIMITS, None),
    "7.1.1.1 server_no_context_takeover": (SERVER_ALONE, NO_LIMITS, SERVER_ALONE),
    "7.1.1.1 not asked for, but wanted": (PMD, DeflateSettings(True, False), SERVER_ALONE),
    "7.1.1.1 with a value": (f"{PMD}; server_no_context_takeover=1", NO_LIMITS, None),
    "7.1.1.1 twice": (f"{PMD}; server_no_context_takeover; server_no_context_takeover", NO_LIMITS, None),
    "7.1.1.2 client_no_context_takeover": (CLIENT_ALONE, NO_LIMITS, CLIENT_ALONE),
    "7.1.1.2 not offered, but wanted": (PMD, DeflateSettings(False, True), CLIENT_ALONE),
    "7.1.1.2 with a value": (f"{PMD}; client_no_context_takeover=true", NO_LIMITS, None),
    "7.1.1.2 twice": (f"{PMD}; client_no_context_takeover; client_no_context_takeover", NO_LIMITS, None),
    **{
        f"7.1.2.1 server_max_window_bits={bits}": (
            f"{PMD}; server_max_window_bits={bits}",
            NO_LIMITS,
            f"{PMD}; server_max_window_bits={bits}",
        )
        for bits in range(8, 16)
    },
    **{
        f"7.1.2.1 server_max_window_bits{wrong}": (f"{PMD}; server_max_window_bits{wrong}", NO_LIMITS, None)
        for wrong in ("", "=7", "=16", "=0", "=08", "=+9", "=1e1", "=99")
    },
    "7.1.2.1 quoted": (f'{PMD}; server_max_window_bits="10"', NO_LIMITS, f"{PMD}; server_max_window_bits=10"),
    "7.1.2.1 twice": (f"{PMD}; server_max_window_bits=10; server_max_window_bits=10", NO_LIMITS, None),
    "7.1.2.1 less than was asked for": (
        f"{PMD}; server_max_window_bits=12",
        DeflateSettings(False, False, server_max_window_bits=10),
        f"{PMD}; server_max_window_bits=10",
    ),
    "7.1.2.1 not asked for, but wanted": (
        PMD,
        DeflateSettings(False, False, server_max_window_bits=9),
        f"{PMD}; server_max_window_bits=9",
    ),
    **{
        f"7.1.2.2 client_max_window_bits={bits}": (
            f"{PMD}; client_max_window_bits={bits}",
            NO_LIMITS,
            PMD + (f"; client_max_window_bits={bits}" if bits < 15 else ""),
        )
        for bits in range(8, 16)
    },
    **{
        f"7.1.2.2 client_max_window_bits={wrong}": (f"{PMD}; client_max_window_bits={wrong}", NO_LIMITS, None)
        for wrong in ("7", "16", "0", "010", "x")
    },
    "7.1.2.2 twice": (f"{PMD}; client_max_window_bits; client_max_window_bits=10", NO_LIMITS, None),
    "7.1.2.2 limited, as it offered to be": (
        f"{PMD}; client_max_window_bits",
        DeflateSettings(False, False, client_max_window_bits=10),
        f"{PMD}; client_max_window_bits=10",
    ),
    "7.1.2.2 limited further than it offered": (
        f"{PMD}; client_max_window_bits=12",
        DeflateSettings(False, False, client_max_window_bits=10),
        f"{PMD}; client_max_window_bits=10",
    ),
    "7.1.2.2 not limited, as it did not offer to be": (
        PMD,
        DeflateSettings(False, False, client_max_window_bits=10),
        PMD,
    ),
    "7.1.3 the example of two offers": (
        f"{PMD}; client_max_window_bits; server_max_window_bits=10, {PMD}; client_max_window_bits",
        NO_LIMITS,
        f"{PMD}; server_max_window_bits=10",
    ),
    "7.1.3 everything at once": (
        f"{CLIENT_ALONE};client_max_window_bits=11 ;server_max_window_bits=12;\tserver_no_context_takeover",
        NO_LIMITS,
        f"{ALONE}; server_max_window_bits=12; client_max_window_bits=11",
    ),
}


@pytest.mark.parametrize("case", OFFERS)
async def test_what_a_server_answers(case: str) -> None:
    """7.1: what it accepts, it says; what it declines, it does not mention, and the connection goes on without (5.1).
    Either way what both then send is understood."""
    offer, settings, expected = OFFERS[case]
    async with serving(Recorder(), compression=settings) as (_, site, port), raw_client(port) as raw:
        await raw.send(request(sec_websocket_extensions=offer))
        status, headers, _ = await raw.response()
        assert status == 101
        assert headers.get("sec-websocket-extensions") == expected
        assert site.sockets[0].compressed is (expected is not None)
        peer = Peer(raw)
        await peer.send(frame(TEXT, WORDS) if expected is None else frame(TEXT, deflated(WORDS, bits=9)[0], rsv=RSV1))
        got = await peer.next()
        assert got.rsv == (0 if expected is None else RSV1)
        assert (inflated(got.payload, bits=9)[0] if got.rsv else got.payload) == WORDS


async def test_5_1_offers_in_several_fields_are_one_list() -> None:
    """5.1, RFC 6455 section 9.1."""
    async with serving(Recorder(), compression=NO_LIMITS) as (_, _, port), raw_client(port) as raw:
        offer = f"foo\r\nsec-websocket-extensions: {PMD}; x\r\nsec-websocket-extensions: {PMD}"
        await raw.send(request(sec_websocket_extensions=offer))
        assert (await raw.response())[1]["sec-websocket-extensions"] == PMD


async def test_5_1_a_server_that_does_not_want_it() -> None:
    """5.1: ``compression=None`` declines; a frame with RSV1 is then refused (RFC 6455 section 5.2)."""
    async with serving(Recorder(), compression=None) as (_, _, port), raw_client(port) as raw:
        await raw.send(request(sec_websocket_extensions=PMD))
        assert "sec-websocket-extensions" not in (await raw.response())[1]
        await raw.send(frame(TEXT, deflated(b"hi")[0], rsv=RSV1))
        assert (await Peer(raw).next()).code == 1002


# -- 7.1: what a client takes for an answer

ANSWERS: dict[str, tuple[DeflateSettings, str, bool]] = {
    "7.1 nothing but the name": (NO_LIMITS, PMD, True),
    "7.1 by default, what it asked for": (DeflateSettings(), ALONE, True),
    "7.1.1.1 more than it asked for": (NO_LIMITS, f"{PMD}; server_no_context_takeover", True),
    "7.1.1.1 less than it asked for": (DeflateSettings(True, False), PMD, False),
    "7.1.1.1 with a value": (NO_LIMITS, f"{PMD}; server_no_context_takeover=0", False),
    "7.1.1.2 more than it offered": (NO_LIMITS, f"{PMD}; client_no_context_takeover", True),
    "7.1.1.2 its hint is not taken up": (DeflateSettings(False, True), PMD, True),
    "7.1.1.2 with a value": (NO_LIMITS, f"{PMD}; client_no_context_takeover=1", False),
    "7.1.1.2 twice": (NO_LIMITS, f"{ALONE}; client_no_context_takeover", False),
    "7.1.2.1 more than it asked for": (NO_LIMITS, f"{PMD}; server_max_window_bits=9", True),
    "7.1.2.1 as it asked for": (
        DeflateSettings(False, False, server_max_window_bits=10),
        f"{PMD}; server_max_window_bits=10",
        True,
    ),
    "7.1.2.1 less than it asked for": (
        DeflateSettings(False, False, server_max_window_bits=10),
        f"{PMD}; server_max_window_bits=11",
        False,
    ),
    "7.1.2.1 nothing of what it asked for": (DeflateSettings(False, False, server_max_window_bits=10), PMD, False),
    "7.1.2.1 without a value": (NO_LIMITS, f"{PMD}; server_max_window_bits", False),
    "7.1.2.1 out of range": (NO_LIMITS, f"{PMD}; server_max_window_bits=7", False),
    "7.1.2.2 limits it": (NO_LIMITS, f"{PMD}; client_max_window_bits=9", True),
    "7.1.2.2 without a value": (NO_LIMITS, f"{PMD}; client_max_window_bits", False),
    "7.1.2.2 out of range": (NO_LIMITS, f"{PMD}; client_max_window_bits=16", False),
    "7.1.2.2 more than it can": (
        DeflateSettings(False, False, client_max_window_bits=10),
        f"{PMD}; client_max_window_bits=11",
        False,
    ),
    "7.1 an unknown parameter": (NO_LIMITS, f"{PMD}; unknown", False),
    "7.1 twice": (NO_LIMITS, f"{PMD}, {PMD}", False),
    "5.1 another extension": (NO_LIMITS, "foo", False),
    "5.1 another one as well": (NO_LIMITS, f"{PMD}, foo", False),
    "5.1 malformed": (NO_LIMITS, f"{PMD};", False),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_what_a_client_takes(case: str) -> None:
    """7.1, 5.1: what it did not offer, or cannot be, fails the connection; else what both then send is understood."""
    settings, answer, good = ANSWERS[case]
    got: list[Frame] = []

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(accepting(head, f"sec-websocket-extensions: {answer}"))
        if good:
            await peer.send(frame(TEXT, deflated(WORDS, bits=9)[0], rsv=RSV1, mask=None))
            got.append(await peer.next())
        await peer.raw.rest()

    async with server(script) as url:
        connecting = connect(url, settings=WebSocketSettings(compression=settings, close_timeout=0.3))
        if not good:
            with pytest.raises(UpstreamProtocolError, match="Sec-WebSocket-Extensions"):
                await connecting
            return
        ws = await connecting
        assert ws.compressed
        assert await ws.receive(timeout=5) == WORDS.decode()
        await ws.send(WORDS)
        await eventually(lambda: got)
        ws.conn.abort()
    assert (got[0].opcode, got[0].rsv, got[0].masked) == (BINARY, RSV1, True)
    assert inflated(got[0].payload, bits=9 if "bits=9" in answer else 15) == [WORDS]


# -- 6 and 7.2: messages

HELLO = bytes.fromhex("f248cdc9c90700")
Made = Callable[[bytes | None], bytes]


def compressed(payload: bytes, mask: bytes | None, opcode: int = TEXT, cuts: tuple[int, ...] = ()) -> bytes:
    """A compressed message, in fragments that begin at ``cuts``: 6.1, RSV1 on the first alone."""
    bounds = [0, *cuts, len(payload)]
    parts = [payload[begin:end] for begin, end in pairwise(bounds)]
    last = len(parts) - 1
    return b"".join(
        frame(CONT if number else opcode, part, fin=number == last, rsv=0 if number else RSV1, mask=mask)
        for number, part in enumerate(parts)
    )


OPTIONS: tuple[dict[str, Any], ...] = (
    {"level": 0},
    {"strategy": zlib.Z_FIXED},
    {"level": 9},
    {"strategy": zlib.Z_HUFFMAN_ONLY},
)
MASK = b"\x0a\x0b\x0c\x0d"
READ: dict[str, tuple[Made, list[str | bytes]]] = {
    "7.2.3.1 one block": (lambda m: compressed(HELLO, m), ["Hello"]),
    "7.2.3.1 in two fragments": (lambda m: compressed(HELLO, m, cuts=(3,)), ["Hello"]),
    "7.2.3.2 with the context of the one before": (
        lambda m: compressed(HELLO, m) + compressed(bytes.fromhex("f200110000"), m),
        ["Hello", "Hello"],
    ),
    "7.2.3.3 a block that is not compressed": (
        lambda m: compressed(bytes.fromhex("000500faff48656c6c6f00"), m),
        ["Hello"],
    ),
    "7.2.3.4 a last block": (lambda m: compressed(bytes.fromhex("f348cdc9c9070000"), m), ["Hello"]),
    "7.2.3.4 a last block, and more messages": (
        lambda m: compressed(bytes.fromhex("f348cdc9c9070000"), m) * 2 + compressed(HELLO, m),
        ["Hello"] * 3,
    ),
    "7.2.3.5 two blocks": (lambda m: compressed(bytes.fromhex("f24805000000ffffcac9c90700"), m), ["Hello"]),
    "7.2.3.6 an empty message": (lambda m: compressed(b"\x00", m) + compressed(b"\x00", m, BINARY), ["", b""]),
    "7.2.3.6 empty messages between others": (
        lambda m: b"".join(compressed(each, m) for each in deflated(b"a" * 50, b"", b"a" * 50, b"", b"b", keep=True)),
        ["a" * 50, "", "a" * 50, "", "b"],
    ),
    "6.1 the first fragment is empty": (lambda m: compressed(HELLO, m, cuts=(0,)), ["Hello"]),
    "6.1 the last fragment is empty": (lambda m: compressed(HELLO, m, cuts=(7,)), ["Hello"]),
    "6.1 each byte is a fragment": (lambda m: compressed(HELLO, m, cuts=(1, 2, 3, 4, 5, 6)), ["Hello"]),
    "6.1 a ping between fragments": (
        lambda m: (
            frame(TEXT, HELLO[:3], fin=False, rsv=RSV1, mask=m)
            + frame(PING, b"?", mask=m)
            + frame(CONT, HELLO[3:], mask=m)
        ),
        ["Hello"],
    ),
    "6.2 one that is not compressed": (lambda m: frame(TEXT, b"plain", mask=m), ["plain"]),
    "6.2 between others, and apart from their context": (
        lambda m: b"".join(
            compressed(each, m, BINARY) + frame(BINARY, b"plain", mask=m) for each in deflated(*[WORDS] * 3, keep=True)
        ),
        [WORDS, b"plain"] * 3,
    ),
    "7.2.1 stored, fixed and dynamic blocks": (
        lambda m: b"".join(compressed(deflated(WORDS, **options)[0], m, BINARY) for options in OPTIONS),
        [WORDS] * 4,
    ),
    "7.2.1 a long message of many blocks": (
        lambda m: compressed(deflated(random.Random(1).randbytes(300_000), level=1)[0], m, BINARY, (5, 70_000, 70_001)),
        [random.Random(1).randbytes(300_000)],
    ),
    "8.1 of RFC 6455: text of all lengths of characters": (
        lambda m: compressed(deflated("aé€😀".encode() * 100)[0], m, cuts=(1, 2, 3)),
        ["aé€😀" * 100],
    ),
}
REFUSED: dict[str, tuple[Made, int]] = {
    "6 RSV1 on a ping": (lambda m: frame(PING, rsv=RSV1, mask=m), 1002),
    "6 RSV1 on a pong": (lambda m: frame(PONG, rsv=RSV1, mask=m), 1002),
    "6 RSV1 on a close frame": (lambda m: frame(CLOSE, rsv=RSV1, mask=m), 1002),
    "6.1 RSV1 on the second fragment": (
        lambda m: frame(TEXT, HELLO[:3], fin=False, rsv=RSV1, mask=m) + frame(CONT, HELLO[3:], rsv=RSV1, mask=m),
        1002,
    ),
    "6.1 RSV1 on the second fragment only": (
        lambda m: frame(TEXT, b"a", fin=False, mask=m) + frame(CONT, HELLO, rsv=RSV1, mask=m),
        1002,
    ),
    "6 RSV2": (lambda m: frame(TEXT, HELLO, rsv=2, mask=m), 1002),
    "6 RSV3 beside RSV1": (lambda m: frame(TEXT, HELLO, rsv=5, mask=m), 1002),
    "7.2.2 no DEFLATE": (lambda m: compressed(b"\xff\xff\xff", m), 1007),
    "7.2.2 a block of the reserved type": (lambda m: compressed(b"\x06", m), 1007),
    "7.2.2 a stored block of a wrong length": (lambda m: compressed(b"\x00\x05\x00\x00\x00Hello\x00", m), 1007),
    "7.2.2 text that is not compressed": (lambda m: frame(TEXT, b"plain text", rsv=RSV1, mask=m), 1007),
    "7.2.2 a reference to before the beginning": (lambda m: compressed(bytes.fromhex("f200110000"), m), 1007),
    "7.2.3.4 bytes behind the last block": (lambda m: compressed(bytes.fromhex("f348cdc9c907000000"), m), 1007),
    "8.1 of RFC 6455: no UTF-8": (lambda m: compressed(deflated(b"ab\xff")[0], m), 1007),
    "8.1 of RFC 6455: a character that is not complete": (lambda m: compressed(deflated(b"ab\xe2\x82")[0], m), 1007),
    "8 too long when inflated": (lambda m: compressed(deflated(bytes(400_001))[0], m, BINARY), 1009),
    "8 a bomb": (lambda m: compressed(deflated(bytes(100_000_000))[0], m, BINARY), 1009),
    "8 a bomb in fragments": (lambda m: compressed(deflated(bytes(100_000_000))[0], m, BINARY, (1, 5000)), 1009),
    "8 too long compressed": (lambda m: frame(BINARY, rsv=RSV1, length=500_000, mask=m), 1009),
}


@pytest.mark.parametrize("case", READ)
async def test_what_a_server_reads(case: str) -> None:
    """6.2, 7.2.2: whole, and in pieces as small as the network likes."""
    made, expected = READ[case]
    data = made(MASK) + closing()
    for pieces in (
        [data],
        [data[at : at + 1] for at in range(len(data))] if len(data) < 3000 else [data[:9], data[9:]],
    ):
        served = await serve(pieces, offer=PMD, compression=KEEPING)
        assert served.messages == expected
        assert served.closes == [(1000, "")]
        got = [f for f in served.frames if f.opcode in (TEXT, BINARY)]
        assert [f.rsv for f in got] == [RSV1] * len(got)
        texts = [m.encode() if isinstance(m, str) else m for m in expected]
        assert inflated(*(f.payload for f in got), keep=True) == texts


@pytest.mark.parametrize("case", REFUSED)
async def test_what_a_server_refuses(case: str) -> None:
    """6, 7.2.2, 8: 1002, 1007 or 1009; what came before is answered."""
    made, code = REFUSED[case]
    data = frame(TEXT, b"before") + made(MASK)
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))] if len(data) < 300 else [data[:9], data[9:]]):
        served = await serve(pieces, offer=PMD, compression=DeflateSettings(False, False), max_message=400_000)
        assert [f.opcode for f in served.frames] == [TEXT, CLOSE]
        assert served.frames[-1].code == code
        assert served.messages == ["before"]


@pytest.mark.parametrize("case", READ)
async def test_what_a_client_reads(case: str) -> None:
    """The same from a server; what the client sends back is masked, and compressed as well."""
    made, expected = READ[case]
    got: list[Frame] = []
    recorder = Recorder()
    async with server_that_sends(made(None) + closing(mask=None), got=got, extensions=PMD) as url:
        await connect(url, handler=recorder, settings=WebSocketSettings(compression=KEEPING))
        await eventually(lambda: recorder.closes == [(1000, "")])
    assert recorder.messages == expected
    echoed = [f for f in got if f.opcode in (TEXT, BINARY)]
    assert all(f.masked and f.rsv == RSV1 for f in echoed)
    texts = [m.encode() if isinstance(m, str) else m for m in expected]
    assert inflated(*(f.payload for f in echoed), keep=True) == texts


@pytest.mark.parametrize("case", REFUSED)
async def test_what_a_client_refuses(case: str) -> None:
    """The same from a server."""
    made, code = REFUSED[case]
    got: list[Frame] = []
    recorder = Recorder()
    settings = WebSocketSettings(compression=KEEPING, max_message=400_000)
    async with server_that_sends(made(None), got=got, extensions=PMD) as url:
        await connect(url, handler=recorder, settings=settings)
        await eventually(lambda: recorder.closes)
    assert [f.code for f in got] == [code]
    assert recorder.messages == []


@pytest.mark.parametrize("side", ["server", "client"])
async def test_8_the_longest_message_when_inflated(side: str) -> None:
    """8, RFC 6455 section 10.4: exactly ``max_message`` is accepted, from a handful of bytes."""
    payload = deflated(bytes(400_000))[0]
    assert len(payload) < 500
    recorder = Recorder(lambda ws, message: None)
    if side == "server":
        served = await serve([compressed(payload, MASK, BINARY), closing()], offer=PMD, max_message=400_000)
        assert served.messages == [bytes(400_000)]
        return
    got: list[Frame] = []
    data = compressed(payload, None, BINARY) + closing(mask=None)
    async with server_that_sends(data, got=got, extensions=ALONE) as url:
        await connect(url, handler=recorder, settings=WebSocketSettings(max_message=400_000))
        await eventually(lambda: recorder.messages == [bytes(400_000)])


async def test_client_offers_are_one_line() -> None:
    """7.1: by default a client asks for no contexts, and says that its window can be limited."""
    heads: list[bytes] = []

    async def script(peer: Peer, head: bytes) -> None:
        heads.append(head)
        await peer.send(accepting(head), b"\x88\x00")

    async with server(script) as url:
        for settings in (DeflateSettings(), NO_LIMITS, DeflateSettings(False, True, 10, 11)):
            async with connect(url, settings=WebSocketSettings(compression=settings)) as ws:
                assert not ws.compressed  # 5.1: the server has declined
    offers = [head.partition(b"sec-websocket-extensions: ")[2].partition(b"\r\n")[0].decode() for head in heads]
    assert offers == [
        f"{ALONE}; client_max_window_bits",
        f"{PMD}; client_max_window_bits",
        f"{PMD}; client_no_context_takeover; server_max_window_bits=10; client_max_window_bits=11",
    ]


async def test_a_raw_client_that_does_not_offer() -> None:
    """5.1: a server does not compress for who did not ask."""
    async with serving(Recorder(), compression=KEEPING) as (_, site, port), client(port) as peer:
        await peer.send(frame(TEXT, WORDS))
        assert await peer.next() == Frame(TEXT, WORDS)
        assert not site.sockets[0].compressed
