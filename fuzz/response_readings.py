"""The response in a stream: as our reader reads it, and as h11 does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import h11

from forebay.errors import ProtocolError
from forebay.wire.responses import ResponseReader
from fuzz.request_readings import Pairs, tidy

LIMITS = {"max_head": 300, "max_count": 10, "max_interim": 3}
"""Small enough for inputs to reach, large enough for most to stay below."""

ASKED = ("GET", "HEAD", "CONNECT", "GET and an upgrade")
"""What the response may answer."""


@dataclass(slots=True)
class Response:
    """What a reading tells of one response. Names are in lower case, values without blanks around them."""

    status: int
    reason: bytes
    headers: Pairs
    http11: bool


@dataclass(slots=True)
class Reading:
    """What a reading tells of a stream.

    :ivar refusal: why it ended before the stream did; empty: it did not.
    :ivar rest: what came behind the head of an answer after which something else is spoken; None: none did.
    :ivar excess: more came than the response.
    :ivar refused_at: the piece that was refused; of ours.
    :ivar why: the error; of ours.
    """

    interim: list[Response] = field(default_factory=list)
    final: Response | None = None
    content: bytes = b""
    trailers: Pairs = field(default_factory=list)
    complete: bool = False
    keep_alive: bool = True
    rest: bytes | None = None
    refusal: str = ""
    excess: bool = False
    refused_at: int = -1
    why: ProtocolError | None = None


class _Heard:
    """A sink that keeps what it is told."""

    def __init__(self, asked: str) -> None:
        self.reader = ResponseReader(self, **LIMITS)
        self.reader.expect(asked.partition(" ")[0], upgrade=" " in asked)
        self.reading = Reading()

    def on_head(self) -> None:
        reader, reading = self.reader, self.reading
        assert reading.final is None
        assert not reader.idle
        assert reader.in_message
        response = Response(reader.status, reader.reason, tidy(reader.headers), reader.http_version == "1.1")
        if reader.status >= 200 or reader.switched:
            reading.final = response
        else:
            reading.interim.append(response)

    def on_body(self, data: bytes) -> None:
        assert data
        assert self.reading.final
        assert not self.reading.complete
        self.reading.content += data

    def on_end(self) -> None:
        reader, reading = self.reader, self.reading
        assert reading.final
        assert not reading.complete
        assert reader.idle
        assert not reader.in_message
        reading.complete = True
        reading.trailers = tidy(reader.trailers)
        reading.keep_alive = reader.keep_alive


def ours(asked: str, pieces: Iterable[bytes], *, ends: bool) -> Reading:
    """What our reader makes of them.

    :param ends: the connection ends after them.
    :raises AssertionError: the reader contradicts itself.
    """
    heard = _Heard(asked)
    reader, reading = heard.reader, heard.reading
    try:
        for number, piece in enumerate(pieces):
            reading.refused_at = number
            reader.feed(piece)
            assert len(reader._kept) <= max(LIMITS["max_head"], 1026)
        reading.refused_at += 1
        if ends:
            reader.eof()
    except ProtocolError as refusal:
        reading.why = refusal
    if reading.why is not None:
        assert reading.why.status == 502
        assert not reader.keep_alive or reading.why.reason == "cut-short"
        reading.excess = reading.why.reason == "excess"
        assert reading.excess is reading.complete
        reading.refusal = "" if reading.excess else str(reading.why)
    if reader.switched:
        reading.rest = reader.rest
    return reading


class Theirs:
    """h11 as a client."""

    def __init__(self, asked: str) -> None:
        method, _, upgrade = asked.partition(" ")
        self.reading = Reading()
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        headers = [("host", "a"), *([("connection", "upgrade"), ("upgrade", "x")] if upgrade else [])]
        self._connection.send(h11.Request(method=method, target="/" if method != "CONNECT" else "a:1", headers=headers))
        self._connection.send(h11.EndOfMessage())

    def feed(self, data: bytes) -> None:
        """Read the next bytes, unless some were refused; no bytes: the end."""
        reading = self.reading
        if reading.refusal:
            return
        if reading.rest is not None:
            reading.rest += data
            return
        if reading.complete:
            reading.excess = reading.excess or bool(data)
            return
        try:
            self._connection.receive_data(data)
            while not reading.complete and reading.rest is None:
                event = self._connection.next_event()
                if event is h11.NEED_DATA:
                    return
                self._take(event)
        except h11.RemoteProtocolError as refusal:
            reading.refusal = str(refusal) or "refused"

    def _take(self, event: object) -> None:
        reading, connection = self.reading, self._connection
        if isinstance(event, (h11.InformationalResponse, h11.Response)):
            headers = [(bytes(name), bytes(value)) for name, value in event.headers]
            response = Response(event.status_code, bytes(event.reason), headers, event.http_version == b"1.1")
            if isinstance(event, h11.Response) or event.status_code == 101:
                reading.final = response
            else:
                reading.interim.append(response)
            if connection.their_state is h11.SWITCHED_PROTOCOL:
                reading.rest = bytes(connection.trailing_data[0])
        elif isinstance(event, h11.Data):
            reading.content += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            reading.complete = True
            reading.trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
            reading.keep_alive = connection.our_state is h11.DONE and not connection.trailing_data[1]
            reading.excess = bool(connection.trailing_data[0])
        else:
            assert isinstance(event, h11.ConnectionClosed), event
            reading.refusal = "closed"


def theirs(asked: str, pieces: Iterable[bytes], *, ends: bool) -> Reading:
    """What h11 makes of them."""
    reader = Theirs(asked)
    for piece in (*pieces, b"") if ends else pieces:
        reader.feed(piece)
    return reader.reading
