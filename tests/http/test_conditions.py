"""Preconditions and dates, section by section of RFC 9110."""

from __future__ import annotations

from calendar import timegm
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.http.conditions import (
    NOT_MODIFIED,
    PASSED,
    PRECONDITION_FAILED,
    precondition,
    range_holds,
    read_http_date,
    select,
)
from forebay.wire.http1 import RequestRules

AT = timegm((2026, 11, 21, 12, 0, 0))
MODIFIED = timegm((1994, 11, 6, 8, 49, 37))
SAME = b"Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER = b"Sun, 06 Nov 1994 08:49:36 GMT"
LATER = b"Sun, 06 Nov 1994 08:49:38 GMT"
ETAG = b'"abc"'


@pytest.mark.parametrize(
    "value", [SAME, b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994", b"Sun Nov 06 08:49:37 1994"]
)
def test_the_three_formats(value: bytes) -> None:
    """RFC 9110 section 5.6.7: a recipient must accept all three."""
    assert read_http_date(value, AT) == MODIFIED


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"0",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 +0000",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Sun, 31 Feb 1994 08:49:37 GMT",
        b"Sun, 06 Foo 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:00:00 GMT",
        b"Sun, 06 Nov 1994 08:60:00 GMT",
        b"sun, 06 nov 1994 08:49:37 gmt",
        b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        SAME + b", " + SAME,
        SAME + b"\n",
        b"\xff" * 29,
    ],
)
def test_what_is_no_date(value: bytes) -> None:
    """RFC 9110 section 5.6.7: anything else is not a date."""
    assert read_http_date(value, AT) is None


@pytest.mark.parametrize(("year", "meant"), [(94, 1994), (26, 2026), (76, 2076), (77, 1977), (0, 2000)])
def test_two_digit_years(year: int, meant: int) -> None:
    """RFC 9110 section 5.6.7: more than 50 years in the future is the past."""
    assert read_http_date(b"Sunday, 06-Nov-%02d 08:49:37 GMT" % year, AT) == timegm((meant, 11, 6, 8, 49, 37))


def test_a_leap_second() -> None:
    """RFC 9110 section 5.6.7 allows second 60."""
    assert read_http_date(b"Sat, 31 Dec 2016 23:59:60 GMT", AT) == timegm((2017, 1, 1, 0, 0, 0))


@given(st.integers(0, 253402300799))
def test_dates_that_we_write_are_read(seconds: int) -> None:
    """What ``last-modified`` says is understood when it comes back."""
    assert read_http_date(formatdate(seconds, usegmt=True).encode(), AT) == seconds


@given(st.binary(max_size=40))
def test_any_bytes_are_read_as_dates_without_an_error(value: bytes) -> None:
    """The client chooses them."""
    assert read_http_date(value, AT) is None or len(value) >= 24


def test_fields_are_found_in_any_case_and_joined() -> None:
    """RFC 9110 sections 5.1 and 5.3."""
    headers = [(b"Host", b"x"), (b"IF-NONE-MATCH", b'"a" '), (b"if-none-match", b'"b"'), (b"Range", b"bytes=0-")]
    assert select(headers) == {b"if-none-match": b'"a", "b"', b"range": b"bytes=0-"}
    assert select([(b"host", b"x"), (b"accept", b"*"), (b"xx-match", b"y")]) is None


@pytest.mark.parametrize(
    ("method", "fields", "expected"),
    [
        # Section 13.1.1, If-Match: strong comparison
        ("GET", {b"if-match": b'"abc"'}, PASSED),
        ("GET", {b"if-match": b'"x", "abc"'}, PASSED),
        ("GET", {b"if-match": b"*"}, PASSED),
        ("GET", {b"if-match": b'"x"'}, PRECONDITION_FAILED),
        ("GET", {b"if-match": b'W/"abc"'}, PRECONDITION_FAILED),
        ("GET", {b"if-match": b"abc"}, PRECONDITION_FAILED),
        ("PUT", {b"if-match": b'"x"'}, PRECONDITION_FAILED),
        # Section 13.1.2, If-None-Match: weak comparison
        ("GET", {b"if-none-match": b'"abc"'}, NOT_MODIFIED),
        ("HEAD", {b"if-none-match": b'"abc"'}, NOT_MODIFIED),
        ("GET", {b"if-none-match": b'W/"abc"'}, NOT_MODIFIED),
        ("GET", {b"if-none-match": b'"x","y" ,, W/"abc"'}, NOT_MODIFIED),
        ("GET", {b"if-none-match": b"*"}, NOT_MODIFIED),
        ("PUT", {b"if-none-match": b"*"}, PRECONDITION_FAILED),
        ("DELETE", {b"if-none-match": b'"abc"'}, PRECONDITION_FAILED),
        ("GET", {b"if-none-match": b'"x"'}, PASSED),
        ("GET", {b"if-none-match": b'"a,bc"'}, PASSED),
        ("GET", {b"if-none-match": b'"abc'}, PASSED),
        ("GET", {b"if-none-match": b'"abc" "abc"'}, PASSED),
        # Section 13.1.3, If-Modified-Since
        ("GET", {b"if-modified-since": SAME}, NOT_MODIFIED),
        ("GET", {b"if-modified-since": LATER}, NOT_MODIFIED),
        ("GET", {b"if-modified-since": EARLIER}, PASSED),
        ("GET", {b"if-modified-since": b"yesterday"}, PASSED),
        ("GET", {b"if-modified-since": SAME + b", " + SAME}, PASSED),
        ("POST", {b"if-modified-since": SAME}, PASSED),
        # Section 13.1.4, If-Unmodified-Since
        ("GET", {b"if-unmodified-since": SAME}, PASSED),
        ("PUT", {b"if-unmodified-since": EARLIER}, PRECONDITION_FAILED),
        ("GET", {b"if-unmodified-since": EARLIER}, PRECONDITION_FAILED),
        ("GET", {b"if-unmodified-since": b"never"}, PASSED),
        # Section 13.2.2, precedence
        ("GET", {b"if-match": b'"abc"', b"if-unmodified-since": EARLIER}, PASSED),
        ("GET", {b"if-match": b'"x"', b"if-none-match": b'"abc"'}, PRECONDITION_FAILED),
        ("GET", {b"if-match": b'"abc"', b"if-none-match": b'"abc"'}, NOT_MODIFIED),
        ("GET", {b"if-none-match": b'"x"', b"if-modified-since": LATER}, PASSED),
        ("GET", {b"if-none-match": b'"abc"', b"if-modified-since": EARLIER}, NOT_MODIFIED),
        ("GET", {b"if-unmodified-since": EARLIER, b"if-none-match": b'"abc"'}, PRECONDITION_FAILED),
        ("GET", {}, PASSED),
    ],
)
def test_preconditions(method: str, fields: dict[bytes, bytes], expected: int) -> None:
    """RFC 9110 sections 13.1 and 13.2."""
    assert precondition(fields, method, ETAG, MODIFIED, at=AT) == expected


def test_a_weak_tag_of_ours() -> None:
    """RFC 9110 section 8.8.3.2: it never matches strongly, and weakly whatever has the same opaque part."""
    weak = b'W/"abc"'
    assert precondition({b"if-match": weak}, "GET", weak, None, at=AT) == PRECONDITION_FAILED
    assert precondition({b"if-none-match": b'"abc"'}, "GET", weak, None, at=AT) == NOT_MODIFIED
    assert not range_holds(weak, weak, None, at=AT)


def test_without_validators() -> None:
    """RFC 9110 section 13.1: what nothing is known about was neither changed nor is it the same; ``*`` is anything."""
    for name in (b"if-modified-since", b"if-unmodified-since"):
        assert precondition({name: EARLIER}, "GET", b"", None, at=AT) == PASSED
    assert precondition({b"if-none-match": b'""'}, "GET", b"", None, at=AT) == PASSED
    assert precondition({b"if-match": b"*"}, "GET", b"", None, at=AT) == PASSED


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'"abc"', True),
        (b'"x"', False),
        (b'W/"abc"', False),
        (b'"abc", "x"', False),
        (b"*", False),
        (SAME, True),
        (EARLIER, False),
        (LATER, False),
        (b"", False),
    ],
)
def test_if_range(value: bytes, expected: bool) -> None:
    """RFC 9110 section 13.1.5: a strong tag, or exactly the date."""
    assert range_holds(value, ETAG, MODIFIED, at=AT) is expected


def test_if_range_by_a_date_that_is_too_young() -> None:
    """RFC 9110 section 8.8.2.2: within the same second there may have been another change."""
    assert not range_holds(SAME, ETAG, MODIFIED, at=MODIFIED + 0.9)
    assert range_holds(SAME, ETAG, MODIFIED, at=MODIFIED + 1)


@given(st.binary(max_size=60), st.sampled_from([b"if-match", b"if-none-match", b"if-modified-since"]))
def test_any_bytes_are_a_condition(value: bytes, name: bytes) -> None:
    """Whatever the client sends, there is a verdict."""
    assert precondition({name: value}, "GET", ETAG, MODIFIED, at=AT) in (PASSED, NOT_MODIFIED, PRECONDITION_FAILED)


@pytest.mark.parametrize(
    "name",
    [b"If-Match", b"if-none-match", b"IF-MODIFIED-SINCE", b"If-Unmodified-Since", b"If-Range", b"rAnGe"],
)
def test_a_request_says_whether_it_has_conditions(name: bytes) -> None:
    """Or ranges, however they are spelled, and however often such a request came: without, nobody looks for them."""
    rules = RequestRules()
    for _ in range(4):
        _, fields = rules.read(b"GET / HTTP/1.1", b"Host: a\r\nX-Range: 1\r\n" + name + b": x\r\n\r\n")
        assert fields.conditional
        assert select(fields.headers)
        _, fields = rules.read(b"GET / HTTP/1.1", b"Host: a\r\nX-Range: 1\r\nIf: x\r\n\r\n")
        assert not fields.conditional
        assert select(fields.headers) is None
