"""The checks of all targets: each written reason is one that is met, and whatever has no reason is found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from forebay.wire import http1, multipart, reader, request_head, websocket
from forebay.wire.websocket import encode_frame
from fuzz import frame_reasons, frames, part_reasons, parts, request_reasons, requests
from fuzz.request_readings import theirs
from fuzz.target import Disagreement, Target, encode

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
NEXT = GET + b"\r\n"


def met(target: Target) -> Counter[str]:
    return Counter(name for seed in target.seeds() for name in target.check(seed))


def test_every_reason_of_requests_is_met() -> None:
    """By some seed, so that no reason is left that nothing needs."""
    tables = request_reasons.HEADS, request_reasons.CHUNK_LINES, request_reasons.TRAILERS, (request_reasons.BLANKS,)
    named = {reason.name for table in tables for reason in table}
    named |= {getattr(request_reasons, name) for name in ("KEPT_ALIVE", "EMPTY_LINES", "DROPPED", "DROPPED_UNREAD")}
    assert set(met(requests.TARGET)) == named


def test_every_reason_of_frames_is_met() -> None:
    """The same."""
    named = {reason.name for reason in frame_reasons.REASONS}
    named |= {frame_reasons.LAST_BLOCK, frame_reasons.MORE_BLOCKS, frame_reasons.NO_BYTES}
    assert set(met(frames.TARGET)) == named


def test_every_reason_of_parts_is_met() -> None:
    """The same."""
    named = {reason.name for reason in (*part_reasons.REASONS, *part_reasons.NAMES)} | {part_reasons.EMPTY_PART}
    assert set(met(parts.TARGET)) == named


def test_every_reason_cites_its_section() -> None:
    """Of an RFC, and says why."""
    tables: tuple[tuple[Any, ...], ...] = (
        *(request_reasons.HEADS, request_reasons.CHUNK_LINES, request_reasons.TRAILERS, frame_reasons.REASONS),
        *(part_reasons.REASONS, part_reasons.NAMES),
    )
    for reason in (*(each for table in tables for each in table), request_reasons.BLANKS):
        assert re.match(r"RFC \d{4} sections? \d", reason.section), reason.name
        assert reason.why.endswith("."), reason.name


def test_no_reason_excuses_an_ordinary_request() -> None:
    """If we refused one of these, none of the reasons would let us."""
    for stream in (
        NEXT,
        b"POST /a%20b?c=%zz HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
        b"GET http://a/b?c=/../d HTTP/1.1\r\nHost: A\r\nConnection: close\r\n\r\n",
        b"GET http://a?b HTTP/1.0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: [::1]:8080\r\nX: a\xff\tb\r\n\r\n",
        CHUNKED,
    ):
        assert requests.check(encode(0, [], stream)) == []
        (request,) = theirs([stream]).requests
        assert [reason.name for reason in request_reasons.HEADS if reason.test(request)] == []
    for line in (b"0", b"1a", b"5;a", b'5;a=b ; c = "d\\"\t;"', b"fFfFfF"):
        assert [reason.name for reason in request_reasons.CHUNK_LINES if reason.test(line)] == []
    assert [reason.name for reason in request_reasons.TRAILERS if reason.test(b"A: b\r\nC:\r\n\r\n")] == []


@pytest.mark.parametrize(
    ("module", "name", "value", "stream"),
    [
        (http1, "NOT_IN_TRAILERS", frozenset({b"a"}), CHUNKED + b"0\r\nA: b\r\n\r\n"),
        (http1, "NOT_IN_TRAILERS", frozenset(), CHUNKED + b"0\r\nHost: b\r\n\r\n"),
        (http1, "CHUNK_SIZE", re.compile(rb"([0-9A-Fa-f]+)[^\r]*"), CHUNKED + b"1x\r\na\r\n0\r\n\r\n"),
        (http1, "CHUNK_SIZE", re.compile(rb"([0-9A-Fa-f]+)[^\r]*"), CHUNKED + b"1x\r\na\r\n0\r\n\r\n\x01\r\n\r\n"),
        (request_head.RequestRules, "_check_host", lambda *_: None, b"GET / HTTP/1.1\r\nX: y\r\n\r\n"),
        (request_head.RequestRules, "_check_host", lambda *_: None, b"GET / HTTP/1.1\r\nX: y\r\n\r\n\x01\r\n\r\n"),
        (http1, "CHUNK_SIZE", re.compile(rb"([0-9]+)"), CHUNKED + b"a\r\n0123456789\r\n0\r\n\r\n"),
        (http1, "FIELD", re.compile(rb"([^:]+):([^\n]*)"), CHUNKED + b"0\r\nA : b\r\n\r\n"),
        (request_head, "_HOST_PATTERN", re.compile(rb"[0-9]+"), GET + b"X: unheard-of\r\n\r\n"),
        (request_head, "_DOT_SEGMENT", re.compile(rb"\."), b"GET /a.b HTTP/1.1\r\nHost: a\r\n\r\n"),
        (request_head, "_BAD_ESCAPE", re.compile(rb"%"), b"GET /%20 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (request_head, "_REQUEST_LINE", re.compile(rb"(.+) (.+) HTTP/1.([01])"), b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (request_head, "_length", lambda value: int(value, 8), GET + b"Content-Length: 10\r\n\r\n0123456789"),
        (request_head, "_METHOD_SIZE", 2, b"PURGE / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (reader, "_USUAL_OPTIONS", {b"close": frozenset({b"x"})}, GET + b"Connection: close\r\n\r\n" + NEXT),
    ],
)
def test_a_planted_error_in_our_reader_of_requests_is_found(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, value: object, stream: bytes
) -> None:
    """Too strict, too lenient, or read as something else: nothing permits it."""
    assert_found(monkeypatch, module, name, value, requests.check, encode(0, [], stream))


@pytest.mark.parametrize(
    ("name", "value", "stream"),
    [
        ("_RESERVED", 0x40, bytes.fromhex("a20161")),
        ("LONGEST_CONTROL", 3, encode_frame(9, b"ping")),
        ("LONGEST_CONTROL", 300, bytes.fromhex("897e0080") + bytes(128)),
        ("PONG", 11, bytes.fromhex("8b00")),
        ("decode_close", lambda payload: (1000, ""), encode_frame(8, b"\x03")),
        ("decode_close", lambda payload: (1000, ""), encode_frame(8, b"\x03\xe9")),
        ("utf_8_decode", lambda data, *_: ("", len(data)), encode_frame(1, b"\xff", fin=False) + b"\x00\x00"),
        ("apply_mask", lambda data, mask: data, b"\x01" + encode_frame(1, b"a", mask=b"1234")),
    ],
)
def test_a_planted_error_in_our_reader_of_frames_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object, stream: bytes
) -> None:
    """The same."""
    data = encode(1, [], stream[1:]) if stream[:1] == b"\x01" and len(stream) > 5 and stream[1] > 127 else None
    assert_found(monkeypatch, websocket, name, value, frames.check, data or encode(0, [], stream))


PART = b'--b-B\r\nContent-Disposition: form-data; name="a"\r\n'
LAST = b"\r\n--b-B--\r\n"


def test_no_reason_excuses_an_ordinary_body() -> None:
    """The same as for requests."""
    for body in (
        LAST[2:],
        b"\r\n" + PART + b"\r\nx\r\n--b-" + LAST,
        PART + b"Content-Type: text/plain\r\nA: \tb\xff \r\n\r\n\r\n" + LAST + b"bye",
        PART + b"\r\n" + LAST.replace(b"\r\n--b", b"\r\n" + PART + b"\r\nx\r\n--b"),
        PART.replace(b'"a"', b"\"%22%0d;=\"; FileName=b;; filename*=utf-8''c") + b"\r\nx" + LAST,
    ):
        assert parts.check(encode(0, [], body)) == []
        if PART[:20] in body:
            place = part_reasons.place_of(body, body.index(b"\r\n\r\n") + 3, b"b-B")
            assert place.kind == part_reasons.HEAD
            assert [each.name for each in part_reasons.REASONS if each.kind == place.kind and each.test(place)] == []


@pytest.mark.parametrize(
    ("name", "value", "body"),
    [
        ("_PADDING", 3, PART + b"\r\nx\r\n" + PART.replace(b"B\r", b"B    \r") + b"\r\nx" + LAST),
        ("_PADDING", 3, PART + b"\r\nx" + LAST.replace(b"--\r", b"--    \r")),
        ("_HEADER", re.compile(rb"([A-Za-z-]+): *([ -~]*)"), PART + b"A_1: b\r\n\r\nx" + LAST),
        ("_HEADER", re.compile(rb"([^:]+):[ \t]*(.*)"), PART + b"A b: c\r\n\r\nx" + LAST),
        ("_HEADER", re.compile(rb"([^:]+): (.*)."), PART + b"A: bc\r\n\r\nx" + LAST),
        ("_PLAIN", (b"8bit",), PART + b"Content-Transfer-Encoding: 7bit\r\n\r\nx" + LAST),
        ("_ESCAPES", {"22": "'"}, PART.replace(b'"a"', b'"%22"') + b"\r\nx" + LAST),
        ("read_parameters", lambda value, _: (b"form-data", {}), PART + b"\r\nx" + LAST),
        ("read_parameters", lambda value, _: (b"form-data", {b"name": b"b"}), PART + b"\r\nx" + LAST),
        ("read_parameters", lambda value, _: (b"x", {b"name": b"a"}), PART + b"\r\nx" + LAST),
    ],
)
def test_a_planted_error_in_our_reader_of_parts_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object, body: bytes
) -> None:
    """The same as for requests."""
    assert_found(monkeypatch, multipart, name, value, parts.check, encode(0, [], body))


def assert_found(
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    value: Any,
    check: Callable[[bytes], object],
    data: bytes,
) -> None:
    monkeypatch.setattr(
        requests, "_memory", requests._Memory()
    )  # what is remembered must not outlast the planted error
    check(data)
    monkeypatch.setattr(module, name, value)
    with pytest.raises(Disagreement):
        check(data)
