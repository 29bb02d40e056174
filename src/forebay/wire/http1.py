"""HTTP/1.1 as bytes: reading requests and responses, writing heads (RFC 9110, RFC 9112). No I/O.

A request's head is read by :mod:`forebay.wire.request_head`; here it is found among the bytes of a connection, and the
content behind it is framed: by ``Content-Length``, or in chunks with extensions and trailers.
"""

from __future__ import annotations

from typing import Protocol

from forebay.errors import ProtocolError
from forebay.wire.heads import (
    LAST_CHUNK,
    STATUS_LINES,
    STATUS_PHRASES,
    HeaderPairs,
    content_length,
    decode_path,
    encode_chunk,
    encode_headers,
    find_header,
)
from forebay.wire.reader import CHUNK_SIZE, FIELD, FREE_OVERHEAD, NOT_IN_TRAILERS, Sink
from forebay.wire.request_head import METHODS, Fields, RequestLine, RequestRules
from forebay.wire.responses import ResponseReader

__all__ = [
    "LAST_CHUNK",
    "METHODS",
    "STATUS_LINES",
    "STATUS_PHRASES",
    "Fields",
    "HeaderPairs",
    "RequestLine",
    "RequestReader",
    "RequestRules",
    "RequestSink",
    "ResponseReader",
    "Sink",
    "content_length",
    "decode_path",
    "encode_chunk",
    "encode_headers",
    "find_header",
]

# What the next byte of the connection belongs to.
_HEAD, _CONTENT, _CHUNK_LINE, _CHUNK, _CHUNK_END, _TRAILERS, _NOTHING = range(7)
_BETWEEN = (_HEAD, _NOTHING)


class RequestSink(Protocol):
    """What a reader tells of the requests it finds."""

    def on_head(self, line: RequestLine, fields: Fields) -> None:
        """A head is complete. A request without content ends with it."""

    def on_body(self, data: bytes) -> None:
        """A piece of the content, without its framing."""

    def on_end(self, trailers: HeaderPairs) -> None:
        """The content is complete. Not called for a request that has none."""


class _Nobody:
    """Hears nothing."""

    def on_head(self, line: RequestLine, fields: Fields) -> None: ...

    def on_body(self, data: bytes) -> None: ...

    def on_end(self, trailers: HeaderPairs) -> None: ...


_NOBODY = _Nobody()


class RequestReader:
    """Reads the requests of one connection. Bytes are fed in order; the sink is called meanwhile.

    ``held`` is set by the sink, in ``on_head``, to have what follows the head kept until :meth:`release`.
    """

    __slots__ = ("_busy", "_kept", "_last", "_left", "_overhead", "_rules", "_sink", "_state", "_trailers", "held")

    def __init__(self, sink: RequestSink, rules: RequestRules) -> None:
        self._sink = sink
        self._rules = rules
        self._state = _HEAD
        self._busy = False  # not just between two requests
        self._kept = b""  # an unfinished head, chunk line or trailers; or what waits while held
        self._last = False  # the request that is being read is the last one
        self._left = 0  # bytes of the content, or of the chunk, still to come; of trailers, those that came
        self._overhead = 0  # bytes of chunk lines, less what is granted
        self._trailers: list[tuple[bytes, bytes]] | None = None
        self.held = False

    @property
    def in_message(self) -> bool:
        """Whether the beginning of a request, and not yet its end, has been seen."""
        return _HEAD < self._state < _NOTHING or (bool(self._kept) and not self.held)

    @property
    def kept(self) -> int:
        """Bytes that wait for more."""
        return len(self._kept)

    def feed(self, data: bytes) -> bool:
        """Take the next bytes of the connection.

        :returns: whether what was fed so far ends with the end of a request.
        :raises ProtocolError: they are not acceptable; ``status`` says what to answer. The reader takes nothing more.
        """
        rules = self._rules
        try:
            if not self._busy and len(data) <= rules.short:  # as a rule it is one head, no more and no less
                line, _, block = data.partition(b"\r\n")
                fields = rules.blocks.get(block)
                if fields is not None:
                    request = rules.lines.get(line)
                    if request is None:
                        request, fields = rules.read(line, block)
                    if fields.simple:
                        self._sink.on_head(request, fields)
                        return True
                    self._begin(request, fields)
                    return self._settled()
                if line and block[:1] != b"\r" and block.find(b"\r\n\r\n") == len(block) - 4 >= 0:
                    self._begin(*rules.read(line, block))
                    return self._settled()
            self._read(data)
        except ProtocolError:
            self.stop()
            raise
        return self._settled()

    def _settled(self) -> bool:
        """Note whether something is under way; whether all that came ends with the end of a request."""
        self._busy = self._state != _HEAD or bool(self._kept) or self.held
        return self._state in _BETWEEN and not self._kept

    def stop(self) -> None:
        """Ignore whatever still comes: the last request of the connection has been read."""
        self._state = _NOTHING
        self._kept = b""
        self._busy = True

    def release(self) -> bool:
        """Go on after a head that was held.

        :returns: and raises: as :meth:`feed`.
        """
        self.held = False
        rest, self._kept = self._kept, b""
        return self.feed(rest)

    def take_rest(self) -> bytes:
        """What came after a head that is held. It is no HTTP: the reader takes nothing more."""
        rest = self._kept
        self.close()
        return rest

    def close(self) -> None:
        """Stop, and forget the sink: the two know each other, and would have to wait for the garbage collector."""
        self.stop()
        self._sink = _NOBODY

    def _begin(self, line: RequestLine, fields: Fields) -> None:
        """A head was read. The state is that behind it before the sink hears of it."""
        if fields.chunked:
            self._state = _CHUNK_LINE
            self._overhead = 0
            self._trailers = None
            self._last = not fields.keep_alive
        elif fields.content_length:
            self._state = _CONTENT
            self._left = fields.content_length
            self._last = not fields.keep_alive
        elif not fields.keep_alive:
            self._state = _NOTHING
        self._sink.on_head(line, fields)

    def _read(self, data: bytes) -> None:
        if self._kept:
            searched = len(self._kept) - 3
            data = self._kept + data
            self._kept = b""
        else:
            searched = 0
        at = 0
        end = len(data)
        while at < end and not self.held:
            state = self._state
            if state == _HEAD:
                after = self._read_head(data, at, max(at, searched))
            elif state in (_CONTENT, _CHUNK):
                piece = data[at : at + self._left]
                after = at + len(piece)
                self._left -= len(piece)
                if not self._left and state == _CHUNK:
                    self._state = _CHUNK_END
                self._sink.on_body(piece)
                if not self._left and state == _CONTENT:
                    self._end(())
            elif state == _CHUNK_LINE:
                after = self._read_chunk_line(data, at)
            elif state == _CHUNK_END:
                if not b"\r\n".startswith(data[at : at + 2]):
                    raise ProtocolError("a chunk is longer than it says", reason="chunk")
                after = at + 2 if at + 2 <= end else -1
                self._state = _CHUNK_LINE if after > 0 else state
            elif state == _TRAILERS:
                after = self._read_trailer(data, at)
            else:
                return
            if after < 0:
                break
            at = after
        if at < end and self._state != _NOTHING:
            self._kept = data[at:] if at else data

    def _end(self, trailers: HeaderPairs) -> None:
        self._state = _NOTHING if self._last else _HEAD
        self._sink.on_end(trailers)

    def _read_head(self, data: bytes, at: int, searched: int) -> int:
        """Where the head that begins at ``at`` ends; -1: it is not complete."""
        while data.startswith(b"\r\n", at):  # left over from the request before (RFC 9112 section 2.2)
            at += 2
        if at == len(data):
            return at
        rules = self._rules
        end = data.find(b"\r\n\r\n", max(at, searched))
        if end < 0 or end + 4 - at > rules.max_head:
            self._check_unfinished(data, at, end)
            return -1
        first = data.find(b"\r\n", at)
        line, block = data[at:first], data[first + 2 : end + 4]
        self._begin(*rules.read(line, block))
        return end + 4

    def _check_unfinished(self, data: bytes, at: int, end: int) -> None:
        """May we go on waiting for the end of a head?"""
        rules = self._rules
        if not 33 <= data[at] <= 126 and data[at:] != b"\r":
            raise ProtocolError("this is not HTTP", reason="request-line")
        first = data.find(b"\r\n", at)
        line = (first if first >= 0 else len(data)) - at
        if line > rules.max_line + 64:
            raise ProtocolError(
                f"request target is longer than {rules.max_line} bytes", status=414, reason="long-target"
            )
        if end >= 0 or len(data) - at > rules.max_head:
            raise ProtocolError(f"head is longer than {rules.max_head} bytes", status=431, reason="long-head")
        lines = data.count(b"\r\n", at)
        if data.count(b"\n", at) != lines:
            raise ProtocolError("a line of the head ends with a bare LF", reason="line-end")
        if lines > rules.max_count + 1:
            raise ProtocolError(f"more than {rules.max_count} header fields", status=431, reason="many-fields")

    def _read_chunk_line(self, data: bytes, at: int) -> int:
        limit = self._rules.max_chunk_line
        end = data.find(b"\r\n", at, at + limit + 2)
        if end < 0:
            if len(data) - at > limit + 1:
                raise ProtocolError(f"chunk line is longer than {limit} bytes", reason="chunk")
            if data.find(b"\n", at) >= 0:
                raise ProtocolError("chunk line ends with a bare LF", reason="line-end")
            return -1
        match = CHUNK_SIZE.fullmatch(data, at, end)
        if match is None:
            raise ProtocolError("chunk line is not a hexadecimal size with extensions", reason="chunk")
        size = int(match[1], 16)
        overhead = self._overhead = max(0, self._overhead + (end - at) - 16 - 2 * size)
        if overhead > FREE_OVERHEAD:
            raise ProtocolError("chunk extensions are longer than the content", reason="chunk")
        self._left = size
        self._state = _CHUNK if size else _TRAILERS
        return end + 2

    def _read_trailer(self, data: bytes, at: int) -> int:
        """One trailer field, or the empty line after the last one."""
        rules = self._rules
        end = data.find(b"\r\n", at)
        if end == at:
            trailers, self._trailers = self._trailers, None
            self._end(tuple(trailers) if trailers else ())
            return end + 2
        size = (end if end >= 0 else len(data) - data.endswith(b"\r")) - at  # that CR may be of the line's end
        if size and self._left + size > rules.max_trailers:
            raise ProtocolError(f"trailers are longer than {rules.max_trailers} bytes", status=431, reason="trailers")
        if end < 0:
            return -1
        match = FIELD.fullmatch(data, at, end)
        if match is None:
            raise ProtocolError("a trailer is not NAME: VALUE", reason="trailers")
        self._left += size + 2
        name, value = match.groups()
        if name.lower() not in NOT_IN_TRAILERS:
            if self._trailers is None:
                self._trailers = []
            self._trailers.append((name, value.rstrip(b" \t")))
        return end + 2
