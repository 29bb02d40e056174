"""Why our reader of responses and h11 may differ. Each reason is recognised from the bytes, not from what we say."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from fuzz import request_reasons
from fuzz.request_reasons import ContentReason
from fuzz.response_readings import LIMITS

_BARE_LF = re.compile(rb"(?<!\r)\n")
_FOLDED = re.compile(rb"\n[ \t]")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")
_STATUS = re.compile(rb"HTTP/([0-9]\.[0-9]) ([0-9]{3})")


@dataclass(frozen=True, slots=True)
class HeadReason:
    """Why a response whose head h11 takes may be refused by us.

    :param section: of the RFC that lets us, or makes us.
    :param says: ``ProtocolError.reason`` of ours, one of these.
    :param test: recognises it, given the bytes of the head that is refused, and the number of interim ones before it.
    """

    name: str
    section: str
    why: str
    says: tuple[str, ...]
    test: Callable[[bytes, int], bool]


def _values(head: bytes, name: bytes) -> list[bytes]:
    lines = (line.partition(b":") for line in head.split(b"\n")[1:])
    return [value.strip() for each, _, value in lines if each.strip().lower() == name]


def _status(head: bytes) -> tuple[bytes, int]:
    match = _STATUS.match(head)
    return (match[1], int(match[2])) if match else (b"", 0)


def _has_content_where_none_is(head: bytes) -> bool:
    status = _status(head)[1]
    lengths = _values(head, b"content-length")
    coded = bool(_values(head, b"transfer-encoding"))
    return (100 <= status < 200 or status == 204) and (coded or any(value.strip(b"0") for value in lengths))


HEADS = (
    HeadReason(
        "bare-lf",
        "RFC 9112 section 2.2",
        "A line may be ended by LF alone, for those who care to. Not all on the way do, and then heads differ.",
        ("line-end", "malformed", "status-line", "version", "many-fields", "long-head"),
        lambda head, _: bool(_BARE_LF.search(head)),
    ),
    HeadReason(
        "obs-fold",
        "RFC 9112 section 5.2",
        "A folded line is to be refused or unfolded, by who. h11 unfolds it.",
        ("malformed",),
        lambda head, _: bool(_FOLDED.search(head)),
    ),
    HeadReason(
        "control-character",
        "RFC 9110 section 5.5",
        "Control characters are no part of a field's value, nor of a reason. h11 takes all but NUL and blanks.",
        ("malformed", "status-line", "line-end", "length", "coding"),
        lambda head, _: bool(_CONTROL.search(head)),
    ),
    HeadReason(
        "version",
        "RFC 9110 section 2.5",
        "Of HTTP only 1.0 and 1.1 is spoken. h11 takes any two digits.",
        ("version",),
        lambda head, _: _status(head)[0] not in (b"1.0", b"1.1"),
    ),
    HeadReason(
        "status",
        "RFC 9110 section 15",
        "A status of more than 599 is invalid. h11 takes up to 999.",
        ("status-line",),
        lambda head, _: _status(head)[1] > 599,
    ),
    HeadReason(
        "long-head",
        "RFC 9110 section 5.4",
        "All fields together are larger than the client wishes to take.",
        ("long-head",),
        lambda head, _: len(head) > LIMITS["max_head"],
    ),
    HeadReason(
        "many-fields",
        "RFC 9110 section 5.4",
        "More fields than the client wishes to take.",
        ("many-fields",),
        lambda head, _: head.count(b"\n") - 2 > LIMITS["max_count"],
    ),
    HeadReason(
        "many-interim",
        "RFC 9110 section 15.2",
        "A client has to take more than one interim response, and not any number.",
        ("interim",),
        lambda head, before: before >= LIMITS["max_interim"] and 100 <= _status(head)[1] < 200,
    ),
    HeadReason(
        "several-lengths",
        "RFC 9112 section 6.3",
        "The same length several times may be refused or taken as one. h11 takes it.",
        ("two-lengths", "length"),
        lambda head, _: b"," in b",".join(_values(head, b"content-length")),
    ),
    HeadReason(
        "long-length",
        "RFC 9110 section 8.6",
        "A length that not every recipient can hold: ours have at most 18 digits, h11's 20.",
        ("length",),
        lambda head, _: any(len(value) > 18 for value in _values(head, b"content-length")),
    ),
    HeadReason(
        "length-and-coding",
        "RFC 9112 section 6.3",
        "A length beside a coding ought to be handled as an error. h11 goes by the coding.",
        ("two-lengths",),
        lambda head, _: bool(_values(head, b"content-length")) and bool(_values(head, b"transfer-encoding")),
    ),
    HeadReason(
        "coding-in-1.0",
        "RFC 9112 section 6.1",
        "A coding in a message of HTTP/1.0 is to be treated as faulty framing.",
        ("coding",),
        lambda head, _: _status(head)[0] == b"1.0" and bool(_values(head, b"transfer-encoding")),
    ),
    HeadReason(
        "content-of-none",
        "RFC 9110 section 8.6",
        "Neither an interim response nor a 204 has content, or says so. h11 takes it as if nothing had been said.",
        ("content",),
        lambda head, _: _has_content_where_none_is(head),
    ),
)
"""A head that we refuse and h11 takes."""

_by_name = {reason.name: reason for reason in (*request_reasons.CHUNK_LINES, *request_reasons.TRAILERS)}

CHUNK_LINES = (
    replace(_by_name["chunk-line"], test=lambda line: len(line) > 1024),
    _by_name["chunk-size"],
    _by_name["chunk-extension"],
)
"""The line of a chunk that we refuse and h11 takes."""

TRAILERS = (
    # To h11 a bare LF may end all trailers; to us they go on, and may be too long before a line is complete
    replace(_by_name["trailer-bare-lf"], says=("line-end", "malformed", "trailers")),
    replace(_by_name["trailer-obs-fold"], says=("malformed",)),
    replace(
        _by_name["trailer-control-character"],
        says=("malformed", "line-end"),
        test=lambda trailers: bool(_CONTROL.search(trailers)),
    ),
    replace(_by_name["long-trailers"], test=lambda trailers: len(trailers) > LIMITS["max_head"]),
    ContentReason(
        "many-trailers",
        "RFC 9110 section 5.4",
        "More trailers than the client wishes to take.",
        ("trailers",),
        lambda trailers: trailers.count(b"\n") > LIMITS["max_count"],
    ),
)
"""Trailers that we refuse and h11 takes."""

BLANKS = request_reasons.BLANKS
"""The line of a chunk that h11 refuses and we take."""

KEPT_ALIVE = "keep-alive-in-1.0"
"""RFC 9112 section 9.3: a server of HTTP/1.0 may offer to keep the connection. h11 closes it."""

DROPPED = "dropped-trailer"
"""RFC 9110 section 6.5.1: a trailer that frames, routes or authenticates means nothing there. h11 keeps it."""

SOONER = "refused-sooner"
"""RFC 9112 section 2.2: what cannot become a response is refused at once, where h11 waits for the rest, and refuses it
then."""

DROPPED_UNREAD = request_reasons.DROPPED_UNREAD

NOT_IN_TRAILERS = request_reasons.NOT_IN_TRAILERS | frozenset(
    b"location proxy-authenticate retry-after set-cookie www-authenticate".split()
)
"""Also what says where to go on, and what is to be kept or answered: by name."""

_END = re.compile(rb"\n\r?\n")


def heads(stream: bytes) -> list[tuple[int, int]]:
    """Where the heads of a stream begin and end, as h11 finds them, up to that of the answer."""
    found, at = [], 0
    while match := _END.search(stream, at):
        found.append((at, match.end()))
        at = match.end()
        status = _status(stream[found[-1][0] :])[1]
        if not 100 <= status < 200 or status == 101:
            break
    else:
        found.append((at, len(stream)))
    return found
