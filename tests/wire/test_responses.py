"""Reading responses of servers that are broken, or mean harm: whole, byte by byte, and cut anywhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import ProtocolError
from forebay.wire import response_head
from forebay.wire.heads import HeaderPairs
from forebay.wire.responses import ResponseReader

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
THREE = OK + b"Content-Length: 3\r\n\r\n"


@dataclass
class Heard:
    """What a reader told of one response."""

    status: int
    reason: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    content: bytes = b""
    pieces: int = 0
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    complete: bool = False
    keep_alive: bool = True


class Listener:
    """A sink that keeps everything."""

    def __init__(self, method: str = "GET", *, upgrade: bool = False, **limits: int) -> None:
        self.reader = ResponseReader(self, **limits)
        self.reader.expect(method, upgrade=upgrade)
        self.heard: list[Heard] = []

    def on_head(self) -> None:
        reader = self.reader
        headers = [(name, value.rstrip()) for name, value in reader.headers]
        self.heard.append(Heard(reader.status, reader.reason, reader.http_version, headers))

    def on_body(self, data: bytes) -> None:
        assert data
        self.heard[-1].content += data
        self.heard[-1].pieces += 1

    def on_end(self) -> None:
        assert self.reader.idle
        assert self.reader.remaining == 0
        self.heard[-1].complete = True
        self.heard[-1].trailers = list(self.reader.trailers)
        self.heard[-1].keep_alive = self.reader.keep_alive

    def feed(self, pieces: Iterable[bytes]) -> Listener:
        for piece in pieces:
            self.reader.feed(piece)
        return self


def ways(data: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, in two at some places, in threes."""
    return [
        [data],
        [data[at : at + 1] for at in range(len(data))],
        [data[:-1], data[-1:]],
        [data[: len(data) // 2], data[len(data) // 2 :]],
        [data[at : at + 3] for at in range(0, len(data), 3)],
    ]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(bounds)]


HOSTILE = {
    # the status line
    "not HTTP": (b"<html><body>hello</body></html>\r\n\r\n", "status-line", "is not a status line"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "status-line", "'S.*' is not a status line"),
    "ICY": (b"ICY 200 OK\r\n\r\n", "status-line", "'I.*' is not a status line"),
    "an empty line first": (b"\r\n" + THREE + b"abc", "status-line", "is not a status line"),
    "lower case": (b"http/1.1 200 OK\r\n\r\n", "status-line", "is not a status line"),
    "HTTP/2": (b"HTTP/2 200\r\n\r\n", "version", "'HTTP/2' is not spoken"),
    "HTTP/2.0": (b"HTTP/2.0 200 OK\r\n\r\n", "version", r"'HTTP/2(\.0)?' is not spoken"),
    "HTTP/1.2": (b"HTTP/1.2 200 OK\r\n\r\n", "version", "'HTTP/1.2' is not spoken"),
    "HTTP/0.9": (b"HTTP/0.9 200 OK\r\n\r\n", "version", r"'HTTP/0(\.9)?' is not spoken"),
    "two blanks": (b"HTTP/1.1  200 OK\r\n\r\n", "status-line", "is not a status line"),
    "a tab": (b"HTTP/1.1\t200 OK\r\n\r\n", "status-line", "a control character|is not a status line"),
    "status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", "status-line", "STATUS from 100 to 599"),
    "status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", "status-line", "STATUS from 100 to 599"),
    "status 099": (b"HTTP/1.1 099 OK\r\n\r\n", "status-line", "STATUS from 100 to 599"),
    "status 600": (b"HTTP/1.1 600 OK\r\n\r\n", "status-line", "STATUS from 100 to 599"),
    "status -20": (b"HTTP/1.1 -20 OK\r\n\r\n", "status-line", "STATUS from 100 to 599"),
    "no status": (b"HTTP/1.1\r\n\r\n", "status-line", "is not a status line"),
    "NUL in the reason": (b"HTTP/1.1 200 O\0K\r\n\r\n", "status-line", "a control character"),
    "bare LF after the status line": (b"HTTP/1.1 200 OK\nA: b\r\n\r\n", "line-end", "LF"),
    "bare LF everywhere": (b"HTTP/1.1 200 OK\nA: b\n\n", "line-end", "bare LF"),
    "bare CR in the status line": (b"HTTP/1.1 200 O\rK\r\n\r\n", "line-end", "does not end with CRLF"),
    # header fields
    "bare LF": (OK + b"A: b\nC: d\r\n\r\n", "line-end", "bare LF|header 'A' does not end with CRLF"),
    "bare CR": (OK + b"A: b\rC: d\r\n\r\n", "line-end", "header 'A' does not end with CRLF"),
    "CR CR LF": (OK + b"A: b\r\r\n\r\n", "line-end", "header 'A' does not end with CRLF"),
    "obs-fold": (OK + b"A: b\r\n c\r\n\r\n", "malformed", "folded"),
    "obs-fold with a tab": (OK + b"A: b\r\n\tc: d\r\n\r\n", "malformed", "folded"),
    "blank before the first field": (OK + b" A: b\r\n\r\n", "malformed", "folded"),
    "blank before the colon": (
        OK + b"Content-Length : 3\r\n\r\nabc",
        "malformed",
        "'Content-Length' has a blank before",
    ),
    "tab before the colon": (OK + b"A\t: b\r\n\r\n", "malformed", "'A' has a blank before"),
    "no colon": (OK + b"A\r\n\r\n", "malformed", "header line 'A' has no colon"),
    "no name": (OK + b": b\r\n\r\n", "malformed", "name '' is not a token"),
    "blank in a name": (OK + b"A B: c\r\n\r\n", "malformed", "name 'A B' is not a token"),
    "NUL in a name": (OK + b"A\0: b\r\n\r\n", "malformed", "is not a token"),
    "non-ASCII in a name": (OK + b"\xc3\x84: b\r\n\r\n", "malformed", "is not a token"),
    "NUL in a value": (OK + b"A: b\0c\r\n\r\n", "malformed", "value of header 'A' has a control character"),
    "escape in a value": (OK + b"A: \x1b[31m\r\n\r\n", "malformed", "value of header 'A' has a control character"),
    "DEL in a value": (OK + b"A: \x7f\r\n\r\n", "malformed", "value of header 'A' has a control character"),
    # framing of content
    "same length twice": (OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "two-lengths", "more than one"),
    "two lengths": (OK + b"Content-Length: 3\r\ncontent-length: 4\r\n\r\nabc", "two-lengths", "more than one"),
    "list of lengths": (OK + b"Content-Length: 3, 3\r\n\r\nabc", "length", "'3, 3' is not a number of bytes"),
    "negative length": (OK + b"Content-Length: -3\r\n\r\nabc", "length", "'-3' is not a number"),
    "signed length": (OK + b"Content-Length: +3\r\n\r\nabc", "length", r"'\+3' is not a number"),
    "hexadecimal length": (OK + b"Content-Length: 0x3\r\n\r\nabc", "length", "'0x3' is not a number"),
    "underscore in a length": (OK + b"Content-Length: 1_0\r\n\r\nabc", "length", "'1_0' is not a number"),
    "empty length": (OK + b"Content-Length:\r\n\r\nabc", "length", "'' is not a number"),
    "length of 19 digits": (OK + b"Content-Length: " + b"9" * 19 + b"\r\n\r\nabc", "length", "is not a number"),
    "length of 60 digits": (OK + b"Content-Length: " + b"9" * 60 + b"\r\n\r\n", "length", r"'9{40}'\.\.\. is not"),
    "superscript length": (OK + b"Content-Length: \xb2\r\n\r\nabc", "length", "is not a number"),
    "length and coding": (CHUNKED[:-2] + b"Content-Length: 3\r\n\r\n0\r\n\r\n", "two-lengths", "beside a transfer"),
    "gzip": (OK + b"Transfer-Encoding: gzip\r\n\r\n", "coding", "other than chunked"),
    "gzip, chunked": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "coding", "other than chunked"),
    "chunked, identity": (OK + b"Transfer-Encoding: chunked, identity\r\n\r\n", "coding", "other than chunked"),
    "chunked twice": (CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", "coding", "other than chunked"),
    "xchunked": (OK + b"Transfer-Encoding: xchunked\r\n\r\n", "coding", "other than chunked"),
    "vertical tab, chunked": (OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n", "malformed", "control character"),
    "no coding": (OK + b"Transfer-Encoding:\r\n\r\n", "coding", "other than chunked"),
    "chunked in HTTP/1.0": (CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n", "coding", "in an HTTP/1.0 response"),
    "204 with content": (b"HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\nabc", "content", "204 response with content"),
    "204 in chunks": (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "content", "204 response"),
    "103 with content": (b"HTTP/1.1 103 E\r\nContent-Length: 3\r\n\r\nabc" + THREE, "content", "103 response"),
    "101 unasked": (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "switch", "not asked for"),
    # chunks
    "no size": (CHUNKED + b"\r\nabc\r\n0\r\n\r\n", "chunk", "not a hexadecimal size"),
    "size 0x3": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", "chunk", "not a hexadecimal size"),
    "size +3": (CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n", "chunk", "not a hexadecimal size"),
    "size -3": (CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", "chunk", "not a hexadecimal size"),
    "size 1_0": (CHUNKED + b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n", "chunk", "not a hexadecimal size"),
    "size of 16 digits": (CHUNKED + b"f" * 16 + b"\r\nabc", "chunk", "not a hexadecimal size"),
    "blank after the size": (CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", "chunk", "not a hexadecimal size"),
    "blank before the size": (CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n", "chunk", "not a hexadecimal size"),
    "bare LF after the size": (CHUNKED + b"3\nabc\r\n0\r\n\r\n", "line-end|chunk", "bare LF|hexadecimal"),
    "bare LF after a chunk": (CHUNKED + b"3\r\nabc\n0\r\n\r\n", "chunk", "longer than it says"),
    "chunk longer than its size": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", "chunk", "longer than it says"),
    "NUL in an extension": (CHUNKED + b"3;a=\0\r\nabc\r\n0\r\n\r\n", "chunk", "with extensions"),
    "long extension": (CHUNKED + b"3;" + b"a" * 1100 + b"\r\nabc\r\n0\r\n\r\n", "chunk", "longer than 1024 bytes"),
    "flood of extensions": (CHUNKED + (b"1;" + b"a" * 900 + b"\r\na\r\n") * 30, "chunk", "longer than the content"),
    "blank before a trailer's colon": (CHUNKED + b"0\r\nA : b\r\n\r\n", "malformed", "'A' has a blank before"),
    "NUL in a trailer": (CHUNKED + b"0\r\nA: \0\r\n\r\n", "malformed", "control character"),
    "folded trailer": (CHUNKED + b"0\r\nA: b\r\n c\r\n\r\n", "malformed", "folded"),
    "bare LF in a trailer": (CHUNKED + b"0\r\nA: b\nC: d\r\n\r\n", "line-end", "bare LF|does not end"),
    # sizes and numbers
    "long head": (OK + b"A: " + b"b" * 5000 + b"\r\n\r\n", "long-head", "longer than 4096 bytes"),
    "long reason": (b"HTTP/1.1 200 " + b"b" * 5000 + b"\r\n\r\n", "long-head", "longer than 4096 bytes"),
    "endless head": (OK + b"A: " + b"b" * 5000, "long-head", "longer than 4096 bytes"),
    "many fields": (OK + b"A: b\r\n" * 41 + b"\r\n", "many-fields", "more than 40 header fields"),
    "endless fields": (OK + b"A: b\r\n" * 100, "many-fields", "more than 40 header fields"),
    "long trailers": (CHUNKED + b"0\r\n" + (b"A: " + b"b" * 500 + b"\r\n") * 9, "trailers", "longer than 4096 bytes"),
    "long dropped trailers": (CHUNKED + b"0\r\n" + b"Host: b\r\n" * 500, "trailers", "longer than 4096 bytes"),
    "endless trailer": (CHUNKED + b"0\r\nA: " + b"b" * 5000, "trailers", "longer than 4096 bytes"),
    "many trailers": (CHUNKED + b"0\r\n" + b"A: b\r\n" * 41 + b"\r\n", "trailers", "more than 40 trailers"),
    "blanks that lead nowhere": (OK + b"A: " + b" " * 4000 + b"\0\r\n\r\n", "malformed", "control character"),
    "interim flood": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20, "interim", "more than 16 interim responses"),
    "flood of 100": (b"HTTP/1.1 100 Continue\r\n\r\n" * 17 + THREE + b"abc", "interim", "more than 16 interim"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_must_be_refused_is(case: str) -> None:
    """By a ProtocolError that says what is wrong, however it is cut, and for good."""
    data, reason, message = HOSTILE[case]
    for pieces in ways(data):
        listener = Listener(max_head=4096, max_count=40)
        with pytest.raises(ProtocolError, match=message) as caught:
            listener.feed(pieces)
        assert caught.value.reason in reason.split("|")
        assert caught.value.status == 502
        assert not any(each.complete for each in listener.heard)
        for _ in range(2):
            with pytest.raises(ProtocolError, match=message):
                listener.reader.feed(THREE + b"abc")
        with pytest.raises(ProtocolError, match=message):
            listener.reader.eof()
        assert not listener.reader.keep_alive


@given(st.sampled_from(list(HOSTILE)), st.lists(st.integers(0, 1 << 13), max_size=9))
def test_what_must_be_refused_is_however_it_is_cut(case: str, places: list[int]) -> None:
    """In any pieces."""
    with pytest.raises(ProtocolError):
        Listener(max_head=4096, max_count=40).feed(cut(HOSTILE[case][0], places))


GOOD: dict[str, tuple[str, bytes, bytes, HeaderPairs, bool]] = {
    "length": ("GET", THREE + b"abc", b"abc", (), True),
    "no content": ("GET", OK + b"Content-Length: 0\r\n\r\n", b"", (), True),
    "leading zeros": ("GET", OK + b"Content-Length: \t 003 \t\r\n\r\nabc", b"abc", (), True),
    "no reason": ("GET", b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", b"a", (), True),
    "empty reason": ("GET", b"HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\na", b"a", (), True),
    "close": ("GET", THREE.replace(b"\r\n\r\n", b"\r\nconnection: x, Close\r\n\r\n") + b"abc", b"abc", (), False),
    "HTTP/1.0": ("GET", THREE.replace(b"1.1", b"1.0") + b"abc", b"abc", (), False),
    "HTTP/1.0 kept": (
        "GET", b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 3\r\n\r\nabc", b"abc", (), True,
    ),
    "chunks": ("GET", CHUNKED + b"3\r\nabc\r\nA;b=\"c;\"\r\n0123456789\r\n000\r\n\r\n", b"abc0123456789", (), True),
    "trailers": (
        "GET", CHUNKED + b"1\r\na\r\n0\r\nDigest: b \r\nSet-Cookie: c\r\nContent-Length: 9\r\nX:\r\n\r\n", b"a",
        ((b"Digest", b"b"), (b"X", b"")), True,
    ),
    "HEAD": ("HEAD", OK + b"Content-Length: 3000000000000\r\n\r\n", b"", (), True),
    "HEAD in chunks": ("HEAD", CHUNKED, b"", (), True),
    "HEAD without a length": ("HEAD", OK + b"\r\n", b"", (), True),
    "HEAD closes": ("HEAD", OK + b"Connection: close\r\n\r\n", b"", (), False),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"", (), True),
    "204 with a length of 0": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b"", (), True),
    "304": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", (), True),
    "304 in chunks": ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b"", (), True),
    "after interim ones": ("GET", b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n" * 16 + THREE + b"abc", b"abc", (), True),
    "an upgrade that is refused": (
        "GET", b"HTTP/1.1 426 U\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 3\r\n\r\nabc", b"abc", (), True,
    ),
    "CONNECT refused": ("CONNECT", b"HTTP/1.1 407 P\r\nContent-Length: 3\r\n\r\nabc", b"abc", (), True),
    "odd but valid fields": (
        "GET", OK + b"!#$%&'*+-.^_`|~09aZ:\r\nB:\t c\xff\t d \r\nContent-Length: 1\r\n\r\na", b"a", (), True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_what_is_well_formed_is_read(case: str) -> None:
    """However it is cut, and with another response behind it on the same connection."""
    method, data, content, trailers, keep_alive = GOOD[case]
    for pieces in ways(data):
        listener = Listener(method).feed(pieces)
        answer = listener.heard[-1]
        assert answer.complete
        assert (answer.content, tuple(answer.trailers), answer.keep_alive) == (content, tuple(trailers), keep_alive)
        assert not listener.reader.in_message
        listener.reader.eof()
        listener.reader.expect("GET")
        listener.reader.feed(THREE + b"abc")
        assert (listener.heard[-1].content, listener.heard[-1].trailers) == (b"abc", [])


def test_what_a_head_says() -> None:
    """Status, reason, version and headers, as they were received."""
    listener = Listener().feed([b"HTTP/1.0 404 Not \xe4 Found\r\nA: b\r\nA:c \r\nContent-Length: 0\r\n\r\n"])
    (answer,) = listener.heard
    assert (answer.status, answer.reason, answer.version) == (404, b"Not \xe4 Found", "1.0")
    assert answer.headers == [(b"A", b"b"), (b"A", b"c"), (b"Content-Length", b"0")]


@pytest.mark.parametrize(
    ("method", "data", "message"),
    [
        ("GET", b"HTTP/1.1 103 E\r\nA: b\r\n\r\n" + THREE + b"abc", None),
        ("GET", CHUNKED + b"3;a\r\nabc\r\n1\r\nd\r\n0\r\nA: b\r\n\r\n", None),
        ("HEAD", THREE, None),
        ("GET", OK + b"Connection: close\r\n\r\nabc", len(OK + b"Connection: close\r\n\r\n")),
    ],
)
def test_a_response_that_ends_early_is_refused_at_every_byte(method: str, data: bytes, message: int | None) -> None:
    """Unless its content ends with the connection: then any content is all of it."""
    for size in range(len(data)):
        for pieces in ([data[:size]], cut(data[:size], list(range(size)))):
            listener = Listener(method).feed(pieces)
            if message is not None and size >= message:
                listener.reader.eof()
                assert listener.heard[-1].complete
                assert listener.heard[-1].content == data[message:size]
                continue
            with pytest.raises(ProtocolError, match=r"connection ended (before|within|after)") as caught:
                listener.reader.eof()
            assert caught.value.reason == "cut-short"
            assert not any(each.complete for each in listener.heard)
    listener = Listener(method).feed([data])
    listener.reader.eof()
    assert listener.heard[-1].complete


def test_where_it_ended_is_said() -> None:
    """So that nobody has to guess."""
    for data, where in (
        (b"", "before the response$"),
        (b"HTT", "within the head"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "before the response, after an interim one"),
        (THREE + b"ab", "after 2 of 3 bytes of content"),
        (OK + b"Content-Length: 1000000000000\r\n\r\nab", "after 2 of 1000000000000 bytes"),
        (CHUNKED + b"3\r\n", "within chunked content"),
    ):
        with pytest.raises(ProtocolError, match=f"connection ended {where}"):
            Listener().feed([data]).reader.eof()


def test_how_much_is_still_to_come() -> None:
    """Known where there is a length."""
    listener = Listener()
    assert listener.reader.remaining is None
    assert listener.feed([OK + b"Content-Length: 9\r\n\r\nab"]).reader.remaining == 7
    assert listener.feed([b"abcdefg"]).reader.remaining == 0
    assert Listener().feed([CHUNKED + b"9\r\na"]).reader.remaining is None
    assert Listener().feed([OK + b"\r\nabc"]).reader.remaining is None


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("GET", THREE + b"abc"),
        ("GET", CHUNKED + b"0\r\n\r\n"),
        ("GET", CHUNKED + b"0\r\nA: b\r\n\r\n"),
        ("HEAD", THREE),
        ("GET", OK + b"Content-Length: 0\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n"),
    ],
)
def test_bytes_behind_a_complete_response(method: str, data: bytes) -> None:
    """The response is good; its connection is not. Whoever hears of its end knows that by then, so that no answer of a
    server's choosing is taken for that to another request."""
    for extra in (b"\r\n", b"x", THREE + b"abc"):
        together = Listener(method)
        with pytest.raises(ProtocolError, match="no request asked for") as caught:
            together.reader.feed(data + extra)
        assert caught.value.reason == "excess"
        (answer,) = together.heard
        assert answer.complete
        assert not answer.keep_alive
        assert not together.reader.keep_alive
        later = Listener(method).feed([data])
        assert later.heard[-1].keep_alive
        with pytest.raises(ProtocolError, match="no request asked for"):
            later.reader.feed(extra)
        assert len(later.heard) == 1
        assert not later.reader.keep_alive
    with pytest.raises(ProtocolError, match="no request asked for"):
        ResponseReader(Listener()).feed(b"H")


@pytest.mark.parametrize(
    ("method", "upgrade", "head"),
    [
        ("GET", True, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        ("CONNECT", False, b"HTTP/1.1 200 OK\r\n\r\n"),
        ("CONNECT", False, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"),
        ("CONNECT", False, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
)
def test_what_comes_behind_a_switch_is_kept(method: str, upgrade: bool, head: bytes) -> None:
    """RFC 9110 sections 7.8 and 9.3.6: it is no HTTP. It is bounded until somebody takes it."""
    stream = b"HTTP/1.1 100 Continue\r\n\r\n" + head + b"\0\1HTTP/1.1 xx"
    for pieces in ways(stream):
        listener = Listener(method, upgrade=upgrade).feed(pieces)
        assert listener.reader.switched
        assert listener.reader.rest == b"\0\1HTTP/1.1 xx"
        assert [each.complete for each in listener.heard] == [False, False]
        assert listener.heard[-1].content == b""
        listener.reader.eof()
        with pytest.raises(ProtocolError, match="before the upgrade was taken"):
            listener.reader.feed(bytes(262144))


def test_large_content_is_passed_on_as_it_came() -> None:
    """Without a copy, where a piece is nothing else."""
    taken: list[bytes] = []
    listener = Listener()
    listener.on_body = taken.append  # type: ignore[method-assign, assignment]  # what is passed on is looked at, and not joined
    piece = bytes(65536)
    listener.reader.feed(OK + b"Content-Length: 196608\r\n\r\n")
    for _ in range(3):
        listener.reader.feed(piece)
    assert [each is piece for each in taken] == [True] * 3
    assert listener.reader.idle


def test_small_chunks_that_came_together_are_passed_on_together() -> None:
    """A server that sends every byte in a chunk of its own costs little; large chunks are not copied once more."""
    small, large = b"1\r\na\r\n2\r\nbc\r\n", b"1000\r\n" + bytes(4096) + b"\r\n"
    listener = Listener().feed([CHUNKED + small + small + large + large + small + b"5\r\nabc", b"de\r\n0\r\n\r\n"])
    (answer,) = listener.heard
    assert answer.content == b"abcabc" + bytes(8192) + b"abc" + b"abcde"
    assert answer.complete
    assert answer.pieces == 6


def test_a_length_of_a_terabyte_takes_no_memory() -> None:
    """It is only a number."""
    listener = Listener().feed([OK + b"Content-Length: 1099511627776\r\n\r\n", b"abc"])
    assert listener.reader.remaining == 1099511627776 - 3


@given(st.sampled_from(list(GOOD)), st.lists(st.integers(0, 1000), max_size=7))
def test_the_same_bytes_mean_the_same_however_they_are_cut(case: str, places: list[int]) -> None:
    """Content, trailers, and whether the connection goes on."""
    method, data, content, trailers, keep_alive = GOOD[case]
    answer = Listener(method).feed(cut(data, places)).heard[-1]
    assert (answer.content, tuple(answer.trailers), answer.keep_alive) == (content, tuple(trailers), keep_alive)
    assert answer.complete


@given(st.data())
def test_changed_responses_are_read_the_same_in_any_pieces(data: st.DataObject) -> None:
    """Bytes inserted, removed and replaced: all readings agree, and only ProtocolError leaves them."""
    method, stream, *_ = GOOD[data.draw(st.sampled_from(list(GOOD)))]
    changed = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b":", b"\0", b"0", b";", b"\r\n\r\n"])
            | st.binary(max_size=2)
        )
    readings = []
    for pieces in (*ways(bytes(changed)), cut(bytes(changed), data.draw(st.lists(st.integers(0, 300), max_size=5)))):
        listener = Listener(method)
        try:
            listener.feed(pieces)
            refused = False
        except ProtocolError:
            refused = True
        readings.append((refused, [(e.status, e.headers, e.content, e.trailers, e.complete) for e in listener.heard]))
    complete = [(refused, [each for each in heard if each[-1]]) for refused, heard in readings]
    assert all(each == complete[0] for each in complete)


# -- heads that are remembered


def test_a_remembered_head_means_the_same() -> None:
    """To a GET, to a HEAD, and within another reader's limits."""
    response_head._known.clear()
    data = OK + b"X-Remembered: yes\r\nContent-Length: 3\r\n\r\n"
    for _ in range(4):
        assert Listener().feed([data + b"abc"]).heard[-1].content == b"abc"
    assert data in response_head._known
    assert Listener("HEAD").feed([data]).heard[-1].complete
    assert Listener("CONNECT").feed([data]).reader.switched
    with pytest.raises(ProtocolError, match="more than 1 header fields"):
        Listener(max_count=1).feed([data])
    with pytest.raises(ProtocolError, match="longer than 30 bytes"):
        Listener(max_head=30).feed([data])
    for wrong in (data.replace(b"yes", b"y\0s"), data.replace(b"yes\r\n", b"yes\n"), data[:-2] + b"X\r\n\r\n"):
        with pytest.raises(ProtocolError):
            Listener().feed([wrong])


def test_what_is_remembered_is_bounded() -> None:
    """A server that says everything twice, and one that never does."""
    for number in range(2000):
        for _ in range(2):
            Listener().feed([OK + b"X: %d\r\nContent-Length: 0\r\n\r\n" % number])
        Listener().feed([OK + b"Y: %d\r\nContent-Length: 0\r\n\r\n" % number])
    assert 0 < len(response_head._known) <= 512
    assert len(response_head._seen) <= 4096
    long = OK + b"X: " + b"y" * 5000 + b"\r\nContent-Length: 0\r\n\r\n"
    for _ in range(3):
        Listener().feed([long])
    assert long not in response_head._known


def test_a_closed_reader_forgets_its_sink() -> None:
    """From within a call of the sink as well; nothing is heard after that."""

    class Leaver(Listener):
        def on_head(self) -> None:
            super().on_head()
            self.reader.close()

    for data in (THREE + b"abc", THREE, OK + b"Content-Length: 0\r\n\r\n", CHUNKED + b"1\r\na\r\n0\r\n\r\n"):
        leaver = Leaver().feed([data, b"abc"])
        assert len(leaver.heard) == 1
        assert (leaver.heard[0].content, leaver.heard[0].complete) == (b"", False)
        leaver.reader.eof()


def test_a_version_that_is_cut_off_is_one() -> None:
    """What is wrong is the same word wherever the network cuts."""
    head = b"HTTP/2.1 200 OK\r\n\r\n"
    for place in range(len(b"HTTP/2"), len(head)):
        listener = Listener()
        with pytest.raises(ProtocolError) as caught:
            for piece in (head[:place], head[place:]):
                listener.reader.feed(piece)
        assert caught.value.reason == "version", place
