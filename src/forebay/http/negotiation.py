"""What a client would rather have: ``Accept`` and ``Accept-Encoding`` (RFC 9110 section 12.5).

An element that is not well-formed is left out, as if it had not been sent. At most 64 elements and 4096 bytes of a
header are looked at, so a request costs little whatever it sends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["IDENTITY", "best_coding", "best_of", "wants_msgpack"]

IDENTITY = "identity"
"""The coding that is none."""

_LONGEST = 4096  # bytes of a header
_ELEMENTS = 64
_REMEMBERED = 256  # bytes of a header whose meaning is remembered

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUALITY = re.compile(rb"0(?:\.([0-9]{0,3}))?|1(?:\.0{0,3})?")
_PARAMETER = rb"[ \t]*;[ \t]*(?:(" + _TOKEN + rb')=("(?:[^"\\]|\\.)*+"|' + _TOKEN + rb"))?"
_NEXT_PARAMETER = re.compile(_PARAMETER, re.DOTALL)
_RANGE = re.compile(rb"(" + _TOKEN + rb")/(" + _TOKEN + rb")")
_CODING = re.compile(_TOKEN)
_ELEMENT = re.compile(rb'(?:[^",]|"(?:[^"\\]|\\.)*+(?:"|\Z))*+', re.DOTALL)
_ALIASES = {"x-gzip": "gzip", "x-compress": "compress"}  # RFC 9110 section 8.4.1

_BODIES = ("application/json", "application/msgpack", "application/vnd.msgpack", "application/x-msgpack")

_Parameters = frozenset[tuple[bytes, bytes]]
_MediaRange = tuple[bytes, bytes, _Parameters, int]  # type, subtype, parameters, weight in thousandths


def best_of(accept: bytes | None, offers: Sequence[str]) -> str | None:
    """Which of ``offers`` the client wants most (RFC 9110 section 12.5.1).

    Of the ranges that match an offer, the most specific one gives its weight: ``type/subtype;parameter=value`` before
    ``type/subtype``, ``type/*`` and ``*/*``. The heaviest offer wins; of equals the first one.

    :param accept: the value of ``Accept``, those of several joined by commas; None without one.
    :param offers: media types, the one to give in doubt first.
    :returns: None when the client accepts none of them. Without ``Accept``, or when nothing in it is well-formed, the
        first offer.
    """
    if not accept or accept == b"*/*":
        return offers[0] if offers else None
    if len(accept) <= _REMEMBERED:
        return _remembered(accept, tuple(offers))
    return _best(accept, offers)


def wants_msgpack(accept: bytes | None) -> bool:
    """Does the client prefer MessagePack, by any of its names, to JSON? Not when it wants both alike, or neither."""
    if accept is None or b"msgpack" not in accept.lower():  # the usual case; no other range prefers it
        return False
    return best_of(accept, _BODIES) in _BODIES[1:]


def best_coding(accept_encoding: bytes | None, offers: Sequence[str]) -> str | None:
    """Which content coding to use (RFC 9110 section 12.5.3).

    ``identity`` is acceptable unless it is excluded by ``identity;q=0``, or by ``*;q=0`` without an element of its own.
    The heaviest coding wins, of equals the first one offered; ``identity`` wins only where it is listed with a greater
    weight than any offer, or nothing else is acceptable.

    :param accept_encoding: the value of the header, those of several joined by commas; None without one: anything is
        acceptable then, and ``identity`` is what surely can be read.
    :param offers: codings, the best one first, in lower case and without ``identity``.
    :returns: None when the client accepts neither any of them nor ``identity``.
    """
    if not accept_encoding:
        return IDENTITY
    weights: dict[str, int] = {}
    for element in _elements(accept_encoding):
        parts = _parts(element, _CODING)
        if parts is not None and not parts[1]:
            coding = parts[0][0].decode().lower()
            weights.setdefault(_ALIASES.get(coding, coding), parts[2])
    anything = weights.get("*", 0)
    best, found = 0, None
    for offer in offers:
        weight = weights.get(offer, anything)
        if weight > best:
            best, found = weight, offer
    identity = weights.get(IDENTITY)
    if found is not None and (identity is None or identity <= best):
        return found
    return None if (identity == 0 or (identity is None and weights.get("*") == 0)) else IDENTITY


def _best(accept: bytes, offers: Sequence[str]) -> str | None:
    ranges = _ranges(accept)
    if not ranges:
        return offers[0] if offers else None
    best, found = 0, None
    for offer in offers:
        weight = _weight(offer, ranges)
        if weight > best:
            best, found = weight, offer
    return found


_remembered = lru_cache(maxsize=256)(_best)


def _ranges(accept: bytes) -> list[_MediaRange]:
    found = []
    for element in _elements(accept):
        parts = _parts(element, _RANGE)
        if parts is not None:
            kind, subtype = parts[0]
            if kind != b"*" or subtype == b"*":  # */subtype is no range
                found.append((kind, subtype, parts[1], parts[2]))
    return found


def _weight(offer: str, ranges: Sequence[_MediaRange]) -> int:
    """Of the most specific range that matches; 0 without one. Of two alike, the first."""
    parts = _parts(offer.encode("latin-1"), _RANGE)
    if parts is None:
        raise ValueError(f"offer {offer!r}: must be a media type, such as application/json")
    (kind, subtype), parameters, _ = parts
    weight, closest = 0, -1
    for range_kind, range_subtype, wanted, range_weight in ranges:
        if range_kind not in (kind, b"*") or range_subtype not in (subtype, b"*") or not wanted <= parameters:
            continue
        specific = (range_kind != b"*") + (range_subtype != b"*") + len(wanted)
        if specific > closest:
            weight, closest = range_weight, specific
    return weight


def _elements(value: bytes) -> list[bytes]:
    """The elements of a list, cut at commas that are not quoted; one that was cut off by the bound is left out."""
    whole = len(value) <= _LONGEST
    value = value[:_LONGEST]
    if b'"' not in value:
        found = value.split(b",", _ELEMENTS)
    else:
        found, at = [], 0
        while at <= len(value) and len(found) <= _ELEMENTS:
            match = _ELEMENT.match(value, at)
            end = match.end() if match is not None else len(value)
            found.append(value[at:end])
            at = end + 1
    if not whole or len(found) > _ELEMENTS:
        found.pop()
    return found


def _parts(element: bytes, head: re.Pattern[bytes]) -> tuple[tuple[bytes, ...], _Parameters, int] | None:
    """An element's head, its parameters and its weight in thousandths; None when it is malformed.

    What follows the weight was once an extension of ``Accept``; it says nothing.
    """
    element = element.strip(b" \t")
    match = head.match(element)
    if match is None:
        return None
    first = tuple(part.lower() for part in match.groups() or (match[0],))
    parameters: dict[bytes, bytes] = {}
    weight = 1000
    at = match.end()
    weighed = False
    while at < len(element):
        match = _NEXT_PARAMETER.match(element, at)
        if match is None:
            return None
        at = match.end()
        name, value = match.groups()
        if name is None or weighed:
            continue
        if name.lower() == b"q":
            quality = _QUALITY.fullmatch(value)
            if quality is None:
                return None
            weight = 1000 if value[:1] == b"1" else int((quality[1] or b"").ljust(3, b"0"))
            weighed = True
        else:
            parameters.setdefault(name.lower(), _unquoted(value))
    return first, frozenset(parameters.items()), weight


def _unquoted(value: bytes) -> bytes:
    """A parameter's value; compared without regard to case, as the values that are in use are."""
    return (re.sub(rb"\\(.)", rb"\1", value[1:-1]) if value[:1] == b'"' else value).lower()
