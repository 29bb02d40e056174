"""RFC 6455 section by section over real sockets: frames and messages (sections 5, 6 and 10), to our server and to our
client. A case's name begins with its section. The handshake, text and the close have files of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import pytest

from forebay.http.websocket import WebSocketSettings
from forebay.http.websocket_client import connect
from tests.http.raw_websocket import (
    BINARY,
    CLOSE,
    CONT,
    MASK,
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
from tests.http.websockets_kit import Recorder, serving
from tests.support import eventually

PLAIN = WebSocketSettings(compression=None, max_message=100_000, close_timeout=1)

Made = Callable[[bytes | None], bytes]
"""Makes the bytes of a case, masked by a key or not at all."""

# What is accepted: the bytes, and the frames an echoing server answers with before its close frame.
ACCEPTED: dict[str, tuple[Made, list[tuple[int, bytes]]]] = {
    "5.2 a message of no bytes": (lambda m: frame(TEXT, mask=m), [(TEXT, b"")]),
    "5.2 a binary message of no bytes": (lambda m: frame(BINARY, mask=m), [(BINARY, b"")]),
    "5.2 the longest length in seven bits": (lambda m: frame(BINARY, b"x" * 125, mask=m), [(BINARY, b"x" * 125)]),
    "5.2 the shortest in 16": (lambda m: frame(BINARY, b"x" * 126, mask=m), [(BINARY, b"x" * 126)]),
    "5.2 127 in 16": (lambda m: frame(BINARY, b"x" * 127, mask=m), [(BINARY, b"x" * 127)]),
    "5.2 256 in 16": (lambda m: frame(TEXT, b"x" * 256, mask=m), [(TEXT, b"x" * 256)]),
    "5.2 the longest in 16": (lambda m: frame(BINARY, b"x" * 65535, mask=m), [(BINARY, b"x" * 65535)]),
    "5.2 the shortest in 64": (lambda m: frame(BINARY, b"x" * 65536, mask=m), [(BINARY, b"x" * 65536)]),
    "5.2 one byte more": (lambda m: frame(TEXT, b"x" * 65537, mask=m), [(TEXT, b"x" * 65537)]),
    "5.3 a key of zeroes": (lambda m: frame(TEXT, b"plain", mask=m and bytes(4)), [(TEXT, b"plain")]),
    "5.3 a payload that is its key": (
        lambda m: frame(BINARY, MASK * 9 + b"\x37", mask=m),
        [(BINARY, MASK * 9 + b"\x37")],
    ),
    "5.3 a key for each frame": (
        lambda m: frame(TEXT, b"one", mask=m and b"\xff\x00\xff\x00") + frame(TEXT, b"two", mask=m and b"abcd"),
        [(TEXT, b"one"), (TEXT, b"two")],
    ),
    "5.4 two fragments": (
        lambda m: frame(TEXT, b"Hel", fin=False, mask=m) + frame(CONT, b"lo", mask=m),
        [(TEXT, b"Hello")],
    ),
    "5.4 many fragments": (
        lambda m: (
            frame(BINARY, b"0", fin=False, mask=m)
            + b"".join(frame(CONT, b"%d" % n, fin=False, mask=m) for n in range(1, 300))
            + frame(CONT, b"!", mask=m)
        ),
        [(BINARY, b"".join(b"%d" % n for n in range(300)) + b"!")],
    ),
    "5.4 the first fragment is empty": (
        lambda m: frame(TEXT, fin=False, mask=m) + frame(CONT, b"late", mask=m),
        [(TEXT, b"late")],
    ),
    "5.4 the last fragment is empty": (
        lambda m: frame(TEXT, b"early", fin=False, mask=m) + frame(CONT, mask=m),
        [(TEXT, b"early")],
    ),
    "5.4 all fragments are empty": (
        lambda m: frame(BINARY, fin=False, mask=m) + frame(CONT, fin=False, mask=m) * 3 + frame(CONT, mask=m),
        [(BINARY, b"")],
    ),
    "5.4 fragments longer than 125 and 65535": (
        lambda m: frame(BINARY, b"a" * 200, fin=False, mask=m) + frame(CONT, b"b" * 66000, mask=m),
        [(BINARY, b"a" * 200 + b"b" * 66000)],
    ),
    "5.4 a ping between fragments": (
        lambda m: frame(TEXT, b"a", fin=False, mask=m) + frame(PING, b"now", mask=m) + frame(CONT, b"b", mask=m),
        [(PONG, b"now"), (TEXT, b"ab")],
    ),
    "5.4 a pong between fragments": (
        lambda m: frame(TEXT, b"a", fin=False, mask=m) + frame(PONG, b"now", mask=m) + frame(CONT, b"b", mask=m),
        [(TEXT, b"ab")],
    ),
    "5.4 pings between many fragments": (
        lambda m: (
            frame(TEXT, b"0", fin=False, mask=m)
            + b"".join(frame(PING, b"%d" % n, mask=m) + frame(CONT, b".", fin=False, mask=m) for n in range(3))
            + frame(PING, b"end", mask=m)
            + frame(CONT, mask=m)
        ),
        [(PONG, b"0"), (PONG, b"1"), (PONG, b"2"), (PONG, b"end"), (TEXT, b"0...")],
    ),
    "5.4 one message after the other": (
        lambda m: b"".join(
            frame(TEXT, b"%d" % n, fin=False, mask=m) + frame(CONT, b";", mask=m) + frame(BINARY, b"b", mask=m)
            for n in range(3)
        ),
        [each for n in range(3) for each in ((TEXT, b"%d;" % n), (BINARY, b"b"))],
    ),
    "5.5.2 a ping": (lambda m: frame(PING, mask=m), [(PONG, b"")]),
    "5.5.2 pings of all lengths": (
        lambda m: b"".join(frame(PING, b"p" * size, mask=m) for size in (1, 64, 124, 125)),
        [(PONG, b"p" * size) for size in (1, 64, 124, 125)],
    ),
    "5.5.2 a ping of any bytes": (
        lambda m: frame(PING, bytes(range(130, 250)), mask=m),
        [(PONG, bytes(range(130, 250)))],
    ),
    "5.5.3 a pong nobody asked for": (lambda m: frame(PONG, b"unasked", mask=m), []),
    "5.5.3 pongs and pings": (
        lambda m: (
            frame(PONG, mask=m) + frame(PING, b"1", mask=m) + frame(PONG, b"2", mask=m) + frame(PING, b"3", mask=m)
        ),
        [(PONG, b"1"), (PONG, b"3")],
    ),
    "5.6 binary is any bytes": (lambda m: frame(BINARY, bytes(range(256)), mask=m), [(BINARY, bytes(range(256)))]),
    "5.7 the examples": (
        lambda m: (
            (bytes.fromhex("818537fa213d7f9f4d5158") if m else bytes.fromhex("810548656c6c6f"))
            + (frame(TEXT, b"Hel", fin=False, mask=m) + frame(CONT, b"lo", mask=m))
            + (bytes.fromhex("898537fa213d7f9f4d5158") if m else bytes.fromhex("890548656c6c6f"))
        ),
        [(TEXT, b"Hello"), (TEXT, b"Hello"), (PONG, b"Hello")],
    ),
    "10.4 the longest message": (lambda m: frame(BINARY, b"x" * 100_000, mask=m), [(BINARY, b"x" * 100_000)]),
    "10.4 the longest, in fragments": (
        lambda m: frame(BINARY, b"x" * 99_999, fin=False, mask=m) + frame(CONT, b"y", mask=m),
        [(BINARY, b"x" * 99_999 + b"y")],
    ),
    "10.4 the longest, again": (
        lambda m: frame(BINARY, b"x" * 60_000, mask=m) + frame(BINARY, b"x" * 60_000, mask=m),
        [(BINARY, b"x" * 60_000)] * 2,
    ),
}

# What is refused: the bytes, and the code of the close frame.
REFUSED: dict[str, tuple[Made, int]] = {
    "5.1 masked as the other side has to": (lambda m: frame(TEXT, b"hi", mask=None if m else MASK), 1002),
    "5.1 a ping masked as the other side has to": (lambda m: frame(PING, mask=None if m else MASK), 1002),
    "5.1 a close frame masked as the other side has to": (lambda m: closing(mask=None if m else MASK), 1002),
    "5.1 only the second fragment is": (
        lambda m: frame(TEXT, b"a", fin=False, mask=m) + frame(CONT, b"b", mask=None if m else MASK),
        1002,
    ),
    **{
        f"5.2 reserved bits {rsv:03b}": (lambda m, rsv=rsv: frame(TEXT, b"hi", rsv=rsv, mask=m), 1002)  # type: ignore[misc]
        for rsv in range(1, 8)
    },
    "5.2 a reserved bit of a ping": (lambda m: frame(PING, rsv=4, mask=m), 1002),
    "5.2 a reserved bit of a fragment": (
        lambda m: frame(TEXT, b"a", fin=False, mask=m) + frame(CONT, b"b", rsv=1, mask=m),
        1002,
    ),
    **{
        f"5.2 opcode {opcode}": (lambda m, opcode=opcode: frame(opcode, b"hi", mask=m), 1002)  # type: ignore[misc]
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    "5.2 an unknown opcode within a message": (
        lambda m: frame(TEXT, b"a", fin=False, mask=m) + frame(3, mask=m),
        1002,
    ),
    "5.2 125 in 16 bits": (lambda m: frame(BINARY, b"x" * 125, width=2, mask=m), 1002),
    "5.2 0 in 16 bits": (lambda m: frame(BINARY, width=2, mask=m), 1002),
    "5.2 65535 in 64 bits": (lambda m: frame(BINARY, b"x" * 65535, width=8, mask=m), 1002),
    "5.2 5 in 64 bits": (lambda m: frame(BINARY, b"x" * 5, width=8, mask=m), 1002),
    "5.2 the most significant of 64 bits": (lambda m: frame(BINARY, length=1 << 63, mask=m), 1002),
    "5.2 all of 64 bits": (lambda m: frame(BINARY, length=(1 << 64) - 1, mask=m), 1002),
    "5.4 nothing to continue": (lambda m: frame(CONT, b"x", mask=m), 1002),
    "5.4 nothing to continue, and more to come": (lambda m: frame(CONT, b"x", fin=False, mask=m), 1002),
    "5.4 another message within one": (
        lambda m: frame(TEXT, b"a", fin=False, mask=m) + frame(TEXT, b"b", mask=m),
        1002,
    ),
    "5.4 another kind of message within one": (
        lambda m: frame(BINARY, b"a", fin=False, mask=m) + frame(TEXT, b"b", fin=False, mask=m),
        1002,
    ),
    "5.4 another message within an empty one": (lambda m: frame(TEXT, fin=False, mask=m) * 2, 1002),
    "5.5 a ping in fragments": (lambda m: frame(PING, b"a", fin=False, mask=m) + frame(CONT, b"b", mask=m), 1002),
    "5.5 a pong in fragments": (lambda m: frame(PONG, fin=False, mask=m), 1002),
    "5.5 a close frame in fragments": (lambda m: frame(CLOSE, b"\x03\xe8", fin=False, mask=m), 1002),
    "5.5 a ping of 126 bytes": (lambda m: frame(PING, b"x" * 126, mask=m), 1002),
    "5.5 a pong of 126 bytes": (lambda m: frame(PONG, b"x" * 126, mask=m), 1002),
    "5.5 a ping of 65536 bytes": (lambda m: frame(PING, length=65536, mask=m), 1002),
    "5.5 a close frame of 126 bytes": (lambda m: closing(1000, b"x" * 124, mask=m), 1002),
    "8.1 text that is not UTF-8": (lambda m: frame(TEXT, b"\xff", mask=m), 1007),
    "10.4 a message that is too long": (lambda m: frame(BINARY, b"x" * 100_001, mask=m), 1009),
    "10.4 the length is enough": (lambda m: frame(BINARY, length=100_001, mask=m), 1009),
    "10.4 a length no memory has": (lambda m: frame(BINARY, length=(1 << 63) - 1, mask=m), 1009),
    "10.4 too long a text": (lambda m: frame(TEXT, b"x" * 100_001, mask=m), 1009),
    "10.4 too long with its fragments": (
        lambda m: frame(BINARY, b"x" * 60_000, fin=False, mask=m) + frame(CONT, b"x" * 40_001, mask=m),
        1009,
    ),
    "10.4 too long by the length of its second fragment": (
        lambda m: frame(BINARY, b"x", fin=False, mask=m) + frame(CONT, fin=False, length=100_000, mask=m),
        1009,
    ),
}

HOW: dict[str, Callable[[bytes], Iterable[bytes]]] = {
    "whole": lambda data: [data],
    "byte by byte": lambda data: [data[at : at + 1] for at in range(len(data))],
    "in pieces of 7": lambda data: [data[at : at + 7] for at in range(0, len(data), 7)],
}


def pieces(data: bytes, how: str) -> Iterable[bytes]:
    """``data`` in the pieces it is sent in; not too many of them."""
    small, rest = data[:2000], data[2000:]
    return [*HOW[how](small), rest] if rest else HOW[how](small)


def brief(frames: list[Frame]) -> list[tuple[int, bytes]]:
    """What they are and hold; they have to be those of a server, or of a client, throughout."""
    assert {(f.fin, f.rsv) for f in frames} <= {(True, 0)}
    assert len({f.masked for f in frames}) <= 1
    return [(f.opcode, f.payload) for f in frames]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", ACCEPTED)
async def test_a_server_accepts(case: str, how: str) -> None:
    """Messages come back; pings are answered. 5.1, 6.1: a server's frames are not masked. 5.5.1: then it closes."""
    made, expected = ACCEPTED[case]
    data = made(MASK) + closing(4321)
    served = await serve(pieces(data, how), max_message=100_000, compression=None)
    assert not any(f.masked for f in served.frames)
    assert brief(served.frames) == [*expected, (CLOSE, b"\x10\xe1")]
    assert served.closes == [(4321, "")]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("case", REFUSED)
async def test_a_server_refuses(case: str, how: str) -> None:
    """7.1.7: what came before is answered; then a close frame says why, nothing follows it, and the connection ends.
    Nothing behind it is read."""
    made, code = REFUSED[case]
    data = frame(TEXT, b"before") + made(MASK)
    served = await serve([*pieces(data, how), frame(TEXT, b"behind")], max_message=100_000, compression=None)
    first, *_, last = served.frames
    assert (first.opcode, first.payload) == (TEXT, b"before")
    assert [f.opcode for f in served.frames] == [TEXT, CLOSE]
    assert last.code == code
    assert served.closes == [(code, last.payload[2:].decode())]
    assert served.messages == ["before"]


@pytest.mark.parametrize("case", ACCEPTED)
async def test_a_client_accepts(case: str) -> None:
    """The same to a client; 5.1, 6.1: a client's frames are masked, pongs and close frames too."""
    made, expected = ACCEPTED[case]
    got: list[Frame] = []
    recorder = Recorder()
    async with server_that_sends(made(None) + closing(4321, mask=None), got=got) as url:
        await connect(url, handler=recorder, settings=PLAIN)
        await eventually(lambda: recorder.closes)
    assert all(f.masked for f in got)
    assert brief(got) == [*expected, (CLOSE, b"\x10\xe1")]
    assert recorder.closes == [(4321, "")]


@pytest.mark.parametrize("case", REFUSED)
async def test_a_client_refuses(case: str) -> None:
    """The same to a client. 7.1.7: it ends the connection, and says why before."""
    made, code = REFUSED[case]
    got: list[Frame] = []
    recorder = Recorder()
    data = frame(TEXT, b"before", mask=None) + made(None) + frame(TEXT, b"behind", mask=None)
    async with server_that_sends(data, got=got) as url:
        await connect(url, handler=recorder, settings=PLAIN)
        await eventually(lambda: recorder.closes)
    assert [(f.opcode, f.masked) for f in got] == [(TEXT, True), (CLOSE, True)]
    assert got[-1].code == code
    assert recorder.messages == ["before"]
    assert recorder.closes[0][0] == code


# -- 5.2, 5.3 and 6.1: what we send

LENGTHS = (0, 1, 125, 126, 127, 65535, 65536)


async def test_6_1_what_a_server_sends() -> None:
    """5.2, 5.6, 6.1: each message is one frame, text for str and binary for bytes, of the minimal length, unmasked."""
    recorder = Recorder(lambda ws, message: None)
    async with serving(recorder) as (_, site, port), client(port) as peer:
        (ws,) = site.sockets
        for size in LENGTHS:
            ws.write("x" * size)
            ws.write(b"\xff" * size)
            assert await peer.next() == Frame(TEXT, b"x" * size)
            assert await peer.next() == Frame(BINARY, b"\xff" * size)
        ws.write("ü€😀")
        assert await peer.next() == Frame(TEXT, "ü€😀".encode())
        with pytest.raises(UnicodeEncodeError):  # 8.1: it has no UTF-8
            ws.write("\ud800")
        ws.ping(b"p" * 125)
        assert await peer.next() == Frame(PING, b"p" * 125)


async def test_6_1_what_a_client_sends() -> None:
    """5.1, 5.3, 6.1, 10.3: the same, masked, by a key that is another one each time."""
    got: list[Frame] = []
    keys: list[bytes] = []

    async def script(peer: Peer, head: bytes) -> None:
        await peer.send(accepting(head))
        for _ in range(20):
            raw = await peer.raw.exactly(8)
            assert raw[:2] == b"\x82\x82"
            keys.append(raw[2:6])
        for _ in LENGTHS:
            got.append(await peer.next())
        await peer.rest()

    async with server(script) as url:
        ws = await connect(url, settings=PLAIN)
        for _ in range(20):
            ws.write(b"hi")
        for size in LENGTHS:
            ws.write(b"x" * size)
        await eventually(lambda: len(got) == len(LENGTHS))
        ws.conn.abort()
    assert got == [Frame(BINARY, b"x" * size, masked=True) for size in LENGTHS]
    assert len(set(keys)) == 20


async def test_6_2_messages_are_handed_over_when_they_are_complete() -> None:
    """6.2: not before; a ping is answered meanwhile (5.5.2: as soon as is practical)."""
    recorder = Recorder()
    async with serving(recorder) as (_, _, port), client(port) as peer:
        await peer.send(frame(TEXT, b"one,", fin=False) + frame(CONT, b"two", fin=False) + frame(PING, b"?"))
        assert await peer.next() == Frame(PONG, b"?")
        assert recorder.messages == []
        await peer.send(frame(CONT, b"!"))
        assert await peer.next() == Frame(TEXT, b"one,two!")


async def test_5_5_2_a_ping_in_the_middle_of_a_frame_is_payload() -> None:
    """5.4: control frames come between fragments, not within a frame; whatever it looks like, that is payload."""
    inner = frame(PING, b"inside")
    served = await serve([frame(BINARY, inner)[:9], frame(BINARY, inner)[9:] + closing()])
    assert brief(served.frames) == [(BINARY, inner), (CLOSE, b"\x03\xe8")]


async def test_5_5_3_pongs_reach_the_handler() -> None:
    """5.5.3: with their payload, those that answer a ping of ours and those nobody asked for."""
    recorder = Recorder()
    async with serving(recorder) as (_, site, port), client(port) as peer:
        site.sockets[0].ping(b"one")
        ping = await peer.next()
        assert ping == Frame(PING, b"one")
        await peer.send(frame(PONG, ping.payload) + frame(PONG, b"two"))
        await eventually(lambda: recorder.pongs == [b"one", b"two"])
        with pytest.raises(ValueError, match="the most is 125"):  # 5.5
            site.sockets[0].ping(b"x" * 126)


async def test_10_4_nothing_is_kept_of_a_message_that_will_be_too_long() -> None:
    """10.4: the length in the header decides; the connection is failed before any of the payload has come."""
    async with serving(Recorder(), max_message=1000) as (_, _, port), client(port) as peer:
        await peer.send(frame(BINARY, length=1 << 40))
        assert (await peer.next()).code == 1009


async def test_10_4_many_tiny_fragments_are_one_message() -> None:
    """10.4, 5.4: 50,000 fragments of one byte, and as many empty ones, take no more than their bytes, and no longer
    than they should."""
    tiny = b"".join(frame(CONT, b"x", fin=False) + frame(CONT, fin=False) for _ in range(50_000))
    async with asyncio.timeout(20):
        served = await serve([frame(TEXT, fin=False) + tiny + frame(CONT) + closing()])
    assert brief(served.frames) == [(TEXT, b"x" * 50_000), (CLOSE, b"\x03\xe8")]
