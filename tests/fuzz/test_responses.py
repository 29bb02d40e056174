"""The check of the reader of responses: its reasons are met, and whatever has no reason is found."""

from __future__ import annotations

import re
from typing import Any

import pytest

from forebay.wire import reader, response_head, responses
from fuzz import response_reasons
from fuzz.response_inputs import ENDS
from fuzz.responses import TARGET, check
from fuzz.target import Disagreement, encode

OK = b"HTTP/1.1 200 OK\r\n"
THREE = OK + b"Content-Length: 3\r\n\r\nabc"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
TABLES: tuple[tuple[Any, ...], ...] = (
    response_reasons.HEADS,
    response_reasons.CHUNK_LINES,
    response_reasons.TRAILERS,
    (response_reasons.BLANKS,),
)


def test_every_reason_is_met() -> None:
    """By some seed, so that no reason is left that nothing needs; and each cites its section."""
    named = {reason.name for table in TABLES for reason in table}
    named |= {getattr(response_reasons, name) for name in ("KEPT_ALIVE", "DROPPED", "DROPPED_UNREAD", "SOONER")}
    assert {name for seed in TARGET.seeds() for name in check(seed)} == named
    for reason in (reason for table in TABLES for reason in table):
        assert re.match(r"RFC \d{4} sections? \d", reason.section), reason.name
        assert reason.why.endswith("."), reason.name


def test_no_reason_excuses_an_ordinary_response() -> None:
    """If we refused one of these, none of the reasons would let us."""
    for stream in (
        THREE,
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 3 + THREE,
        b"HTTP/1.0 404 Not \xe4 Found\r\nX: a\xff\tb\r\nConnection: close\r\n\r\nabc",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        CHUNKED + b'3;a;b="c"\r\nabc\r\n0\r\nA: b\r\n\r\n',
    ):
        assert check(encode(ENDS, [], stream)) == []
        for number, (start, end) in enumerate(response_reasons.heads(stream)):
            head = stream[start:end]
            assert [reason.name for reason in response_reasons.HEADS if reason.test(head, number)] == []


@pytest.mark.parametrize(
    ("module", "name", "value", "stream"),
    [
        (responses, "NOT_IN_TRAILERS", frozenset({b"a"}), CHUNKED + b"0\r\nA: b\r\n\r\n"),
        (responses, "NOT_IN_TRAILERS", frozenset(), CHUNKED + b"0\r\nHost: b\r\n\r\n"),
        (responses, "CHUNK_SIZE", re.compile(rb"([0-9A-Fa-f]+)[^\r]*"), CHUNKED + b"1x\r\na\r\n0\r\n\r\n"),
        (responses, "_HEXADECIMAL", b"0123456789_", CHUNKED + b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n"),
        (responses, "_HEXADECIMAL", b"0123456789+", CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n"),
        (responses, "FIELD", re.compile(rb"([^:]+):([^\n]*)"), CHUNKED + b"0\r\nA : b\r\n\r\n"),
        (responses, "_WITHOUT_CONTENT", (204,), b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n"),
        (responses, "_WITHOUT_CONTENT", (200, 204, 304), THREE),
        (response_head, "_STATUS_LINE", re.compile(rb"HTTP/1.([01]) ([0-9]+) ?([^\r]*)\r\n"), b"HTTP/1.1 2000\r\n\r\n"),
        (response_head, "_FIELDS", re.compile(rb"^([^:]+): *([^\r]*)\r\n", re.M), OK + b"A : b\r\n\r\n"),
        (response_head, "_FIELDS", re.compile(rb"^([A-Z]+): *([^\r]*)\r\n", re.M), THREE),
        (response_head, "_length", lambda value: int(value, 8), OK + b"Content-Length: 10\r\n\r\n0123456789"),
        (response_head, "_length", int, OK + b"Content-Length: +3\r\n\r\nabc"),
        (
            reader,
            "_USUAL_OPTIONS",
            {b"close": frozenset({b"x"})},
            OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
        ),
        (reader, "_USUAL_OPTIONS", {b"x": frozenset({b"close"})}, OK + b"Connection: x\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_a_planted_error_is_found(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, value: object, stream: bytes
) -> None:
    """Too strict, too lenient, or read as something else: nothing permits it."""
    monkeypatch.setattr(response_head, "_known", {})  # what is remembered must neither hide nor outlast the error
    data = encode(ENDS, [], stream)
    check(data)
    monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(response_head, "_known", {})
    with pytest.raises(Disagreement):
        check(data)
