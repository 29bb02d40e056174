"""The HTTP server over real sockets: framing, order, limits, timeouts, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.engine.connection import CloseReason
from forebay.http import Exchange, HTTPServer, Receiver, ServerLimits, ServerTimeouts
from forebay.observe import merge
from tests.support import RawClient, eventually, open_descriptors, raw_client

TEXT = b"content-type: text/plain\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"


class Collect(Receiver):
    """Reads the whole content, then answers with it."""

    def __init__(self, exchange: Exchange, application: Site) -> None:
        self.exchange = exchange
        self.application = application
        self.body = b""

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_body_end(self) -> None:
        self.exchange.respond(200, TEXT, self.body)

    def on_disconnect(self, reason: CloseReason) -> None:
        self.application.disconnects.append(reason)


class Pour(Receiver):
    """Answers with many pieces, as fast as the client reads, and remembers how much was written at once."""

    def __init__(self, exchange: Exchange, application: Site, size: int) -> None:
        self.exchange = exchange
        self.application = application
        self.left = size
        exchange.attach(self)
        exchange.start(200, TEXT, size)
        self.on_writable()

    def on_writable(self) -> None:
        while self.left:
            piece = min(self.left, 65536)
            self.left -= piece
            if not self.exchange.write(b"x" * piece):
                self.application.pauses += 1
                return
        self.exchange.finish()

    def on_disconnect(self, reason: CloseReason) -> None:
        self.application.disconnects.append(reason)


class Site:
    """The application under test."""

    name = "site"

    def __init__(self) -> None:
        self.body_limit: int | None = 1_000_000
        self.held: list[Exchange] = []
        self.disconnects: list[CloseReason] = []
        self.pauses = 0
        self.seen = 0

    def on_request(self, exchange: Exchange) -> None:
        """Do what the path says."""
        self.seen += 1
        path = exchange.path
        if path == "/echo":
            exchange.attach(Collect(exchange, self))
        elif path == "/hold":
            exchange.attach(_Watch(self))
            self.held.append(exchange)
        elif path == "/never-read":
            self.held.append(exchange)
        elif path == "/big":
            exchange.respond(200, TEXT, b"x" * 1_000_000)
        elif path == "/early":
            exchange.respond(403, TEXT, b"no")
        elif path.startswith("/pour/"):
            Pour(exchange, self, int(path[6:]))
        elif path == "/stream":
            exchange.start(200, TEXT, None)
            exchange.write(b"one")
            exchange.write(b"")
            exchange.write(b"two")
            exchange.finish()
        elif path == "/short":
            exchange.start(200, TEXT, 10)
            exchange.write(b"short")
            exchange.finish()
        elif path == "/fail":
            raise ZeroDivisionError("secret")
        elif path.startswith("/status/"):
            exchange.respond(int(path[8:]), TEXT, b"content")
        else:
            exchange.respond(200, TEXT, f"{exchange.method} {path}".encode())


class _Watch(Receiver):
    def __init__(self, application: Site) -> None:
        self.application = application

    def on_disconnect(self, reason: CloseReason) -> None:
        self.application.disconnects.append(reason)


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[tuple[HTTPServer, Site, int]]:
    """A server with the site, its site, its port."""
    site = Site()
    server = HTTPServer(site, bind="http://127.0.0.1:0", **options)
    await server.start()
    try:
        yield server, site, server.addresses[0].port
    finally:
        await server.stop()


@pytest.mark.both_loops
async def test_keep_alive_and_pipelining_answer_in_order() -> None:
    """RFC 9112 sections 9.3 and 9.3.2: requests sent at once are answered one after the other."""
    async with serving() as (server, _, port), raw_client(port) as client:
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(500)))
        for n in range(500):
            status, headers, body = await client.response()
            assert (status, body) == (200, b"GET /%d" % n)
        assert "connection" not in headers
        assert headers["date"].endswith("GMT")
        assert server.statistics()["requests"] == 500
        assert server.connections == 1


async def test_an_answer_that_takes_long_keeps_its_place() -> None:
    """A pipelined request is not handed on before the one in front of it is answered."""
    async with serving() as (_, site, port), raw_client(port) as client:
        await client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: site.held)
        assert site.seen == 1
        site.held[0].respond(200, TEXT, b"held")
        assert (await client.response())[2] == b"held"
        assert (await client.response())[2] == b"GET /b"


async def test_pipelining_is_bounded() -> None:
    """Past the limit reading pauses; everything is answered all the same."""
    async with serving(limits=ServerLimits(pipelined=4)) as (_, site, port), raw_client(port) as client:
        await client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: site.held)
        for n in range(50):
            await client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n)
        site.held[0].respond(200, TEXT, b"held")
        await client.response()
        for n in range(50):
            assert (await client.response())[2] == b"GET /%d" % n


@pytest.mark.parametrize("chunked", [False, True])
async def test_contents_in_both_framings(chunked: bool) -> None:
    """Content-Length and chunked, in one piece and in many."""
    content = bytes(range(256)) * 2000
    async with serving() as (_, _, port), raw_client(port) as client:
        for piece in (len(content), 7000):
            head = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
            if chunked:
                await client.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
                for start in range(0, len(content), piece):
                    part = content[start : start + piece]
                    await client.send(b"%x\r\n%b\r\n" % (len(part), part))
                await client.send(b"0\r\n\r\n")
            else:
                await client.send(head + b"Content-Length: %d\r\n\r\n" % len(content))
                for start in range(0, len(content), piece):
                    await client.send(content[start : start + piece])
            assert (await client.response())[2] == content


async def test_answers_without_a_length() -> None:
    """Chunked for HTTP/1.1; ended by closing for HTTP/1.0 (RFC 9112 section 6.3)."""
    async with serving() as (_, _, port):
        async with raw_client(port) as client:
            assert (await client.get("/stream"))[2] == b"onetwo"
            assert (await client.get("/stream"))[1]["transfer-encoding"] == "chunked"
        async with raw_client(port) as client:
            await client.send(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (await client.rest()).endswith(b"connection: close\r\n\r\nonetwo")


async def test_methods_and_statuses_without_content() -> None:
    """RFC 9110 section 6.4.1: HEAD has the headers of GET; 204 and 304 have no content; the connection goes on."""
    async with serving() as (_, _, port), raw_client(port) as client:
        await client.send(b"HEAD /status/200 HTTP/1.1\r\nHost: a\r\n\r\n")
        status, headers, _ = await client.response(head_only=True)
        assert (status, headers["content-length"]) == (200, "7")
        await client.send(b"HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.response(head_only=True))[1]["transfer-encoding"] == "chunked"
        await client.send(b"HEAD /pour/100000 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.response(head_only=True))[1]["content-length"] == "100000"
        assert "content-length" not in (await client.get("/status/204"))[1]
        assert (await client.get("/status/304"))[2] == b""
        assert (await client.get("/x"))[2] == b"GET /x"


async def test_connection_options() -> None:
    """RFC 9112 section 9.3: close and keep-alive of both versions are honoured, and said."""
    async with serving() as (_, _, port):
        for request, close in (
            (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", True),
            (b"GET / HTTP/1.0\r\n\r\n", True),
            (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),
        ):
            async with raw_client(port) as client:
                await client.send(request)
                _, headers, _ = await client.response()
                assert headers["connection"] == ("close" if close else "keep-alive")
                if close:
                    assert await client.rest() == b""
                else:
                    assert (await client.get("/"))[0] == 200


async def test_the_client_may_wait_to_be_asked_for_its_content() -> None:
    """RFC 9110 section 10.1.1: 100 is sent when the application wants the content, and not otherwise."""
    async with serving() as (_, _, port):
        async with raw_client(port) as client:
            await client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            assert (await client.response())[0] == 100
            await client.send(b"abc")
            assert (await client.response())[2] == b"abc"
        async with raw_client(port) as client:
            await client.send(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            status, headers, _ = await client.response()
            assert (status, headers["connection"]) == (403, "close")
        async with raw_client(port) as client:
            await client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: x\r\n\r\n")
            assert (await client.response())[0] == 417


async def test_an_early_answer_survives_an_unread_content() -> None:
    """RFC 9112 section 9.6: a small rest is read and thrown away; a large one ends the connection, not the answer."""
    async with serving() as (_, _, port):
        async with raw_client(port) as client:
            await client.send(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
            assert (await client.response())[0] == 403
            await client.send(b"cde")
            assert (await client.get("/x"))[2] == b"GET /x"
        async with raw_client(port) as client:
            await client.send(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n")
            await client.send(b"x" * 300_000)
            status, headers, _ = await client.response()
            assert (status, headers["connection"]) == (403, "close")


async def test_a_paused_content_does_not_hold_a_connection_that_was_answered_early() -> None:
    """The rest of a content nobody wants is read and dropped, and the next request is served."""
    async with serving(timeouts=_timeouts(idle=5.0)) as (server, site, port):
        async with raw_client(port) as client:
            await client.send(b"POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 70_000)
            await eventually(lambda: site.held and site.held[0].body_received >= 65536)
            site.held[0].pause_body()
            site.held[0].respond(200, TEXT, b"early")
            assert (await client.response())[2] == b"early"
            await client.send(b"x" * 30_000)
            assert (await client.get("/x"))[2] == b"GET /x"
            await asyncio.sleep(0.6)  # longer than the timeouts of heads and contents
            assert (await client.get("/x"))[2] == b"GET /x"
        async with raw_client(port) as client:
            await client.send(b"POST /never-read HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 70_000)
            await eventually(lambda: len(site.held) == 2)
            site.held[1].respond(200, TEXT, b"early")
            assert (await client.response())[2] == b"early"
            assert await client.rest(timeout=2) == b"", "the rest never came: closed, without a second answer"
        await eventually(lambda: server.connections == 0)


async def test_a_stray_cancellation_in_the_application_is_answered() -> None:
    """Even what is no Exception must not leave a client without an answer."""

    def on_request(exchange: Exchange) -> None:
        raise asyncio.CancelledError

    async with serving() as (server, site, port), raw_client(port) as client:
        site.on_request = on_request  # type: ignore[method-assign]
        assert (await client.get("/"))[0] == 500
        assert server.in_flight == 0


async def test_pipelined_answers_wait_for_a_client_that_does_not_read() -> None:
    """One read may hold thousands of requests: their answers are not made before there is room for them."""
    async with serving() as (_, site, port), raw_client(port) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
        before = -1
        while before != site.seen:
            before = site.seen
            await asyncio.sleep(0.1)
        assert 0 < site.seen < 100
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(500):
            assert len((await client.response())[2]) == 1_000_000


async def test_contents_past_the_limit_are_refused() -> None:
    """413: at once for a Content-Length, while reading for chunks."""
    async with serving() as (server, site, port):
        site.body_limit = 1000
        async with raw_client(port) as client:
            await client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n")
            assert (await client.response())[0] == 413
            assert site.seen == 0
        async with raw_client(port) as client:
            await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000)
            await client.send(b"\r\n1\r\nx\r\n")
            assert (await client.response())[0] == 413
            assert await client.rest() == b""
        assert server.statistics()["refused"] == 2
        assert server.in_flight == 0


async def test_a_content_nobody_reads_is_not_kept_in_memory() -> None:
    """Reading pauses at 64 KiB, and goes on when the application wants it."""
    async with serving() as (_, site, port), raw_client(port) as client:
        site.body_limit = None
        await client.send(b"POST /never-read HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")
        await eventually(lambda: site.held)
        client.writer.write(b"x" * 50_000_000)
        received = -1
        while received != site.held[0].body_received:
            received = site.held[0].body_received
            await asyncio.sleep(0.05)
        assert 65536 <= received < 1_000_000
        site.held[0].attach(Collect(site.held[0], site))
        assert len((await client.response(timeout=20))[2]) == 50_000_000


class Lazy(Receiver):
    """Pauses at every piece, and resumes only when somebody says so."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def on_body(self, data: bytes) -> None:
        self.exchange.pause_body()

    def on_body_end(self) -> None:
        self.exchange.respond(200, TEXT, b"all")
        self.exchange.resume_body()


async def test_a_pause_at_the_end_of_a_content_does_not_hold_up_the_next_request() -> None:
    """Whoever paused for a content need not resume once it is complete: the connection goes on."""
    async with serving() as (_, site, port), raw_client(port) as client:
        site.on_request = lambda exchange: exchange.attach(Lazy(exchange))  # type: ignore[method-assign]
        for _ in range(3):
            await client.send(POST + b"Content-Length: 3\r\n\r\nabc")
            assert (await client.response())[2] == b"all"


async def test_a_slow_reader_slows_the_answer_down() -> None:
    """``write`` says when to wait, ``on_writable`` when to go on."""
    async with serving() as (server, site, port), raw_client(port) as client:
        await client.send(b"GET /pour/30000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: site.pauses)
        assert server.in_flight == 1
        assert len((await client.response(timeout=20))[2]) == 30_000_000
        assert site.pauses > 1
        await eventually(lambda: server.in_flight == 0)


async def test_answers_that_cannot_be_completed_are_cut() -> None:
    """The client must notice: the connection ends before the announced length."""
    async with serving() as (server, _, port), raw_client(port) as client:
        await client.send(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n")
        assert not (await client.rest()).endswith(b"\r\n\r\nshort     ")
        assert server.aborts == 1
        assert server.in_flight == 0


async def test_a_failing_application_is_a_500_without_details() -> None:
    """The exception is logged, its text is not for clients, and the server goes on."""
    async with serving() as (_, _, port), raw_client(port) as client:
        status, headers, body = await client.get("/fail")
        assert (status, headers["content-type"]) == (500, "application/problem+json")
        assert b"secret" not in body
        assert (await client.get("/x"))[0] == 200


async def test_half_close_is_answered() -> None:
    """RFC 9112 section 9.6: a client that has sent all it wants to still gets its answers."""
    async with serving() as (_, site, port), raw_client(port) as client:
        await client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        client.send_eof()
        await eventually(lambda: site.held)
        site.held[0].respond(200, TEXT, b"late")
        while (answer := await client.response())[0] == 100:
            pass  # how the server learns whether somebody is there, when the answer takes longer than 10 ms
        assert answer[2] == b"late"
        assert await client.rest() == b""


@pytest.mark.both_loops
async def test_a_client_that_is_gone_is_reported() -> None:
    """A reset reaches the receiver once; what is answered later goes nowhere."""
    async with serving() as (server, site, port):
        client = await RawClient.connect(port)
        await client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: site.held)
        client.abort()
        await eventually(lambda: site.disconnects)
        assert site.disconnects == [CloseReason.RESET]
        assert server.in_flight == 0
        assert server.disconnects == 1
        assert site.held[0].finished


# -- timeouts


def _timeouts(**seconds: float) -> ServerTimeouts:
    return ServerTimeouts(**({"head": 0.3, "idle": 0.3, "body": 0.3, "write": 0.5} | seconds))  # type: ignore[arg-type]


async def _slowly(client: RawClient, data: bytes, times: int = 100) -> None:
    for _ in range(times):
        try:
            await client.send(data)
        except ConnectionError:
            return
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("first", "then", "status"),
    [
        pytest.param(b"", b"", 0, id="says nothing"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"y", 408, id="a head byte by byte"),
        pytest.param(b"GE", b"", 408, id="half a method"),
        pytest.param(POST + b"Content-Length: 100000\r\n\r\n", b"", 408, id="no content"),
        pytest.param(POST + b"Content-Length: 100000\r\n\r\n", b"x", 408, id="slow content"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 408, id="slow chunks"),
    ],
)
async def test_slow_clients_are_closed_in_time(first: bytes, then: bytes, status: int) -> None:
    """Every wait for a client has its timeout: 408 for a request that was begun, a plain close before one."""
    async with serving(timeouts=_timeouts()) as (server, _, port), raw_client(port) as client:
        await client.send(first)
        sending = asyncio.ensure_future(_slowly(client, then)) if then else None
        answer = await client.rest(timeout=2)
        if sending is not None:
            await sending
        assert answer.startswith(b"HTTP/1.1 %d" % status if status else b"")
        assert bool(answer) == bool(status)
        await eventually(lambda: server.connections == 0)
        assert server.in_flight == 0


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    """The idle timeout starts anew with every answer, and does not run while one is being made."""
    async with serving(timeouts=_timeouts(idle=0.5)) as (_, site, port), raw_client(port) as client:
        for _ in range(4):
            await asyncio.sleep(0.3)
            assert (await client.get("/x"))[0] == 200
        await client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: site.held)
        await asyncio.sleep(1.0)
        site.held[0].respond(200, TEXT, b"late")
        assert (await client.response())[2] == b"late"
        assert await client.rest(timeout=2) == b""


async def test_a_client_that_does_not_read_its_answer_is_cut() -> None:
    """The write timeout: no byte taken for so long."""
    async with serving(timeouts=_timeouts()) as (server, site, port), raw_client(port) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(b"GET /pour/50000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: site.disconnects, timeout=4)
        assert site.disconnects == [CloseReason.WRITE_STALL]
        assert server.in_flight == 0


# -- drain and stop


@pytest.mark.both_loops
async def test_drain_finishes_what_is_in_flight() -> None:
    """Idle connections close at once, new ones are refused, the answer in flight is completed, with close."""
    async with serving() as (server, site, port):
        idle = await RawClient.connect(port)
        await idle.get("/x")
        busy = await RawClient.connect(port)
        await busy.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: site.held)
        draining = asyncio.ensure_future(server.drain())
        assert await idle.rest() == b""
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await RawClient.connect(port)
        assert not draining.done()
        site.held[0].respond(200, TEXT, b"done")
        _, headers, body = await busy.response()
        assert (headers["connection"], body) == ("close", b"done")
        assert await busy.rest() == b""
        await asyncio.wait_for(draining, 5)
        await idle.close()
        await busy.close()


async def test_stop_cuts_what_is_left() -> None:
    """Without drain, or after its deadline: receivers are told, connections are gone, nothing leaks."""
    async with serving():
        pass  # what the loop opens once and keeps
    before = open_descriptors()
    async with serving() as (server, site, port):
        client = await RawClient.connect(port)
        await client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: site.held)
        await server.stop()
        assert site.disconnects == [CloseReason.STOPPED]
        assert await client.rest() == b""
        await client.close()
    await eventually(lambda: open_descriptors() <= before)


async def test_metrics_count_what_was_answered_and_refused() -> None:
    """One sample per method and status; refusals beside them."""
    async with serving() as (server, _, port):
        async with raw_client(port) as client:
            for _ in range(3):
                await client.get("/x")
            await client.get("/status/404")
        async with raw_client(port) as client:
            await client.send(b"nonsense\r\n\r\n")
            assert (await client.response())[0] == 400
        samples = {
            (family.name, dict(sample.labels).get("status")): sample.value
            for family in merge([server.collect()])
            for sample in family.samples
        }
        assert samples["forebay_http_requests", "200"] == 3
        assert samples["forebay_http_requests", "404"] == 1
        assert samples["forebay_http_refused", "400"] == 1


# -- hostile bytes; the cases themselves are in tests/wire/test_http1.py

_FRAGMENTS = st.sampled_from(
    [
        b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n",
        b"0\r\n\r\n",
        b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
        b"GET /stream HTTP/1.0\r\n\r\n",
        b"HEAD /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\n",
        b"Content-Length: 3\r\n",
        b"\r\n",
        b"\n",
        b"\x00",
        b"GET /../ HTTP/1.1\r\n",
        b"X: " + b"y" * 3000,
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(_FRAGMENTS, st.binary(max_size=20)), min_size=1, max_size=12), st.booleans())
def test_any_bytes_leave_the_server_serving(pieces: list[bytes], half_close: bool) -> None:
    """Fuzz: whatever is sent, in whatever pieces, the connection ends in time, and the next one is served."""

    async def scenario() -> None:
        async with serving(timeouts=_timeouts(head=0.1, idle=0.1, body=0.1, linger=0.1)) as (server, _, port):
            client = await RawClient.connect(port)
            try:
                for piece in pieces:
                    await client.send(piece)
                if half_close:
                    client.send_eof()
            except OSError:
                pass  # the server has had enough
            answer = await client.rest(timeout=3)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
            await client.close()
            await eventually(lambda: server.connections == 0, timeout=3)
            assert server.in_flight == 0
            async with raw_client(port) as other:
                assert (await other.get("/x"))[2] == b"GET /x"

    asyncio.run(scenario())
