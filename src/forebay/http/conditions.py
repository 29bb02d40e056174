"""Conditional requests: does the client have this already, or has it changed under its hands? (RFC 9110 section 13)

Pure decisions: what the request says goes in, with the validators of what is there; a verdict comes out.
"""

from __future__ import annotations

import re
from calendar import timegm
from datetime import datetime
from time import gmtime

from forebay.wire.http1 import HeaderPairs

__all__ = ["NOT_MODIFIED", "PASSED", "PRECONDITION_FAILED", "precondition", "range_holds", "read_http_date", "select"]

PASSED = 0
NOT_MODIFIED = 304
PRECONDITION_FAILED = 412

_NAMES = frozenset((b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"range"))
_LENGTHS = frozenset(map(len, _NAMES))

_MONTHS = {name: number for number, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}
_CLOCK = rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES = tuple(
    re.compile(pattern % (_CLOCK,))
    for pattern in (
        rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>\d\d) (?P<month>[A-Z][a-z]{2}) (?P<year>\d{4}) %b GMT",
        rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>\d\d)-(?P<month>[A-Z][a-z]{2})-(?P<year>\d\d) %b GMT",
        rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?P<month>[A-Z][a-z]{2}) (?P<day>[ \d]\d) %b (?P<year>\d{4})",
    )
)

_TAG = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_ELEMENT = re.compile(rb'[ \t]*(?:(W/)?("[\x21\x23-\x7e\x80-\xff]*")[ \t]*)?(?:,|$)')


def select(headers: HeaderPairs) -> dict[bytes, bytes] | None:
    """The fields that make a request conditional or partial, names in lower case; None without any, as in most.

    A field that comes more than once is joined by commas (RFC 9110 section 5.3).
    """
    found: dict[bytes, bytes] | None = None
    for name, value in headers:
        if len(name) in _LENGTHS and (key := name.lower()) in _NAMES:
            value = value.strip(b" \t")
            if found is None:
                found = {key: value}
            else:
                found[key] = found[key] + b", " + value if key in found else value
    return found


def precondition(fields: dict[bytes, bytes], method: str, etag: bytes, modified: int | None, *, at: float) -> int:
    """Evaluate the preconditions in the order of RFC 9110 section 13.2.2.

    :param fields: see :func:`select`.
    :param etag: of what would be sent, with its quotes; empty without one.
    :param modified: when it was changed last, seconds since the epoch; None when that is not known.
    :param at: the time now, seconds since the epoch; what two-digit years are relative to.
    :return: :data:`PASSED`; or :data:`NOT_MODIFIED` or :data:`PRECONDITION_FAILED`, the status to answer with.
    """
    safe = method in ("GET", "HEAD")
    tags = fields.get(b"if-match")
    if tags is not None:
        if not _matches(tags, etag, weak=False):
            return PRECONDITION_FAILED
    elif modified is not None and (since := fields.get(b"if-unmodified-since")) is not None:
        date = read_http_date(since, at)
        if date is not None and modified > date:
            return PRECONDITION_FAILED
    tags = fields.get(b"if-none-match")
    if tags is not None:
        if _matches(tags, etag, weak=True):
            return NOT_MODIFIED if safe else PRECONDITION_FAILED
    elif safe and modified is not None and (since := fields.get(b"if-modified-since")) is not None:
        date = read_http_date(since, at)
        if date is not None and modified <= date:
            return NOT_MODIFIED
    return PASSED


def range_holds(value: bytes, etag: bytes, modified: int | None, *, at: float) -> bool:
    """Whether ``If-Range`` still names what is there, so that a part of it fits the parts the client has (RFC 9110
    section 13.1.5). A date only does when it is exact, and at least a second old: else there may have been a change
    within it (section 8.8.2.2).
    """
    tag = _TAG.fullmatch(value)
    if tag is not None:
        return not tag[1] and value == etag
    return modified is not None and at - modified >= 1 and read_http_date(value, at) == modified


def _matches(value: bytes, etag: bytes, *, weak: bool) -> bool:
    """Whether one of a list of entity tags is ``etag`` (RFC 9110 section 8.8.3.2); no list at all is no match."""
    if value == b"*":
        return True
    if not etag or (not weak and etag.startswith(b"W/")):
        return False
    wanted = etag.removeprefix(b"W/")
    found = False
    place = 0
    while place < len(value):
        element = _ELEMENT.match(value, place)
        if element is None:
            return False
        found = found or (element[2] == wanted and (weak or not element[1]))
        place = element.end()
    return found


def read_http_date(value: bytes, at: float) -> int | None:
    """A date in any of the three formats of RFC 9110 section 5.6.7, as seconds since the epoch; None: it is none.

    :param at: the time now, seconds since the epoch: a two-digit year is never more than 50 years ahead of it.
    """
    for pattern in _DATES:
        found = pattern.fullmatch(value)
        if found is not None:
            break
    else:
        return None
    year, day, second = int(found["year"]), int(found["day"]), int(found["second"])
    if len(found["year"]) == 2:
        this_year = gmtime(at).tm_year
        year += this_year - this_year % 100
        if year > this_year + 50:
            year -= 100
        elif year <= this_year - 50:
            year += 100
    try:
        month = _MONTHS[found["month"]]
        leap = 1 if second == 60 else 0
        exact = datetime(year, month, day, int(found["hour"]), int(found["minute"]), second - leap)  # noqa: DTZ001
    except (KeyError, ValueError):
        return None
    return timegm(exact.timetuple()) + leap
