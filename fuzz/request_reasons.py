"""Why our request reader and h11 may differ. Each reason is recognised from the bytes, not from what we say of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fuzz.request_readings import LIMITS, OurRequest, TheirRequest

_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_HOST = frozenset(b".-_~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FOLDED = re.compile(rb"\n[ \t]")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a request that h11 takes may be refused by us.

    :param section: of the RFC that lets us, or makes us.
    :param says: ``ProtocolError.reason`` of ours, one of these.
    :param test: recognises it, given what is refused.
    """

    name: str
    section: str
    why: str
    says: tuple[str, ...]
    test: Callable[[TheirRequest], bool]


@dataclass(frozen=True, slots=True)
class ContentReason:
    """The same for what follows a head: given the chunk line (without its end) that is refused, or the trailers as far
    as they came until then.
    """

    name: str
    section: str
    why: str
    says: tuple[str, ...]
    test: Callable[[bytes], bool]


def _values(request: TheirRequest, name: bytes) -> list[bytes]:
    return [value for each, value in request.headers if each == name]


def _lines(request: TheirRequest, name: bytes) -> list[bytes]:
    """The values of a field as sent: h11 keeps only one of several lengths."""
    lines = (line.partition(b":") for line in request.head.split(b"\n")[1:])
    return [value.strip() for each, _, value in lines if each.lower() == name]


def _path(target: bytes) -> bytes:
    if not target.startswith(b"/"):
        target = target.partition(b"://")[2]
        target = target[min(at % (len(target) + 1) for at in (target.find(b"/"), target.find(b"?"), -1)) :]
    return target.partition(b"?")[0]


def _absolute(target: bytes) -> bool:
    return target.lower().startswith((b"http://", b"https://"))


def _has_dot_segment(request: TheirRequest) -> bool:
    path = re.sub(rb"%2e", b".", re.sub(rb"%2f", b"/", _path(request.target), flags=re.I), flags=re.I)
    return bool({b".", b".."} & set(path.split(b"/")[1:]))


def _has_bad_escape(request: TheirRequest) -> bool:
    escapes = [part[:2].lower() for part in _path(request.target).split(b"%")[1:]]
    return any(len(each) < 2 or not set(each) <= set(b"0123456789abcdef") or each == b"00" for each in escapes)


def _is_other_form(request: TheirRequest) -> bool:
    target = request.target
    asterisk = target == b"*" and request.method == b"OPTIONS"
    return not (target.startswith(b"/") or _absolute(target) or asterisk)


def _is_host(value: bytes) -> bool:
    if value.startswith(b"["):
        name, bracket, rest = value[1:].partition(b"]")
        fits = bool(bracket) and 2 <= len(name) <= 45 and set(name) <= set(b"0123456789ABCDEFabcdef:.")
    else:
        name, colon, port = value.partition(b":")
        rest = colon + port
        fits = 1 <= len(name) <= 255 and set(name) <= _HOST
    return fits and (not rest or (rest[:1] == b":" and len(rest) <= 6 and set(rest[1:]) <= set(b"0123456789")))


def _authority(target: bytes) -> bytes:
    return re.split(rb"[/?]", target.partition(b"://")[2], maxsplit=1)[0]


def _is_for_another_host(request: TheirRequest) -> bool:
    if not _absolute(request.target):
        return False
    authority = _authority(request.target)
    hosts = _values(request, b"host")
    return not _is_host(authority) or bool(hosts and hosts[0].lower() != authority.lower())


def _has_long_field(request: TheirRequest) -> bool:
    lines = request.head.split(b"\r\n")[1:]
    return any(len(line) + 2 > LIMITS["max_field"] for line in lines)


def _has_control(request: TheirRequest) -> bool:
    return any(_CONTROL.search(value) for _, value in request.headers)


def _has_several_lengths(request: TheirRequest) -> bool:
    lengths = _lines(request, b"content-length")
    return len(lengths) > 1 or any(b"," in value for value in lengths)


HEADS = (
    Reason(
        "bare-lf",
        "RFC 9112 section 2.2",
        "A line may be ended by LF alone, for those who care to. Not all on the way do, and then heads differ.",
        ("line-end", "malformed", "request-line", "version", "many-fields", "long-head", "long-target"),
        lambda request: bool(_BARE_LF.search(request.head)),
    ),
    Reason(
        "obs-fold",
        "RFC 9112 section 5.2",
        "A server must refuse a folded line or replace the fold. h11 replaces it.",
        ("malformed",),
        lambda request: bool(_FOLDED.search(request.head)),
    ),
    Reason(
        "control-character",
        "RFC 9110 section 5.5",
        "Control characters are no part of a field's value. h11 takes all but NUL and blanks.",
        ("malformed",),
        _has_control,
    ),
    Reason(
        "version",
        "RFC 9110 sections 2.5 and 15.6.6",
        "Of HTTP only 1.0 and 1.1 is spoken. h11 takes any two digits.",
        ("version",),
        lambda request: request.version not in (b"1.0", b"1.1"),
    ),
    Reason(
        "connect",
        "RFC 9110 sections 9.3.6 and 15.5.6",
        "CONNECT asks for a tunnel, which an origin server need not open.",
        ("connect",),
        lambda request: request.method == b"CONNECT",
    ),
    Reason(
        "long-method",
        "RFC 9112 section 3",
        "A method longer than any that is implemented.",
        ("method",),
        lambda request: len(request.method) > 32,
    ),
    Reason(
        "long-target",
        "RFC 9112 section 3",
        "A target longer than the server wishes to parse.",
        ("long-target",),
        lambda request: len(request.target) > LIMITS["max_line"],
    ),
    Reason(
        "long-head",
        "RFC 6585 section 5",
        "All fields together are too large.",
        ("long-head",),
        lambda request: len(request.head) > LIMITS["max_head"],
    ),
    Reason("long-field", "RFC 6585 section 5", "A single field is too large.", ("long-field",), _has_long_field),
    Reason(
        "many-fields",
        "RFC 6585 section 5",
        "More fields than the server takes.",
        ("many-fields",),
        lambda request: request.head.count(b"\n") - 2 > LIMITS["max_count"],
    ),
    Reason(
        "target-form",
        "RFC 9112 section 3.2",
        "A target that has none of the four forms, or one that its method must not have.",
        ("target",),
        _is_other_form,
    ),
    Reason(
        "dot-segment",
        "RFC 3986 section 6.2.2.3",
        "A path that means another one once it is normalised, which some on the way do and some do not.",
        ("target",),
        _has_dot_segment,
    ),
    Reason(
        "fragment",
        "RFC 9110 section 7.1",
        "A fragment is never sent.",
        ("target",),
        lambda request: b"#" in request.target,
    ),
    Reason(
        "escape",
        "RFC 3986 section 2.1",
        "A percent sign is followed by two hexadecimal digits; an encoded NUL ends strings that it should not.",
        ("target",),
        _has_bad_escape,
    ),
    Reason(
        "backslash",
        "RFC 3986 section 3.3",
        "A backslash is no character of a path; some read it as a slash.",
        ("target",),
        lambda request: b"\\" in _path(request.target),
    ),
    Reason(
        "host",
        "RFC 9112 section 3.2",
        "A server must refuse a Host that is not a host and perhaps a port. h11 does not look at it.",
        ("host",),
        lambda request: any(not _is_host(value) for value in _values(request, b"host")),
    ),
    Reason(
        "another-host",
        "RFC 9112 section 3.2.2",
        "The authority of an absolute-form target replaces Host. Two different ones are meant to confuse.",
        ("host",),
        _is_for_another_host,
    ),
    Reason(
        "several-lengths",
        "RFC 9112 section 6.3",
        "The same length several times may be refused or taken as one. h11 takes it.",
        ("two-lengths", "length", "malformed"),
        _has_several_lengths,
    ),
    Reason(
        "long-length",
        "RFC 9110 section 8.6",
        "A length that not every recipient can hold: ours have at most 18 digits, h11's 20.",
        ("length", "malformed"),
        lambda request: any(len(value) > 18 for value in _values(request, b"content-length")),
    ),
    Reason(
        "length-and-coding",
        "RFC 9112 section 6.3",
        "A length beside a coding ought to be handled as an error. h11 goes by the coding.",
        ("two-lengths", "malformed"),
        lambda request: bool(_values(request, b"content-length")) and bool(_values(request, b"transfer-encoding")),
    ),
    Reason(
        "coding-in-1.0",
        "RFC 9112 section 6.1",
        "A coding in a message of HTTP/1.0 is to be treated as faulty framing.",
        ("coding",),
        lambda request: request.version == b"1.0" and bool(_values(request, b"transfer-encoding")),
    ),
    Reason(
        "expectation",
        "RFC 9110 section 10.1.1",
        "An expectation other than 100-continue may be answered with 417.",
        ("expectation",),
        lambda request: any(value.lower() != b"100-continue" for value in _values(request, b"expect")),
    ),
)
"""A head that we refuse and h11 takes."""


def _size(line: bytes) -> bytes:
    return line[: len(line) - len(line.lstrip(b"0123456789ABCDEFabcdef"))]


def _has_bad_extensions(line: bytes) -> bool:
    """Whether what follows the size is no list of extensions. Read by hand, where we use a pattern."""
    rest = line[len(_size(line)) :]
    while rest:
        rest = rest.lstrip(b" \t")
        if not rest.startswith(b";"):
            return True
        rest = rest[1:].lstrip(b" \t")
        name = _token(rest)
        if not name:
            return True
        rest = rest[len(name) :]
        if not rest.lstrip(b" \t").startswith(b"="):
            continue
        rest = rest.lstrip(b" \t")[1:].lstrip(b" \t")
        value = _quoted(rest) if rest.startswith(b'"') else _token(rest)
        if not value:
            return True
        rest = rest[len(value) :]
    return False


def _token(text: bytes) -> bytes:
    return text[: next((at for at, byte in enumerate(text) if byte not in _TOKEN), len(text))]


def _quoted(text: bytes) -> bytes:
    at = 1
    while at < len(text):
        if text[at] == ord('"'):
            return text[: at + 1]
        if text[at] == ord("\\"):
            at += 1
        if at == len(text) or (text[at] < 32 and text[at] != 9) or text[at] == 127:
            return b""
        at += 1
    return b""


CHUNK_LINES = (
    ContentReason(
        "chunk-line",
        "RFC 9112 section 7.1.1",
        "A chunk's line is longer than the server takes.",
        ("chunk",),
        lambda line: len(line) > LIMITS["max_chunk_line"],
    ),
    ContentReason(
        "chunk-size",
        "RFC 9112 section 7.1",
        "A size that not every recipient can hold: ours have at most 15 digits, h11's 20.",
        ("chunk",),
        lambda line: len(_size(line)) > 15,
    ),
    ContentReason(
        "chunk-extension",
        "RFC 9112 section 7.1.1",
        "Extensions are ;NAME or ;NAME=VALUE. h11 takes anything after a semicolon, and blanks at the end.",
        ("chunk",),
        _has_bad_extensions,
    ),
)
"""The line of a chunk that we refuse and h11 takes."""

BLANKS = ContentReason(
    "blank-before-extension",
    "RFC 9112 section 7.1.1",
    "Blanks may stand before a semicolon: a recipient must take them. h11 refuses them.",
    (),
    lambda line: line[len(_size(line)) :][:1] in (b" ", b"\t") and not _has_bad_extensions(line),
)
"""The line of a chunk that h11 refuses and we take."""

TRAILERS = (
    ContentReason(
        "trailer-bare-lf",
        "RFC 9112 section 2.2",
        "As in a head.",
        ("trailers", "line-end"),
        lambda trailers: bool(_BARE_LF.search(trailers)),
    ),
    ContentReason(
        "trailer-obs-fold",
        "RFC 9112 section 5.2",
        "As in a head.",
        ("trailers",),
        lambda trailers: bool(_FOLDED.search(trailers)),
    ),
    ContentReason(
        "trailer-control-character",
        "RFC 9110 section 5.5",
        "As in a head.",
        ("trailers",),
        lambda trailers: bool(_CONTROL.search(trailers)),
    ),
    ContentReason(
        "long-trailers",
        "RFC 6585 section 5",
        "All trailers together are too large.",
        ("trailers",),
        lambda trailers: len(trailers) > LIMITS["max_trailers"],
    ),
)
"""Trailers that we refuse and h11 takes."""

KEPT_ALIVE = "keep-alive-in-1.0"
"""RFC 9112 section 9.3: a client of HTTP/1.0 may ask for the connection to be kept. h11 closes it."""

EMPTY_LINES = "empty-line"
"""RFC 9112 section 2.2: a server should ignore at least one empty line before a request. h11 refuses them."""

DROPPED = "dropped-trailer"
"""RFC 9110 section 6.5.1: a trailer that frames, routes or authenticates means nothing there. h11 keeps it."""

DROPPED_UNREAD = "dropped-unread"
"""RFC 9110 section 6.5.1: what is dropped is not looked at. h11 looks at lengths and codings among trailers, and
refuses trailers that it would take without them."""

NOT_IN_TRAILERS = frozenset(
    b"transfer-encoding content-length host cache-control expect max-forwards range te authorization "
    b"proxy-authorization proxy-connection cookie content-encoding content-type content-range trailer age date vary "
    b"connection keep-alive upgrade".split()
)
"""Framing, routing, request modifiers, authentication, and how to process the content: by name."""


def may_keep_alive(mine: OurRequest, other: TheirRequest) -> bool:
    """Whether :data:`KEPT_ALIVE` is why we go on and h11 does not."""
    options = [option.strip().lower() for value in _values(other, b"connection") for option in value.split(b",")]
    return mine.keep_alive and other.version == b"1.0" and b"keep-alive" in options and b"close" not in options


def without_framing(trailers: bytes) -> bytes:
    """Trailers without those that frame."""
    lines = trailers.split(b"\r\n")
    framing = (b"content-length", b"transfer-encoding")
    return b"\r\n".join(line for line in lines if line.partition(b":")[0].lower() not in framing)


def chunk_line(content: bytes, at: int) -> tuple[str, bytes]:
    """What byte ``at`` of chunked content belongs to: ``line`` and that line, or ``trailers`` and them so far."""
    for begin, line, size in _chunks(content):
        if size == 0 and at >= begin + len(line) + 2:
            return "trailers", content[begin + len(line) + 2 : at + 1]
        if at < begin + len(line) + 2:
            return "line", line
        if at < begin + len(line) + 2 + size + 2:
            return "chunk", content[begin + len(line) + 2 :]
    return "line", b""


def _chunks(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    begin = 0
    while True:
        end = content.find(b"\r\n", begin)
        line = content[begin : end if end >= 0 else len(content)]
        size = int(_size(line) or b"0", 16)
        yield begin, line, size
        if end < 0 or not size:
            return
        begin = end + 2 + size + 2
