"""The value of a ``Retry-After`` header: for how long not to ask again."""

from __future__ import annotations

import re
from datetime import UTC, datetime

__all__ = ["parse_retry_after"]

_MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}
_DAY, _MONTH = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)", f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES = (
    # Sun, 06 Nov 1994 08:49:37 GMT
    re.compile(rf"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    # Sunday, 06-Nov-94 08:49:37 GMT
    re.compile(
        r"(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday), "
        rf"(?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"
    ),
    # Sun Nov  6 08:49:37 1994
    re.compile(rf"{_DAY} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
)


def parse_retry_after(value: str, now: float) -> float | None:
    """Seconds to wait, as ``value`` asks for (RFC 9110 section 10.2.3: seconds, or a date in any of HTTP's formats).

    :param now: the time of day, in seconds since 1970: a date is compared with it, so that a wrong clock on either side
        makes the wait longer or shorter by as much. What uses it should have a maximum.
    :return: at least 0.0, which is also what a date in the past means; ``inf`` for more digits than a float has room
        for; None when the value is neither seconds nor a date, which is as if the header were not there.
    """
    value = value.strip(" \t")
    if value.isascii() and value.isdigit():
        return float(value)
    at = _date(value, now)
    return None if at is None else max(at - now, 0.0)


def _date(value: str, now: float) -> float | None:
    """Seconds since 1970 of an HTTP-date (RFC 9110 section 5.6.7)."""
    match = next(filter(None, (pattern.fullmatch(value) for pattern in _DATES)), None)
    if match is None:
        return None
    year = int(match["year"])
    try:
        if len(match["year"]) == 2:
            year = _whole_year(year, datetime.fromtimestamp(now, UTC).year)
        second = min(int(match["second"]), 59)  # 60 is a leap second, which datetime does not know
        parts = (year, _MONTHS[match["month"]], int(match["day"]), int(match["hour"]), int(match["minute"]), second)
        return datetime(*parts, tzinfo=UTC).timestamp()
    except ValueError:  # the 30th of February, 25 o'clock
        return None


def _whole_year(short: int, this: int) -> int:
    """The year that ``short`` is the end of: one that seems more than 50 years ahead is in the past."""
    year = this - this % 100 + short
    return year - 100 if year > this + 50 else year
