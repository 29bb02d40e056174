"""Reading HTTP/1.1 responses (RFC 9110, RFC 9112).

A response's head is read by :mod:`forebay.wire.response_head`; here it is found among the bytes of a connection, and
the content behind it is framed: by ``Content-Length``, in chunks with extensions and trailers, or by the connection's
end.
"""

from __future__ import annotations

from forebay.errors import ProtocolError
from forebay.wire.heads import HeaderPairs
from forebay.wire.reader import CHUNK_SIZE, FIELD, FREE_OVERHEAD, NOT_IN_TRAILERS, Sink
from forebay.wire.response_head import ResponseHead, bad_field, read_head, refused

__all__ = ["ResponseHead", "ResponseReader"]

# What the next byte of the connection belongs to.
_HEAD, _CONTENT, _CHUNK_LINE, _CHUNK, _CHUNK_END, _TRAILERS, _OTHER, _BROKEN, _CLOSED = range(9)
_ENDLESS = 1 << 63  # bytes of content that ends with the connection: more than any can carry
_CHUNK_LINE_SIZE = 1024  # bytes of the line before a chunk, with its extensions
_REST_SIZE = 262144  # bytes behind an upgrade that nobody has taken yet
_SMALL = 4096  # bytes below which chunks that came together are passed on together
_WITHOUT_CONTENT = (204, 304)  # RFC 9112 section 6.3
_HEXADECIMAL = b"0123456789abcdefABCDEF"
_NO_HEAD = ResponseHead(0, b"", True, (), True, None, False)


class _Nobody:
    """Hears nothing."""

    def on_head(self) -> None: ...

    def on_body(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...


_NOBODY = _Nobody()


class ResponseReader:
    """Reads the responses of one connection, one :meth:`expect` before each.

    :param max_head: bytes of status line and headers together, and of all trailers.
    :param max_count: header fields of one response, and trailers.
    :param max_interim: interim (1xx) responses before the one that counts.

    Attributes, from ``on_head`` to the next one: ``head``, and of it ``status``, ``headers`` (the caller may keep them,
    and must not change them), ``content_length``, ``chunked``; ``keep_alive``: the connection can be used again. From
    ``on_end``: ``trailers``, without those that frame or route (RFC 9110 section 6.5.1). At any time: ``idle``, between
    responses; ``in_message``, something of the response has come, but not its end.

    Interim responses call ``on_head`` only. So does the answer after which the connection speaks something else: 101
    where an upgrade was asked for (RFC 9110 section 7.8), or success of CONNECT (section 9.3.6). Then ``switched`` is
    True, and ``rest`` is what came behind the head.
    """

    __slots__ = (
        "_interim",
        "_kept",
        "_left",
        "_method",
        "_overhead",
        "_refusal",
        "_sink",
        "_state",
        "_upgrade",
        "chunked",
        "content_length",
        "head",
        "headers",
        "idle",
        "in_message",
        "keep_alive",
        "max_count",
        "max_head",
        "max_interim",
        "rest",
        "status",
        "trailers",
    )

    def __init__(self, sink: Sink, *, max_head: int = 65536, max_count: int = 200, max_interim: int = 16) -> None:
        self._sink = sink
        self.max_head = max_head
        self.max_count = max_count
        self.max_interim = max_interim
        self._state = _HEAD
        self._kept = b""  # an unfinished head, chunk line or trailer
        self._left = 0  # bytes of the content, or of the chunk, still to come
        self._overhead = 0  # bytes of chunk lines, less what is granted; of trailers, those that came
        self._interim = 0
        self._method = ""
        self._upgrade = False
        self._refusal = ("", "")
        self.idle = True
        self.in_message = False
        self.head = _NO_HEAD
        self.status = 0
        self.headers: HeaderPairs = ()
        self.trailers: HeaderPairs = ()
        self.keep_alive = True
        self.content_length: int | None = None
        self.chunked = False
        self.rest = b""

    @property
    def reason(self) -> bytes:
        """The phrase behind the status, as received."""
        return self.head.reason

    @property
    def http_version(self) -> str:
        """``1.1`` or ``1.0``: the server's, whatever that of the request was."""
        return "1.1" if self.head.http11 else "1.0"

    @property
    def switched(self) -> bool:
        """Whether the connection speaks no HTTP any more."""
        return self._state == _OTHER

    @property
    def remaining(self) -> int | None:
        """Bytes of content that are still to come; None: not known, as it comes in chunks or ends with the
        connection."""
        if self.idle:
            return 0
        return self._left if self._state == _CONTENT and self.content_length is not None else None

    def expect(self, method: str, *, upgrade: bool = False) -> None:
        """The next response answers ``method``: one to HEAD has no content, whatever its headers say, and behind a
        success of CONNECT is a tunnel.

        :param upgrade: another protocol was offered, so the answer may be 101.
        """
        self.idle = False
        self._method = method
        self._upgrade = upgrade
        self._interim = 0
        self.status = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection.

        :raises ProtocolError: they are not acceptable; ``reason`` says why in a word: ``status-line``, ``version``,
            ``line-end``, ``malformed``, ``long-head``, ``many-fields``, ``length``, ``two-lengths``, ``coding``,
            ``content``, ``chunk``, ``trailers``, ``interim``, ``switch``, ``excess``. The reader takes nothing more.
            ``excess``, with ``idle``: the response itself is complete and fine, but more came than was asked for.
        """
        size = len(data)
        try:
            if self._left > size:  # all of it is content, and more is to come
                self._left -= size
                if size:
                    self._sink.on_body(data)
            else:
                self._read(data)
        except ProtocolError as error:
            self._state = _BROKEN
            self._left = 0
            self._kept = b""
            self._refusal = str(error), error.reason
            self.keep_alive = False
            raise

    def eof(self) -> None:
        """The peer sends no more. Ends content that is delimited by the end of the connection.

        :raises ProtocolError: the response is not complete; ``reason`` is ``cut-short``.
        """
        if self.idle:
            return
        if self._state == _CONTENT and self.content_length is None:
            self._left = 0
            self._finish(excess=False)
        elif self._state == _BROKEN:
            raise refused(*self._refusal)
        elif self._state < _OTHER:
            raise refused(f"connection ended {self._where()}", "cut-short")

    def close(self) -> None:
        """Take nothing more, and forget the sink: the two know each other, and would wait for the garbage collector."""
        self._state = _CLOSED
        self._left = 0
        self._kept = b""
        self._sink = _NOBODY

    def _where(self) -> str:
        """What is not complete."""
        if self._state == _HEAD:
            if self._kept:
                return "within the head of the response"
            return "before the response, after an interim one" if self._interim else "before the response"
        if self._state == _CONTENT:
            length = self.content_length or 0
            return f"after {length - self._left} of {length} bytes of content"
        return "within chunked content"

    def _upgraded(self, rest: bytes) -> None:
        """The answer is 101, and ``rest`` came behind it; or the same for CONNECT."""
        if self.status == 101 and not self._upgrade:
            raise refused("an upgrade that was not asked for", "switch")
        self.rest = rest

    def _read(self, data: bytes) -> None:
        searched = 0
        if self._kept:
            searched = len(self._kept) - 3
            data = self._kept + data
            self._kept = b""
        at = 0
        end = len(data)
        while at < end:
            state = self._state
            if state == _HEAD:
                after = self._read_head(data, at, max(at, searched))
            elif state == _CHUNK:
                after = min(end, at + self._left)
                self._left -= after - at
                if not self._left:
                    self._state = _CHUNK_END
                self._sink.on_body(data[at:after])
            elif state == _CHUNK_LINE:
                after = self._read_chunks(data, at)
            elif state == _CHUNK_END:
                if not b"\r\n".startswith(data[at : at + 2]):
                    raise refused("a chunk is longer than it says", "chunk")
                after = at + 2 if at + 2 <= end else -1
                if after > 0:
                    self._state = _CHUNK_LINE
            elif state == _CONTENT:
                after = min(end, at + self._left)
                self._left -= after - at
                self._sink.on_body(data[at:after])
                if not self._left:
                    self._finish(excess=after < end)
            elif state == _TRAILERS:
                after = self._read_trailer(data, at)
            elif state == _OTHER:
                if len(self.rest) + end > _REST_SIZE:
                    raise refused(f"more than {_REST_SIZE} bytes before the upgrade was taken", "switch")
                self.rest += data
                after = end
            elif state == _BROKEN:
                raise refused(*self._refusal)
            else:
                return
            if after < 0:
                self._kept = data[at:] if at else data
                return
            at = after

    def _read_head(self, data: bytes, at: int, searched: int) -> int:
        """Where the head that begins at ``at`` ends; -1: it is not complete."""
        if self.idle:
            raise refused("bytes that no request asked for", "excess")
        self.in_message = True
        end = data.find(b"\r\n\r\n", searched) + 4
        if end < 4:
            self._check_unfinished(data, at)
            return -1
        if end - at > self.max_head:
            raise self._long_head()
        return self._begin(read_head(data[at:end], self.max_count), data, end)

    def _long_head(self) -> ProtocolError:
        return refused(f"head is longer than {self.max_head} bytes", "long-head")

    def _check_unfinished(self, data: bytes, at: int) -> None:
        """May we go on waiting for the end of a head?"""
        if not b"HTTP/1.".startswith(data[at : at + 7]):
            read_head(data[at:].partition(b"\r\n")[0] + b"\r\n\r\n", 0)  # says what it is instead
        if len(data) - at > self.max_head:
            raise self._long_head()
        lines = data.count(b"\r\n", at)
        if data.count(b"\n", at) != lines:
            raise refused("a line of the head ends with a bare LF", "line-end")
        if lines > self.max_count + 1:
            raise refused(f"more than {self.max_count} header fields", "many-fields")

    def _begin(self, head: ResponseHead, data: bytes, at: int) -> int:
        """A head was read, and ended before ``at``: where what was read ends. The state is that behind it before the
        sink hears of it."""
        self.head = head
        self.status = status = head.status
        self.headers = head.headers
        self.keep_alive = head.keep_alive
        length = self.content_length = head.content_length
        self.chunked = head.chunked
        self.trailers = ()
        method = self._method
        if status < 200 or method == "CONNECT":
            if status == 101 or 200 <= status < 300:
                self._upgraded(data[at:])
                self._state = _OTHER
                self._sink.on_head()
                return len(data)
            if status < 200:
                self._interim += 1
                if self._interim > self.max_interim:
                    raise refused(f"more than {self.max_interim} interim responses", "interim")
                self._sink.on_head()
                return at
        if method == "HEAD" or status in _WITHOUT_CONTENT:
            length = 0
        elif head.chunked:
            self._state = _CHUNK_LINE
            self._overhead = 0
            self._sink.on_head()
            return at
        elif length is None:
            self.keep_alive = False
            length = _ENDLESS
        self._state = _CONTENT
        self._left = length
        after = at + length
        if after > len(data):
            self._sink.on_head()
            return at
        if after < len(data):
            self.keep_alive = False  # as in _finish, and before the head is looked at
        self._sink.on_head()
        self._left = 0
        if length:
            self._sink.on_body(data[at:after])
        self._finish(excess=after < len(data))
        return after

    def _finish(self, *, excess: bool) -> None:
        """The response is complete. ``excess``: not all bytes that came belong to it."""
        if self._state == _CLOSED:
            return
        self._state = _HEAD
        self.in_message = False
        self.idle = True
        if excess:
            self.keep_alive = False  # before the sink hears of it: nobody may ask for more on this connection
        self._sink.on_end()
        if excess:
            raise refused("bytes behind the response that no request asked for", "excess")

    def _read_chunks(self, data: bytes, at: int) -> int:
        """Chunks that are here whole, or the line of one that is not, or of the last one. Small ones are joined."""
        begin = at
        small: list[bytes] = []
        starts = data.startswith
        known = b""  # the line of the chunk before: mostly they are all of one size
        size = 0
        while self._state == _CHUNK_LINE:
            if known and starts(known, at):
                first = at + len(known)
            else:
                end = data.find(b"\r\n", at, at + _CHUNK_LINE_SIZE + 2)
                if end < 0:
                    self._check_chunk_line(data, at)
                    break
                first = end + 2
                line, known = data[at:end], data[at:first]
                if len(line) > 15 or not line or line.strip(_HEXADECIMAL):
                    line, known = self._without_extensions(line), b""
                size = int(line, 16)
            after = first + size
            if 0 < size < _SMALL and starts(b"\r\n", after):
                small.append(data[first:after])
                at = after + 2
                continue
            at = first
            if small:
                self._sink.on_body(b"".join(small))
                small.clear()
                if self._state != _CHUNK_LINE:
                    return len(data)  # closed
            if not size:
                self._overhead = 0
                self._state = _TRAILERS
            elif starts(b"\r\n", after):
                self._sink.on_body(data[at:after])
                at = after + 2
            else:
                self._left = size
                self._state = _CHUNK
        if small:
            self._sink.on_body(b"".join(small))
        return at if at > begin else -1

    def _check_chunk_line(self, data: bytes, at: int) -> None:
        """May we go on waiting for its end?"""
        if len(data) - at > _CHUNK_LINE_SIZE + 1:
            raise refused(f"chunk line is longer than {_CHUNK_LINE_SIZE} bytes", "chunk")
        if data.find(b"\n", at) >= 0:
            raise refused("chunk line ends with a bare LF", "line-end")

    def _without_extensions(self, line: bytes) -> bytes:
        """The size, in hexadecimal digits, of a chunk's line that has something else as well."""
        match = CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise refused("chunk line is not a hexadecimal size with extensions", "chunk")
        digits = match[1]
        self._overhead = max(0, self._overhead + len(line) - 16 - 2 * int(digits, 16))
        if self._overhead > FREE_OVERHEAD:
            raise refused("chunk extensions are longer than the content", "chunk")
        return digits

    def _read_trailer(self, data: bytes, at: int) -> int:
        """One trailer field, or the empty line after the last one."""
        end = data.find(b"\r\n", at)
        if end == at:
            self._finish(excess=end + 2 < len(data))
            return end + 2
        size = (end if end >= 0 else len(data) - data.endswith(b"\r")) - at  # that CR may be of the line's end
        if size and self._overhead + size > self.max_head:
            raise refused(f"trailers are longer than {self.max_head} bytes", "trailers")
        if end < 0:
            if data.find(b"\n", at) >= 0:
                raise refused("a trailer ends with a bare LF", "line-end")
            return -1
        match = FIELD.fullmatch(data, at, end)
        if match is None:
            raise bad_field(data[at:end])
        self._overhead += size + 2
        name, value = match.groups()
        if name.lower() not in NOT_IN_TRAILERS:
            if len(self.trailers) >= self.max_count:
                raise refused(f"more than {self.max_count} trailers", "trailers")
            self.trailers = (*self.trailers, (name, value.rstrip(b" \t")))
        return end + 2
