"""Streams with a response to fuzz with: by hypothesis, and to begin with."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from fuzz.request_inputs import _CHUNKS, _ENDS, _LAST, _TRAILERS
from fuzz.response_readings import ASKED
from fuzz.target import encode

ENDS = 1 << 2
"""The flag of an input after which the connection ends; below it is the number of what was asked."""

_LINES = [
    b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified",
    b"HTTP/1.1 101 Switching Protocols", b"HTTP/1.1 404 Not \xe4 Found\t", b"HTTP/1.0 200 OK", b"HTTP/1.1 200",
    b"HTTP/1.1 200 ", b"HTTP/1.1 599 x", b"HTTP/1.1 600 x", b"HTTP/1.1 999 x", b"HTTP/1.1 099 x", b"HTTP/1.1 1000 x",
    b"HTTP/1.2 200 OK", b"HTTP/2.0 200 OK", b"HTTP/2 200", b"http/1.1 200 OK", b"ICY 200 OK", b"HTTP/1.1  200 OK",
    b"HTTP/1.1\t200 OK", b"HTTP/1.1 2x0 OK", b"HTTP/1.1 200 a\x01b", b"HTTP/1.1 200 a\0b", b"HTTP/1.1 200OK", b"",
]  # fmt: skip
_INTERIM = [
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
    b"HTTP/1.1 102 \r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 103 x\r\nContent-Length: 3\r\n\r\n",
]  # fmt: skip
_NAMES = [
    b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"Content-Encoding", b"Set-Cookie", b"X",
    b"Content-Length ", b" X", b"X\0", b"", b"X\x80", b"Transfer_Encoding",
]  # fmt: skip
_VALUES = [
    b"a", b"", b"0", b"3", b" 3\t", b"3, 3", b"+3", b"-3", b"03", b"3\x0b", b"999999999999999999",
    b"9999999999999999999", b"18446744073709551616", b"chunked", b"Chunked ", b"gzip", b"gzip, chunked",
    b"chunked, chunked", b"\x0bchunked", b"close", b"keep-alive", b"Keep-Alive, X", b"upgrade", b"close, upgrade", b"x",
    b"a\x01", b"a\x7f", b"a\xff", b"a\tb", b"a\x0bb", b"a\r b", b"a\r\n b", b"a" * 298,
]  # fmt: skip
_MORE_CHUNKS = [b"1;" + b"b" * 1021 + b"\r\na\r\n", b"1;" + b"b" * 1023 + b"\r\na\r\n"]
_MORE_TRAILERS = [b"Set-Cookie: a\r\n", b"A: " + b"b" * 300 + b"\r\n", b"A: b\r\n" * 11, b"A: b\rc\r\n"]

WORDS = (
    *(word for word in dict.fromkeys(_LINES + _VALUES + _CHUNKS + _LAST + _TRAILERS) if 0 < len(word) <= 40),
    *(name + b": " for name in _NAMES if name), *_INTERIM[:2],
    b"\r\n", b"\r\n\r\n", b"\n\n", b"\n\r\n", b"HTTP/1.1 200 OK\r\n", b"0\r\n\r\n",
)  # fmt: skip


@st.composite
def _responses(draw: st.DrawFn) -> bytes:
    line = draw(st.sampled_from(_LINES[:6]) | st.sampled_from(_LINES))
    fields = []
    if draw(st.integers(0, 3)):
        fields.append(draw(st.sampled_from([b"Content-Length: 3", b"Transfer-Encoding: chunked"])))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3, 11]))):
        separator = draw(st.sampled_from([b": "] * 9 + [b":", b" : ", b":\t", b""]))
        fields.insert(
            draw(st.integers(0, len(fields))),
            draw(st.sampled_from(_NAMES)) + separator + draw(st.sampled_from(_VALUES)),
        )
    head = b"".join(each + draw(st.sampled_from(_ENDS)) for each in (line, *fields)) + draw(st.sampled_from(_ENDS))
    interim = draw(st.lists(st.sampled_from(_INTERIM[:2]) | st.sampled_from(_INTERIM), max_size=4))
    return b"".join([*interim, head, draw(_content(head))])


@st.composite
def _content(draw: st.DrawFn, head: bytes) -> bytes:
    if b"chunked" in head.lower() and draw(st.integers(0, 9)):
        chunks = draw(st.lists(st.sampled_from(_CHUNKS[:6]) | st.sampled_from(_CHUNKS + _MORE_CHUNKS), max_size=3))
        trailers = draw(
            st.lists(st.sampled_from(_TRAILERS[:4]) | st.sampled_from(_TRAILERS + _MORE_TRAILERS), max_size=2)
        )
        return b"".join([*chunks, draw(st.sampled_from(_LAST)), *trailers, draw(st.sampled_from(_ENDS))])
    return draw(st.sampled_from([b"abc", b"abc", b"abc", b"", b"ab", b"abcd", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]))


@st.composite
def inputs(draw: st.DrawFn) -> bytes:
    """A response with interim ones before it, changed in a few places."""
    stream = bytearray(draw(_responses()))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, len(stream)))
        change = draw(st.sampled_from(["insert", "delete", "replace", "cut"]))
        if change == "insert":
            stream[at:at] = draw(st.sampled_from(WORDS) | st.binary(min_size=1, max_size=3))
        elif change == "delete":
            del stream[at : at + draw(st.integers(1, 8))]
        elif change == "replace":
            stream[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        else:
            del stream[at:]
    places = draw(st.lists(st.integers(0, max(1, len(stream))), max_size=7))
    asked = draw(st.sampled_from([0, 0, 0, 1, 2, 3]))
    return encode(asked | ENDS * draw(st.integers(0, 1)), places, bytes(stream))


def seeds() -> Sequence[bytes]:
    """One response of every kind, to every question."""
    start, chunked = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    three = b"Content-Length: 3\r\n\r\nabc"
    streams = [line + b"\r\n" + three for line in _LINES] + [line + b"\r\n\r\n" for line in _LINES]
    streams += [interim + start + three for interim in _INTERIM] + [_INTERIM[1] * 3 + start + three, _INTERIM[0] * 4]
    streams += [start + name + b": " + value + b"\r\n\r\nabc" for name in _NAMES[:8] for value in _VALUES]
    streams += [start + name + b": b\r\n" + three for name in _NAMES]
    streams += [b"HTTP/1.0 200 OK\r\n" + name + b": " + value + b"\r\n" + three
                for name in _NAMES[1:3] for value in (b"chunked", b"keep-alive", b"close")]  # fmt: skip
    streams += [(start + three).replace(b"\r\n", end) for end in dict.fromkeys(_ENDS)]
    streams += [start + more + b"\r\n" + three for more in (b"Content-Length: 3", b"Transfer-Encoding: chunked")]
    streams += [chunked + chunk + b"0\r\n\r\n" for chunk in _CHUNKS + _MORE_CHUNKS]
    streams += [chunked + b"1\r\na\r\n" + last + b"\r\n" for last in _LAST]
    streams += [chunked + b"0\r\n" + trailer + b"\r\n" for trailer in _TRAILERS + _MORE_TRAILERS]
    streams += [start + b"X: y\r\n" * 11 + b"\r\n", start + b"X: " + b"y" * 290 + b"\r\n\r\n", start + three + b"more"]
    streams += [b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"<html>", start[:12], b"\n"]
    places: tuple[list[int], ...] = ([], [20], [1, 17, 40])
    return [
        encode(flags, places[number % 3], stream)
        for number, stream in enumerate(streams)
        for flags in {0, number % len(ASKED) | ENDS}
    ]
