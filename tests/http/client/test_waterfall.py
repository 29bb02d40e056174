"""The picture of a trace: what it shows, and that nothing breaks it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.http.client.trace import Step, Trace
from forebay.http.client.waterfall import waterfall, waterfall_lines
from tests.http.client.test_trace import made

URL = {"method": "GET", "url": "https://shop.example/users?token=abc"}


def full() -> Trace:
    """Several addresses, a redirect, a dead connection, a retry."""
    return made(
        ("pool-wait", 0, URL),
        ("dns-start", 0.1, {"host": "shop.example"}),
        ("dns-done", 12, {"addresses": 3, "cached": False}),
        ("connect-start", 12, {"address": "[2001:db8::1]:443"}),
        ("connect-done", 15, {"address": "[2001:db8::1]:443", "error": "network is unreachable"}),
        ("connect-start", 15, {"address": "192.0.2.10:443"}),
        ("connect-start", 265, {"address": "192.0.2.11:443"}),
        ("connect-done", 290, {"address": "192.0.2.11:443"}),
        ("connect-done", 290, {"address": "192.0.2.10:443", "error": "given up"}),
        ("tls-start", 290),
        ("tls-done", 330, {"version": "TLSv1.3"}),
        ("got-connection", 330, {"reused": False, "address": "tcp://192.0.2.11:443"}),
        ("wrote-headers", 331),
        ("first-byte", 420),
        ("head", 420, {"status": 302}),
        ("done", 421, {"bytes": 0}),
        ("redirect", 421, {"status": 302, "method": "GET", "url": "https://shop.example/users/"}),
        ("pool-wait", 421, {"method": "GET", "url": "https://shop.example/users/"}),
        ("got-connection", 421, {"reused": True, "idle": 0.002}),
        ("wrote-headers", 422),
        ("failed", 430, {"error": "the server closed the connection before it answered"}),
        ("replay", 430, {"error": "the server closed the connection before it answered"}),
        ("pool-wait", 430, {"method": "GET", "url": "https://shop.example/users/"}),
        ("connect-start", 430, {"address": "192.0.2.11:443"}),
        ("connect-done", 455, {"address": "192.0.2.11:443"}),
        ("got-connection", 455, {"reused": False}),
        ("wrote-headers", 456),
        ("first-byte", 551),
        ("head", 551, {"status": 503}),
        ("done", 560, {"bytes": 48213}),
        ("retry", 560, {"status": 503, "attempt": 2}),
        ("pool-wait", 700, {"method": "GET", "url": "https://shop.example/users/"}),
        ("got-connection", 700, {"reused": True, "idle": 0.14}),
        ("wrote-headers", 700.2),
        ("first-byte", 720),
        ("head", 720, {"status": 200}),
        ("done", 790, {"bytes": 4821300}),
    )


PICTURE = """\
                  0 ms        200          400          600
                  ┬────────────┬────────────┬────────────┬───────────
GET https://shop.example/users?token=***                    302 Found   421.0 ms
  DNS lookup      █ 3 addresses             ┊            ┊               11.9 ms
  connect          ▌ ✗ [2001:db8::1]:443 network is unreachable           3.0 ms
  connect          █████████████████▌       ┊            ┊              275.0 ms
                  192.0.2.10:443 given up, another was faster
  connect                      ┊   █▌ 192.0.2.11:443     ┊               25.0 ms
  TLS handshake                ┊    ▐██▌ TLSv1.3         ┊               40.0 ms
  send request                 ┊       ▐    ┊            ┊                1.0 ms
  wait for answer              ┊       ░░░░░░            ┊               89.0 ms
  receive answer               ┊            ┊▌           ┊                1.0 ms

↪ redirected: GET https://shop.example/users/                  failed     9.0 ms
  connection      kept from before, unused for 2 ms
  send request                 ┊            ┊▌           ┊                1.0 ms
✗ wait for answer              ┊            ┊░           ┊                8.0 ms
  ✗ the server closed the connection before it answered

↻ sent again, the kept connection was dead    503 Service Unavailable   130.0 ms
  connect                      ┊            ┊ █▌ 192.0.2.11:443          25.0 ms
  send request                 ┊            ┊  ▐         ┊                1.0 ms
  wait for answer              ┊            ┊  ░░░░░░░   ┊               95.0 ms
  receive answer               ┊            ┊        ▐ 47.1 KiB           9.0 ms

↻ try 2, since status 503                                      200 OK   230.0 ms
  pause                        ┊            ┊         ░░░░░░░░░         140.0 ms
  connection      kept from before, unused for 140 ms
  send request                 ┊            ┊            ┊     ▌          0.2 ms
  wait for answer              ┊            ┊            ┊     ░░        19.8 ms
  receive answer               ┊            ┊           4.6 MiB ▐████    70.0 ms

total                                                                   790.0 ms"""


def test_the_picture() -> None:
    """All of it, as it is read: sections for legs, a line for each part and each address, times at the right."""
    assert waterfall(full()) == PICTURE
    assert str(full()) == PICTURE


def test_ascii() -> None:
    """For terminals that know nothing else there is nothing else, whatever the URL has."""
    trace = full()
    trace.mark(Step.REDIRECT, 0.79, status=302, method="GET", url="https://bücher.example/")
    picture = waterfall(trace, ascii_only=True)
    assert picture.isascii()
    assert "  wait for answer              :       ......" in picture
    assert "-> redirected: GET https://b?cher.example/" in picture


def test_a_connection_that_does_not_come_about() -> None:
    """What failed is marked, and why is said, even when the bar leaves no room."""
    trace = made(
        ("pool-wait", 0, {"method": "GET", "url": "https://10.0.0.1/"}),
        ("connect-start", 0, {"address": "10.0.0.1:443"}),
        ("failed", 5000, {"error": "cannot connect to tcp://10.0.0.1:443 within 5 s"}),
    )
    assert waterfall(trace).splitlines()[2:] == [
        "GET https://10.0.0.1/                                          failed    5000 ms",
        "  connect         ███████████████████████████████████████████████████    5000 ms",
        "                  ✗ 10.0.0.1:443 no answer",
        "  ✗ cannot connect to tcp://10.0.0.1:443 within 5 s",
    ]


def test_content_that_waits_for_the_server() -> None:
    """100 Continue is a line of its own, and so are early answers."""
    trace = made(
        ("pool-wait", 0, {"method": "PUT", "url": "http://a.example/"}),
        ("got-connection", 0, {"reused": True}),
        ("wrote-headers", 1),
        ("first-byte", 10),
        ("continue", 10),
        ("wrote-body", 30, {"bytes": 1048576}),
        ("interim", 40, {"status": 103}),
        ("head", 90, {"status": 201}),
        ("done", 100, {"bytes": 10}),
    )
    lines = [line.split() for line in waterfall(trace).splitlines()]
    assert [" ".join(line[:3]) for line in lines if line[:1] not in ([], ["0"])][2:5] == [
        "connection kept from",
        "send head ▌",
        "wait for 100",
    ]
    picture = waterfall(trace)
    assert "103 Early Hints" in picture
    assert "1.0 MiB" in picture
    assert "60.0 ms" in picture  # the wait, from the last of the content to the answer


def test_tries_beside_each_other() -> None:
    """Both are there, at their own times; the one that was not waited for is no failure."""
    trace = made(
        ("pool-wait", 0, {"method": "GET", "url": "http://a.example/"}),
        ("dial-start", 0),
        ("connect-start", 10, {"address": "10.0.0.1:80"}),
        ("connect-done", 20, {"address": "10.0.0.1:80"}),
        ("got-connection", 20, {"reused": False}),
        ("wrote-headers", 20),
    )
    other = trace.fork()
    other.mark("retry", 0.05, attempt=2, hedge=True)
    other.mark("pool-wait", 0.05, method="GET", url="http://a.example/")
    other.mark("got-connection", 0.05, reused=True, idle=1.5, address="tcp://10.0.0.2:80")
    other.mark("wrote-headers", 0.051)
    other.mark("head", 0.09, status=200)
    other.mark("done", 0.09)
    trace.mark("failed", 0.1, error="given up")
    assert waterfall(trace).splitlines()[2:] == [
        "GET http://a.example/                                        given up   100.0 ms",
        "  get ready       █████     ┊         ┊          ┊         ┊        ┊    10.0 ms",
        "  connect              █████ 10.0.0.1:80         ┊         ┊        ┊    10.0 ms",
        "  send request              ▌         ┊          ┊         ┊        ┊     0.0 ms",
        "  wait for answer           ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░    80.0 ms",
        "",
        "↻ try 2, beside one that took long                             200 OK    40.0 ms",
        "  connection      10.0.0.2:80 kept from before, unused for 1.5 s",
        "  send request              ┊         ┊    ▐     ┊         ┊        ┊     1.0 ms",
        "  wait for answer           ┊         ┊     ░░░░░░░░░░░░░░░░░░░░    ┊    39.0 ms",
        "  receive answer            ┊         ┊          ┊         ┊    ▌   ┊     0.0 ms",
        "",
        "total                                                                   100.0 ms",
    ]


def test_what_failed_is_marked_without_colours() -> None:
    """Where there is no room for more, and nothing more to say."""
    trace = made(
        ("pool-wait", 0, {"method": "GET", "url": "http://a.example/"}),
        ("got-connection", 0, {"reused": True}),
        ("wrote-headers", 0),
        ("failed", 100, {"error": "not done within 0.1 s"}),
    )
    assert waterfall(trace).splitlines()[5:] == [
        "✗ wait for answer ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░   100.0 ms",
        "  ✗ not done within 0.1 s",
    ]


def test_a_proxy() -> None:
    """The way through it has a line."""
    trace = made(
        ("pool-wait", 0, URL),
        ("connect-start", 0, {"address": "127.0.0.1:3128"}),
        ("connect-done", 10, {"address": "127.0.0.1:3128"}),
        ("tunnel-start", 10, {"host": "shop.example:443", "proxy": "127.0.0.1:3128"}),
        ("tunnel-done", 60, {"status": 407, "error": "it answered 407"}),
        ("failed", 60, {"error": "no"}),
    )
    assert "✗ it answered 407" in waterfall(trace)


def test_names_from_servers_are_harmless() -> None:
    """What a terminal would obey does not come out."""
    evil = "\x1b[2J\u202e\r\n"
    trace = made(
        ("pool-wait", 0, {"method": "GET", "url": f"http://a.example/{evil}"}),
        ("connect-start", 1, {"address": evil}),
        ("connect-done", 2, {"address": evil, "error": evil}),
        ("retry", 3, {"error": evil}),
        ("failed", 4, {"error": evil}),
    )
    assert all(char.isprintable() or char == "\n" for char in waterfall(trace))


def test_without_events_and_with_too_many() -> None:
    """Both are said."""
    assert waterfall(Trace()) == "nothing has happened yet"
    trace = Trace()
    for _ in range(1002):
        trace.mark(Step.RETRY, 1.0)
    picture = waterfall(trace)
    assert "and 950 more" in picture
    assert "2 events are left out" in picture
    assert picture.count("\n") < 200
    with pytest.raises(ValueError, match="width 49: must be at least 50"):
        waterfall(trace, 49)


DETAILS = st.fixed_dictionaries(
    {},
    optional={
        "status": st.integers(0, 999),
        "address": st.text(max_size=30),
        "error": st.text(max_size=300),
        "url": st.text(max_size=300),
        "method": st.text(max_size=20),
        "bytes": st.integers(0, 10**12),
        "addresses": st.integers(0, 100),
        "idle": st.floats(0, 1e6),
        "reused": st.booleans(),
        "attempt": st.integers(1, 1000),
        "version": st.text(max_size=20),
    },
)
EVENTS = st.lists(st.tuples(st.sampled_from(Step), st.floats(0, 1e5), DETAILS), max_size=30)


@given(EVENTS, st.integers(50, 130), st.booleans())
def test_any_trace_has_a_picture(
    events: list[tuple[Step, float, dict[str, object]]], width: int, ascii_only: bool
) -> None:
    """Steps in any order, at any time: no line is longer than it may be, and styles are of the same text."""
    trace = Trace()
    for step, at, detail in events:
        trace.mark(step, at, **detail)
    picture = waterfall(trace, width, ascii_only=ascii_only)
    assert max(map(len, picture.splitlines())) <= width
    lines = waterfall_lines(trace, width, ascii_only=ascii_only)
    assert ["".join(text for text, _ in line).rstrip() for line in lines] == picture.split("\n")
    assert trace.times.total >= 0
