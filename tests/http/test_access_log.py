"""The access log of real requests to a real server: every format, what hostile clients can do in it, and its faults."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from forebay.engine.loop import now
from forebay.http import Exchange, HTTPServer
from forebay.http.access_format import FIELDS, Clock, compile_format, escape
from forebay.http.access_log import AccessLog
from tests.engine.connecting import client_of, server_tls
from tests.support import RawClient, eventually, raw_client

TEXT = b"content-type: text/plain\r\n"
PRINTABLE = re.compile("[ -~]*")
COMBINED = re.compile(
    r'(?P<client>\S+) - (?P<user>\S+) \[(?P<time>[^\]]+)\] "(?P<request>(?:[^"\\]|\\.)*)"'
    r" (?P<status>\d{3}) (?P<size>\S+)"
    r'(?: "(?P<referer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)")?'
)
JSON_FIELDS = [
    *("time", "client", "method", "path", "query", "protocol", "status", "request_bytes", "response_bytes"),
    *("duration", "scheme", "tls_version", "host", "user_agent", "referer", "request_id", "notes"),
]


class Unspeakable:
    """Cannot be made text of."""

    def __str__(self) -> str:
        raise LookupError("no text")

    __repr__ = __str__


class Site:
    """The application under test. ``notes`` are put into each exchange."""

    name = "site"
    body_limit: int | None = 1_000_000

    def __init__(self) -> None:
        self.notes: dict[str, Any] | None = None
        self.held: list[Exchange] = []

    def on_request(self, exchange: Exchange) -> None:
        """Do what the path says."""
        exchange.notes = self.notes
        match exchange.raw_path:
            case b"/hold":
                self.held.append(exchange)
            case b"/missing":
                exchange.respond(404, TEXT, b"no")
            case b"/none":
                exchange.respond(204, b"", b"")
            case b"/stream":
                exchange.start(200, TEXT, None)
                exchange.write(b"12345")
                exchange.write(b"67")
                exchange.finish()
            case b"/cut":
                exchange.start(200, TEXT, 100)
                exchange.write(b"12345")
                exchange.abort("a test")
            case _:
                exchange.respond(200, TEXT, b"hello")


@asynccontextmanager
async def serving(log: AccessLog, bind: str = "http://127.0.0.1:0", **options: Any) -> AsyncIterator[tuple[Site, int]]:
    """The site, and its port."""
    site = Site()
    server = HTTPServer(site, bind=bind, access_log=log, **options)
    await server.start()
    try:
        yield site, server.addresses[0].port or 0
    finally:
        await server.stop()


async def lines_of(format: Any, *requests: bytes, notes: dict[str, Any] | None = None, **options: Any) -> list[str]:  # noqa: A002
    """The lines about requests that are sent one after the other, each on its own connection."""
    lines: list[str] = []
    async with serving(AccessLog(lines.append, format, **options)) as (site, port):
        site.notes = notes
        for request in requests:
            async with raw_client(port) as client:
                await client.send(request)
                await client.response(head_only=request.startswith(b"HEAD"))
    return lines


def request(path: str = "/", *headers: str | bytes, method: str = "GET") -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: example.com", *headers]
    return b"\r\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\r\n\r\n"


def parsed(line: str) -> dict[str, str]:
    """A line of the formats ``common`` and ``combined``, by the names of its parts."""
    match = COMBINED.fullmatch(line)
    assert match, line
    return match.groupdict()


# -- common and combined


async def test_a_combined_line_says_what_apache_says() -> None:
    """All of its parts, from a request that has them all."""
    (line,) = await lines_of(
        "combined",
        request("/a/b?c=d", "Referer: http://here/", "User-Agent: curl/8.0 (x; y)"),
        notes={"user": "bob"},
    )
    found = parsed(line)
    at = datetime.strptime(found.pop("time"), "%d/%b/%Y:%H:%M:%S %z")
    assert abs(at - datetime.now(UTC)) < timedelta(seconds=30)
    assert found == {
        "client": "127.0.0.1",
        "user": "bob",
        "request": "GET /a/b?c=d HTTP/1.1",
        "status": "200",
        "size": "5",
        "referer": "http://here/",
        "agent": "curl/8.0 (x; y)",
    }


async def test_a_common_line_ends_with_the_size() -> None:
    """It is what a combined line begins with, up to the referer."""
    (line,) = await lines_of("common", request("/", "Referer: r", "User-Agent: u"))
    assert re.fullmatch(r'127\.0\.0\.1 - - \[[^\]]+\] "GET / HTTP/1\.1" 200 5', line)


async def test_what_is_not_there_is_a_dash() -> None:
    """User, size, referer and user agent; an empty header is none."""
    lines = await lines_of("combined", request("/none"), request("/", "Referer:", "User-Agent:  ", method="HEAD"))
    for line in lines:
        found = parsed(line)
        assert [found[name] for name in ("user", "size", "referer", "agent")] == ["-"] * 4


async def test_http_1_0_and_the_target_as_received() -> None:
    """The request line is the client's own: its version, and an absolute target."""
    lines = await lines_of(
        "common", b"GET / HTTP/1.0\r\n\r\n", b"GET http://example.com/x?y HTTP/1.1\r\nHost: example.com\r\n\r\n"
    )
    assert [parsed(line)["request"] for line in lines] == ["GET / HTTP/1.0", "GET http://example.com/x?y HTTP/1.1"]


async def test_headers_that_come_again_and_again_stay_with_their_client() -> None:
    """The part of the line that is kept for the same headers is never another client's."""
    agents = [f"agent-{number}" for number in range(300)]
    lines: list[str] = []
    async with serving(AccessLog(lines.append)) as (_, port), raw_client(port) as client:
        for _ in range(4):
            for agent in agents:
                await client.send(request("/", f"User-Agent: {agent}", f"Referer: from-{agent}"))
            for _ in agents:
                await client.response()
    assert [(parsed(line)["agent"], parsed(line)["referer"]) for line in lines] == [
        (agent, f"from-{agent}") for agent in agents
    ] * 4


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("UTC", "[10/Oct/2000:20:55:36 +0000]"),
        ("America/Denver", "[10/Oct/2000:14:55:36 -0600]"),
        ("Asia/Kolkata", "[11/Oct/2000:02:25:36 +0530]"),
        ("America/St_Johns", "[10/Oct/2000:18:25:36 -0230]"),
    ],
)
def test_times_are_local_in_apaches_formats_and_utc_in_json(
    monkeypatch: pytest.MonkeyPatch, zone: str, expected: str
) -> None:
    """The zone's own offset, with its half hours; English months whatever the locale."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        clock = Clock(lambda: 971_211_336.0)
        clock.renew(0.25)
        assert clock.clf == expected
        assert clock.rfc3339(0.25) == "2000-10-10T20:55:36.250Z"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_clock_follows_the_wall_clock() -> None:
    """A second's text is made once; the next second sees that the wall clock was set. Milliseconds stay in bounds."""
    offsets = [1000.0, 5000.0]
    clock = Clock(lambda: offsets.pop(0))
    assert clock.rfc3339(7.5) == "1970-01-01T00:16:47.500Z"
    assert clock.rfc3339(7.9999999) == "1970-01-01T00:16:47.999Z"
    assert clock.rfc3339(6.5) == "1970-01-01T00:16:47.000Z"  # one that comes late
    assert clock.rfc3339(8.0) == "1970-01-01T01:23:28.000Z"


# -- JSON


async def test_a_json_line_has_all_fields_in_their_types() -> None:
    """The names, and their order, are what users rely on."""
    started = datetime.now(UTC)
    (line,) = await lines_of(
        "json",
        request("/a%20b?c=d", "Content-Length: 4", "User-Agent: ua", "Referer: r", "X-Request-ID: 42", method="POST")
        + b"1234",
        notes={"route": "/{x}", "user": None, "n": 1.5, "at": datetime(2024, 1, 2, tzinfo=UTC), "id": UUID(int=1)},
    )
    found = json.loads(line)
    assert list(found) == JSON_FIELDS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])
    at = datetime.fromisoformat(found.pop("time"))
    assert started - timedelta(seconds=1) < at < datetime.now(UTC) + timedelta(seconds=1)
    assert 0 <= found.pop("duration") < 10
    assert found == {
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/a%20b",
        "query": "c=d",
        "protocol": "HTTP/1.1",
        "status": 200,
        "request_bytes": 4,
        "response_bytes": 5,
        "scheme": "http",
        "tls_version": None,
        "host": "example.com",
        "user_agent": "ua",
        "referer": "r",
        "request_id": "42",
        "notes": {
            "route": "/{x}",
            "user": None,
            "n": 1.5,
            "at": "2024-01-02T00:00:00Z",
            "id": "00000000-0000-0000-0000-000000000001",
        },
    }


async def test_a_json_line_has_null_for_what_is_not_there() -> None:
    """No field is ever left out."""
    (line,) = await lines_of("json", b"GET / HTTP/1.0\r\n\r\n")
    found = json.loads(line)
    assert list(found) == JSON_FIELDS
    missing = ("query", "tls_version", "host", "user_agent", "referer", "request_id")
    assert [found[name] for name in missing] == [None] * 6
    assert (found["notes"], found["protocol"], found["request_bytes"]) == ({}, "HTTP/1.0", 0)


async def test_tls_is_logged() -> None:
    """Scheme and version, in JSON and as fields."""
    lines: list[str] = []
    for form in ("json", "{scheme} {tls_version}"):
        log = AccessLog(lines.append, form)
        async with (
            serving(log, "https://127.0.0.1:0", tls=server_tls()) as (_, port),
            client_of(port, tls=True) as client,
        ):
            assert (await client.get("/"))[0] == 200
    found = json.loads(lines[0])
    assert (found["scheme"], found["tls_version"]) == ("https", "TLSv1.3")
    assert lines[1] == "https TLSv1.3"


async def test_a_unix_socket_is_logged(tmp_path: Path) -> None:
    """Its client has no address."""
    lines: list[str] = []
    async with serving(AccessLog(lines.append, "common"), f"unix://{tmp_path}/s"):
        client = RawClient(*await asyncio.open_unix_connection(str(tmp_path / "s")))
        assert (await client.get("/"))[0] == 200
        await client.close()
    assert parsed(lines[0])["client"] == "unix"


@pytest.mark.parametrize("notes", [{"x": float("nan")}, {"x": 10**40}, {("a", 1): {2}}, {"x": "\udc80"}, {1: object()}])
async def test_notes_that_json_does_not_have_do_not_cost_the_line(notes: dict[str, Any]) -> None:
    """They are given in another way; those beside them as ever."""
    (line,) = await lines_of("json", request(), notes={"user": "ann", **notes, "size": 7})
    shown = json.loads(line)["notes"]
    assert (len(shown), shown["user"], shown["size"]) == (3, "ann", 7)


# -- what is counted, and when


async def test_sizes_are_those_of_the_content() -> None:
    """Without head and chunks; of a cut answer, what was sent; of an answer to HEAD, nothing."""
    form = "{method} {path} {status} {request_bytes} {response_bytes}"
    chunked = request("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    lines = await lines_of(form, request("/stream"), request(method="HEAD"), chunked, request("/missing"))
    assert lines == ["GET /stream 200 0 7", "HEAD / 200 0 0", "POST / 200 5 5", "GET /missing 404 0 2"]


async def test_answers_that_were_cut_are_logged() -> None:
    """One that was begun has its status, and one that was not has 499, in every format."""
    lines: list[str] = []
    for form in ("{path} {status} {response_bytes}", "combined", "json"):
        async with serving(AccessLog(lines.append, form)) as (site, port):
            async with raw_client(port) as client:
                await client.send(request("/cut"))
                await client.rest()
            async with raw_client(port) as client:
                await client.send(request("/hold"))
                await eventually(lambda: site.held)
                client.abort()
    assert lines[:2] == ["/cut 200 5", "/hold 499 0"]
    assert [parsed(line)["status"] for line in lines[2:4]] == ["200", "499"]
    assert [json.loads(line)["status"] for line in lines[4:]] == [200, 499]


async def test_pipelined_requests_have_a_line_each_in_order() -> None:
    """Also where their answers leave in one write."""
    lines: list[str] = []
    async with serving(AccessLog(lines.append, "{target}")) as (_, port), raw_client(port) as client:
        await client.send(b"".join(request(f"/{number}") for number in range(50)))
        for _ in range(50):
            await client.response()
    assert lines == [f"/{number}" for number in range(50)]


async def test_duration_is_from_the_head_to_the_end_of_the_answer() -> None:
    """In seconds and milliseconds, and it is the application's time that counts."""
    lines: list[str] = []
    log = AccessLog(lines.append, "{duration} {duration_ms} {time_unix:.3f}")
    async with serving(log) as (site, port), raw_client(port) as client:
        await client.send(request("/hold"))
        (exchange,) = await eventually(lambda: site.held)
        least = 0.02
        await eventually(lambda: now() - exchange.received_at > least)
        exchange.respond(200, TEXT, b"")
        most = now() - exchange.received_at
        await client.response()
    seconds, milliseconds, unix = map(float, lines[0].split())
    assert least < seconds <= most
    assert milliseconds == pytest.approx(seconds * 1000)
    assert abs(unix - time.time()) < 30


# -- own fields


async def test_a_format_string_of_every_field() -> None:
    """Each has a value; headers and notes are found by name, numbers take a specification."""
    form = "\t".join(f"{name}={{{name}}}" for name in FIELDS)
    (line,) = await lines_of(form, request("/p?q", "User-Agent: ua", "Referer: r", "X-Request-Id: id"))
    found = dict(part.split("=", 1) for part in line.split("\t"))
    for name in ("time", "time_clf", "time_unix", "duration", "duration_ms"):
        assert found.pop(name)
    assert found == {
        "client": "127.0.0.1",
        "method": "GET",
        "target": "/p?q",
        "path": "/p",
        "query": "q",
        "protocol": "HTTP/1.1",
        "status": "200",
        "request_bytes": "0",
        "response_bytes": "5",
        "scheme": "http",
        "tls_version": "-",
        "host": "example.com",
        "user_agent": "ua",
        "referer": "r",
        "request_id": "id",
    }


async def test_headers_notes_and_specifications() -> None:
    """As in the documentation; braces that are doubled stand for themselves; what is not there is a dash."""
    (line,) = await lines_of(
        "{client:>12}|{status:05d}|{duration_ms:.1f}|{header[X-One]}|{header[x-two]}|{note[user]}|{note[n]}|{{é}}",
        request("/", "x-one:  1 2 "),
        notes={"n": 7, "user": ""},
    )
    match = re.fullmatch(r"   127\.0\.0\.1\|00200\|(\d+\.\d)\|1 2\|-\|-\|7\|\{é\}", line)
    assert match, line


async def test_a_function_makes_the_line() -> None:
    """It is given the exchange and the loop's time; line ends and other control characters in it are escaped."""
    times: list[float] = []

    def form(exchange: Exchange, at: float) -> str:
        times.append(at - exchange.received_at)
        return f"{exchange.method}\tfirst\nsecond\r\x1b[1mthird\x85fourth\u2028fifth ü"

    (line,) = await lines_of(form, request())
    assert line == "GET\tfirst\\nsecond\\r\\x1b[1mthird\\x85fourth\\u2028fifth ü"
    assert len(line.splitlines()) == 1
    assert 0 <= times[0] < 10


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("{methd}", r"unknown field \{methd\}: did you mean 'method'\?"),
        ("{client} {heder[x]}", r"unknown field \{heder\[x\]\}: did you mean 'header\[NAME\]'\?"),
        ("{zzzz}", "unknown field.*there is time, .*path, .*note"),
        ("{}", "unknown field"),
        ("{0}", "unknown field"),
        ("{client.upper}", "unknown field"),
        ("{header[a b]}", "'a b' is not the name of a header"),
        ("{client!r}", "has a conversion, !r"),
        ("{client:.1f}", r"\{client:.1f\}: Unknown format code 'f'"),
        ("{note[n]:d}", "Unknown format code 'd'"),
        ("{status:{path}}", "status"),
        ("{request_bytes:c}", "not of type c"),
        ("{client", "expected '}'"),
        ("{client}\n{path}", "no line end"),
        ("{client:\n>5}", "no line end"),
        ("combind", "did you mean 'combined'"),
        ("xml", "there is common, combined, json"),
        ("", "no {fields}"),
    ],
)
def test_a_format_with_an_error_is_refused(form: str, reason: str) -> None:
    """At once, with the format, what is wrong in it, and what would be right."""
    with pytest.raises(ValueError, match=reason) as caught:
        AccessLog("-", form)
    assert repr(form) in str(caught.value)


# -- hostile clients


HOSTILE = b'"; drop \\" \xff\xfe\xc2\x85\xe2\x80\xa8\xf0\x9f\x98\x80\t"} 127.0.0.1 - - "GET /forged" \xc2\x9b31m'


async def test_headers_cannot_leave_their_quotes() -> None:
    """Quotes, backslashes, tabs, bytes that are no UTF-8 and those that terminals obey are escaped, and can be read."""
    hostile = request("/", b"User-Agent: " + HOSTILE, b"Referer: " + HOSTILE, b"X-Request-Id: " + HOSTILE)
    (combined,) = await lines_of("combined", hostile)
    (own,) = await lines_of('"{header[user-agent]}" {status}', hostile)
    (text,) = await lines_of("json", hostile)
    escaped = escape(HOSTILE.strip())
    assert parsed(combined)["agent"] == parsed(combined)["referer"] == escaped
    assert own == f'"{escaped}" 200'
    assert unescaped(escaped) == HOSTILE.strip()
    found = json.loads(text)
    assert list(found) == JSON_FIELDS
    assert found["user_agent"] == found["referer"] == found["request_id"]
    assert found["user_agent"] == HOSTILE.strip().decode("utf-8", "backslashreplace")
    for line in (combined, own, text):
        assert PRINTABLE.fullmatch(line)


async def test_targets_cannot_leave_their_quotes() -> None:
    """The target too may have a quote in it."""
    for form in ("combined", "json", '"{target}" "{path}" "{query}"'):
        (line,) = await lines_of(form, request('/a"b?"c}'))
        if form == "combined":
            assert parsed(line)["request"] == r"GET /a\"b?\"c} HTTP/1.1"
        elif form == "json":
            assert (json.loads(line)["path"], json.loads(line)["query"]) == ('/a"b', '"c}')
        else:
            assert line == r'"/a\"b?\"c}" "/a\"b" "\"c}"'


@pytest.mark.parametrize("form", ["combined", "json", "{target} {header[referer]} {note[n]}"])
async def test_of_long_values_the_beginning_is_shown(form: str) -> None:
    """A client cannot have the log written full six times as fast as it sends."""
    long = "x" * 8000
    hostile = b"Referer: " + b"\xff" * 16_000
    (line,) = await lines_of(form, request(f"/{long}", f"User-Agent: {long}", hostile), notes={"n": "y" * 9000})
    assert len(line) < 70_000
    assert "x" * 4000 + "..." in line or "x" * 4095 + "..." in line
    assert "x" * 4097 not in line
    (line,) = await lines_of(form, request(f"/{'x' * 4000}", "Referer: " + "z" * 4096))
    assert "..." not in line


async def test_notes_cannot_end_a_line() -> None:
    """An application notes what its client said: it may be anything. A user has no blanks, for it has no quotes."""
    notes = {
        "user": 'a b\r\n127.0.0.1 - - [x] "GET /forged"',
        "k\n\u2028": ["\n", {"\x7f\x9b": "\ud83d\ude00 \U0001f600"}],
    }
    (line,) = await lines_of("common", request(), notes=notes)
    assert parsed(line)["user"] == r"a\x20b\r\n127.0.0.1\x20-\x20-\x20[x]\x20\"GET\x20/forged\""
    (line,) = await lines_of("{note[user]}|{status}", request(), notes=notes)
    assert line == escape(notes["user"].encode()) + "|200"  # type: ignore[attr-defined]
    (line,) = await lines_of("json", request(), notes=notes)
    assert PRINTABLE.fullmatch(line)
    assert list(json.loads(line)) == JSON_FIELDS
    del notes["k\n\u2028"]
    notes["\U0001f600\x7f"] = "\u2028"
    (line,) = await lines_of("json", request(), notes=notes)
    assert PRINTABLE.fullmatch(line)
    assert json.loads(line)["notes"] == notes


def unescaped(text: str) -> bytes:
    """The inverse of ``escape``."""
    return text.encode().decode("unicode_escape").encode("latin-1")


@given(st.binary())
def test_escaping_is_printable_and_can_be_undone(data: bytes) -> None:
    """For any bytes: printable ASCII, nothing that ends a quoted field, and no information lost."""
    text = escape(data)
    assert PRINTABLE.fullmatch(text)
    assert re.fullmatch(r'(?:[^"\\]|\\.)*', text)
    assert unescaped(text) == data


@given(
    target=st.binary(),
    notes=st.dictionaries(
        st.text(), st.recursive(st.none() | st.text() | st.binary() | st.integers(), st.lists), max_size=3
    ),
)
async def test_whatever_is_in_an_exchange_a_line_is_one_line(target: bytes, notes: dict[str, Any]) -> None:
    """A real exchange, with a target that no reader would accept, and any notes."""
    seen: list[Exchange] = []

    def remember(exchange: Exchange, at: float) -> str:
        seen.append(exchange)
        return ""

    await lines_of(remember, request("/", b"User-Agent: " + HOSTILE))
    (exchange,) = seen
    exchange.target = exchange.raw_path = exchange.query = target
    exchange.notes = {**notes, "user": str(notes)}
    for form in ("combined", "json", "{target} {path} {query} {note[user]}"):
        line = compile_format(form)(exchange, now())
        assert PRINTABLE.fullmatch(line)
        if form == "json":
            assert list(json.loads(line)) == JSON_FIELDS
        elif form == "combined":
            assert parsed(line)["status"] == "200"


# -- what is left out


async def test_paths_are_skipped() -> None:
    """Those that are listed, whatever their query, and no others."""
    log_lines = await lines_of(
        "{target}", request("/livez"), request("/livez?x"), request("/livez/"), request("/"), skip=["/livez", "/readyz"]
    )
    assert log_lines == ["/livez/", "/"]


async def test_a_function_decides_what_is_skipped() -> None:
    """It sees the exchange, answered; what it leaves out is counted."""
    lines: list[str] = []
    log = AccessLog(lines.append, "{target}", skip=lambda exchange: exchange.status == 200)
    async with serving(log) as (_, port), raw_client(port) as client:
        for path in ("/", "/missing", "/none"):
            await client.get(path)
    assert lines == ["/missing", "/none"]
    assert log.statistics()["skipped"] == 1


async def test_a_sample_is_logged_and_every_error() -> None:
    """Roughly the share that was asked for; answers from 400 on, and none, are always logged."""
    lines: list[str] = []
    log = AccessLog(lines.append, "{status}", sample=0.2)
    async with serving(log) as (_, port):
        async with raw_client(port) as client:
            for _ in range(40):
                await client.send(request() * 25)
                for _ in range(25):
                    await client.response()
            for _ in range(20):
                await client.get("/missing")
        async with raw_client(port) as client:
            await client.send(request("/hold"))
    assert lines.count("404") == 20
    assert lines.count("499") == 1
    assert 120 < lines.count("200") < 280  # six standard deviations
    assert log.statistics()["skipped"] == 1000 - lines.count("200")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sample": 0}, "sample=0 must be above 0"),
        ({"sample": 1.5}, "at most 1"),
        ({"skip": "/livez"}, r"must be a list of paths, such as \['/livez'\]"),
        ({"max_lines": 0}, "must be above zero"),
    ],
)
def test_arguments_are_checked(options: Any, reason: str) -> None:
    """The error names the argument and what would be valid."""
    with pytest.raises(ValueError, match=reason):
        AccessLog("-", **options)


# -- faults


async def test_requests_are_answered_while_the_disk_is_full() -> None:
    """Every line is counted as failed, one error says why, and no client notices."""
    log = AccessLog("/dev/full")
    with capture_logs() as captured:
        async with serving(log) as (_, port), raw_client(port) as client:
            for _ in range(3):
                for _ in range(20):
                    assert (await client.get("/"))[0] == 200
                await eventually(lambda: not log.statistics()["waiting"])
    assert log.statistics() == {"lines": 0, "waiting": 0, "dropped": 0, "failed": 60, "skipped": 0, "errors": 0}
    assert [event["log"] for event in captured if event["log_level"] == "error"] == ["/dev/full"]


async def test_requests_are_answered_while_the_sink_hangs() -> None:
    """The queue fills up, and then lines are dropped: answering takes no longer than before."""
    release = threading.Event()
    log = AccessLog(lambda line: release.wait(20), max_lines=10)
    async with serving(log) as (_, port), raw_client(port) as client:
        for _ in range(100):
            assert (await client.get("/"))[0] == 200
        await eventually(lambda: log.statistics()["dropped"])
        release.set()
    counts = log.statistics()
    assert counts["lines"] + counts["dropped"] == 100
    assert counts["dropped"] >= 100 - 2 * 10 - 1


@pytest.mark.parametrize("form", ["json", "combined", "{note[user]}", "function"])
async def test_a_line_that_cannot_be_made_costs_only_itself(form: str) -> None:
    """A note without a text, or a function that raises: counted, reported once, and the request is answered."""

    def failing(exchange: Exchange, at: float) -> str:
        if exchange.notes:
            raise LookupError("no line")
        return "line"

    lines: list[str] = []
    log = AccessLog(lines.append, failing if form == "function" else form)
    with capture_logs() as captured:
        async with serving(log) as (site, port), raw_client(port) as client:
            site.notes = {"user": Unspeakable()}
            for _ in range(5):
                assert (await client.get("/"))[0] == 200
            site.notes = None
            assert (await client.get("/"))[0] == 200
    assert (len(lines), log.errors) == (1, 5)
    (event,) = [event for event in captured if event["log_level"] == "error"]
    assert isinstance(event["exc_info"], LookupError)


# -- what it tells of itself


async def test_what_it_counts_can_be_scraped(tmp_path: Path) -> None:
    """Each counter is a family, with the log's name as its label."""
    path = tmp_path / "access.log"
    log = AccessLog(path, skip=["/livez"], name="main")
    async with serving(log) as (_, port), raw_client(port) as client:
        for target in ("/", "/livez", "/", "/"):
            await client.get(target)
    values = {family.name: family.samples[0].value for family in log.collect()}
    assert values == {
        "forebay_access_log_lines": 3,
        "forebay_access_log_dropped": 0,
        "forebay_access_log_failed": 0,
        "forebay_access_log_skipped": 1,
        "forebay_access_log_errors": 0,
    }
    for family in log.collect():
        assert family.kind == "counter"
        assert [(sample.suffix, sample.labels) for sample in family.samples] == [("_total", (("log", "main"),))]
    assert "lines': 3" in repr(log)
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("make", [lambda path: path, str])
async def test_a_path_is_a_path_in_both_its_forms(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    """It names the log, is appended to, and is nobody else's to read."""
    path = tmp_path / "access.log"
    for _ in range(2):
        log = AccessLog(make(path), "{path}")
        async with serving(log) as (_, port), raw_client(port) as client:
            await client.get("/x")
    assert path.read_text() == "/x\n/x\n"
    assert not path.stat().st_mode & 0o007
    assert log.collect()[0].samples[0].labels == (("log", str(path)),)
