"""When answers may be kept, and given again (RFC 9111). Pure: the time is passed in, as seconds since the epoch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

from forebay.http.conditions import read_http_date
from forebay.wire.heads import HeaderPairs

__all__ = [
    "HEURISTIC",
    "SAFE",
    "Directives",
    "Fields",
    "Use",
    "directives",
    "initial_age",
    "kept_headers",
    "lifetime",
    "may_replace_failure",
    "may_store",
    "merged",
    "same_representation",
    "use",
    "validators",
    "vary_names",
    "vary_value",
]

SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
"""Methods that change nothing (RFC 9110 section 9.2.1)."""

HEURISTIC = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
"""Statuses whose answers may be kept without being told so (RFC 9110 section 15.1); 206 is not kept here at all."""

_UNDERSTOOD = HEURISTIC | {302, 303, 307}  # for ``must-understand``
_MOST = 2**31  # seconds; RFC 9111 section 1.2.2
_LONGEST_HEURISTIC = 86400.0
_REMEMBERED = 512  # characters of a field whose meaning is remembered
_LONGEST = 4096  # characters of a field that is read at all
_MOST_NAMES = 64  # in ``vary``: each is looked up for each request
_DIRECTIVE = re.compile(
    r"[ \t,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)"
    r'(?:=(?:"((?:[^"\\]|\\.)*+)"|([^,"]*)))?[^,]*(?:,|$)'
)
_HOP_BY_HOP = frozenset(  # RFC 9110 section 7.6.1, and RFC 9111 section 3.1
    (
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization",
        b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    )
)  # fmt: skip
_OF_CONTENT = frozenset((b"content-encoding", b"content-length", b"content-range"))  # RFC 9111 section 3.2

Directives = dict[str, str | None]


class Fields(Protocol):
    """Headers, of requests and of answers."""

    def get_all(self, name: str) -> list[str]:
        """Every value of ``name``, in order."""


class Use(StrEnum):
    """What to do with a kept answer."""

    FRESH = "fresh"
    """Give it."""
    STALE = "stale"
    """Give it, though it is not fresh any more."""
    REFRESH = "refresh"
    """Give it, and get a new one behind the scenes (RFC 5861 section 3)."""
    VALIDATE = "validate"
    """Ask the server whether it still holds."""


def directives(headers: Fields) -> Directives:
    """Those of ``cache-control``, by name in lower case (RFC 9111 section 5.2). Of one that is there twice, the first
    counts; where both are numbers, the smaller one (section 4.2.1).

    Without ``cache-control``, ``pragma: no-cache`` stands for its ``no-cache`` (RFC 9111 section 5.4). One of more than
    4,096 characters, which would keep the program busy, stands for ``no-store``.
    """
    values = headers.get_all("cache-control")
    if not values:
        pragma = headers.get_all("pragma")
        return {"no-cache": None} if pragma and "no-cache" in _parsed(",".join(pragma)) else {}
    text = ",".join(values)
    if len(text) > _REMEMBERED:
        return _parsed(text) if len(text) <= _LONGEST else {"no-store": None}
    return _remembered(text)


def _parsed(text: str) -> Directives:
    found: Directives = {}
    place = 0
    while place < len(text):
        match = _DIRECTIVE.match(text, place)
        if match is None:  # not a directive: on to what is behind the next comma
            comma = text.find(",", place)
            place = comma + 1 if comma >= 0 else len(text)
            continue
        place = match.end()
        name, quoted, plain = match.groups()
        value = quoted if quoted is not None else plain.strip(" \t") if plain is not None else None
        name = name.lower()
        if name not in found or _is_less(value, found[name]):
            found[name] = value
    return found


def _is_less(value: str | None, other: str | None) -> bool:
    one, two = seconds(value), seconds(other)
    return one is not None and two is not None and one < two


_remembered = lru_cache(maxsize=256)(_parsed)


def seconds(value: str | None) -> int | None:
    """A number of seconds, 2^31 at most (RFC 9111 section 1.2.2); None: it is none."""
    if value is None or not value.isascii() or not value.isdecimal():
        return None
    return min(int(value), _MOST) if len(value) <= 10 else _MOST


def _limit(said: Directives, name: str) -> int | None:
    """Seconds that a directive sets; None: it is not there; 0 where it is malformed (section 4.2.1)."""
    return (seconds(said[name]) or 0) if name in said else None


# -- what is kept


def may_store(method: str, request: Fields, status: int, answer: Fields, *, shared: bool) -> bool:
    """Whether an answer may be kept (RFC 9111 section 3): to GET, whole, and not forbidden by either side."""
    if method != "GET" or status < 200 or status in (206, 304):
        return False
    said = directives(answer)
    if "must-understand" in said:
        if status not in _UNDERSTOOD:
            return False
    elif "no-store" in said:
        return False
    if "no-store" in directives(request) or vary_names(answer) is None:
        return False
    if shared:
        if "private" in said or answer.get_all("set-cookie"):
            return False
        if request.get_all("authorization") and not said.keys() & {"must-revalidate", "public", "s-maxage"}:
            return False  # section 3.5
    if said.keys() & ({"public", "max-age"} | ({"s-maxage"} if shared else {"private"})):
        return True
    return bool(answer.get_all("expires")) or status in HEURISTIC


def kept_headers(pairs: HeaderPairs) -> list[tuple[bytes, bytes]]:
    """Headers without those that belong to one connection (RFC 9111 section 3.1)."""
    listed = b",".join(value for name, value in pairs if name.lower() == b"connection")
    out = _HOP_BY_HOP.union(name.strip(b" \t").lower() for name in listed.split(b",")) if listed else _HOP_BY_HOP
    return [(name, value) for name, value in pairs if name.lower() not in out]


def merged(kept: HeaderPairs, new: HeaderPairs) -> list[tuple[bytes, bytes]]:
    """What is kept, brought up to date by the headers of a 304, or of an answer to HEAD (RFC 9111 section 3.2). What
    describes the content that is kept stays as it is."""
    fresh = [(name, value) for name, value in kept_headers(new) if name.lower() not in _OF_CONTENT]
    names = {name.lower() for name, _ in fresh} | {b"age"}
    return [pair for pair in kept if pair[0].lower() not in names] + fresh


# -- how old it is


def lifetime(status: int, answer: Fields, received_at: float, *, shared: bool = False, heuristic: float = 0.1) -> float:
    """Seconds that an answer is fresh, from when it was made (RFC 9111 section 4.2.1); 0: it never was.

    :param heuristic: the part of the time since ``last-modified`` that is taken where nothing is said (section 4.2.2),
        a day at most.
    """
    said = directives(answer)
    for name in ("s-maxage", "max-age") if shared else ("max-age",):
        limit = _limit(said, name)
        if limit is not None:
            return limit
    made_at = _date(answer, "date", received_at)
    if made_at is None:
        made_at = received_at
    if expires := answer.get_all("expires"):
        ends = [read_http_date(value.encode("latin-1", "replace"), received_at) for value in expires]
        return 0.0 if ends[0] is None or len(set(ends)) > 1 else max(0.0, ends[0] - made_at)  # section 5.3
    if status in HEURISTIC or "public" in said:
        changed_at = _date(answer, "last-modified", received_at)
        if changed_at is not None:
            return min(max(0.0, made_at - changed_at) * heuristic, _LONGEST_HEURISTIC)
    return 0.0


def initial_age(answer: Fields, requested_at: float, received_at: float) -> float:
    """Seconds since the server made an answer, at the moment it was received (RFC 9111 section 4.2.3)."""
    values = answer.get_all("age")
    age = seconds(values[0].partition(",")[0].strip(" \t")) if values else None  # the first; section 5.1
    made_at = _date(answer, "date", received_at)
    apparent = max(0.0, received_at - made_at) if made_at is not None else 0.0
    return max(apparent, (age or 0) + max(0.0, received_at - requested_at))


def _date(answer: Fields, name: str, at: float) -> float | None:
    values = answer.get_all(name)
    return read_http_date(values[0].encode("latin-1", "replace"), at) if values else None


# -- whether it is given


def use(request: Fields, answer: Fields, lifetime: float, age: float, *, shared: bool = False) -> Use:
    """What to do with a kept answer (RFC 9111 section 4), by what the request says (section 5.2.1), and the answer
    (section 5.2.2, RFC 5861, RFC 8246).

    :param lifetime: seconds that it is fresh.
    :param age: seconds since it was made.
    """
    asked, said = directives(request), directives(answer)
    if "no-cache" in asked or "no-cache" in said:
        return Use.VALIDATE
    fresh = lifetime > age
    allowed = _limit(asked, "max-age")
    if allowed is not None and age > allowed and not (fresh and "immutable" in said):
        return Use.VALIDATE
    least = _limit(asked, "min-fresh")
    if least is not None and lifetime - age < least:
        return Use.VALIDATE
    if fresh:
        return Use.FRESH
    if _never_stale(said, shared):
        return Use.VALIDATE
    stale = age - lifetime
    if "max-stale" in asked and (asked["max-stale"] is None or stale <= (seconds(asked["max-stale"]) or 0)):
        return Use.STALE
    while_revalidate = _limit(said, "stale-while-revalidate")
    if while_revalidate is not None and stale <= while_revalidate:
        return Use.REFRESH
    return Use.VALIDATE


def may_replace_failure(
    request: Fields, answer: Fields, lifetime: float, age: float, *, shared: bool = False, default: float = 0.0
) -> bool:
    """Whether a kept answer may be given where the server failed (RFC 5861 section 4): it or the request says
    ``stale-if-error``, or else ``default``, in seconds after it was fresh."""
    asked, said = directives(request), directives(answer)
    if "no-cache" in asked or "no-cache" in said or _never_stale(said, shared):
        return False
    limits = [limit for limit in (_limit(asked, "stale-if-error"), _limit(said, "stale-if-error")) if limit is not None]
    return age - lifetime <= max(limits, default=default) and (bool(limits) or default > 0)


def _never_stale(said: Directives, shared: bool) -> bool:
    return "must-revalidate" in said or (shared and bool(said.keys() & {"proxy-revalidate", "s-maxage"}))


# -- which one it is


def vary_names(answer: Fields) -> tuple[str, ...] | None:
    """The request's headers that an answer depends on, in lower case and sorted; None: on more than those, or on more
    than 64, so it fits no other request (RFC 9111 section 4.1)."""
    names = {name.strip(" \t").lower() for name in ",".join(answer.get_all("vary")).split(",")} - {""}
    return None if "*" in names or len(names) > _MOST_NAMES else tuple(sorted(names))


def vary_value(values: Sequence[str]) -> str | None:
    """A header's values, so that those that mean the same are the same, as far as that is known of any header: lines
    joined, and blanks around commas left out. None: it is not there."""
    return ",".join(part.strip(" \t") for value in values for part in value.split(",")) if values else None


def validators(answer: Fields) -> list[tuple[str, str]]:
    """The conditions of a request that asks whether an answer still holds (RFC 9111 section 4.3.1)."""
    found = [("if-none-match", tag) for tag in answer.get_all("etag")[:1]]
    return found + [("if-modified-since", date) for date in answer.get_all("last-modified")[:1]]


def same_representation(kept: Fields, new: Fields) -> bool:
    """Whether a 304, or an answer to HEAD, is about what is kept (RFC 9111 sections 4.3.4 and 4.3.5): no validator that
    it has is another one."""
    tag, old_tag = new.get_all("etag")[:1], kept.get_all("etag")[:1]
    if tag:
        return [one.removeprefix("W/") for one in tag] == [one.removeprefix("W/") for one in old_tag]
    date = new.get_all("last-modified")[:1]
    return not date or date == kept.get_all("last-modified")[:1]
