"""The heads of HTTP/1.1 requests: what their bytes mean, and which are refused (RFC 9110, RFC 9112).

llhttp (through httptools, in its strict mode) splits the header lines; everything else is decided here: the request
line, sizes and counts, the form and path of the target, exactly one valid ``Host``, and one meaning of what frames the
content. A head is always read whole, from its first byte to the empty line, so no state is kept between reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import httptools

from forebay.errors import ProtocolError
from forebay.wire.heads import HeaderPairs
from forebay.wire.reader import (
    CODING,
    CONDITIONAL,
    CONNECTION,
    EXPECT,
    HOST,
    LENGTH,
    ORDINARY,
    TIMEOUT,
    UPGRADE,
    connection_options,
    learn,
    meanings,
)

__all__ = ["METHODS", "Fields", "RequestLine", "RequestRules"]

V = TypeVar("V")

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"))
"""Those that are counted by name; a client may make up others."""

RequestLine = tuple[str, bytes, bytes, bytes]
"""Method; target as received; its path and its query, as received."""

_METHOD_NAMES = {method.encode(): method for method in METHODS}
_METHOD_SIZE = 32  # bytes; past it 501 (RFC 9112 section 3)

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) HTTP/1\.([01])")
_OTHER_VERSION = re.compile(_TOKEN + rb" [!-~]+(?: HTTP/([0-9]\.[0-9]))?")
_START = {b"1": b"POST / HTTP/1.1\r\n", b"0": b"POST / HTTP/1.0\r\n"}  # what llhttp sees instead of the request line

# RFC 9110 section 7.2, RFC 3986 section 3.2.2. Userinfo has no place in Host; underscores are no names, but are met.
_HOST_PATTERN = re.compile(rb"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")

_DOT_SEGMENT = re.compile(rb"(?:/|%2[fF])(?:\.|%2[eE]){1,2}(?:/|%2[fF]|$)")
_SUSPECT = b".%\\#"  # a target without these needs no closer look
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})|%00")
_TAIL = re.compile(rb"(?<=[^\r\n\t ])[\t ]+\r\n")  # behind a value; not a line of nothing else
_LENGTH_SIZE = 18  # digits of a Content-Length, which then fits in 64 bits
_SLASH = ord("/")

_KNOWN_SIZE = 4096  # bytes of a block that is remembered
_BLOCKS_KEPT = 512
_LINES_KEPT = 1024
_HOSTS_KEPT = 1024
_SEEN_KEPT = 4096


@dataclass(slots=True)
class Fields:
    """What the header lines of a request say. Requests that sent the same lines share one: it is never changed."""

    headers: HeaderPairs
    host: bytes
    http11: bool
    keep_alive: bool
    content_length: int | None
    chunked: bool
    expects: bool
    """``Expect: 100-continue``."""
    upgrade: bytes
    """The value of ``Upgrade``, in lower case, where ``Connection`` has it too; else empty."""
    simple: bool = False
    """HTTP/1.1, nothing follows the head, the connection goes on, and no upgrade is asked for: the usual case."""
    conditional: bool = False
    """It has a field of RFC 9110 section 13 or 14: ``Range``, or one of those that begin with ``If-``."""
    first: dict[bytes, bytes] | None = None
    """The first value of each name, in lower case; only of heads that are remembered."""
    msgpack: bool = False
    """Some field speaks of MessagePack: ``Accept``, probably."""
    timeout: bytes = b""
    """The value of ``Request-Timeout-Ms``; the last one where there are several."""

    @property
    def has_content(self) -> bool:
        """Whether content follows the head."""
        return self.chunked or bool(self.content_length)


class _Parser:
    """llhttp, which splits one block of header lines after the other."""

    __slots__ = ("_complete", "_fresh", "_llhttp", "headers")

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.renew()

    def renew(self) -> None:
        """Forget the last head."""
        self._llhttp = httptools.HttpRequestParser(self)
        self._fresh = True
        self._complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by llhttp."""
        self.headers.append((name, value))

    def on_message_complete(self) -> None:
        """Called by llhttp."""
        self._complete = True

    def split(self, block: bytes, minor: bytes) -> list[tuple[bytes, bytes]]:
        """The header lines of ``block`` as pairs.

        :raises ProtocolError: llhttp does not take them.
        """
        headers = self.headers = list[tuple[bytes, bytes]]()
        self._complete = False
        try:
            self._llhttp.feed_data(_START[minor] + block)
            self._fresh = False
            if not self._complete:  # it waits for content, which it must not take the next head for
                self.renew()
        except httptools.HttpParserUpgrade:
            self.renew()
        except httptools.HttpParserError as error:
            fresh = self._fresh
            self.renew()
            if not fresh:  # it may be the head before this one that it cannot get over
                return self.split(block, minor)
            raise _malformed(str(error), headers) from None
        return headers


class RequestRules:
    """What requests may look like, and what is known of those that came before. One for all connections of a server.

    :param max_head: bytes of request line and headers together.
    :param max_line: bytes of the request target.
    :param max_field: bytes of one header line.
    :param max_count: header fields of one request.
    :param max_trailers: bytes of all trailer fields of a request.
    :param max_chunk_line: bytes of the line before a chunk, with its extensions.

    Clients that keep their connections mostly send the same headers again, and the same request lines. Those that were
    seen before are remembered with what they mean, so that such a request costs a look-up instead of a parse.
    """

    __slots__ = (
        "_hosts",
        "_parser",
        "_seen",
        "blocks",
        "lines",
        "max_chunk_line",
        "max_count",
        "max_field",
        "max_head",
        "max_line",
        "max_trailers",
        "short",
    )

    def __init__(
        self,
        *,
        max_head: int = 65536,
        max_line: int = 8192,
        max_field: int = 16384,
        max_count: int = 100,
        max_trailers: int = 8192,
        max_chunk_line: int = 1024,
    ) -> None:
        self.max_head = max_head
        self.max_line = max_line
        self.max_field = max_field
        self.max_count = max_count
        self.max_trailers = max_trailers
        self.max_chunk_line = max_chunk_line
        self.short = min(_KNOWN_SIZE, max_head, max_line)
        self.blocks: dict[bytes, Fields] = {}
        self.lines: dict[bytes, RequestLine] = {}
        self._seen: set[int] = set()
        self._hosts: set[bytes] = set()
        self._parser = _Parser()

    def read(self, line: bytes, block: bytes) -> tuple[RequestLine, Fields]:
        """What a head means that is not known in both its parts.

        :param line: the request line, without its end.
        :param block: the header lines, and the empty line that ends them.
        :raises ProtocolError: it is not acceptable.
        """
        known = self.lines.get(line)
        if known is not None:
            return known, self._fields(block, b"1")
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            self._refuse_line(line)
        raw_method, target, minor = match.groups()
        fields = self._fields(block, minor)
        method = _METHOD_NAMES.get(raw_method) or self._other_method(raw_method)
        if len(target) > self.max_line:
            raise self._long_target()
        if target[0] != _SLASH:
            path, fields = self._other_form(method, target, fields)
            raw_path, query = self._split(path)
            return (method, target, raw_path, query), fields
        if len(target.translate(None, _SUSPECT)) == len(target):
            raw_path, _, query = target.partition(b"?")
        else:
            raw_path, query = self._split(target)
        request = method, target, raw_path, query
        if minor == b"1" and self._seen_before(line):
            _keep(self.lines, line, request, _LINES_KEPT)
        return request, fields

    def _fields(self, block: bytes, minor: bytes) -> Fields:
        if minor != b"1":
            return self._read_block(block, minor)
        fields = self.blocks.get(block)
        if fields is None:
            fields = self._read_block(block, minor)
            if self._seen_before(block):
                fields.headers = tuple(fields.headers)
                fields.first = {name.lower(): value.strip(b" \t") for name, value in reversed(fields.headers)}
                _keep(self.blocks, block, fields, _BLOCKS_KEPT)
        return fields

    def _seen_before(self, data: bytes) -> bool:
        """Whether the like of it came before: what comes once is not worth keeping."""
        if len(data) > _KNOWN_SIZE:
            return False
        seen, mark = self._seen, hash(data)
        if mark in seen:
            seen.discard(mark)
            return True
        if len(seen) >= _SEEN_KEPT:
            seen.clear()
        seen.add(mark)
        return False

    # -- the request line

    def _long_target(self) -> ProtocolError:
        return ProtocolError(f"request target is longer than {self.max_line} bytes", status=414, reason="long-target")

    def _refuse_line(self, line: bytes) -> NoReturn:
        if len(line) > self.max_line + _METHOD_SIZE + 16:
            raise ProtocolError(
                f"request target is longer than {self.max_line} bytes", status=414, reason="long-target"
            )
        version = _OTHER_VERSION.fullmatch(line)
        if version is not None and version[1] not in (b"1.0", b"1.1"):
            shown = (version[1] or b"0.9").decode()
            raise ProtocolError(f"HTTP/{shown} is not spoken here", status=505, reason="version")
        raise ProtocolError("request line is not METHOD TARGET HTTP/1.1", reason="request-line")

    def _other_method(self, raw_method: bytes) -> str:
        if raw_method == b"CONNECT":  # its target is no path, and what follows is no HTTP
            raise ProtocolError("CONNECT is not served here", status=405, reason="connect")
        if len(raw_method) > _METHOD_SIZE:
            raise ProtocolError(f"method is longer than {_METHOD_SIZE} bytes", status=501, reason="method")
        return raw_method.decode("ascii")

    def _other_form(self, method: str, target: bytes, fields: Fields) -> tuple[bytes, Fields]:
        """The path and query of a target that is not in origin-form (RFC 9112 section 3.2)."""
        if target == b"*":
            if method != "OPTIONS":
                raise ProtocolError("asterisk-form is for OPTIONS", reason="target")
            return target, fields
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise ProtocolError("request target is neither a path nor an http URL", reason="target")
        cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        authority, path = rest[:cut], rest[cut:]
        # RFC 9112 section 3.2.2 lets the target win over Host. Whoever sends two different ones wants them confused.
        if not _HOST_PATTERN.fullmatch(authority) or (fields.host and authority.lower() != fields.host.lower()):
            raise ProtocolError("request target and Host differ", reason="host")
        if fields.host != authority:
            fields = Fields(**{name: getattr(fields, name) for name in Fields.__slots__} | {"host": authority})
        return path if path[:1] == b"/" else b"/" + path, fields

    def _split(self, target: bytes) -> tuple[bytes, bytes]:
        """Path and query. Refuses what different servers would read differently."""
        if b"#" in target:
            raise ProtocolError("request target has a fragment", reason="target")
        path, _, query = target.partition(b"?")
        if _DOT_SEGMENT.search(path) or _BAD_ESCAPE.search(path):
            raise ProtocolError("request path has a dot segment, a NUL or a broken escape", reason="target")
        if b"\\" in path:
            raise ProtocolError("request path has a backslash", reason="target")
        return path, query

    # -- the header lines

    def _read_block(self, block: bytes, minor: bytes) -> Fields:
        if b"\t\r\n" in block:  # llhttp takes blanks behind some values, but no tabs
            block = _TAIL.sub(b"\r\n", block)
        headers = self._parser.split(block, minor)
        lines = len(headers) + 1
        if block.count(b"\n") != lines or block.count(b"\r") != lines:  # each field has its line, ended by CRLF
            raise ProtocolError("a header line does not end with CRLF", reason="line-end")
        if len(headers) > self.max_count:
            raise ProtocolError(f"more than {self.max_count} header fields", status=431, reason="many-fields")
        if len(block) > self.max_field:
            self._check_sizes(headers)
        http11 = minor == b"1"
        host: bytes | None = None
        length: int | None = None
        chunked = expects = conditional = False
        keep_alive = http11
        upgrade = timeout = b""
        connection: frozenset[bytes] | None = None
        for name, value in headers:
            meaning = meanings.get(name)
            if meaning == ORDINARY:
                continue
            if meaning is None:
                meaning = learn(name)
            if meaning == HOST:
                if host is not None:
                    raise ProtocolError("more than one Host", reason="host")
                host = value.strip(b" \t")
            elif meaning == CONNECTION:
                options = connection_options(value)
                connection = options if connection is None else connection | options
            elif meaning == LENGTH:
                if length is not None:
                    raise ProtocolError("more than one Content-Length", reason="two-lengths")
                length = _length(value)
            elif meaning == CODING:
                if chunked or value.strip(b" \t").lower() != b"chunked":
                    raise ProtocolError("transfer coding other than chunked", status=501, reason="coding")
                chunked = True
            elif meaning == EXPECT:
                if value.strip(b" \t").lower() != b"100-continue":
                    raise ProtocolError("expectation other than 100-continue", status=417, reason="expectation")
                expects = http11  # RFC 9110 section 10.1.1
            elif meaning == UPGRADE:
                upgrade = value.strip(b" \t").lower()
            elif meaning == CONDITIONAL:
                conditional = True
            elif meaning == TIMEOUT:
                timeout = value.strip(b" \t")
        if chunked and (length is not None or not http11):
            raise ProtocolError(
                "Content-Length beside a transfer coding" if http11 else "transfer coding in an HTTP/1.0 request",
                reason="two-lengths" if http11 else "coding",
            )
        if connection is not None:
            keep_alive = b"close" not in connection and (http11 or b"keep-alive" in connection)
        if upgrade and (connection is None or b"upgrade" not in connection or not keep_alive):
            upgrade = b""
        if not http11 or chunked or length:  # RFC 9110 section 7.8; with content it is not worth the risk
            upgrade = b""
        self._check_host(host, http11)
        simple = http11 and keep_alive and not (chunked or length or upgrade)
        msgpack = b"msgpack" in block.lower()
        return Fields(
            headers,
            host or b"",
            http11,
            keep_alive,
            length,
            chunked,
            expects,
            upgrade,
            simple,
            conditional,
            None,
            msgpack,
            timeout,
        )

    def _check_sizes(self, headers: HeaderPairs) -> None:
        for name, value in headers:
            if len(name) + len(value) + 4 > self.max_field:
                shown = name[:40].decode("latin-1")
                raise ProtocolError(
                    f"header {shown!r} is longer than {self.max_field} bytes", status=431, reason="long-field"
                )

    def _check_host(self, host: bytes | None, http11: bool) -> None:
        """Exactly one valid Host; HTTP/1.0 may do without (RFC 9112 section 3.2)."""
        if host is None:
            if http11:
                raise ProtocolError("no Host", reason="host")
            return
        hosts = self._hosts
        if host in hosts:
            return
        if not _HOST_PATTERN.fullmatch(host):
            raise ProtocolError("Host is not a host and port", reason="host")
        if len(hosts) < _HOSTS_KEPT:
            hosts.add(host)


def _malformed(why: str, headers: HeaderPairs) -> ProtocolError:
    """llhttp does not take the headers. For a coding we do not know there is a status of its own (RFC 9112 section
    6.1); for one that hides ``chunked`` there is not."""
    codings = [value.lower() for name, value in headers if name.lower() == b"transfer-encoding"]
    if codings and not any(coding.strip() == b"chunked" for value in codings for coding in value.split(b",")):
        return ProtocolError("transfer coding other than chunked", status=501, reason="coding")
    return ProtocolError(why, reason="malformed")


def _length(value: bytes) -> int:
    digits = value.strip(b" \t")
    if not digits.isdigit() or len(digits) > _LENGTH_SIZE:
        raise ProtocolError("Content-Length is not a number of bytes", reason="length")
    return int(digits)


def _keep(known: dict[bytes, V], key: bytes, value: V, bound: int) -> None:
    if len(known) >= bound:
        del known[next(iter(known))]
    known[key] = value
