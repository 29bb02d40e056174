"""HTTP/1.1 as bytes: reading requests and responses, writing heads (RFC 9110, RFC 9112). No I/O.

llhttp (through httptools, in its strict mode) splits the bytes; what it leaves to its callers is decided here: sizes
and counts, the request target's form and path, exactly one valid ``Host``, transfer codings other than ``chunked``,
versions other than 1.0 and 1.1, and what follows an ``Upgrade`` nobody takes up.

A reader is fed the bytes of one connection in order and calls its sink: ``on_head()`` (the reader's attributes describe
the message), ``on_body(data)`` any number of times, ``on_end()``. Anything wrong is a :class:`ProtocolError`, after
which the reader must not be fed again.
"""

from __future__ import annotations

import re
from typing import Any

import httptools

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
from forebay.wire.reader import (
    CODING,
    CONNECTION,
    EXPECT,
    HOST,
    LENGTH,
    ORDINARY,
    Reader,
    Sink,
    learn,
    meanings,
)
from forebay.wire.responses import ResponseReader

__all__ = [
    "LAST_CHUNK",
    "STATUS_LINES",
    "STATUS_PHRASES",
    "HeaderPairs",
    "RequestReader",
    "ResponseReader",
    "Sink",
    "content_length",
    "decode_path",
    "encode_chunk",
    "encode_headers",
    "find_header",
]

_METHODS = {
    method.encode(): method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY")
}

# Methods llhttp takes for the sake of RTSP and ICE.
_NOT_HTTP = frozenset(
    b"DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD FLUSH SOURCE".split()
)

# RFC 9110 section 7.2, RFC 3986 section 3.2.2. Userinfo has no place in Host; underscores are no names, but are met.
_HOST_PATTERN = re.compile(rb"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")
_known_hosts: set[bytes] = set()
_HOSTS_KEPT = 1024

_DOT_SEGMENT = re.compile(rb"(?:/|%2[fF])(?:\.|%2[eE]){1,2}(?:/|%2[fF]|$)")
_SUSPECT = b".%\\#"  # a target without these needs no closer look
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})|%00")

# A client that keeps its connection mostly sends the same headers again. Blocks of them that came twice in a row are
# remembered with what they mean, so that such a request costs a look-up instead of a parse.
# Request lines likewise.
_Line = tuple[str, bytes, bytes, bytes]  # method, target, path, query
_known_blocks: dict[bytes, tuple[Any, bytes, bool, int | None]] = {}  # headers, host, keep-alive, length
_known_lines: dict[bytes, _Line] = {}
_BLOCKS_KEPT = 512
_LINES_KEPT = 1024
_BLOCK_SIZE = 4096
_REQUEST_LINE = re.compile(rb"([A-Z]{3,7}) (/[A-Za-z0-9/_~!$&'()*+,;=:@?.%-]*) HTTP/1\.1")


class RequestReader(Reader):
    """Reads the requests of one connection.

    :param sink: told of every request.
    :param max_head: bytes of request line and headers together.
    :param max_line: bytes of the request target.
    :param max_count: header fields of one request.

    Attributes, valid during ``on_head``: ``method``, ``target`` (as received), ``raw_path`` and ``query`` (bytes, as
    received), ``headers`` (the caller may keep the list), ``host``, ``http11`` (False for HTTP/1.0), ``keep_alive``,
    ``content_length`` (None without one), ``chunked``, ``expect_continue``. Trailers are read, bounded and dropped.
    """

    host: bytes
    raw_path: bytes
    query: bytes
    content_length: int | None

    __slots__ = (
        "_begun",
        "_ended",
        "_last_block",
        "_last_headers",
        "_last_line",
        "_short",
        "_skip_head",
        "_upgrade",
        "chunked",
        "content_length",
        "expect_continue",
        "host",
        "http11",
        "keep_alive",
        "max_line",
        "method",
        "query",
        "raw_path",
        "target",
    )

    def __init__(self, sink: Sink, *, max_head: int = 65536, max_line: int = 8192, max_count: int = 100) -> None:
        super().__init__(sink, max_head, max_count)
        self.max_line = max_line
        self._parser = httptools.HttpRequestParser(self)
        self._begun = False  # the parser has seen the beginning of a request, and not its end
        self._last_block = 0  # hash of the header block before this one
        self._last_line = 0  # and of the request line
        self._last_headers: HeaderPairs = ()
        self._short = min(_BLOCK_SIZE, max_head, max_line)
        self._ended = False  # the last request of the connection has been read: whatever follows is ignored
        self._skip_head = False
        self.target = b""

    def feed(self, data: bytes) -> bool:
        """Take the next bytes of the connection.

        :returns: whether what was fed so far ends with the end of a request.
        :raises ProtocolError: they are not acceptable; ``status`` says what to answer.
        """
        if self._begun or self._stalled or self._ended or len(data) > self._short:
            self._feed(data)
            return not self.in_message
        line, _, block = data.partition(b"\r\n")
        known = _known_blocks.get(block)
        if known is not None:
            request = _known_lines.get(line) or self._read_line(line)
            if request is not None and len(known[0]) <= self.max_count:
                self.method, self.target, self.raw_path, self.query = request
                self.headers, self.host, self.keep_alive, self.content_length = known
                self.http11 = True
                self.chunked = self.expect_continue = False
                self._ended = not self.keep_alive
                self._sink.on_head()
                self.headers = []
                self.target = b""
                return True
        before = self._progress
        self._feed(data)
        if (
            self._progress == before + 2  # one head, one end, nothing between
            and block.find(b"\r\n\r\n") == len(block) - 4  # and nothing after
            and line.endswith(b" HTTP/1.1")
        ):
            self._remember(block)
        self._last_headers = ()
        return not self.in_message

    def _read_line(self, line: bytes) -> _Line | None:
        """The request line before a block that is known. None: it is not plain, so the parser must see it all."""
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            return None
        raw_method, target = match.groups()
        method = _METHODS.get(raw_method)
        if method is None:
            return None
        self._check_target(target)
        request = method, target, self.raw_path, self.query
        seen = hash(line)
        if seen != self._last_line:
            self._last_line = seen
        else:
            if len(_known_lines) >= _LINES_KEPT:
                del _known_lines[next(iter(_known_lines))]
            _known_lines[line] = request
        return request

    def _remember(self, block: bytes) -> None:
        """Keep what ``block`` means, when it came twice in a row."""
        seen = hash(block)
        if seen != self._last_block:
            self._last_block = seen
        elif self.http11 and not (self._upgrade or self.expect_continue or self.chunked or self.target):
            if len(_known_blocks) >= _BLOCKS_KEPT:
                del _known_blocks[next(iter(_known_blocks))]
            _known_blocks[block] = (tuple(self._last_headers), self.host, self.keep_alive, self.content_length)

    @property
    def in_message(self) -> bool:
        """Whether the beginning of a request, and not yet its end, has been seen."""
        return self._begun or self._stalled > 0

    # -- what the parser calls

    def on_message_begin(self) -> None:
        self._begun = True

    def on_url(self, url: bytes) -> None:
        self.target = self.target + url if self.target else url

    def on_headers_complete(self) -> None:
        self._progress += 1
        if self._skip_head:
            self.headers = []
            return
        parser = self._parser
        headers = self.headers
        if len(headers) > self.max_count or self._stalled + self._fed > self.max_head:  # else it cannot be too long
            self._check_head(len(self.target))
        raw_method = parser.get_method()
        self.method = _METHODS.get(raw_method) or self._other_method(raw_method)
        self.keep_alive = parser.should_keep_alive()
        self.host = b""
        self.content_length = None
        self.chunked = self.expect_continue = self._upgrade = False
        hosts = 0
        connection = False
        for name, value in headers:
            meaning = meanings.get(name)
            if meaning == ORDINARY:
                continue
            if meaning is None:
                meaning = learn(name)
            if meaning == HOST:
                hosts += 1
                self.host = value
            elif meaning == CONNECTION:
                connection = True
            elif meaning != ORDINARY:
                self._read_framing(meaning, value)
        # Asking for the version is dear. Without a Connection header only HTTP/1.1 keeps a connection alive.
        self.http11 = True
        if connection or not self.keep_alive:
            self._check_version(parser.get_http_version())
        if hosts != 1 or self.host not in _known_hosts:
            self._check_host(hosts)
        target = self.target
        if target[0] == 47 and len(target) <= self.max_line and len(target.translate(None, _SUSPECT)) == len(target):
            self.raw_path, _, self.query = target.partition(b"?")
        else:
            self._check_target(target)
        self._sink.on_head()
        self._last_headers = headers
        self.headers = []  # what comes from here on are trailers

    def on_message_complete(self) -> None:
        if self._skip_head:
            self._skip_head = False
        elif self._upgrade and (self.content_length or self.chunked) and self._parser.should_upgrade():
            return  # llhttp ends the message before its body; _upgraded goes on with it
        self._progress += 1
        self._begun = False
        self.target = b""
        if self.headers:
            self.headers = []
        if not self.keep_alive:
            self._ended = True
        if self.chunked or self.content_length:
            self._sink.on_end()

    # -- what llhttp leaves to us

    def _read_framing(self, meaning: int, value: bytes) -> None:
        if meaning == LENGTH:
            self.content_length = int(value)  # llhttp took it: digits only, no overflow, once, not beside a coding
        elif meaning == CODING:
            if value.strip(b" \t").lower() != b"chunked":
                raise self._refuse("transfer coding other than chunked", 501)
            self.chunked = True
        elif meaning == EXPECT:
            if value.strip(b" \t").lower() != b"100-continue":
                raise self._refuse("expectation other than 100-continue", 417)
            self.expect_continue = True
        else:
            self._upgrade = True

    def _check_version(self, version: str) -> None:
        if version != "1.1":
            if version != "1.0":
                raise self._refuse(f"HTTP/{version} is not spoken here", 505)
            self.http11 = False
            self.expect_continue = False  # RFC 9110 section 10.1.1
            if self.chunked:
                raise self._refuse("transfer coding in an HTTP/1.0 request")

    def _check_host(self, count: int) -> None:
        """Exactly one valid Host; HTTP/1.0 may do without (RFC 9112 section 3.2)."""
        if count != 1:
            if count or self.http11:
                raise self._refuse("more than one Host" if count else "no Host")
            return
        self.host = host = self.host.rstrip(b" \t")
        if not _HOST_PATTERN.fullmatch(host):
            raise self._refuse("Host is not a host and port")
        if len(_known_hosts) < _HOSTS_KEPT:
            _known_hosts.add(host)

    def _check_target(self, target: bytes) -> None:
        """Split the target into path and query; refuse what different servers would read differently."""
        if len(target) > self.max_line:
            raise self._refuse(f"request target is longer than {self.max_line} bytes", 414)
        if target[:1] != b"/":
            target = self._other_form(target)
        if b"#" in target:
            raise self._refuse("request target has a fragment")
        path, _, self.query = target.partition(b"?")
        self.raw_path = path
        if _DOT_SEGMENT.search(path) or _BAD_ESCAPE.search(path):
            raise self._refuse("request path has a dot segment, a NUL or a broken escape")
        if b"\\" in path:
            raise self._refuse("request path has a backslash")

    def _other_method(self, raw_method: bytes) -> str:
        if raw_method == b"CONNECT":  # its target is no path, and what follows is no HTTP
            raise self._refuse("CONNECT is not served here", 405)
        if raw_method in _NOT_HTTP:
            raise self._refuse("this is not HTTP")
        return str(raw_method, "ascii")

    def _other_form(self, target: bytes) -> bytes:
        """The path and query of a target that is not in origin-form (RFC 9112 section 3.2)."""
        if target == b"*":
            if self.method != "OPTIONS":
                raise self._refuse("asterisk-form is for OPTIONS")
            return target
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise self._refuse("request target is neither a path nor an http URL")
        cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        authority, path = rest[:cut], rest[cut:]
        # RFC 9112 section 3.2.2 lets the target win over Host. Whoever sends two different ones wants them confused.
        if not _HOST_PATTERN.fullmatch(authority) or (self.host and authority.lower() != self.host.lower()):
            raise self._refuse("request target and Host differ")
        self.host = authority
        return path if path[:1] == b"/" else b"/" + path

    def _upgraded(self, rest: bytes) -> None:
        """llhttp stops after a head with Upgrade, body or not. We take none up, so go on as if it had not been there
        (RFC 9110 section 7.8): a fresh parser, told of the body's framing by a head of our own."""
        self._parser = httptools.HttpRequestParser(self)
        if self.content_length or self.chunked:
            framing = b"transfer-encoding: chunked\r\n" if self.chunked else content_length(self.content_length or 0)
            self._skip_head = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\nhost: x\r\n" + framing + b"\r\n")
        if rest:
            self.feed(rest)

    def _failed(self, error: httptools.HttpParserError) -> None:
        if not self._ended:  # else it is about bytes after a last request, which nobody wants
            super()._failed(error)

    def _check_unfinished(self) -> None:
        if self._ended:
            self._stalled = 0
            return
        super()._check_unfinished()
        if len(self.target) > self.max_line:
            raise self._refuse(f"request target is longer than {self.max_line} bytes", 414)
