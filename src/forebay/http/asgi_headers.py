"""Header fields between the wire and ASGI: lower-case pairs for the application, encoded lines for the answer.

Clients that keep their connections send the same headers again and again, and applications answer with few different
ones, so what was made of them is remembered, up to a bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import formatdate
from typing import Any, NamedTuple

from forebay.engine.loop import now
from forebay.wire.http1 import HeaderPairs, encode_headers

__all__ = ["Known", "ResponseHead", "encode_head", "encode_trailers", "known_headers"]

_KEPT = 1024  # entries of each cache
_VALUE_KEPT = 256  # bytes of the values in them
_LINES_KEPT = 1024  # and of whole heads
_BLANKS = b" \t"
_LENGTH_SIZE = 18  # digits of a content-length


class Known(NamedTuple):
    """The headers of a request, as an application gets them."""

    received: HeaderPairs
    pairs: list[tuple[bytes, bytes]]  # to be copied: applications change it
    takes_trailers: bool  # ``TE: trailers`` (RFC 9110 section 10.1.4)


_names: dict[bytes, bytes] = {}
_blocks: dict[int, Known] = {}


def known_headers(received: HeaderPairs) -> Known:
    """``received`` with names in lower case, and without blanks at the end of values."""
    known = _blocks.get(id(received))  # of this very object: those remembered are kept alive, so no id is used again
    if known is not None:
        return known
    pairs = [(_names.get(name) or _lower(name), value.rstrip(_BLANKS)) for name, value in received]
    takes_trailers = any(
        name == b"te" and b"trailers" in [part.strip(_BLANKS) for part in value.lower().split(b",")]
        for name, value in pairs
    )
    known = Known(received, pairs, takes_trailers)
    if type(received) is tuple:  # the reader remembers it, so it will come again
        _remember(_blocks, id(received), known)
    return known


def _lower(name: bytes) -> bytes:
    lower = name.lower()
    if len(name) <= _VALUE_KEPT:
        _remember(_names, name, lower)
    return lower


def _remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
    if len(cache) >= _KEPT:
        del cache[next(iter(cache))]
    cache[key] = value


class ResponseHead(NamedTuple):
    """An application's answer, up to its content."""

    lines: bytes
    length: int | None  # what it says the length of its content is
    close: bool  # it wants the connection to end
    date: bool  # the server is to add ``date`` and ``server``; not where the application has its own


class _Special(NamedTuple):
    """A line that means something to the server."""

    line: bytes
    is_date: bool = False
    close: bool = False


_lines: dict[Any, bytes | int | _Special] = {}  # encoded, the value of a content-length, or something to look at
_heads: dict[Any, ResponseHead] = {}


def encode_head(pairs: Iterable[tuple[bytes, bytes]]) -> ResponseHead:
    """An application's header fields as lines.

    Names leave in lower case. ``transfer-encoding`` and ``connection`` are the server's: they are left out, and of the
    latter only ``close`` is heeded.

    :raises TypeError: a name or value is not bytes.
    :raises ValueError: a field is not well-formed, or two values of content-length differ.
    """
    key = tuple(pairs)
    try:
        known = _heads.get(key)
    except TypeError:  # lists, or bytearrays
        return _encode(key)
    if known is None:
        known = _encode(key)
        if known.date and len(known.lines) <= _LINES_KEPT:
            _remember(_heads, key, known)
    return known


def _encode(pairs: Iterable[tuple[bytes, bytes]]) -> ResponseHead:
    out = []
    length: int | None = None
    close = own = dated = False
    for pair in pairs:
        try:
            line = _lines.get(pair)
        except TypeError:
            pair = (bytes(pair[0]), bytes(pair[1]))
            line = _lines.get(pair)
        if line is None:
            line = _learn(pair)
        if line.__class__ is bytes:
            out.append(line)
        elif isinstance(line, int):
            if length is not None and length != line:
                raise ValueError(f"content-length is both {length} and {line}")
            length = line
        elif isinstance(line, _Special):
            out.append(line.line)
            close |= line.close
            dated |= line.is_date
            own |= bool(line.line)
    if own and not dated:
        out.append(_date_line())
    return ResponseHead(b"".join(out), length, close, not own)


def encode_trailers(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An application's trailer fields as lines.

    :raises TypeError: a name or value is not bytes.
    :raises ValueError: a field is not well-formed, or is one that trailers must not have (RFC 9110 section 6.5.1).
    """
    lines = []
    for pair in pairs:
        line = _learn((bytes(pair[0]), bytes(pair[1])))
        if not isinstance(line, bytes):
            raise ValueError(f"{pair[0]!r} cannot be a trailer: it is about the message's framing, or its head")
        lines.append(line)
    return b"".join(lines)


def _learn(pair: Any) -> bytes | int | _Special:
    name, value = pair
    if type(name) is not bytes or type(value) is not bytes:
        raise TypeError(f"header {name!r}: {value!r}: names and values must be bytes")
    name = name.lower()
    encoded = encode_headers(((name, value),))
    line: bytes | int | _Special = encoded
    if name == b"content-length":
        if not value.isdigit() or len(value) > _LENGTH_SIZE:
            raise ValueError(f"content-length {value!r} is no number")
        line = int(value)
    elif name == b"transfer-encoding":
        line = _Special(b"")
    elif name == b"connection":
        line = _Special(b"", close=b"close" in [token.strip(_BLANKS) for token in value.lower().split(b",")])
    elif name in (b"date", b"server"):
        line = _Special(encoded, is_date=name == b"date")
    if len(value) <= _VALUE_KEPT:
        _remember(_lines, pair, line)
    return line


_date = b""
_date_until = 0.0


def _date_line() -> bytes:
    global _date, _date_until
    at = now()
    if at >= _date_until:
        _date_until = at + 1
        _date = b"date: %b\r\n" % formatdate(usegmt=True).encode()
    return _date
