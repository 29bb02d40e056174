"""The times of a trace are those that really passed: against delays that are injected into each part of a request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from forebay.engine import TLS, Certificate
from forebay.engine.dns_cache import DNSCache
from forebay.engine.dns_settings import DNSSettings
from forebay.engine.happy_eyeballs import AddressInfo
from forebay.errors import ConnectTimeout
from forebay.http import App, Client, HTTPServer, Limits, Response, Timeouts
from forebay.http.client.trace import Step, Trace
from forebay.testing import FaultProxy
from tests.engine.connecting import tls_files
from tests.engine.name_server import NameServer
from tests.http.client.kit import trusting

pytestmark = pytest.mark.alone  # it measures times


def about(seconds: float) -> object:
    """Within 10%."""
    return pytest.approx(seconds, rel=0.1)


def app_of(delay: float) -> App[None]:
    """One that takes its time, before it answers and in the middle of it."""
    app: App[None] = App("timed")

    @app.get("/")
    async def answer() -> Response:
        await asyncio.sleep(delay)

        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            await asyncio.sleep(delay)
            yield b"two"

        return Response(pieces())

    return app


@contextmanager
def full_queue() -> Iterator[tuple[str, int]]:
    """A port whose connections the kernel leaves unanswered: as many wait to be accepted as may."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        address = listening.getsockname()
        waiting = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(address)
            waiting.append(one)
        try:
            yield address
        finally:
            for one in waiting:
                one.close()


async def test_dns_connect_tls_and_first_byte() -> None:
    """A name server that takes 0.2 s, a network of 0.15 s each way, a server that thinks for 0.3 s: in order, and each
    where it belongs."""
    names = NameServer()
    names.records["shop.test"] = [("127.0.0.1", 60)]
    names.delay = 0.2
    certificate = TLS(Certificate(*tls_files()[0].files))
    server = HTTPServer(app_of(0.3), bind="https://127.0.0.1:0", tls=certificate)
    await server.start()
    await names.server.start()
    try:
        async with (
            FaultProxy(f"tcp://127.0.0.1:{server.addresses[0].port}") as proxy,
            DNSCache(DNSSettings(backend="dns", nameservers=(names.address,))) as cache,
        ):
            proxy.latency = 0.15
            tls = trusting()
            async with Client(
                f"https://shop.test:{proxy.address.port}",
                tls=type(tls)(ca=tls.ca, server_hostname="localhost"),
                resolve=cache,
                proxy="",
            ) as client:
                response = await client.get("/", trace=True)
                assert await response.read() == b"onetwo"
    finally:
        await names.server.stop()
        await server.stop()
    trace = response.trace
    assert trace is not None
    times = trace.times
    assert times.dns == about(0.2)
    assert times.tls == about(0.3)  # TLS 1.3: there and back once (RFC 8446 section 2)
    assert times.wait == about(0.3 + 0.3)  # there and back, and the server
    assert times.receive == about(0.3)
    assert times.total == about(0.2 + 0.3 + 0.6 + 0.3)
    order = [event.step for event in trace.events]
    assert order == [
        Step.POOL_WAIT,
        Step.DIAL_START,
        Step.DNS_START,
        Step.DNS_DONE,
        Step.CONNECT_START,
        Step.CONNECT_DONE,
        Step.TLS_START,
        Step.TLS_DONE,
        Step.GOT_CONNECTION,
        Step.WROTE_HEADERS,
        Step.FIRST_BYTE,
        Step.HEAD,
        Step.DONE,
    ]
    assert [event.at for event in trace.events] == sorted(event.at for event in trace.events)


async def test_an_address_that_does_not_answer() -> None:
    """The next one is tried beside it after 250 ms (RFC 8305 section 5), which is where the time goes."""
    server = HTTPServer(app_of(0.0), bind="http://127.0.0.2:0")
    await server.start()
    port = server.addresses[0].port
    silent = socket.socket()
    silent.bind(("127.0.0.1", port))
    silent.listen(0)
    queued = []
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
        queued.append(one)

    async def resolve(host: str, port: int) -> list[AddressInfo]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (at, port)) for at in ("127.0.0.1", "127.0.0.2")]

    try:
        async with Client(f"http://shop.test:{port}", resolve=resolve, proxy="") as client:
            response = await client.get("/", trace=True)
            await response.read()
    finally:
        for one in (*queued, silent):
            one.close()
        await server.stop()
    assert response.trace is not None
    assert response.trace.times.connect == about(0.25)
    tried = {one.address: one.error for one in response.trace.legs[0].attempts}
    assert tried[f"127.0.0.2:{port}"] == ""
    assert tried[f"127.0.0.1:{port}"] != ""


async def test_a_connection_that_takes_long() -> None:
    """A server whose queue is full answers when the kernel asks again, a second later (RFC 6298 section 2.1)."""
    with full_queue() as (host, port):
        trace = Trace()
        async with Client(f"http://{host}:{port}", timeouts=Timeouts(connect=0.5), proxy="") as client:
            with pytest.raises(ConnectTimeout, match=r"within 0\.5 s"):
                await client.get("/", trace=trace)
    (attempt,) = trace.legs[0].attempts
    assert attempt.ended is not None
    assert attempt.ended - attempt.started == about(0.5)
    assert trace.legs[0].error


async def test_the_wait_for_a_connection() -> None:
    """Where all are in use, it is told apart from what the server takes."""
    server = HTTPServer(app_of(0.2), bind="http://127.0.0.1:0")
    await server.start()
    try:
        limits = Limits(connections=1, per_target=1)
        async with Client(f"http://127.0.0.1:{server.addresses[0].port}", limits=limits, proxy="") as client:

            async def one() -> Trace:
                response = await client.get("/", trace=True)
                await response.read()
                assert response.trace is not None
                return response.trace

            first, second = await asyncio.gather(one(), one())
    finally:
        await server.stop()
    assert second.times.pool_wait == pytest.approx(0.4, rel=0.1)  # one that was done first
    assert second.times.wait == about(0.2)
    assert second.times.reused
    assert (first.times.pool_wait or 0.0) < 0.1
