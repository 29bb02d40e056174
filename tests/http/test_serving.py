"""Where the HTTP server listens, what it may be told, and what it counts: over real sockets of every kind."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import forebay.http
from forebay import App
from forebay.engine import Address, Outbound, SlowConsumer
from forebay.engine.connection import Connection
from forebay.engine.proxy_protocol import ProxyProtocol
from forebay.engine.settings import Admission
from forebay.errors import StartError
from forebay.http import Exchange, HTTPServer, Receiver, ServerLimits, ServerTimeouts
from forebay.http.access_log import AccessLog
from forebay.http.websocket import WebSocketSettings
from tests.engine.connecting import client_context, server_tls
from tests.support import RawClient, eventually, open_descriptors, raw_client, running

TEXT = b"content-type: text/plain\r\n"


class Site:
    """The application under test: says how it was asked, or keeps the request."""

    name = "site"
    body_limit: int | None = 1000

    def __init__(self) -> None:
        self.held: list[Exchange] = []
        self.life: list[str] = []

    async def startup(self) -> None:
        self.life.append("startup")

    async def shutdown(self) -> None:
        self.life.append("shutdown")

    def on_request(self, exchange: Exchange) -> None:
        if exchange.path == "/hold":
            self.held.append(exchange)
        else:
            exchange.respond(200, TEXT, f"{exchange.scheme} {exchange.client}".encode())


@asynccontextmanager
async def serving(*bind: str, **options: Any) -> AsyncIterator[tuple[HTTPServer, Site]]:
    """A server with the site."""
    site = Site()
    server = HTTPServer(site, bind=bind or ["http://127.0.0.1:0"], **options)
    await server.start()
    try:
        yield server, site
    finally:
        await server.stop()


@asynccontextmanager
async def client_of(address: Address, *, alpn: list[str] | None = None) -> AsyncIterator[RawClient]:
    """A client of whatever an address of a server stands for."""
    options: dict[str, Any] = {"limit": 1 << 20}
    if address.scheme == "https":
        options |= {"ssl": client_context(), "server_hostname": "localhost"}
        if alpn is not None:
            options["ssl"].set_alpn_protocols(alpn)
    if address.scheme == "unix":
        path = address.host.replace("@", "\0", 1)
        opening = asyncio.open_unix_connection(path, **options)
    else:
        opening = asyncio.open_connection(address.host, address.port, **options)
    client = RawClient(*await asyncio.wait_for(opening, 5))
    try:
        yield client
    finally:
        client.writer.transport.abort()


def negotiated(client: RawClient) -> str | None:
    """The protocol that TLS agreed on."""
    found: ssl.SSLObject = client.writer.get_extra_info("ssl_object")
    return found.selected_alpn_protocol()


# -- addresses


@pytest.mark.both_loops
async def test_https_is_served_with_http_1_1_negotiated() -> None:
    """RFC 7301: a client that offers several protocols gets the one that is spoken; one that offers none is served."""
    async with serving("https://127.0.0.1:0", tls=server_tls()) as (server, _):
        (address,) = server.addresses
        assert address.scheme == "https"
        assert address.port
        async with client_of(address, alpn=["h2", "http/1.1"]) as client:
            assert negotiated(client) == "http/1.1"
            for _ in range(2):
                assert (await client.get("/"))[2] == b"https 127.0.0.1"
        async with client_of(address) as client:
            assert negotiated(client) is None
            assert (await client.get("/"))[2] == b"https 127.0.0.1"


@pytest.mark.both_loops
async def test_one_server_has_addresses_of_all_kinds(tmp_path: Path) -> None:
    """Each is shown as it can be reached: ports that were picked, and what an inherited descriptor is bound to."""
    inherited = socket.create_server(("127.0.0.1", 0))
    path = tmp_path / "site.sock"
    bind = ["http://127.0.0.1:0", "https://127.0.0.1:0", f"unix://{path}", f"fd://{inherited.fileno()}"]
    async with serving(*bind, tls=server_tls()) as (server, _):
        assert [str(address) for address in server.bind] == bind
        plain, encrypted, unix, fd = server.addresses
        assert [address.scheme for address in server.addresses] == ["http", "https", "unix", "http"]
        assert 0 not in (plain.port, encrypted.port)
        assert unix.host == str(path)
        assert fd.port == inherited.getsockname()[1]
        for address, answer in (
            (plain, b"http 127.0.0.1"),
            (encrypted, b"https 127.0.0.1"),
            (unix, b"http unix"),
            (fd, b"http 127.0.0.1"),
        ):
            async with client_of(address) as client:
                assert (await client.get("/"))[2] == answer
        assert server.statistics()["requests"] == 4
    assert not path.exists()
    inherited.close()


async def test_an_inherited_unix_socket_is_served(tmp_path: Path) -> None:
    """And its file is left to whoever made it."""
    path = tmp_path / "inherited.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        async with serving(f"fd://{sock.fileno()}") as (server, _):
            assert [str(address) for address in server.addresses] == [f"unix://{path}"]
            async with client_of(server.addresses[0]) as client:
                assert (await client.get("/"))[0] == 200
        assert path.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bind": "tcp://127.0.0.1:1"}, "expected http or https or unix or fd"),
        ({"bind": []}, "bind must name an address"),
        ({"bind": "https://127.0.0.1:0"}, "https://127.0.0.1:0 needs a certificate"),
        ({"bind": "https://127.0.0.1:0", "tls": server_tls(alpn=["h2", "http/1.1"])}, "alpn 'h2': .* http/1.1 only"),
        ({"server_header": ""}, "server_header ''"),
        ({"server_header": "a\r\nx: y"}, "visible ASCII"),
        ({"server_header": " a"}, "visible ASCII"),
        ({"server_header": "ü"}, "visible ASCII"),
    ],
)
def test_what_cannot_be_served_is_refused(options: dict[str, Any], said: str) -> None:
    """When the server is made, with what would be right."""
    with pytest.raises(ValueError, match=said):
        HTTPServer(Site(), **{"bind": "http://127.0.0.1:0", **options})


async def test_addresses_may_be_set_until_the_start() -> None:
    """A certificate that is missing then fails the start, and nothing listens."""
    server = HTTPServer(Site(), bind="http://127.0.0.1:0")
    server.bind = ["https://127.0.0.1:0"]
    with pytest.raises(StartError, match=r"site: https://127\.0\.0\.1:0 needs a certificate"):
        await server.start()
    with pytest.raises(ValueError, match="expected http or https"):
        server.bind = "udp://127.0.0.1:0"
    server.bind = [Address("http", "127.0.0.1", 0)]
    await server.start()
    async with client_of(server.addresses[0]) as client:
        assert (await client.get("/"))[0] == 200
    await server.stop()


@pytest.mark.both_loops
async def test_a_drain_over_all_kinds_of_sockets(tmp_path: Path) -> None:
    """Idle connections close at once, what is in flight is answered with close, and nothing is left open."""
    bind = ["http://127.0.0.1:0", "https://127.0.0.1:0", f"unix://{tmp_path}/s"]
    async with serving(*bind, tls=server_tls()):
        pass  # what the loop opens once and keeps
    before = open_descriptors()
    async with serving(*bind, tls=server_tls()) as (server, site), AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(client_of(address)) for address in server.addresses]
        busy = [await stack.enter_async_context(client_of(address)) for address in server.addresses]
        for client in idle:
            await client.get("/")
        for client in busy:
            await client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: len(site.held) == 3)
        draining = asyncio.ensure_future(server.drain())
        for client in idle:
            assert await client.rest() == b""
        assert not draining.done()
        for exchange in site.held:
            exchange.respond(200, TEXT, b"done")
        for client in busy:
            _, headers, body = await client.response()
            assert (headers["connection"], body) == ("close", b"done")
            assert await client.rest() == b""
        await asyncio.wait_for(draining, 5)
    await eventually(lambda: open_descriptors() <= before)


async def test_the_client_is_who_a_trusted_proxy_says() -> None:
    """The PROXY protocol is passed through to the engine."""
    async with serving(proxy_protocol=ProxyProtocol()) as (server, _), client_of(server.addresses[0]) as client:
        await client.send(b"PROXY TCP4 203.0.113.9 203.0.113.1 4000 80\r\n")
        assert (await client.get("/"))[2] == b"http 203.0.113.9"


async def test_admission_is_the_engines() -> None:
    """One connection per peer: the second one is closed as soon as it is accepted."""
    async with (
        serving("http://127.0.0.1:0", admission=Admission(per_peer=1)) as (server, _),
        client_of(server.addresses[0]) as first,
    ):
        assert (await first.get("/"))[0] == 200
        async with client_of(server.addresses[0]) as second:
            assert await second.rest() == b""
        assert server.statistics()["connections"]["refused_by"] == {"per-peer": 1}


# -- what it is told


@pytest.mark.parametrize(("header", "shown"), [("forebay", "forebay"), ("Mill/2 (a b)", "Mill/2 (a b)"), (None, None)])
async def test_the_server_field_is_what_it_was_given(header: str | None, shown: str | None) -> None:
    """RFC 9110 section 10.2.4: it may be left out; `date` stays, also in refusals."""
    async with serving(server_header=header) as (server, _), client_of(server.addresses[0]) as client:
        _, headers, _ = await client.get("/")
        assert headers.get("server") == shown
        assert headers["date"].endswith("GMT")
        await client.send(b"nonsense\r\n\r\n")
        status, headers, _ = await client.response()
        assert (status, headers.get("server")) == (400, shown)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"head": 0}, "ServerLimits head 0: must be a whole number of at least 1$"),
        ({"field": -1}, "ServerLimits field -1: "),
        ({"headers": 1.5}, "ServerLimits headers 1.5: "),
        ({"connections": True}, "ServerLimits connections True: "),
        ({"trailers": -1}, "ServerLimits trailers -1: must be a whole number of at least 0$"),
        ({"chunk_extensions": 0}, "ServerLimits chunk_extensions 0: "),
        ({"requests": 0}, "ServerLimits requests 0: must be a whole number of at least 1, or None$"),
        ({"pipelined": None}, "ServerLimits pipelined None: must be a whole number of at least 1$"),
    ],
)
def test_limits_that_make_no_sense_are_refused(given: dict[str, Any], said: str) -> None:
    """With the name, the value and what may be given."""
    with pytest.raises(ValueError, match=said):
        ServerLimits(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"head": 0}, "ServerTimeouts head 0: must be a finite number, more than 0$"),
        ({"idle": None}, "ServerTimeouts idle None: "),
        ({"body": "5s"}, "ServerTimeouts body '5s': "),
        ({"body_rate": -1}, "ServerTimeouts body_rate -1: must be a finite number, at least 0$"),
        ({"write": float("inf")}, "ServerTimeouts write inf: "),
        ({"linger": float("nan")}, "ServerTimeouts linger nan: "),
        ({"request": 0}, "ServerTimeouts request 0: must be a finite number, more than 0, or None$"),
        ({"request": True}, "ServerTimeouts request True: "),
    ],
)
def test_timeouts_that_make_no_sense_are_refused(given: dict[str, Any], said: str) -> None:
    """With the name, the value and what may be given."""
    with pytest.raises(ValueError, match=said):
        ServerTimeouts(**given)


def test_what_switches_a_protection_off_may_be_given() -> None:
    """Those that have a value for it."""
    limits = ServerLimits(requests=None, trailers=0)
    assert (limits.requests, limits.trailers) == (None, 0)
    timeouts = ServerTimeouts(request=None, body_rate=0, linger=0)
    assert (timeouts.request, timeouts.body_rate, timeouts.linger) == (None, 0, 0)


_GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
_CHUNKED = b"POST /hold HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("limits", "within", "past", "status", "reason"),
    [
        (
            {"line": 20},
            b"GET /234567890123456789 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /23456789012345678901 HTTP/1.1\r\nHost: a\r\n\r\n",
            414,
            "target",
        ),
        (
            {"head": 200, "field": 500},
            _GET + b"X: " + b"y" * 100 + b"\r\n\r\n",
            _GET + b"X: " + b"y" * 300,
            431,
            "head",
        ),
        ({"field": 40}, _GET + b"X: " + b"y" * 30 + b"\r\n\r\n", _GET + b"X: " + b"y" * 50 + b"\r\n\r\n", 431, "field"),
        ({"headers": 2}, _GET + b"X: 1\r\n\r\n", _GET + b"X: 1\r\nX: 2\r\n\r\n", 431, "fields"),
        (
            {"trailers": 30},
            _CHUNKED + b"0\r\nX: 1\r\n\r\n",
            _CHUNKED + b"0\r\nX: " + b"y" * 40 + b"\r\n\r\n",
            431,
            "trailers",
        ),
        ({"chunk_extensions": 20}, _CHUNKED + b"1;a=b\r\nx\r\n0\r\n\r\n", _CHUNKED + b"1;" + b"a" * 40, 400, "chunk"),
    ],
)
async def test_a_limit_that_is_passed_is_answered_and_counted(
    limits: dict[str, int], within: bytes, past: bytes, status: int, reason: str
) -> None:
    """Up to it requests are served; past it they are refused with the status and the reason of the guide."""
    async with serving(limits=ServerLimits(**limits)) as (server, site):
        port = server.addresses[0].port
        async with raw_client(port) as client:
            await client.send(within)
            if b"/hold" in within:
                await eventually(lambda: site.held and site.held[0].body_complete)
                site.held.pop().respond(200, TEXT, b"")
            assert (await client.response())[0] == 200
            assert server.refused_by == {}
        async with raw_client(port) as client:
            await client.send(past)
            answered, headers, _ = await client.response()
            assert (answered, headers["connection"]) == (status, "close")
        (found,) = server.refused_by
        assert reason in found
        assert dict(server.refused) == {status: 1}


async def test_requests_of_one_connection_may_be_counted() -> None:
    """RFC 9112 section 9.6: the last one says that it is; what is sent after it is not read."""
    async with serving(limits=ServerLimits(requests=3)) as (server, _), raw_client(server.addresses[0].port) as client:
        await client.send((_GET + b"\r\n") * 5)
        answers = [await client.response() for _ in range(3)]
        assert [headers.get("connection") for _, headers, _ in answers] == [None, None, "close"]
        assert await client.rest() == b""
        assert server.statistics()["requests"] == 3


@pytest.mark.parametrize(
    ("timeouts", "sent", "status", "reason"),
    [
        ({"head": 0.3}, b"", 0, "first-byte"),
        ({"head": 0.3}, b"GET / HT", 408, "head-timeout"),
        ({"head": 0.3, "idle": 0.3}, _GET + b"\r\n", 200, "idle"),
        ({"body": 0.3}, b"POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", 408, "body-timeout"),
        ({"request": 0.3}, b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n", 504, ""),
    ],
)
async def test_a_timeout_that_is_over_is_answered_and_counted(
    timeouts: dict[str, float], sent: bytes, status: int, reason: str
) -> None:
    """With the status and the reason of the guide: those of requests among the refusals, those of connections by why
    they were closed, and the deadline of an answer by itself."""
    async with (
        serving(timeouts=ServerTimeouts(**timeouts)) as (server, _),  # type: ignore[arg-type]
        raw_client(server.addresses[0].port) as client,
    ):
        await client.send(sent)
        if status:
            assert (await client.response())[0] == status
        if status == 504:
            assert (server.deadlines, server.in_flight) == (1, 0)
            return
        assert await client.rest(timeout=3) == b""
        await eventually(lambda: server.connections == 0)
        if status == 408:
            assert server.refused_by == {reason: 1}
        else:
            assert reason in server.statistics()["connections"]["closed"]


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("begun", "rest"),
    [
        (b"", _GET + b"\r\n"),
        (_GET, b"\r\n"),
        (_GET + b"\r\n", _GET + b"\r\n"),
        (b"POST /", b" HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx", b"y"),
    ],
)
async def test_a_loop_that_stood_still_reads_before_it_cuts(begun: bytes, rest: bytes) -> None:
    """What a client has sent in time is not late: a first request, the rest of one, the next one, content."""
    timeouts = ServerTimeouts(head=0.4, idle=0.4, body=0.4)
    app = App("echo", body_limit=10)

    @app.route("/", ["GET", "POST"])
    async def root(content: bytes) -> bytes:
        return content

    @app.get("/busy")
    def busy() -> None:
        client.writer.write(rest)  # it is in the kernel with that
        time.sleep(0.9)  # whatever holds up a loop

    server = HTTPServer(app, bind="http://127.0.0.1:0", timeouts=timeouts)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(server))
        client, other = [await stack.enter_async_context(raw_client(server.addresses[0].port)) for _ in range(2)]
        await client.send(begun)
        if begun.endswith(b"a\r\n\r\n"):
            assert (await client.response())[0] == 200
        assert (await other.get("/busy"))[0] == 204
        assert (await client.response())[0] == 200


async def test_content_that_comes_too_slowly_on_average_is_refused() -> None:
    """A byte now and then is not enough; with a rate of 0 it is."""
    request = b"POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    for rate, status in ((10_000, 408), (0, 0)):
        async with (
            serving(timeouts=ServerTimeouts(body=0.4, body_rate=rate)) as (server, site),
            raw_client(server.addresses[0].port) as client,
        ):
            await client.send(request)
            await eventually(partial(getattr, site, "held"))
            site.held[0].attach(Receiver())
            for _ in range(12):  # for as long as the rate is looked at: what comes in time is the point
                await asyncio.sleep(0.1)
                with suppress(ConnectionError):
                    await client.send(b"x")
            if status:
                assert (await client.response())[0] == status
                assert server.refused_by == {"body-rate": 1}
            else:
                assert (server.refused_by, server.in_flight) == ({}, 1)


# -- its life, and what it counts


async def test_the_access_log_is_written_to_its_end(tmp_path: Path) -> None:
    """A request that a stop cuts is logged too; once the server has stopped, every line is there."""
    path = tmp_path / "access.log"
    async with (
        serving(access_log=AccessLog(path, "{method} {path} {status}")) as (server, site),
        client_of(server.addresses[0]) as client,
        client_of(server.addresses[0]) as other,
    ):
        for n in range(3):
            await client.get(f"/{n}")
        await other.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: site.held)
        names = [family.name for family in server.collect()]
        await server.stop()
    assert path.read_text().splitlines() == ["GET /0 200", "GET /1 200", "GET /2 200", "GET /hold 499"]
    assert "forebay_access_log_lines" in names
    assert site.life == ["startup", "shutdown"]


async def test_servers_share_an_access_log(tmp_path: Path) -> None:
    """One that stops, twice even, leaves it to the others."""
    path = tmp_path / "access.log"
    shared = AccessLog(path, "{path}")
    async with serving(access_log=shared) as (server, _):
        async with serving(access_log=shared) as (other, _):
            await other.stop()
        async with client_of(server.addresses[0]) as client:
            await client.get("/after")
    assert path.read_text() == "/after\n"


async def test_a_start_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    """The application is told, and the access log is closed."""
    threads = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        site = Site()
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        server = HTTPServer(site, bind=url, access_log=AccessLog(tmp_path / "log"))
        with pytest.raises(StartError, match="in use"):
            await server.start()
        assert (site.life, server.addresses) == (["startup", "shutdown"], [])
        await eventually(lambda: threading.active_count() == threads)


async def test_refusals_are_counted_by_status_and_reason_and_logged_once_a_second() -> None:
    """Who sends one bad request often sends many: each is counted, and one is logged."""
    async with serving() as (server, _):
        with capture_logs() as lines:
            for _ in range(3):
                async with raw_client(server.addresses[0].port) as client:
                    await client.send(b"GET / HTTP/1.1\r\n\r\n")
                    assert (await client.response())[0] == 400
        said = [line for line in lines if line["event"] == "request refused"]
        assert len(said) == 1
        (reason,) = server.refused_by
        assert server.refused_by == {reason: 3}
        assert server.statistics()["refused_by"] == {reason: 3}
        assert (said[0]["status"], said[0]["reason"], said[0]["server"]) == (400, reason, "site")
        assert said[0]["detail"]
        (family,) = [family for family in server.collect() if family.name == "forebay_http_refused"]
        (sample,) = family.samples
        assert sample.labels == (("server", "site"), ("status", "400"), ("reason", reason))
        assert sample.value == 3


async def test_refusals_of_one_reason_may_have_several_statuses() -> None:
    """They are samples of their own, and one reason."""
    coded = b"POST / HTTP/1.%d\r\nHost: a\r\nTransfer-Encoding: %b\r\n\r\n"
    async with serving() as (server, _):
        for data, status in ((coded % (1, b"gzip"), 501), (coded % (0, b"chunked"), 400), (coded % (1, b"x"), 501)):
            async with raw_client(server.addresses[0].port) as client:
                await client.send(data)
                assert (await client.response())[0] == status
        (family,) = [family for family in server.collect() if family.name == "forebay_http_refused"]
        assert {(dict(s.labels)["status"], s.value) for s in family.samples} == {("501", 2), ("400", 1)}
        assert server.refused_by == {"coding": 3}


def connections_of(server: HTTPServer) -> list[Connection]:
    """The engine's connections that a server has."""
    return list(server._tcp._connections)


async def test_a_connection_may_follow_other_rules_for_slow_peers() -> None:
    """It stays the server's: counted, closed and drained by it. The owners are as many as there are rules."""
    rules = Outbound(high=1000, limit=5000, policy=SlowConsumer.DROP_OLDEST, timeout=None)
    async with serving() as (server, _):
        owner = server.owner_for(rules)
        assert owner.outbound == rules
        assert owner is server.owner_for(Outbound(high=1000, limit=5000, policy="drop-oldest", timeout=None))
        assert owner is not server.owner_for(Outbound(high=1001, limit=5000, timeout=None))
        async with client_of(server.addresses[0]) as client:
            await client.get("/")
            (conn,) = connections_of(server)
            assert server.owner_for(conn.owner.outbound) is conn.owner
            conn.owner = owner
            conn.transport.set_write_buffer_limits(rules.high, rules.resume_at)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(200):
                conn.write(b"x" * 100_000)
            assert conn.messages_dropped > 0
            assert not conn.closing
            assert conn.write_buffer_size() < 10_000_000
        await eventually(lambda: server.connections == 0)
        statistics = server.statistics()["connections"]
        assert statistics["messages_dropped"] > 0
        assert sum(statistics["closed"].values()) == 1


async def test_owners_are_bounded_in_number() -> None:
    """Who makes rules of their own for every connection does not fill the memory with owners."""
    async with serving() as (server, _):
        first = server.owner_for(Outbound(high=1))
        for high in range(2, 100):
            server.owner_for(Outbound(high=high))
        assert server.owner_for(Outbound(high=99)) is server.owner_for(Outbound(high=99))
        assert server.owner_for(Outbound(high=1)) is not first


async def test_an_app_is_served_on_every_kind_of_address(tmp_path: Path) -> None:
    """The framework, not only an application of the tests."""
    app = App()

    @app.get("/pid")
    def pid() -> int:
        return os.getpid()

    server = HTTPServer(app, bind=["https://127.0.0.1:0", f"unix://{tmp_path}/app"], tls=server_tls())
    await server.start()
    try:
        for address in server.addresses:
            async with client_of(address) as client:
                assert (await client.get("/pid"))[2] == str(os.getpid()).encode()
    finally:
        await server.stop()


GUIDE = Path(__file__).parents[2] / "docs" / "http-server.md"


@pytest.mark.parametrize(
    ("settings", "prefix"),
    [
        (ServerLimits(), ""),
        (ServerTimeouts(), ""),
        (Outbound(), "outbound."),
        (WebSocketSettings(), ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_limit_and_timeout_is_in_the_guide(settings: Any, prefix: str) -> None:
    """With the default it has; those that are no numbers are explained in its text."""
    text = GUIDE.read_text()
    rows = set(re.findall(r"^\| `([\w.]+)` \| (\S+) \|", text, re.MULTILINE))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, int | float) or value is None:
            if field.name != "low":  # a quarter of another one
                assert (prefix + field.name, str(value)) in rows
        else:
            assert field.name in text


def test_every_reason_of_a_refusal_is_in_the_guide() -> None:
    """What is counted and logged can be looked up."""
    source = Path(forebay.http.__file__).parents[1]
    files = [source / "wire" / "http1.py", source / "wire" / "request_head.py", source / "http" / "connection.py"]
    code = "".join(file.read_text() for file in files)
    reasons = {*re.findall(r'reason="([a-z-]+)"', code), *re.findall(r'timed_out\([^\n]+, "([a-z-]+)"\)', code)}
    assert {"two-lengths", "head-timeout"} <= reasons
    text = GUIDE.read_text()
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in text] == []
