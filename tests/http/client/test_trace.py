"""What a trace collects, and what it makes of that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from forebay.engine import now
from forebay.http.client.client import Client
from forebay.http.client.trace import Step, Times, Trace, TraceEvent
from tests.http.client.kit import Peer, answering, playing, trusting

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def made(*steps: tuple[str, float] | tuple[str, float, dict[str, Any]], keep_bytes: int = 0) -> Trace:
    """A trace of these steps, at so many milliseconds."""
    trace = Trace(keep_bytes=keep_bytes)
    for step, at, *detail in steps:
        trace.mark(step, at / 1000, **(detail[0] if detail else {}))
    return trace


def test_times_of_a_new_connection() -> None:
    """Each part is what lies between its steps, and the whole is from the first to the last."""
    trace = made(
        ("pool-wait", 0, {"method": "GET", "url": "https://a.example/"}),
        ("dns-start", 1),
        ("dns-done", 3),
        ("connect-start", 4, {"address": "[::1]:443"}),
        ("connect-done", 8, {"address": "[::1]:443", "error": "connection refused"}),
        ("connect-start", 8, {"address": "127.0.0.1:443"}),
        ("connect-done", 20, {"address": "127.0.0.1:443"}),
        ("tls-start", 20),
        ("tls-done", 52, {"version": "TLSv1.3"}),
        ("got-connection", 53, {"reused": False}),
        ("wrote-headers", 54),
        ("wrote-body", 61),
        ("first-byte", 189),
        ("head", 190, {"status": 200}),
        ("done", 445),
    )
    times = trace.times
    expected = {
        "pool_wait": 0.001,
        "dns": 0.002,
        "connect": 0.016,
        "tls": 0.032,
        "send": 0.008,
        "wait": 0.128,
        "receive": 0.256,
        "total": 0.445,
    }
    assert {name: getattr(times, name) for name in expected} == pytest.approx(expected)
    assert times.address == "127.0.0.1:443"
    assert not times.reused
    leg = trace.legs[0]
    assert (leg.method, leg.url, leg.status, leg.error) == ("GET", "https://a.example/", 200, "")
    assert [(one.address, one.error) for one in leg.attempts] == [
        ("[::1]:443", "connection refused"),
        ("127.0.0.1:443", ""),
    ]


def test_nothing_has_happened() -> None:
    """An empty trace has times, of nothing."""
    assert Trace().times == Times()
    assert Trace().legs == ()


def test_an_answer_before_the_content_was_sent() -> None:
    """Nobody has waited for a negative time."""
    trace = made(("got-connection", 0), ("wrote-headers", 1), ("first-byte", 2), ("head", 2), ("wrote-body", 9))
    assert trace.times.wait == 0


def test_answers_before_the_answer() -> None:
    """The wait ends with the answer itself, not with 100 or 103."""
    trace = made(
        ("got-connection", 0),
        ("wrote-headers", 1),
        ("first-byte", 2),
        ("continue", 2),
        ("wrote-body", 4),
        ("interim", 5, {"status": 103}),
        ("head", 9, {"status": 200}),
        ("done", 10),
    )
    assert trace.times.wait == pytest.approx(0.005)


@pytest.mark.parametrize("cause", ["redirect", "replay", "retry"])
def test_legs(cause: str) -> None:
    """A redirect, a replay and a retry begin another leg; the rest of the answer before that stays with its leg."""
    trace = made(
        ("pool-wait", 0),
        ("head", 5, {"status": 302}),
        (cause, 6),
        ("done", 7),
        ("pool-wait", 8),
        ("head", 9),
        ("done", 11),
    )
    first, second = trace.legs
    assert [event.step for event in first.events] == ["pool-wait", "head", "done"]
    assert [event.step for event in second.events] == [cause, "pool-wait", "head", "done"]
    assert first.cause is None
    assert second.cause is not None
    assert second.cause.step == cause
    assert trace.times.total == pytest.approx(0.005)  # of the last


def test_a_leg_without_a_cause() -> None:
    """Who asks for a connection after an answer sends another request, as authentication does."""
    trace = made(
        ("pool-wait", 0), ("head", 5, {"status": 401}), ("done", 6), ("pool-wait", 8), ("head", 9, {"status": 200})
    )
    assert [leg.status for leg in trace.legs] == [401, 200]


def test_hooks_that_fail() -> None:
    """What a hook raises is logged; the trace goes on."""
    seen: list[TraceEvent] = []

    def on_event(event: TraceEvent) -> None:
        seen.append(event)
        raise ZeroDivisionError

    trace = Trace(on_event)
    with capture_logs() as logs:
        trace.mark(Step.POOL_WAIT, 1.0, url="x")
        trace.mark("done")
    assert seen == trace.events
    assert seen[0] == (Step.POOL_WAIT, 1.0, {"url": "x"})
    assert now() - 5 < seen[1].at <= now()
    assert [log["event"] for log in logs] == ["trace hook failed"] * 2


def test_bounds() -> None:
    """A thousand events are kept, and as many bytes as were asked for; others are counted; hooks hear of all."""
    heard: list[TraceEvent] = []
    trace = Trace(heard.append, keep_bytes=10)
    for _ in range(1005):
        trace.mark(Step.INTERIM)
    assert (len(trace.events), trace.left_out, len(heard)) == (1000, 5, 1005)
    for _ in range(3):
        trace.note_sent(b"1234")
        trace.note_received(memoryview(b"abcdefg"))
    assert (bytes(trace.sent), trace.sent_total) == (b"1234123412", 12)
    assert (bytes(trace.received), trace.received_total) == (b"abcdefgabc", 21)


def test_bytes_of_legs() -> None:
    """Each leg knows which bytes are its own, one that got no connection too."""
    trace = Trace(keep_bytes=100)
    trace.mark(Step.GOT_CONNECTION)
    trace.note_sent(b"first")
    trace.note_received(b"answer")
    trace.mark(Step.RETRY)
    trace.mark(Step.POOL_WAIT)
    trace.mark(Step.FAILED, error="refused")
    trace.mark(Step.RETRY)
    trace.mark(Step.GOT_CONNECTION)
    trace.note_sent(b"2nd")
    assert [leg.sent_range for leg in trace.legs] == [(0, 5), (5, 5), (5, 8)]
    assert [leg.received_range for leg in trace.legs] == [(0, 6), (6, 6), (6, 6)]


def test_tries_beside_each_other() -> None:
    """Each has events and bytes of its own, whichever order they come in; times are those of one's own try."""
    trace = Trace(keep_bytes=100)
    trace.mark(Step.POOL_WAIT, 0.0)
    trace.mark(Step.GOT_CONNECTION, 0.0)
    trace.note_sent(b"first")
    other = trace.fork()
    other.mark(Step.RETRY, 1.0, attempt=2, hedge=True)
    other.mark(Step.GOT_CONNECTION, 1.0)
    other.note_sent(b"2nd")
    trace.note_received(b"answer")
    trace.mark(Step.HEAD, 2.0, status=200)
    other.mark(Step.FAILED, 3.0, error="given up")
    trace.mark(Step.DONE, 4.0)
    first, second = trace.legs
    assert [event.step for event in first.events] == ["pool-wait", "got-connection", "head", "done"]
    assert [event.step for event in second.events] == ["retry", "got-connection", "failed"]
    assert (first.sent_range, second.sent_range) == ((0, 5), (5, 8))
    assert (first.received_range, second.received_range[0] - second.received_range[1]) == ((0, 6), 0)
    assert other.events is trace.events
    assert bytes(other.sent) == b"first2nd"
    assert (trace.times.total, other.times.total) == (4.0, 2.0)
    assert [leg.status for leg in other.legs] == [200, 0]


def test_what_a_new_connection_needs_is_no_waiting_for_the_pool() -> None:
    """Reading the certificates to trust has a time of its own."""
    times = made(("pool-wait", 0), ("dial-start", 2), ("dns-start", 40), ("dns-done", 41)).times
    assert times.pool_wait == pytest.approx(0.002)
    assert times.prepare == pytest.approx(0.038)
    assert made(("pool-wait", 0), ("dial-start", 2)).times.pool_wait == pytest.approx(0.002)


def test_mistakes() -> None:
    """Errors say what is wrong."""
    with pytest.raises(ValueError, match="keep_bytes -1: must be at least 0"):
        Trace(keep_bytes=-1)
    with pytest.raises(ValueError, match="'lunch' is not a valid Step"):
        Trace().mark("lunch")


async def test_a_request_over_tls() -> None:
    """Steps come in their order; the second request finds the connection of the first."""
    async with playing(answering(OK), secure=True) as server, Client(tls=trusting()) as client:
        traces = []
        for _ in range(2):
            response = await client.get(server.url, trace=Trace(keep_bytes=1000))
            assert await response.read() == b"ok"
            assert response.trace is not None
            traces.append(response.trace)
    first, second = traces
    assert [event.step for event in first.events] == [
        *("pool-wait", "dial-start", "connect-start", "connect-done", "tls-start", "tls-done", "got-connection"),
        *("wrote-headers", "first-byte", "head", "done"),
    ]
    at = [event.at for event in first.events]
    assert at == sorted(at)
    assert second.times.reused
    assert second.times.address == f"127.0.0.1:{server.port}"
    assert second.times.connect is None
    assert bytes(first.received) == OK
    assert first.sent.startswith(b"GET / HTTP/1.1\r\nhost: 127.0.0.1")


async def test_waiting_is_measured() -> None:
    """A server that takes its time is seen as waiting, within 10%."""

    async def play(peer: Peer) -> None:
        while await peer.asked() is not None:
            await asyncio.sleep(0.2)
            await peer.say(OK[:-2])
            await asyncio.sleep(0.3)
            await peer.say(OK[-2:])

    async with playing(play) as server, Client() as client:
        response = await client.get(server.url, trace=True)
        await response.read()
        assert response.trace is not None
        assert response.trace.times.wait == pytest.approx(0.2, rel=0.1)
        assert response.trace.times.receive == pytest.approx(0.3, rel=0.1)
