"""The readers and writers of HTTP/1.1 messages, byte by byte and beside h11."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forebay.errors import ProtocolError
from forebay.wire.http1 import (
    Fields,
    HeaderPairs,
    RequestLine,
    RequestReader,
    RequestRules,
    ResponseReader,
    decode_path,
    encode_chunk,
    encode_headers,
    find_header,
)


@dataclass
class Message:
    """What a reader told of one message."""

    method: str = ""
    target: bytes = b""
    path: bytes = b""
    query: bytes = b""
    status: int = 0
    headers: Sequence[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    keep_alive: bool = True


class Requests:
    """A sink that keeps everything."""

    def __init__(self, rules: RequestRules | None = None) -> None:
        self.reader = RequestReader(self, rules or RequestRules())
        self.messages: list[Message] = []
        self.trailers: list[HeaderPairs] = []

    def on_head(self, line: RequestLine, fields: Fields) -> None:
        method, target, path, query = line
        self.messages.append(
            Message(
                method,
                target,
                path,
                query,
                headers=fields.headers,
                keep_alive=fields.keep_alive,
                ended=not fields.has_content,
            )
        )

    def on_body(self, data: bytes) -> None:
        self.messages[-1].body += data

    def on_end(self, trailers: HeaderPairs) -> None:
        self.messages[-1].ended = True
        self.trailers.append(trailers)


class Responses:
    """The same for responses."""

    def __init__(self, method: str = "GET") -> None:
        self.reader = ResponseReader(self)
        self.reader.expect(method)
        self.messages: list[Message] = []

    def on_head(self) -> None:
        self.messages.append(
            Message(status=self.reader.status, headers=self.reader.headers, keep_alive=self.reader.keep_alive)
        )

    def on_body(self, data: bytes) -> None:
        self.messages[-1].body += data

    def on_end(self) -> None:
        self.messages[-1].ended = True


def read(data: bytes, step: int = 0, **limits: int) -> list[Message]:
    """Feed ``data``, whole or in steps."""
    sink = Requests(RequestRules(**limits))
    for start in range(0, len(data), step or len(data)):
        sink.reader.feed(data[start : start + (step or len(data))])
    return sink.messages


GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7])
def test_requests_are_read_over_any_split(step: int) -> None:
    """Content-Length, chunked with trailers and no body, pipelined, in pieces of any size."""
    data = (
        POST + b"Content-Length: 3\r\n\r\nabc"
        b"POST /x?y=1 HTTP/1.1\r\nhOST: a:80\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2;ext=1\r\nde\r\n1\r\nf\r\n0\r\nTrailer: t\r\n\r\n" + GET + b"X: \t y \t\r\n\r\n"
    )
    first, second, third = read(data, step)
    assert (first.method, first.target, first.body, first.ended) == ("POST", b"/", b"abc", True)
    assert (second.path, second.query, second.body, second.ended) == (b"/x", b"y=1", b"def", True)
    assert find_header(second.headers, b"trailer") is None, "trailers are not headers"
    assert find_header(third.headers, b"x") == b"y"
    assert third.ended


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400, id="length and coding"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400, id="coding and length"),
        pytest.param(POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, id="same length twice"),
        pytest.param(POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, id="two lengths"),
        pytest.param(POST + b"Content-Length: 3, 3\r\n\r\nabc", 400, id="list of lengths"),
        pytest.param(POST + b"Content-Length: +3\r\n\r\nabc", 400, id="signed length"),
        pytest.param(POST + b"Content-Length: 0x3\r\n\r\nabc", 400, id="hexadecimal length"),
        pytest.param(POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400, id="length overflow"),
        pytest.param(POST + b"Content-Length:\r\n\r\n", 400, id="empty length"),
        pytest.param(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, id="gzip coding"),
        pytest.param(POST + b"Transfer-Encoding: xchunked\r\n\r\n", 501, id="unknown coding"),
        pytest.param(POST + b"Transfer-Encoding: chunked, identity\r\n\r\n", 400, id="chunked not last"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", 400, id="two codings"),
        pytest.param(b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400, id="coding in 1.0"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400, id="chunk overflow"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n", 400, id="chunk size prefix"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n", 400, id="bare LF after chunk size"),
        pytest.param(b"GET / HTTP/1.1\nHost: a\n\n", 400, id="bare LF"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400, id="bare LF after a header"),
        pytest.param(GET + b"X: a\rb\r\n\r\n", 400, id="bare CR in a value"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, id="space before colon"),
        pytest.param(GET + b"X: a\r\n b\r\n\r\n", 400, id="obs-fold"),
        pytest.param(GET + b"X: a\x00b\r\n\r\n", 400, id="NUL in a value"),
        pytest.param(GET + b"X\x00: a\r\n\r\n", 400, id="NUL in a name"),
        pytest.param(GET + b"X: a\x01b\r\n\r\n", 400, id="control character in a value"),
        pytest.param(GET + b": a\r\n\r\n", 400, id="empty name"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no Host"),
        pytest.param(GET + b"Host: a\r\n\r\n", 400, id="two Hosts"),
        pytest.param(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, id="two Hosts in 1.0"),
        pytest.param(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, id="empty Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, id="path in Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, id="user in Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, id="blank in Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, id="list in Host"),
        pytest.param(b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="absolute-form for another host"),
        pytest.param(b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="absolute-form of another scheme"),
        pytest.param(b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="absolute-form without a host"),
        pytest.param(b"GET http://a/../x HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="absolute-form with dot segments"),
        pytest.param(b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="asterisk-form with GET"),
        pytest.param(b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405, id="CONNECT"),
        pytest.param(b"GET /../etc HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="dot segment"),
        pytest.param(b"GET /a/.. HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="dot segment at the end"),
        pytest.param(b"GET /a/./b HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="single dot"),
        pytest.param(b"GET /%2e%2E/etc HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="encoded dot segment"),
        pytest.param(b"GET /a/.%2e HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="half encoded dot segment"),
        pytest.param(b"GET /..%2fetc HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="dot segment before an encoded slash"),
        pytest.param(b"GET /a%2f..%2fetc HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="dot segment after an encoded slash"),
        pytest.param(b"GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="encoded NUL"),
        pytest.param(b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="broken escape"),
        pytest.param(b"GET /%4 HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="short escape"),
        pytest.param(b"GET /..\\etc HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="backslash"),
        pytest.param(b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="fragment"),
        pytest.param(b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="raw UTF-8 in the target"),
        pytest.param(b"GET /\r\n\r\n", 505, id="HTTP/0.9"),
        pytest.param(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, id="HTTP/2.0"),
        pytest.param(b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, id="HTTP/1.2"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, id="HTTP/2 preface"),
        pytest.param(b"x" * 40 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", 501, id="long method"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS"),
        pytest.param(GET + b"Expect: coffee\r\n\r\n", 417, id="unknown expectation"),
        pytest.param(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, id="long target"),
        pytest.param(b"GET /" + b"a" * 9000, 414, id="long unfinished target"),
        pytest.param(GET + b"X: " + b"a" * 100_000 + b"\r\n\r\n", 431, id="100 KB header"),
        pytest.param(GET + b"X: " + b"a" * 100_000, 431, id="100 KB of an unfinished header"),
        pytest.param(GET + b"X: y\r\n" * 20_000 + b"\r\n", 431, id="20,000 headers"),
        pytest.param(GET + b"X: y\r\n" * 101, 431, id="101 headers, unfinished"),
    ],
)
@pytest.mark.parametrize("step", [0, 1000])
def test_what_must_be_refused_is(data: bytes, status: int, step: int) -> None:
    """RFC 9112 sections 2.2, 3, 5, 6 and 11: ambiguous and oversized requests get their status, whole or in pieces."""
    with pytest.raises(ProtocolError) as caught:
        read(data, step)
    assert caught.value.status == status


def test_endless_trailers_and_chunk_extensions_are_bounded() -> None:
    """Bytes that never end a chunk line or a trailer are refused past their limits."""
    for start, match, status in ((b"1;", "longer than 1024", 400), (b"0\r\nX: ", "longer than 8192", 431)):
        sink = Requests()
        sink.reader.feed(POST + b"Transfer-Encoding: chunked\r\n\r\n" + start)
        with pytest.raises(ProtocolError, match=match) as caught:
            for _ in range(10):
                sink.reader.feed(b"x" * 1000)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"http://a", b"/", b""),
        (b"HTTP://A/x?y", b"/x", b"y"),
        (b"http://a?y", b"/", b"y"),
        (b"//x//y", b"//x//y", b""),
        (b"/a?b?c", b"/a", b"b?c"),
        (b"/a/...", b"/a/...", b""),
        (b"/.well-known/x", b"/.well-known/x", b""),
        (b"/a?../..", b"/a", b"../.."),
    ],
)
def test_targets_are_split(target: bytes, path: bytes, query: bytes) -> None:
    """Origin-form and absolute-form (RFC 9112 section 3.2) give path and query."""
    (message,) = read(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (message.path, message.query) == (path, query)


def test_asterisk_form_is_for_options() -> None:
    """RFC 9112 section 3.2.4."""
    assert read(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")[0].path == b"*"


@pytest.mark.parametrize("step", [0, 1, 5])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
)
def test_an_upgrade_nobody_takes_is_an_ordinary_request(framing: bytes, step: int) -> None:
    """RFC 9110 section 7.8: the header may be ignored; the body and the next request are read all the same."""
    head = POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    first, second = read(head + framing + GET + b"\r\n", step)
    assert (first.body, first.ended) == (b"abc", True)
    assert find_header(first.headers, b"host") == b"a"
    assert (second.method, second.ended) == ("GET", True)
    assert [m.ended for m in read(GET + b"Connection: Upgrade\r\nUpgrade: x\r\n\r\n" + GET + b"\r\n", step)] == [
        True
    ] * 2


def test_bytes_after_the_last_request_are_ignored() -> None:
    """RFC 9112 section 9.6: after ``Connection: close`` nothing more is read."""
    for extra in (GET + b"\r\n", b"\x00garbage"):
        for step in (0, 1):
            (message,) = read(GET + b"Connection: close\r\n\r\n" + extra, step)
            assert not message.keep_alive
    assert not read(b"GET / HTTP/1.0\r\n\r\n")[0].keep_alive
    assert read(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")[0].keep_alive


def test_decode_path() -> None:
    """Escapes become UTF-8; octets that are not UTF-8 are refused."""
    assert decode_path(b"/caf%C3%a9/%25/+") == "/café/%/+"
    with pytest.raises(ProtocolError):
        decode_path(b"/%ff")


def test_headers_cannot_split_a_response() -> None:
    """CR, LF, NUL and other control characters are refused; text is latin-1."""
    assert encode_headers([("a", "b"), (b"c", b"d\xe9")]) == b"a: b\r\nc: d\xe9\r\n"
    for name, value in (
        ("a", "b\r\nc: d"),
        ("a", "b\nc"),
        ("a", "\x00"),
        ("a b", "c"),
        ("", "c"),
        ("a:", "c"),
        ("a", "\x7f"),
    ):
        with pytest.raises(ValueError, match="header"):
            encode_headers([(name, value)])


def test_chunks() -> None:
    """An empty piece must not end the body."""
    assert encode_chunk(b"") == b""
    assert encode_chunk(b"x" * 16) == b"10\r\n" + b"x" * 16 + b"\r\n"


# -- responses


@pytest.mark.parametrize("step", [0, 1, 4])
def test_responses_are_read_over_any_split(step: int) -> None:
    """Length, chunks and an interim response, one after the other on one connection."""
    sink = Responses()
    for data, body in (
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", b"ab"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nc\r\n0\r\n\r\n", b"c"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
    ):
        sink.reader.expect("GET")
        for start in range(0, len(data), step or len(data)):
            sink.reader.feed(data[start : start + (step or len(data))])
        assert sink.reader.idle
        assert (sink.messages[-1].body, sink.messages[-1].keep_alive) == (body, True)
    assert sink.messages[0].status == 100


def test_a_head_response_has_no_body() -> None:
    """RFC 9110 section 9.3.2: whatever its headers say; the connection stays usable."""
    for headers, keep in (
        (b"Content-Length: 5\r\n", True),
        (b"Transfer-Encoding: chunked\r\n", True),
        (b"", True),
        (b"Connection: close\r\n", False),
    ):
        sink = Responses("HEAD")
        sink.reader.feed(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n")
        assert sink.messages[-1].ended
        assert sink.messages[-1].keep_alive is keep
        if keep:
            sink.reader.expect("GET")
            sink.reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
            assert sink.messages[-1].body == b"a"


def test_a_body_may_end_with_the_connection() -> None:
    """RFC 9112 section 6.3 rule 8; such a connection is not used again."""
    sink = Responses()
    sink.reader.feed(b"HTTP/1.1 200 OK\r\n\r\nabc")
    sink.reader.eof()
    assert (sink.messages[0].body, sink.messages[0].ended, sink.messages[0].keep_alive) == (b"abc", True, False)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nc\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
def test_a_truncated_response_is_an_error(data: bytes) -> None:
    """The end of the connection before the end of the message."""
    sink = Responses()
    sink.reader.feed(data)
    with pytest.raises(ProtocolError):
        sink.reader.eof()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_hostile_responses_are_errors(data: bytes) -> None:
    """What a broken or malicious upstream may send is a named error."""
    sink = Responses()
    with pytest.raises(ProtocolError):
        sink.reader.feed(data)


def test_bytes_nobody_asked_for_are_an_error() -> None:
    """An idle connection on which the peer talks is not to be trusted."""
    sink = Responses()
    sink.reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(ProtocolError):
        sink.reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


# -- beside h11

_TOKEN = st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS"])
_NAMES = st.sampled_from(
    [b"Host", b"X-A", b"Content-Length", b"Transfer-Encoding", b"Connection", b"host", b"A b", b"X\x00"]
)
_VALUES = st.sampled_from(
    [b"a", b"", b"3", b"chunked", b"close", b"keep-alive", b"x\ty", b" 3 ", b"3, 3", b"\x01", b"a\rb"]
)
_EOL = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b" \r\n"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Requests that are right, nearly right, and wrong."""
    data = draw(_TOKEN) + b" " + draw(st.sampled_from([b"/", b"/a?b", b"*", b"a"]))
    data += b" HTTP/1." + draw(st.sampled_from([b"1", b"1", b"0"])) + draw(_EOL)
    if draw(st.booleans()):
        data += b"Host: a" + draw(_EOL)
    for _ in range(draw(st.integers(0, 4))):
        data += draw(_NAMES) + draw(st.sampled_from([b": ", b":", b" : "])) + draw(_VALUES) + draw(_EOL)
    data += draw(_EOL)
    return data + draw(st.sampled_from([b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"0\r\n\r\n"]))


def _h11_accepts(data: bytes) -> bool:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.EndOfMessage):
                return True
    except h11.RemoteProtocolError:
        return False


@given(requests())
@example(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
def test_nothing_is_accepted_that_h11_refuses(data: bytes) -> None:
    """We may be stricter than h11 (both length and coding, bare LF, dot segments), never more lenient."""
    sink = Requests()
    try:
        sink.reader.feed(data)
    except ProtocolError:
        return
    if sink.messages:
        assert _h11_accepts(data), data


@given(st.lists(requests(), min_size=1, max_size=3))
def test_a_request_that_comes_again_means_the_same(kinds: list[bytes]) -> None:
    """Heads are remembered when they come again: that must not change what any of them means."""
    rules = RequestRules()
    for data in kinds * 4:
        outcomes: list[list[Message] | str] = []
        for sink in (Requests(), Requests(rules)):
            try:
                sink.reader.feed(data)
                outcomes.append([*map(_comparable, sink.messages)])
            except ProtocolError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]


def _comparable(message: Message) -> Message:
    return replace(message, headers=list(message.headers))


def test_a_remembered_head_does_not_save_another_from_its_checks() -> None:
    """Neither a known block with a new request line, nor a known line with a new block."""
    rules = RequestRules()
    sink = Requests(rules)
    block = b"Host: a\r\nX: y\r\n\r\n"
    for _ in range(4):
        sink.reader.feed(b"GET /a HTTP/1.1\r\n" + block)
    assert block in rules.blocks
    assert b"GET /a HTTP/1.1" in rules.lines
    assert len(sink.messages) == 4
    sink.reader.feed(b"POST /b?c HTTP/1.1\r\n" + block)
    assert (sink.messages[-1].method, sink.messages[-1].path, sink.messages[-1].query) == ("POST", b"/b", b"c")
    for line in (
        b"GET /../x HTTP/1.1", b"GET  /x HTTP/1.2", b"CONNECT /x HTTP/1.1", b"F@O /x HTTP/1.1", b"GET x HTTP/1.1",
        b"GET /x HTTP/2.0", b"GET /x\tHTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /%zz HTTP/1.1", b"GET /#x HTTP/1.1",
        b"GET /" + b"x" * 3000 + b"/.. HTTP/1.1", b"",
    ):  # fmt: skip
        with pytest.raises(ProtocolError):
            Requests(rules).reader.feed(line + b"\r\n" + block + b"\r\n")
    for bad in (b"X: y\r\n\r\n", b"Host: a\nX: y\r\n\r\n", b"Host: a\r\nHost: a\r\n\r\n"):
        with pytest.raises(ProtocolError):
            Requests(rules).reader.feed(b"GET /a HTTP/1.1\r\n" + bad)


def test_what_is_remembered_is_bounded() -> None:
    """A client that never says the same twice in a row, and one that says everything twice."""
    rules = RequestRules()
    sink = Requests(rules)
    for number in range(3000):
        for _ in range(2):
            sink.reader.feed(b"GET /%d HTTP/1.1\r\nHost: a\r\nX: %d\r\n\r\n" % (number, number))
        sink.messages.clear()
    assert 0 < len(rules.blocks) <= 512
    assert 0 < len(rules.lines) <= 1024


def test_a_block_with_the_next_request_begun_is_not_remembered() -> None:
    """What follows a message in the same bytes is not part of its headers."""
    rules = RequestRules()
    sink = Requests(rules)
    tail = b" HTTP/1.1\r\nHost: x\r\n\r\nUN"
    for start in (b"LOCK /0", b"LOCK /1", b"LOCK /2", b"LOCK /3"):
        sink.reader.feed(start + tail)
    assert [message.method for message in sink.messages] == ["LOCK", "UNLOCK", "UNLOCK", "UNLOCK"]
    assert list(rules.blocks) == [b"Host: x\r\n\r\n"]
    assert sink.reader.in_message


@pytest.mark.parametrize("line", [b"DESCRIBE /p/ RTSP/1.1", b"SOURCE / ICE/1.1", b"GET / HTTP/1.12", b"GET / http/1.1"])
def test_other_protocols_are_refused(line: bytes) -> None:
    """RTSP and ICE look like HTTP, and are not."""
    with pytest.raises(ProtocolError):
        read(line + b"\r\nHost: a\r\n\r\n")


def test_trailers_are_kept_apart_and_those_that_frame_or_route_are_dropped() -> None:
    """RFC 9110 section 6.5.1."""
    sink = Requests()
    sink.reader.feed(
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
        b"Checksum: 1 \r\nContent-Length: 9\r\nHOST: b\r\nchecksum:2\r\n\r\n" + GET + b"\r\n"
    )
    assert sink.trailers == [((b"Checksum", b"1"), (b"checksum", b"2"))]
    assert len(sink.messages) == 2


@pytest.mark.parametrize(
    "framing",
    [
        b"1;" + b"x" * 1100 + b"\r\na\r\n0\r\n\r\n",
        b"1;a=b\n\r\na\r\n0\r\n\r\n",
        b"1;a b\r\na\r\n0\r\n\r\n",
        b"1 \r\na\r\n0\r\n\r\n",
        b"+1\r\na\r\n0\r\n\r\n",
        b"0x1\r\na\r\n0\r\n\r\n",
        b"1\nabc\r\n0\r\n\r\n",
        b"1\r\nab\r\n0\r\n\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"fffffffffffffffff\r\na\r\n0\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nA: b\x00\r\n\r\n",
        b"0\r\nA: b\r\n c\r\n\r\n",
        b"0\r\nA: " + b"b" * 8200 + b"\r\n\r\n",
        b"\r\na\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("step", [0, 1])
def test_broken_chunks_are_refused(framing: bytes, step: int) -> None:
    """RFC 9112 section 7.1, whole and byte by byte."""
    with pytest.raises(ProtocolError):
        read(POST + b"Transfer-Encoding: chunked\r\n\r\n" + framing, step)


def test_chunk_extensions_are_read_and_bounded_over_the_whole_content() -> None:
    """RFC 9112 section 7.1.1: tokens and quoted strings; a flood of them is refused (tiny chunks, long extensions)."""
    start = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    message = read(start + b'2;a;b=c ; d = "e\\"\t;f"\r\nxy\r\n0;last\r\n\r\n')[0]
    assert (message.body, message.ended) == (b"xy", True)
    sink = Requests()
    sink.reader.feed(start)
    with pytest.raises(ProtocolError, match="extensions"):
        for _ in range(100):
            sink.reader.feed(b"1;" + b"x" * 900 + b"\r\na\r\n")


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_any_bytes_are_messages_or_a_protocol_error(pieces: list[bytes]) -> None:
    """Nothing but ProtocolError leaves the readers, whatever is fed."""
    for sink in (Requests(), Responses()):
        try:
            for piece in (b"GET / HTTP/1.1\r\n", *pieces) if isinstance(sink, Requests) else (b"HTTP/1.1 ", *pieces):
                sink.reader.feed(piece)
        except ProtocolError:
            continue


def test_hostile_trailers_cost_what_honest_ones_do() -> None:
    """One of blanks, which ends in what no value may hold, was tried in every possible way: 0.35 s for each."""
    began = time.process_time()
    for _ in range(20):
        sink = Requests()
        with pytest.raises(ProtocolError):
            sink.reader.feed(POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX:" + b" " * 8000 + b"\0\r\n\r\n")
    assert time.process_time() - began < 3.0  # 7 s when it is; a few milliseconds when not
