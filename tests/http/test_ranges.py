"""What ``Range`` fields mean (RFC 9110 section 14)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.http.ranges import GAP, MOST, Multipart, content_range, read_ranges


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # Section 14.1.2, byte ranges of 10000 bytes
        (b"bytes=0-499", [(0, 500)]),
        (b"bytes=500-999", [(500, 500)]),
        (b"bytes=-500", [(9500, 500)]),
        (b"bytes=9500-", [(9500, 500)]),
        (b"bytes=0-0,-1", [(0, 1), (9999, 1)]),
        (b"bytes=-1,0-0", [(9999, 1), (0, 1)]),
        (b"bytes= 0-0, 4500-5499 ,, 9000-\t", [(0, 1), (4500, 1000), (9000, 1000)]),
        (b"BYTES=0-0", [(0, 1)]),
        (b"bytes=0-99999", [(0, 10000)]),
        (b"bytes=-99999", [(0, 10000)]),
        (b"bytes=0-" + b"9" * 5000, [(0, 10000)]),
        (b"bytes=" + b"0" * 5000 + b"7-8", [(7, 2)]),
        # overlapping and touching ones are joined (section 15.3.7.2)
        (b"bytes=500-600,601-999", [(500, 500)]),
        (b"bytes=500-700,601-999", [(500, 500)]),
        (b"bytes=601-999,500-700", [(500, 500)]),
        (b"bytes=0-9999,5-6", [(0, 10000)]),
        # unsatisfiable: nothing of it is there
        (b"bytes=10000-", []),
        (b"bytes=10000-20000,30000-", []),
        (b"bytes=-0", []),
        (b"bytes=" + b"9" * 5000 + b"-", []),
        # one satisfiable range is enough
        (b"bytes=20000-,5-5", [(5, 1)]),
        # not for us, or not well-formed: ignored (section 14.2)
        (b"lines=0-1", None),
        (b"bytes", None),
        (b"bytes=", None),
        (b"bytes=,", None),
        (b"bytes=-", None),
        (b"bytes=5-4", None),
        (b"bytes=0-1,5-4", None),
        (b"bytes=a-b", None),
        (b"bytes=0-1-2", None),
        (b"bytes=--1", None),
        (b"bytes=+1-2", None),
        (b"bytes=0x1-2", None),
        (b"bytes=1 - 2", None),
        (b"bytes=\xd9\xa1-2", None),
        (b"bytes=0-1, bytes=2-3", None),
    ],
)
def test_ranges(value: bytes, expected: list[tuple[int, int]] | None) -> None:
    """RFC 9110 sections 14.1.2 and 14.2."""
    assert read_ranges(value, 10_000) == expected


def test_of_nothing() -> None:
    """RFC 9110 section 14.1.2: the last bytes of an empty file are the whole of it; the first one is not there."""
    assert read_ranges(b"bytes=-5", 0) is None
    assert read_ranges(b"bytes=0-", 0) == []
    assert read_ranges(b"bytes=-0", 0) == []


def test_too_many() -> None:
    """RFC 9110 section 17.15: whoever asks for many gets the whole."""
    spread = [b"%d-%d" % (place, place) for place in range(0, 1000 * MOST, 1000)]
    ranges = read_ranges(b"bytes=" + b",".join(spread), 10**6)
    assert ranges is not None
    assert len(ranges) == MOST
    assert read_ranges(b"bytes=" + b",".join([*spread, b"5-5"]), 10**6) is None
    assert read_ranges(b"bytes=" + b"," * 100_000 + b"1-1", 10**6) is None


@given(
    st.integers(0, 3000),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 4000) | st.none()), min_size=1, max_size=MOST),
)
def test_what_was_asked_for_is_there_once(size: int, wanted: list[tuple[int, int | None]]) -> None:
    """All bytes asked for are in one part each; what else is sent lies in gaps that are not worth a part."""
    specs = [(first, None if length is None else first + length) for first, length in wanted]
    value = b"bytes=" + b",".join(b"%d-%b" % (a, b"" if b is None else b"%d" % b) for a, b in specs)
    ranges = read_ranges(value, size)
    assert ranges is not None
    wanted_bytes = {place for a, b in specs for place in range(a, size if b is None else min(b + 1, size))}
    sent = [place for offset, count in ranges for place in range(offset, offset + count)]
    assert all(count > 0 and offset >= 0 and offset + count <= size for offset, count in ranges)
    assert len(sent) == len(set(sent))
    assert not wanted_bytes - set(sent)
    unasked = set(sent) - wanted_bytes
    assert len(unasked) <= GAP * len(specs)


@given(st.binary(max_size=50))
def test_any_bytes(value: bytes) -> None:
    """Whatever comes is either ignored or within the file."""
    for candidate in (value, b"bytes=" + value):
        assert all(0 <= a < 100 and 0 < n <= 100 - a for a, n in read_ranges(candidate, 100) or [])


def test_a_multipart_is_as_long_as_it_says() -> None:
    """RFC 9110 section 14.6: every part has its own type and range; the boundary is new each time."""
    ranges = [(0, 5), (500, 1), (990, 10)]
    parts = Multipart(ranges, 1000, b"content-type: text/plain\r\n")
    boundary = parts.line.rpartition(b"=")[2].strip()
    assert parts.line == b"content-type: multipart/byteranges; boundary=%b\r\n" % boundary
    content = b"".join(head + b"x" * count for head, _, count in parts.parts) + parts.end
    assert len(content) == parts.length
    pieces = content.split(b"--" + boundary)
    assert pieces[0] == b""
    assert pieces[-1] == b"--\r\n"
    for piece, (offset, count) in zip(pieces[1:-1], ranges, strict=True):
        head = b"\r\ncontent-type: text/plain\r\n" + content_range(offset, count, 1000) + b"\r\n"
        assert piece == head + b"x" * count + b"\r\n"
    assert Multipart(ranges, 1000, b"").line != parts.line
