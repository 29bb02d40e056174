"""RFC 6455 section 8.1 over real sockets: text is UTF-8, also where it is cut, and what is not is refused at its first
bad byte. The kinds of bytes are those of Markus Kuhn's stress test for UTF-8 decoders."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from forebay.http.websocket import WebSocketSettings
from forebay.http.websocket_client import connect
from tests.http.raw_websocket import (
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    client,
    closing,
    frame,
    serve,
    server_that_sends,
)
from tests.http.websockets_kit import Recorder, serving
from tests.support import eventually

KOSME = "κόσμε".encode()

VALID: dict[str, bytes] = {
    "ASCII with every control character": bytes(range(128)),
    "kosme": KOSME,
    "mixed": "Hello-µ@ßöäüàá-UTF-8!!".encode(),
    "the first of 2 bytes": b"\xc2\x80",
    "the first of 3 bytes": b"\xe0\xa0\x80",
    "the first of 4 bytes": b"\xf0\x90\x80\x80",
    "the last of 1 byte": b"\x7f",
    "the last of 2 bytes": b"\xdf\xbf",
    "the last of 3 bytes": b"\xef\xbf\xbf",
    "the last of 4 bytes": b"\xf4\x8f\xbf\xbf",
    "before the surrogates": b"\xed\x9f\xbf",
    "behind the surrogates": b"\xee\x80\x80",
    "the replacement character": b"\xef\xbf\xbd",
    "a byte order mark": b"\xef\xbb\xbfx",
    "noncharacters": b"\xef\xbf\xbe\xef\xb7\x90\xf0\x9f\xbf\xbe\xf4\x8f\xbf\xbe",
    "all lengths, next to each other": "aé€😀😀€éa".encode() * 50,
}

# What no continuation can make good: each is wrong by its last byte at the latest.
INVALID: dict[str, bytes] = {
    "a continuation byte": b"\x80",
    "the last continuation byte": b"\xbf",
    "many continuation bytes": b"\x80\xbf\x80\xbf",
    "all continuation bytes": bytes(range(0x80, 0xC0)),
    "a start of 2 bytes before a space": b"\xc3 ",
    "a start of 3 bytes before a space": b"\xe2 ",
    "a start of 4 bytes before a space": b"\xf0 ",
    "2 bytes of 3 before a letter": b"\xe2\x82x",
    "3 bytes of 4 before a letter": b"\xf0\x9f\x98x",
    "two starts": b"\xc3\xc3",
    "fe": b"\xfe",
    "ff": b"\xff",
    "fe fe ff ff": b"\xfe\xfe\xff\xff",
    "a slash in 2 bytes": b"\xc0\xaf",
    "a slash in 3 bytes": b"\xe0\x80\xaf",
    "a slash in 4 bytes": b"\xf0\x80\x80\xaf",
    "a slash in 5 bytes": b"\xf8\x80\x80\x80\xaf",
    "a slash in 6 bytes": b"\xfc\x80\x80\x80\x80\xaf",
    "NUL in 2 bytes": b"\xc0\x80",
    "NUL in 3 bytes": b"\xe0\x80\x80",
    "the longest that is too long, of 2 bytes": b"\xc1\xbf",
    "the longest that is too long, of 3 bytes": b"\xe0\x9f\xbf",
    "the longest that is too long, of 4 bytes": b"\xf0\x8f\xbf\xbf",
    "the first high surrogate": b"\xed\xa0\x80",
    "the last high surrogate": b"\xed\xaf\xbf",
    "the first low surrogate": b"\xed\xb0\x80",
    "the last low surrogate": b"\xed\xbf\xbf",
    "a pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "above U+10FFFF": b"\xf4\x90\x80\x80",
    "a start for above U+13FFFF": b"\xf5\x80\x80\x80",
    "5 bytes": b"\xf8\x88\x80\x80\x80",
    "6 bytes": b"\xfc\x84\x80\x80\x80\x80",
    "Latin-1": "grüße".encode("latin-1"),
    "UTF-16": "ab".encode("utf-16"),
}
UNFINISHED: dict[str, bytes] = {
    "1 byte of 2": b"\xc3",
    "1 byte of 3": b"\xe2",
    "2 bytes of 3": b"\xe2\x82",
    "1 byte of 4": b"\xf0",
    "2 bytes of 4": b"\xf0\x9f",
    "3 bytes of 4": b"\xf0\x9f\x98",
}


def whole(text: bytes) -> list[bytes]:
    """One frame."""
    return [frame(TEXT, text)]


def each_byte_a_fragment(text: bytes) -> list[bytes]:
    """A frame for each byte, and one more."""
    fragments = [frame(CONT, text[at : at + 1], fin=False) for at in range(1, len(text))]
    return [b"".join((frame(TEXT, text[:1], fin=False), *fragments, frame(CONT)))]


def byte_by_byte(text: bytes) -> list[bytes]:
    """One frame, each byte of which comes by itself."""
    data = frame(TEXT, text)
    return [data[at : at + 1] for at in range(len(data))]


def fragments_byte_by_byte(text: bytes) -> list[bytes]:
    """Both."""
    data = each_byte_a_fragment(text)[0]
    return [data[at : at + 1] for at in range(len(data))]


Way = Callable[[bytes], list[bytes]]
WAYS: tuple[Way, ...] = (whole, each_byte_a_fragment, byte_by_byte, fragments_byte_by_byte)


def short(pieces: list[bytes]) -> Iterable[bytes]:
    """At most some hundred of them."""
    return [*pieces[:300], b"".join(pieces[300:])]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", VALID)
async def test_8_1_text_that_is_utf_8(case: str, way: Way) -> None:
    """5.6, 8.1: comes back, wherever it is cut."""
    text = VALID[case]
    pieces = way(text)
    served = await serve(short([*pieces, closing()]), compression=None)
    assert served.frames == [Frame(TEXT, text), Frame(CLOSE, b"\x03\xe8")]
    assert served.messages == [text.decode()]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", [*INVALID, *UNFINISHED])
async def test_8_1_text_that_is_not(case: str, way: Way) -> None:
    """8.1: fails the connection, with 1007 (7.4.1); also what is not complete when the message is."""
    text = KOSME + (INVALID | UNFINISHED)[case]
    pieces = way(text)
    served = await serve(short(pieces), compression=None)
    (last,) = served.frames
    assert last.code == 1007
    assert served.messages == []


@pytest.mark.parametrize("split", ["in one frame", "in fragments"])
@pytest.mark.parametrize("case", INVALID)
async def test_8_1_it_is_refused_at_once(case: str, split: str) -> None:
    """8.1: when the bytes that are wrong have come; the rest of the frame, or message, is not waited for."""
    text = KOSME + INVALID[case]
    if split == "in one frame":
        data = frame(TEXT, text, length=len(text) + 50_000)
    else:
        data = frame(TEXT, KOSME, fin=False) + frame(CONT, INVALID[case], fin=False)
    served = await serve([data], compression=None)
    assert [f.code for f in served.frames] == [1007]


@pytest.mark.parametrize("case", UNFINISHED)
async def test_8_1_what_may_still_become_text_is_waited_for(case: str) -> None:
    """8.1: a character may be cut by the end of a frame. Whether it is one shows with its last byte."""
    character = {0xC3: b"\xc3\xa9", 0xE2: b"\xe2\x82\xac", 0xF0: b"\xf0\x9f\x98\x80"}[UNFINISHED[case][0]]
    begun = UNFINISHED[case]
    assert character.startswith(begun)
    recorder = Recorder()
    async with serving(recorder) as (_, _, port), client(port) as peer:
        await peer.send(frame(TEXT, KOSME + begun, fin=False) + frame(PING))
        assert await peer.next() == Frame(PONG, b"")  # so it was read, and nothing is wrong yet
        await peer.send(frame(CONT, character[len(begun) :]))
        assert await peer.next() == Frame(TEXT, KOSME + character)
        await peer.send(frame(TEXT, begun, fin=False) + frame(CONT, b"!"))
        assert (await peer.next()).code == 1007


@pytest.mark.parametrize("case", [*INVALID, *UNFINISHED])
async def test_8_1_a_client_refuses_it_too(case: str) -> None:
    """8.1: from a server, whole and with the rest still to come."""
    text = (INVALID | UNFINISHED)[case]
    for data in (
        frame(TEXT, text, mask=None),
        frame(TEXT, b"ab", fin=False, mask=None) + frame(CONT, text + b"x", fin=False, mask=None),
    ):
        got: list[Frame] = []
        recorder = Recorder()
        async with server_that_sends(data, got=got) as url:
            await connect(url, handler=recorder, settings=WebSocketSettings(compression=None))
            await eventually(lambda: recorder.closes)  # noqa: B023
        assert [f.code for f in got] == [1007]
        assert not recorder.messages


@pytest.mark.parametrize("case", INVALID)
async def test_8_1_binary_may_be_anything(case: str) -> None:
    """5.6: only text is looked at."""
    served = await serve([frame(2, INVALID[case]), closing()], compression=None)
    assert served.messages == [INVALID[case]]


async def test_8_1_a_long_text_is_read_once() -> None:
    """Not anew with every fragment: a megabyte in fragments of 16 bytes, cut in the middle of its characters."""
    text = "😀€é".encode() * 111_111
    fragments = [frame(CONT, text[at : at + 16], fin=False) for at in range(0, len(text), 16)]
    served = await serve([frame(TEXT, fin=False), b"".join(fragments), frame(CONT), closing()], compression=None)
    assert served.frames[0] == Frame(TEXT, text)
