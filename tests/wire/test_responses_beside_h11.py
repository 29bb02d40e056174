"""Reading changed responses beside another parser: what h11 refuses is refused, and what both take means the same."""

from __future__ import annotations

import random
import re
from typing import Any

import h11
import pytest

from forebay.errors import ProtocolError
from forebay.wire.responses import ResponseReader

STREAMS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n3\r\nghi\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    b'HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\nETag: "a"\r\n\r\n',
    b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
]
BITS = [
    *(bytes([byte]) for byte in b'\r\n \t:;,+-_"\\0F\x00\x0b\x0c\x80\xff'),
    *(b"\r\n", b"\r\n\r\n", b"0x", b" 5", b"5, 5", b"chunked", b"200", b"204", b"101", b"9" * 20, b"0" * 17),
    *(b"Content-Length: 3\r\n", b"Content-Length: 5\r\n", b"Connection: close\r\n", b"X: y\r\n z\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: identity\r\n"),
    *(b"HTTP/1.1 ", b"HTTP/2.0 ", b"http/1.1 ", b"HTTP/1.1 103 E\r\nA: b\r\n\r\n"),
]

REASONS = (
    # Fields that frame mean nothing in trailers and are dropped; h11 reads trailers as it does headers.
    re.compile(rb"\r\n0(;[^\r]*)?\r\n.*transfer-encoding", re.DOTALL | re.IGNORECASE),
    # Blanks before an extension are to be taken (RFC 9112 section 7.1.1: BWS).
    re.compile(rb"\r\n[0-9A-Fa-f]+[ \t]+;"),
)
"""What is taken though h11 refuses it, and why."""

Reading = tuple[list[tuple[int, list[tuple[bytes, bytes]]]], bytes]


class _Sink:
    def __init__(self) -> None:
        self.reader = ResponseReader(self, max_interim=100)
        self.reader.expect("GET")
        self.heads: list[tuple[int, list[tuple[bytes, bytes]]]] = []
        self.content = b""
        self.ended = False

    def on_head(self) -> None:
        headers = [(name.lower(), value.strip(b" \t")) for name, value in self.reader.headers]
        self.heads.append((self.reader.status, headers))

    def on_body(self, data: bytes) -> None:
        self.content += data

    def on_end(self) -> None:
        self.ended = True


def ours(data: bytes) -> Reading | None:
    """What the reader makes of it, to the end of the connection; None: it is refused, or not complete."""
    sink = _Sink()
    try:
        sink.reader.feed(data)
        sink.reader.eof()
    except ProtocolError:
        if not sink.ended:
            return None
    return sink.heads, sink.content


def theirs(data: bytes) -> Reading | None:
    """What h11 does."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    heads: list[tuple[int, list[tuple[bytes, bytes]]]] = []
    content = b""
    try:
        connection.receive_data(data)
        while True:
            event: Any = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(b"")
            elif isinstance(event, h11.InformationalResponse | h11.Response):
                heads.append((event.status_code, [(bytes(name), bytes(value)) for name, value in event.headers]))
            elif isinstance(event, h11.Data):
                content += bytes(event.data)
            else:
                return (heads, content) if isinstance(event, h11.EndOfMessage) else None
    except h11.RemoteProtocolError:
        return None


def _chunked_in_lower_case(reading: Reading) -> Reading:
    """h11 gives the value of Transfer-Encoding in lower case."""
    heads = [
        (status, [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in headers])
        for status, headers in reading[0]
    ]
    return heads, reading[1]


def _changed(choose: random.Random) -> bytes:
    data = choose.choice(STREAMS)
    for _ in range(choose.randint(1, 3)):
        at = choose.randint(0, len(data))
        how = choose.random()
        if how < 0.6:
            if how < 0.2:
                at = choose.choice([0, *(match.end() for match in re.finditer(rb"\r\n", data))])
            data = data[:at] + choose.choice(BITS) + data[at:]
        elif how < 0.8:
            data = data[:at] + data[at + choose.randint(1, 4) :]
        else:
            data = data[:at] + bytes([choose.randrange(256)]) + data[at + 1 :]
    return data


@pytest.mark.parametrize("stream", STREAMS)
def test_both_take_what_is_well_formed(stream: bytes) -> None:
    """Or the comparison would say nothing."""
    reading = ours(stream)
    assert reading is not None
    assert reading == theirs(stream)


@pytest.mark.parametrize("seed", range(4))
def test_what_h11_refuses_is_refused_and_the_rest_means_the_same(seed: int) -> None:
    """Each exception has its reason. What is refused here and not there is none: this reader may be stricter."""
    choose = random.Random(seed)
    taken = 0
    for _ in range(2500):
        data = _changed(choose)
        reading = ours(data)
        if reading is None:
            continue
        taken += 1
        if any(reason.search(data) for reason in REASONS):
            continue
        assert _chunked_in_lower_case(reading) == theirs(data), data
    assert taken > 250
