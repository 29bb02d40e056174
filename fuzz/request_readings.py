"""The requests in a stream: as our reader reads them, and as h11 does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import h11

from forebay.errors import ProtocolError
from forebay.wire.http1 import Fields, HeaderPairs, RequestLine, RequestReader, RequestRules

Pairs = list[tuple[bytes, bytes]]

LIMITS = {
    "max_head": 1000,
    "max_line": 300,
    "max_field": 200,
    "max_count": 12,
    "max_trailers": 120,
    "max_chunk_line": 60,
}
"""Small enough for inputs to reach, large enough for most to stay below."""


@dataclass(slots=True)
class Request:
    """What a reading tells of one request. Names are in lower case, values without blanks around them."""

    method: bytes
    target: bytes
    headers: Pairs
    http11: bool
    expects: bool
    length: int | None
    """Of the content; None: it comes in chunks."""
    content: bytes = b""
    trailers: Pairs = field(default_factory=list)
    complete: bool = False
    keep_alive: bool = True


@dataclass(slots=True)
class OurRequest(Request):
    """What our reader tells besides."""

    path: bytes = b""
    query: bytes = b""
    host: bytes = b""
    upgrade: bytes = b""


@dataclass(slots=True)
class TheirRequest(Request):
    """Where h11 found it."""

    head: bytes = b""
    version: bytes = b""
    content_at: int = 0
    """Where in the stream its head ends."""


@dataclass(slots=True)
class OurReading:
    """The requests, and the refusal that ended them."""

    requests: list[OurRequest] = field(default_factory=list)
    refusal: ProtocolError | None = None
    refused_at: int = -1
    """The piece it came with."""


class _Heard:
    """A sink that keeps what it is told; ``holds``: every head is held until the piece has been read."""

    def __init__(self, rules: RequestRules, *, holds: bool) -> None:
        self.reader = RequestReader(self, rules)
        self.requests: list[OurRequest] = []
        self._holds = holds

    def on_head(self, line: RequestLine, fields: Fields) -> None:
        assert not self.requests or self.requests[-1].complete
        assert not self.requests or self.requests[-1].keep_alive
        method, target, path, query = line
        self.requests.append(
            OurRequest(
                method.encode(),
                target,
                tidy(fields.headers),
                fields.http11,
                fields.expects,
                None if fields.chunked else fields.content_length or 0,
                complete=not fields.has_content,
                keep_alive=fields.keep_alive,
                path=path,
                query=query,
                host=fields.host,
                upgrade=fields.upgrade,
            )
        )
        self.reader.held = self._holds

    def on_body(self, data: bytes) -> None:
        assert data
        assert not self.requests[-1].complete
        self.requests[-1].content += data

    def on_end(self, trailers: HeaderPairs) -> None:
        assert not self.requests[-1].complete
        self.requests[-1].complete = True
        self.requests[-1].trailers = tidy(trailers)


def ours(pieces: Iterable[bytes], rules: RequestRules | None = None, *, holds: bool = False) -> OurReading:
    """What our reader makes of them.

    :raises AssertionError: the reader contradicts itself.
    """
    heard = _Heard(rules or RequestRules(**LIMITS), holds=holds)
    reader = heard.reader
    reading = OurReading(heard.requests)
    for number, piece in enumerate(pieces):
        try:
            settled = reader.feed(piece)
            while reader.held:
                settled = reader.release()
        except ProtocolError as refusal:
            reading.refusal, reading.refused_at = refusal, number
            break
        assert settled is not reader.in_message
        assert reader.kept <= LIMITS["max_head"]
        assert not settled or all(request.complete for request in heard.requests)
    if reading.refusal is not None:
        assert 400 <= reading.refusal.status <= 599
        assert (reader.kept, reader.in_message) == (0, False)
    return reading


class Theirs:
    """h11 as a server. Every request has a connection of its own, so that it is ours whether the connection goes on.

    Empty lines before a request, which h11 refuses, are taken away and counted (RFC 9112 section 2.2).
    """

    def __init__(self) -> None:
        self.requests: list[TheirRequest] = []
        self.refusal = ""
        self.empty_lines = 0
        self._connection: h11.Connection | None = None
        self._waiting = b""  # before a request
        self._head = b""
        self._at = 0  # bytes of the stream, those that wait included

    def feed(self, data: bytes) -> None:
        """Read the next bytes, unless some were refused."""
        if not data or self.refusal:
            return
        self._at += len(data)
        try:
            while data:
                data = self._read(data)
        except h11.RemoteProtocolError as refusal:
            self.refusal = str(refusal) or "refused"

    def _read(self, data: bytes) -> bytes:
        """Gives what follows a request that is complete."""
        if self._connection is None:
            data = self._waiting + data
            self._waiting = b""
            while data.startswith(b"\r\n"):
                data = data[2:]
                self.empty_lines += 1
            if data in (b"", b"\r"):
                self._waiting = data
                return b""
            self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
            self._head = b""
        connection = self._connection
        self._head += data
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                self._begin(connection, event)
            elif isinstance(event, h11.Data):
                self.requests[-1].content += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return self._end(connection, event)
            else:
                assert event is h11.NEED_DATA
                return b""

    def _begin(self, connection: h11.Connection, event: h11.Request) -> None:
        rest = connection.trailing_data[0]
        headers = [(bytes(name), bytes(value)) for name, value in event.headers]
        values = dict(headers)
        self.requests.append(
            TheirRequest(
                bytes(event.method),
                bytes(event.target),
                headers,
                event.http_version == b"1.1",
                connection.they_are_waiting_for_100_continue,
                None if b"transfer-encoding" in values else int(values.get(b"content-length", b"0")),
                head=self._head[: len(self._head) - len(rest)],
                version=bytes(event.http_version),
                content_at=self._at - len(rest),
            )
        )

    def _end(self, connection: h11.Connection, event: h11.EndOfMessage) -> bytes:
        request = self.requests[-1]
        request.trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
        request.complete = True
        connection.send(h11.Response(status_code=400, headers=[("content-length", "0")]))
        connection.send(h11.EndOfMessage())
        request.keep_alive = connection.our_state is h11.DONE
        self._connection = None
        return connection.trailing_data[0]


def theirs(pieces: Iterable[bytes]) -> Theirs:
    """What h11 makes of them."""
    reading = Theirs()
    for piece in pieces:
        reading.feed(piece)
    return reading


def tidy(headers: HeaderPairs) -> Pairs:
    """As h11 gives them: it also writes codings in lower case."""
    pairs = [(name.lower(), value.strip(b" \t")) for name, value in headers]
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in pairs]
