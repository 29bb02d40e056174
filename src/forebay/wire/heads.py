"""What the heads of HTTP/1.1 messages are made of (RFC 9110 sections 5 and 15, RFC 9112 sections 4 and 7)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus

from forebay.errors import ProtocolError

__all__ = [
    "LAST_CHUNK",
    "STATUS_LINES",
    "STATUS_PHRASES",
    "HeaderPairs",
    "content_length",
    "decode_path",
    "encode_chunk",
    "encode_headers",
    "find_header",
]

HeaderPairs = Sequence[tuple[bytes, bytes]]
"""Names and values as received; blanks may be left at the end of a value."""

STATUS_PHRASES: dict[int, str] = {
    **{status.value: status.phrase for status in HTTPStatus},
    413: "Content Too Large",  # before Python 3.13 these four have the names of older RFCs
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
"""Reason phrases (RFC 9110 section 15, and the registry of status codes)."""
STATUS_LINES: dict[int, bytes] = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, STATUS_PHRASES.get(status, "").encode()) for status in range(100, 600)
}

LAST_CHUNK = b"0\r\n\r\n"

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_OCTETS = {b"%02x" % i: bytes((i,)) for i in range(256)}

_NAME_PATTERN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE_PATTERN = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

_LENGTH_LINES = [b"content-length: %d\r\n" % n for n in range(4096)]


def content_length(length: int) -> bytes:
    """The ``content-length`` line."""
    return _LENGTH_LINES[length] if length < 4096 else b"content-length: %d\r\n" % length


def encode_chunk(data: bytes) -> bytes:
    """``data`` as one chunk (RFC 9112 section 7.1). Empty data would end the body, so it gives nothing."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def encode_headers(pairs: Iterable[tuple[str | bytes, str | bytes]]) -> bytes:
    """Header lines, each ended by CRLF, the names in lower case.

    :raises ValueError: a name is not a token, or a value holds CR, LF, NUL or another control character: such a header
        could split the response.
    """
    lines = []
    for name, value in pairs:
        raw_name = name.encode("latin-1") if isinstance(name, str) else name
        raw_value = value.encode("latin-1") if isinstance(value, str) else value
        if not _NAME_PATTERN.fullmatch(raw_name):
            raise ValueError(f"header name {name!r} is not a token (RFC 9110 section 5.1)")
        if not _VALUE_PATTERN.fullmatch(raw_value):
            raise ValueError(f"value of header {name!r} holds a control character (RFC 9110 section 5.5)")
        lines.append(b"%b: %b\r\n" % (raw_name.lower(), raw_value))
    return b"".join(lines)


def find_header(headers: HeaderPairs, name: bytes) -> bytes | None:
    """The first value of ``name`` (lower-case), or None. Blanks around it are cut."""
    size = len(name)
    for key, value in headers:
        if len(key) == size and key.lower() == name:
            return value.strip(b" \t")
    return None


def decode_path(raw_path: bytes) -> str:
    """Percent-decode a path that a reader has accepted.

    :raises ProtocolError: the decoded octets are not UTF-8.
    """
    if b"%" in raw_path:
        raw_path = _ESCAPE.sub(lambda match: _OCTETS[match[1].lower()], raw_path)
    try:
        return raw_path.decode()
    except UnicodeDecodeError:
        raise ProtocolError("request path is not UTF-8") from None
