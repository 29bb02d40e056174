"""The heads of HTTP/1.1 responses: what their bytes mean, and which are refused (RFC 9110, RFC 9112).

A head is always read whole, from its first byte to the empty line: one pattern has to fit each of its lines from end to
end, so that nothing is skipped, and the same bytes mean the same however the network has cut them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from forebay.errors import ProtocolError
from forebay.wire.heads import HeaderPairs
from forebay.wire.reader import CODING, CONNECTION, FIELD, LENGTH, ORDINARY, connection_options, learn, meanings

__all__ = ["ResponseHead", "bad_field", "read_head", "refused"]

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*+))?\r\n")
_FIELDS = re.compile(rb"^" + FIELD.pattern + rb"\r\n", re.M)
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_VERSION = re.compile(rb"HTTP/[0-9]+(?:\.[0-9]*)?(?= |$)")  # also one that is cut off
_LENGTH_SIZE = 18  # digits of a Content-Length, which then fits in 64 bits
_SHOWN = 40  # bytes of what is wrong that a message shows

# Servers repeat themselves: the same fields, and the same date for a second. A head that came before is remembered with
# what it means, as are those of requests. All connections share this, and all threads: each step is one of the
# interpreter's own, and when there is no room it is emptied whole.
_known: dict[bytes, ResponseHead] = {}
_KNOWN_KEPT = 512
_KNOWN_SIZE = 4096  # bytes of a head that is remembered
_seen: set[int] = set()
_SEEN_KEPT = 4096


@dataclass(slots=True)
class ResponseHead:
    """What the head of a response says. Responses with the same head share one: it is never changed."""

    status: int
    """100 to 599."""
    reason: bytes
    """The phrase behind the status, as received; mostly it is without meaning."""
    http11: bool
    """HTTP/1.1; else HTTP/1.0."""
    headers: HeaderPairs
    """A list, or a tuple where the head is remembered."""
    keep_alive: bool
    """The server does not mean to close the connection."""
    content_length: int | None
    chunked: bool


def refused(message: str, reason: str = "malformed") -> ProtocolError:
    """The error for a response that is not acceptable. Whoever waits for it is to be told 502."""
    return ProtocolError(message, status=502, reason=reason)


def read_head(block: bytes, max_count: int) -> ResponseHead:
    """What the bytes of a head mean.

    :param block: from the status line to the empty line, with its end.
    :param max_count: header fields it may have.
    :raises ProtocolError: it is not acceptable.
    """
    head = _known.get(block)
    if head is None:
        head = _read(block, max_count)
        if len(block) <= _KNOWN_SIZE:
            _remember(block, head)
    elif len(head.headers) > max_count:
        raise _too_many(max_count)
    return head


def _remember(block: bytes, head: ResponseHead) -> None:
    """Keep what a head means, when the like of it came before: what comes once is not worth keeping."""
    mark = hash(block)
    if mark not in _seen:
        if len(_seen) >= _SEEN_KEPT:
            _seen.clear()
        _seen.add(mark)
        return
    if len(_known) >= _KNOWN_KEPT:
        _known.clear()
    head.headers = tuple(head.headers)
    _known[block] = head


def _too_many(max_count: int) -> ProtocolError:
    return refused(f"more than {max_count} header fields", "many-fields")


def _read(block: bytes, max_count: int) -> ResponseHead:
    first = _STATUS_LINE.match(block)
    if first is None:
        raise _bad_status_line(block)
    headers: list[tuple[bytes, bytes]] = _FIELDS.findall(block, first.end())
    if block.count(b"\n") != len(headers) + 2:  # what fits is a whole line, and no line may be anything else
        raise _bad_line(block)
    if len(headers) > max_count:
        raise _too_many(max_count)
    minor, status, reason = first.groups(b"")
    http11 = minor == b"1"
    length: int | None = None
    chunked = False
    options: frozenset[bytes] | None = None
    for name, value in headers:
        meaning = meanings.get(name)
        if meaning == ORDINARY:
            continue
        if meaning is None:
            meaning = learn(name)
        if meaning == LENGTH:
            if length is not None:
                raise refused("more than one Content-Length", "two-lengths")
            length = _length(value)
        elif meaning == CODING:
            if chunked or value.strip(b" \t").lower() != b"chunked":
                raise refused("transfer coding other than chunked", "coding")
            chunked = True
        elif meaning == CONNECTION:
            more = connection_options(value)
            options = more if options is None else options | more
    if chunked and length is not None:
        raise refused("Content-Length beside a transfer coding", "two-lengths")
    if chunked and not http11:
        raise refused("transfer coding in an HTTP/1.0 response", "coding")
    code = int(status)
    if (chunked or length) and (code < 200 or code == 204):  # RFC 9110 section 8.6, RFC 9112 section 6.1
        raise refused(f"a {code} response with content", "content")
    keep_alive = http11
    if options is not None:
        keep_alive = b"close" not in options and (http11 or b"keep-alive" in options)
    return ResponseHead(code, reason, http11, headers, keep_alive, length, chunked)


def _length(value: bytes) -> int:
    digits = value.strip(b" \t")
    if not digits.isdigit() or len(digits) > _LENGTH_SIZE:
        raise refused(f"Content-Length {_shown(digits)} is not a number of bytes", "length")
    return int(digits)


# -- what exactly is wrong


def _shown(text: bytes) -> str:
    return repr(text[:_SHOWN].decode("latin-1")) + ("..." if len(text) > _SHOWN else "")


def _bad_status_line(block: bytes) -> ProtocolError:
    line, _, _ = block.partition(b"\r\n")
    if (version := _VERSION.match(line)) and version[0] not in (b"HTTP/1.0", b"HTTP/1.1"):
        return refused(f"{_shown(version[0])} is not spoken here", "version")
    if line.startswith(b"HTTP/") and (b"\n" in line or b"\r" in line):
        return refused("the status line does not end with CRLF", "line-end")
    if line.startswith(b"HTTP/") and _CONTROL.search(line):
        return refused("the status line has a control character", "status-line")
    return refused(f"{_shown(line)} is not a status line: HTTP/1.1 STATUS, with STATUS from 100 to 599", "status-line")


def _bad_line(block: bytes) -> ProtocolError:
    """Why not every line of a head is a field."""
    for line in block.split(b"\r\n")[1:-2]:
        if not FIELD.fullmatch(line):
            return bad_field(line)
    return refused("a header line is not NAME: VALUE")


def bad_field(line: bytes) -> ProtocolError:
    """Why a line, without its end, is not NAME: VALUE."""
    name, colon, _ = line.partition(b":")
    if b"\n" in line or b"\r" in line:
        return refused(f"the line of header {_shown(name)} does not end with CRLF", "line-end")
    if line[:1] in (b" ", b"\t"):
        return refused("a header is folded over two lines", "malformed")
    if not colon:
        return refused(f"header line {_shown(line)} has no colon", "malformed")
    if name[-1:] in (b" ", b"\t"):
        return refused(f"header {_shown(name.rstrip())} has a blank before its colon", "malformed")
    if FIELD.fullmatch(name + b":"):
        return refused(f"the value of header {_shown(name)} has a control character", "malformed")
    return refused(f"header name {_shown(name)} is not a token", "malformed")
