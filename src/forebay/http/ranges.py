"""Parts of a representation: what ``Range`` asks for, and how several of them are sent (RFC 9110 section 14)."""

from __future__ import annotations

import re
from secrets import token_hex

__all__ = ["MOST", "Multipart", "content_range", "read_ranges"]

MOST = 16
"""Ranges in one request; whoever asks for more gets the whole (RFC 9110 section 17.15)."""

GAP = 80
"""Bytes between two ranges that are sent along rather than left out: about what the head of one more part takes."""

_RANGE = re.compile(rb"(\d*)-(\d*)")
_HUGE = 10**18  # more bytes than any file has; numbers past it are not worth reading


def read_ranges(value: bytes, size: int) -> list[tuple[int, int]] | None:
    """The parts of ``size`` bytes that ``value`` asks for, as (offset, count).

    Ranges that overlap, or nearly touch, are joined, and come in ascending order then; else the order is the client's.

    :return: None: ignore the field, and send the whole: it is in another unit, not well-formed, or asks for more than
        :data:`MOST` ranges. Empty: nothing of it is there (416).
    """
    unit, equals, specs = value.partition(b"=")
    if not equals or unit.strip().lower() != b"bytes":
        return None
    wanted = [spec for part in specs.split(b",", 2 * MOST) if (spec := part.strip(b" \t"))]
    if not 0 < len(wanted) <= MOST:
        return None
    found: list[tuple[int, int]] = []
    for spec in wanted:
        match = _RANGE.fullmatch(spec)
        if match is None or spec == b"-":
            return None
        if not match[1]:
            count = min(_number(match[2]), size)
            if count:
                found.append((size - count, count))
            elif not size and _number(match[2]):
                return None  # the last bytes of nothing: satisfiable, but no content-range can say so
            continue
        first = _number(match[1])
        last = _number(match[2]) if match[2] else _HUGE
        if last < first:
            return None
        if first < size:
            found.append((first, min(last + 1, size) - first))
    return _joined(found)


def _number(digits: bytes) -> int:
    digits = digits.lstrip(b"0")
    return _HUGE if len(digits) > 18 else int(digits or b"0")


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    if len(ranges) < 2:
        return ranges
    joined: list[tuple[int, int]] = []
    for offset, count in sorted(ranges):
        if joined:
            before, length = joined[-1]
            if offset <= before + length + GAP:
                joined[-1] = before, max(length, offset + count - before)
                continue
        joined.append((offset, count))
    return joined if len(joined) < len(ranges) else ranges


def content_range(offset: int, count: int, size: int) -> bytes:
    """The ``content-range`` line of a part."""
    return b"content-range: bytes %d-%d/%d\r\n" % (offset, offset + count - 1, size)


class Multipart:
    """The content of a 206 with several parts (RFC 9110 section 14.6).

    ``line`` is its content-type line, ``parts`` what goes before each part, and its (offset, count), ``end`` what goes
    after the last one, ``length`` the bytes of it all.
    """

    __slots__ = ("end", "length", "line", "parts")

    def __init__(self, ranges: list[tuple[int, int]], size: int, content_type: bytes) -> None:
        """
        :param content_type: the content-type line of every part.
        """
        boundary = token_hex(12).encode()  # what nobody can have put into the file
        self.line = b"content-type: multipart/byteranges; boundary=%b\r\n" % boundary
        self.parts: list[tuple[bytes, int, int]] = []
        self.end = b"\r\n--%b--\r\n" % boundary
        self.length = len(self.end)
        lead = b""
        for offset, count in ranges:
            head = b"%b--%b\r\n%b%b\r\n" % (lead, boundary, content_type, content_range(offset, count, size))
            self.parts.append((head, offset, count))
            self.length += len(head) + count
            lead = b"\r\n"
